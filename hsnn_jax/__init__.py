"""A learned hierarchical index over item vectors (arXiv 2408.06653) in JAX."""

from hsnn_jax import scorers
from hsnn_jax.assignment import assign
from hsnn_jax.em import fit_em
from hsnn_jax.fit_index import FitResult, fit_index
from hsnn_jax.frontier import FrontierPoint, frontier, recall
from hsnn_jax.index import Index, Tiles, build_index, live, pack, representative_features, stats
from hsnn_jax.kmeans import kmeans
from hsnn_jax.learners import EM, EMA, LTI, KMeans, LearnedIndex, NaturalHierarchy
from hsnn_jax.levels import build_levels, residual_nodes
from hsnn_jax.lti import LTIConfig, init_params, lti_loss
from hsnn_jax.retriever import Retriever
from hsnn_jax.search import SearchResult, brute_force, search
from hsnn_jax.sharded import shard_index, sharded_search
from hsnn_jax.telemetry import CollapseWarning, collapsed

__all__ = [
    "EM",
    "EMA",
    "LTI",
    "CollapseWarning",
    "FitResult",
    "FrontierPoint",
    "Index",
    "KMeans",
    "LTIConfig",
    "LearnedIndex",
    "NaturalHierarchy",
    "Retriever",
    "SearchResult",
    "Tiles",
    "assign",
    "brute_force",
    "build_index",
    "build_levels",
    "collapsed",
    "fit_em",
    "fit_index",
    "frontier",
    "init_params",
    "kmeans",
    "live",
    "lti_loss",
    "pack",
    "recall",
    "representative_features",
    "residual_nodes",
    "scorers",
    "search",
    "shard_index",
    "sharded_search",
    "stats",
]
