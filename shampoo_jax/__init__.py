"""Distributed Shampoo (arXiv 2309.06497) as an optax transform."""
__version__ = "0.1.0"
