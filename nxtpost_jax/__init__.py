"""A sequential recommender over external content embeddings, after NxtPost."""

from importlib.util import find_spec

if find_spec("flax") is None:
    raise ModuleNotFoundError(
        "nxtpost_jax needs flax: pip install 'shampoo-nxtpost-hsnn[models]'", name="flax"
    )

from nxtpost_jax.evaluation.dealing import Deal
from nxtpost_jax.evaluation.metrics import (
    Difference,
    Metrics,
    harmonic_mean,
    inverse_propensity,
    paired_difference,
)
from nxtpost_jax.evaluation.protocol import Protocol
from nxtpost_jax.evaluation.ranking import evaluate, last_times, rank_of_targets
from nxtpost_jax.evaluation.scoring import encode_catalogue, model_scores, top_items, user_vectors
from nxtpost_jax.events.batches import batch_shapes, steps_per_epoch, train_batches
from nxtpost_jax.events.content import ContentSet
from nxtpost_jax.events.filters import apply_filter
from nxtpost_jax.events.sequences import PAD, Sequences, pad_histories
from nxtpost_jax.events.splits import (
    Queries,
    Split,
    by_user,
    following,
    global_time,
    hold_out_items,
    leave_last,
    leave_one_out,
    truncate_histories,
    with_targets,
)
from nxtpost_jax.events.texts import TextEncoder
from nxtpost_jax.events.trends import Trends
from nxtpost_jax.serving.answer import Answer
from nxtpost_jax.serving.backfill import fill_from_similar_users, fill_with_popular
from nxtpost_jax.serving.catalogue import Catalogue
from nxtpost_jax.serving.live_users import Event
from nxtpost_jax.serving.mirror import Index
from nxtpost_jax.serving.recommender import Recommender
from nxtpost_jax.towers.model import Encoded, NxtPost, NxtPostConfig
from nxtpost_jax.training.fitting import Diverged
from nxtpost_jax.training.losses import loss, short_term_loss
from nxtpost_jax.training.negatives import log_popularity
from nxtpost_jax.training.objective import Objective
from nxtpost_jax.training.post_to_post import pretrain
from nxtpost_jax.training.task import Task, task

__version__ = "0.1.0"
__all__ = [
    "PAD",
    "Answer",
    "Catalogue",
    "ContentSet",
    "Deal",
    "Difference",
    "Diverged",
    "Encoded",
    "Event",
    "Index",
    "Metrics",
    "NxtPost",
    "NxtPostConfig",
    "Objective",
    "Protocol",
    "Queries",
    "Recommender",
    "Sequences",
    "Split",
    "Task",
    "TextEncoder",
    "Trends",
    "apply_filter",
    "batch_shapes",
    "by_user",
    "encode_catalogue",
    "evaluate",
    "fill_from_similar_users",
    "fill_with_popular",
    "following",
    "global_time",
    "harmonic_mean",
    "hold_out_items",
    "inverse_propensity",
    "last_times",
    "leave_last",
    "leave_one_out",
    "log_popularity",
    "loss",
    "model_scores",
    "pad_histories",
    "paired_difference",
    "pretrain",
    "rank_of_targets",
    "short_term_loss",
    "steps_per_epoch",
    "task",
    "top_items",
    "train_batches",
    "truncate_histories",
    "user_vectors",
    "with_targets",
]
