"""A learned hierarchical index over item vectors (arXiv 2408.06653) in JAX.

What a user needs is here; all else is reached by its module, such as
`hsnn_jax.descent.search.search`.
"""

from importlib.util import find_spec

if find_spec("flax") is None:
    raise ModuleNotFoundError(
        "hsnn_jax needs flax: pip install 'shampoo-nxtpost-hsnn[models]'", name="flax"
    )

from hsnn_jax.cost_curves import recall
from hsnn_jax.lists.drift import SkewWarning
from hsnn_jax.monn.config import Features, MoNNConfig, TowerConfig, preset
from hsnn_jax.monn.model import Towers
from hsnn_jax.monn.network import MoNNScorer, init_monn
from hsnn_jax.nodes.beam_aware import RouteConfig
from hsnn_jax.nodes.config import LTIConfig
from hsnn_jax.nodes.joint import JointConfig, init_joint, joint_loss
from hsnn_jax.nodes.learners import EM, EMA, LTI, KMeans, NaturalHierarchy
from hsnn_jax.nodes.telemetry import CollapseWarning
from hsnn_jax.serving.pool import Pool
from hsnn_jax.serving.retriever import Answer, Retriever
from hsnn_jax.training.loop import Training

__version__ = "0.1.0"
__all__ = [
    "EM",
    "EMA",
    "LTI",
    "Answer",
    "CollapseWarning",
    "Features",
    "JointConfig",
    "KMeans",
    "LTIConfig",
    "MoNNConfig",
    "MoNNScorer",
    "NaturalHierarchy",
    "Pool",
    "Retriever",
    "RouteConfig",
    "SkewWarning",
    "TowerConfig",
    "Towers",
    "Training",
    "init_joint",
    "init_monn",
    "joint_loss",
    "preset",
    "recall",
]
