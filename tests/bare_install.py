"""Where jax, optax and numpy are all there is: shampoo_jax trains, the others name what they need.

`python -P tests/bare_install.py FOLDER` tests the packages that lie below FOLDER, in the process's
own environment. `--hide-models` makes flax and orbax of that environment look missing; `--models`
says that they are there, and that all of the three packages can be imported.
"""

import importlib
import pkgutil
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import jax
import jax.numpy as jnp
import optax


class WithoutModels(PathFinder):
    """What finds modules on sys.path, blind to those that the extra `models` brings."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in ("flax", "orbax"):
            return None
        return super().find_spec(name, path, target)


def import_all(package):
    """Import every module of a package; return how many there are."""
    modules = list(pkgutil.walk_packages(package.__path__, package.__name__ + "."))
    for module in modules:
        importlib.import_module(module.name)
    return len(modules)


def train(shampoo_jax):
    """Fit a matrix by least squares; return the loss before and after."""
    x = jax.random.normal(jax.random.key(0), (64, 8))
    y = x @ jax.random.normal(jax.random.key(1), (8, 4))
    tx = shampoo_jax.shampoo(0.1)
    w = jnp.zeros((8, 4))

    def loss(w):
        return jnp.mean((x @ w - y) ** 2)

    @jax.jit
    def step(w, state):
        updates, state = tx.update(jax.grad(loss)(w), state, w)
        return optax.apply_updates(w, updates), state

    before, state = loss(w), tx.init(w)
    for _ in range(30):
        w, state = step(w, state)
    return before, loss(w)


def main(folder, *options):
    if "--hide-models" in options:
        sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutModels
    package = importlib.import_module("shampoo_jax")
    assert Path(package.__file__).is_relative_to(Path(folder).resolve()), package.__file__
    count = import_all(package)
    before, after = train(package)
    assert after < 0.5 * before, (before, after)
    for name in ("nxtpost_jax", "hsnn_jax"):
        if "--models" in options:
            print(f"{import_all(importlib.import_module(name))} modules of {name}")
            continue
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            needs = f"{name} needs flax: pip install 'shampoo-nxtpost-hsnn[models]'"
            assert str(error) == needs, error
        else:
            raise AssertionError(f"{name}: expected to miss flax, found it")
    print(f"{count} modules of shampoo_jax; loss {before:.3f} -> {after:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
