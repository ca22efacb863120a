"""Ways to learn the nodes, alone or together with the scorers."""
