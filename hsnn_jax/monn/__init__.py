"""monn."""
