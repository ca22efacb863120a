"""Faults that are really done to small runs: what survives, what is lost, how soon it is seen."""
