"""Search: from the nodes down to the items within a budget, on one device or over a mesh.

May import: distance, chunks, top_k, lists, monn.
"""
