"""What the index holds: levels of nodes, items assigned to them, lists that items enter and leave.

May import: distance, chunks, top_k.
"""
