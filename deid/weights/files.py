"""A checkpoint file's content, whatever wrote it, told by its bytes and never by its name.

Nothing is executed (`pickles`, `tensors`); the result is nested dictionaries of tensors, arrays and
plain values, which the importers look at.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from deid.errors import DeidError
from deid.weights.allowed import NVIDIA
from deid.weights.archives import open_tar
from deid.weights.arrays import NUMPY
from deid.weights.dlib import is_dlib, read_dlib
from deid.weights.onnx_graph import is_onnx, read_onnx
from deid.weights.openvino import is_openvino, read_openvino
from deid.weights.pickles import read_pickle
from deid.weights.tensors import LEGACY, load_torch
from deid.weights.tfjs import is_tfjs, read_tfjs

_HEAD = 512
_MAX_MEMBERS = 64


@dataclass(frozen=True)
class Reader:
    """A kind of file: `begins` looks at its first 512 bytes, `read` gives its content."""

    name: str
    begins: Callable[[bytes], bool]
    read: Callable[[Path], Any]


def read_content(path: Path) -> Mapping[str, Any]:
    """Raises DeidError naming the file where it is missing, unknown, damaged or unsafe."""
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise DeidError("not a file")
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
    except Exception as error:  # whatever a crafted file sets off, it is refused
        detail = " ".join(str(error).split())[:160]
        raise DeidError(f"{path}: damaged ({type(error).__name__}: {detail})") from None
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise DeidError(f"{path}: it holds no named parts; is it the right file?")
    return content


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

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
    with open_tar(path) as archive:
        for member, _ in zip(archive, range(_MAX_MEMBERS), strict=False):
            named = member.isfile() and member.name.endswith((".pth", ".pt", ".pkl"))
            if named and (file := archive.extractfile(member)):
                return load_torch(file.read())
    raise DeidError("an archive without a torch file (.pth)")


READERS: tuple[Reader, ...] = (
    Reader("torch", lambda head: head.startswith((b"PK\x03\x04", LEGACY)), load_torch),
    Reader(
        "safetensors", lambda head: head[8:9] == b"{" and head[6:8] == b"\0\0", _read_safetensors
    ),
    Reader(
        "tar", lambda head: head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar", _read_archive
    ),
    Reader("pickle", lambda head: head[:1] in (b"\x80", b"(", b"}", b"c"), _read_pickle),
    Reader("onnx", is_onnx, read_onnx),
    Reader("OpenVINO", is_openvino, read_openvino),
    Reader("TensorFlow.js", is_tfjs, read_tfjs),
    Reader("dlib", is_dlib, read_dlib),
)
"""Asked in order."""
