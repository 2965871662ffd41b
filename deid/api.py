"""De-identify one picture from Python, by the same gate as the command line."""

import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deid.errors import DeidError
from deid.gate.picture import FaceRecord, Limits
from deid.imaging.codec import Decoded, Form, decode
from deid.pixels import Pixels
from deid.storage.staging import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

    from deid.batch.pipeline import Pipeline
    from deid.batch.settings import RunSettings


@dataclass(frozen=True)
class Result:
    """A safe picture: `data` is the file that was judged, to the byte, without metadata.

    `faces` tells what became of each face; `verdict` is verified, masked (some face had to be) or
    no face.
    """

    data: bytes
    faces: tuple[FaceRecord, ...]
    verdict: str

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
        """Write `data`; in the format that the original had, whatever `path` ends in."""
        write_atomically(Path(path), self.data)


def deidentify(
    picture: "str | Path | bytes | NDArray[np.uint8] | Image",
    method: str = "swap",
    *,
    detectors: tuple[str, ...] = (),
    recognizers: tuple[str, ...] = (),
    seed: int = 0,
    allow_no_face: bool = False,
    rendered: bool = False,
    seconds: float | None = None,
    root: str | Path | None = None,
) -> Result:
    """Make every face of one picture unrecognizable.

    `picture`: a path, the bytes of a file, a `uint8` array `[H,W,3]` (RGB) or `[H,W]`, or a Pillow
    image; the last two come back as PNG. `method`: swap, adversarial (both need trained models),
    fgsm, pgd, blur, pixelate or mask. `detectors` (`yunet`, `scrfd`, `mtcnn`) and `recognizers`
    (`foamliu`, `arcface`) are needed for photographs, since the embedded networks know the people
    of the mini world only; `deid weights fetch` gets them, or a path says where they are
    (`yunet=FILE`). `rendered` says that the picture shows rendered people, so that the embedded
    networks may be used. `seconds`: after so long faces are masked, after twice as long it gives
    up.

    `root` is where `params.yaml` and `data` are looked for; without it the current directory if it
    has a `params.yaml`, else the checkout that this package was installed from.

    Raises `DeidError` where the picture cannot be read, has no face (unless `allow_no_face`) or
    cannot be made safe, and where networks are missing.
    """
    from deid.batch.project import find_root
    from deid.batch.settings import RunSettings

    place = Path(root) if root is not None else find_root()
    asked = RunSettings(
        method=method, detectors=detectors, recognizers=recognizers, seed=seed, rendered=rendered
    )
    pipeline = _pipeline(asked, place.resolve(), _stamp(place))
    decoded, name, content = _open(picture)
    try:
        data, faces = pipeline.deidentify(decoded, content, Limits(seconds=seconds))
    except DeidError:
        raise
    except Exception as error:
        raise DeidError(f"{name}: cannot be made safe ({type(error).__name__}: {error})") from error
    if not faces and not allow_no_face:
        raise DeidError(f"{name}: no face found; allow_no_face=True lets it pass as it is")
    verdicts = {face.verdict for face in faces}
    worst = next((v for v in ("masked", "verified") if v in verdicts), "no face")
    return Result(data, tuple(faces), worst)


def _open(picture: Any) -> tuple[Decoded, str, str]:
    """Pixels, a name for messages, and the hash that seeds what is drawn."""
    from PIL import Image

    if isinstance(picture, str | Path):
        name = str(picture)
        try:
            picture = Path(picture).read_bytes()
        except OSError as error:
            raise DeidError(f"{name}: not readable ({error.strerror}); correct the path") from None
    elif isinstance(picture, bytes | bytearray | memoryview):
        name, picture = "the picture", bytes(picture)
    elif isinstance(picture, Image.Image):
        stored = io.BytesIO()
        picture.save(stored, "PNG")
        name, picture = "the image", stored.getvalue()
    elif isinstance(picture, np.ndarray):
        decoded = _from_array(picture)
        return decoded, "the array", hashlib.sha256(decoded.pixels.tobytes()).hexdigest()
    else:
        raise DeidError(
            f"a {type(picture).__name__} is no picture; give a path, bytes, an array or an image"
        )
    return decode(picture, name), name, hashlib.sha256(picture).hexdigest()


def _from_array(array: NDArray[Any]) -> Decoded:
    gray = array.ndim == 2
    if array.dtype != np.uint8 or not (gray or (array.ndim == 3 and array.shape[2] == 3)):
        raise DeidError(
            f"the array is {array.dtype} {list(array.shape)}; give uint8 [H,W,3] or [H,W], RGB"
        )
    if array.size == 0:
        raise DeidError("the array has no pixels; give a picture")
    pixels = np.repeat(array[..., None], 3, axis=2) if gray else array
    return Decoded(np.ascontiguousarray(pixels), None, Form("PNG", gray))


def _stamp(root: Path) -> tuple[Any, ...]:
    """Changes when parameters or trained models do."""
    files = [
        root / "params.yaml",
        *(root / "data" / s / "model.json" for s in ("stage_one", "stage_two")),
    ]
    return tuple(file.stat().st_mtime_ns if file.is_file() else None for file in files)


@lru_cache(maxsize=4)
def _pipeline(asked: "RunSettings", root: Path, stamp: tuple[Any, ...]) -> "Pipeline":
    from deid.batch.project import bundle_at, open_pipeline

    return open_pipeline(bundle_at(root), asked)
