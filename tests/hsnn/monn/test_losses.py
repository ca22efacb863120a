"""Multi-task loss, sampled softmax, distillation and the ensemble of levels against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hsnn_jax.monn.ensemble import (
    ensemble_logits,
    init_ensemble,
    interaction_mse,
    level_logit,
    level_losses,
)
from hsnn_jax.monn.losses import (
    binary_cross_entropy,
    distillation_loss,
    multi_task_loss,
    sampled_softmax,
)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def log_loss(logits, labels):
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    return -labels * np.log(p) - (1 - labels) * np.log(1 - p)


def test_cross_entropy_is_stable():
    logits, labels = normal(0, 50), np.random.default_rng(1).random(50)
    found = binary_cross_entropy(logits, labels)
    np.testing.assert_allclose(found, log_loss(logits, labels), rtol=1e-5)
    extreme = binary_cross_entropy(jnp.asarray([1e4, -1e4]), jnp.asarray([1.0, 1.0]))
    assert extreme.tolist() == [0, 1e4]


def test_multi_task_loss_averages_each_task_over_its_own_labels():
    logits = normal(0, 8, 3)
    labels = np.random.default_rng(1).integers(0, 2, (8, 3)).astype(np.float32)
    mask = np.random.default_rng(2).random((8, 3)) < 0.5
    mask[:, 2] = False
    labels[~mask] = np.nan
    weights = np.array([1.0, 5.0, 2.0])

    def loss(logits):
        return multi_task_loss(logits, labels, weights=weights, mask=mask)

    (value, per_task), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(logits))
    expected = [
        log_loss(logits[mask[:, t], t], labels[mask[:, t], t]).mean() if mask[:, t].any() else 0
        for t in range(3)
    ]
    np.testing.assert_allclose(per_task, expected, rtol=1e-5)
    np.testing.assert_allclose(value, weights @ expected, rtol=1e-5)
    p = 1 / (1 + np.exp(-logits))
    slow = weights * np.where(mask, p - labels, 0) / np.maximum(mask.sum(axis=0), 1)
    np.testing.assert_allclose(gradient, slow, rtol=1e-4, atol=1e-6)


def test_multi_task_loss_without_a_mask_and_with_bad_shapes():
    logits, labels = normal(0, 4, 2, 2), np.ones((4, 2, 2))
    value, per_task = multi_task_loss(logits, labels, weights=[1, 1])
    np.testing.assert_allclose(per_task, log_loss(logits, labels).mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(value, per_task.sum(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"and \[2\], found \[4, 2, 2\] and \[3\]"):
        multi_task_loss(logits, labels, weights=[1, 1, 1])
    with pytest.raises(ValueError, match=r"expected shapes \[4, 2, 2\], the logits'"):
        multi_task_loss(logits, labels[0], weights=[1, 1])


def test_sampled_softmax_by_its_definition():
    positive, negative = normal(0, 5), normal(1, 5, 7)
    kept = np.random.default_rng(2).random((5, 7)) < 0.6
    kept[0] = False
    shift = normal(3, 1, 7)
    weights = kept * np.exp(negative - shift)
    slow = np.log(1 + weights.sum(axis=1) / np.exp(positive))
    assert slow[0] == 0
    options = dict(kept_BxN=kept, log_expected_BxN=shift)
    value, gradient = jax.value_and_grad(sampled_softmax, argnums=1)(positive, negative, **options)
    np.testing.assert_allclose(value, slow.mean(), rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[~kept] == 0).all()


def test_sampled_softmax_with_logq_estimates_the_full_one():
    rng = np.random.default_rng(0)
    logits, q = rng.normal(size=60), rng.dirichlet(np.ones(60))
    draws = rng.choice(60, (1, 200_000), p=q)
    expected = np.log(draws.shape[1] * q)
    found = sampled_softmax(
        jnp.zeros(1), jnp.asarray(logits[draws]), log_expected_BxN=jnp.asarray(expected[draws])
    )
    np.testing.assert_allclose(found, np.log1p(np.exp(logits).sum()), rtol=1e-2)


def test_distillation_pulls_the_student_to_the_teacher_alone():
    student, teacher = normal(0, 6, 4), normal(1, 6, 4)
    value, gradients = jax.value_and_grad(distillation_loss, argnums=(0, 1))(student, teacher)
    target, found = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (teacher, student))
    np.testing.assert_allclose(value, -(target * np.log(found)).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(gradients[0], (found - target) / 6, rtol=1e-4, atol=1e-6)
    assert (np.asarray(gradients[1]) == 0).all()


def test_a_level_sees_itself_and_coarser_levels_only():
    params = {"weights": jnp.asarray(normal(0, 3, 3)), "bias": jnp.asarray(normal(1, 3))}
    outputs = normal(2, 4, 5, 3)
    found = ensemble_logits(params, outputs)
    for n in range(3):
        slow = sum(params["weights"][n, i] * outputs[..., i] for i in range(n + 1))
        np.testing.assert_allclose(found[..., n], slow + params["bias"][n], rtol=1e-4, atol=1e-5)
        alone = level_logit(params, outputs[..., : n + 1])
        np.testing.assert_allclose(alone, found[..., n], rtol=1e-4, atol=1e-5)
    gradient = jax.grad(lambda p: jnp.sum(ensemble_logits(p, outputs) ** 2))(params)["weights"]
    assert (np.asarray(gradient)[np.triu_indices(3, k=1)] == 0).all()
    start = ensemble_logits(init_ensemble(3), outputs)
    np.testing.assert_allclose(start[..., 2], outputs.mean(axis=-1), rtol=1e-4, atol=1e-5)


def test_level_losses_share_the_label_and_reach_coarser_levels():
    outputs, labels = normal(0, 40, 3), np.random.default_rng(1).integers(0, 2, 40).astype(float)
    mask = np.random.default_rng(2).random(40) < 0.7
    labels[~mask] = np.nan
    params, weights = init_ensemble(3), np.array([0.5, 1.0, 2.0])

    def loss(outputs):
        return level_losses(ensemble_logits(params, outputs), labels, weights=weights, mask=mask)

    (value, per_level), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(outputs))
    logits = np.asarray(ensemble_logits(params, outputs))
    slow = log_loss(logits[mask], labels[mask, None]).mean(axis=0)
    np.testing.assert_allclose(per_level, slow, rtol=1e-5)
    np.testing.assert_allclose(value, weights @ slow, rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert (np.abs(np.asarray(gradient)[mask]).min(axis=1) > 0).all()
    plain, _ = level_losses(jnp.asarray(logits[mask]), labels[mask])
    np.testing.assert_allclose(plain, slow.sum(), rtol=1e-5)


def test_training_the_ensemble_calibrates_every_level():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=2000) - 1
    labels = (rng.random(2000) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    outputs = np.stack([3 + truth + 2 * rng.normal(size=2000), 5 * truth], axis=1)
    outputs = jnp.asarray(outputs, jnp.float32)
    tx = optax.adam(0.05)

    @jax.jit
    def step(carry, _):
        params, state = carry
        gradient = jax.grad(lambda p: level_losses(ensemble_logits(p, outputs), labels)[0])(params)
        updates, state = tx.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    params = init_ensemble(2)
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=800)
    prediction = jax.nn.sigmoid(ensemble_logits(params, outputs))
    np.testing.assert_allclose(prediction.mean(axis=0) / labels.mean(), 1.0, atol=0.01)
    np.testing.assert_allclose(params["weights"][1, 1], 0.2, atol=0.04)


def test_the_interaction_of_the_items_is_a_target():
    level, item = normal(0, 4, 2, 3), normal(1, 4, 2, 3)
    value, gradients = jax.value_and_grad(interaction_mse, argnums=(0, 1))(level, item)
    np.testing.assert_allclose(value, ((level - item) ** 2).mean(), rtol=1e-5)
    np.testing.assert_allclose(gradients[0], 2 * (level - item) / level.size, rtol=1e-4, atol=1e-7)
    assert (np.asarray(gradients[1]) == 0).all()
    with pytest.raises(ValueError, match=r"of item_vectors, \[4, 3\], found \[4, 2, 3\]"):
        interaction_mse(level, item[:, 0])


def test_bad_ensembles():
    with pytest.raises(ValueError, match="num_levels: expected a number >= 1, found 0"):
        init_ensemble(0)
    with pytest.raises(ValueError, match=r"outputs: expected 2 levels last, found shape \[4, 3\]"):
        ensemble_logits(init_ensemble(2), np.zeros((4, 3)))
