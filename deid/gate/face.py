"""One face of a picture and its fallback level: what was tried, and what is known of it by now."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from deid.faces.alignment import Points
from deid.gate.fallback import DESTRUCTIVE, OPAQUE, base, refinement
from deid.gate.geometry import Geometry, replaced_region, whole_region
from deid.gate.judges import Embeddings, Verifier
from deid.gate.record import FaceRecord
from deid.imaging.align import Square, crop_face
from deid.imaging.paste import Region
from deid.pixels import Pixels
from deid.seeds import seed_of

KEPT = "kept"
"""In place of a level, of a face that a person chose to leave as it is."""


@dataclass
class Face:
    """`levels`: the present one, then the rest of its fallback chain."""

    geometry: Geometry
    score: float
    seed: int
    levels: tuple[str, ...]
    found: str = "detector"
    similarities: Mapping[str, float] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    tries: int = 1
    _crop: Pixels | None = None
    _original: Embeddings | None = None
    _output: tuple[Pixels, Embeddings] | None = None
    _region: tuple[str, tuple[int, ...], Region] | None = None
    _made: tuple[str, NDArray[np.uint8], NDArray[np.uint8]] | None = None

    @property
    def level(self) -> str:
        return self.levels[0]

    @property
    def opaque(self) -> bool:
        return self.level == OPAQUE

    @property
    def kept(self) -> bool:
        """Whether it is to stay as it is."""
        return self.level == KEPT

    @property
    def is_drawn(self) -> bool:
        """Whether any of its levels leaves a face within its outline."""
        return not DESTRUCTIVE.issuperset(base(level) for level in self.levels if level != OPAQUE)

    @property
    def level_seed(self) -> int:
        """Each refinement has a seed of its own."""
        again = refinement(self.level)
        return seed_of("refinement", again, self.seed) if again else self.seed

    def escalate(self, reason: str, to_mask: bool = False) -> None:
        """To the next level, or at once to the last one."""
        self.failures += (f"{self.level}: {reason}",)
        self.levels = (OPAQUE,) if to_mask else self.levels[1:]
        self.tries += 1
        self.similarities = {}

    def meet(self, others: Sequence[Points]) -> None:
        """Learn where the picture's other faces are: a portrait goes around them."""
        self.geometry = replace(self.geometry, others=tuple(others))
        self._region = None

    def region(self, shape: tuple[int, ...]) -> Region:
        """The pixels that its present level replaces in a picture of `shape`."""
        cached = self._region
        if cached is None or cached[:2] != (self.level, shape):
            cached = self._region = (
                self.level,
                shape,
                replaced_region(self.geometry, self.level, shape),
            )
        return cached[2]

    def whole(self, shape: tuple[int, ...]) -> Region:
        """The pixels of all of it, of which its level may replace a part only, or more."""
        if self.geometry.landmarks is None and not self.geometry.is_portrait:
            return self.region(shape)
        return whole_region(self.geometry, self.level, shape)

    def crop(self, picture: Pixels, verifier: Verifier) -> Pixels:
        """What the judges are shown of it before anything was done; cut once."""
        if self._crop is None:
            self._crop = crop_face(picture, self.geometry.square, verifier.side)
        return self._crop

    def original(self, picture: Pixels, verifier: Verifier) -> Embeddings:
        """What the judges see in it before anything was done; asked once."""
        if self._original is None:
            self._original = embed_crop(
                self.crop(picture, verifier), self.geometry.square, verifier
            )
        return self._original

    def output(self, crop: Pixels, verifier: Verifier) -> Embeddings:
        """What they see in a `crop` of a finished picture at its points; asked once while the very
        same pixels come out, whatever became of its neighbors."""
        cached = self._output
        if cached is None or not np.array_equal(cached[0], crop):
            cached = self._output = (crop, embed_crop(crop, self.geometry.square, verifier))
        return cached[1]

    def made(self, crop: Pixels, make: Callable[[Pixels], Pixels]) -> Pixels:
        """`make(crop)`, cached while level and crop stay: a neighbor's escalation costs nothing."""
        cached = self._made
        if cached is None or cached[0] != self.level or not np.array_equal(cached[1], crop):
            cached = self._made = (self.level, crop, make(crop))
        return cached[2]

    def record(self) -> FaceRecord:
        x0, y0, x1, y1 = (round(float(value)) for value in self.geometry.box)
        return FaceRecord(
            box=(x0, y0, x1, y1),
            score=round(self.score, 4),
            method=self.level,
            verdict="masked" if self.opaque else KEPT if self.kept else "verified",
            similarities={name: round(value, 4) for name, value in self.similarities.items()},
            failures=self.failures,
            level=self.tries,
            found=self.found,
        )


def embed_face(picture: Pixels, square: Square, verifier: Verifier) -> Embeddings:
    """What the judges see at one place of a picture; one row each."""
    return embed_crop(crop_face(picture, square, verifier.side), square, verifier)


def embed_crop(crop: Pixels, square: Square, verifier: Verifier) -> Embeddings:
    """The same of a crop that was cut there already."""
    return verifier.embed(crop[None], square.points_in(verifier.side)[None])


def error_line(error: Exception) -> str:
    """An exception in one short line."""
    return " ".join(f"{type(error).__name__} {error}".split())[:160]
