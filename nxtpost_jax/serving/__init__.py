"""The front door: `Recommender`, its catalogue, live users, saving.

May import: events, towers, training, evaluation.
"""
