"""What only timing needs: parameter sets, floors, whole steps, small models.

May import: harness, loop, shampoo_jax, nxtpost_jax.
"""
