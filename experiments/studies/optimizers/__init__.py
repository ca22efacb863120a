"""Optimizers at their tuned best beside each other: who is there first, who ends lowest."""
