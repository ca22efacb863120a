"""How nodes are learned: k-means, EM, LTI, EMA, Sinkhorn, jointly with models, for the beam.

May import: distance, chunks, top_k, lists, monn, descent.
"""
