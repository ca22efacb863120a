"""What task frontier measured from one seed, as a file of its run folder.

Searching takes longer than training: a resumed run reads what its finished seeds have measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.harness.processes import decided_by_first, is_first
from hsnn_jax.cost_curves import Measured


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """A searcher's points; the model that it approximates."""

    name: str
    model: str
    points: list[Measured]


@dataclasses.dataclass(frozen=True, eq=False)
class Frontier:
    """One seed: exact search by model, the curves, and further figures."""

    exacts: dict[str, Measured]
    curves: list[Curve]
    figures: dict[str, float]

    def save(self, path: Path) -> None:
        """Write a .npz, whole or not at all."""
        arrays: dict[str, Any] = {
            "models": np.array(list(self.exacts)),
            "curves": np.array([[curve.name, curve.model] for curve in self.curves]),
            "figures": np.array(list(self.figures)),
            "values": np.array(list(self.figures.values())),
        }
        rows = {f"model {name}": [exact] for name, exact in self.exacts.items()}
        rows |= {f"curve {curve.name}": curve.points for curve in self.curves}
        for name, points in rows.items():
            arrays |= {f"{name}/{field}": values for field, values in _stacked(points).items()}
        temporary = path.with_name(f".{path.name}")
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Frontier:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            models = arrays["models"].tolist()
            return cls(
                {name: _points(arrays, f"model {name}")[0] for name in models},
                [
                    Curve(name, model, _points(arrays, f"curve {name}"))
                    for name, model in arrays["curves"].tolist()
                ],
                dict(zip(arrays["figures"].tolist(), arrays["values"].tolist(), strict=True)),
            )


def remembered(path: Path, measure: Callable[[], Frontier]) -> Frontier:
    """Read what the file holds, or measure and write it."""
    if decided_by_first(path.exists):
        return Frontier.load(path)
    measured = measure()
    if is_first():
        measured.save(path)
    return measured


def _stacked(points: Sequence[Measured]) -> dict[str, np.ndarray]:
    return {field: np.array([getattr(p, field) for p in points]) for field in Measured._fields}


def _points(arrays, name: str) -> list[Measured]:
    columns = [arrays[f"{name}/{field}"] for field in Measured._fields]
    return [
        Measured(*(value if np.ndim(value) else value.item() for value in row))
        for row in zip(*columns, strict=True)
    ]
