"""The front door: `Retriever`, what it holds, and how it is saved.

May import: distance, chunks, top_k, lists, monn, descent, nodes, training, cost_curves.
"""
