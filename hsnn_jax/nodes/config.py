"""How many nodes an index has, and what their training by gradient (LTI) weighs."""

import dataclasses
import math
from typing import Literal

from hsnn_jax.distance import Distance


@dataclasses.dataclass(frozen=True, kw_only=True)
class LTIConfig:
    """Coefficients of the LTI loss. The paper publishes none; the defaults are ours.

    Attributes:
      num_nodes: K; or a tuple of them, one a residual level, the coarsest first; by default
        2 sqrt(items), see `for_items`.
      distance: d(j, k) of the soft assignment.
      assignment: "softmax", the paper's, or "sinkhorn": balanced over the batch, see `sinkhorn`.
      sinkhorn_iterations: of the latter.
      start: "kmeans", or "random": normal around the items' mean at a tenth of their spread, as
        an untrained codebook; most of its nodes stay unused without a remedy.
      dead_after: batches without use after which `fit_index` replaces a node; 0 for never.
      loss: "sampled_softmax" over shared and in-batch negatives, or "bce", the paper's log loss.
      logit_scale: factor on <u, cbar>; an inverse temperature for unit vectors.
      in_batch: whether other pairs' items of the batch are negatives (sampled softmax).
      num_negatives: shared negatives drawn when the batch brings a catalogue, not negatives.
      alpha_max: inverse temperature of the assignment at the end.
      alpha_exponent: exp in alpha_max (t / T)^exp; 0 keeps alpha at its maximum.
      total_steps: T.
      warmup_steps: steps of the linear ramp of the whole index loss; 0 for none.
      reconstruction_weight: weight of ||cbar - v||^2.
      balance_weight: weight of the FLOPs regulariser.
      balance_batches: batches its mean assignment is pooled over, this one included.
      kmeans_iterations: Lloyd iterations of the start.
    """

    num_nodes: int | tuple[int, ...] | None = None
    distance: Distance = "l2"
    assignment: Literal["softmax", "sinkhorn"] = "softmax"
    sinkhorn_iterations: int = 3
    start: Literal["kmeans", "random"] = "kmeans"
    dead_after: int = 0
    loss: Literal["sampled_softmax", "bce"] = "sampled_softmax"
    logit_scale: float = 20.0
    in_batch: bool = True
    num_negatives: int = 256
    alpha_max: float = 100.0
    alpha_exponent: float = 0.25
    total_steps: int = 1000
    warmup_steps: int = 100
    reconstruction_weight: float = 1.0
    balance_weight: float = 0.3
    balance_batches: int = 8
    kmeans_iterations: int = 20

    def __post_init__(self):
        if isinstance(self.num_nodes, list):  # from JSON
            object.__setattr__(self, "num_nodes", tuple(self.num_nodes))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                known = " or ".join(map(repr, choices))
                raise ValueError(f"{name}: expected {known}, found {getattr(self, name)!r}")
        if self.num_nodes is not None and min(self.level_sizes, default=0) <= 0:
            raise ValueError(f"num_nodes: expected numbers > 0, found {self.num_nodes}")
        for name in ("total_steps", "balance_batches", "alpha_max", "logit_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a number > 0, found {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected a number >= 0, found {getattr(self, name)}")

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Nodes of each level; of a config without any, see `for_items`, there are none yet."""
        if self.num_nodes is None:
            raise ValueError("num_nodes: expected a number, found None; see LTIConfig.for_items")
        return self.num_nodes if isinstance(self.num_nodes, tuple) else (self.num_nodes,)

    @property
    def num_levels(self) -> int:
        """Levels of nodes."""
        return len(self.num_nodes) if isinstance(self.num_nodes, tuple) else 1

    @property
    def num_sums(self) -> int | None:
        """Nodes that list items: sums of a code per level; None where it is left to the items."""
        return None if self.num_nodes is None else math.prod(self.level_sizes)

    def for_items(self, items: int, *, multiple: int = 1) -> "LTIConfig":
        """Return the config with the nodes that so many items have by default, if it has none.

        Twice the root of the number of items: of 2 sqrt(n) nodes with sqrt(n) / 2 items each, a
        search scores as many nodes as it scores items of four lists.

        Args:
          items: how many there are.
          multiple: the default is one of this number, such as the devices of a mesh.

        Raises:
          ValueError: a level has more nodes than there are items.
        """
        if self.num_nodes is None:
            nodes = math.ceil(2 * math.sqrt(items) / multiple) * multiple
            return dataclasses.replace(self, num_nodes=max(min(nodes, items), 1))
        if max(self.level_sizes) > items:
            raise ValueError(
                f"num_nodes: expected at most {items}, the number of items, found "
                f"{max(self.level_sizes)}"
            )
        return self


_CHOICES = {
    "loss": ("sampled_softmax", "bce"),
    "assignment": ("softmax", "sinkhorn"),
    "start": ("kmeans", "random"),
}
_NOT_NEGATIVE = (
    "warmup_steps",
    "reconstruction_weight",
    "balance_weight",
    "alpha_exponent",
    "sinkhorn_iterations",
    "dead_after",
)
