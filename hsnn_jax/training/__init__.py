"""From features to parameters: a MoNN is trained on pairs, and the best on held-out ones is kept.

May import: folder, plain_arrays, distance, chunks, lists, monn, descent, nodes, cost_curves.
"""
