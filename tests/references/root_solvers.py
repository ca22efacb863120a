"""Root and basis solvers of the PyTorch Distributed Shampoo, in numpy: no padding, no tricks.

Written from the description of the reference trajectories, not from `shampoo_jax.roots`.
"""

from fractions import Fraction

import numpy as np


def eigh_root(a, *, exponent, eps):
    """Add eps, decompose, lift the spectrum so that its smallest value is eps."""
    lam, q = np.linalg.eigh(a + eps * np.eye(len(a)))
    if lam.min() < eps:
        lam = lam - lam.min() + eps
    return q @ np.diag(lam**-exponent) @ q.T


def pseudo_inverse_root(a, *, exponent, rank_rtol=None, rank_atol=0.0):
    lam, q = np.linalg.eigh(a)
    rtol = len(a) * np.finfo(a.dtype).eps if rank_rtol is None else rank_rtol
    cut = max(rank_atol, rtol * max(lam.max(), 0))
    powers = [x**-exponent if x > cut else 0.0 for x in lam]
    return q @ np.diag(powers) @ q.T


def newton_root(a, *, exponent, eps, tolerance, max_iterations):
    r, eye = round(1 / exponent), np.eye(len(a))
    a = a + eps * eye
    z = (r + 1) / (2 * np.linalg.norm(a))
    x, m, count = z ** (1 / r) * eye, z * a, 0
    while np.abs(m - eye).max() > tolerance and count < max_iterations:
        t = (1 + 1 / r) * eye - m / r
        x, m, count = x @ t, np.linalg.matrix_power(t, r) @ m, count + 1
    return x


def higher_order_root(
    a, *, exponent, rel_epsilon, abs_epsilon, order, tolerance, max_iterations=100
):
    r, eye = 1 / Fraction(exponent).limit_denominator(1000), np.eye(len(a))
    p, q = r.numerator, r.denominator
    a = a + max(rel_epsilon * np.abs(a).sum(1).max(), abs_epsilon) * eye
    z = 1 / np.trace(a)
    x, m = z ** (1 / p) * eye, z * a
    t = (1 + 1 / p) * eye - m / p
    x, m, count = x @ t, np.linalg.matrix_power(t, p) @ m, 1
    error = np.abs(m - eye).max()
    while error > tolerance and count < max_iterations:
        b, coefficient, t = eye - m, 1.0, eye
        for i in range(1, order):
            coefficient *= (1 + (i - 1) * p) / (i * p)
            t = t + coefficient * np.linalg.matrix_power(b, i)
        x, m, count = x @ t, np.linalg.matrix_power(t, p) @ m, count + 1
        new = np.abs(m - eye).max()
        if new > 1.2 * error or (new == error and new < 1e-3):
            break
        error = new
    return np.linalg.matrix_power(x, q)


def off_diagonal(e):
    """Norm of what is off the diagonal, as a fraction of the whole."""
    return np.linalg.norm(e - np.diag(np.diag(e))) / np.linalg.norm(e)


def eigh_basis(a, previous, *, eps, tolerance=0.0):
    a = a + eps * np.eye(len(a))
    if tolerance > 0 and off_diagonal(previous.T @ a @ previous) <= tolerance:
        return previous
    return np.linalg.eigh(a)[1]


def qr_basis(a, previous, *, eps, max_iterations, tolerance=0.0, first="largest"):
    a = a + eps * np.eye(len(a))
    q, count = previous, 0
    if first == "largest":
        q = q[:, np.argsort(-np.diag(q.T @ a @ q), kind="stable")]
    e = q.T @ a @ q
    while count < max_iterations and off_diagonal(e) > tolerance:
        u, r = np.linalg.qr(e)
        e, q, count = r @ u, q @ u, count + 1
    return q[:, np.argsort(np.diag(e), kind="stable")]
