"""Problems posed on data: next items, pairs, rated events, images, text; training for them.

May import: harness, loop, data, models, shampoo_jax, nxtpost_jax, hsnn_jax.
"""
