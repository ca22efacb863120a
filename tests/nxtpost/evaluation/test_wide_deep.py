import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nxtpost_jax.evaluation.batch_metrics import batch_recall
from nxtpost_jax.evaluation.wide_deep import WideDeep, draw_examples, hash_pairs, loss, score_matrix
from nxtpost_jax.events.batches import train_batches
from nxtpost_jax.events.sequences import PAD, Sequences

N, L = 12, 5


def rows(*histories):
    return np.array([list(h) + [PAD] * (L - len(h)) for h in histories], np.int32)


def set_up(model, content):
    batch = rows([1, 2], [3])
    params = model.init(jax.random.key(0), batch, jnp.array([0, 1]), content)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)


@pytest.mark.parametrize("with_content", [True, False])
def test_scores_equal_a_loop_over_pairs(with_content):
    content = np.random.default_rng(1).normal(size=(N, 3)).astype(np.float32)
    content = content if with_content else None
    model = WideDeep(N, num_buckets=7, hidden=(6, 4), width=3)
    params = set_up(model, content)
    histories, labels = rows([4, 5, 4], [7], [2, 11, 3, 0, 9]), np.array([5, 2, 5], np.int32)
    found = score_matrix(model, params, items_BxL=histories, labels_B=labels, content=content)
    p = jax.tree.map(np.asarray, params)
    table = content if with_content else p["vectors"]
    for b, history in enumerate(histories.tolist()):
        real = [i for i in history if i != PAD]
        for j, label in enumerate(labels.tolist()):
            bucket = int(hash_pairs(real[-1], label, 7))
            x = table[real].mean(axis=0) @ p["history"]["kernel"] + p["history"]["bias"]
            x = np.maximum(x + table[label] @ p["candidate"]["kernel"], 0)
            x = np.maximum(x @ p["hidden_0"]["kernel"] + p["hidden_0"]["bias"], 0)
            deep = (x @ p["out"]["kernel"] + p["out"]["bias"]).item()
            expected = p["pairs"][bucket] + p["bias"][label] + deep
            np.testing.assert_allclose(found[b, j], expected, rtol=1e-4, atol=1e-5)


def test_several_channels_are_refused():
    with pytest.raises(ValueError, match="content: expected one matrix or None"):
        WideDeep(N).init(jax.random.key(0), rows([1]), jnp.array([0]), {"text": np.ones((N, 2))})


def test_pairs_fill_the_buckets_evenly():
    ids = jnp.arange(-1, 99)
    buckets = np.asarray(hash_pairs(ids[:, None], ids[None, :], 50))
    counts = np.bincount(buckets.ravel(), minlength=50)
    assert len(counts) == 50
    # 200 a bucket: a random hash would differ by 14 from that.
    assert np.abs(counts - 200).std() < 30 and np.abs(counts - 200).max() < 80
    assert buckets[3, 8] != buckets[8, 3] or buckets[4, 9] != buckets[9, 4]


def test_examples_end_before_their_labels():
    sequences = Sequences(np.arange(N), [0, 2, 8, 12])
    batch = next(train_batches(sequences, max_len=L, batch_size=3, seed=0, epoch=0))
    seen = set()
    for seed in range(20):
        items, labels = map(np.asarray, draw_examples(batch, jax.random.key(seed)))
        for b, row in enumerate(items.tolist()):
            real = [i for i in row if i != PAD]
            assert real == batch["items"][b, : len(real)].tolist() and real
            assert labels[b] == real[-1] + 1
        seen |= set(labels.tolist())
    assert len(seen) > 5


def test_training_learns_who_follows_whom():
    """Walks around a circle: the wide part alone can know the next item."""
    starts = np.random.default_rng(0).integers(0, N, 64)
    items = (starts[:, None] + np.arange(6)[None, :]) % N
    sequences = Sequences(items.ravel(), np.arange(65) * 6)
    model, tx = WideDeep(N, num_buckets=1024, hidden=(8,), width=4), optax.adam(0.03)
    shapes = {"max_len": L, "batch_size": 32, "seed": 0}
    first = next(train_batches(sequences, epoch=0, **shapes))
    params = model.init(jax.random.key(0), first["items"], first["labels"][:, 0])["params"]
    state = tx.init(params)

    @jax.jit
    def step(params, state, batch, key):
        grads, _ = jax.grad(loss, argnums=1, has_aux=True)(model, params, batch, None, key)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state

    def recall(params):
        scores = score_matrix(
            model, params, items_BxL=first["items"], labels_B=first["labels"][:, -1]
        )
        return batch_recall(scores, first["labels"][:, -1], k=1)

    before = recall(params)
    for epoch in range(40):
        for i, batch in enumerate(train_batches(sequences, epoch=epoch, **shapes)):
            key = jax.random.fold_in(jax.random.key(epoch), i)
            params, state = step(params, state, batch, key)
    assert before < 0.4 and recall(params) > 0.9
