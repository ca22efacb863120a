"""What single studies measure: an outcome of figures, tables and plots each.

May import: harness, loop, data, tasks, retrieval, models, shampoo_jax, nxtpost_jax, hsnn_jax.
"""
