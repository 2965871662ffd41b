"""Random numbers by name and index, so that shards, workers and order never change a result."""

import hashlib

import numpy as np
import torch


def seed_of(name: str, index: int = 0, seed: int = 0) -> int:
    """A 63-bit seed for item `index` of the stream `name` under the run's `seed`."""
    digest = hashlib.blake2b(f"{seed}/{name}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_generator(name: str, index: int = 0, seed: int = 0) -> torch.Generator:
    """A CPU torch generator seeded by name and index."""
    return torch.Generator().manual_seed(seed_of(name, index, seed))


def numpy_generator(name: str, index: int = 0, seed: int = 0) -> np.random.Generator:
    """A numpy generator seeded by name and index."""
    return np.random.default_rng(seed_of(name, index, seed))
