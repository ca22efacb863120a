"""What only timing needs: parameter sets, floors, whole steps, a small model.

May import: harness, loop, models, shampoo_jax, nxtpost_jax.
"""
