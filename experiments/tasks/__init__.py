"""Problems posed on data: next items, pairs, rated events, and how models are trained for them.

May import: harness, loop, data, shampoo_jax, nxtpost_jax, hsnn_jax.
"""
