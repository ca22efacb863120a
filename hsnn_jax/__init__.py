"""A learned hierarchical index over item vectors (arXiv 2408.06653) in JAX."""

from importlib.util import find_spec

if find_spec("flax") is None:
    raise ModuleNotFoundError(
        "hsnn_jax needs flax: pip install 'shampoo-nxtpost-hsnn[models]'", name="flax"
    )

from hsnn_jax.cost_curves import (
    Found,
    FrontierPoint,
    Measured,
    Searcher,
    at_equal,
    frontier,
    measure,
    paired_difference,
    recall,
    recall_by_user,
)
from hsnn_jax.descent.descend import Level, SearchResult
from hsnn_jax.descent.level_search import brute_force_levels, search_levels
from hsnn_jax.descent.search import brute_force, search
from hsnn_jax.descent.sharded import shard_index, sharded_search, sharded_search_levels
from hsnn_jax.lists.assignment import assign
from hsnn_jax.lists.index import (
    Index,
    Tiles,
    build_index,
    live,
    pack,
    representative_features,
    stats,
    take_rows,
)
from hsnn_jax.lists.levels import (
    build_levels,
    nodes_of_items,
    representative_items,
    representatives_of_items,
    residual_nodes,
)
from hsnn_jax.monn import calibration, distillation, ensemble, i2if, scorers
from hsnn_jax.monn import losses as multi_task
from hsnn_jax.monn.config import Features, MoNNConfig, TowerConfig, preset
from hsnn_jax.monn.network import (
    MoNNScorer,
    encode_items,
    encode_users,
    init_monn,
    item_vectors,
    module_flops,
    user_vectors,
)
from hsnn_jax.nodes.beam_aware import (
    RouteConfig,
    Routes,
    RouteScorer,
    beam_loss,
    fit_routes,
    node_shares,
)
from hsnn_jax.nodes.em import fit_em
from hsnn_jax.nodes.fit import FitResult, fit_index
from hsnn_jax.nodes.joint import JointConfig, encode_levels, init_joint, joint_loss, request_levels
from hsnn_jax.nodes.kmeans import kmeans
from hsnn_jax.nodes.learners import EM, EMA, LTI, KMeans, LearnedIndex, NaturalHierarchy
from hsnn_jax.nodes.lti import LTIConfig, init_params, lti_loss
from hsnn_jax.nodes.telemetry import CollapseWarning, collapsed
from hsnn_jax.serving.retriever import Retriever

__version__ = "0.1.0"
__all__ = [
    "EM",
    "EMA",
    "LTI",
    "CollapseWarning",
    "Features",
    "FitResult",
    "Found",
    "FrontierPoint",
    "Index",
    "JointConfig",
    "KMeans",
    "LTIConfig",
    "LearnedIndex",
    "Level",
    "Measured",
    "MoNNConfig",
    "MoNNScorer",
    "NaturalHierarchy",
    "Retriever",
    "RouteConfig",
    "RouteScorer",
    "Routes",
    "SearchResult",
    "Searcher",
    "Tiles",
    "TowerConfig",
    "assign",
    "at_equal",
    "beam_loss",
    "brute_force",
    "brute_force_levels",
    "build_index",
    "build_levels",
    "calibration",
    "collapsed",
    "distillation",
    "encode_items",
    "encode_levels",
    "encode_users",
    "ensemble",
    "fit_em",
    "fit_index",
    "fit_routes",
    "frontier",
    "i2if",
    "init_joint",
    "init_monn",
    "init_params",
    "item_vectors",
    "joint_loss",
    "kmeans",
    "live",
    "lti_loss",
    "measure",
    "module_flops",
    "multi_task",
    "node_shares",
    "nodes_of_items",
    "pack",
    "paired_difference",
    "preset",
    "recall",
    "recall_by_user",
    "representative_features",
    "representative_items",
    "representatives_of_items",
    "request_levels",
    "residual_nodes",
    "scorers",
    "search",
    "search_levels",
    "shard_index",
    "sharded_search",
    "sharded_search_levels",
    "stats",
    "take_rows",
    "user_vectors",
]
