"""Interactions: one reader per publisher's format, content, downloads, drawn data.

May import: harness, nxtpost_jax.
"""
