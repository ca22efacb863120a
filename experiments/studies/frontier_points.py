"""What task frontier measured from one seed, and the arrays that a run remembers it by.

Searching takes longer than training: a resumed run reads what its finished seeds have measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all of it as arrays by name."""
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
        return arrays

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Frontier:
        """Read what `arrays` gave."""
        models = arrays["models"].tolist()
        return cls(
            {name: _points(arrays, f"model {name}")[0] for name in models},
            [
                Curve(name, model, _points(arrays, f"curve {name}"))
                for name, model in arrays["curves"].tolist()
            ],
            dict(zip(arrays["figures"].tolist(), arrays["values"].tolist(), strict=True)),
        )


def _stacked(points: Sequence[Measured]) -> dict[str, np.ndarray]:
    return {field: np.array([getattr(p, field) for p in points]) for field in Measured._fields}


def _points(arrays, name: str) -> list[Measured]:
    columns = [arrays[f"{name}/{field}"] for field in Measured._fields]
    return [
        Measured(*(value if np.ndim(value) else value.item() for value in row))
        for row in zip(*columns, strict=True)
    ]
