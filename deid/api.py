"""De-identify one picture from Python, by the same gate as the command line."""

import hashlib
import io
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from deid.batch.bundle import STAGE_ONE, STAGE_TWO
from deid.batch.in_memory import Result, deidentify_decoded
from deid.batch.project import PARAMS, PROFILES, Pipelines, bundle_at, find_root
from deid.batch.settings import RunSettings
from deid.errors import DeidError
from deid.imaging.codec import Decoded, Form, decode
from deid.stage_files import DESCRIPTION

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Options", "Result", "deidentify"]

_AS_PNG = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})  # modes that PNG has


class Options(TypedDict, total=False):
    """Further settings of `deidentify`; see `deid.batch.settings.RunSettings`."""

    detectors: str | list[str] | tuple[str, ...]
    recognizers: str | list[str] | tuple[str, ...]
    recognisers: str | list[str] | tuple[str, ...]
    detect_size: int | None
    region: str | None
    seed: int
    seed_file: str | Path | None
    donor: str | None
    key: str | Path | None
    strength: float
    keep_attributes: str | None
    donor_pool: int | None
    expression: str
    quality: str
    allow_no_face: bool
    rendered: bool
    first_frame_only: bool
    keep: str | Path | None
    only: str | Path | None
    seconds: float | None


def deidentify(
    picture: "str | Path | bytes | IO[bytes] | NDArray[np.uint8] | Image",
    method: str = "swap",
    *,
    root: str | Path | None = None,
    world: str | None = None,
    **options: Unpack[Options],
) -> Result:
    """Make every face of one picture unrecognizable.

    `picture`: a path, the bytes of a file, an open file, a `uint8` array `[H,W,3]` (RGB) or
    `[H,W]`, or a Pillow image; the last two come back as PNG. `method`: swap, adversarial (both
    need trained models), fgsm, pgd, blur, pixelate or mask. `detectors` (`yunet`, `scrfd`, `mtcnn`)
    and `recognizers` (`foamliu`, `arcface`), which `deid weights fetch` gets, stand for the world's
    own; or a path says where they are (`yunet=FILE`). `rendered`: the picture shows rendered
    people, so that networks of the mini world, which know no others, may be used. `region`,
    face, head or portrait: what a new face replaces. `key`: the file of a secret key, under which a
    person has the same new face in every picture. `seed_file`: the file of a secret seed, under
    which nobody else makes the same picture again. `strength`, 0 to 1: how far from the person's
    own face. All `options` are fields of `RunSettings`.

    `root` is where `params.yaml` and `data` are looked for: without it the current directory if it
    has a `params.yaml`, else the checkout that this package was installed from. `world`: photo,
    mini or ffhq, with the stages that come with deid, or else those trained there; without it the
    world of `params.yaml`, or photo.

    Raises `DeidError` where the picture cannot be read, has no face (unless `allow_no_face`) or
    cannot be made safe, and where networks are missing.
    """
    place = Path(root) if root is not None else find_root()
    asked = _settings(method, dict(options))
    pipeline = _pipelines(place.resolve(), world, _stamp(place, world)).get(asked)
    decoded, name, content = _open(picture, asked.first_frame_only)
    result = deidentify_decoded(pipeline, decoded, content, name)
    notes = (*result.notes, *pipeline.notes)
    return replace(result, notes=notes, original=_place(picture))


def _settings(method: str, options: dict[str, Any]) -> RunSettings:
    """What `deid run` would be asked; one network may come without a list around it."""
    if "recognisers" in options:
        options["recognizers"] = options.pop("recognisers")
    for name in ("detectors", "recognizers"):
        value = options.get(name, ())
        options[name] = (value,) if isinstance(value, str) else tuple(value)
    for name in ("keep", "only", "key", "seed_file"):
        options[name] = str(options[name]) if options.get(name) else None
    unknown = options.keys() - Options.__annotations__
    if unknown:
        raise TypeError(f"deidentify() has no argument {min(unknown)!r}")
    return RunSettings(method=method, **options)


def _open(picture: Any, first_frame_only: bool) -> tuple[Decoded, str, str]:
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
        name, picture = "the image", _png(picture)
    elif isinstance(picture, np.ndarray):
        decoded = _from_array(picture)
        return decoded, "the array", hashlib.sha256(decoded.pixels.tobytes()).hexdigest()
    elif callable(getattr(picture, "read", None)):
        name, picture = str(getattr(picture, "name", "the file")), picture.read()
    if not isinstance(picture, bytes):
        raise DeidError(
            f"a {type(picture).__name__} is not a picture; give a path, bytes, a file opened in "
            "binary mode, an array or an image"
        )
    decoded = decode(picture, name, first_frame_only=first_frame_only)
    return decoded, name, hashlib.sha256(picture).hexdigest()


def _place(picture: Any) -> Path | None:
    """Where the file lies that a picture came from, if it says so."""
    for name in (picture, getattr(picture, "filename", None), getattr(picture, "name", None)):
        if isinstance(name, str | Path) and str(name):
            with suppress(OSError, ValueError):  # an upload has the name that a client gave it
                if (place := Path(name)).is_file():
                    return place.resolve()
    return None


def _png(image: "Image") -> bytes:
    """A Pillow image, upright, in colors that PNG has."""
    from PIL import ImageOps

    stored, upright = io.BytesIO(), ImageOps.exif_transpose(image)
    if upright.mode in _AS_PNG:
        upright.save(stored, "PNG")
    else:
        alpha = upright.mode in ("RGBa", "La", "PA")
        upright.convert("RGBA" if alpha else "RGB").save(stored, "PNG", icc_profile=None)
    return stored.getvalue()


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


def _stamp(root: Path, world: str | None) -> tuple[Any, ...]:
    """Changes when parameters or trained models do."""
    projects = (root, *([root / PROFILES / world] if world else []))
    names = (PARAMS, *(f"data/{stage}/{DESCRIPTION}" for stage in (STAGE_ONE, STAGE_TWO)))
    files = [project / name for project in projects for name in names]
    return tuple(file.stat().st_mtime_ns if file.is_file() else None for file in files)


@lru_cache(maxsize=2)
def _pipelines(root: Path, world: str | None, stamp: tuple[Any, ...]) -> Pipelines:
    return Pipelines(bundle_at(root, world))
