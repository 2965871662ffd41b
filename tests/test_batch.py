"""A batch: killed, starved, odd-named or split, it ends in the same bytes with nothing lost."""

import errno
import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deid.audit.seal import AUDIT_FILES, LEDGER, MANIFEST, SEAL, recorded_name, verify
from deid.batch import executor as executor_module
from deid.batch import pipeline as pipeline_module
from deid.batch import plan as plan_module
from deid.batch import run as run_module
from deid.batch.executor import InProcess
from deid.batch.manifest import Records
from deid.batch.outcome import Outcome, Task, refused
from deid.batch.pipeline import build_pipeline
from deid.batch.plan import list_inputs, locate, make_plan
from deid.batch.run import exclusive, recorded, run_batch
from deid.batch.settings import BatchSettings, RunSettings
from deid.batch.summary import Summary, shown
from deid.batch.workers import ProcessPool
from deid.cli.audit import verify as verify_command
from deid.errors import DeidError
from deid.pool import processes
from deid.storage.local import LocalStorage
from deid.storage.protocol import PRIVATE, is_safe
from tests import executor
from tests.executor import CRASHED, HANGING, STARVED, open_mask, open_preview
from tests.toy import toy_world


def save(path: Path, seed: int, width: int = 48) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def contents(folder: Path) -> dict[str, bytes]:
    """What a batch leaves, without what tells when, and without what only later batches read."""
    storage = LocalStorage(folder)
    names = [n for n in storage.list() if not n.startswith(PRIVATE) and n not in (LEDGER, SEAL)]
    return {name: storage.read(name) for name in names}


def states(folder: Path) -> dict[str, str]:
    return {line["file"]: line["status"] for line in Records(LocalStorage(folder)).all()}


def run(source: Path, destination: Path, jobs: int = 0, timeout: float = 60.0) -> Summary:
    """In this process, or by `jobs` others."""
    places = locate(str(source), str(destination))
    if jobs:
        return run_batch(places, lambda p: ProcessPool(open_mask, p, jobs, timeout))
    return run_batch(places, lambda p: InProcess(open_mask(), p))


def test_a_batch_killed_at_any_moment_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    source, killed = tmp_path / "in", tmp_path / "killed"
    for n in range(60):
        save(source / f"{n % 7}/{n}.png", n)
    (source / "3/broken.jpg").write_bytes(b"no picture")
    (source / "notes.txt").write_text("no picture")
    run(source, tmp_path / "whole")
    held = source / "6/0.png"  # before the last 8: no batch is done before it is killed
    save(held, 99, HANGING)
    moments = random.Random(0)
    for part in range(6):
        batch = processes().Process(target=executor.mask, args=(source, killed))
        batch.start()
        enough = part * 8 + moments.randint(1, 8)
        while len(list(killed.rglob("*.png"))) < enough and batch.is_alive():
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.01))
        batch.kill()
        batch.join()
        assert batch.exitcode == -9, "it was not killed on its way"
    held.unlink()
    summary = run(source, killed)
    assert 0 < summary.counts["done"] <= 52
    assert summary.counts.total() == 62
    assert contents(killed) == contents(tmp_path / "whole")
    assert run(source, killed).counts == {"done": 60, "quarantined": 1, "skipped": 1}


def test_neither_processes_nor_their_deaths_change_a_byte(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for n in range(8):
        save(source / f"{n}.png", n)
    run(source, tmp_path / "alone")
    alone_manifest = contents(tmp_path / "alone")
    for name, width in (("2a.png", CRASHED), ("4a.png", HANGING), ("5a.png", STARVED)):
        save(source / name, 99, width)
    out = tmp_path / "out"
    summary = run(source, out, jobs=2, timeout=5.0)
    assert summary.counts == {"written": 8, "quarantined": 3}
    reasons = {line["file"]: line["reason"] for line in Records(LocalStorage(out)).all()}
    assert "signal 11" in reasons["2a.png"]
    assert "took too long" in reasons["4a.png"]
    assert "no memory left" in reasons["5a.png"]
    for name, data in alone_manifest.items():
        if name.endswith(".png"):
            assert (out / name).read_bytes() == data
    for name in ("2a.png", "4a.png", "5a.png"):
        assert not (out / name).exists()
        (source / name).unlink()
    # The manifest of the others is the one of a batch without them.
    others = (out / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    kept = [line for line in others if json.loads(line)["status"] == "written"]
    assert b"".join(kept) == alone_manifest["manifest.jsonl"]


def open_nothing() -> None:
    raise DeidError("weights: not there")


def open_and_die() -> None:
    os._exit(7)


@pytest.mark.parametrize(
    ("opener", "said"), [(open_nothing, "weights: not there"), (open_and_die, "code 7")]
)
def test_workers_that_cannot_start_are_one_error(tmp_path: Path, opener: object, said: str) -> None:
    save(tmp_path / "in/a.png", 1)
    places = locate(str(tmp_path / "in"), str(tmp_path / "out"))
    with pytest.raises(DeidError, match=said):
        run_batch(places, lambda p: ProcessPool(opener, p, 1))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


ODD_NAMES = [
    "-rf.png",
    "a\nb.png",
    "ä ö ü 顔.png",
    " lead and trail .png",
    "\x1b[31mred.png",
    "'quotes\".png",
    "%2e%2e.png",
    "holidays (1)/beach.png",
    "." + "hidden.png",
    "9:05.png",
    "1:1/x.png",
    "\\back.png",
    "n" * 251 + ".png",
    "/".join(["deep"] * 40) + "/x.png",
    os.fsdecode(b"not-\xff-unicode.png"),
    ".deid/private.png",
]


def test_odd_names_come_out_as_they_went_in(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for n, name in enumerate(ODD_NAMES):
        save(source / name, n)
    summary = run(source, out)
    found = states(out)
    assert found == dict.fromkeys(ODD_NAMES[:-1], "written") | {ODD_NAMES[-1]: "quarantined"}
    written = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert written == set(ODD_NAMES[:-1])
    sealed = LocalStorage(out)
    assert verify(sealed.read, [n for n in sealed.list() if not n.startswith(PRIVATE)]) == []
    assert run(source, out).counts == {"done": len(ODD_NAMES) - 1, "quarantined": 1}
    assert summary.text().isprintable() or "\x1b" not in summary.text()
    assert all(shown(name).isprintable() and "\n" not in shown(name) for name in ODD_NAMES)


def test_links_are_never_followed(tmp_path: Path) -> None:
    secret, source, out = tmp_path / "secret", tmp_path / "in", tmp_path / "out"
    save(secret / "s.png", 1)
    save(source / "a.png", 2)
    (source / "file.png").symlink_to(secret / "s.png")
    (source / "folder").symlink_to(secret)
    (source / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(source / "pipe.png")
    summary = run(source, out)
    assert summary.counts == {"written": 1, "skipped": 4}
    assert {path.name for path in out.rglob("*.png")} == {"a.png"}
    # Nor at the destination, where one could lead an output astray.
    save(source / "sub/b.png", 3)
    (out / "sub").symlink_to(secret)
    summary = run(source, out)
    assert summary.counts["quarantined"] == 1
    assert {path.name for path in secret.iterdir()} == {"s.png"}


def test_a_file_swapped_for_a_link_while_the_batch_runs_is_not_read(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    save(source / "a.png", 1)
    save(tmp_path / "secret.png", 2)
    places = locate(str(source), str(out))

    class Swapping(InProcess):
        def work(self, tasks):  # type: ignore[no-untyped-def]
            (source / "a.png").unlink()
            (source / "a.png").symlink_to(tmp_path / "secret.png")
            return super().work(tasks)

    summary = run_batch(places, lambda p: Swapping(open_mask(), p))
    assert summary.counts == {"quarantined": 1}
    assert "symbolic link" in summary.text()


def test_what_was_touched_is_looked_at_again_and_what_was_not_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for n in range(4):
        save(source / f"{n}.png", n)
    run(source, out)
    before = contents(out)
    reads: list[str] = []
    fetch = LocalStorage.fetch

    def counted(self: LocalStorage, name: str, limit: int | None = None) -> tuple[bytes, str]:
        if name.endswith(".png"):
            reads.append(f"{self.root.name}/{name}")
        return fetch(self, name, limit)

    monkeypatch.setattr(LocalStorage, "fetch", counted)
    assert run(source, out).counts == {"done": 4}
    assert reads == []
    # The same size and the same time of change, as a tool that copies times leaves it.
    status = (out / "1.png").stat()
    spoilt = bytearray((out / "1.png").read_bytes())
    spoilt[-20] ^= 1
    (out / "1.png").write_bytes(bytes(spoilt))
    os.utime(out / "1.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    (source / "2.png").touch()
    summary = run(source, out)
    assert summary.counts == {"done": 3, "quarantined": 1}
    assert set(reads) == {"in/1.png", "out/1.png", "in/2.png", "out/2.png"}
    (out / "1.png").unlink()
    assert run(source, out).counts == {"done": 3, "written": 1}
    assert contents(out) == before
    reads.clear()
    (out / ".deid/manifest.known.jsonl").unlink()
    assert run(source, out).counts == {"done": 4}
    assert len(reads) == 8
    assert contents(out) == before


def test_a_second_run_keeps_out_of_a_destination_at_work(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", 1)
    places = locate(str(tmp_path / "in"), str(tmp_path / "out"))
    with exclusive(places), pytest.raises(DeidError, match="another run is at work"):
        run(tmp_path / "in", tmp_path / "out")
    assert run(tmp_path / "in", tmp_path / "out").counts == {"written": 1}


def test_records_may_go_elsewhere(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", 1)
    audit = BatchSettings(audit=str(tmp_path / "audit"))
    places = locate(str(tmp_path / "in"), str(tmp_path / "out"), audit)
    start = partial(InProcess, open_mask())
    assert run_batch(places, start).counts == {"written": 1}
    assert set(contents(tmp_path / "out")) == {"a.png"}
    assert set(AUDIT_FILES) == {path.name for path in (tmp_path / "audit").glob("*.*")} - {".deid"}
    assert run_batch(places, start).counts == {"done": 1}


def test_an_input_that_comes_to_no_end_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(2):
        save(tmp_path / f"in/{n}.png", n)
    passed = run_module.recorded
    monkeypatch.setattr(run_module, "recorded", lambda o, r: list(passed(o, r))[1:])
    with pytest.raises(RuntimeError, match="2 inputs, but"):
        run(tmp_path / "in", tmp_path / "out")


def test_a_key_that_cannot_sign_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in/a.png", 1)
    public = Ed25519PrivateKey.generate().public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    monkeypatch.setenv("DEID_AUDIT_KEY", pem.decode())
    with pytest.raises(DeidError, match="cannot sign; give the private one"):
        run(tmp_path / "in", tmp_path / "out")
    monkeypatch.setenv("DEID_AUDIT_KEY", os.fsdecode(b"\xff" * 8))
    with pytest.raises(DeidError, match="too short"):
        run(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_single_picture_leaves_the_rest_of_its_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    save(tmp_path / "in/a.png", 1)
    save(home / "mine.png", 2)
    walk = LocalStorage._walk

    def watched(self: LocalStorage, folder: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
        assert folder or self.root != home, "the whole folder is walked"
        return walk(self, folder)

    monkeypatch.setattr(LocalStorage, "_walk", watched)
    assert run(tmp_path / "in/a.png", home / "safe.png").counts == {"written": 1}
    assert run(tmp_path / "in/a.png", home / "safe.png").counts == {"done": 1}
    assert {path.name for path in home.iterdir()} == {"mine.png", "safe.png", ".deid"}
    verify_command(str(home / "safe.png"))
    assert "unchanged" in capsys.readouterr().out
    (home / "safe.png").write_bytes(b"other")
    with pytest.raises(DeidError, match="1 problem; do not trust it"):
        verify_command(str(home / "safe.png"))


def test_a_run_with_nothing_new_lists_each_place_once_and_reads_each_record_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a hundred thousand files each further look costs seconds."""
    for n in range(3):
        save(tmp_path / f"in/{n}.png", n)
    run(tmp_path / "in", tmp_path / "out")
    looks: Counter[str] = Counter()
    list_, read = LocalStorage.list, LocalStorage.read

    def listed(self: LocalStorage, prefix: str = "") -> dict[str, str]:
        looks.update([f"list {self.root.name}"] if not prefix else [])
        return list_(self, prefix)

    def fetched(self: LocalStorage, name: str) -> bytes:
        looks.update([name])
        return read(self, name)

    monkeypatch.setattr(LocalStorage, "list", listed)
    monkeypatch.setattr(LocalStorage, "read", fetched)
    assert run(tmp_path / "in", tmp_path / "out").counts == {"done": 3}
    assert (looks["list in"], looks["list out"]) == (1, 1)
    assert (looks[MANIFEST], looks[LEDGER]) == (2, 1), "once more for the seal"
    assert not [name for name in looks if name.endswith(".png")]


@given(st.text(alphabet="ab./\\ \0Ü", max_size=12))
def test_a_name_is_judged_as_pathlib_would_judge_it(name: str) -> None:
    path = PurePosixPath(name)
    plain = not path.is_absolute() and ".." not in path.parts and "\0" not in name
    safe = plain and bool(path.parts) and str(path) == name
    assert is_safe(name) == safe
    if safe:
        assert plan_module._suffix(name) == path.suffix.lower()


def test_a_killed_batch_is_unfinished_and_not_distrusted(tmp_path: Path) -> None:
    for n in range(2):
        save(tmp_path / f"in/{n}.png", n)
    run(tmp_path / "in", tmp_path / "out")
    save(tmp_path / "in/2.png", 2)
    places = locate(str(tmp_path / "in"), str(tmp_path / "out"))
    with InProcess(open_mask(), places) as executor, exclusive(places):
        records = Records(places.audit)
        plan = make_plan(places, list_inputs(places), records, executor.info)
        list(recorded(executor.work(plan.tasks(records)), records))
    with pytest.raises(DeidError, match="unfinished; run the same command again"):
        verify_command(str(tmp_path / "out"))
    run(tmp_path / "in", tmp_path / "out")
    verify_command(str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "nothing is there; correct the path"),
        ("film.mp4", "1 × not a picture by its suffix"),
        ("link.png", "1 × a symbolic link"),
    ],
)
def test_a_source_without_a_picture_is_an_error_that_says_what_is_there(
    tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "in").mkdir()
    if name == "link.png":
        (tmp_path / "in" / name).symlink_to(tmp_path / "annex")
    elif name:
        (tmp_path / "in" / name).touch()
    with pytest.raises(DeidError, match=said):
        run(tmp_path / "in", tmp_path / "out")
    if name == "film.mp4":
        with pytest.raises(DeidError, match=r"film\.mp4: no picture"):
            run(tmp_path / "in" / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_records_that_changed_since_their_seal_are_not_sealed_again(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    save(source / "a.png", 1)
    run(source, out)
    sealed, ledger = (out / SEAL).read_bytes(), (out / LEDGER).read_bytes()
    for name in (MANIFEST, LEDGER):
        kept = (out / name).read_bytes()
        (out / name).write_bytes(kept.replace(b"a.png", b"b.png", 1))
        save(source / "later.png", 2)
        with pytest.raises(DeidError, match=f"{name} changed since the seal"):
            run(source, out)
        (out / name).write_bytes(kept)
    assert ((out / SEAL).read_bytes(), (out / LEDGER).read_bytes()) == (sealed, ledger)
    assert run(source, out).counts == {"written": 1, "done": 1}


def test_a_run_killed_between_manifest_and_seal_resumes_without_a_new_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "b.png"):
        save(source / name, 1)
    run(source, out)
    (source / "b.png").unlink()
    places, write = locate(str(source), str(out)), LocalStorage.write

    def killed(storage: LocalStorage, name: str, data: bytes) -> Any:
        if name == SEAL:
            raise KeyboardInterrupt
        return write(storage, name, data)

    monkeypatch.setattr(LocalStorage, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        run_batch(places, lambda p: InProcess(open_mask(), p), prune=True)
    monkeypatch.undo()
    with pytest.raises(DeidError, match="unfinished; run the same command again"):
        verify_command(str(out))
    run(source, out)
    verify_command(str(out))
    assert states(out) == {"a.png": "written"}


def test_a_process_that_finds_other_settings_than_the_first_does_no_work(tmp_path: Path) -> None:
    source, seed = tmp_path / "in", tmp_path / "seed"
    for n in range(2):
        save(source / f"{n}.png", n)
    seed.write_text("1")
    places = locate(str(source), str(tmp_path / "out"))
    with ProcessPool(partial(executor.open_seeded, seed), places, jobs=2) as pool:
        seed.write_text("2")
        tasks = [Task(f"{n}.png", "", f"{n}.png", None, None, None) for n in range(2)]
        pool._workers[0].task = "at work"  # so that another one is needed
        with pytest.raises(DeidError, match="have changed since this run began"):
            list(pool.work(iter(tasks)))


def test_outputs_of_inputs_that_are_gone_stay_until_they_are_pruned(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for n in range(3):
        save(source / f"{n}.png", n)
    run(source, out)
    (source / "0.png").unlink()
    (source / "1.png").unlink()
    (out / "1.png").write_bytes(b"somebody's")
    assert "2 inputs on record are gone; --prune" in run(source, out).text()
    assert (out / "0.png").exists()
    places = locate(str(source), str(out))
    summary = run_batch(places, lambda p: InProcess(open_mask(), p), prune=True)
    assert "of 1 inputs that are gone were removed; 1 were changed since and stay" in summary.text()
    assert {path.name for path in out.glob("*.png")} == {"1.png", "2.png"}
    assert "0.png" not in states(out)


def test_two_names_that_must_not_be_told_stay_two(tmp_path: Path) -> None:
    lines = [refused(name, "", "quarantined", "x").line["file"] for name in ("/a.png", "/b.png")]
    assert len(set(lines)) == 2
    assert [recorded_name(line) for line in lines] == lines


def done_and_restored(place: Path, count: int) -> dict[str, bytes]:
    """What a batch of `count` pictures left, whose inputs were restored since: their times are
    others, so that each is looked at again."""
    for n in range(count):
        save(place / f"in/{n}.png", n)
    run(place / "in", place / "out")
    for n in range(count):
        os.utime(place / f"in/{n}.png", (n, n))
    return contents(place / "out")


def test_a_source_that_goes_away_costs_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = done_and_restored(tmp_path, 3)
    fetch = LocalStorage.fetch

    def gone(self: LocalStorage, name: str, limit: int | None = None) -> tuple[bytes, str]:
        if self.root == tmp_path / "in":
            (tmp_path / "in" / name).unlink(missing_ok=True)
        return fetch(self, name, limit)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "fetch", gone)
        assert run(tmp_path / "in", tmp_path / "out").counts == {"quarantined": 3}
    after = contents(tmp_path / "out")
    assert {n: b for n, b in after.items() if n.endswith(".png")} == {
        n: b for n, b in before.items() if n.endswith(".png")
    }
    sealed = LocalStorage(tmp_path / "out")
    assert verify(sealed.read, [n for n in sealed.list() if not n.startswith(PRIVATE)]) == []
    for n in range(3):
        save(tmp_path / f"in/{n}.png", n)
    assert run(tmp_path / "in", tmp_path / "out").counts == {"written": 3}
    assert contents(tmp_path / "out") == before


def test_files_that_may_not_be_read_end_no_batch_and_cost_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = done_and_restored(tmp_path, 4)
    monkeypatch.setattr(run_module, "MOST_UNREACHABLE", 2)
    opened = os.open

    def forbidden(path: Any, *more: Any, **named: Any) -> int:
        if Path(path).parent == tmp_path / "in" and Path(path).name != "3.png":
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *more, **named)

    monkeypatch.setattr(os, "open", forbidden)
    assert run(tmp_path / "in", tmp_path / "out").counts == {"quarantined": 3, "done": 1}
    assert {n for n in contents(tmp_path / "out") if n.endswith(".png")} <= before.keys()
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


def test_a_dry_run_minds_outputs_and_nothing_else(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", 1)
    run(tmp_path / "in", tmp_path / "stage")  # a source that was a destination has a .deid, too
    for folder in ("stage", "look"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "notes.txt").write_text("mine")
    where = locate(str(tmp_path / "stage"), str(tmp_path / "look"))
    assert run_batch(where, partial(InProcess, open_preview())).counts["previewed"] == 1


def test_previews_go_nowhere_where_outputs_are_wherever_the_records_lie(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", 1)
    preview = partial(InProcess, open_preview())
    elsewhere = BatchSettings(audit=str(tmp_path / "records"))
    places = [
        locate(str(tmp_path / "in/a.png"), str(tmp_path / "out")),
        locate(str(tmp_path / "in"), str(tmp_path / "out"), elsewhere),
    ]
    run(tmp_path / "in", tmp_path / "out")
    for where in places:
        with pytest.raises(DeidError, match="holds outputs, and previews show original faces"):
            run_batch(where, preview)
    elsewhere = BatchSettings(audit=str(tmp_path / "more"))
    run_batch(
        locate(str(tmp_path / "in"), str(tmp_path / "out2"), elsewhere),
        partial(InProcess, open_mask()),
    )
    with pytest.raises(DeidError, match="holds outputs, and previews show original faces"):
        run_batch(locate(str(tmp_path / "in"), str(tmp_path / "out2")), preview)


def test_nobodys_own_file_is_taken_for_a_record(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", 1)
    with pytest.raises(DeidError, match="holds the originals; choose another --audit"):
        locate(str(tmp_path / "in"), str(tmp_path / "out"), BatchSettings(audit=str(tmp_path)))
    for name, own in (
        ("manifest.jsonl", b'{"file": "cat.jpg"}\n'),
        ("summary.html", b"<p>mine"),
        ("seal.json", b"[]"),
        ("seal.json", b'{"version": 3}'),
    ):
        out = tmp_path / f"with {name}"
        out.mkdir(exist_ok=True)
        (out / name).write_bytes(own)
        with pytest.raises(DeidError, match=f"{name} is there and is no record of deid's"):
            run(tmp_path / "in", out)
        assert (out / name).read_bytes() == own


def test_a_signature_is_not_lost_to_a_run_without_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in/a.png", 1)
    with monkeypatch.context() as patched:
        patched.setenv("DEID_AUDIT_KEY", "k" * 64)
        run(tmp_path / "in", tmp_path / "out")
    sealed = (tmp_path / "out" / SEAL).read_bytes()
    with pytest.raises(DeidError, match="its records are signed; name the key"):
        run(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / SEAL).read_bytes() == sealed


def test_a_single_picture_removes_what_a_killed_run_left_and_nothing_that_is_being_written(
    tmp_path: Path,
) -> None:
    save(tmp_path / "in/a.png", 1)
    now, old = (tmp_path / f"out/.deid-{digit * 16}.tmp" for digit in "01")
    now.parent.mkdir()
    for file in (now, old):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    run(tmp_path / "in/a.png", tmp_path / "out")
    assert now.exists()
    assert not old.exists()


def test_an_output_has_the_format_of_its_name(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", 1)
    (tmp_path / "in/a.png").rename(tmp_path / "in/a.jpg")
    run(tmp_path / "in/a.jpg", tmp_path / "safe.webp")
    with Image.open(tmp_path / "safe.webp") as image:
        assert image.format == "WEBP"
    summary = run(tmp_path / "in", tmp_path / "out")
    with Image.open(tmp_path / "out/a.jpg") as image:
        assert image.format == "JPEG"
    assert "note: a.jpg: stored as JPEG, as its name says; it was PNG" in summary.text()


def open_broken() -> None:
    raise ValueError("layer 3 of weights")


def test_a_fault_while_loading_is_told_as_it_is(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", 1)
    places = locate(str(tmp_path / "in"), str(tmp_path / "out"))
    with pytest.raises(DeidError, match="worker process failed: ValueError: layer 3") as raised:
        run_batch(places, lambda p: ProcessPool(open_broken, p, 1))  # type: ignore[arg-type]
    assert "memory" not in str(raised.value)


def test_a_worker_that_dies_idle_costs_nothing(tmp_path: Path) -> None:
    for n in range(2):
        save(tmp_path / f"in/{n}.png", n)
    places = locate(str(tmp_path / "in"), str(tmp_path / "out"))
    with ProcessPool(open_mask, places, 1, 60.0) as executor, exclusive(places):
        records = Records(places.audit)
        plan = make_plan(places, list_inputs(places), records, executor.info)
        (worker,) = executor._workers
        worker._process.kill()
        worker._process.join()
        outcomes = list(executor.work(plan.tasks(records)))
    assert [outcome.word for outcome in outcomes] == ["written", "written"]


def test_one_process_gives_up_what_takes_too_long(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", 1, HANGING)
    places = locate(str(tmp_path / "in/a.png"), str(tmp_path / "out"))
    summary = run_batch(places, lambda p: InProcess(open_mask(), p, 0.2))
    assert summary.counts == {"quarantined": 1}
    assert "took too long; raise --timeout" in summary.text()


def test_encryption_without_s3_is_refused() -> None:
    with pytest.raises(DeidError, match="only S3 is asked for it"):
        locate("in", "out", BatchSettings(encryption="AES256"))


def test_a_folder_is_not_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeidError, match="a link leads out"):
        LocalStorage(tmp_path / "out").write("link/deep/a.png", b"data")
    assert not list((tmp_path / "elsewhere").iterdir())


SOURCES = {
    "gate/sweep.py": True,
    "worlds/world.py": True,
    "worlds/head_turns.py": True,
    "worlds/looks_shifts.py": True,
    "worlds/photo/generator.py": True,
    "worlds/public/files.py": True,
    "worlds/photo/pretrain/heads.py": False,
    "training/stage_one.py": False,
}


def test_a_change_of_the_code_that_shapes_outputs_makes_them_stale(tmp_path: Path) -> None:
    package = tmp_path / "deid"
    shutil.copytree(Path(pipeline_module.__file__).parents[1], package)
    before = pipeline_module.code_sha256(package)
    assert before == pipeline_module.code_sha256()
    for name, stale in SOURCES.items():
        with (package / name).open("a") as file:
            file.write("LIMIT = 1\n")
        pipeline_module.code_sha256.cache_clear()
        after = pipeline_module.code_sha256(package)
        assert (after != before) == stale, name
        before = after


def test_a_poison_file_is_quarantined_once_and_told_each_time(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    save(source / "good.png", 1)
    save(source / "crashes.png", 2, CRASHED)
    (source / "broken.jpg").write_bytes(b"no picture")
    first = run(source, out, jobs=1)
    before = contents(out)
    again = run(source, out)  # in this process, which the crash would end
    assert again.counts == {"done": 1, "quarantined": 2}
    assert again.failed
    assert sorted(again.problems) == sorted(first.problems)
    assert "2 quarantined by an earlier run, not tried again" in again.text()
    assert contents(out) == before
    save(source / "crashes.png", 2)  # somebody repaired it
    assert run(source, out).counts == {"done": 1, "written": 1, "quarantined": 1}


def test_what_was_quarantined_is_tried_again_if_asked_or_under_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "broken.jpg").write_bytes(b"no picture")
    run(source, out)
    tried: list[str] = []
    real = executor_module.process_task

    def watched(task: Task, *rest: Any) -> Outcome:
        tried.append(task.name)
        return real(task, *rest)

    monkeypatch.setattr(executor_module, "process_task", watched)
    run(source, out)
    assert tried == []
    places = locate(str(source), str(out))
    run_batch(places, lambda p: InProcess(open_mask(), p), retry=True)
    assert tried == ["broken.jpg"]
    other = build_pipeline(RunSettings(method="mask", seed=1), toy_world(), None)
    run_batch(places, lambda p: InProcess(other, p))
    assert tried == ["broken.jpg"] * 2


def test_what_was_not_the_pictures_fault_is_tried_again(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    save(source / "a.png", 1, STARVED)
    save(source / "b.png", 2)
    out.mkdir()
    (out / "b.png").write_bytes(b"somebody's")
    assert run(source, out).counts == {"quarantined": 2}
    (out / "b.png").unlink()
    assert run(source, out).counts == {"quarantined": 1, "written": 1}
    assert "not tried again" not in run(source, out).text()


def test_late_renamed_and_doubled_pictures_are_each_done_once(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    save(source / "a.png", 1)
    save(source / "b.png", 2)
    run(source, out)
    save(source / "late.png", 3)
    os.utime(source / "late.png", (0, 0))  # older than all that was done
    (source / "b.png").rename(source / "renamed.png")
    (source / "twin.png").write_bytes((source / "a.png").read_bytes())
    summary = run(source, out)
    assert summary.counts == {"done": 1, "written": 3}
    assert "1 inputs on record are gone; --prune removes their outputs" in summary.text()
    made = contents(out)
    assert made["renamed.png"] == made["b.png"], "the same picture gets the same face"
    assert made["twin.png"] == made["a.png"]
    assert run(source, out).counts == {"done": 4}
