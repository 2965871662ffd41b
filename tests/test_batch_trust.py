"""A batch believes no record that it cannot prove, and removes nothing that it did not write."""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from deid.audit.seal import LEDGER, MANIFEST, SEAL
from deid.batch.executor import InProcess
from deid.batch.outcome import Task, give_up
from deid.batch.pipeline import Pipeline
from deid.batch.plan import locate
from deid.batch.run import run_batch
from deid.batch.workers import ProcessPool
from deid.cli.audit import verify as verify_command
from deid.errors import DeidError
from deid.faces.faces import Faces
from deid.pixels import Pixels
from deid.storage.local import LocalStorage
from tests.executor import CRASHED, HANGING, Dangerous, open_mask
from tests.test_batch import contents, run, save, states

# ---- what lies behind a link, or came to an output's name


@pytest.mark.parametrize("width", [CRASHED, HANGING])
def test_no_original_behind_a_link_at_the_destination_is_removed(
    tmp_path: Path, width: int
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    save(source / "sub/a.png", 1, width)
    before = (source / "sub/a.png").read_bytes()
    out.mkdir()
    (out / "sub").symlink_to("../in/sub")
    summary = run(source, out, jobs=1, timeout=2.0)
    assert summary.counts == {"quarantined": 1}
    assert (source / "sub/a.png").read_bytes() == before


@pytest.mark.parametrize("behind", ["elsewhere", "out/real"])
def test_nothing_behind_a_link_is_read_counted_or_removed(tmp_path: Path, behind: str) -> None:
    save(tmp_path / behind / "a.png", 1)
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out/link").symlink_to(tmp_path / behind)
    storage = LocalStorage(tmp_path / "out")
    for touch in (storage.version, storage.read, storage.delete):
        with pytest.raises(DeidError, match="a link leads out of the folder"):
            touch("link/a.png")
    assert (tmp_path / behind / "a.png").exists()


def test_no_record_is_kept_behind_a_link(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", 1)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.deid").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeidError, match="a link leads out of the folder"):
        run(tmp_path / "in", tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("written", ["", hashlib.sha256(b"safe").hexdigest()])
def test_what_others_put_at_an_outputs_name_outlives_a_worker_that_dies(
    tmp_path: Path, written: str
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"somebody's only copy")
    task = Task("a.jpg", "v", "a.jpg", None, None, None)
    ended = give_up(task, "its process died", LocalStorage(tmp_path), "", written)
    assert ended.word == "quarantined"
    assert (tmp_path / "a.jpg").read_bytes() == b"somebody's only copy"


class DiesAfterwards(LocalStorage):
    """Its process dies, or hangs, once the output is written."""

    def replace(self, name: str, data: bytes, version: str | None) -> str:
        super().replace(name, data, version)
        if name == "hangs.png":
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@pytest.mark.parametrize("name", ["dies.png", "hangs.png"])
def test_what_a_worker_wrote_before_it_died_goes_with_it(tmp_path: Path, name: str) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    save(source / name, 1)
    places = replace(locate(str(source), str(out)), destination=DiesAfterwards(out))
    summary = run_batch(places, lambda p: ProcessPool(open_mask, p, 1, 3.0))
    assert summary.counts == {"quarantined": 1}
    assert not (out / name).exists()


class Meanwhile(Dangerous):
    """A file comes to the output's name while the picture is looked at, which never ends."""

    def __init__(self, output: Path) -> None:
        self._output = output

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        self._output.write_bytes(b"somebody's only copy")
        return super().detect(pictures)


def test_what_comes_to_an_outputs_name_stays_when_its_picture_takes_too_long(
    tmp_path: Path,
) -> None:
    save(tmp_path / "in/a.png", 1, HANGING)
    pipeline = open_mask()
    detector = Meanwhile(tmp_path / "out/a.png")
    slow: Pipeline = replace(pipeline, components=replace(pipeline.components, detector=detector))
    places = locate(str(tmp_path / "in"), str(tmp_path / "out"))
    summary = run_batch(places, lambda p: InProcess(slow, p, 0.3))
    assert summary.counts == {"quarantined": 1}
    assert (tmp_path / "out/a.png").read_bytes() == b"somebody's only copy"
    assert states(tmp_path / "out") == {"a.png": "quarantined"}


# ---- records that others wrote

JOURNAL = ".deid/manifest.journal.jsonl"


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A signed batch of two pictures; its key is given from here on."""
    monkeypatch.setenv("DEID_AUDIT_KEY", "k" * 64)
    for n in range(2):
        save(tmp_path / f"in/{n}.png", n)
    run(tmp_path / "in", tmp_path / "out")
    return tmp_path / "out"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put_original(out: Path) -> list[dict[str, Any]]:
    """An output is replaced by its original: the records as they would have to be."""
    shutil.copy(out.parent / "in/1.png", out / "1.png")
    records = [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()]
    records[1]["output_sha256"] = sha256((out / "1.png").read_bytes())
    return records


def forge(out: Path) -> None:
    """Manifest, ledger and seal follow; only the signature cannot."""
    lines = [json.dumps(record).encode() + b"\n" for record in put_original(out)]
    entries = [json.loads(line) for line in (out / LEDGER).read_text().splitlines()]
    for entry, line in zip(entries, lines, strict=True):
        entry["record_sha256"] = sha256(line)
    (out / MANIFEST).write_bytes(b"".join(lines))
    (out / LEDGER).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    seal = json.loads((out / SEAL).read_text())
    seal["sha256"] |= {name: sha256((out / name).read_bytes()) for name in (MANIFEST, LEDGER)}
    (out / SEAL).write_text(json.dumps(seal))


def forge_unsigned(out: Path) -> None:
    forge(out)
    seal = json.loads((out / SEAL).read_text())
    (out / SEAL).write_text(json.dumps(seal | {"algorithm": "none", "key": "", "signature": ""}))


def forge_without_seal(out: Path) -> None:
    forge(out)
    (out / SEAL).unlink()


def forge_unfinished(out: Path) -> None:
    forge(out)
    (out / JOURNAL).touch()


def forge_unfinished_with_the_seal(out: Path) -> None:
    sealed = (out / SEAL).read_bytes()
    forge_unfinished(out)
    (out / ".deid/seal.json").write_bytes((out / SEAL).read_bytes())
    (out / SEAL).write_bytes(sealed)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (forge, "its signature is wrong"),
        (forge_unsigned, "not signed, though a key was given"),
        (forge_without_seal, "manifest.jsonl: not signed by the key given"),
        (forge_unfinished, "its signature is wrong"),
        (forge_unfinished_with_the_seal, "manifest.jsonl: not signed by the key given"),
    ],
)
def test_no_record_is_signed_again_that_the_key_did_not_sign(
    signed: Path, how: Callable[[Path], None], said: str
) -> None:
    how(signed)
    forged = contents(signed)
    with pytest.raises(DeidError, match=f"{said}; only what the key has signed"):
        run(signed.parent / "in", signed)
    assert contents(signed) == forged


@pytest.mark.parametrize("signature", [{}, {"signature": "00" * 32}, {"signature": None}])
def test_a_line_of_the_journal_that_the_key_did_not_sign_has_no_say(
    signed: Path, signature: dict[str, Any]
) -> None:
    record = put_original(signed)[1]
    line = {"record": record, "versions": ["x", "y"], "time": "2026-01-01T00:00:00+00:00"}
    (signed / JOURNAL).write_text(json.dumps(line | signature) + "\n")
    summary = run(signed.parent / "in", signed)
    assert summary.counts == {"done": 1, "quarantined": 1}
    assert "another file of its name is at the destination" in summary.text()


def test_a_signed_journal_without_its_key_is_not_signed_by_another(
    signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_AUDIT_KEY", "other" * 16)
    with pytest.raises(DeidError, match=r"signed by key .*not by the one given"):
        run(signed.parent / "in", signed)


def ended_early(source: Path, out: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed when it writes the file so named."""
    write, replace_ = LocalStorage.write, LocalStorage.replace

    def killed(storage: LocalStorage, name: str, data: bytes, *more: Any) -> Any:
        if name == at:
            raise KeyboardInterrupt
        return replace_(storage, name, data, *more) if more else write(storage, name, data)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "write", killed)
        patched.setattr(LocalStorage, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run(source, out)


@pytest.mark.parametrize("kind", ["secret", "Ed25519"])
@pytest.mark.parametrize("at", ["3.png", MANIFEST, LEDGER, SEAL])
def test_a_signed_batch_that_was_killed_resumes_and_does_nothing_twice(
    signed: Path, at: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = signed.parent / "in", signed
    if kind == "Ed25519":
        raw = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        private = Ed25519PrivateKey.generate().private_bytes(*raw).decode()
        monkeypatch.setenv("DEID_AUDIT_KEY", private)
        out = signed.parent / "other"
        run(source, out)
    for n in range(2, 4):
        save(source / f"{n}.png", n)
    ended_early(source, out, at, monkeypatch)
    missing = 1 if at == "3.png" else 0
    expected = {"done": 4 - missing} | ({"written": missing} if missing else {})
    assert run(source, out).counts == expected
    verify_command(str(out))
    assert run(source, out).counts == {"done": 4}


def test_a_batch_that_was_killed_before_journals_were_signed_resumes(
    signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = signed.parent / "in", signed
    for n in range(2, 4):
        save(source / f"{n}.png", n)
    ended_early(source, out, "3.png", monkeypatch)
    entry = json.loads((out / JOURNAL).read_text())
    del entry["signature"]
    (out / JOURNAL).write_text(json.dumps(entry) + "\n")
    assert run(source, out).counts == {"done": 2, "written": 2}
    verify_command(str(out))
