"""The front door: `Recommender`, its catalogue, live users, saving.

May import: arrays, folders, events, towers, training, evaluation.
"""
