"""Searchers beside each other, the towers and scorers that they search by, what a search keeps.

May import: harness, loop, tasks, nxtpost_jax, hsnn_jax.
"""
