"""MoNN, the modular scorer, and its losses."""
