"""What is kept of a face; imports no library."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FaceRecord:
    """What became of one face; goes into the manifest as it is."""

    box: tuple[int, int, int, int]
    score: float
    method: str  # the level whose pixels were written, or "kept"
    verdict: str  # "verified", "masked" or "kept"
    similarities: Mapping[str, float]  # of what was written, for each judge
    failures: tuple[str, ...]  # why higher levels were left
    level: int = 1  # how many levels were tried
    found: str = "detector"  # or "sweep": only in a picture that was already anonymized
