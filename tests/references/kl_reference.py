"""KL-Shampoo and KL-SOAP of one block in plain float64 numpy.

Written from the formulas of arXiv 2509.03378 (sections on the estimation rule and on outdated
bases), for a gradient of any order, with the start that `shampoo_jax.kl_shampoo` documents.
"""

import numpy as np


def _times(x, matrix, axis):
    return np.moveaxis(np.tensordot(matrix, x, axes=(1, axis)), 0, axis)


def _unfolded(x, axis):
    return np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)


class Block:
    """Factors S_k, bases Q_k and eigenvalues lam_k of one block, and its moments."""

    def __init__(self, shape, *, b1, b2, eps, frequency, soap=False):
        self.b1, self.b2, self.eps, self.frequency, self.soap = b1, b2, eps, frequency, soap
        self.s = [np.zeros((d, d)) for d in shape]
        self.q = [np.eye(d) for d in shape]
        self.lam = None
        self.m, self.v, self.t = np.zeros(shape), np.zeros(shape), 0

    def inverse_roots(self, g):
        """S_k^-1/2, at first the identity whose product has the scale of the gradient."""
        if self.lam is None:
            size = np.mean(g * g) ** (-0.5 / g.ndim)
            return [size * np.eye(d) for d in g.shape]
        return [(q * lam**-0.5) @ q.T for q, lam in zip(self.q, self.lam)]

    def step(self, g):
        """Return the direction."""
        self.t += 1
        roots, b2 = self.inverse_roots(g), self.b2
        for k, d in enumerate(g.shape):
            x = g
            for j, root in enumerate(roots):
                x = x if j == k else _times(x, root, j)
            rows = _unfolded(x, k)
            self.s[k] = b2 * self.s[k] + (1 - b2) * rows @ rows.T / (g.size / d)
        corrected = [s / (1 - b2**self.t) for s in self.s]
        if self.t % self.frequency == 0:
            self.q = [np.linalg.eigh(s)[1] for s in corrected]
        self.lam = []
        for s, q in zip(corrected, self.q):
            lam = np.diag(q.T @ s @ q)
            self.lam.append(lam - min(lam.min(), 0) + self.eps * lam.max())
        self.m = self.b1 * self.m + (1 - self.b1) * g
        f = self.m / (1 - self.b1**self.t)
        return self.adam(g, f) if self.soap else self.whitened(f)

    def whitened(self, f):
        for k, (q, lam) in enumerate(zip(self.q, self.lam)):
            f = _times(f, (q * lam**-0.5) @ q.T, k)
        return f

    def adam(self, g, f):
        for k, q in enumerate(self.q):
            g, f = _times(g, q.T, k), _times(f, q.T, k)
        self.v = self.b2 * self.v + (1 - self.b2) * g * g
        f = f / (np.sqrt(self.v / (1 - self.b2**self.t)) + self.eps)
        for k, q in enumerate(self.q):
            f = _times(f, q, k)
        return f
