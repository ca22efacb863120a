"""The facade: fit, build, search, save and load one retriever."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hsnn_jax import artefact, living
from hsnn_jax.fit_index import fit_index
from hsnn_jax.index import Index, build_index, stats
from hsnn_jax.levels import residual_nodes
from hsnn_jax.living import Living, check_ids, check_vectors
from hsnn_jax.lti import LTIConfig, init_params, levels_of
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

    An update makes a new index and replaces the old one in a single assignment: a search in
    another thread sees all of it or nothing, and an update that fails changes nothing. Updates
    themselves must come from one thread at a time.

    Args:
      config: of the nodes, see `LTIConfig`; of residual levels, the index has all sums of codes
        as its nodes.
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
        self._living: Living | None = None

    @property
    def index(self) -> Index | None:
        """The index, over rows."""
        return None if self._living is None else self._living.index

    @property
    def ids(self) -> np.ndarray:
        """The caller's id in each row, int64 [n]; -1 in a free row."""
        return self._built().ids.copy()

    def fit(self, user_vectors, item_vectors, positives, tx: optax.GradientTransformation, *, key):
        """Learn the nodes by LTI on pairs; see `fit_index` for the arguments.

        Returns:
          The records of the training.
        """
        check_vectors("user_vectors", user_vectors)
        check_vectors("item_vectors", item_vectors)
        fitted = fit_index(user_vectors, item_vectors, positives, tx, config=self.config, key=key)
        self.nodes = _finest(fitted.params)
        return fitted.metrics

    def build_index(
        self, item_vectors, *, item_ids=None, key=None, reserve: int = 0
    ) -> dict[str, float]:
        """List the items by node.

        Args:
          item_vectors: float [n, d].
          item_ids: int [n], the caller's ids, >= 0; rows by default.
          key: PRNG key of k-means, needed when `fit` has not run.
          reserve: rows kept free for `add`.

        Returns:
          `index.stats` of the new index.

        Raises:
          ValueError: vectors are not finite or not as wide as the nodes; ids repeat; no key.
        """
        check_vectors("item_vectors", item_vectors)
        ids = np.arange(item_vectors.shape[0]) if item_ids is None else np.asarray(item_ids)
        check_ids("item_ids", ids, item_vectors.shape[0])
        nodes = self.nodes
        if nodes is None:
            if key is None:
                raise ValueError("build_index needs key (for k-means) when fit has not run")
            nodes = _finest(init_params(key, jnp.asarray(item_vectors), self.config))
        distance = self.config.distance
        index = build_index(
            item_vectors, nodes, slack=self.slack, reserve=reserve, distance=distance
        )
        ids = np.pad(ids.astype(np.int64), (0, reserve), constant_values=-1)
        self._living = living.start(index, item_vectors, ids, distance=distance)
        return stats(index)

    def add(self, vectors, ids) -> None:
        """List new items in free slots, near what they resemble, without training.

        Args:
          vectors: float [b, d].
          ids: int [b], ids that the index does not hold.

        Raises:
          ValueError: see `living.add`; nothing has changed then.
        """
        self._living = living.add(self._built(), vectors, ids, distance=self.config.distance)

    def remove(self, ids) -> None:
        """Drop items; their rows and slots are free for others.

        Args:
          ids: int [b], ids that the index holds.

        Raises:
          ValueError: see `living.remove`; nothing has changed then.
        """
        self._living = living.remove(self._built(), ids, distance=self.config.distance)

    def reassign(self, vectors=None, ids=None) -> None:
        """List all items anew at the nodes as they are, some of them with new vectors.

        Args:
          vectors: optional float [b, d].
          ids: int [b], whose vectors these are.

        Raises:
          ValueError: see `living.reassign`; nothing has changed then.
        """
        self._living = living.reassign(self._built(), vectors, ids, distance=self.config.distance)

    def drift(self) -> dict[str, float]:
        """Measure the index against its build; see `living.drift`."""
        return living.drift(self._built(), distance=self.config.distance)

    def needs_rebuild(self, **thresholds) -> bool:
        """Tell whether new nodes are due; see `living.needs_rebuild` for the thresholds."""
        return living.needs_rebuild(self.drift(), **thresholds)

    def search(self, users, k: int, *, budget=None, exclude=None, filter=None) -> Answer:
        """Return each user's best items, in the caller's ids.

        Args:
          users: float [B, d].
          k: items to return, at most the number that the index holds and `filter` allows.
          budget: most items to score for a user; all by default.
          exclude: optional int [B, E] of the caller's ids, -1 for padding; unknown ids exclude
            nothing.
          filter: optional bool [n] in the order of `ids`, free rows included; True allows. One
            that allows nothing gives an empty answer, as does an index without items.

        Raises:
          ValueError: there is no index; users have a wrong width or NaN; k or budget is out of
            range; filter has a wrong shape.
        """
        now = self._built()  # held to the end, whatever replaces it meanwhile
        check_vectors("users", users, width=now.index.nodes.shape[1])
        found = search(
            self.scorer,
            self.params,
            now.index,
            now.tiles,
            jnp.asarray(users),
            k,
            budget=max(now.ids.size, now.index.lists.shape[1]) if budget is None else budget,
            max_beam=self.max_beam,
            exclude=None if exclude is None else living.rows_of(now, np.asarray(exclude)),
            allowed=_allowed(now, filter, k),
        )
        rows, scores, scored, flops = jax.device_get(tuple(found))
        return Answer(np.where(rows < 0, -1, now.ids[rows]), scores, scored, flops)

    def stats(self) -> dict[str, float]:
        """Measure how evenly the items fill the lists; see `index.stats`."""
        return stats(self._built().index)

    def save(self, path) -> None:
        """Write index, vectors, ids and the scorer's parameters as one .npz file.

        The file appears under its name only when it is complete.
        """
        now = self._built()
        artefact.write(
            path,
            artefact.Content(
                index=now.index,
                item_vectors=np.asarray(living.item_vectors(now)),
                item_ids=now.ids,
                params=self.params,
                config=self.config,
                scorer=self.scorer.__name__,
                slack=self.slack,
                max_beam=self.max_beam,
                baseline=now.baseline,
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
        retriever._living = living.start(
            content.index,
            content.item_vectors,
            content.item_ids,
            distance=content.config.distance,
            baseline=content.baseline,
        )
        return retriever

    def _built(self) -> Living:
        if self._living is None:
            raise ValueError("there is no index: call build_index or load first")
        return self._living


def _finest(params):
    return residual_nodes(levels_of(params["nodes"]))[0][-1]


def _allowed(now: Living, filter, k):
    """Return `filter` as an array, or None, once k is known to be within what it leaves."""
    present = now.ids >= 0
    if filter is None:
        items = int(present.sum())
        if k > items > 0:
            raise ValueError(f"k must be in [1, {items}] (number of items), got {k=}")
        return None
    allowed = np.asarray(filter, bool)
    if allowed.shape != present.shape:
        raise ValueError(
            f"filter must have shape [{present.size}], one entry a row, got shape {allowed.shape}"
        )
    allowed = allowed & present
    if 0 < allowed.sum() < k:
        raise ValueError(f"k must be at most {allowed.sum()} (items that filter allows), got {k}")
    return allowed
