"""The front door: `Retriever`, what it holds, and how it is saved.

May import: folder, plain_arrays, distance, chunks, top_k, lists, monn, descent, nodes,
training, cost_curves.
"""
