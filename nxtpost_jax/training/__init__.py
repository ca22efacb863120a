"""What the towers learn from: losses, negatives, objectives, steps.

May import: arrays, folders, events, towers.
"""
