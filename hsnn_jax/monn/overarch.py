"""The OverArch: one logit a task from the vectors of a user, an item and their pair.

Each of the five has three parts. `user` and `item` do whatever work depends on one side alone,
once a request and once an item; the call does what is left for a pair, of items [B, M, ...] or of
items [1, M, ...] that all users share. All of them end in a bias, without which no model is
calibrated.

Shape suffixes: B users, M items of each, N vectors, D their width, T tasks, H hidden width,
P products of components, K tokens.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.monn.config import MoNNConfig
from hsnn_jax.monn.scorers import component_products, init_mixture, mixture, unit


class Dot(nn.Module):
    """A weighted sum of the products of all pairs of vectors, linear in the interaction's.

    The weights act on the user's side, so that a pair costs one inner product of width N D a
    task: any index for inner products can serve it. They begin at 1 beside a constant scale, with
    which logits vary alike at first whatever the number of vectors; weights that held the scale
    would be moved by a multiple of themselves in one step of Adam.
    """

    config: MoNNConfig

    def setup(self) -> None:
        c = self.config
        self.scale = 1 / math.sqrt(c.num_user * c.num_item * c.width)
        shape = (len(c.tasks), c.num_user, c.num_item)
        self.weights = self.param("weights", nn.initializers.ones, shape)
        self.interaction = nn.Dense(len(c.tasks))
        self.bias = self.param("bias", nn.initializers.zeros, (len(c.tasks),))

    def user(self, v_BxNxD: jax.Array) -> dict[str, jax.Array]:
        return {"vectors": jnp.einsum("bud,tui->btid", v_BxNxD, self.scale * self.weights)}

    def item(self, v_BxNxD: jax.Array) -> dict[str, jax.Array]:
        return {"vectors": v_BxNxD}

    def __call__(self, users: Any, items: Any, pair_BxMxNxD: jax.Array | None) -> jax.Array:
        logits = jnp.einsum("btid,bmid->bmt", users["vectors"], items["vectors"])
        if pair_BxMxNxD is not None:
            logits += self.interaction(_flat(pair_BxMxNxD))
        return logits + self.bias[None, None, :]


class Mixture(nn.Module):
    """`scorers.mixture` of the cosines of the towers' vectors, a gate and a temperature a task.

    The vectors of the interaction tower join those of the item, as components that differ from
    user to user.

    Source: Zhai et al. 2023, "Revisiting Neural Retrieval on Accelerators", section 3.
    """

    config: MoNNConfig
    temperature: float = 0.05  # to begin with; that of the source

    def setup(self) -> None:
        c = self.config
        pairs = c.num_user * (c.num_item + c.num_interaction)
        self.user_gate = nn.Dense(len(c.tasks) * pairs, use_bias=False)
        self.item_gate = nn.Dense(len(c.tasks) * pairs, use_bias=False)
        self.mixtures = [self.param(f"mixture_{t}", self._draw, pairs) for t in c.tasks]

    def _draw(self, key, pairs):
        hidden, temperature = self.config.overarch_hidden, self.temperature
        return init_mixture(jax.random.split(key), pairs, hidden=hidden, temperature=temperature)

    def user(self, v_BxNxD: jax.Array) -> dict[str, Any]:
        return self._side(v_BxNxD, jax.nn.silu(self.user_gate(_flat(v_BxNxD))))

    def item(self, v_BxNxD: jax.Array) -> dict[str, Any]:
        return self._side(v_BxNxD, self.item_gate(_flat(v_BxNxD)))

    def _side(self, v_BxNxD, gate):
        gate_BxTxP = gate.reshape(gate.shape[0], len(self.config.tasks), -1)
        return {"vectors": unit(v_BxNxD), "gate": gate_BxTxP}

    def __call__(self, users: Any, items: Any, pair_BxMxNxD: jax.Array | None) -> jax.Array:
        components = [items["vectors"]]
        if pair_BxMxNxD is not None:
            components.append(unit(pair_BxMxNxD))
        products = [component_products(users["vectors"], x) for x in components]
        cosines_BxMxPxQ = jnp.concatenate(products, axis=3)
        logits = [
            mixture(
                params,
                cosines_BxMxPxQ,
                user_gate=users["gate"][:, t],
                item_gate=items["gate"][:, :, t],
            )
            for t, params in enumerate(self.mixtures)
        ]
        return jnp.stack(logits, axis=-1)


class MoL(Mixture):
    """A mixture of logits, and a bias.

    It gives each vector a meaning of its own, such as one of a user's interests; where one inner
    product says most of what there is to say, `DotMoL` learns faster.
    """

    def setup(self) -> None:
        super().setup()
        self.bias = self.param("bias", nn.initializers.zeros, (len(self.config.tasks),))

    def __call__(self, users: Any, items: Any, pair_BxMxNxD: jax.Array | None) -> jax.Array:
        return super().__call__(users, items, pair_BxMxNxD) + self.bias[None, None, :]


class DotMoL(Mixture):
    """A mixture of logits added to `Dot`, ours.

    A mixture of many cosines learns slowly, and cosines cannot carry how popular an item is; the
    sum starts as fast as a two tower. Several interests of a user it does not tell apart, see
    `MoL`. The temperature begins higher than that of a mixture alone: a step turns cosines, and
    what it turns them by is divided by the temperature.
    """

    temperature: float = 0.5

    def setup(self) -> None:
        super().setup()
        self.dot = Dot(self.config)

    def user(self, v_BxNxD: jax.Array) -> dict[str, Any]:
        return super().user(v_BxNxD) | {"dot": self.dot.user(v_BxNxD)}

    def item(self, v_BxNxD: jax.Array) -> dict[str, Any]:
        return super().item(v_BxNxD) | {"dot": self.dot.item(v_BxNxD)}

    def __call__(self, users: Any, items: Any, pair_BxMxNxD: jax.Array | None) -> jax.Array:
        mixed = super().__call__(users, items, pair_BxMxNxD)
        return mixed + self.dot(users["dot"], items["dot"], pair_BxMxNxD)


class MLP(nn.Module):
    """Two hidden layers over all vectors side by side.

    The first layer is a sum of a user's, an item's and a pair's linear map: only the last is
    computed for every pair.
    """

    config: MoNNConfig

    def setup(self) -> None:
        width = self.config.overarch_hidden
        self.user_map, self.item_map = nn.Dense(width), nn.Dense(width, use_bias=False)
        self.pair_map = nn.Dense(width, use_bias=False)
        self.hidden, self.logits = nn.Dense(width), nn.Dense(len(self.config.tasks))

    def user(self, v_BxNxD: jax.Array) -> dict[str, jax.Array]:
        return {"hidden": self.user_map(_flat(v_BxNxD))}

    def item(self, v_BxNxD: jax.Array) -> dict[str, jax.Array]:
        return {"hidden": self.item_map(_flat(v_BxNxD))}

    def __call__(self, users: Any, items: Any, pair_BxMxNxD: jax.Array | None) -> jax.Array:
        x_BxMxH = users["hidden"][:, None, :] + items["hidden"]
        if pair_BxMxNxD is not None:
            x_BxMxH += self.pair_map(_flat(pair_BxMxNxD))
        return self.logits(nn.relu(self.hidden(nn.relu(x_BxMxH))))


class DHEN(nn.Module):
    """Stacked ensembles of two interactions over tokens: inner products, and linear maps.

    A side's vectors are combined to `overarch_tokens` tokens once. A layer turns K tokens into
    K: half of them a linear map of the inner products of all pairs of tokens, the rest
    combinations of the tokens; then a residual sum and a layer normalisation.

    Source: Zhang et al. 2022, "DHEN: A Deep and Hierarchical Ensemble Network", section 3, with
    these two of its interaction modules.
    """

    config: MoNNConfig

    def setup(self) -> None:
        c = self.config
        draw = nn.initializers.lecun_normal()
        self.user_tokens = self.param("user_tokens", draw, (c.num_user, c.overarch_tokens))
        self.item_tokens = self.param("item_tokens", draw, (c.num_item, c.overarch_tokens))
        num_tokens = 2 * c.overarch_tokens + c.num_interaction
        self.layers = [DHENLayer(num_tokens) for _ in range(c.overarch_layers)]
        self.logits = nn.Dense(len(c.tasks))

    def user(self, v_BxNxD: jax.Array) -> dict[str, jax.Array]:
        return {"tokens": jnp.einsum("bnd,nk->bkd", v_BxNxD, self.user_tokens)}

    def item(self, v_BxNxD: jax.Array) -> dict[str, jax.Array]:
        return {"tokens": jnp.einsum("bnd,nk->bkd", v_BxNxD, self.item_tokens)}

    def __call__(self, users: Any, items: Any, pair_BxMxNxD: jax.Array | None) -> jax.Array:
        of_user, of_item = users["tokens"][:, None], items["tokens"]
        shape = (of_user.shape[0], *of_item.shape[1:])
        tokens = [jnp.broadcast_to(of_user, shape), jnp.broadcast_to(of_item, shape)]
        if pair_BxMxNxD is not None:
            tokens.append(pair_BxMxNxD)
        x_BxMxKxD = jnp.concatenate(tokens, axis=2)
        for layer in self.layers:
            x_BxMxKxD = layer(x_BxMxKxD)
        return self.logits(_flat(x_BxMxKxD))


class DHENLayer(nn.Module):
    """One layer of `DHEN`."""

    num_tokens: int

    @nn.compact
    def __call__(self, x_BxMxKxD: jax.Array) -> jax.Array:
        B, M, K, D = x_BxMxKxD.shape
        left, right = np.triu_indices(K)
        products = jnp.einsum("bmkd,bmld->bmkl", x_BxMxKxD, x_BxMxKxD) / math.sqrt(D)
        explicit = nn.Dense(K // 2 * D, name="products")(products[:, :, left, right])
        weights = self.param("linear", nn.initializers.lecun_normal(), (K, K - K // 2))
        linear = jnp.einsum("bmkd,kl->bmld", x_BxMxKxD, weights)
        both = jnp.concatenate([explicit.reshape(B, M, K // 2, D), linear], axis=2)
        return nn.LayerNorm(name="norm")(x_BxMxKxD + both)


def _flat(vectors):
    """Join the last two axes."""
    return vectors.reshape(*vectors.shape[:-2], -1)


OVERARCHES = {"dot": Dot, "mol": MoL, "dot_mol": DotMoL, "mlp": MLP, "dhen": DHEN}
