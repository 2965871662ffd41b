"""Where public weight files lie on this machine, and whether they are what they should be.

Downloads go to a folder of the user's own (`DEID_WEIGHTS_STORE` names another). With
`DEID_WEIGHTS_DIR` set, the machine counts as offline: files are taken from that folder by name,
verified all the same, nothing is ever downloaded and nothing is written there. Beside each file
lies a record, `<file>.json`: address, hash, license, time and how the license was accepted (of
files in an offline folder: in the user's own). A file whose hash nobody published is held to the
one in its record.
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from deid.errors import DeidError
from deid.storage.staging import file_sha256, write_atomically
from deid.weights.catalog import FAMILIES, find, with_parts
from deid.weights.entry import WeightFile

OFFLINE_VARIABLE = "DEID_WEIGHTS_DIR"
STORE_VARIABLE = "DEID_WEIGHTS_STORE"
MEMO = ".hashes.json"

State = Literal["verified", "differs", "no hash", "missing"]
Record = dict[str, Any]


@dataclass(frozen=True)
class Store:
    """The folder of downloads and, where nothing may be downloaded, the folder of files given."""

    folder: Path
    offline: Path | None = None

    @property
    def place(self) -> Path:
        """The folder in which files are looked for."""
        return self.offline or self.folder

    def path(self, entry: WeightFile) -> Path:
        """Where the file is, or would be."""
        return self.place / entry.file


def default_store(environment: Mapping[str, str] = os.environ) -> Store:
    """The store that the environment asks for, else one in the user's data folder."""
    from platformdirs import user_data_path

    named, offline = environment.get(STORE_VARIABLE), environment.get(OFFLINE_VARIABLE)
    if offline and not Path(offline).is_dir():
        raise DeidError(f"{offline}: no such folder; correct {OFFLINE_VARIABLE} or unset it")
    folder = Path(named) if named else user_data_path("deid", appauthor=False) / "weights"
    return Store(folder, Path(offline) if offline else None)


def state(entry: WeightFile, store: Store) -> State:
    """Whether the file is here as it should be. Reads all of it, unless it did so before and size
    and time are still the same: good enough to tell a person, and no check before use."""
    path = store.path(entry)
    if not path.is_file():
        return "missing"
    try:
        wrong = _wanted_instead(entry, _known_sha256(path, store), store)
    except (DeidError, OSError):  # its record, or itself, cannot be read
        wrong = path.name
    return "differs" if wrong else "verified" if entry.sha256 else "no hash"


def _known_sha256(path: Path, store: Store) -> str:
    """The SHA-256 of `path`, kept in the user's folder by size and time of change."""
    memo, stat, known = store.folder / MEMO, path.stat(), dict[str, Any]()
    mark = f"{path} {stat.st_size} {stat.st_mtime_ns}"
    with suppress(OSError, ValueError, TypeError, RecursionError):
        known = dict(json.loads(memo.read_bytes()))
    if not isinstance(known.get(mark), str):
        known[mark] = file_sha256(path)
        with suppress(OSError):
            write_atomically(memo, json.dumps(known).encode())
    return str(known[mark])


def weight_path(name: str, store: Store | None = None) -> Path:
    """The verified file of that name in the catalog, the other files of its network verified too.

    Raises DeidError where one is missing or not what it should be, with the remedy.
    """
    store = store or default_store()
    path, *_ = [verified(entry, store) for entry in with_parts([name])]
    return path


def locate_network(spec: str, store: Store | None = None) -> tuple[str, Path | None]:
    """What `KIND=PATH` names, or KIND alone, whose verified files are the store's: kind and path.

    The path is the file, or the folder where a kind has several; None where none is named, which
    is for the caller to refuse. Raises DeidError for files that are missing, with the remedy.
    """
    kind, _, path = spec.partition("=")
    if path or kind not in FAMILIES or spec != kind:
        return kind, Path(path) if path else None
    store = store or default_store()
    files = [verified(find(name), store) for name in FAMILIES[kind]]
    return kind, files[0] if len(files) == 1 else store.place


def verified(entry: WeightFile, store: Store) -> Path:
    """The file, its hash checked (DeidError). Where none is published, the hash of the first file
    seen is recorded, which standard error says once."""
    path = store.path(entry)
    if not path.is_file():
        raise DeidError(f"{path}: missing; {remedy(entry, store)}")
    sha256 = check(entry, path, store)
    if entry.sha256 is None and read_record(entry, store) is None:
        write_record(entry, store, {"sha256": sha256, "accepted": "put there by hand"})
        print(f"deid: {_first_use(entry, path, sha256)}", file=sys.stderr)
    return path


def checked(entry: WeightFile, store: Store) -> str:
    """What a check of the file found, as a clause; DeidError where it is missing or wrong. A file
    without a published hash is never called good, and nothing is recorded."""
    path = store.path(entry)
    if not path.is_file():
        raise DeidError(f"{path}: missing; {remedy(entry, store)}")
    check(entry, path, store)
    if entry.sha256:
        return f"has the SHA-256 {'of its card' if entry.own else 'that was published'}"
    recorded = "; it is the file recorded at first use" if read_record(entry, store) else ""
    return f"is not verified: the catalog has no hash{recorded}"


def _first_use(entry: WeightFile, path: Path, sha256: str) -> str:
    partly = f" beyond its first {4 * len(p)} bits" if (p := entry.sha256_prefix) else ""
    return (
        f"{path}: no SHA-256 is published for it{partly}; from now on only {sha256} is accepted. "
        f"If you have this hash from another source, compare; if it differs, delete the file"
    )


def check(entry: WeightFile, path: Path, store: Store) -> str:
    """The SHA-256 of `path`, which must be the published or the recorded one (DeidError)."""
    found = file_sha256(path)
    if wanted := _wanted_instead(entry, found, store):
        raise DeidError(
            f"{path}: SHA-256 is {found[:12]}…, should be {wanted[:12]}…; "
            f"delete it, then {remedy(entry, store)}"
        )
    return found


def _wanted_instead(entry: WeightFile, found: str, store: Store) -> str | None:
    """The published or recorded hash, or its beginning, where `found` is another."""
    if not entry.sha256 and entry.sha256_prefix and not found.startswith(entry.sha256_prefix):
        return entry.sha256_prefix
    record = None if entry.sha256 else read_record(entry, store)
    wanted = str(record["sha256"]) if record else entry.sha256
    return wanted if wanted != found else None


def remedy(entry: WeightFile, store: Store) -> str:
    """How a person gets the file, in a few words."""
    if store.offline:
        return f"put {entry.file} there ({OFFLINE_VARIABLE} is set, so nothing is downloaded)"
    if not entry.sources:
        return f"get {entry.file} by hand ({entry.by_hand}) and put it there"
    return f"run `deid weights fetch {entry.name}`"


def read_record(entry: WeightFile, store: Store) -> Record | None:
    """The record of the file, None where there is none; DeidError where it is not readable."""
    for path in _record_paths(entry, store):
        try:
            record = json.loads(path.read_text())
            if not isinstance(record["sha256"], str):
                raise TypeError("sha256 is no text")
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DeidError(
                f"{path}: not a readable record ({error}); delete it if you trust the file"
            ) from None
        return dict(record)
    return None


def write_record(entry: WeightFile, store: Store, known: Mapping[str, Any]) -> None:
    """Write `<file>.json` into the user's folder, never into one that was given as offline."""
    record = {
        "name": entry.name,
        "file": entry.file,
        "url": None,
        "license": entry.license,
        "commercial": entry.commercial,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **known,
    }
    data = (json.dumps(record, indent=2) + "\n").encode()
    write_atomically(store.folder / _record_name(entry), data)


def _record_paths(entry: WeightFile, store: Store) -> list[Path]:
    """Where a record may be; one that came with an offline folder goes first."""
    folders = dict.fromkeys([store.place, store.folder])
    return [folder / _record_name(entry) for folder in folders]


def _record_name(entry: WeightFile) -> str:
    return f"{entry.file}.json"
