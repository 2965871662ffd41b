"""Training of the paper's two stages."""
