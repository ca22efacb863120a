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


def soft_levels(v, levels, alpha, kind):
    """Quantise residual by residual; return the partial sums and the assignments, one a level."""
    rest, total, sums, assignments = v, 0.0, [], []
    for nodes in levels:
        cbar, a = soft(rest, nodes, alpha, kind)
        rest, total = rest - cbar, total + cbar
        sums.append(total)
        assignments.append(a)
    return sums, assignments


def loss(nodes, batch, alpha, ramp, config, history):
    """Return the loss of a batch with `negatives`, ids and no labels; levels as tuples."""
    levels, history = ((x if isinstance(x, tuple) else (x,)) for x in (nodes, history))
    levels = [np.asarray(level, np.float64) for level in levels]
    users, items, others = (
        np.asarray(batch[name], np.float64) for name in ("users", "positives", "negatives")
    )
    coded = [soft_levels(v, levels, alpha, config.distance) for v in items]
    shared = [soft_levels(v, levels, alpha, config.distance)[0] for v in others]
    supervised = balance = 0.0
    for level in range(len(levels)):
        q = [sums[level] for sums, _ in coded]
        supervised += supervised_sum(users, q, [s[level] for s in shared], batch, config)
        mean = np.mean([a[level] for _, a in coded], axis=0)
        pooled = np.mean([mean, *np.asarray(history[level], np.float64)], axis=0)
        balance += len(levels[level]) * (pooled**2).sum()
    reconstruction = np.mean([((sums[-1] - v) ** 2).sum() for (sums, _), v in zip(coded, items)])
    return ramp * (
        supervised / len(users) / len(levels)
        + config.reconstruction_weight * reconstruction
        + config.balance_weight * balance / len(levels)
    )


def supervised_sum(users, q, shared, batch, config):
    """Sum the loss of <u, q> over the pairs."""
    total, scale = 0.0, config.logit_scale
    for j, user in enumerate(users):
        own = scale * user @ q[j]
        negatives = [
            scale * user @ c
            for c, item in zip(shared, batch["negative_ids"])
            if item != batch["positive_ids"][j]
        ]
        if config.loss == "bce":
            total += np.log1p(np.exp(-own)) + np.mean(np.log1p(np.exp(negatives)))
            continue
        if config.in_batch:
            negatives += [
                scale * user @ q[i]
                for i in range(len(users))
                if batch["positive_ids"][i] != batch["positive_ids"][j]
            ]
        total += np.log(np.exp(own) + np.exp(negatives).sum()) - own
    return total
