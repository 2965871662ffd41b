"""Proof for every file of a batch, sealed so that no later change goes unseen.

`seal` gives the files that lie beside the outputs:

- `manifest.jsonl`: one record an input, sorted by its name, with its faces.
- `ledger.jsonl`: one line a record, in the same order: its time and its hash.
- `summary.json`, `summary.html`: what a person reads.
- `seal.json`: the hashes of the four, and a signature over them.

Times lie in the ledger and nowhere else. So outputs, manifest and summaries of a batch that was
killed and resumed are, byte for byte, those of one that was not; ledger and seal, which say when,
are not, and cannot be.
"""

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Any

from deid.audit.keys import AuditKey
from deid.audit.summary import HTML, SUMMARY, summary_files

Record = Mapping[str, Any]
Read = Callable[[str], bytes]
"""The bytes of a file of the batch, by its name relative to the batch's root; raises `OSError`."""

MANIFEST, LEDGER, SEAL = "manifest.jsonl", "ledger.jsonl", "seal.json"
AUDIT_FILES = (MANIFEST, LEDGER, SUMMARY, HTML, SEAL)
TIME = "time"
VERSION = 1
UNSIGNED = "none"

PRIVATE = ".deid/"  # what a batch keeps for itself; nothing there is a result

LONGEST_TEXT = 600  # a longer one is no reason but data
LONGEST_NUMBERS = 8  # a longer list of numbers is no box but an embedding
_NAMES = frozenset({"file", "output"})  # of files, relative to the batch's root
_PATH = re.compile(r"(?<![\w./\\-])(?:[A-Za-z]:)?[\\/](?:[^\s'\":;,()]+)|\b\w+://[^\s'\"]+")


def seal(records: Sequence[Record], read_output: Read, key: AuditKey | None) -> dict[str, bytes]:
    """Name → bytes of the audit files of a batch; write `seal.json` last.

    `records` are those of all inputs, each with `file` (and `time`, ISO 8601, of when it came to
    its end); `read_output` gives outputs, of which the summary shows the worst. What must not be
    told is taken out of the records: paths from elsewhere, long numbers, long texts.
    """
    ordered = sorted(records, key=lambda record: str(record["file"]))
    times = [str(record.get(TIME, "")) for record in ordered]
    public = [publishable({k: v for k, v in r.items() if k != TIME}) for r in ordered]
    lines = [_line(record) for record in public]
    files = {
        MANIFEST: b"".join(lines),
        LEDGER: b"".join(_ledger(public, lines, times)),
        **summary_files(public, read_output),
    }
    return {**files, SEAL: _signed(files, len(lines), key)}


def times_of(ledger: bytes) -> dict[str, str]:
    """Name → time of a sealed manifest's records, for a batch that resumes."""
    entries = (_json(line.decode(errors="replace")) for line in io.BytesIO(ledger))
    return {str(e.get("file")): str(e.get(TIME, "")) for e in entries if isinstance(e, dict)}


def publishable(record: Record) -> dict[str, Any]:
    """A record without what must not leave: paths from elsewhere, vectors, data."""
    return {
        str(key): recorded_name(value) if key in _NAMES else _publishable(value)
        for key, value in record.items()
    }


def recorded_name(name: Any) -> str:
    """A name relative to the batch's root, as it is; anything else as a hash. (A batch runs where
    `9:05.png` and `\\a.png` are such names, and no drive or share.)"""
    text = str(name)
    if text.startswith("/") or ".." in text.replace("\\", "/").split("/"):
        return f"(path {hashlib.sha256(text.encode(errors='replace')).hexdigest()[:12]})"
    return text


def _publishable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return publishable(value)
    if isinstance(value, str):
        text = _PATH.sub("(path)", value)
        return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"
    if isinstance(value, list | tuple):
        numbers = sum(isinstance(item, int | float) for item in value)
        return [] if numbers > LONGEST_NUMBERS else [_publishable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float) or value is None else "(data)"


def _line(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def _ledger(records: Sequence[Record], lines: Sequence[bytes], times: Sequence[str]) -> list[bytes]:
    return [
        _line(
            {"file": record["file"], TIME: time, "record_sha256": hashlib.sha256(line).hexdigest()}
        )
        for record, line, time in zip(records, lines, times, strict=True)
    ]


def _signed(files: Mapping[str, bytes], count: int, key: AuditKey | None) -> bytes:
    body: dict[str, Any] = {
        "version": VERSION,
        "records": count,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "algorithm": key.algorithm if key else UNSIGNED,
        "key": key.identity if key else "",
    }
    body["signature"] = key.sign(_message(body)) if key else ""
    return (json.dumps(body, indent=2) + "\n").encode()


def _message(body: Record) -> bytes:
    """What is signed: everything in the seal but the signature, in one fixed form."""
    content = {name: value for name, value in body.items() if name != "signature"}
    return b"deid seal\n" + json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def verify(read: Read, names: Iterable[str], key: AuditKey | None = None) -> list[str]:
    """What is wrong with a sealed batch, a line each; empty where nothing is.

    `names` are all files under the batch's root. Without a `key` an unsigned batch can only be
    checked against itself, and a signed one is reported as not checked.
    """
    present = set(names)
    missing = [f"{name}: missing" for name in AUDIT_FILES if name not in present]
    if missing:
        return missing
    try:
        audit = {name: read(name) for name in AUDIT_FILES}
        body = _json(audit[SEAL].decode())
        if not isinstance(body, dict) or body.get("version") != VERSION:
            return [f"{SEAL}: not a seal of this version"]
        problems = _signature_problems(body, key)
        problems += _file_problems(body, audit.__getitem__)
        records, found = _record_problems(audit[MANIFEST], audit[LEDGER])
        problems += found
        if len(records) != body.get("records"):
            problems.append(f"{MANIFEST}: {len(records)} records, sealed were {body['records']}")
        return problems + _output_problems(records, read, present)
    except (OSError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        return [*missing, f"the audit files are not readable ({type(error).__name__})"]


def is_sealed(read: Read, key: AuditKey | None) -> bool:
    """Whether the audit files are those of their seal, which this `key` made, or none where none is
    given; says nothing of the outputs."""
    try:
        sealed = read(SEAL)
        body = _json(sealed.decode())
        signed = is_signed(sealed)
        problems = _signature_problems(body, key) + _file_problems(body, read)
        return signed == (key is not None) and not problems
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def is_seal(content: bytes) -> bool:
    """Whether a file is a seal of ours, whatever it seals."""
    body = _json(content.decode(errors="replace"))
    return isinstance(body, dict) and {"version", "sha256", "algorithm"} <= body.keys()


def are_records(manifest: bytes) -> bool:
    """Whether the first line of a manifest is a record of a run, or there is none."""
    first, _, _ = manifest.partition(b"\n")
    record = _json(first.decode(errors="replace")) if first else {"file": "", "status": ""}
    return isinstance(record, dict) and {"file", "status"} <= record.keys()


def changed_records(read: Read) -> list[str]:
    """Manifest and ledger, as far as they are there, that are no longer those of their seal. `read`
    raises `OSError` for what is missing; without a readable seal there is nothing to compare."""
    try:
        body = _json(read(SEAL).decode())
    except (OSError, UnicodeDecodeError):
        return []
    if not isinstance(body, dict) or not isinstance(body.get("sha256"), dict):
        return []
    changed: list[str] = []
    for name in (MANIFEST, LEDGER):
        with suppress(FileNotFoundError):
            changed += _changed(body, read, name)
    return changed


def unproven(read: Read, key: AuditKey, *pending: str) -> list[str]:
    """What is wrong with seal, manifest and ledger, as far as they are there, where only what `key`
    signed is believed; also what a seal named in `pending` vouches for is."""
    problems: list[str] = []
    proven: set[tuple[str, str]] = set()
    for name in (SEAL, *pending):
        with suppress(FileNotFoundError):
            body = _json(read(name).decode(errors="replace"))
            sound = isinstance(body, dict)
            found = _signature_problems(body, key) if sound else [f"{name}: not a seal"]
            problems += found if name == SEAL else []
            proven |= set() if found else set(body["sha256"].items())
    for name in (MANIFEST, LEDGER):
        with suppress(FileNotFoundError):
            if (name, hashlib.sha256(read(name)).hexdigest()) not in proven:
                problems.append(f"{name}: not signed by the key given")
    return problems


def is_audit_file(name: str) -> bool:
    """Whether a file of a batch belongs to its records and not to its outputs."""
    return name in AUDIT_FILES or name.startswith(PRIVATE)


def is_signed(seal_file: bytes) -> bool:
    """Whether a seal claims a signature; `verify` says whether it holds."""
    body = _json(seal_file.decode(errors="replace"))
    return isinstance(body, dict) and body.get("algorithm") != UNSIGNED


def _signature_problems(body: Mapping[str, Any], key: AuditKey | None) -> list[str]:
    algorithm, signature = body.get("algorithm"), str(body.get("signature"))
    if key is None:
        return (
            []
            if algorithm == UNSIGNED
            else [f"{SEAL}: signed by key {body.get('key')}; give that key to check it"]
        )
    if algorithm == UNSIGNED:
        return [f"{SEAL}: not signed, though a key was given"]
    if algorithm != key.algorithm or body.get("key") != key.identity:
        return [f"{SEAL}: signed by key {body.get('key')}, not by the one given, {key.identity}"]
    return [] if key.verify(_message(body), signature) else [f"{SEAL}: its signature is wrong"]


def _file_problems(body: Mapping[str, Any], read: Read) -> list[str]:
    changed = _changed(body, read, *(name for name in AUDIT_FILES if name != SEAL))
    return [f"{name}: changed since it was sealed" for name in changed]


def _changed(body: Mapping[str, Any], read: Read, *names: str) -> list[str]:
    sealed = body["sha256"]
    return [name for name in names if hashlib.sha256(read(name)).hexdigest() != sealed.get(name)]


def _record_problems(manifest: bytes, ledger: bytes) -> tuple[list[dict[str, Any]], list[str]]:
    """The records, and which of them are not those of the ledger."""
    lines, entries = manifest.splitlines(keepends=True), ledger.splitlines(keepends=True)
    records, problems = [], []
    for number, (line, text) in enumerate(zip_longest(lines, entries, fillvalue=b""), 1):
        record, entry = _json(line.decode()), _json(text.decode())
        name = f"record {number}"
        if isinstance(record, dict):
            records.append(record)
            name += f" ({record.get('file')})"
        if not isinstance(record, dict) or not isinstance(entry, dict):
            problems.append(f"{name}: missing, added or not readable")
        elif hashlib.sha256(line).hexdigest() != entry.get("record_sha256"):
            problems.append(f"{name}: not the one in the ledger: changed, moved or replaced")
    return records, problems


def _output_problems(
    records: Iterable[Mapping[str, Any]], read: Read, present: set[str]
) -> list[str]:
    problems, known = [], set(AUDIT_FILES)
    for record in records:
        if not record.get("output_sha256"):  # what was not read this time may have one of before
            continue
        output = str(record.get("output"))
        known.add(output)
        if output not in present:
            problems.append(f"{output}: missing")
            continue
        try:
            changed = hashlib.sha256(read(output)).hexdigest() != record.get("output_sha256")
        except OSError as error:
            problems.append(f"{output}: not readable ({error.strerror or error})")
            continue
        if changed:
            problems.append(f"{output}: changed since it was written")
    extra = {name for name in present - known if not is_audit_file(name)}
    return problems + [f"{name}: not of this batch" for name in sorted(extra)]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
