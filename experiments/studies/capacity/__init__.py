"""What a step or a search takes per device: compiled where that is affordable, else computed."""
