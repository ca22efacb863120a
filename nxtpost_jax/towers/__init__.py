"""The model: post tower, user tower, and what they are made of.

May import: arrays, events.
"""
