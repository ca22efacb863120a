"""The facade: fit, build, search, save and load one retriever."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hsnn_jax import artefact
from hsnn_jax.fit_index import fit_index
from hsnn_jax.index import Index, build_index, pack, stats
from hsnn_jax.lti import LTIConfig, init_params
from hsnn_jax.scorers import dot
from hsnn_jax.search import search


class Answer(NamedTuple):
    """What `Retriever.search` returns, as numpy arrays."""

    ids: np.ndarray  # int64 [B, k]; the caller's ids, -1 where fewer than k items were found
    scores: np.ndarray  # float32 [B, k]; -inf there
    items_scored: np.ndarray  # int32 [B]
    flops: np.ndarray  # float32 [B]


class Retriever:
    """Search items by a scorer through a learned index.

    Args:
      config: of the nodes, see `LTIConfig`.
      scorer: see `search`; the inner product by default.
      params: the scorer's parameters.
      slack: capacity of a list over the mean number of items of a node.
      max_beam: static maximum of nodes visited; all by default.
    """

    def __init__(
        self, config: LTIConfig, *, scorer=dot, params=None, slack=2.0, max_beam: int | None = None
    ):
        self.config = config
        self.scorer = scorer
        self.params = params
        self.slack = slack
        self.max_beam = max_beam
        self.nodes: jax.Array | None = None
        self.index: Index | None = None
        self._ids = self._rows = self._tiles = None

    def fit(self, user_vectors, item_vectors, positives, tx: optax.GradientTransformation, *, key):
        """Learn the nodes by LTI on pairs; see `fit_index` for the arguments.

        Returns:
          The records of the training.
        """
        _check_vectors("user_vectors", user_vectors)
        _check_vectors("item_vectors", item_vectors)
        fitted = fit_index(user_vectors, item_vectors, positives, tx, config=self.config, key=key)
        self.nodes = fitted.params["nodes"]
        return fitted.metrics

    def build_index(self, item_vectors, *, item_ids=None, key=None) -> dict[str, float]:
        """List the items by node.

        Args:
          item_vectors: float [n, d].
          item_ids: int [n], the caller's ids, >= 0; rows by default.
          key: PRNG key of k-means, needed when `fit` has not run.

        Returns:
          `index.stats` of the new index.

        Raises:
          ValueError: vectors are not finite or not as wide as the nodes; ids repeat; no key.
        """
        _check_vectors("item_vectors", item_vectors)
        ids = np.arange(item_vectors.shape[0]) if item_ids is None else np.asarray(item_ids)
        _check_ids(ids, item_vectors.shape[0])
        nodes = self.nodes
        if nodes is None:
            if key is None:
                raise ValueError("build_index needs key (for k-means) when fit has not run")
            nodes = init_params(key, jnp.asarray(item_vectors), self.config)["nodes"]
        index = build_index(item_vectors, nodes, slack=self.slack, distance=self.config.distance)
        self._install(index, jnp.asarray(item_vectors, jnp.float32), ids)
        return stats(index)

    def search(self, users, k: int, *, budget=None, exclude=None, filter=None) -> Answer:
        """Return each user's best items, in the caller's ids.

        Args:
          users: float [B, d].
          k: items to return, at most the number that `filter` allows.
          budget: most items to score for a user; all by default.
          exclude: optional int [B, E] of the caller's ids, -1 for padding; unknown ids exclude
            nothing.
          filter: optional bool [n] in the order of `build_index`; True allows. One that allows
            nothing gives an empty answer.

        Raises:
          ValueError: there is no index; users have a wrong width or NaN; k or budget is out of
            range.
        """
        if self.index is None:
            raise ValueError("there is no index: call build_index or load first")
        _check_vectors("users", users, width=self.index.nodes.shape[1])
        allowed = None if filter is None else np.asarray(filter, bool)
        if allowed is not None and 0 < allowed.sum() < k:
            raise ValueError(
                f"k must be at most {allowed.sum()} (items that filter allows), got {k}"
            )
        found = search(
            self.scorer,
            self.params,
            self.index,
            self._tiles,
            jnp.asarray(users),
            k,
            budget=max(self._ids.size, self.index.lists.shape[1]) if budget is None else budget,
            max_beam=self.max_beam,
            exclude=None if exclude is None else self._rows_of(np.asarray(exclude)),
            allowed=allowed,
        )
        rows, scores, scored, flops = jax.device_get(tuple(found))
        return Answer(np.where(rows < 0, -1, self._ids[rows]), scores, scored, flops)

    def stats(self) -> dict[str, float]:
        """Measure how evenly the items fill the lists; see `index.stats`."""
        if self.index is None:
            raise ValueError("there is no index: call build_index or load first")
        return stats(self.index)

    def save(self, path) -> None:
        """Write index, vectors, ids and the scorer's parameters as one .npz file.

        The file appears under its name only when it is complete.
        """
        if self.index is None:
            raise ValueError("there is no index to save: call build_index first")
        artefact.write(
            path,
            artefact.Content(
                index=self.index,
                item_vectors=np.asarray(self._vectors()),
                item_ids=self._ids,
                params=self.params,
                config=self.config,
                scorer=self.scorer.__name__,
                slack=self.slack,
                max_beam=self.max_beam,
            ),
        )

    @classmethod
    def load(cls, path, *, scorer=dot) -> "Retriever":
        """Read what `save` wrote.

        Args:
          path: the file.
          scorer: the callable whose name was saved; code is not stored.

        Raises:
          ValueError: the file is not such an artefact, or was saved with another scorer.
        """
        content = artefact.read(path)
        if content.scorer != scorer.__name__:
            raise ValueError(
                f"{path} was saved with scorer {content.scorer!r}, got {scorer.__name__!r}"
            )
        retriever = cls(
            content.config,
            scorer=scorer,
            params=content.params,
            slack=content.slack,
            max_beam=content.max_beam,
        )
        retriever.nodes = content.index.nodes
        retriever._install(content.index, jnp.asarray(content.item_vectors), content.item_ids)
        return retriever

    def _install(self, index, item_vectors, ids):
        self.index, self._ids = index, ids
        self._tiles = pack(index, item_vectors)
        order = np.argsort(ids, kind="stable")
        self._rows = (ids[order], order)

    def _vectors(self):
        width = self.index.nodes.shape[1]
        return self._tiles.features.reshape(-1, width)[self.index.positions]

    def _rows_of(self, ids):
        """Return the rows of the caller's ids, -1 where unknown."""
        sorted_ids, order = self._rows
        place = np.minimum(np.searchsorted(sorted_ids, ids), sorted_ids.size - 1)
        return np.where(sorted_ids[place] == ids, order[place], -1).astype(np.int32)


def _check_vectors(name, vectors, *, width=None):
    if vectors.ndim != 2 or vectors.shape[0] == 0:
        raise ValueError(f"{name} must have shape [rows >= 1, d], got shape {vectors.shape}")
    if width is not None and vectors.shape[1] != width:
        raise ValueError(f"{name} must have width {width}, got shape {vectors.shape}")
    finite = np.isfinite(np.asarray(vectors)).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name} must be finite, got NaN or inf in row {np.argmin(finite)}")


def _check_ids(ids, num_items):
    if ids.shape != (num_items,):
        raise ValueError(f"item_ids must have shape ({num_items},), got shape {ids.shape}")
    if ids.min() < 0:
        raise ValueError(f"item_ids must be >= 0, got {ids.min()}")
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"item_ids must be distinct, got {values[np.argmax(counts)]} twice or more"
        )
