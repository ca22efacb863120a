"""The front door: `Recommender`, its catalogue, live users, saving.

May import: arrays, events, towers, training, evaluation.
"""
