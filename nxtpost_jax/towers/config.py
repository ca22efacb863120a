"""The configuration of both towers, and presets."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

_CHOICES = {
    "block": ("transformer", "gated"),
    "pooling": ("last", "mean", "attention"),
    "similarity": ("cosine", "dot"),
    "relative_bias": ("none", "position", "time", "both"),
}
_TUPLES = ("action_weights", "static_sizes")


@dataclasses.dataclass(frozen=True)
class NxtPostConfig:
    """Configure both towers.

    Attributes:
      d_model: width of the towers and of the vectors they give.
      num_layers: blocks of the user tower.
      num_heads: attention heads, a divisor of d_model.
      d_ff: hidden width of a block's feed-forward layer; 4 d_model when None.
      max_len: the longest history the user tower reads.
      dropout: rate on the user tower's input and on every branch of a block.
      event_dropout: share of the events whose post is hidden in a training step: the tower reads
        when and how the user engaged, not with what. What the event is a label for stays.
      block: "transformer" (pre-LN, ReLU) or "gated" (pre-LN, sigmoid-gated branches, SwiGLU).
      id_embedding: add a learned vector an item to its adapted content.
      id_dropout: share of the items whose id vector is left out of a training step, so that
        items without one are served by the same model; unused without content.
      channel_dropout: share of an item's channels of content that are left out of a training step,
        one of them never, so that items which lack some are read by the others. Without it, a
        model that was trained on complete items reads incomplete ones badly.
      temperature: divides the similarity of user and item (1 / s in the paper).
      time_features: read the time since the previous event, where there are times.
      num_actions: size of the action embedding, 0 for none.
      similarity: "cosine", both towers give unit vectors, or "dot", they give vectors as they
        are; set a temperature near 1 then.
      pooling: how a user's states become one vector: the "last" one, their "mean", or
        "attention", their mean under a softmax of a learned query.
      time_concat: join the time's embedding to the post's vector and project both to d_model,
        as the paper concatenates them, instead of adding it.
      num_surfaces: size of the embedding of the surface an event came from, 0 for none.
      action_weights: a fixed number an action, which scales the event's post vector at the
        input; None for none. As many as num_actions where both are given.
      static_sizes: vocabulary sizes of the users' static categorical features (language,
        country); their embeddings are added at every position.
      relative_bias: what raises or lowers, per layer and head, how much one event attends to an
        earlier one: the "position"s between them, the "time" between them (which histories must
        have then), "both" or "none".
      trends: raise each item's score by what is known of it at the moment of the request: events
        so far, events of late, and age, see `events.trends`. Histories need no times, the events
        of training do.
      trend_step: seconds that such a moment lasts; a day unless said otherwise.

    Raises:
      ValueError: a value is out of range.
    """

    d_model: int = 64
    num_layers: int = 2
    num_heads: int = 1
    d_ff: int | None = None
    max_len: int = 200
    dropout: float = 0.1
    block: Literal["transformer", "gated"] = "gated"
    id_embedding: bool = False
    id_dropout: float = 0.1
    temperature: float = 0.05
    time_features: bool = True
    num_actions: int = 0
    similarity: Literal["cosine", "dot"] = "cosine"
    pooling: Literal["last", "mean", "attention"] = "last"
    time_concat: bool = False
    num_surfaces: int = 0
    action_weights: tuple[float, ...] | None = None
    static_sizes: tuple[int, ...] = ()
    event_dropout: float = 0.0
    channel_dropout: float = 0.0
    relative_bias: Literal["none", "position", "time", "both"] = "none"
    trends: bool = False
    trend_step: float = 86_400.0

    def __post_init__(self):
        for name in ("d_model", "num_layers", "num_heads", "max_len"):
            _check_at_least(name, getattr(self, name), 1)
        for name in ("num_actions", "num_surfaces"):
            _check_at_least(name, getattr(self, name), 0)
        for name in ("dropout", "id_dropout", "event_dropout", "channel_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a rate in [0, 1), found {getattr(self, name)}")
        if self.d_model % self.num_heads:
            raise ValueError(
                f"num_heads: expected a divisor of d_model={self.d_model}, found {self.num_heads}"
            )
        for name in ("temperature", "trend_step"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected above 0, found {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                expected = " or ".join(map(repr, choices))
                raise ValueError(f"{name}: expected {expected}, found {getattr(self, name)!r}")
        if self.time_concat and not self.time_features:
            raise ValueError("time_concat: expected time_features beside it, found them off")
        for name in _TUPLES:  # JSON gives lists, which could not be hashed
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for size in self.static_sizes:
            _check_at_least("static_sizes", size, 1)
        weights = self.action_weights
        if weights is not None and self.num_actions and len(weights) != self.num_actions:
            raise ValueError(
                f"action_weights: expected num_actions={self.num_actions} of them, "
                f"found {len(weights)}"
            )

    @property
    def reads_times(self) -> bool:
        """Tell whether training needs times, whether or not histories may lack them."""
        return self.trends or self.reads_time_between

    @property
    def reads_time_between(self) -> bool:
        """Tell whether attention reads the time between any two events."""
        return self.relative_bias in ("time", "both")

    @classmethod
    def default(cls, **changes: Any) -> NxtPostConfig:
        """Gated blocks, and an id embedding that is dropped at times, joined to the content."""
        preset: dict[str, Any] = {"id_embedding": True}
        return cls(**preset | changes)

    @classmethod
    def paper(cls, **changes: Any) -> NxtPostConfig:
        """Choose as NxtPost's paper does where it says so; it gives no sizes and no rates.

        Content alone, a Transformer with a ReLU feed-forward layer, concatenated time, cosine,
        mean pooling. Its surfaces, actions and static features need sizes: pass them.
        """
        preset: dict[str, Any] = {
            "block": "transformer",
            "time_concat": True,
            "pooling": "mean",
        }
        return cls(**preset | changes)

    @classmethod
    def sasrec(cls, **changes: Any) -> NxtPostConfig:
        """SASRec (Kang and McAuley 2018): ids, inner products, a Transformer as wide as d_model.

        Layer norms stand before queries, keys and values alike; SASRec normalises queries only.
        """
        preset: dict[str, Any] = {
            "block": "transformer",
            "id_embedding": True,
            "similarity": "dot",
            "temperature": 1.0,
            "time_features": False,
        }
        config = cls(**preset | changes)
        if config.d_ff is None:
            config = dataclasses.replace(config, d_ff=config.d_model)
        return config


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, found {value}")
