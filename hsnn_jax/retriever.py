"""The facade: fit, build, search, save and load one retriever."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hsnn_jax import artefact, living, monn
from hsnn_jax.chunks import num_rows
from hsnn_jax.fit_index import fit_index
from hsnn_jax.index import Index, build_index, stats
from hsnn_jax.levels import residual_nodes
from hsnn_jax.living import Living, batches, check_ids, check_vectors, padded
from hsnn_jax.lti import LTIConfig, init_params, levels_of
from hsnn_jax.monn_config import MoNNConfig
from hsnn_jax.scorers import dot
from hsnn_jax.search import search


class Answer(NamedTuple):
    """What `Retriever.search` returns, as numpy arrays."""

    ids: np.ndarray  # int64 [B, k]; the caller's ids, -1 where fewer than k items were found
    scores: np.ndarray  # float32 [B, k]; -inf there
    items_scored: np.ndarray  # int32 [B]
    flops: np.ndarray  # float32 [B]
    nodes_scored: np.ndarray  # int32 [B]


class Retriever:
    """Search items by a scorer through a learned index.

    An update makes a new index and replaces the old one in a single assignment: a search in
    another thread sees all of it or nothing, and an update that fails changes nothing. Updates
    themselves must come from one thread at a time.

    Users and items are vectors, or, with a `model`, what its towers read: users are
    (features, counts), or features alone where the model has no crosses, as `monn.encode_users`
    takes them; items are (features, attributes), or features alone, as `monn.encode_items`
    does. The retriever keeps the items encoded, and lists them by the item tower's vectors; a
    node is scored as its representative item.

    Args:
      config: of the nodes, see `LTIConfig`; of residual levels, the index has all sums of codes
        as its nodes.
      scorer: see `search`; the inner product by default. Not given with a model.
      params: the parameters of scorer or model.
      model: a MoNN.
      task: of the model's, see `monn.MoNNScorer`.
      slack: capacity of a list over the mean number of items of a node.
      max_beam: static maximum of nodes visited; all by default.

    Raises:
      ValueError: a model comes with a scorer or without parameters, or a task without a model.
    """

    def __init__(
        self,
        config: LTIConfig,
        *,
        scorer=None,
        params=None,
        model: MoNNConfig | None = None,
        task: str | None = None,
        slack=2.0,
        max_beam: int | None = None,
    ):
        if model is None and task is not None:
            raise ValueError(f"task needs a model, got {task=}")
        if model is not None:
            if scorer is not None or params is None:
                raise ValueError("a model comes with params and without a scorer")
            scorer = monn.MoNNScorer(model, task)
        self.config = config
        self.scorer = scorer or dot
        self.params = params
        self.model = model
        self.task = task
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

        With a model, both are what it reads; the nodes are learned on `monn.user_vectors` and
        `monn.item_vectors`, and the model stays as it is.

        Returns:
          The records of the training.
        """
        if self.model is not None:
            features, _ = self._inputs("user_vectors", user_vectors)
            user_vectors = np.asarray(monn.user_vectors(self.model, self.params, features))
            item_vectors, _ = self._encode("item_vectors", item_vectors)
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
          item_vectors: float [n, d], or what the model reads.
          item_ids: int [n], the caller's ids, >= 0; rows by default.
          key: PRNG key of k-means, needed when `fit` has not run.
          reserve: rows kept free for `add`.

        Returns:
          `index.stats` of the new index.

        Raises:
          ValueError: vectors are not finite or not as wide as the nodes; ids repeat; no key.
        """
        vectors, features = self._encode("item_vectors", item_vectors)
        check_vectors("item_vectors", vectors)
        ids = np.arange(vectors.shape[0]) if item_ids is None else np.asarray(item_ids)
        check_ids("item_ids", ids, vectors.shape[0])
        nodes = self.nodes
        if nodes is None:
            if key is None:
                raise ValueError("build_index needs key (for k-means) when fit has not run")
            nodes = _finest(init_params(key, jnp.asarray(vectors), self.config))
        distance = self.config.distance
        index = build_index(vectors, nodes, slack=self.slack, reserve=reserve, distance=distance)
        ids = np.pad(ids.astype(np.int64), (0, reserve), constant_values=-1)
        self._living = living.start(index, vectors, ids, distance=distance, features=features)
        return stats(index)

    def add(self, vectors, ids) -> None:
        """List new items in free slots, near what they resemble, without training.

        Args:
          vectors: float [b, d], or what the model reads.
          ids: int [b], ids that the index does not hold.

        Raises:
          ValueError: see `living.add`; nothing has changed then.
        """
        now = self._built()
        vectors, features = self._encode("vectors", vectors, by_batches=True)
        distance = self.config.distance
        self._living = living.add(now, vectors, ids, distance=distance, features=features)

    def remove(self, ids) -> None:
        """Drop items; their rows and slots are free for others.

        Args:
          ids: int [b], ids that the index holds.

        Raises:
          ValueError: see `living.remove`; nothing has changed then.
        """
        self._living = living.remove(self._built(), ids, distance=self.config.distance)

    def reassign(self, vectors=None, ids=None) -> None:
        """List all items anew at the nodes as they are, some of them as they are now.

        Args:
          vectors: optional float [b, d], or what the model reads.
          ids: int [b], which items these are.

        Raises:
          ValueError: see `living.reassign`; nothing has changed then.
        """
        now, features = self._built(), None
        if vectors is not None:
            vectors, features = self._encode("vectors", vectors, by_batches=True)
        distance = self.config.distance
        self._living = living.reassign(now, vectors, ids, distance=distance, features=features)

    def drift(self) -> dict[str, float]:
        """Measure the index against its build; see `living.drift`."""
        return living.drift(self._built(), distance=self.config.distance)

    def needs_rebuild(self, **thresholds) -> bool:
        """Tell whether new nodes are due; see `living.needs_rebuild` for the thresholds."""
        return living.needs_rebuild(self.drift(), **thresholds)

    def search(self, users, k: int, *, budget=None, exclude=None, filter=None) -> Answer:
        """Return each user's best items, in the caller's ids.

        Args:
          users: float [B, d], or what the model reads.
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
        if self.model is None:
            check_vectors("users", users, width=now.index.nodes.shape[1])
            users = jnp.asarray(users)
        else:
            users = monn.encode_users(self.model, self.params, *self._inputs("users", users))
        found = search(
            self.scorer,
            self.params,
            now.index,
            now.scored,
            users,
            k,
            budget=max(now.ids.size, now.index.lists.shape[1]) if budget is None else budget,
            max_beam=self.max_beam,
            exclude=None if exclude is None else living.rows_of(now, np.asarray(exclude)),
            allowed=_allowed(now, filter, k),
            node_features=now.node_features,
        )
        found = jax.device_get(found)
        return Answer(np.where(found.ids < 0, -1, now.ids[found.ids]), *found[1:])

    def stats(self) -> dict[str, float]:
        """Measure how evenly the items fill the lists; see `index.stats`."""
        return stats(self._built().index)

    def save(self, path) -> None:
        """Write index, items, ids, and the scorer's parameters and model as one .npz file.

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
                model=self.model,
                task=self.task,
                item_features=jax.device_get(living.item_features(now)),
            ),
        )

    @classmethod
    def load(cls, path, *, scorer=None) -> "Retriever":
        """Read what `save` wrote.

        Args:
          path: the file.
          scorer: the callable whose name was saved, the inner product by default; code is not
            stored. A model's scorer is made anew from its configuration.

        Raises:
          ValueError: the file is not such an artefact, or was saved with another scorer.
        """
        content = artefact.read(path)
        if content.model is None:
            scorer = scorer or dot
        if scorer is not None and content.scorer != scorer.__name__:
            raise ValueError(
                f"{path} was saved with scorer {content.scorer!r}, got {scorer.__name__!r}"
            )
        retriever = cls(
            content.config,
            scorer=scorer if content.model is None else None,
            params=content.params,
            model=content.model,
            task=content.task,
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
            features=content.item_features,
        )
        return retriever

    def _inputs(self, name, given):
        """Return (features, crosses or None) of users or items; raise unless they are sound."""
        features, crosses = given if isinstance(given, tuple) else (given, None)
        _check_inputs(name, (features, crosses))
        return features, crosses

    def _encode(self, name, items, *, by_batches=False):
        """Return (vectors, features or None) of items, features being what the scorer reads.

        Args:
          name: of the argument, for errors.
          items: vectors, or inputs of the model.
          by_batches: in the few sizes of an update, so that nothing is traced anew.
        """
        if self.model is None:
            return items, None
        inputs = self._inputs(name, items)
        rows = num_rows(inputs)
        if not by_batches:
            return self._towers(*inputs)
        inputs, encoded = jax.tree.map(np.asarray, inputs), []
        for part, size in batches(max(rows, 1)):
            some = jax.tree.map(lambda x, part=part: x[part], inputs)
            whole = self._towers(*jax.tree.map(lambda x, size=size: padded(x, size, 0), some))
            kept = num_rows(some)
            encoded.append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[:kept], whole))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *encoded)

    def _towers(self, features, attributes):
        vectors = monn.item_vectors(self.model, self.params, features)
        return np.asarray(vectors), monn.encode_items(self.model, self.params, features, attributes)

    def _built(self) -> Living:
        if self._living is None:
            raise ValueError("there is no index: call build_index or load first")
        return self._living


def _check_inputs(name, tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    rows = {np.shape(x)[:1] for _, x in leaves}
    if len(rows) != 1 or rows == {()}:
        raise ValueError(f"{name} must have features of one number of rows, got {sorted(rows)}")
    for path, x in leaves:
        x = np.asarray(x)
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            row = np.argmin(np.isfinite(x).reshape(len(x), -1).all(axis=1))
            place = jax.tree_util.keystr(path[1:])
            raise ValueError(f"{name} must be finite, got NaN or inf in row {row} of {place}")


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
