"""Finding faces in photographs: the world's own network, or public ones from files, or several.

All give five points with the person's right eye and mouth corner first, which for an upright face
is our order too: left of the picture first. A rotated face keeps that order, so that its aligned
crop is upright.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from deid.errors import DeidError
from deid.faces.detection.mtcnn import load_mtcnn
from deid.faces.detection.multi_scale import Detector
from deid.faces.detection.scrfd import Scrfd
from deid.faces.detection.single_pass import HasSinglePass, SinglePassDetector
from deid.faces.detection.yunet import Yunet
from deid.faces.faces import FaceDetector
from deid.nets.mtcnn import NAMES
from deid.weights.store import locate_network

__all__ = [
    "KINDS",
    "Detector",
    "SinglePassDetector",
    "build_detector",
    "build_network",
    "weights_of",
]

KINDS: dict[str, Callable[[Path], SinglePassDetector]] = {
    "scrfd": Scrfd,
    "yunet": Yunet,
    "mtcnn": load_mtcnn,
}
USAGE = "mini, yunet, scrfd or mtcnn, or with a path: yunet=FILE, scrfd=FILE, mtcnn=FOLDER"
SIZES = (64, 4096)


class WithDetector(Protocol):
    """Whatever brings a detector of its own: a world."""

    @property
    def name(self) -> str:
        """What a spec calls that detector."""
        ...

    @property
    def detector(self) -> FaceDetector:
        """The detector."""
        ...


def build_detector(
    specs: Sequence[str] | None, world: WithDetector, size: int | None = None
) -> FaceDetector:
    """The union of the detectors that `specs` name, or the world's own where there are none.

    A spec is `yunet`, `scrfd` or `mtcnn` (fetched by `deid weights fetch`), one of them with a path
    (`yunet=FILE`, `scrfd=FILE`, `mtcnn=FOLDER`), or the world's name. `size`: a single pass over
    the picture with that longer side, for speed; None: multi-scale. `DeidError` names what is
    unknown, missing or broken.
    """
    if size is not None and not SIZES[0] <= size <= SIZES[1]:
        raise DeidError(f"detection size {size}: out of range; choose {SIZES[0]} to {SIZES[1]}")
    own = world.detector
    if not specs and not isinstance(own, HasSinglePass):
        return own
    return Detector([build_network(s, world) for s in dict.fromkeys(specs or (world.name,))], size)


def weights_of(spec: str) -> list[Path]:
    """The files that a detector's or recognizer's spec names; none for a world's own network."""
    kind, path = locate_network(spec)
    if path is None:
        return []
    return [path / f"{part}.pt" for part in NAMES] if kind == "mtcnn" else [path]


def build_network(spec: str, world: WithDetector) -> SinglePassDetector:
    """The network that one spec names."""
    if spec == world.name and isinstance(world.detector, HasSinglePass):
        return world.detector.single_pass()
    kind, path = locate_network(spec)
    if kind not in KINDS or path is None:
        raise DeidError(f"detector {spec!r}: unknown; write {USAGE}")
    if not (path.is_dir() if kind == "mtcnn" else path.is_file()):
        raise DeidError(f"{path}: no such detector; write {USAGE}")
    try:
        return KINDS[kind](path)
    except DeidError:
        raise
    except Exception as error:
        reason = str(error).split("\n")[0][:160]
        raise DeidError(f"{path}: not a {kind} detector ({reason}); download it again") from None
