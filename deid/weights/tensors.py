"""torch's own files and the storages inside others, with `weights_only` and on the CPU."""

import argparse
import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from deid.errors import DeidError


def load_torch(source: Path | bytes) -> Any:
    """What `torch.save` wrote: tensors, containers and plain values, nothing else.

    `argparse.Namespace`, which rosinality's files hold as `args`, is let through: it is a bag of
    plain values. Raises DeidError for anything that would need code to run, and for anything
    damaged. A zip with compressed parts is no file of torch's, and could be a bomb.
    """
    opened: Path | io.BytesIO = io.BytesIO(source) if isinstance(source, bytes) else source
    _check_archive(opened)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(opened, weights_only=True, map_location="cpu")
    except Exception as error:  # whatever a crafted file sets off, it is refused
        detail = " ".join(str(error).split())
        cause = detail.partition("WeightsUnpickler error: ")[2] or detail
        raise DeidError(f"not a file of weights alone ({cause[:160]}); refused") from None


def load_storage(data: Any) -> torch.storage.TypedStorage:
    """The numbers of a tensor in another pickle, where they are a torch file of their own."""
    if not isinstance(data, bytes):
        raise DeidError("a tensor's numbers that are not bytes; refused")
    storage = load_torch(data)
    if not isinstance(storage, torch.storage.TypedStorage):
        raise DeidError("a tensor's numbers that are no storage; refused")
    return storage


def _check_archive(source: Path | io.BytesIO) -> None:
    try:
        if not zipfile.is_zipfile(source):
            return
        with zipfile.ZipFile(source) as archive:
            packed = [e for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, ValueError) as error:
        raise DeidError(f"a damaged archive ({error})") from None
    finally:
        if isinstance(source, io.BytesIO):
            source.seek(0)
    if packed:
        raise DeidError("an archive with compressed parts, which torch never writes; refused")
