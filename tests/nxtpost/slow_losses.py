"""The training loss one label at a time in float64, and towers that are tables of vectors."""

import jax
import jax.numpy as jnp
import numpy as np

from nxtpost_jax.events.batches import train_batches
from nxtpost_jax.events.sequences import PAD, Sequences
from nxtpost_jax.towers.model import Encoded, NxtPostConfig
from nxtpost_jax.training.negatives import draw_in_batch, draw_uniform
from tests.nxtpost.configurations import L, N

TEMPERATURE = 0.05


class Tables:
    """Stands for the towers in tests of the loss alone: all vectors are parameters."""

    num_items = N

    def __init__(self, trends=False):
        self.config = NxtPostConfig(temperature=TEMPERATURE, trends=trends)

    def apply(self, variables, *inputs, method, content=None, rngs=None):
        del content, rngs
        if method == "raised":
            return raised(*inputs)
        if method == "pool":
            states, items = inputs
            mean = jnp.mean(states, axis=1, where=(items != PAD)[..., None])
            return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
        assert method == "encode_batch"
        states, vectors = variables["params"]
        _, ids = inputs
        return Encoded(states, None, [jnp.take(vectors, jnp.maximum(i, 0), axis=0) for i in ids])


def raised(known):
    """What stands for the learned tables of trends."""
    return 0.02 * known[0] - 0.01 * known[1] + 0.003 * known[2]


def drawn_trends(moments, seed=0):
    """Codes uint8[3, M, N]."""
    return np.random.default_rng(seed).integers(0, 9, (3, moments, N)).astype(np.uint8)


def drawn_tables(batch):
    shapes = [(*batch["items"].shape, 5), (N, 5)]
    return tuple(
        jnp.asarray(drawn_vectors(*shape, seed=i), jnp.float32) for i, shape in enumerate(shapes)
    )


def drawn_vectors(*shape, seed):
    x = np.random.default_rng(seed).normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def drawn_sequences(lengths=(14, 3, 2, 9, 0, 4, 20), num_items=12, seed=0):
    """Few items and long users: duplicates, and several windows of one user in a batch."""
    items = np.random.default_rng(seed).integers(0, num_items, sum(lengths))
    return Sequences(items, np.concatenate([[0], np.cumsum(lengths)]))


def drawn_batch(num_labels, batch_size=16, moments=None):
    shapes = {"max_len": L, "batch_size": batch_size, "num_labels": num_labels}
    log = drawn_sequences()
    if moments is not None:
        moments = np.random.default_rng(1).integers(0, moments, len(log.items)).astype(np.int32)
    return next(train_batches(log, seed=0, epoch=0, moments=moments, **shapes))


def draws(objective, batch, key, candidates):
    """The negatives of `loss`, whose draw is tested apart: lists of ids and of owners."""
    parts, pool = [], []
    pool += [batch["labels"]] * (objective.short_weight > 0)
    pool += [batch["long_labels"]] * (objective.long_weight > 0)
    key = jax.random.split(key)[0]
    keys = jax.random.split(key) if objective.negatives == "mixed" else [key, key]
    if objective.negatives in ("uniform", "mixed"):
        parts.append(draw_uniform(keys[0], candidates, objective.num_negatives))
    if objective.negatives in ("in_batch", "mixed"):
        labels = jnp.concatenate(pool, axis=1)
        parts.append(draw_in_batch(keys[1], labels, batch["users"], objective.num_negatives))
    return [np.concatenate([np.asarray(part[i]) for part in parts]).tolist() for i in (0, 1)]


class Slow:
    """The objective one label at a time in float64, from states and item vectors."""

    def __init__(self, objective, tables, batch, key, candidates, popularity, trends=None):
        self.states, self.items = (np.asarray(x, np.float64) for x in tables)
        self.objective, self.batch = objective, batch
        self.candidates, self.popularity = np.asarray(candidates).tolist(), popularity
        self.ids, self.owners = draws(objective, batch, key, candidates)
        self.trends = trends

    def value(self):
        batch, objective = self.batch, self.objective
        short = [
            self.one(self.states[b, t], label, b, {label}, self.raised("moments", (b, t)))
            for b, row in enumerate(batch["labels"].tolist())
            for t, label in enumerate(row)
            if label != PAD
        ]
        long = []
        for b, row in enumerate(batch["long_labels"].tolist()):
            pooled = self.states[b, : batch["pooled_lengths"][b]].mean(axis=0)
            pooled /= np.linalg.norm(pooled)
            more = self.raised("long_moments", b)
            long += [self.one(pooled, i, b, set(row), more) for i in row if i != PAD]
        return objective.short_weight * np.mean(short) + objective.long_weight * np.mean(long)

    def raised(self, name, at):
        """What items are raised by at a label's moment: float[N]."""
        if self.trends is None:
            return np.zeros(N)
        return raised(self.trends[:, self.batch[name][at]].astype(int))

    def negatives(self, b, positives):
        """Pairs of item and expected count."""
        row = {*self.batch["items"][b].tolist(), *self.batch["labels"][b].tolist()}
        row |= set(self.batch["long_labels"][b].tolist()) if self.objective.long_weight else set()
        uniform = self.owners.count(-1)
        in_batch = sum(o != -1 and i != PAD for i, o in zip(self.ids, self.owners))
        for item, owner in zip(self.ids, self.owners):
            own = owner != -1 and (owner == self.batch["users"][b] or item in row)
            if item != PAD and item not in positives and not own:
                share = self.popularity[item] if in_batch else 0
                yield item, uniform / len(self.candidates) + in_batch * share

    def one(self, query, label, b, positives, raised):
        logits = (self.items @ query + raised) / TEMPERATURE
        objective = self.objective
        if objective.loss == "full_softmax":
            total = np.log(np.exp(logits[self.candidates]).sum())
            return total - self.target(logits, label, logits[self.candidates])
        negatives = list(self.negatives(b, positives))
        drawn = np.array([logits[i] for i, _ in negatives])
        if objective.loss == "sampled_softmax":
            target = self.target(logits, label, drawn)
            if objective.logq:
                drawn = drawn - np.log([count for _, count in negatives])
            return np.log(np.exp(logits[label]) + np.exp(drawn).sum()) - target
        alpha, t = len(self.ids) / (len(self.candidates) - 1), objective.calibration
        beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha) if objective.loss == "gbce" else 1
        probability = (1 / (1 + np.exp(-logits[label]))) ** beta
        others = np.log(1 - 1 / (1 + np.exp(drawn)) * np.exp(drawn))
        return -(np.log(probability) + others.sum()) / (1 + len(drawn))

    def target(self, logits, label, others):
        """The mean logit under the target's distribution."""
        share = self.objective.label_smoothing if len(others) else 0
        return (1 - share) * logits[label] + (share * np.mean(others) if share else 0)
