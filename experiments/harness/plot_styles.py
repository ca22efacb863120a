"""The colour, dash and marker of every name that is drawn as a curve or a bar.

Names are those of the tables, part by part: "MoNN S, HSNN LTI, dot routes" is drawn as "HSNN LTI,
dot routes", and "MoNN S, HSNN index" as "MoNN S". A colour stands for a thing (an optimizer, an
index, a scorer, a baseline), a dash for a way of using it. Lines of baselines are broken.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from experiments.harness.names import NAMES, OPTIMIZERS

BLUE, SKY, INDIGO = "#0072b2", "#56b4e9", "#332288"
RED, ORANGE, AMBER, BROWN = "#d55e00", "#e69f00", "#a97c00", "#8c564b"
MAGENTA, PINK, WINE, VIOLET = "#c2185b", "#cc79a7", "#882255", "#7b4ea3"
TEAL, OLIVE, BLACK, GREY, PALE = "#44aa99", "#8a8a2e", "#000000", "#666666", "#999999"
GREENS = {"S": "#41ae76", "M": "#238b45", "L": "#005824", "XL": "#00301a"}
TWICE = (0, (6, 1.5, 1.2, 1.5, 1.2, 1.5))  # a dash and two dots


class Style(NamedTuple):
    """How a name is drawn, by matplotlib's names."""

    color: str
    linestyle: Any = "-"
    marker: str = "o"


STYLES: dict[str, Style] = {
    # optimizers
    OPTIMIZERS["sgd"]: Style(AMBER, ":", "^"),
    OPTIMIZERS["adamw"]: Style(BLUE),
    OPTIMIZERS["shampoo"]: Style(RED),
    OPTIMIZERS["thrifty"]: Style(ORANGE, "--", "s"),
    OPTIMIZERS["shampoo, all at once"]: Style(BROWN, "-.", "^"),
    OPTIMIZERS["muon"]: Style(BLACK, "--", "D"),
    OPTIMIZERS["soap"]: Style(TEAL, "-", "v"),
    OPTIMIZERS["kl_shampoo"]: Style(MAGENTA, "-.", "P"),
    OPTIMIZERS["kl_soap"]: Style(VIOLET, ":", "X"),
    "Shampoo, content only": Style(PINK, "-.", "^"),
    # what NxtPost is told or trained by
    "content and id": Style(RED, "--", "s"),
    "content, id and trends": Style(MAGENTA, "-", "P"),
    "content alone": Style(PINK, "-", "^"),
    "id alone": Style(BLUE, ":", "v"),
    "fit(table)": Style(RED, "-", "o"),
    "fit(table, content=texts)": Style(PINK, "--", "s"),
    "no backfill": Style(RED, "-", "D"),
    "popular items": Style(PALE, "--", "v"),
    "items of similar users": Style(TEAL, "-.", "^"),
    "NxtPost with static features, no backfill": Style(MAGENTA, "-", "s"),
    "short": Style(SKY, "-", "v"),
    "long": Style(BROWN, "-", "^"),
    "both": Style(RED, "-", "s"),
    # baselines
    NAMES["popularity"]: Style(PALE, ":", "v"),
    NAMES["popularity_7d"]: Style(GREY, ":", "^"),
    NAMES["markov"]: Style(BLACK, "--", "s"),
    NAMES["item_knn"]: Style(OLIVE, "--", "D"),
    NAMES["content_knn"]: Style(TEAL, "--", "P"),
    NAMES["wide_deep"]: Style(WINE, "--", "X"),
    # scorers
    "dot": Style(INDIGO),
    "two tower": Style(INDIGO, "--"),
    "MoNN": Style(GREENS["S"], "-", "s"),  # of any size
    "MoNN XS": Style(INDIGO, "--"),
    "MoNN S": Style(GREENS["S"], "-", "s"),
    "MoNN M": Style(GREENS["M"], "--", "^"),
    "MoNN L": Style(GREENS["L"], "-.", "D"),
    "MoNN XL": Style(GREENS["XL"], ":", "v"),
    "MoL 8x4": Style(WINE, "-", "P"),
    # indexes: with nodes by k-means, with learned ones, and others'
    "HSNN": Style(SKY),
    "HSNN k-means": Style(SKY),
    "HSNN k-means re-ranked": Style(SKY, "--", "s"),
    "HSNN k-means, dot routes": Style(SKY, "-.", "^"),
    "HSNN k-means, two tower routes": Style(SKY, "-.", "^"),
    "HSNN k-means, learned routes": Style(SKY, ":", "D"),
    "HSNN k-means, two tower's learned routes": Style(SKY, TWICE, "v"),
    "HSNN LTI": Style(MAGENTA),
    "HSNN LTI re-ranked": Style(MAGENTA, "--", "s"),
    "HSNN LTI, dot routes": Style(MAGENTA, "-.", "^"),
    "HSNN LTI, two tower routes": Style(MAGENTA, "-.", "^"),
    "IVF": Style(AMBER),
    "faiss IVF": Style(AMBER),
    "IVF re-ranked": Style(AMBER, "--", "s"),
    "HNSW": Style(VIOLET, "-", "v"),
    "faiss HNSW": Style(VIOLET, ":", "D"),
    "hnswlib": Style(RED, "--", "s"),
    "usearch": Style(INDIGO, "-.", "^"),
    "exact": Style(BLACK, ":"),
    "two tower re-ranked": Style(INDIGO, "--", "s"),
    # an index that serves day after day, with nodes by k-means and with learned ones
    "stale": Style(SKY),
    "refreshed": Style(SKY, "--", "s"),
    "joint, stale": Style(MAGENTA),
    "joint, trained on": Style(MAGENTA, "--", "s"),
}


def style_of(name: str) -> Style:
    """Return the style of the longest run of a name's parts that has one, the last such run.

    Raises:
      ValueError: no part of the name has a style.
    """
    parts = name.strip().split(", ")
    for length in range(len(parts), 0, -1):
        for start in range(len(parts) - length, -1, -1):
            run = ", ".join(parts[start : start + length])
            if run in STYLES:
                return STYLES[run]
    raise ValueError(f"name: expected one with a style in plot_styles.py, found {name!r}")
