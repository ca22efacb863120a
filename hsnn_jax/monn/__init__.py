"""MoNN, the scorer: towers, crosses, overarch, calibration, ensemble, and its losses.

May import: distance, chunks.
"""
