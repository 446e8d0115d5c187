"""What a user holds: fit a model, load it, evaluate it, ask it for recommendations."""
