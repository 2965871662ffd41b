"""The sampled (image, w) pairs: drawing, storing and checking them."""
