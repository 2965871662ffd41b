"""The record of a batch: one JSON line a file, and what makes a killed batch go on.

A line is appended and flushed after its output has its final name. When the batch ends, the file
is rewritten with the last line of each input, sorted, so that it does not tell how often the
batch was interrupted.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deid.photo.picture import FaceRecord
from deid.staging import write_atomically

NAME = "manifest.jsonl"


@dataclass(frozen=True)
class FileRecord:
    """What became of one input. `status`: written, quarantined or skipped."""

    file: str  # relative to the source folder
    status: str
    reason: str = ""
    input_sha256: str = ""
    output: str = ""  # relative to the destination
    output_sha256: str = ""
    settings: str = ""  # fingerprint of everything that shapes the output
    method: str = ""
    seed: int = 0
    model: str = ""
    detector: str = ""
    thresholds: dict[str, float] = field(default_factory=dict)  # the judges and their limits
    faces: tuple[FaceRecord, ...] = ()
    notes: tuple[str, ...] = ()  # what could not come back, such as further frames


class Manifest:
    """`manifest.jsonl` of a destination folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._lines: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                self._remember(line)

    def _remember(self, line: str) -> None:
        try:
            record = json.loads(line)
            self._lines[str(record["file"])] = record
        except (ValueError, KeyError, TypeError):
            return  # a line that a killed run left unfinished; its file is done again

    def last(self, file: str) -> dict[str, Any] | None:
        """The newest record of an input, as JSON, or None."""
        return self._lines.get(file)

    def append(self, record: FileRecord) -> None:
        """Add a line in one write and wait until the disk has it."""
        content = asdict(record)
        self._lines[record.file] = content
        line = json.dumps(content, ensure_ascii=True) + "\n"
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.lseek(handle, 0, os.SEEK_END)
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = "\n" + line
            os.write(handle, line.encode())
            os.fsync(handle)
        finally:
            os.close(handle)

    def close(self) -> None:
        """Rewrite the file with one line for each input, sorted by name."""
        lines = (json.dumps(self._lines[key], ensure_ascii=True) for key in sorted(self._lines))
        write_atomically(self.path, "".join(f"{line}\n" for line in lines).encode())
