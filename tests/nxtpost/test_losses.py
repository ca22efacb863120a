from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nxtpost_jax.losses import loss, short_term_loss
from nxtpost_jax.model import NxtPostConfig
from nxtpost_jax.sequences import PAD
from tests.nxtpost.test_model import VARIANTS, L, N, drawn_content, drawn_histories, set_up

TEMPERATURE = 0.05


def reference(states, positives, negatives, labels, negative_ids):
    """Average -log softmax of the positive over positions, one by one in float64."""
    values = []
    for b, t in np.argwhere(labels != PAD):
        kept = negatives[negative_ids != labels[b, t]]
        logits = np.concatenate([positives[b, t][None], kept]) @ states[b, t] / TEMPERATURE
        values.append(np.log(np.exp(logits - logits[0]).sum()))
    return np.mean(values) if values else 0.0


def drawn_vectors(*shape, seed):
    x = np.random.default_rng(seed).normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("labelled", [0.0, 0.6, 1.0])
def test_loss_equals_a_float64_loop(labelled):
    rng = np.random.default_rng(3)
    labels = np.where(rng.random((4, 6)) < labelled, rng.integers(0, 8, (4, 6)), PAD)
    negative_ids = rng.integers(0, 8, 11)  # many hits on the positives
    arrays = [drawn_vectors(*shape, 5, seed=i) for i, shape in enumerate([(4, 6), (4, 6), (11,)])]
    value = short_term_loss(
        *(jnp.asarray(x, jnp.float32) for x in arrays),
        jnp.asarray(labels),
        jnp.asarray(negative_ids),
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
    value, grad = jax.value_and_grad(objective)(states, positives, negatives, ids[None, :1], ids)
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


def labelled_histories(lengths, seed=0):
    batch = drawn_histories(lengths, seed=seed)
    labels = np.random.default_rng(seed + 1).integers(0, N, batch["items"].shape)
    return batch | {"labels": np.where(batch["items"] == PAD, PAD, labels).astype(np.int32)}


@pytest.mark.parametrize("variant", ["gated", "transformer"])
def test_the_loss_at_a_position_has_no_gradient_to_later_inputs(variant):
    config = VARIANTS[variant]
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
                states, positives, items, labels, jnp.arange(N), temperature=TEMPERATURE
            )

        return jnp.abs(jax.grad(objective)(vectors)).sum(axis=(0, 2))

    for position in range(L):
        grad = np.asarray(gradient(vectors, position))
        assert (grad[position + 1 :] == 0).all()
        assert (grad[: position + 1] > 0).all()


def test_padding_rows_and_columns_do_not_change_the_loss():
    content = drawn_content()
    config = NxtPostConfig(d_model=16, max_len=L, dropout=0.0)
    short = labelled_histories([5, 3])
    short = {name: value[:, :5] for name, value in short.items() if name != "actions"}
    fill = {"items": PAD, "labels": PAD, "times": 0}
    wide = {
        name: np.pad(value, ((0, 2), (0, L - 5)), constant_values=fill[name])
        for name, value in short.items()
    }
    model, params = set_up(config, short, content)
    objective = jax.jit(partial(loss, model, num_negatives=7))
    values = [objective(params, batch, content, jax.random.key(0)) for batch in (short, wide)]
    np.testing.assert_allclose(values[0][0], values[1][0], rtol=1e-6)
    assert values[0][1]["positions"] == values[1][1]["positions"] == 8


@pytest.mark.parametrize("rows", [N, 4000], ids=["small catalogue", "large catalogue"])
def test_a_batch_sharded_over_eight_devices_gives_one_devices_loss_and_gradient(rows):
    config = VARIANTS["gated"]
    batch, content = labelled_histories([L, 2, 7, 1, 5, 6, 3, 9] * 2), drawn_content(rows)
    model, params = set_up(config, batch, content)
    objective = jax.jit(jax.value_and_grad(partial(loss, model, num_negatives=32), has_aux=True))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(batch, NamedSharding(mesh, P("data")))
    everywhere = NamedSharding(mesh, P())
    key = jax.random.key(5)
    (one, _), one_grad = objective(params, batch, content, key)
    (eight, metrics), eight_grad = objective(
        *(jax.device_put(params, everywhere), sharded), *jax.device_put((content, key), everywhere)
    )
    assert len(sharded["items"].sharding.device_set) == 8
    assert metrics["positions"] == (batch["labels"] != PAD).sum()
    np.testing.assert_allclose(one, eight, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(one_grad), jax.tree.leaves(eight_grad)):
        assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(a)


def test_items_outside_the_candidates_are_never_negatives():
    """Ids alone: an id that is no input, no label and no candidate has no gradient."""
    config = NxtPostConfig(d_model=16, max_len=L, dropout=0.0, id_embedding=True)
    batch = labelled_histories([L, L])
    batch = {name: batch[name] for name in ("items", "labels")}
    model, params = set_up(config, batch)
    known = np.union1d(batch["items"], batch["labels"])
    unknown = np.setdiff1d(np.arange(N), known)
    assert len(unknown)

    def rows_with_gradient(candidates):
        objective = partial(loss, model, num_negatives=500, candidates=candidates)
        gradient = jax.jit(jax.grad(objective, has_aux=True), static_argnums=2)
        grads, _ = gradient(params, batch, None, jax.random.key(0))
        return np.flatnonzero(np.abs(grads["post_tower"]["id_embedding"]).sum(axis=1))

    np.testing.assert_array_equal(rows_with_gradient(jnp.asarray(known)), known)
    np.testing.assert_array_equal(rows_with_gradient(None), np.arange(N))
