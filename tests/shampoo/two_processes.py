"""A worker of test_checkpoint_processes.py: `two_processes.py ID PORT FOLDER`."""

import sys
from pathlib import Path

import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import shampoo_jax
from tests.shampoo.grouped import grouped

STEPS = 3


def transform():
    options = {"block_size": 4, "precondition_frequency": 2, "momentum": 0.5, "eps": 1e-2}
    return shampoo_jax.shampoo(0.1, **grouped(**options))


def start():
    rng = np.random.default_rng(0)
    return {"w": rng.normal(size=(10, 6)).astype("f"), "b": rng.normal(size=(5,)).astype("f")}


def train(tx, params, state, *, mesh, steps=STEPS):
    """Take steps down |params|^2."""

    @jax.jit
    def step(params, state):
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    with jax.set_mesh(mesh):
        for _ in range(steps):
            params, state = jax.block_until_ready(step(params, state))
    return params, state


def placed(tx, params, mesh):
    """Return parameters that all devices hold, and a fresh state that they share."""
    params = jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, NamedSharding(mesh, P()), lambda i: x[i]),
        params,
    )
    with jax.set_mesh(mesh):
        layout = shampoo_jax.state_sharding(jax.eval_shape(tx.init, params), mesh)
        return params, jax.jit(tx.init, out_shardings=layout)(params)


def main(process: int, port: int, folder: Path) -> None:
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    tx = transform()
    params, state = placed(tx, start(), mesh)
    assert not state[0].pools[0].filtered.is_fully_addressable
    params, state = train(tx, params, state, mesh=mesh)
    saved = shampoo_jax.to_canonical(state, params)
    _, fresh = placed(tx, start(), mesh)
    restored = shampoo_jax.from_canonical(saved, fresh, params=params)
    unbroken, _ = train(tx, params, state, mesh=mesh)
    resumed, _ = train(tx, params, restored, mesh=mesh)
    for name, value in unbroken.items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(resumed[name]))
    if process == 0:
        for name, tree in (("state", saved), ("params", params), ("unbroken", unbroken)):
            leaves = jax.tree_util.tree_leaves_with_path(tree)
            named = {jax.tree_util.keystr(k, simple=True, separator="/"): x for k, x in leaves}
            np.savez(folder / name, **jax.tree.map(np.asarray, named))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
