"""The tower network: features become field embeddings, layers mix them, several vectors leave.

Shape suffixes: B rows, L ids of a list, F fields, E their width, P pairs of fields, K attention
width, H heads, N vectors, D their width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hsnn_jax.monn.config import Features, TowerConfig


class Tower(nn.Module):
    """Map features to several vectors.

    A dense feature becomes `dense_fields` embeddings by a linear map, a sparse one the
    embedding of its id, or the mean over a list of ids.

    Attributes:
      features: names and sizes of the inputs.
      config: the network.
      num_vectors: N.
      width: D.
    """

    features: Features
    config: TowerConfig
    num_vectors: int
    width: int

    @nn.compact
    def __call__(self, inputs: dict[str, jax.Array]) -> jax.Array:
        """Return float [B, N, D].

        Args:
          inputs: dict of the features; others than those of `features` are not read.

        Raises:
          ValueError: a feature is missing or has a wrong shape or type.
        """
        config = self.config
        x_BxFxE = jnp.concatenate(self._dense(inputs) + self._sparse(inputs), axis=1)
        for i in range(config.num_layers):
            x_BxFxE = Layer(config.hidden, config.attention_width, name=f"layer_{i}")(x_BxFxE)
        rows = x_BxFxE.shape[0]
        flat = nn.Dense(self.num_vectors * self.width, name="vectors")(x_BxFxE.reshape(rows, -1))
        return flat.reshape(rows, self.num_vectors, self.width)

    def _dense(self, inputs):
        fields, width = self.config.dense_fields, self.config.field_width
        embedded = []
        for name, size in self.features.dense:
            values = _feature(inputs, name)
            if values.ndim != 2 or values.shape[1] != size:
                raise ValueError(
                    f"{name}: expected a dense feature of shape [B, {size}], found "
                    f"{list(values.shape)}"
                )
            embedding = nn.Dense(fields * width, name=f"dense_{name}")(values)
            embedded.append(embedding.reshape(-1, fields, width))
        return embedded

    def _sparse(self, inputs):
        embedded = []
        for name, size in self.features.sparse:
            ids = _feature(inputs, name)
            if ids.ndim not in (1, 2) or not jnp.issubdtype(ids.dtype, jnp.integer):
                raise ValueError(
                    f"{name}: expected a sparse feature of integers [B] or [B, L], found "
                    f"{ids.dtype} of shape {list(ids.shape)}"
                )
            ids_BxL = ids.reshape(ids.shape[0], -1)
            table = nn.Embed(size, self.config.field_width, name=f"sparse_{name}")
            embedded.append(_mean_of_known(table, ids_BxL, size)[:, None, :])
        return embedded


class Layer(nn.Module):
    """Add an MLP (implicit interactions) and an AFM (explicit ones) to the fields.

    Both streams read the fields through their own gates and their sum is bridged into one
    representation a layer, as in EDCN (Chen et al. 2021, sections 3.3 and 3.4), whose cross
    network the AFM replaces. Residual sum and layer normalisation keep deep stacks trainable.
    A single field has no pairs, and the AFM is then left out.

    Attributes:
      hidden: width of the MLP's hidden layer.
      attention_width: see `AttentionFM`.
    """

    hidden: int
    attention_width: int

    @nn.compact
    def __call__(self, x_BxFxE: jax.Array) -> jax.Array:
        """Map float [B, F, E] to the same shape."""
        B, F, E = x_BxFxE.shape
        flat = self._regulated("mlp", x_BxFxE).reshape(B, F * E)
        hidden = nn.relu(nn.Dense(self.hidden, name="hidden")(flat))
        out_BxFxE = x_BxFxE + nn.Dense(F * E, name="mlp")(hidden).reshape(B, F, E)
        if F > 1:
            pairwise = AttentionFM(F, self.attention_width, name="afm")
            out_BxFxE += pairwise(self._regulated("afm", x_BxFxE))
        return nn.LayerNorm(name="norm")(out_BxFxE)

    def _regulated(self, stream, x_BxFxE):
        """Weigh the fields for one stream; the weights are 1 at the start and sum to F."""
        F = x_BxFxE.shape[1]
        gate_F = self.param(f"{stream}_gate", nn.initializers.zeros, (F,))
        return x_BxFxE * (F * jax.nn.softmax(gate_F))[None, :, None]


class AttentionFM(nn.Module):
    """Pool the products of all pairs of fields by attention.

    Head h is W sum_{i<j} a_ij^h (x_i * x_j), a^h = softmax over pairs of
    p_h . relu(V (x_i * x_j) + b). The original has one head and a vector in place of W; several
    heads give a layer that can be stacked.

    Attributes:
      heads: H.
      attention_width: K.

    Source: Xiao et al. 2017, "Attentional Factorization Machines", Eqs. 4 to 7.
    """

    heads: int
    attention_width: int

    @nn.compact
    def __call__(self, x_BxFxE: jax.Array) -> jax.Array:
        """Map float [B, F, E], F > 1, to [B, H, E]."""
        left, right = np.triu_indices(x_BxFxE.shape[1], k=1)
        products_BxPxE = x_BxFxE[:, left] * x_BxFxE[:, right]
        hidden_BxPxK = nn.relu(nn.Dense(self.attention_width, name="attention")(products_BxPxE))
        logits_BxPxH = nn.Dense(self.heads, use_bias=False, name="heads")(hidden_BxPxK)
        weights_BxPxH = jax.nn.softmax(logits_BxPxH, axis=1)
        pooled_BxHxE = jnp.einsum("bph,bpe->bhe", weights_BxPxH, products_BxPxE)
        return nn.Dense(x_BxFxE.shape[2], use_bias=False, name="projection")(pooled_BxHxE)


def _feature(inputs, name):
    if name not in inputs:
        raise ValueError(f"inputs: expected the feature {name!r}, found {sorted(inputs)}")
    return inputs[name]


def _mean_of_known(table, ids_BxL, size):
    """Average the embeddings of the ids in [0, size): [B, E], zeros where there are none."""
    known_BxL = (ids_BxL >= 0) & (ids_BxL < size)
    vectors_BxLxE = table(jnp.where(known_BxL, ids_BxL, 0))
    total = jnp.sum(jnp.where(known_BxL[..., None], vectors_BxLxE, 0), axis=1)
    return total / jnp.maximum(jnp.sum(known_BxL, axis=1, keepdims=True), 1)
