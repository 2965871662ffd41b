"""One picture from memory to memory: what the library, a registered version and the service share.

No file is read or written for it, so no original touches a disk.
"""

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deid.batch.pipeline import Pipeline
from deid.errors import DeidError
from deid.faces.detection.boxes import Boxes, iou
from deid.faces.faces import FaceDetector, Faces
from deid.gate.choose import Chooser
from deid.gate.face import KEPT, Face
from deid.gate.limits import Limits
from deid.gate.record import FaceRecord
from deid.imaging.codec import FORMAT_OF, MAX_PIXELS, Decoded, TooLarge, decode, encode
from deid.pixels import Pixels
from deid.storage.staging import file_sha256, write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

EXACT = ("PNG", "TIFF", "BMP")  # formats that give back the judged pixels, whatever they were
SAME_BOX = 0.8  # least intersection over union of a face's box with the one that names it

Box = tuple[float, float, float, float]
"""x0 y0 x1 y1, in pixels of the upright picture."""


class Refused(DeidError):
    """No safe picture came of it; `code` is the reason in one word, for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Result:
    """A safe picture: `data` is the file that was judged, to the byte, without metadata.

    `faces` tells what became of each face; `verdict` is verified, masked (some face had to be),
    kept (by request) or no face; `notes` say what of the original could not come back,
    and whether somebody else can make the same picture again.
    """

    data: bytes = field(repr=False)
    faces: tuple[FaceRecord, ...] = field(repr=False)
    verdict: str
    notes: tuple[str, ...] = ()
    original: Path | None = field(
        default=None, repr=False, compare=False
    )  # where it lies, if known
    original_sha256: str = field(default="", repr=False, compare=False)

    @property
    def level(self) -> int:
        """The most fallback levels that any face needed: 1, the method itself; 0 without a face."""
        return max((face.level for face in self.faces if face.verdict != KEPT), default=0)

    @property
    def pixels(self) -> Pixels:
        """`uint8 [H,W,3]`, RGB."""
        return decode(self.data, "the result").pixels

    @property
    def image(self) -> "Image":
        """As a Pillow image, with transparency where there was some."""
        from PIL import Image

        image = Image.open(io.BytesIO(self.data))
        image.load()
        return image

    def save(self, path: str | Path) -> None:
        """Write `data`, or the same pixels as PNG, TIFF or BMP where `path` ends so.

        `DeidError` for other formats than the original's: they change pixels that were judged; and
        for the original's own name, or that of a copy of it.
        """
        self._check_place(Path(path))
        decoded = decode(self.data, "the result")
        target = FORMAT_OF.get(Path(path).suffix.lower())
        if target == decoded.form.format:
            write_atomically(Path(path), self.data)
        elif target in EXACT:
            as_target = decoded.stored_as(target)
            write_atomically(Path(path), encode(decoded.pixels, decoded.alpha, as_target.form))
        else:
            raise DeidError(
                f"{path}: the result is {decoded.form.format}, and another format would change "
                "what was judged; give that suffix, or .png, .tif or .bmp"
            )

    def _check_place(self, path: Path) -> None:
        place = path.resolve()
        same = hashlib.sha256(self.data).hexdigest() == self.original_sha256  # nothing was changed
        copy = not same and place.is_file() and file_sha256(place) == self.original_sha256
        if copy or place == self.original:
            raise DeidError(f"{path}: is the original, which stays; give another name")


@dataclass(frozen=True)
class Bounds:
    """What a picture may have; more is refused. None: no bound but those of the codec."""

    pixels: int | None = None
    faces: int | None = None


def deidentify_bytes(
    pipeline: Pipeline,
    data: bytes,
    name: str,
    keep: Sequence[Box] = (),
    bounds: Bounds | None = None,
) -> Result:
    """A safe picture for the encoded one in `data`, by the pipeline and its settings.

    `keep` names faces that stay as they are, at a person's own decision, by their boxes as a
    `Result` told them. Raises `Refused` where the picture cannot be read or cannot be made safe,
    exceeds `bounds`, or has no face (unless the settings allow it) or none at a box of `keep`.
    """
    first, most = pipeline.settings.first_frame_only, (bounds or Bounds()).pixels or MAX_PIXELS
    try:
        decoded = decode(data, name, first_frame_only=first, most=most)
    except TooLarge as error:
        raise Refused("too_many_pixels", str(error)) from None
    except DeidError as error:
        raise Refused("not_a_picture", str(error)) from None
    return deidentify_decoded(
        pipeline, decoded, hashlib.sha256(data).hexdigest(), name, keep, bounds or Bounds()
    )


def deidentify_decoded(
    pipeline: Pipeline,
    decoded: Decoded,
    content: str,
    name: str,
    keep: Sequence[Box] = (),
    bounds: Bounds | None = None,
) -> Result:
    """The same for a picture that is decoded; `content` seeds what is drawn."""
    settings, bounds = pipeline.settings, bounds or Bounds()
    height, width = decoded.pixels.shape[:2]
    if bounds.pixels is not None and height * width > bounds.pixels:
        raise Refused(
            "too_many_pixels",
            f"{name}: {width} x {height} pixels are too many (at most {bounds.pixels:,}); "
            "scale it down first",
        )
    named = _named(pipeline, keep, name)
    try:
        data, faces, notes = _bounded(pipeline, named, bounds).deidentify(
            decoded, content, Limits(seconds=settings.seconds)
        )
    except Refused as error:
        raise Refused(error.code, f"{name}: {error}") from None
    except DeidError as error:
        raise Refused("withheld", f"{name}: {error}") from None
    except Exception as error:
        reason = f"{name}: cannot be made safe ({type(error).__name__}: {error})"
        raise Refused("withheld", reason) from error
    if named is not None and (missing := named.missing()):
        raise Refused("unknown_face", f"{name}: no face at {missing}, which was to be kept")
    if not faces and not settings.allow_no_face:
        raise Refused("no_face", f"{name}: no face found; allow_no_face=True lets it pass as it is")
    return Result(data, tuple(faces), worst(faces), notes, original_sha256=content)


def worst(faces: Sequence[FaceRecord]) -> str:
    """The verdict of a picture."""
    verdicts = {face.verdict for face in faces}
    return next((v for v in ("masked", "verified", KEPT) if v in verdicts), "no face")


def _named(pipeline: Pipeline, keep: Sequence[Box], name: str) -> "_Named | None":
    if not keep:
        return None
    if not all(len(box) == 4 and all(map(math.isfinite, box)) for box in keep):
        raise Refused("unknown_face", f"{name}: a box is four numbers, x0 y0 x1 y1 in pixels")
    components = pipeline.components
    boxes = np.asarray(keep, np.float32)
    return _Named(components.verifier, (), True, boxes, components.chooser)


def _bounded(pipeline: Pipeline, named: "_Named | None", bounds: Bounds) -> Pipeline:
    components = pipeline.components
    if named is not None:
        components = replace(components, chooser=named)
    if bounds.faces is not None:
        components = replace(components, detector=_AtMost(components.detector, bounds.faces))
    return replace(pipeline, components=components)


@dataclass(frozen=True)
class _Named(Chooser):
    """Keeps the faces at `boxes`, one at each, besides those that `others` keeps.

    Only what the detector saw in the original: what a later look finds is nobody's decision.
    """

    boxes: Boxes = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    others: Chooser | None = None
    used: set[int] = field(default_factory=set)

    def keeps(self, picture: Pixels, face: Face) -> bool:
        overlaps = iou(np.asarray(face.geometry.box, np.float32), self.boxes)
        index = int(np.argmax(overlaps))
        if face.found == "detector" and index not in self.used and overlaps[index] >= SAME_BOX:
            self.used.add(index)
            return True
        return self.others is not None and self.others.keeps(picture, face)

    def missing(self) -> str:
        """The boxes at which there was no face; "" if all had one."""
        left = (i for i in range(len(self.boxes)) if i not in self.used)
        return ", ".join(str([round(float(v)) for v in self.boxes[i]]) for i in left)


class _AtMost:
    """A detector whose finding more than `most` faces is the end of it."""

    def __init__(self, detector: FaceDetector, most: int) -> None:
        self.name, self._detector, self._most = detector.name, detector, most

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        found = self._detector.detect(pictures)
        if (count := max(map(len, found), default=0)) > self._most:
            raise Refused("too_many_faces", f"{count} faces are too many (at most {self._most})")
        return found
