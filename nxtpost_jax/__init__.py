"""A sequential recommender over external content embeddings, after NxtPost."""

from nxtpost_jax.batches import steps_per_epoch, train_batches
from nxtpost_jax.losses import loss, short_term_loss
from nxtpost_jax.model import NxtPost, NxtPostConfig
from nxtpost_jax.protocol import Protocol
from nxtpost_jax.ranking import Metrics, evaluate, rank_of_targets
from nxtpost_jax.recommender import Recommender
from nxtpost_jax.scoring import encode_catalogue, model_scores, top_items, user_vectors
from nxtpost_jax.sequences import PAD, Sequences, pad_histories
from nxtpost_jax.splits import Queries, Split, by_user, leave_one_out

__all__ = [
    "PAD",
    "Metrics",
    "NxtPost",
    "NxtPostConfig",
    "Protocol",
    "Queries",
    "Recommender",
    "Sequences",
    "Split",
    "by_user",
    "encode_catalogue",
    "evaluate",
    "leave_one_out",
    "loss",
    "model_scores",
    "pad_histories",
    "rank_of_targets",
    "short_term_loss",
    "steps_per_epoch",
    "top_items",
    "train_batches",
    "user_vectors",
]
