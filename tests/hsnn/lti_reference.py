"""The LTI loss in float64 numpy with plain loops over pairs, written from the equations."""

import numpy as np


def distance(v, c, kind):
    if kind == "cosine":
        return 1.0 - v @ c / (np.linalg.norm(v) * np.linalg.norm(c))
    gap = np.linalg.norm(v - c)
    return gap if kind == "l2" else gap**2


def soft(v, nodes, alpha, kind):
    weights = np.exp([-alpha * distance(v, c, kind) for c in nodes])
    a = weights / weights.sum()
    return sum(a_k * c for a_k, c in zip(a, nodes)), a


def loss(nodes, batch, alpha, ramp, config, history):
    """Return the loss of a batch with `negatives`, ids and no labels."""
    nodes = np.asarray(nodes, np.float64)
    users, items = (np.asarray(batch[name], np.float64) for name in ("users", "positives"))
    kind, scale, size = config.distance, config.logit_scale, len(users)
    cbar, a = zip(*(soft(v, nodes, alpha, kind) for v in items))
    shared = [soft(v, nodes, alpha, kind)[0] for v in np.asarray(batch["negatives"], np.float64)]
    supervised = 0.0
    for j in range(size):
        own = scale * users[j] @ cbar[j]
        negatives = [
            scale * users[j] @ c
            for c, item in zip(shared, batch["negative_ids"])
            if item != batch["positive_ids"][j]
        ]
        if config.loss == "bce":
            supervised += np.log1p(np.exp(-own)) + np.mean(np.log1p(np.exp(negatives)))
            continue
        if config.in_batch:
            negatives += [
                scale * users[j] @ cbar[i]
                for i in range(size)
                if batch["positive_ids"][i] != batch["positive_ids"][j]
            ]
        supervised += np.log(np.exp(own) + np.exp(negatives).sum()) - own
    reconstruction = np.mean([((c - v) ** 2).sum() for c, v in zip(cbar, items)])
    pooled = np.mean([np.mean(a, axis=0), *np.asarray(history, np.float64)], axis=0)
    balance = len(nodes) * (pooled**2).sum()
    return ramp * (
        supervised / size
        + config.reconstruction_weight * reconstruction
        + config.balance_weight * balance
    )
