"""Inverse roots and eigenbases of one padded factor matrix.

Every solver here has the form

    refresh(A, size, previous, *, exponent, eps, relative_eps) -> Refreshed

    A         [d, d]   symmetric positive semi-definite in its leading `size` rows and columns,
                       zero elsewhere; already bias-corrected
    size      int32    true size of the block along this dim (padding never changes a result)
    previous  [d, d]   what the last refresh returned, the identity at first
    exponent  float    inverse exponent e of the dim (static)
    eps       scalar   ridge; a multiple of the largest eigenvalue if `relative_eps`

and returns A^-e (roots) or the eigenvectors of A as columns (bases), with a cheap residual that
the caller holds against a threshold. Options of a solver are bound by `functools.partial`.

| solver | computes | by |
| --- | --- | --- |
| `eigh_root` | A^-e | eigendecomposition |
| `pseudo_inverse_root` | A^-e on the range of A, 0 elsewhere | eigendecomposition |
| `newton_root` | A^-e, e = 1 / integer | products only: coupled Newton iteration |
| `higher_order_root` | A^-e, e a fraction | products only: coupled iteration of higher order |
| `eigh_basis` | eigenvectors | eigendecomposition |
| `qr_basis` | eigenvectors | QR iterations from the previous ones |

A solver works on one matrix, and maps: LAPACK calls that `jax.vmap` would batch run one after the
other on CPU (`decompositions.py`). All can be differentiated, in both modes: roots by the divided
differences of lambda^-e, finite where eigenvalues are equal; bases have no derivative there, and
the part that turns such eigenvectors into one another is taken to be zero.

May import: nothing of shampoo_jax.
"""

from shampoo_jax.roots.eigh import eigh_basis, eigh_root
from shampoo_jax.roots.higher_order import higher_order_root
from shampoo_jax.roots.newton import newton_root
from shampoo_jax.roots.pseudo_inverse import pseudo_inverse_root
from shampoo_jax.roots.qr import qr_basis
from shampoo_jax.roots.refreshed import Refreshed

__all__ = [
    "Refreshed",
    "eigh_basis",
    "eigh_root",
    "higher_order_root",
    "newton_root",
    "pseudo_inverse_root",
    "qr_basis",
]
