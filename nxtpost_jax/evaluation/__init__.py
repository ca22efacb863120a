"""How good an answer is: ranking among all items, metrics, baselines, the protocol.

May import: events, towers, training.
"""
