"""Properties of both towers under every configuration."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.towers.model import NxtPostConfig
from tests.nxtpost.configurations import (
    CONFIGS,
    RICH,
    L,
    N,
    drawn_content,
    drawn_histories,
    set_up,
)

SMALL = dataclasses.replace(RICH, id_dropout=0.5)
PER_EVENT = ("items", "times", "actions", "surfaces")


def encode(model, params, histories, content):
    """States and pooled vectors, as `encode_batch` gives them outside training."""
    encoded = _encode(model, params, histories, content)
    return np.asarray(encoded.states_BxLxD), np.asarray(encoded.pooled_BxD)


@functools.partial(jax.jit, static_argnums=0)
def _encode(model, params, histories, content):
    return model.apply(
        {"params": params},
        histories,
        [],
        content=content,
        deterministic=True,
        method="encode_batch",
    )


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_state_depends_on_its_event_and_on_no_later_one(config):
    """The gradient's view of the same is in test_losses."""
    histories, other, content = drawn_histories([L]), drawn_histories([L], seed=9), drawn_content()
    other["items"] = (histories["items"] + 1) % N
    model, params = set_up(config, histories, content)
    states, _ = encode(model, params, histories, content)
    for t in range(L):
        mixed = histories | {
            name: np.concatenate([histories[name][:, :t], other[name][:, t:]], axis=1)
            for name in PER_EVENT
        }
        changed = np.abs(encode(model, params, mixed, content)[0] - states).max(axis=(0, 2))
        np.testing.assert_array_equal(changed[:t], 0)
        assert changed[t] > 1e-4


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_padding_width_and_the_other_rows_change_nothing(config):
    lengths, width = [3, 4, 0], 4
    histories, content = drawn_histories(lengths), drawn_content()
    model, params = set_up(config, histories, content)
    padding = histories["items"] == PAD
    garbage = histories | {
        "times": np.where(padding, 77, histories["times"]).astype(np.float32),
        "actions": np.where(padding, 2, histories["actions"]),
        "surfaces": np.where(padding, 1, histories["surfaces"]),
    }
    states, pooled = encode(model, params, garbage, content)
    backwards = {
        name: value[::-1, :width] if name in PER_EVENT else value[::-1]
        for name, value in histories.items()
    }
    narrow_states, narrow_pooled = encode(model, params, backwards, content)
    np.testing.assert_allclose(pooled, narrow_pooled[::-1], atol=1e-6)
    for row, length in enumerate(lengths):
        expected = narrow_states[::-1][row, :length]
        np.testing.assert_allclose(states[row, :length], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["gated mean", "gated last", "gated attention"])
def test_pooling_equals_a_loop_over_events(name):
    lengths = [3, L, 1]
    histories, content = drawn_histories(lengths), drawn_content()
    model, params = set_up(CONFIGS[name], histories, content)
    states, pooled = encode(model, params, histories, content)
    for row, length in enumerate(lengths):
        valid = states[row, :length].astype(np.float64)
        weights = {
            "gated mean": lambda x: np.ones(len(x)),
            "gated last": lambda x: np.arange(len(x)) == len(x) - 1,
            "gated attention": lambda x: np.exp(x @ np.asarray(params["pooling"]["query"])),
        }[name](valid)
        expected = weights @ valid
        np.testing.assert_allclose(pooled[row], expected / np.linalg.norm(expected), atol=1e-5)


def test_a_batch_is_encoded_as_its_parts_are():
    histories, content = drawn_histories([L, 2]), drawn_content()
    model, params = set_up(SMALL, histories, content)
    ids = [np.arange(6).reshape(2, 3), np.array([7])]
    apply = jax.jit(model.apply, static_argnames=("method", "deterministic"))
    variables = {"params": params}
    encoded = apply(
        variables, histories, ids, content=content, deterministic=True, method="encode_batch"
    )
    states = apply(variables, histories, content)
    items = apply(variables, content, jnp.arange(N), method="encode_items")
    pooled = apply(variables, states, histories["items"], method="pool")
    np.testing.assert_allclose(encoded.states_BxLxD, states, atol=1e-6)
    np.testing.assert_allclose(encoded.pooled_BxD, pooled, atol=1e-6)
    for vectors, rows in zip(encoded.items, ids):
        np.testing.assert_allclose(vectors, items[rows], atol=1e-6)


def test_inner_products_leave_lengths_free():
    histories, content = drawn_histories([L, 2]), drawn_content()
    config = dataclasses.replace(SMALL, similarity="dot")
    model, params = set_up(config, histories, content)
    states, pooled = encode(model, params, histories, content)
    apply = jax.jit(functools.partial(model.apply, method="encode_items"))
    items = apply({"params": params}, content, jnp.arange(N))
    for vectors in (states, pooled, items):
        assert np.ptp(np.linalg.norm(vectors, axis=-1)) > 1e-2
    np.testing.assert_allclose(pooled[1], states[1, :2].mean(axis=0), atol=1e-5)


def test_users_without_events_differ_by_their_static_features():
    histories, content = drawn_histories([0, 0, 0, 0]), drawn_content()
    histories["static"] = np.array([[1, 2], [3, 2], [-1, -1], [-1, 99]], np.int32)
    model, params = set_up(SMALL, histories, content)
    _, pooled = encode(model, params, histories, content)
    assert np.isfinite(pooled).all()
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1, atol=1e-5)
    assert np.abs(pooled[0] - pooled[1]).max() > 1e-2
    assert np.abs(pooled[0] - pooled[2]).max() > 1e-2
    np.testing.assert_array_equal(pooled[2], pooled[3])  # both unknown

    ids = {"static": histories["static"]}

    def first_number(params):
        return _encode(model, params, histories | ids, content).pooled_BxD[0, 0]

    gradient = jax.jit(jax.grad(first_number))(params)
    moved = np.abs(gradient["user_tower"]["static_0"]["embedding"]).max(axis=1) > 0
    np.testing.assert_array_equal(moved, [False, True, False, False])


def test_what_is_known_of_events_and_users_is_read():
    histories, content = drawn_histories([L]), drawn_content()
    model, params = set_up(SMALL, histories, content)
    base, _ = encode(model, params, histories, content)
    for name, value in (
        ("times", histories["times"] + 1e5),
        ("actions", 2 - histories["actions"]),
        ("surfaces", 1 - histories["surfaces"]),
        ("static", histories["static"] + 1),
    ):
        other, _ = encode(model, params, histories | {name: value}, content)
        assert np.abs(other - base).max() > 1e-3, name
        missing = {key: rows for key, rows in histories.items() if key != name}
        with pytest.raises(ValueError, match=f"histories: expected '{name}', which"):
            encode(model, params, missing, content)
    narrow = histories | {"static": histories["static"][:, :1]}
    with pytest.raises(ValueError, match="expected 'static' of 2 columns, found 1"):
        encode(model, params, narrow, content)


def test_an_action_of_weight_zero_hides_its_post_and_no_more():
    histories, content = drawn_histories([L]), drawn_content()
    histories["actions"][:] = 0
    config = dataclasses.replace(SMALL, num_actions=0, action_weights=(0.0, 2.0))
    model, params = set_up(config, histories, content)
    base, _ = encode(model, params, histories, content)
    other_items = histories | {"items": (histories["items"] + 1) % N}
    np.testing.assert_array_equal(encode(model, params, other_items, content)[0], base)
    other_action = histories | {"actions": np.ones_like(histories["actions"])}
    assert np.abs(encode(model, params, other_action, content)[0] - base).max() > 1e-3


def test_concatenated_time_is_projected():
    histories = drawn_histories([L])
    _, added = set_up(SMALL, histories)
    _, joined = set_up(dataclasses.replace(SMALL, time_concat=True), histories)
    assert "time_projection" not in added["user_tower"]
    kernel = joined["user_tower"]["time_projection"]["kernel"]
    assert kernel.shape == (2 * SMALL.d_model, SMALL.d_model)


@pytest.mark.parametrize("preset", ["paper", "sasrec", "default"])
def test_presets_take_changes_and_survive_json(preset):
    config = getattr(NxtPostConfig, preset)(d_model=8, static_sizes=(3,), block="gated")
    again = NxtPostConfig(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config and hash(again) == hash(config)
    assert (config.d_model, config.static_sizes, config.block) == (8, (3,), "gated")


def test_sasrec_is_as_wide_inside_as_outside():
    assert NxtPostConfig.sasrec(d_model=48).d_ff == 48
    assert NxtPostConfig.sasrec(d_ff=7).d_ff == 7
