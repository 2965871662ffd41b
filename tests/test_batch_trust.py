"""A batch believes no record that it cannot prove, and removes nothing that it did not write."""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from deid.audit.seal import LEDGER, MANIFEST, SEAL, verify
from deid.batch.executor import InProcess
from deid.batch.outcome import Task, give_up
from deid.batch.pipeline import Pipeline
from deid.batch.plan import list_inputs, locate
from deid.batch.run import run_batch
from deid.batch.settings import BatchSettings
from deid.batch.summary import Summary
from deid.batch.workers import ProcessPool
from deid.cli.audit import verify as verify_command
from deid.errors import DeidError
from deid.faces.faces import Faces
from deid.pixels import Pixels
from deid.storage.local import LocalStorage
from deid.storage.locations import inside
from deid.storage.protocol import PRIVATE
from tests.executor import CRASHED, HANGING, Dangerous, open_mask, open_preview
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


@pytest.mark.parametrize("name", ["lock", "manifest.journal.jsonl", "manifest.known.jsonl"])
def test_no_original_is_written_to_through_a_link_among_the_records(
    tmp_path: Path, name: str
) -> None:
    save(tmp_path / "in/a.png", 1)
    before = (tmp_path / "in/a.png").read_bytes()
    (tmp_path / "out/.deid").mkdir(parents=True)
    (tmp_path / "out/.deid" / name).symlink_to(tmp_path / "in/a.png")
    with suppress(DeidError):
        run(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "in/a.png").read_bytes() == before


def test_nothing_behind_a_link_is_listed(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere/deep/a.png", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root").symlink_to(tmp_path / "elsewhere")
    assert LocalStorage(tmp_path / "out").list("link/deep/") == {}
    assert set(LocalStorage(tmp_path / "root").list("deep/")) == {"deep/a.png"}


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


# ---- sources and destinations


def problems(out: Path) -> list[str]:
    storage = LocalStorage(out)
    return verify(storage.read, [n for n in storage.list() if not n.startswith(PRIVATE)])


def pruned(source: Path, out: Path) -> Summary:
    return run_batch(locate(str(source), str(out)), lambda p: InProcess(open_mask(), p), prune=True)


@pytest.mark.parametrize("alone", [False, True])
def test_outputs_of_one_source_are_not_taken_for_those_of_another(
    tmp_path: Path, alone: bool
) -> None:
    out, name = tmp_path / "out", "IMG_1.png" if alone else ""
    for day in (1, 2):
        save(tmp_path / f"day{day}/IMG_1.png", day)
    run(tmp_path / "day1" / name, out)
    first = (out / "IMG_1.png").read_bytes()
    for again in (run, pruned):
        with pytest.raises(DeidError, match="its records are of another source than"):
            again(tmp_path / "day2" / name, out)
    assert (out / "IMG_1.png").read_bytes() == first
    assert run(tmp_path / "day1" / name, out).counts == {"done": 1}


def test_a_source_that_moved_goes_on_once_a_person_says_so(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", 1)
    run(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in").rename(tmp_path / "moved")
    with pytest.raises(DeidError, match=r"that moved, remove (.*)") as raised:
        run(tmp_path / "moved", tmp_path / "out")
    Path(str(raised.value).rpartition("remove ")[2]).unlink()
    assert run(tmp_path / "moved", tmp_path / "out").counts == {"done": 1}
    save(tmp_path / "in/a.png", 1)
    with pytest.raises(DeidError, match="another source"):
        run(tmp_path / "in", tmp_path / "out")


def test_a_batch_of_before_sources_were_recorded_goes_on(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", 1)
    run(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out/.deid/source.sha256").unlink()
    assert run(tmp_path / "in", tmp_path / "out").counts == {"done": 1}
    assert (tmp_path / "out/.deid/source.sha256").exists()


def test_a_source_is_the_same_by_whatever_path_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in/a.png", 1)
    (tmp_path / "link").symlink_to("in")
    run(tmp_path / "in", tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    for path in (Path("in"), tmp_path / "link", tmp_path / "out/../in"):
        assert run(path, tmp_path / "out").counts == {"done": 1}


def test_a_source_that_is_empty_prunes_nothing(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", 1)
    run(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in/a.png").unlink()
    places = locate(str(tmp_path / "in"), str(tmp_path / "out"))
    with pytest.raises(DeidError, match="nothing is there"):
        run_batch(places, lambda p: InProcess(open_mask(), p), prune=True)
    run_batch(places, lambda p: InProcess(open_mask(), p), prune=True, may_be_empty=True)
    assert (tmp_path / "out/a.png").exists()


def test_what_lies_behind_a_link_is_not_pruned_and_ends_no_batch(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "sub/b.png"):
        save(source / name, 1)
    run(source, out)
    (out / "sub").rename(tmp_path / "archive")
    (out / "sub").symlink_to(tmp_path / "archive")
    shutil.rmtree(source / "sub")
    assert "1 were changed since and stay" in pruned(source, out).text()
    assert (tmp_path / "archive/b.png").exists()


@pytest.mark.parametrize("destination", ["s3://b//p", "s3://b/p//", "s3://b//p/deeper", "s3://b/p"])
def test_slashes_hide_no_originals_at_the_destination(destination: str) -> None:
    assert inside(destination, "s3://b/p") is not None
    assert inside(destination, "s3://b") is not None
    assert inside("s3://b/pp", destination) is None
    with pytest.raises(DeidError, match="holds the originals"):
        locate("s3://b/p", "s3://b//")
    with pytest.raises(DeidError, match="holds the originals"):
        locate("s3://b/p", "s3://b//p")


def test_slashes_do_not_make_outputs_inputs() -> None:
    assert inside("s3://b/p/out", "s3://b//p/") == "out"


# ---- inputs that are not read


def test_an_input_that_becomes_a_link_keeps_its_output_on_record(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for n in range(2):
        save(source / f"{n}.png", n)
    run(source, out)
    (source / "0.png").rename(tmp_path / "annexed.png")
    (source / "0.png").symlink_to(tmp_path / "annexed.png")
    for again in (run, pruned, run):
        summary = again(source, out)
        assert summary.counts == {"skipped": 1, "done": 1}
        assert "a symbolic link; its output of before stays" in summary.text()
        assert problems(out) == []
    (source / "0.png").unlink()
    pruned(source, out)
    assert problems(out) == []
    assert not (out / "0.png").exists()


def test_a_name_that_no_record_can_have_is_quarantined(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("x\\..\\y.png", "plain.png"):
        save(source / name, 1)
    for _ in range(2):
        summary = run(source, out)
        assert summary.counts["quarantined"] == 1
        assert "rename it" in summary.text()
        assert problems(out) == []
    assert run(source / "plain.png", tmp_path / "x\\..\\z.png").counts == {"quarantined": 1}
    assert list_inputs(locate(str(source), str(out))).files.keys() == set(os.listdir(source))


# ---- previews


def preview(source: Path, destination: Path, audit: str | None = None) -> Summary:
    places = locate(str(source), str(destination), BatchSettings(audit=audit))
    return run_batch(places, lambda p: InProcess(open_preview(), p))


def shown(out: Path) -> set[str]:
    return {path.name for path in out.rglob("*.preview.png")}


@pytest.mark.parametrize("alone", [False, True])
def test_a_picture_done_alone_leaves_no_preview_beside_it(tmp_path: Path, alone: bool) -> None:
    save(tmp_path / "in/a.png", 1)
    out = tmp_path / "out"
    preview(tmp_path / "in" / ("a.png" if alone else ""), out)
    assert shown(out) == {"a.png.preview.png"}
    assert run(tmp_path / "in/a.png", out / "safe.png").counts == {"written": 1}
    assert shown(out) == set()


def test_a_batch_leaves_no_preview_of_a_picture_alone_beside_its_outputs(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", 1)
    preview(tmp_path / "in/a.png", tmp_path / "out")
    run(tmp_path / "in", tmp_path / "out")
    assert shown(tmp_path / "out") == set()


@pytest.mark.parametrize(("alone", "below"), [(False, ""), (False, "sub"), (True, "")])
def test_a_dry_run_keeps_away_from_pictures_done_alone(
    tmp_path: Path, alone: bool, below: str
) -> None:
    save(tmp_path / "in/a.png", 1)
    run(tmp_path / "in/a.png", tmp_path / "out" / below / "safe.png")
    with pytest.raises(DeidError, match="holds outputs, and previews show original faces"):
        preview(tmp_path / "in" / ("a.png" if alone else ""), tmp_path / "out")
    assert shown(tmp_path / "out") == set()


@pytest.mark.parametrize("alone", [False, True])
def test_no_output_comes_beside_previews_whose_records_are_elsewhere(
    tmp_path: Path, alone: bool
) -> None:
    source, out = tmp_path / "in" / ("a.png" if alone else ""), tmp_path / "out"
    save(tmp_path / "in/a.png", 1)
    preview(source, out, str(tmp_path / "audit1"))
    audit2 = BatchSettings(audit=str(tmp_path / "audit2"))
    places = locate(str(source), str(out), audit2)
    with pytest.raises(DeidError, match=r"a\.png\.preview\.png shows original faces"):
        run_batch(places, lambda p: InProcess(open_mask(), p))
    assert not (out / "a.png").exists()
    (out / "a.png.preview.png").unlink()
    assert run_batch(places, lambda p: InProcess(open_mask(), p)).counts == {"written": 1}


def test_an_input_with_a_previews_name_is_done_as_any_other(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.png.preview.png", "b.png"):
        save(source / name, 1)
    run(source, out)
    assert run(source, out).counts == {"done": 2}
    (source / "a.png.preview.png").unlink()
    assert run(source, out).counts == {"done": 1}
