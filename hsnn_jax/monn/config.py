"""What a MoNN reads, how large it is, and the paper's sizes."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

OverArchName = Literal["mol", "dot_mol", "mlp", "dot", "dhen"]

# What a field of named sizes accepts; it is kept as a tuple of pairs, which hashes.
Sizes = Mapping[str, int] | Iterable[tuple[str, int]]


def _check_positive(config, *names):
    for name in names:
        if getattr(config, name) <= 0:
            raise ValueError(f"{name}: expected a number > 0, found {getattr(config, name)}")


@dataclasses.dataclass(frozen=True, kw_only=True, init=False)
class Features:
    """The features of a user or an item, by name.

    Attributes:
      dense: {name: width w} of float features [B, w].
      sparse: {name: vocabulary} of id features, int [B], or lists of ids, int [B, L] padded
        with -1. An id outside [0, vocabulary) counts as absent.
    """

    dense: tuple[tuple[str, int], ...]
    sparse: tuple[tuple[str, int], ...]

    def __init__(self, *, dense: Sizes = (), sparse: Sizes = ()) -> None:
        for kind, given in (("dense", dense), ("sparse", sparse)):
            sizes = tuple((str(name), int(size)) for name, size in dict(given).items())
            object.__setattr__(self, kind, sizes)
            for name, size in sizes:
                if size <= 0:
                    raise ValueError(f"{kind}[{name!r}]: expected a size > 0, found {size}")
        names = [name for name, _ in self.dense + self.sparse]
        if not names:
            raise ValueError("dense, sparse: expected at least one feature, found none")
        if len(set(names)) < len(names):
            raise ValueError(f"dense, sparse: expected distinct names, found {names}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """The network of a tower; see `towers.Tower`.

    Attributes:
      field_width: E, width of a feature's embedding.
      dense_fields: embeddings that one dense feature becomes.
      num_layers: stacked layers, each an MLP beside an attention factorisation machine.
      hidden: width of the MLP's hidden layer.
      attention_width: width of the attention network.
    """

    field_width: int = 32
    dense_fields: int = 2
    num_layers: int = 2
    hidden: int = 128
    attention_width: int = 16

    def __post_init__(self):
        _check_positive(self, "field_width", "dense_fields", "hidden", "attention_width")
        if self.num_layers < 0:
            raise ValueError(f"num_layers: expected a number >= 0, found {self.num_layers}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoNNConfig:
    """A MoNN: the towers' inputs and outputs, and how a pair is scored.

    Attributes:
      user, item: their features.
      crosses: attributes of items by which the user's history is counted, see `i2if`.
      recency: whether the interaction tower reads recency, which the counts must carry then.
      num_user, num_item, num_interaction: vectors that each tower emits; `num_interaction` is 0
        just when there are no crosses, and the model then has no interaction tower.
      width: d of all vectors.
      overarch: "mol" a mixture of logits, "dot_mol" one beside an inner product, "mlp", "dot", or
        "dhen", see `overarch`.
      overarch_hidden: width of the gate's hidden layer (mixtures) or of the hidden layers ("mlp").
      overarch_tokens: vectors that those of a side are combined to ("dhen").
      overarch_layers: layers ("dhen").
      tasks: names of the tasks; one logit each.
      user_tower, item_tower, interaction_tower: their networks. The last runs for every pair.
    """

    user: Features
    item: Features
    crosses: tuple[str, ...] = ()
    recency: bool = False
    num_user: int = 1
    num_item: int = 1
    num_interaction: int = 0
    width: int = 40
    overarch: OverArchName = "mol"
    overarch_hidden: int = 64
    overarch_tokens: int = 4
    overarch_layers: int = 2
    tasks: tuple[str, ...] = ("click",)
    user_tower: TowerConfig = TowerConfig()
    item_tower: TowerConfig = TowerConfig()
    interaction_tower: TowerConfig = TowerConfig(
        field_width=16, num_layers=1, hidden=32, attention_width=8
    )

    def __post_init__(self):
        for name in ("crosses", "tasks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.overarch not in get_args(OverArchName):
            known = " or ".join(map(repr, get_args(OverArchName)))
            raise ValueError(f"overarch: expected {known}, found {self.overarch!r}")
        sizes = ("num_user", "num_item", "width")
        _check_positive(self, *sizes, "overarch_hidden", "overarch_tokens", "overarch_layers")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks: expected distinct names, at least one, found {self.tasks}")
        if self.num_interaction < 0 or bool(self.crosses) != bool(self.num_interaction):
            raise ValueError(
                "num_interaction: expected > 0 with crosses and 0 without, found "
                f"{self.num_interaction} with crosses={self.crosses}"
            )


def from_dict(fields: Mapping[str, Any]) -> MoNNConfig:
    """Make a configuration of what `dataclasses.asdict` gave, also after a way through JSON."""
    sides = {name: Features(**fields[name]) for name in ("user", "item")}
    towers = ("user_tower", "item_tower", "interaction_tower")
    networks = {name: TowerConfig(**fields[name]) for name in towers}
    changes: dict[str, Any] = {**fields, **sides, **networks}
    return MoNNConfig(**changes)


class Size(NamedTuple):
    """Vectors of each tower, and their width."""

    num_user: int
    num_item: int
    num_interaction: int
    width: int


SIZES = {
    "XS": Size(1, 1, 0, 40),
    "S": Size(8, 1, 1, 40),
    "M": Size(10, 4, 1, 48),
    "L": Size(30, 8, 1, 48),
    "XL": Size(80, 4, 1, 96),
}


def preset(
    size: str, *, user: Features, item: Features, crosses: Sequence[str] = (), **options: Any
) -> MoNNConfig:
    """Return the configuration of one of the paper's sizes.

    XS is the two tower: a dot product, and no interaction tower whatever `crosses` says. The
    others have the overarch "mol", and an interaction tower if there are crosses.

    Args:
      size: "XS", "S", "M", "L" or "XL".
      user, item, crosses: see `MoNNConfig`.
      **options: other attributes of `MoNNConfig`.

    Raises:
      ValueError: there is no such size.

    Source: arXiv 2408.06653v3, the table of model sizes.
    """
    if size not in SIZES:
        raise ValueError(f"size: expected one of {', '.join(SIZES)}, found {size!r}")
    fields = SIZES[size]._asdict()
    if size == "XS" or not crosses:
        crosses, fields["num_interaction"] = (), 0
    fields["overarch"] = "dot" if size == "XS" else "mol"
    return MoNNConfig(user=user, item=item, crosses=tuple(crosses), **(fields | options))


def level_presets(
    levels: Sequence[tuple[str, int]],
    *,
    items: str,
    user: Features,
    item: Features,
    crosses: Sequence[str] = (),
    **options: Any,
) -> tuple[tuple[int, ...], tuple[MoNNConfig, ...]]:
    """Return what a retriever with a model a level is made of, by the paper's sizes.

    Args:
      levels: (size, number of nodes) of each level of nodes, the coarsest first.
      items: size of the items' model.
      user, item, crosses, options: see `preset`.

    Returns:
      (numbers of nodes, models of the levels and of the items).

    Raises:
      ValueError: there is no level, or no such size.
    """
    if not levels:
        raise ValueError("levels: expected at least one, found none")
    sides = {"user": user, "item": item, "crosses": crosses}
    sizes = (*(size for size, _ in levels), items)
    models = tuple(preset(size, **sides, **options) for size in sizes)
    return tuple(nodes for _, nodes in levels), models
