"""The front door: `Recommender`, its catalogue, live users, saving.

May import: arrays, folders, plain_arrays, events, towers, training, evaluation.
"""
