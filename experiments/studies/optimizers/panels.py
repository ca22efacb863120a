"""The plots of a comparison of optimizers, from the figures of its summary alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from experiments.harness.figures import Figures, pick
from experiments.harness.names import OPTIMIZERS
from experiments.harness.plot_styles import style_of
from experiments.harness.plots import MARK, Draw, draw_lines

WIDE = 5.0  # times the least loss
LOWEST, HIGHEST = 0.03, 0.35  # share of the room below and above the ends of the curves


def comparison_panels(figures: Figures) -> list[Draw]:
    """Draw losses by step and second, the end by rate, and what few trials find.

    A summary from before the comparison by trials has the end by rate alone.
    """
    curves = curves_of(figures)
    panels = [_rate_panel(figures)]
    if not curves:
        return panels
    target = figures["adamw/target"]
    loss = functools.partial(draw_bands, y_label="validation loss", target=target)
    ms = {name: figures[f"{name}/step_ms"] or 0.0 for name in curves}
    timed = {name: (steps * ms[name] / 1e3, ys) for name, (steps, ys) in curves.items()}
    return [
        functools.partial(loss, curves=_named(curves), x_label="step", title="Loss by step"),
        functools.partial(
            loss,
            curves=_named(timed),
            x_label="seconds (steps times the time of a step)",
            title="Loss by second",
        ),
        *panels,
        _few_panel(figures),
    ]


def _named(curves: Mapping[str, tuple]) -> dict[str, tuple]:
    return {OPTIMIZERS[name]: curve for name, curve in curves.items()}


def curves_of(figures: Figures) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read each optimizer's steps [n] and losses [seeds, n]."""
    found: dict[str, dict[int, list[float]]] = {}
    for (name, step), values in pick(figures, r"([^/]+)/\d+/(\d+)/validation_loss").items():
        found.setdefault(name, {})[int(step)] = values
    curves = {}
    for name, by_step in found.items():
        seeds = max(map(len, by_step.values()))
        whole = {step: ys for step, ys in by_step.items() if len(ys) == seeds}
        steps = sorted(whole)
        curves[name] = (np.array(steps, float), np.array([whole[step] for step in steps]).T)
    return curves


def draw_bands(
    axes: Axes,
    *,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    x_label: str,
    y_label: str,
    title: str,
    target: float | None,
) -> None:
    """Draw medians over seeds in the band between the least and the largest, and the target.

    Args:
      axes: drawn into.
      curves: by name, x float [n] and y float [seeds, n].
      x_label, y_label, title: of the panel.
      target: a value that is marked by a line.
    """
    for name, (x, ys) in curves.items():
        color, dash, _ = style_of(name)
        axes.plot(x, np.median(ys, axis=0), label=name, color=color, linestyle=dash)
        axes.fill_between(x, ys.min(axis=0), ys.max(axis=0), color=color, alpha=0.15, linewidth=0)
    if target is not None:
        axes.axhline(target, color=MARK, linestyle=":", linewidth=1.2)
    least = min(ys.min() for _, ys in curves.values())
    most = max(float(np.median(ys, axis=0).max()) for _, ys in curves.values())
    late = max(float(np.median(ys[:, -1])) for _, ys in curves.values())
    room = min(most, max(late, least + 2.5 * (late - least))) - least
    if room > 0:  # the first steps would take most of the height
        axes.set_ylim(least - LOWEST * room, least + (1 + HIGHEST) * room)
    axes.set(xlabel=x_label, ylabel=y_label, title=title)


def _is_wide(curves: Mapping[str, list[tuple[float, float]]]) -> bool:
    """Whether losses differ by so much that only a logarithmic axis tells the low ones apart."""
    losses = [loss for points in curves.values() for _, loss in points]
    return max(losses) > WIDE * min(losses)


def _rate_panel(figures: Figures) -> Draw:
    curves: dict[str, list[tuple[float, float]]] = {}
    for (name, rate), (loss,) in pick(figures, r"([^/]+)/([^/]+)/validation_loss").items():
        curves.setdefault(OPTIMIZERS[name], []).append((float(rate), loss))
    return functools.partial(
        draw_lines,
        curves=curves,
        log_x=True,
        log_y=_is_wide(curves),
        title="The end by learning rate",
        x_label="peak learning rate",
        y_label="validation loss at the end",
    )


def _few_panel(figures: Figures) -> Draw:
    curves: dict[str, list[tuple[float, float]]] = {}
    for (name, count), (loss,) in pick(figures, r"([^/]+)/best_of_(\d+)").items():
        curves.setdefault(OPTIMIZERS[name], []).append((float(count), loss))
    return functools.partial(
        draw_lines,
        curves=curves,
        log_y=_is_wide(curves),
        title="What few trials find",
        x_label="trials",
        y_label="expected least validation loss",
    )
