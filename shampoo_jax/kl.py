"""`kl_shampoo` and `kl_soap`: factors by Kullback-Leibler divergence (arXiv 2509.03378).

Shampoo's factor of one side is what it would be were the other the identity. The KL rule whitens
the gradient along all other sides first, so that the Kronecker product of the factors is the
nearest to the second moment of the gradient, in scale too: no grafting is needed.
"""

import dataclasses
from typing import Literal

import optax
from jax.typing import ArrayLike

from shampoo_jax.alias import DecayType, shampoo
from shampoo_jax.dimension_numbers import Rule
from shampoo_jax.injection import injectable
from shampoo_jax.options import Blocks, Momentum, Refresh, Root, Sharding


def _root(root: Root, preconditioner: Literal["eigendecomposed", "soap"]) -> Root:
    if root.factors == "gram":
        root = dataclasses.replace(root, factors="kl")
    if root.preconditioner == "root_inverse" and root.solver is None:
        return dataclasses.replace(root, preconditioner=preconditioner, track_eigenvalues=True)
    return root


@injectable
def kl_shampoo(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.95,
    b3: ArrayLike | None = None,
    eps: ArrayLike = 1e-6,
    momentum: ArrayLike | Momentum = 0.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    decay_type: DecayType = "decoupled",
    peak_learning_rate: float | None = None,
    mask: optax.MaskOrFn = None,
    grafting: optax.GradientTransformation | Literal["auto"] | None = "auto",
    dimension_numbers: Rule | None = None,
    blocks: Blocks = Blocks(),
    refresh: Refresh = Refresh(),
    root: Root = Root(),
    sharding: Sharding = Sharding(),
) -> optax.GradientTransformationExtraArgs:
    """Build KL-Shampoo: L_1 <- b2 L_1 + (1 - b2) G L_2^-1 G^T / n, and P = L_1^-1/2 F L_2^-1/2.

    n is the length of the other side, of which L_1 is a mean. The eigenvalues of the factors are
    renewed at every step in the basis of their last refresh. Directions have a root mean square
    near 1, as Adam's, so that a learning rate of Adam is a good first one.

    Until a block has seen a gradient the other factors are the identity, scaled by the gradient:
    multiplying all gradients by a number changes nothing, from the first step on. (The authors'
    software skips the first step and starts all eigenvalues at 0.1.)

    Args:
      learning_rate: number or schedule.
      grafting: as in `shampoo`, "auto" = none but for blocks without factors, which take Adam's.
      root: as in `shampoo`, its default factors "kl" and preconditioner "eigendecomposed" with
        `track_eigenvalues`. With a solver of roots, such as `roots.eigh_root`, stale roots.
      ...: all others are those of `shampoo`.

    Returns:
      An optax transformation.

    References:
      Lin et al., `Understanding and Improving Shampoo and SOAP via Kullback-Leibler Minimization
      <https://arxiv.org/abs/2509.03378>`_, 2025.
    """
    return shampoo(
        learning_rate,
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        momentum=momentum,
        weight_decay=weight_decay,
        decay_type=decay_type,
        peak_learning_rate=peak_learning_rate,
        mask=mask,
        grafting=grafting,
        dimension_numbers=dimension_numbers,
        blocks=blocks,
        refresh=refresh,
        root=_root(root, "eigendecomposed"),
        sharding=sharding,
    )


@injectable
def kl_soap(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    b2: ArrayLike = 0.95,
    b3: ArrayLike | None = None,
    eps: ArrayLike = 1e-8,
    momentum: ArrayLike | Momentum = 0.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    decay_type: DecayType = "decoupled",
    peak_learning_rate: float | None = None,
    mask: optax.MaskOrFn = None,
    grafting: optax.GradientTransformation | Literal["auto"] | None = "auto",
    dimension_numbers: Rule | None = None,
    blocks: Blocks = Blocks(),
    refresh: Refresh = Refresh(),
    root: Root = Root(),
    sharding: Sharding = Sharding(),
) -> optax.GradientTransformationExtraArgs:
    """Build KL-SOAP: `soap` in the eigenbasis of the factors of `kl_shampoo`.

    Beside the second moment in that basis, each factor keeps its own eigenvalues, which its rule
    needs of the others.

    Args:
      learning_rate: number or schedule.
      eps: added to the root of the second moment, and the ridge of the eigenvalues.
      root: as in `shampoo`, its default factors "kl" and preconditioner "soap" with
        `track_eigenvalues`.
      ...: all others are those of `soap`.

    Returns:
      An optax transformation.
    """
    return shampoo(
        learning_rate,
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        momentum=momentum,
        weight_decay=weight_decay,
        decay_type=decay_type,
        peak_learning_rate=peak_learning_rate,
        mask=mask,
        grafting=grafting,
        dimension_numbers=dimension_numbers,
        blocks=blocks,
        refresh=refresh,
        root=_root(root, "soap"),
        sharding=sharding,
    )
