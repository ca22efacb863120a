"""Problems posed on data: next items, pairs, rated events, images, text; training for them.

May import: harness, loop, data, models, nxtpost_jax, hsnn_jax.
"""
