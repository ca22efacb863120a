"""Draw README's picture, events -> towers -> index -> answers, as overview.svg beside this file.

    python docs/draw_overview.py

The background is transparent, and every colour is read on white as well as on black.
"""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

GREY, SLATE, BLUE, GREEN, ORANGE = "#7d8590", "#616a75", "#2f6fb0", "#2a7d50", "#b4581b"
WIDTH, HEIGHT = 900, 400  # in points of the drawing, one pixel each
TOP, BOTTOM = 372, 196  # of the upper row of boxes


def box(ax: Axes, left: float, width: float, color: str, title: str, below: str) -> None:
    """Draw a box of the upper row with its title above and what it gives below the middle."""
    shape = (left, BOTTOM), width, TOP - BOTTOM
    ax.add_patch(FancyBboxPatch(*shape, boxstyle="round,pad=0,rounding_size=12", color=color))
    centre = left + width / 2
    ax.text(
        centre, TOP - 24, title, color="white", size=17, weight="bold", ha="center", va="center"
    )
    ax.text(centre, BOTTOM + 20, below, color="white", size=12, ha="center", va="center")


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    """Draw a thick arrow."""
    style = dict(arrowstyle="-|>", mutation_scale=24, linewidth=3.5, shrinkA=0, shrinkB=0)
    ax.add_patch(FancyArrowPatch(start, end, color=color, **style))


def draw_events(ax: Axes, left: float) -> None:
    """Draw a table of events: rows of user, item, time."""
    for row in range(4):
        for column in range(3):
            corner = left + 34 * column, BOTTOM + 112 - 23 * row
            ax.add_patch(Rectangle(corner, 30, 17, color="white", alpha=0.92 if row == 0 else 0.55))


def draw_towers(ax: Axes, left: float) -> None:
    """Draw a tower of histories and one of items, each ending in a vector."""
    for number, name in enumerate(("user", "item")):
        x = left + 92 * number
        corners = [
            (x, BOTTOM + 44),
            (x + 76, BOTTOM + 44),
            (x + 58, BOTTOM + 100),
            (x + 18, BOTTOM + 100),
        ]
        ax.add_patch(Polygon(corners, color="white", alpha=0.55))
        ax.text(x + 38, BOTTOM + 66, name, color="#12324f", size=13, ha="center", va="center")
        for k in range(5):
            ax.add_patch(Rectangle((x + 13 + 10.5 * k, BOTTOM + 109), 8.5, 14, color="white"))


def draw_index(ax: Axes, left: float) -> None:
    """Draw a root, its nodes and their lists; a search went into two of them."""
    root = left + 88, BOTTOM + 124
    for node in range(4):
        x, visited = left + 16 + 48 * node, node in (1, 2)
        strength = 1.0 if visited else 0.4
        ax.plot([root[0], x], [root[1], BOTTOM + 92], color="white", alpha=strength, linewidth=2.5)
        ax.plot(x, BOTTOM + 92, "o", color="white", alpha=strength, markersize=11)
        for slot in range(3):
            corner = x - 14, BOTTOM + 66 - 15 * slot
            ax.add_patch(Rectangle(corner, 28, 11, color="white", alpha=strength))
    ax.plot(*root, "o", color="white", markersize=13)


def draw_answers(ax: Axes, left: float) -> None:
    """Draw ranked answers."""
    for rank, length in enumerate((96, 78, 62, 44)):
        y = BOTTOM + 112 - 23 * rank
        ax.text(left, y + 8, str(rank + 1), color="white", size=13, ha="center", va="center")
        ax.add_patch(Rectangle((left + 12, y), length, 17, color="white", alpha=0.92 - 0.13 * rank))


def draw_optimizer(ax: Axes, left: float, width: float) -> None:
    """Draw the optimizer below towers and index: a gradient's blocks between two roots."""
    shape = (left, 20), width, 108
    ax.add_patch(FancyBboxPatch(*shape, boxstyle="round,pad=0,rounding_size=12", color=ORANGE))
    ax.text(left + 24, 92, "shampoo_jax", color="white", size=17, weight="bold", va="center")
    ax.text(
        left + 24,
        56,
        "trains both, its blocks\nshared by all devices",
        color="white",
        size=12,
        va="center",
    )
    values = np.random.default_rng(3).uniform(0.35, 1, (4, 4))
    for matrix, x in enumerate((left + 232, left + 316, left + 400)):
        for i in range(4):
            for j in range(4):
                gradient = matrix == 1
                alpha = values[i, j] if gradient else max(0.18, 1 - 0.3 * abs(i - j))
                corner = x + 16 * j, 88 - 16 * i
                ax.add_patch(Rectangle(corner, 14, 14, color="white", alpha=alpha))
    for x in (left + 306, left + 390):
        ax.text(x, 70, "×", color="white", size=15, ha="center", va="center")


def main() -> None:
    """Draw and write the picture."""
    matplotlib.rcParams |= {"svg.hashsalt": "overview", "font.family": "DejaVu Sans"}
    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    ax.axis("off")
    box(ax, 10, 142, SLATE, "events", "user, item, time")
    box(ax, 206, 208, BLUE, "nxtpost_jax", "towers: vectors")
    box(ax, 468, 212, GREEN, "hsnn_jax", "index: nodes, lists")
    box(ax, 734, 156, SLATE, "answers", "the best items")
    draw_events(ax, 30)
    draw_towers(ax, 226)
    draw_index(ax, 486)
    draw_answers(ax, 758)
    for start in (158, 420, 686):
        arrow(ax, (start, 284), (start + 42, 284), GREY)
    draw_optimizer(ax, 206, 474)
    for centre in (310, 574):
        arrow(ax, (centre, 132), (centre, 190), ORANGE)
    target = Path(__file__).with_name("overview.svg")
    figure.savefig(target, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
