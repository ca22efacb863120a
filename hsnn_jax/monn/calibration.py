"""How well logits are calibrated, and how to correct them.

Measures are in numpy and float64, over whole evaluation sets; corrections of logits work on
jax arrays too. Corrections keep the order of the items of a user as long as the scale is > 0.
"""

from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

_ITERATIONS = 100


class Platt(NamedTuple):
    """A corrected logit is scale * logit + bias; 1 / scale is a temperature."""

    scale: float
    bias: float


def normalised_entropy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return mean log loss / entropy of the mean label: 1 for a model that knows only the rate.

    Args:
      logits: float [N].
      labels: [N] in [0, 1].

    Raises:
      ValueError: the shapes differ, or all labels are equal, which leaves nothing to predict.

    Source: He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook".
    """
    logits, labels = _checked(logits, labels)
    rate = labels.mean()
    entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    return float(np.mean(np.logaddexp(0, logits) - labels * logits) / entropy)


def calibration(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return mean prediction / mean label: above 1 the model promises too much.

    See `normalised_entropy` for arguments and errors.
    """
    logits, labels = _checked(logits, labels)
    return float(_sigmoid(logits).mean() / labels.mean())


def fit_platt(logits: ArrayLike, labels: ArrayLike) -> Platt:
    """Fit scale and bias of the logits on held-out pairs by maximum likelihood.

    At the optimum the mean prediction equals the mean label: `calibration` of the corrected
    logits is 1 on these pairs. Logits that are all equal get scale 1. Where the logits separate
    the labels no optimum exists; the last of the bounded number of steps is returned then.

    See `normalised_entropy` for arguments and errors.

    Source: Platt 1999, with the plain labels: its smoothed ones would spoil the mean.
    """
    logits, labels = _checked(logits, labels)
    mean, spread = logits.mean(), logits.std()
    if spread == 0:
        return Platt(1.0, float(np.log(labels.mean() / (1 - labels.mean())) - mean))
    # Standardised, the two coefficients have one scale and Newton's steps are well conditioned.
    x = np.stack([(logits - mean) / spread, np.ones_like(logits)], axis=1)
    w = np.array([0.0, np.log(labels.mean() / (1 - labels.mean()))])
    for _ in range(_ITERATIONS):
        step = _newton_step(x, labels, w)
        w = w + step
        if np.abs(step).max() < 1e-10:
            break
    return Platt(float(w[0] / spread), float(w[1] - w[0] * mean / spread))


def correct(platt: Platt, logits: ArrayLike) -> Any:
    """Return scale * logits + bias."""
    return platt.scale * logits + platt.bias


def undo_downsampling(logits: ArrayLike, kept: float) -> Any:
    """Shift logits of a model that saw only a share of the negatives: logits + log(kept).

    Dropping negatives multiplies the odds by 1 / kept. In probabilities this is
    p / (p + (1 - p) / kept).

    Args:
      logits: float [...].
      kept: share of the negatives that were trained on, in (0, 1].

    Raises:
      ValueError: kept is out of range.

    Source: He et al. 2014, section 6.3.
    """
    if not 0 < kept <= 1:
        raise ValueError(f"kept: expected a share in (0, 1], found {kept}")
    return logits + float(np.log(kept))


def _checked(logits, labels):
    logits, labels = (np.asarray(x, np.float64) for x in (logits, labels))
    if logits.ndim != 1 or logits.shape != labels.shape:
        raise ValueError(
            f"labels: expected shape [N] as the logits', found {list(labels.shape)} and "
            f"{list(logits.shape)}"
        )
    if not 0 < labels.mean() < 1:
        raise ValueError(f"labels: expected some that differ, found a mean of {labels.mean()}")
    return logits, labels


def _newton_step(x, labels, w):
    """Return a Newton step on the log loss, halved until it does not make the loss worse."""

    def loss(w):
        z = x @ w
        return np.mean(np.logaddexp(0, z) - labels * z)

    p = _sigmoid(x @ w)
    gradient = x.T @ (p - labels) / len(labels)
    hessian = (x * (p * (1 - p))[:, None]).T @ x / len(labels) + 1e-12 * np.eye(2)
    step = -np.linalg.solve(hessian, gradient)
    while np.abs(step).max() > 1e-12 and not loss(w + step) <= loss(w):
        step = step / 2
    return step


def _sigmoid(logits):
    return np.exp(-np.logaddexp(0, -logits))
