"""Public weight files arrive whole, verified and on known terms, or not at all."""

import dataclasses
import hashlib
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deid import cli
from deid.batch.project import bundle_at
from deid.errors import DeidError
from deid.params import WorldParams
from deid.storage.staging import file_sha256
from deid.weights import catalog as catalog
from deid.weights import download, packages
from deid.weights import store as hashes
from deid.weights.archives import extract_member
from deid.weights.catalog import FAMILIES, FILES, find, needs, require_commercial, with_parts
from deid.weights.convert import convert
from deid.weights.download import Patience
from deid.weights.entry import NETWORK_ROLES, ROLES, Source, WeightFile
from deid.weights.fetch import fetch, shared_archives
from deid.weights.importers import NETWORKS
from deid.weights.lock import write_lock
from deid.weights.store import (
    Store,
    default_store,
    locate_network,
    state,
    verified,
    weight_path,
)
from deid.worlds.public.files import Files
from tests.conftest import ROOT
from tests.faulty_server import FaultyServer
from tests.test_importers import nvidia_content, tiny

DATA = b"\x80\x02" + random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
OTHER = b"\x80\x02" + random.Random(1).randbytes(300_000)
PATIENCE = Patience(connect=20, silence=20, window=20, tries=3, pause=0.0)
HASTY = dataclasses.replace(PATIENCE, silence=2)  # for who meets a server that falls silent


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FaultyServer().running() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def entry(*urls: str, member: str | None = None, **more: object) -> WeightFile:
    """An entry of the catalog's form, with a known hash unless told otherwise."""
    given: dict[str, object] = {
        "name": "thing",
        "file": "thing.pth",
        "role": "expression",
        "what": "a thing",
        "license": "MIT",
        "commercial": True,
        "trained_on": "nothing",
        "convention": "none",
        "sources": tuple(Source(url, member) for url in urls),
        "sha256": SHA256,
    }
    return WeightFile(**(given | more))


def get(wanted: WeightFile, store: Store, patience: Patience = PATIENCE, **more: object) -> Path:
    return fetch(wanted, store, patience=patience, **more)


def left(store: Store) -> set[str]:
    """What lies in the store, the lock aside."""
    return {path.name for path in store.folder.iterdir() if path.suffix != ".lock"}


# Downloads


def test_a_file_arrives_whole_with_a_record_beside_it(server: FaultyServer, store: Store) -> None:
    url = server.serve("a", DATA)
    seen: list[tuple[int, int | None]] = []
    path = get(entry(url), store, report=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == DATA
    assert left(store) == {"thing.pth", "thing.pth.json"}
    record = json.loads((store.folder / "thing.pth.json").read_text())
    assert (record["url"], record["sha256"], record["size"]) == (url, SHA256, len(DATA))
    assert (record["license"], record["accepted"]) == ("MIT", "not required")
    assert record["time"].endswith("+00:00")
    assert seen[0] == (0, len(DATA))
    assert seen[-1] == (len(DATA), len(DATA))


def test_what_is_here_is_not_asked_for_again(server: FaultyServer, store: Store) -> None:
    wanted = entry(server.serve("a", DATA))
    get(wanted, store)
    get(wanted, store)
    assert len(server.asked("a")) == 1


def test_a_cut_connection_is_resumed_where_it_broke(server: FaultyServer, store: Store) -> None:
    url = server.serve("a", DATA, faults=["cut", "cut"])
    assert get(entry(url), store).read_bytes() == DATA
    half, rest = len(DATA) // 2, len(DATA) - len(DATA) // 2
    assert server.asked("a") == [None, f"bytes={half}-", f"bytes={half + rest // 2}-"]
    assert server.paths["/a"].conditions == [None, '"one"', '"one"']


def test_a_server_that_always_cuts_still_serves_if_each_try_brings_more(
    server: FaultyServer, store: Store
) -> None:
    url = server.serve("a", DATA, faults=["cut"] * 12)
    assert get(entry(url), store).read_bytes() == DATA
    assert len(server.asked("a")) == 13


@pytest.mark.parametrize(
    "more",
    [
        {"ranges": False},
        {"etag": None},  # nothing to name the version by
        {"etag": 'W/"weak"'},
        {"etag": None, "modified": "not a date"},
    ],
)
def test_without_ranges_or_a_sure_version_it_starts_over(
    server: FaultyServer, store: Store, more: dict[str, object]
) -> None:
    url = server.serve("a", DATA, faults=["cut"], **more)
    assert get(entry(url), store).read_bytes() == DATA
    assert len(server.asked("a")) == 2
    if "ranges" not in more:
        assert server.asked("a") == [None, None]


def test_an_old_date_names_a_version_and_a_fresh_one_does_not(
    server: FaultyServer, store: Store
) -> None:
    old = "Tue, 01 Jan 2019 00:00:00 GMT"
    url = server.serve("a", DATA, etag=None, modified=old, faults=["cut"])
    get(entry(url), store)
    assert server.asked("a")[1] == f"bytes={len(DATA) // 2}-"
    now = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    url = server.serve("b", DATA, etag=None, modified=now, faults=["cut"])
    get(entry(url, file="b.pth"), store)
    assert server.asked("b") == [None, None]


@pytest.mark.parametrize("fault", ["", "ignores If-Range"])
def test_a_file_that_changed_between_attempts_is_never_mixed(
    server: FaultyServer, store: Store, fault: str
) -> None:
    url = server.serve("a", OTHER, faults=["cut", "500", "500", "500"])
    wanted = entry(url, sha256=None)
    with pytest.raises(DeidError, match="HTTP 500"):
        get(wanted, store)
    assert (store.folder / "thing.pth.part").stat().st_size == len(OTHER) // 2
    served = server.paths["/a"]
    served.data, served.etag, served.faults = DATA, '"two"', [fault]
    assert get(wanted, store).read_bytes() == DATA
    assert f"bytes={len(OTHER) // 2}-" in server.asked("a")


@pytest.mark.parametrize(
    "fault", ["promises more", "promises less", "other range", "no length", "500", "429"]
)
def test_a_passing_fault_costs_a_try_and_nothing_else(
    server: FaultyServer, store: Store, fault: str
) -> None:
    first = ["cut"] if fault == "other range" else []
    url = server.serve("a", DATA, faults=[*first, fault])
    spare = server.serve("b", DATA)
    assert get(entry(url, spare), store).read_bytes() == DATA
    assert left(store) == {"thing.pth", "thing.pth.json"}


@pytest.mark.parametrize("fault", ["404", "403", "stall", "redirect ftp://127.0.0.1/a"])
def test_an_address_that_does_not_serve_is_left_for_the_next(
    server: FaultyServer, store: Store, fault: str
) -> None:
    bad = server.serve("bad", DATA, faults=[fault])
    good = server.serve("good", DATA)
    assert get(entry(bad, good), store, HASTY).read_bytes() == DATA
    assert len(server.asked("bad")) == len(server.asked("good")) == 1
    assert json.loads((store.folder / "thing.pth.json").read_text())["url"] == good


def test_a_trickling_address_is_left_for_the_next(server: FaultyServer, store: Store) -> None:
    slow = server.serve("slow", DATA, rate=20_000)
    good = server.serve("good", DATA)
    began = time.monotonic()
    patience = dataclasses.replace(PATIENCE, window=0.3, silence=5, slowest=100_000)
    assert get(entry(slow, good), store, patience).read_bytes() == DATA
    assert time.monotonic() - began < 5  # all of the slow one would take 15 s
    assert server.asked("good") == [None]  # what the slow one gave is not mixed in


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (OTHER, "application/octet-stream"),
        (DATA[:-1], "application/octet-stream"),
        (b"", "application/octet-stream"),
        (b"version https://git-lfs.github.com/spec/v1\n", "text/plain"),
        (b"<html>Sign in</html>", "text/html; charset=utf-8"),
    ],
)
def test_wrong_bytes_are_thrown_away_and_the_next_address_tried(
    server: FaultyServer, store: Store, data: bytes, kind: str
) -> None:
    bad, good = server.serve("bad", data, kind=kind), server.serve("good", DATA)
    assert get(entry(bad, good), store).read_bytes() == DATA
    with pytest.raises(DeidError) as said:
        get(entry(bad, file="b.pth"), store)
    assert bad in str(said.value)
    assert left(store) == {"thing.pth", "thing.pth.json"}


@pytest.mark.parametrize("data", [b"<html>Sign in</html>", b'{"error": "gone"}', b""])
def test_a_page_is_no_weight_file_even_where_no_hash_is_known(
    server: FaultyServer, store: Store, data: bytes
) -> None:
    with pytest.raises(DeidError, match="text, not weights"):
        get(entry(server.serve("a", data), sha256=None), store)
    assert left(store) == set()


def test_the_hash_in_a_file_name_is_held_to(server: FaultyServer, store: Store) -> None:
    url = server.serve("a", DATA)
    get(entry(url, sha256=None, sha256_prefix=SHA256[:8]), store)
    with pytest.raises(DeidError, match="wrong bytes"):
        get(entry(url, file="b.pth", sha256=None, sha256_prefix="00000000"), store)


def test_when_no_address_serves_one_line_says_why_for_each(
    server: FaultyServer, store: Store
) -> None:
    a, b = server.serve("a", DATA, faults=["404"]), server.serve("b", DATA, faults=["500"] * 3)
    gone = "http://127.0.0.1:9/c"
    with pytest.raises(DeidError) as said:
        get(entry(a, b, gone), store)
    text = str(said.value)
    assert f"{a}: HTTP 404" in text
    assert f"{b}: HTTP 500 Internal Server Error, 3 times" in text
    assert f"{gone}: no connection" in text
    assert "DEID_WEIGHTS_DIR" in text
    assert "\n" not in text
    assert left(store) == set()


def test_an_endless_answer_ends(server: FaultyServer, store: Store) -> None:
    small = dataclasses.replace(PATIENCE, largest=100_000)
    for fault in ("", "no length"):
        url = server.serve("a", DATA, faults=[fault])
        with pytest.raises(DeidError, match="more than"):
            get(entry(url), store, small)


def test_too_little_space_is_said_before_anything_is_written(
    server: FaultyServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = download.shutil.disk_usage("/")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DeidError, match="free space"):
        get(entry(server.serve("a", DATA)), store)
    assert not (store.folder / "thing.pth").exists()


def test_what_another_address_began_is_finished_there_first(
    server: FaultyServer, store: Store
) -> None:
    a = server.serve("a", DATA, faults=["404"])
    b = server.serve("b", DATA, faults=["cut", "500", "500", "500"])
    wanted = entry(a, b)
    with pytest.raises(DeidError):
        get(wanted, store)
    get(wanted, store)
    assert len(server.asked("a")) == 1
    assert server.asked("b")[-1] == f"bytes={len(DATA) // 2}-"


_CHILD = """
import sys
from pathlib import Path
from deid.weights.entry import ROLES, Source, WeightFile
from deid.weights.fetch import fetch
from deid.weights.store import Store
url, folder, sha256 = sys.argv[1:]
entry = WeightFile("thing", "thing.pth", "expression", "", "MIT", True, "", "",
                   (Source(url),), sha256=sha256)
fetch(entry, Store(Path(folder)))
"""


def test_a_killed_fetch_goes_on_where_it_was(server: FaultyServer, store: Store) -> None:
    url = server.serve("a", DATA, rate=20_000)  # 15 s, to find it at work
    words = [sys.executable, "-c", _CHILD, url, str(store.folder), SHA256]
    child = subprocess.Popen(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    part = store.folder / "thing.pth.part"
    deadline = time.monotonic() + 60
    while not (part.is_file() and part.stat().st_size > 10_000):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(DeidError, match="another process is fetching it"):
        get(entry(url), store)
    child.kill()
    child.wait()
    had = part.stat().st_size
    assert not (store.folder / "thing.pth").exists()
    server.paths["/a"].rate = None
    assert get(entry(url), store).read_bytes() == DATA
    assert server.asked("a") == [None, f"bytes={had}-"]


# Archives


def zipped(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members:
            opened.writestr(name, data)
    return buffer.getvalue()


def tarred(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as opened:
        for info, data in members:
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


@pytest.mark.parametrize(
    "archive",
    [
        zipped(("pack/readme.txt", b"x"), ("pack/thing.pth", DATA)),
        tarred((tarfile.TarInfo("pack/a.py"), b"x"), (tarfile.TarInfo("pack/thing.pth"), DATA)),
    ],
    ids=["zip", "tar.gz"],
)
def test_the_one_member_wanted_is_taken_out(
    server: FaultyServer, store: Store, archive: bytes
) -> None:
    url = server.serve("pack", archive, faults=["cut"])
    assert get(entry(url, member="*.pth"), store).read_bytes() == DATA
    assert left(store) == {"thing.pth", "thing.pth.json"}


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        (zipped(("../../thing.pth", DATA)), "leads out"),
        (zipped(("/etc/thing.pth", DATA)), "leads out"),
        (zipped(("..\\thing.pth", DATA)), "leads out|0 members"),
        (zipped(("C:/thing.pth", DATA)), "leads out"),
        (tarred((tarfile.TarInfo("../thing.pth"), DATA)), "leads out"),
        (tarred((link("thing.pth", "/etc/passwd"), b"")), "no plain file"),
        (zipped(("a/thing.pth", DATA), ("b/thing.pth", OTHER)), "2 members"),
        (zipped(("a/other.txt", DATA)), "0 members"),
        (zipped(("thing.pth", DATA))[:-40], "not a readable archive"),
        (b"\x00 no archive at all", "not a readable archive"),
        (tarred((tarfile.TarInfo("thing.pth"), DATA))[:-4000], "not a readable archive|cut short"),
    ],
)
def test_a_hostile_or_broken_archive_is_refused_and_writes_nothing_outside(
    tmp_path: Path, archive: bytes, said: str
) -> None:
    inner = tmp_path / "deep/inside"
    inner.mkdir(parents=True)
    (inner / "archive").write_bytes(archive)
    with pytest.raises(DeidError, match=said):
        extract_member(inner / "archive", "thing.pth", inner / "out")
    outside = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert outside <= {inner / "archive", inner / "out"}


def test_a_corrupt_member_is_refused(tmp_path: Path) -> None:
    archive = bytearray(zipped(("thing.pth", DATA)))
    archive[len(archive) // 2] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(archive)
    with pytest.raises(DeidError, match="not a readable archive"):
        extract_member(tmp_path / "a.zip", "thing.pth", tmp_path / "out")


def test_a_zip_that_names_a_link_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("thing.pth")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr(info, "/etc/passwd")
    with pytest.raises(DeidError, match="no plain file"):
        extract_member(tmp_path / "a.zip", "thing.pth", tmp_path / "out")


# Packages


CLIENT = """#!{python}
import pathlib, sys
with open({log!r}, "a") as log:
    print(*sys.argv[1:], file=log)
if {fails}:
    sys.exit("E404 no such package")
pathlib.Path("pack.tgz").write_bytes(pathlib.Path({archive!r}).read_bytes())
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Registry":
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return Registry(tmp_path)


@dataclasses.dataclass
class Registry:
    """Stands for `pip` and `npm`: each brings the same archive, or fails."""

    folder: Path

    def serves(self, archive: bytes, fails: bool = False) -> None:
        (self.folder / "pack").write_bytes(archive)
        more = {"log": str(self.folder / "log"), "archive": str(self.folder / "pack")}
        for name in ("pip", "npm"):
            client = self.folder / "bin" / name
            client.write_text(CLIENT.format(python=sys.executable, fails=fails, **more))
            client.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        log = self.folder / "log"
        return log.read_text().splitlines() if log.exists() else []


PACK = tarred((tarfile.TarInfo("package/a/thing.pth"), DATA), (tarfile.TarInfo("b.pth"), OTHER))


@pytest.mark.parametrize("url", ["npm:@some/pack@1.0", "pypi:pack==1.0"])
def test_members_of_a_package_come_by_its_own_client_and_once(
    registry: Registry, store: Store, url: str
) -> None:
    registry.serves(PACK)
    sources = (Source(url, "package/*/thing.pth"), Source("http://127.0.0.1:9/a"))
    one = entry(sources=sources)
    other = entry(file="b.pth", sources=(Source(url, "b.pth"),), sha256=None)
    with shared_archives(store) as archives:
        assert get(one, store, archives=archives).read_bytes() == DATA
        assert get(other, store, archives=archives).read_bytes() == OTHER
    (asked,) = registry.asked
    assert asked.endswith(url.partition(":")[2])
    assert ("--ignore-scripts" in asked) != ("--no-deps" in asked and "--only-binary" in asked)
    assert left(store) == {"thing.pth", "thing.pth.json", "b.pth", "b.pth.json"}


def test_a_package_that_does_not_come_is_left_for_the_next_address(
    registry: Registry, server: FaultyServer, store: Store
) -> None:
    spare = Source(server.serve("a", DATA))
    wanted = entry(sources=(Source("pypi:pack==1", "*.pth"), spare))
    assert get(wanted, store).read_bytes() == DATA  # there is no client
    registry.serves(PACK, fails=True)
    alone = dataclasses.replace(wanted, file="b.pth", sources=wanted.sources[:1])
    with pytest.raises(DeidError, match=r"pypi:pack==1: .*pip failed \(E404 no such package"):
        get(alone, store)
    registry.serves(tarred((tarfile.TarInfo("thing.pth"), OTHER)))
    with pytest.raises(DeidError, match="wrong bytes"):
        get(alone, store)


def test_an_archive_that_several_files_need_is_downloaded_once(
    server: FaultyServer, store: Store
) -> None:
    url = server.serve("pack.whl", PACK)
    one = entry(sources=(Source(url, "*/thing.pth"),))
    other = entry(file="b.pth", sources=(Source(url, "b.pth"),), sha256=None)
    with shared_archives(store) as archives, shared_archives(store) as none:
        assert none is None
        get(one, store, archives=archives)
        get(other, store, archives=archives)
    assert server.asked("pack.whl") == [None, f"bytes={len(PACK)}-"]  # all of it was here
    assert left(store) == {"thing.pth", "thing.pth.json", "b.pth", "b.pth.json"}


# The store


def test_the_first_hash_is_recorded_and_later_ones_held_to_it(
    server: FaultyServer, store: Store
) -> None:
    wanted = entry(server.serve("a", DATA), sha256=None)
    path = get(wanted, store)
    assert state(wanted, store) == "no hash"
    path.write_bytes(OTHER)
    assert state(wanted, store) == "differs"
    with pytest.raises(DeidError, match="delete it, then run `deid weights fetch thing`"):
        get(wanted, store)
    assert path.read_bytes() == OTHER  # not ours to overwrite
    path.unlink()
    server.paths["/a"].data = OTHER
    with pytest.raises(DeidError, match="wrong bytes"):
        get(wanted, store)
    assert state(wanted, store) == "missing"


def test_a_file_put_there_by_hand_is_recorded_and_held_to(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = entry(sha256=None, by_hand="a shop")
    with pytest.raises(DeidError, match=r"get thing.pth by hand \(a shop\)"):
        get(wanted, store)
    store.folder.mkdir()
    store.path(wanted).write_bytes(DATA)
    assert get(wanted, store) == store.path(wanted)
    record = json.loads((store.folder / "thing.pth.json").read_text())
    assert (record["sha256"], record["url"]) == (SHA256, None)
    assert record["accepted"] == "put there by hand"
    said = capsys.readouterr().err
    assert f"no SHA-256 is published for it; from now on only {SHA256} is accepted" in said
    assert len(said.splitlines()) == 1
    verified(wanted, store)
    assert capsys.readouterr().err == ""  # once is enough
    store.path(wanted).write_bytes(OTHER)
    with pytest.raises(DeidError, match="SHA-256"):
        verified(wanted, store)


def test_a_file_is_read_again_only_when_it_changed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, read = entry(), []
    store.folder.mkdir()
    path = store.path(wanted)
    path.write_bytes(DATA)
    known = hashes.file_sha256
    monkeypatch.setattr(hashes, "file_sha256", lambda path: read.append(path) or known(path))
    assert [state(wanted, store) for _ in range(3)] == ["verified"] * 3
    assert read == [path]
    path.write_bytes(OTHER)
    os.utime(path, ns=(1, 1))  # whatever the clock's steps are
    assert [state(wanted, store) for _ in range(2)] == ["differs"] * 2
    assert read == [path] * 2
    for broken in ("[" * 100_000, "[1]", '{"a": 1}', "", json.dumps({f"{path} {len(OTHER)} 1": 5})):
        (store.folder / hashes.MEMO).write_text(broken)
        assert state(wanted, store) == "differs"
    with pytest.raises(DeidError, match="SHA-256"):  # what is used is read whatever was noted
        verified(wanted, store)


def test_a_broken_record_is_named(store: Store) -> None:
    wanted = entry(sha256=None)
    store.folder.mkdir()
    store.path(wanted).write_bytes(DATA)
    (store.folder / "thing.pth.json").write_text("[]")
    with pytest.raises(DeidError, match="not a readable record"):
        verified(wanted, store)


def test_offline_nothing_is_downloaded_and_the_folder_stays_as_it_was(
    server: FaultyServer, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    offline = Store(tmp_path / "store", offline=given)
    wanted = entry(server.serve("a", DATA), sha256=None)
    with pytest.raises(DeidError, match=r"put thing\.pth there"):
        get(wanted, offline)
    (given / "thing.pth").write_bytes(DATA)
    assert get(wanted, offline) == given / "thing.pth"
    assert server.asked("a") == []
    assert [path.name for path in given.iterdir()] == ["thing.pth"]
    (given / "thing.pth").write_bytes(OTHER)
    with pytest.raises(DeidError, match="SHA-256"):
        get(wanted, offline)


def test_the_environment_says_where_files_lie(tmp_path: Path) -> None:
    assert default_store({"DEID_WEIGHTS_STORE": str(tmp_path)}) == Store(tmp_path)
    offline = default_store({"DEID_WEIGHTS_DIR": str(tmp_path)})
    assert offline.place == tmp_path
    assert offline.folder != tmp_path
    with pytest.raises(DeidError, match="DEID_WEIGHTS_DIR"):
        default_store({"DEID_WEIGHTS_DIR": str(tmp_path / "nowhere")})


# Terms


def test_a_license_that_forbids_uses_must_be_accepted(server: FaultyServer, store: Store) -> None:
    wanted = entry(server.serve("a", DATA), commercial=False, license="non-commercial")
    with pytest.raises(DeidError, match=r"license \(non-commercial\) must be accepted"):
        get(wanted, store)
    assert server.asked("a") == []
    get(wanted, store, accepted="at the prompt")
    record = json.loads((store.folder / "thing.pth.json").read_text())
    assert (record["accepted"], record["commercial"]) == ("at the prompt", False)


def test_the_commercial_variant_refuses_what_its_license_forbids() -> None:
    require_commercial(["yunet", "mtcnn-pnet", "foamliu-mobilefacenet"])
    with pytest.raises(DeidError, match=r"w600k_r50.onnx.*InsightFace.*non-commercial"):
        require_commercial(["yunet", "arcface-w600k-r50"])
    for names in needs("ffhq", commercial_only=True).values():
        assert all(find(name).commercial for name in names)
    with pytest.raises(DeidError, match="stylegan2-ffhq256-nvidia"):
        needs("ffhq", True, {"generator": ("stylegan2-ffhq256-nvidia",)})


def test_every_role_of_a_world_is_filled_and_may_be_chosen_otherwise() -> None:
    assert needs("mini") == {}
    assert set(needs("ffhq")) == set(needs("ffhq", True)) < set(ROLES)
    assert set(needs("photo")) == set(needs("ffhq")) | {"contours", "attributes", "ensemble"}
    for wanted in (needs("ffhq"), needs("ffhq", True), needs("photo")):
        assert all(wanted.values())
        attacked = {*wanted["identity"], *wanted.get("ensemble", ())}
        assert not attacked & set(wanted["held_out"])
    for role in ("identity", "ensemble"):
        with pytest.raises(DeidError, match="mobile-face: is named twice"):
            needs("photo", chosen={role: ("mobile-face",)})
    chosen = needs("ffhq", chosen={"generator": ("550000.pt",)})
    assert chosen["generator"] == ("550000.pt",)
    with pytest.raises(DeidError, match="is no generator but detector"):
        needs("ffhq", chosen={"generator": ("yunet",)})
    with pytest.raises(DeidError, match="unknown"):
        needs("mars")
    with pytest.raises(DeidError, match=r"files\.landmarks: empty"):
        needs("ffhq", chosen={"landmarks": ()})
    assert needs("ffhq", chosen={"landmarks": ("mtcnn-onet",)})["landmarks"] == ("mtcnn-onet",)
    with pytest.raises(DeidError, match="is no landmarks but detector"):
        needs("ffhq", chosen={"landmarks": ("mtcnn-pnet",)})


def test_the_list_says_which_worlds_take_a_file() -> None:
    assert catalog.used_as("mtcnn-pnet") == "ffhq, ffhq-commercial, photo"
    assert catalog.used_as("stylegan1-ffhq256-genforce") == "ffhq-commercial"
    assert catalog.used_as("stylegan2-ffhq256-nvidia") == "ffhq"
    assert catalog.used_as("yunet") == "-"


def test_a_network_in_two_files_comes_with_both() -> None:
    assert [f.name for f in with_parts(["hse-face"])] == ["hse-face", "hse-face-numbers"]
    for file in FILES:
        for other in file.beside:
            assert find(other).role == file.role
            assert find(other).commercial == file.commercial


def test_the_catalog_is_sound() -> None:
    names = [f.name for f in FILES] + [f.file for f in FILES]
    assert len(set(names)) == len(names)
    for f in FILES:
        assert f.sources or f.by_hand, f.name
        assert f.license_page.startswith("https://"), f.name
        for source in f.sources:
            assert source.url.startswith(("https://", "pypi:", "npm:")), f.name
            assert source.member or not source.is_package, f.name
        assert Path(f.file).name == f.file, f.name
        assert f.sha256 is None or len(bytes.fromhex(f.sha256)) == 32, f.name
        if f.sha256 and f.sha256_prefix:
            assert f.sha256.startswith(f.sha256_prefix), f.name
        assert "non-commercial" not in f.license or not f.commercial, f.name


def test_one_word_fetches_all_files_of_a_network(
    server: FaultyServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [entry(server.serve(n, DATA), name=n, file=f"{n}.pt") for n in ("one", "two")]
    monkeypatch.setattr(catalog, "FILES", tuple(parts))
    monkeypatch.setitem(catalog.FAMILIES, "pair", ("one", "two"))
    with pytest.raises(DeidError, match=r"one\.pt: missing; run `deid weights fetch one`"):
        locate_network("pair", store)
    for part in parts:
        get(part, store)
    assert locate_network("pair", store) == ("pair", store.folder)
    assert locate_network("pair=elsewhere", store) == ("pair", Path("elsewhere"))
    assert locate_network("pair=", store) == ("pair", None)
    assert locate_network("other", store) == ("other", None)
    store.path(parts[1]).write_bytes(OTHER)
    with pytest.raises(DeidError, match="SHA-256"):
        locate_network("pair", store)


def test_every_family_names_files_of_the_catalog() -> None:
    for files in FAMILIES.values():
        assert {find(name).role for name in files} <= {"detector", "held_out"}


# Real files, over a bad network


def test_real_files_arrive_over_a_bad_network(
    server: FaultyServer, store: Store, assets: Path
) -> None:
    faults = [["cut"], ["500"], ["404"], ["stall"], ["promises more"], ["cut", "cut"], [], []]
    here = [f for f in FILES if (assets / "weights" / f.file).is_file()]
    assert len(here) == len(faults)
    for f, spoilt in zip(here, faults, strict=True):
        data = (assets / "weights" / f.file).read_bytes()
        bad = server.serve(f"bad/{f.file}", data, faults=list(spoilt))
        good = server.serve(f"good/{f.file}", data)
        near = dataclasses.replace(f, sources=(Source(bad), Source(good)))
        assert get(near, store, HASTY, accepted="test").read_bytes() == data
        assert weight_path(f.name, store) == store.path(f)


# Commands


@pytest.fixture
def near(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[WeightFile, WeightFile]:
    """A catalog of two files on loopback, one not for commerce, in a store of their own."""
    free = entry(server.serve("free", DATA), name="free", file="free.pth")
    strict = entry(
        server.serve("strict", OTHER),
        name="strict",
        file="strict.pth",
        sha256=None,
        license="for monks alone",
        commercial=False,
    )
    monkeypatch.setattr(catalog, "FILES", (free, strict))
    monkeypatch.setenv("DEID_WEIGHTS_STORE", str(tmp_path / "mine"))
    monkeypatch.delenv("DEID_WEIGHTS_DIR", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return free, strict


@pytest.fixture
def deid(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Run":
    return Run(monkeypatch, capsys)


@dataclasses.dataclass
class Run:
    """Runs `deid WORDS`; exit code, standard output, standard error."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self.monkeypatch.setattr("sys.argv", ["deid", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = self.capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), said.out, said.err


Near = tuple[WeightFile, WeightFile]


def test_list_shows_terms_and_what_is_here(near: Near, deid: Run, tmp_path: Path) -> None:
    code, out, _ = deid("weights", "list")
    assert code == 0
    assert max(len(line) for line in out.splitlines() if "/" not in line) <= 100
    row = next(line for line in out.splitlines() if "strict" in line)
    assert "for monks alone" in row
    assert "missing" in row
    deid("weights", "fetch", "free")
    code, out, _ = deid("weights", "list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["free"]["here"]
    assert not rows["strict"]["here"]
    assert not rows["strict"]["commercial"]
    assert rows["free"]["state"] == "verified"
    (tmp_path / "mine/free.pth").write_bytes(OTHER)
    (tmp_path / "mine/strict.pth").write_bytes(OTHER)
    _, out, _ = deid("weights", "list")
    assert re.search("free .* differs ", out)
    assert re.search("strict .* no hash ", out)


def test_fetch_shows_the_license_first_and_asks_where_it_must(
    near: Near, deid: Run, server: FaultyServer, tmp_path: Path
) -> None:
    code, out, said = deid("weights", "fetch", "free", "strict")
    assert code == 1
    assert out.index("license: MIT") < out.index("free.pth")
    assert "license: for monks alone" in out
    assert "--accept-license" in said
    assert server.asked("strict") == []
    code, out, _ = deid("weights", "fetch", "strict", "--accept-licence")  # as it once was spelt
    assert code == 0
    assert "no SHA-256 published: whatever arrives is recorded" in out
    assert (tmp_path / "mine/strict.pth").read_bytes() == OTHER
    record = json.loads((tmp_path / "mine/strict.pth.json").read_text())
    assert record["accepted"] == "--accept-license"


@pytest.mark.parametrize(("answer", "here"), [("n", False), ("y", True)])
def test_a_person_at_a_terminal_is_asked(
    near: Near,
    deid: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    here: bool,
) -> None:
    terminal = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    code, out, said = deid("weights", "fetch", "strict")
    assert "for monks alone" in out
    assert "Do you accept" in out + said
    assert (tmp_path / "mine/strict.pth").exists() == here
    assert code == (0 if here else 1)
    if here:
        record = json.loads((tmp_path / "mine/strict.pth.json").read_text())
        assert record["accepted"] == "at the prompt"


def test_verify_names_the_corrupt_file(near: Near, deid: Run, tmp_path: Path) -> None:
    assert deid("weights", "verify")[0] == 0
    deid("weights", "fetch", "free")
    torch.save(nvidia_content(tiny().state_dict()), tmp_path / "mine/strict.pth")
    code, out, _ = deid("weights", "verify")
    assert code == 0
    assert "free.pth has the SHA-256 that was published" in out
    assert out.strip().endswith("strict.pth is not verified: the catalog has no hash")
    assert not (tmp_path / "mine/strict.pth.json").exists()  # to look is not to trust
    (tmp_path / "mine/strict.pth").write_bytes(b"\x80 garbage")
    code, out, said = deid("weights", "verify")
    assert code == 1
    assert "strict.pth: damaged" in said or "strict.pth: a damaged pickle" in said
    deid("weights", "fetch", "strict", "--accept-license")  # first use: recorded
    (tmp_path / "mine/strict.pth").write_bytes(DATA)
    code, out, said = deid("weights", "verify")
    assert code == 1
    assert "strict.pth: SHA-256" in said
    assert "free" in out
    assert deid("weights", "verify", "free")[0] == 0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("weights", "fetch"), "no file named"),
        (("weights", "fetch", "nonsense"), "nonsense: no such weight file"),
        (("weights", "verify", "free"), "free.pth: missing"),
        (("weights", "fetch", "--world", "mars"), "mars"),
        (("weights", "fetch", "strict", "--commercial", "--accept-license"), "for monks alone"),
        (("doctor", "--world", "mars"), "mars"),
    ],
)
def test_a_wrong_request_is_one_line(
    near: Near, deid: Run, words: tuple[str, ...], named: str
) -> None:
    code, _, said = deid(*words)
    assert code == 1
    assert named in said
    assert len(said.strip().splitlines()) == 1


def test_a_world_without_public_files_needs_no_fetching(near: Near, deid: Run) -> None:
    code, out, said = deid("weights", "fetch", "--world", "mini")
    assert (code, said) == (0, "")
    assert "needs no public files" in out


# Files of one's own


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a converted generator, in a catalog that knows its source under its hash."""
    monkeypatch.chdir(tmp_path)
    torch.save(nvidia_content(tiny().state_dict()), "public.pt")
    source = entry(
        name="public", role="generator", file="public.pt", sha256=file_sha256(Path("public.pt"))
    )
    monkeypatch.setattr(catalog, "FILES", (source,))
    monkeypatch.setitem(catalog.WORLDS, "ffhq", {"generator": ("public",)})
    monkeypatch.setitem(catalog.WORLDS, "ffhq-commercial", {})
    convert(Path("public.pt"), Path("mine.safetensors"))
    return tmp_path


def test_a_world_takes_a_converted_generator_by_its_path(own: Path) -> None:
    store = Store(own / "store")
    params = WorldParams.model_validate(
        {"name": "ffhq", "files": {"generator": "mine.safetensors"}}
    )
    w = torch.randn(2, 6)
    drawn = Files("ffhq", params, store).network("generator").synthesis(w)
    assert torch.equal(drawn, tiny().synthesis(w))
    write_lock(params, own / "weights.json", store)
    locked = json.loads((own / "weights.json").read_text())["generator"]
    assert locked == {"mine.safetensors": file_sha256(own / "mine.safetensors")}
    assert not store.folder.exists()  # nothing that nobody reads
    Path("mine.safetensors").write_bytes(Path("mine.safetensors").read_bytes()[:-1] + b"x")
    with pytest.raises(DeidError, match=r"mine\.safetensors: SHA-256"):
        Files("ffhq", params, store)


def test_a_converted_file_has_the_terms_of_its_source_and_its_networks_place(own: Path) -> None:
    mine = {"generator": ("mine.safetensors",)}
    assert find("mine.safetensors").license == "MIT"
    assert needs("ffhq", True, mine)["generator"] == ("mine.safetensors",)
    with pytest.raises(DeidError, match=r"mine\.safetensors: is no landmarks but generator"):
        needs("ffhq", chosen={"landmarks": ("mine.safetensors",)})
    Path("public.pt").write_bytes(b"another")
    catalog.FILES = (dataclasses.replace(catalog.FILES[0], sha256=SHA256),)
    with pytest.raises(DeidError, match="not in the catalog, which the commercial variant"):
        needs("ffhq", True, mine)
    with pytest.raises(DeidError, match=r"other\.json: cannot be read.*deid weights convert"):
        find("other.safetensors")


def test_a_path_of_ones_own_is_relative_to_the_parameters(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "world: {name: ffhq, files: {generator: mine.safetensors, landmarks: public}}"
    (own / "params.yaml").write_text(text)
    (own / "deeper").mkdir()
    monkeypatch.chdir(own / "deeper")
    files = bundle_at(own).world.files
    assert files == {"generator": (str(own / "mine.safetensors"),), "landmarks": ("public",)}


def test_every_network_that_can_be_converted_has_a_place() -> None:
    assert NETWORK_ROLES.keys() == NETWORKS.keys()


# The doctor


def test_the_doctor_finds_the_embedded_world_complete_or_names_what_is_broken(
    tmp_path: Path, deid: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    code, out, _ = deid("doctor", "--world", "mini")
    assert code == 0
    assert "the world mini has all it needs" in out
    for word in ("Python", "torch", "device", "bfloat16", "memory", "disk", "nothing to download"):
        assert word in out
    trained = {path.stem for path in (ROOT / "data/mini/weights").glob("*.safetensors")}
    assert all(f"mini/{name} " in out for name in trained)
    monkeypatch.chdir(tmp_path)  # no checkout: what is installed counts, as for `deid run`
    code, out, _ = deid("doctor", "--world", "mini")
    assert code == 0
    assert "the world mini has all it needs" in out
    (tmp_path / "params.yaml").write_text("world: {weights: nowhere}")
    code, out, _ = deid("doctor")
    assert code == 1
    assert "lacks 10 of 10" in out


def test_the_doctor_examines_the_world_of_photographs_unless_asked_otherwise(
    tmp_path: Path, deid: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_WEIGHTS_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("DEID_WEIGHTS_DIR", raising=False)
    for place in (ROOT, tmp_path):
        monkeypatch.chdir(place)
        code, out, _ = deid("doctor")
        assert code == 1
        assert "the world photo lacks" in out
        assert "`deid weights fetch --world photo --accept-license`" in out
        listed = {line.split()[2] for line in out.splitlines() if line.startswith("  LACKS")}
        names = [name for group in needs("photo").values() for name in group]
        assert listed == {entry.name for entry in with_parts(names)}  # also their other files
        # The generator's four files are in one archive of 37.6 MB.
        assert "to download: 174.4 MB" in out


def test_the_doctor_says_what_ffhq_lacks_and_would_download(
    tmp_path: Path, deid: Run, monkeypatch: pytest.MonkeyPatch, assets: Path
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DEID_WEIGHTS_STORE", str(tmp_path))
    monkeypatch.delenv("DEID_WEIGHTS_DIR", raising=False)
    (tmp_path / "pnet.pt").write_bytes((assets / "weights/pnet.pt").read_bytes())
    (tmp_path / "rnet.pt").write_bytes(b"broken")
    code, out, _ = deid("doctor", "--world", "ffhq")
    assert code == 1
    lines = out.splitlines()
    rows = {line.split()[2]: line for line in lines if line.startswith(("  has", "  LACKS"))}
    assert rows["mtcnn-pnet"].startswith("  has")
    assert "SHA-256" in rows["mtcnn-rnet"]
    assert rows["mtcnn-onet"].endswith("missing")
    wanted = next(line for line in lines if line.startswith("  arcface-w600k-r50"))
    assert "288.6 MB, InsightFace" in wanted
    assert "deid weights fetch --world ffhq --accept-license`" in lines[-1]
    code, out, _ = deid("doctor", "--world", "ffhq", "--commercial")
    assert code == 1
    assert "non-commercial research" not in out.partition("trained on")[0]
    assert rows["mtcnn-onet"].split()[1] == "detector"
    assert "mini/" not in out
    assert {path.name for path in tmp_path.iterdir()} == {"pnet.pt", "rnet.pt"}


def test_the_doctor_tells_what_calls_home(tmp_path: Path) -> None:
    from deid.cli.doctor import silence

    off = tmp_path / "off"
    off.write_text("[core]\n    analytics = false\n")
    assert all(said.startswith("off") for _, said in silence({}, off))
    loud = dict(silence({"MLFLOW_DISABLE_TELEMETRY": "false"}, tmp_path / "nothing"))
    assert loud["MLflow"].startswith("ON")
    assert loud["DVC"].startswith("ON")
    assert dict(silence({"DVC_NO_ANALYTICS": "1"}, tmp_path))["DVC"].startswith("off")
