"""From the nodes down to the items: what a search does with an index."""
