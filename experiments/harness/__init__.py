"""What all commands share: options, run folders, reports, and `Study`, which joins them.

May import: shampoo_jax, nxtpost_jax.
"""
