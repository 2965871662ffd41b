"""Trains the mini world's own networks (`make pretrain`)."""
