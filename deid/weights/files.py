"""A checkpoint file's content, whatever wrote it, told by its bytes and never by its name.

Nothing is executed (`pickles`, `tensors`); the result is nested dictionaries of tensors, arrays and
plain values, which the importers look at.
"""

import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from deid.errors import DeidError
from deid.weights.allowed import NUMPY, NVIDIA
from deid.weights.onnx_graph import is_onnx, read_onnx
from deid.weights.pickles import read_pickle
from deid.weights.tensors import load_torch

_HEAD = 512
_MAX_MEMBER = 2 << 30
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""How torch's files began before they were zips: a pickle of torch's magic number."""


@dataclass(frozen=True)
class Reader:
    """A kind of file: `begins` looks at its first 512 bytes, `read` gives its content."""

    name: str
    begins: Callable[[bytes], bool]
    read: Callable[[Path], Any]


def read_content(path: Path) -> Mapping[str, Any]:
    """Raises DeidError naming the file where it is missing, unknown, damaged or unsafe."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        reader = next((reader for reader in READERS if reader.begins(head)), None)
        if reader is None:
            known = ", ".join(reader.name for reader in READERS)
            raise DeidError(f"not a checkpoint file; the kinds known are {known}")
        content = reader.read(path)
    except OSError as error:
        raise DeidError(f"{path}: cannot be read ({error.strerror or error})") from None
    except DeidError as error:
        raise DeidError(f"{path}: {error}") from None
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise DeidError(f"{path}: it holds no named parts; is it the right file?")
    return content


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DeidError(f"not safetensors ({error})") from None


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        # Which of two safe lists: a choice that a file may well make itself.
        networks = data.find(b"torch_utils.persistence") >= 0
        return read_pickle(data, NVIDIA if networks else NUMPY)


def _read_archive(path: Path) -> Any:
    """The one torch file in a tar, as Oxford packs it beside the source of its network."""
    try:
        with tarfile.open(path, "r|*") as archive:
            for member, _ in zip(archive, range(64), strict=False):
                if member.isfile() and member.name.endswith((".pth", ".pt", ".pkl")):
                    if member.size > _MAX_MEMBER:
                        raise DeidError(f"{member.name!r} in it is too large")
                    file = archive.extractfile(member) or io.BytesIO()
                    return load_torch(file.read(_MAX_MEMBER))
    except DeidError:
        raise
    except Exception as error:  # tarfile raises many kinds, even TypeError
        raise DeidError(f"a damaged archive ({type(error).__name__}: {error})") from None
    raise DeidError("an archive without a torch file (.pth)")


READERS: tuple[Reader, ...] = (
    Reader("torch", lambda head: head.startswith((b"PK\x03\x04", _LEGACY)), load_torch),
    Reader(
        "safetensors", lambda head: head[8:9] == b"{" and head[6:8] == b"\0\0", _read_safetensors
    ),
    Reader(
        "tar", lambda head: head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar", _read_archive
    ),
    Reader("pickle", lambda head: head[:1] in (b"\x80", b"(", b"}", b"c"), _read_pickle),
    Reader("onnx", is_onnx, read_onnx),
)
"""Asked in order."""
