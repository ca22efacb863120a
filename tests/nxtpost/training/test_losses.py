import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nxtpost_jax.events.batches import train_batches
from nxtpost_jax.events.sequences import PAD, Sequences
from nxtpost_jax.towers.model import NxtPost, NxtPostConfig
from nxtpost_jax.training.losses import binary_cross_entropy, calibrated_beta, loss, short_term_loss
from nxtpost_jax.training.negatives import log_popularity
from nxtpost_jax.training.objective import Objective
from tests.nxtpost.configurations import (
    CONFIGS,
    RICH,
    L,
    N,
    drawn_content,
    drawn_histories,
    set_up,
)
from tests.nxtpost.slow_losses import (
    TEMPERATURE,
    Slow,
    Tables,
    drawn_batch,
    drawn_sequences,
    drawn_tables,
    drawn_vectors,
)

PAPER = dataclasses.replace(CONFIGS["paper"], dropout=0.0)
BOTH = {"short_weight": 0.5, "long_weight": 2.0, "num_labels": 3}
EVERY = 1000  # more negatives than a batch has labels
OBJECTIVES = {
    "uniform logq": Objective(num_negatives=40, logq=True, **BOTH),
    "in batch": Objective(negatives="in_batch", num_negatives=EVERY),
    "in batch logq": Objective(negatives="in_batch", num_negatives=EVERY, logq=True, **BOTH),
    "mixed": Objective(negatives="mixed", num_negatives=25, **BOTH),
    "mixed logq": Objective(negatives="mixed", num_negatives=EVERY, logq=True),
    "long alone": Objective(negatives="in_batch", short_weight=0, long_weight=1, num_labels=2),
    "bce in batch": Objective(loss="bce", negatives="in_batch", num_negatives=EVERY, **BOTH),
    "gbce": Objective(loss="gbce", num_negatives=5, calibration=0.6, **BOTH),
    "full softmax": Objective(loss="full_softmax", chunk=7, **BOTH),
    "smoothed": Objective(loss="full_softmax", label_smoothing=0.2, **BOTH),
    "two drawn, smoothed": Objective(num_negatives=2, label_smoothing=0.1, **BOTH),
    "mixed, smoothed": Objective(
        negatives="mixed", num_negatives=25, logq=True, label_smoothing=0.1, **BOTH
    ),
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_loss_equals_a_slow_one(objective):
    batch = drawn_batch(objective.num_labels)
    tables = drawn_tables(batch)
    candidates = np.unique(drawn_sequences().items)
    popularity = log_popularity(drawn_sequences(), N)
    key = jax.random.key(3)
    fast = partial(loss, Tables(), objective=objective)
    value, metrics = jax.jit(fast)(
        tables,
        batch=batch,
        content=None,
        key=key,
        candidates=candidates,
        log_popularity=popularity,
    )
    slow = Slow(objective, tables, batch, key, candidates, np.exp(popularity)).value()
    np.testing.assert_allclose(value, slow, rtol=1e-5)
    assert metrics["positions"] == (batch["labels"] != PAD).sum()
    if objective.short_weight and objective.long_weight:
        both = 0.5 * metrics["short_loss"] + 2 * metrics["long_loss"]
        np.testing.assert_allclose(value, both, rtol=1e-6)


def test_an_odd_number_of_positions_is_as_any_other():
    """What all rows share is dealt to no row."""
    batch = {name: column[:3] for name, column in drawn_batch(1).items()}
    columns = 2 * (batch["items"].shape[1] // 2) - 1
    for name in ("items", "labels"):
        batch[name] = batch[name][:, :columns]
    states, vectors = drawn_tables(batch)
    candidates, key = np.unique(drawn_sequences().items), jax.random.key(3)
    given = {"batch": batch, "content": None, "key": key, "candidates": candidates}
    objective = Objective(num_negatives=40)
    value, _ = loss(Tables(), (states, vectors), objective=objective, **given)
    slow = Slow(objective, (states, vectors), batch, key, candidates, None).value()
    np.testing.assert_allclose(value, slow, rtol=1e-5)


def test_a_full_softmax_is_the_sampled_one_over_the_catalogue():
    """Every item once as a negative: the label is left out of the sum and added again."""
    batch = drawn_batch(1)
    states, items = tables = drawn_tables(batch)
    labels = batch["labels"]
    sampled = short_term_loss(
        states,
        items[labels],
        negatives_NxD=items,
        labels_BxL=labels,
        negative_ids_N=jnp.arange(N),
        temperature=TEMPERATURE,
    )
    objective = Objective("full_softmax")
    full, _ = loss(
        Tables(), tables, batch=batch, content=None, key=jax.random.key(0), objective=objective
    )
    np.testing.assert_allclose(full, sampled, rtol=1e-6)


def test_calibration_runs_from_plain_to_the_sampling_rate():
    assert calibrated_beta(10, 101, 0.0) == 1
    assert calibrated_beta(10, 101, 1.0) == pytest.approx(0.1)
    assert calibrated_beta(500, 101, 1.0) == 1
    assert calibrated_beta(5, 1, 1.0) == 1
    assert calibrated_beta(1, 2, 1.0) == 1  # one other item, always drawn
    assert calibrated_beta(1, 3, 1.0) == 0.5


def test_cross_entropy_without_calibration_is_that_of_logistic_regression():
    positive, negative = jnp.array([[0.3]]), jnp.array([[-0.2, 1.1]])
    found = binary_cross_entropy(positive, negative, jnp.array([[True, True]]))
    odds = 1 / (1 + np.exp(-np.array([0.3, 0.2, -1.1])))
    np.testing.assert_allclose(found, [[-np.log(odds).mean()]], rtol=1e-6)


def test_cross_entropy_of_large_logits_is_finite():
    logits = jnp.array([[200.0], [-200.0]])
    value = binary_cross_entropy(logits, -logits, jnp.ones((2, 1), bool), beta=1e-3)
    np.testing.assert_allclose(value, [[0.0], [(1e-3 * 200 + 200) / 2]], atol=1e-6)


def reference(states, positives, negatives, labels, negative_ids):
    """Average -log softmax of the positive over positions, one by one in float64."""
    values = []
    for b, t in np.argwhere(labels != PAD):
        kept = negatives[negative_ids != labels[b, t]]
        logits = np.concatenate([positives[b, t][None], kept]) @ states[b, t] / TEMPERATURE
        values.append(np.log(np.exp(logits - logits[0]).sum()))
    return np.mean(values) if values else 0.0


@pytest.mark.parametrize("labelled", [0.0, 0.6, 1.0])
def test_short_term_loss_equals_a_float64_loop(labelled):
    rng = np.random.default_rng(3)
    labels = np.where(rng.random((4, 6)) < labelled, rng.integers(0, 8, (4, 6)), PAD)
    negative_ids = rng.integers(0, 8, 11)  # many hits on the positives
    arrays = [drawn_vectors(*shape, 5, seed=i) for i, shape in enumerate([(4, 6), (4, 6), (11,)])]
    value = short_term_loss(
        *(jnp.asarray(x, jnp.float32) for x in arrays[:2]),
        negatives_NxD=jnp.asarray(arrays[2], jnp.float32),
        labels_BxL=jnp.asarray(labels),
        negative_ids_N=jnp.asarray(negative_ids),
        temperature=TEMPERATURE,
    )
    np.testing.assert_allclose(value, reference(*arrays, labels, negative_ids), rtol=1e-5)


def test_negatives_that_are_all_hits_give_no_loss_and_a_finite_gradient():
    states, positives, negatives = (
        jnp.asarray(drawn_vectors(*shape, 5, seed=0), jnp.float32)
        for shape in [(1, 1), (1, 1), (3,)]
    )
    ids = jnp.full(3, 2)
    objective = partial(short_term_loss, temperature=TEMPERATURE)
    value, grad = jax.value_and_grad(objective)(
        states, positives, negatives_NxD=negatives, labels_BxL=ids[None, :1], negative_ids_N=ids
    )
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize(
    ("name", "label_smoothing"), [("bce", 0.0), ("sampled_softmax", 0.0), ("sampled_softmax", 0.3)]
)
def test_a_batch_of_one_user_has_no_in_batch_negatives(name, label_smoothing):
    """Only the positive's own term is left, and all gradients are finite."""
    sequences = Sequences(np.arange(9) % 4, [0, 9])
    batch = next(train_batches(sequences, max_len=L, batch_size=3, seed=0, epoch=0))
    objective = Objective(name, "in_batch", num_negatives=5, label_smoothing=label_smoothing)
    fast = jax.value_and_grad(partial(loss, Tables(), objective=objective), has_aux=True)
    (value, _), grads = fast(drawn_tables(batch), batch=batch, content=None, key=jax.random.key(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert value == 0 if name == "sampled_softmax" else value > 0


def labelled_histories(lengths, seed=0):
    batch = drawn_histories(lengths, seed=seed)
    rng = np.random.default_rng(seed + 1)
    labels = rng.integers(0, N, batch["items"].shape)
    return batch | {
        "labels": np.where(batch["items"] == PAD, PAD, labels).astype(np.int32),
        "users": np.arange(len(lengths), dtype=np.int32),
        "pooled_lengths": np.maximum(np.array(lengths) - 2, 1).astype(np.int32),
        "long_labels": rng.integers(0, N, (len(lengths), 3)).astype(np.int32),
    }


@pytest.mark.parametrize("name", ["gated mean", "transformer attention, relative bias"])
def test_the_loss_at_a_position_has_no_gradient_to_later_inputs(name):
    config = CONFIGS[name]
    batch, content = labelled_histories([L, L]), drawn_content()
    model, params = set_up(config, batch, content)
    vectors = jax.random.normal(jax.random.key(1), (2, L, config.d_model))
    items = jnp.asarray(drawn_vectors(N, config.d_model, seed=2), jnp.float32)

    @jax.jit
    def gradient(vectors, position):
        labels = jnp.where(jnp.arange(L)[None, :] == position, batch["labels"], PAD)

        def objective(vectors):
            states = model.apply({"params": params}, batch, vectors, method="encode_histories")
            positives = items[batch["labels"]]
            return short_term_loss(
                states,
                positives,
                negatives_NxD=items,
                labels_BxL=labels,
                negative_ids_N=jnp.arange(N),
                temperature=TEMPERATURE,
            )

        return jnp.abs(jax.grad(objective)(vectors)).sum(axis=(0, 2))

    for position in range(L):
        grad = np.asarray(gradient(vectors, position))
        assert (grad[position + 1 :] == 0).all()
        assert (grad[: position + 1] > 0).all()


@pytest.mark.parametrize(
    "name", ["gated mean", "gated last", "transformer attention, relative bias"]
)
def test_the_long_loss_does_not_see_inputs_after_the_pooled_ones(name):
    """Nor then its labels, which may be inputs there: other events there change nothing."""
    config = dataclasses.replace(CONFIGS[name], dropout=0.0, id_dropout=0.0)
    lengths = [L, L - 1]
    batch, other = labelled_histories(lengths), labelled_histories(lengths, seed=9)
    model, params = set_up(config, batch, drawn_content())
    weights = {"short_weight": 0.0, "long_weight": 1.0, "num_labels": 3}
    fast = jax.jit(partial(loss, model, objective=Objective(**weights)))

    def value(changed_from):
        at = np.arange(L)[None, :] >= (batch["pooled_lengths"] + changed_from)[:, None]
        changed = {
            column: np.where(at & (batch["items"] != PAD), other[column], batch[column])
            for column in ("items", "times", "actions", "surfaces")
        }
        found, _ = fast(
            params, batch=batch | changed, content=drawn_content(), key=jax.random.key(0)
        )
        return float(found), changed["items"]

    (unseen, items), (seen, _) = value(0), value(-1)
    original, _ = fast(params, batch=batch, content=drawn_content(), key=jax.random.key(0))
    assert (items != batch["items"]).any()
    assert unseen == original
    assert abs(seen - original) > 1e-4


def test_padding_rows_and_columns_do_not_change_the_loss():
    content = drawn_content()
    short = labelled_histories([5, 3])
    short = {name: value[:, :5] for name, value in short.items() if name in ("items", "labels")}
    wide = {name: np.pad(v, ((0, 2), (0, L - 5)), constant_values=PAD) for name, v in short.items()}
    model, params = set_up(PAPER, short, content)
    objective = jax.jit(partial(loss, model, num_negatives=7))
    values = [
        objective(params, batch=batch, content=content, key=jax.random.key(0))
        for batch in (short, wide)
    ]
    np.testing.assert_allclose(values[0][0], values[1][0], rtol=1e-6)
    assert values[0][1]["positions"] == values[1][1]["positions"] == 8


@pytest.mark.parametrize("kind", ["a model and mixed negatives", "a full softmax"])
def test_a_batch_sharded_over_eight_devices_gives_one_devices_loss_and_gradient(kind):
    batch, rows = labelled_histories([L, 2, 6, 1, 5, 6, 3, 4]), 400
    content = drawn_content(rows)
    if kind == "a full softmax":
        objective = Objective("full_softmax", chunk=3, **BOTH)
        model, params, content = Tables(), drawn_tables(batch), None
    else:
        objective = Objective(negatives="mixed", num_negatives=32, logq=True, **BOTH)
        model, params = set_up(PAPER, batch, content)
    popularity = jnp.log(jnp.full(rows, 1 / rows))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def gradient(mesh):
        fast = partial(loss, model, objective=objective, log_popularity=popularity, mesh=mesh)
        return jax.jit(jax.value_and_grad(fast, has_aux=True))

    sharded = jax.device_put(batch, NamedSharding(mesh, P("data")))
    everywhere = jax.device_put((params, content), NamedSharding(mesh, P()))
    key = jax.random.key(5)
    (one, _), one_grad = gradient(None)(params, batch=batch, content=content, key=key)
    (eight, metrics), eight_grad = gradient(mesh)(
        everywhere[0], batch=sharded, content=everywhere[1], key=key
    )
    assert len(sharded["items"].sharding.device_set) == 8
    assert metrics["positions"] == (batch["labels"] != PAD).sum()
    np.testing.assert_allclose(one, eight, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(one_grad), jax.tree.leaves(eight_grad)):
        assert 0 < np.linalg.norm(a) < np.inf
        assert np.linalg.norm(a - b) <= 5e-6 * np.linalg.norm(a)


@pytest.mark.parametrize("name", ["sampled_softmax", "full_softmax"])
def test_items_outside_the_candidates_are_never_negatives(name):
    """An item that is no label and no candidate has no gradient."""
    batch = labelled_histories([L, L])
    known = np.union1d(batch["items"], batch["labels"])
    assert len(known) < N
    objective = Objective(name, num_negatives=500)

    def rows_with_gradient(candidates):
        fast = partial(loss, Tables(), objective=objective, candidates=candidates)
        (_, items), _ = jax.grad(fast, has_aux=True)(
            drawn_tables(batch), batch=batch, content=None, key=jax.random.key(0)
        )
        return np.flatnonzero(np.abs(items).sum(axis=1))

    np.testing.assert_array_equal(rows_with_gradient(jnp.asarray(known)), known)
    np.testing.assert_array_equal(rows_with_gradient(None), np.arange(N))


def weighted(weights):
    """Six events of two users, at weights, in rows of the losses of both kinds."""
    sequences = Sequences(np.arange(6), [0, 4, 6], weights=weights)
    return next(train_batches(sequences, max_len=3, batch_size=2, seed=0, epoch=0, num_labels=2))


@pytest.mark.parametrize("name", ["uniform logq", "full softmax"])
def test_a_weight_multiplies_the_gradient_of_its_event(name):
    objective = dataclasses.replace(OBJECTIVES[name], num_labels=2)
    model = NxtPost(NxtPostConfig.default(d_model=8, num_layers=1, max_len=3, dropout=0.0), 6)
    params = model.init(jax.random.key(1), weighted(None))["params"]

    @jax.jit
    def gradient(batch):
        options = {"objective": objective, "log_popularity": jnp.zeros(6), "content": None}
        value = partial(loss, model, batch=batch, key=jax.random.key(0), **options)
        return jax.grad(value, has_aux=True)(params)[0]

    def of(weights):
        return gradient(weighted(weights))

    ones, event = np.ones(6), np.eye(6)[3]  # the last event of the first user
    added = jax.tree.map(jnp.add, of(ones), of(event))
    size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(of(event)))
    assert size > 1e-3
    for doubled, expected in zip(jax.tree.leaves(of(ones + event)), jax.tree.leaves(added)):
        np.testing.assert_allclose(doubled, expected, atol=2e-6 * size)
    first = jax.tree.leaves(of(np.eye(6)[0]))  # a first event is no label
    assert all((leaf == 0).all() for leaf in first)
    for one, plain in zip(jax.tree.leaves(of(ones)), jax.tree.leaves(of(None))):
        np.testing.assert_array_equal(one, plain)


@pytest.mark.parametrize(
    "options, left_out, message",
    [
        ({"negatives": "in_batch"}, "users", "batch: expected 'users', which this objective"),
        ({"long_weight": 1.0}, "pooled_lengths", "batch: expected 'pooled_lengths'"),
        ({"long_weight": 1.0}, "long_labels", "batch: expected 'long_labels'"),
        ({"long_weight": 1.0}, None, "batch: expected num_labels=1 long labels a row, found 3"),
        ({"negatives": "mixed", "logq": True}, None, "log_popularity: expected an array"),
    ],
)
def test_what_an_objective_needs_is_asked_for(options, left_out, message):
    batch = labelled_histories([L])
    batch.pop(left_out, None)
    model, params = set_up(RICH, batch, drawn_content())
    with pytest.raises(ValueError, match=message):
        loss(
            model,
            params,
            batch=batch,
            content=None,
            key=jax.random.key(0),
            objective=Objective(**options),
        )
