"""The conditions under which a figure was measured; printed beside it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Protocol:
    """State how a figure was measured, so that it can be compared with others.

    Attributes:
      data: name of the data.
      data_hash: hash of the file that was read.
      split: how training, validation and test were cut.
      selection: what the epoch and the settings were selected by.
      candidates: the items that a target is ranked among.
      seen_filter: whether a user's earlier items are left out of the candidates.
      ties_in_time: order of events with equal times.
      ties_in_score: the rank of a target among equal scores.
      query_time: what is known of the moment of the query.
      history: what a history holds: all earlier events, or the last n, and its backfill.
      debias_power: the power of popularity in debiased NDCG; None where none is given.
      notes: anything else a reader must know, such as a reassembled file.
    """

    data: str
    data_hash: str
    split: str = "leave one out: test is the last event, validation the last but one"
    selection: str = "validation NDCG@10"
    candidates: str = "all items"
    seen_filter: bool = True
    ties_in_time: str = "input order (stable sort)"
    ties_in_score: str = "against the target"
    query_time: str = "the last event of the history; never the target's own time"
    history: str = "all earlier events"
    debias_power: float | None = None
    notes: str = ""

    def describe(self) -> str:
        """Put the protocol in one line."""
        parts = [
            f"{self.data} ({self.data_hash})",
            self.split,
            f"selected by {self.selection}",
            f"ranked among {self.candidates}",
            "seen items left out" if self.seen_filter else "seen items kept",
            f"equal times: {self.ties_in_time}",
            f"equal scores: {self.ties_in_score}",
            f"query time: {self.query_time}",
            f"history: {self.history}",
            "" if self.debias_power is None else f"debiased by popularity^-{self.debias_power:g}",
            self.notes,
        ]
        return "; ".join(" ".join(part.split()) for part in parts if part)

    def asdict(self) -> dict[str, str | bool | float | None]:
        """Give the fields as plain values, for JSON."""
        return dataclasses.asdict(self)
