"""The training loop: mesh rules, the compiled step, checkpoints and resume.

May import: harness, shampoo_jax.
"""
