"""Foreign files are read without running anything, and refused when they ask for it."""

import argparse
import collections
import io
import os
import pickle
import struct
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deid.errors import DeidError
from deid.weights import pickles
from deid.weights.allowed import NVIDIA, Module
from deid.weights.arrays import NUMPY
from deid.weights.files import read_content
from deid.weights.pickles import AllowList, read_pickle
from deid.weights.tensors import load_torch

LISTS = pytest.mark.parametrize("allowed", [NVIDIA, NUMPY], ids=["nvidia", "numpy"])
TENSOR = torch.arange(6.0).reshape(2, 3)


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.parts


def named(module: str, name: str) -> Callable[..., Any]:
    """A function that pickles under that name."""

    def function(*_: Any) -> None:
        raise AssertionError("called")

    function.__module__, function.__qualname__ = module, name
    return function


@pytest.fixture
def nvidia_names(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, Any]], Call]:
    """`persistent(class, state)` pickles as NVIDIA's networks do, with source that would write."""
    reconstruct = named("torch_utils.persistence", "_reconstruct_persistent_obj")
    for module in ("torch_utils", "torch_utils.persistence"):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    monkeypatch.setattr(
        sys.modules["torch_utils.persistence"],
        "_reconstruct_persistent_obj",
        reconstruct,
        raising=False,
    )

    def persistent(name: str, state: dict[str, Any]) -> Call:
        source = "open('ran', 'w').write('embedded source ran')"
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": name}
        return Call(reconstruct, meta | {"state": state})

    return persistent


@pytest.fixture(autouse=True)
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every test here runs in an empty folder where nothing called `ran` may appear."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists(), "code from a file was executed"


def refused(data: bytes, allowed: AllowList) -> str:
    with pytest.raises(DeidError) as error:
        read_pickle(data, allowed)
    return str(error.value)


def test_the_canary_would_tell(canary: Path) -> None:
    pickle.loads(pickle.dumps(Call(os.system, "touch ran")))
    assert canary.exists()
    canary.unlink()


@LISTS
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "call",
    [
        Call(os.system, "touch ran"),
        Call(eval, "open('ran', 'w')"),
        Call(exec, "open('ran', 'w')"),
        Call(open, "ran", "w"),
        Call(getattr, "text", "upper"),
        Call(__import__, "antigravity"),
        Call(pickle.loads, pickle.dumps(Call(os.system, "touch ran"))),
        Call(torch.load, "ran"),
        Call(np.load, "ran"),
        Call(np.save, "ran", np.zeros(1)),
        Call(types.SimpleNamespace),
        Call(collections.namedtuple, "Name", "field"),
    ],
    ids=lambda call: call.parts[0].__name__,
)
def test_a_name_outside_the_list_is_refused(call: Call, protocol: int, allowed: AllowList) -> None:
    assert "refused" in refused(pickle.dumps({"w": call}, protocol), allowed)


@LISTS
@pytest.mark.parametrize(
    "data",
    [
        b"cposix\nsystem\n(S'touch ran'\ntR.",
        b"(S'touch ran'\niposix\nsystem\n.",  # INST
        b"(cposix\nsystem\nS'touch ran'\no.",  # OBJ
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x09touch ran\x85R.",
        b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.",
        b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
        b"ccollections\nOrderedDict __init__\n.",
        b"cbuiltins\ngetattr\n(ccollections\nOrderedDict\nS'__init__'\ntR.",
        b"ccopyreg\n_reconstructor\n(cbuiltins\nobject\ncbuiltins\nobject\nNtR.",
        b"\x80\x02\x82\x01.",  # EXT1
        b"Pposix\n.",  # PERSID
        b"\x80\x02NQ.",  # BINPERSID
        b"\x80\x05\x97.",  # NEXT_BUFFER
    ],
)
def test_steps_that_find_or_call_otherwise_are_refused(data: bytes, allowed: AllowList) -> None:
    assert "refused" in refused(data, allowed)


@LISTS
@pytest.mark.parametrize(
    "data",
    [
        b"ccollections\nOrderedDict\n}S'__init__'\nS'x'\nsb.",  # state set on an allowed name
        b"ccollections\nOrderedDict\n(N}S'__call__'\nNstb.",  # slots set on an allowed name
        b"ccollections\nOrderedDict\n(tR(N}S'__setstate__'\nNstb.",
        b"(lN}b.",  # a list's state
        b"S'text'\n}S'__setstate__'\nNsb.",
        b"}(tR.",  # calls a dictionary
        b"S'posix.system'\n(S'touch ran'\ntR.",  # calls text
        b"ccollections\nOrderedDict\nN\x81.",  # NEWOBJ without a tuple
        b"\x80\x04ccollections\nOrderedDict\n)}S'a'\nNs\x92.",  # NEWOBJ_EX with keywords
        b"ccollections\nOrderedDict\n((lcollections\ntR.",
        b"cnumpy\ndtype\n(S'O8'\ntR.",  # objects
        b"cnumpy\ndtype\n(S'f4'\ntRS'state'\nb.",
    ],
)
def test_calls_and_states_of_the_wrong_kind_are_refused(data: bytes, allowed: AllowList) -> None:
    assert refused(data, allowed)


def test_source_inside_a_network_is_dropped_unread(
    nvidia_names: Callable[[str, dict[str, Any]], Call],
) -> None:
    state = {"_parameters": {"weight": torch.nn.Parameter(TENSOR)}, "gain": np.float64(0.5)}
    content = {"G_ema": nvidia_names("Generator", state), "D": None, "labels": {1, 2}}
    for protocol in (3, 4, 5):
        found = read_pickle(pickle.dumps(content, protocol), NVIDIA)
        network = found["G_ema"]
        assert isinstance(network, Module)
        assert network.class_name == "Generator"
        assert torch.equal(network.state["_parameters"]["weight"], TENSOR)
        assert network.state["gain"] == 0.5
        assert set(found["labels"]) == {1, 2}


@pytest.mark.parametrize(
    "inner",
    [
        pickle.dumps(Call(os.system, "touch ran")),
        b"cposix\nsystem\n(S'touch ran'\ntR.",
        b"",
        b"PK\x03\x04",
    ],
)
def test_a_pickle_within_a_pickle_runs_nothing(inner: bytes) -> None:
    load = torch.storage._load_from_bytes  # type: ignore[attr-defined]
    assert refused(pickle.dumps(Call(load, inner)), NVIDIA)
    assert refused(pickle.dumps(Call(load, pickle.dumps(Call(load, inner)))), NVIDIA)
    saved = io.BytesIO()
    torch.save(Call(os.system, "touch ran"), saved)
    assert refused(pickle.dumps(Call(load, saved.getvalue())), NVIDIA)
    saved = io.BytesIO()
    torch.save({"a": TENSOR}, saved)
    said = refused(pickle.dumps(Call(load, saved.getvalue())), NVIDIA)
    assert "instead of the numbers of a tensor" in said


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (7,), (1,)), (5, (2,), (1,)), (0, (2, 2), (1, 6)), (-1, (1,), (1,)), (0, (10**12,), (0,))],
)
def test_a_tensor_outside_its_storage_is_refused(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    storage = TENSOR._typed_storage()
    call = Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, None)
    assert "refused" in refused(pickle.dumps(call), NVIDIA)


def test_bombs_end_early(monkeypatch: pytest.MonkeyPatch) -> None:
    nested = b"(lp0\n0" + b"".join(b"(g%d\ng%d\ntp%d\n0" % (i, i, i + 1) for i in range(60))
    assert "key" in refused(nested + b"}g60\nNs.", NUMPY)  # its hash would take 2^60 steps
    assert refused(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.", NUMPY)  # a huge length
    assert refused(b"L" + b"9" * 100_000 + b"L\n.", NUMPY)  # a huge number
    assert refused(b"(" * 100_000 + b".", NUMPY)
    monkeypatch.setattr(pickles, "MAX_OPCODES", 1000)
    assert "1,000 steps" in refused(b"N0" * 501 + b"N.", NUMPY)


def test_what_is_held_often_is_visited_once() -> None:
    shared: dict[int, Any] = {0: np.zeros(2)}
    for _ in range(30):
        shared = dict.fromkeys(range(10), shared)  # 10^30 paths
    found = read_pickle(pickle.dumps({"w": shared}), NUMPY)["w"]
    for _ in range(30):
        found = found[9]
    np.testing.assert_array_equal(found[0], np.zeros(2))


def test_a_recursive_value_is_read_or_refused_but_ends() -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless
    assert "self" in read_pickle(pickle.dumps(endless), NUMPY)


ARRAYS = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(3, dtype=">f4"),
    "count": np.array(7),
}
# numpy.float32([1, 2]) as Python 2 wrote it, with protocol 2
PYTHON2 = (
    b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R("
    b"K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff"
    b"\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00@tbs."
)


@pytest.mark.parametrize("protocol", range(5))
def test_arrays_come_as_they_were(protocol: int) -> None:
    found = read_pickle(pickle.dumps(ARRAYS, protocol), NUMPY)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_python_2_arrays_are_read_as_latin1() -> None:
    wanted = pickle.loads(PYTHON2, encoding="latin1")
    np.testing.assert_array_equal(read_pickle(PYTHON2, NUMPY)["w"], wanted["w"])


def test_arrays_of_objects_and_of_wrong_length_are_refused() -> None:
    assert "numbers" in refused(pickle.dumps({"w": np.array([None, "x"])}), NUMPY)
    assert refused(PYTHON2.replace(b"U\x08\x00\x00", b"U\x04"), NUMPY)
    assert refused(PYTHON2.replace(b"K\x02\x85c", b"K\xff\x85c"), NUMPY)


@settings(max_examples=300)
@given(st.data())
def test_damaged_pickles_are_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    original = pickle.dumps(ARRAYS, data.draw(st.integers(0, 4)))
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(mutated)))
    for allowed in (NUMPY, NVIDIA):
        with suppress(DeidError):
            read_pickle(bytes(mutated[:cut]), allowed)


def test_a_namespace_of_options_does_not_stand_in_the_way(tmp_path: Path) -> None:
    options = argparse.Namespace(size=256, channel_multiplier=2)
    torch.save({"g_ema": {"w": TENSOR}, "args": options}, tmp_path / "training.pt")
    assert torch.equal(read_content(tmp_path / "training.pt")["g_ema"]["w"], TENSOR)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_that_hold_more_than_weights_are_refused(tmp_path: Path, zipped: bool) -> None:
    for value in (Call(os.system, "touch ran"), {"net": torch.nn.Linear(1, 1)}):
        torch.save(value, tmp_path / "bad.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(DeidError, match=r"bad\.pt.*weights alone"):
            read_content(tmp_path / "bad.pt")


def test_a_compressed_torch_archive_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.namelist():
            bomb.writestr(entry, plain.read(entry))
    assert load_torch(tmp_path / "plain.pt")["w"].shape == (1000,)
    with pytest.raises(DeidError, match="compressed"):
        load_torch(tmp_path / "bomb.pt")


def test_kinds_of_file_are_told_by_content(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.bin" for name in ("zip", "legacy", "pickle", "tar")}
    torch.save({"w": TENSOR}, files["zip"])
    torch.save({"w": TENSOR}, files["legacy"], _use_new_zipfile_serialization=False)
    files["pickle"].write_bytes(pickle.dumps({"w": TENSOR.numpy()}))
    with tarfile.open(files["tar"], "w:gz") as archive:
        archive.add(__file__, "resnet50.py")
        archive.add(files["legacy"], "resnet50.pth")
    for file in files.values():
        np.testing.assert_array_equal(read_content(file)["w"], TENSOR)


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"GIF89a", b"PK\x03\x04broken", b"\x1f\x8b\x08", b"\x80\x04N.", b"(lN."]
)
def test_what_is_no_checkpoint_is_named_in_one_line(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "odd.pkl"
    file.write_bytes(data)
    with pytest.raises(DeidError, match=r"odd\.pkl") as error:
        read_content(file)
    assert "\n" not in str(error.value)
    with pytest.raises(DeidError, match="missing"):
        read_content(tmp_path / "missing.pt")
