"""The mini world: rendered people at 64 pixels, and small networks trained on them, all in git."""
