"""Distributed Shampoo in slow, plain float64 numpy: a loop over blocks, no padding, no pools.

Written from the algorithm in words (tests/shampoo/trajectories/README.md), independently of
shampoo_jax, whose argument names it shares. All roots are refreshed at once.
"""

import dataclasses
import itertools
import math

import numpy as np


@dataclasses.dataclass
class Options:
    """A subset of the options of `shampoo_jax.scale_by_shampoo`."""

    learning_rate: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    b3: float | None = None
    eps: float = 1e-3
    relative_eps: bool = False
    graft: str | None = "adam"
    graft_b2: float = 0.9
    graft_eps: float = 1e-8
    precondition_frequency: int = 2
    block_size: int = 4
    merge: bool = True
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    bias_correction: bool = True
    weighted: bool = True
    graft_weighted: bool = True
    trace_scaling: float | None = None


def merged(shape, limit):
    """Drop dims of size 1, then merge from the last to the first while the product fits."""
    dims = [d for d in shape if d > 1] or [1]
    out = [dims.pop()]
    while dims:
        d = dims.pop()
        if out[0] * d <= limit and len(out) + len(dims) + 1 > 1:
            out[0] *= d
        else:
            out.insert(0, d)
    return tuple(out)


def block_slices(shape, size):
    """List the blocks of a merged shape in row-major order."""
    cuts = [[slice(i, min(i + size, d)) for i in range(0, d, size)] for d in shape]
    return list(itertools.product(*cuts))


def inverse_root(a, exponent, eps, relative):
    """A^-exponent with the ridge after the decomposition."""
    lam, q = np.linalg.eigh(a)
    ridge = eps * lam.max() if relative else eps
    lam = lam - min(lam.min(), 0.0) + ridge
    return (q * lam**-exponent) @ q.T


class Block:
    """One block: its factors, roots and moments."""

    def __init__(self, shape, options):
        self.options, self.shape = options, shape
        self.factors = [np.zeros((d, d)) for d in shape]
        self.roots = [np.eye(d) for d in shape]
        self.m = np.zeros(shape)
        self.v = np.zeros(shape)
        self.buffer = np.zeros(shape)

    def step(self, g, w, t):
        """Return the direction before the learning rate."""
        o = self.options
        weight = 1 - o.b2 if o.weighted and o.b2 < 1 else 1.0
        for k in range(len(self.shape)):
            unfolded = np.moveaxis(g, k, 0).reshape(self.shape[k], -1)
            self.factors[k] = o.b2 * self.factors[k] + weight * unfolded @ unfolded.T
        if t % o.precondition_frequency == 0:
            corrects = o.bias_correction and o.weighted and o.b2 < 1
            correction = 1 - o.b2**t if corrects else 1.0
            exponent = 1 / (2 * len(self.shape))
            self.roots = [
                inverse_root(self.scaled(a / correction), exponent, o.eps, o.relative_eps)
                for a in self.factors
            ]
        f = self.filtered(g, t)
        p = f
        for k, root in enumerate(self.roots):
            p = np.moveaxis(np.tensordot(root, p, axes=(1, k)), 0, k)
        if o.graft is not None:
            p_graft = self.graft(f, g, t)
            if t < o.precondition_frequency:
                p = p_graft
            else:
                p = p * np.linalg.norm(p_graft) / (np.linalg.norm(p) + 1e-16)
        p = p + o.weight_decay * w
        if o.momentum:
            self.buffer = o.momentum * self.buffer + p
            p = p + o.momentum * self.buffer if o.nesterov else self.buffer
        return p

    def scaled(self, a):
        """A max(trace(A), eps)^-trace_scaling; a relative eps is no floor."""
        o = self.options
        if o.trace_scaling is None:
            return a
        return a * max(np.trace(a), 0.0 if o.relative_eps else o.eps) ** -o.trace_scaling

    def filtered(self, g, t):
        """The gradient averaged with decay b1; F mixes the old average with b3."""
        o = self.options
        if o.b1 == 0:
            return g
        b3 = o.b1 if o.b3 is None else o.b3
        f = b3 * self.m + (1 - b3) * g
        self.m = o.b1 * self.m + (1 - o.b1) * g
        return f / (1 - b3 * o.b1 ** (t - 1)) if o.bias_correction else f

    def graft(self, f, g, t):
        """The grafting method's direction."""
        o = self.options
        if o.graft == "sgd":
            return f
        decay = 1.0 if o.graft == "adagrad" else o.graft_b2
        weight = 1 - decay if o.graft_weighted and o.graft != "adagrad" else 1.0
        self.v = decay * self.v + weight * g * g
        correction = 1 - decay**t if o.graft == "adam" and o.graft_weighted else 1.0
        return f / (np.sqrt(self.v / correction) + o.graft_eps)


def run(params, grads, options):
    """Return the parameters after every step; params and grads are dicts of float64 arrays."""
    params = {k: np.array(v, np.float64) for k, v in params.items()}
    limit = options.block_size
    shapes = {k: merged(v.shape, limit) if options.merge else v.shape for k, v in params.items()}
    places = {k: block_slices(shape, limit) for k, shape in shapes.items()}
    blocks = {k: [Block(np.empty(shapes[k])[s].shape, options) for s in places[k]] for k in params}
    path = []
    for t, step_grads in enumerate(grads, start=1):
        for k in params:
            w, g = params[k].reshape(shapes[k]), np.asarray(step_grads[k], np.float64)
            g = g.reshape(shapes[k])
            new = w.copy()
            for place, block in zip(places[k], blocks[k]):
                new[place] = w[place] - options.learning_rate * block.step(g[place], w[place], t)
            params[k] = new.reshape(params[k].shape)
        path.append(dict(params))
    return path


def count_blocks(shape, size):
    """Number of blocks of a merged shape."""
    return math.prod(-(-d // size) for d in shape)
