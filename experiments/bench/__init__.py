"""What only timing needs: parameter sets, floors, whole steps, a small model, indexes to time.

May import: harness, loop, models, retrieval, shampoo_jax, nxtpost_jax, hsnn_jax.
"""
