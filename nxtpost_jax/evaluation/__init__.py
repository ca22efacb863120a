"""How good an answer is: ranking among all items, metrics, baselines, the protocol.

May import: arrays, events, towers, training.
"""
