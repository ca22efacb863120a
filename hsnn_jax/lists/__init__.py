"""The index: nodes, and lists of items that come and go."""
