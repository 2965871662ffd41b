"""Small files that promise much: each is refused in one line, in little time and memory."""

import gzip
import io
import json
import os
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from deid import cli
from deid.errors import DeidError
from deid.weights.archives import extract_member
from deid.weights.cards import card_path
from deid.weights.catalog import require_commercial_content
from deid.weights.convert import convert
from deid.weights.files import read_content
from deid.weights.importers import import_content, read_checkpoint
from tests.test_importers import nvidia_content, tiny

MIB = 1 << 20


@contextmanager
def refused(said: str, memory: int = 48 * MIB) -> Iterator[None]:
    """One line that matches `said`, within 10 s of a core and so much memory of Python's."""
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(DeidError, match=said) as error:
            yield
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 10
    assert str(error.value).isprintable()


# Archives that lie


def tar_header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def zip_record(name: bytes, size: int, offset: int = 0) -> bytes:
    """An entry of a zip's central directory: a stored file of `size` bytes at `offset`."""
    fields = (20, 20, 0, 0, 0, 0, 0, size, size, len(name), 0, 0, 0, 0, 0, offset)
    return struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields) + name


def zip_of(records: list[bytes]) -> bytes:
    """A zip whose one local part has all these entries in its directory."""
    name = b"archive/data.pkl"
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 4, 4, len(name), 0) + name
    local += b"\x80\x02}."
    directory = b"".join(records)
    sizes = (0, 0, len(records), len(records), len(directory), len(local), 0)
    return local + directory + struct.pack("<4s4H2IH", b"PK\5\6", *sizes)


def deflated_zip(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("thing.pth", data)
    return buffer.getvalue()


ARCHIVES = {
    "a tar whose member is said to have a terabyte": tar_header("thing.pth", 1 << 40) + b"x" * 600,
    "a tar.gz of zeros": gzip.compress(tar_header("thing.pth", 1 << 26) + bytes(1 << 26), 1),
    "a tar with a name of a terabyte": tar_header("name", 1 << 40, tarfile.GNUTYPE_LONGNAME)
    + bytes(600),
    "a tar.gz of nothing but headers": gzip.compress(tar_header("a", 0) * 20_000, 1),
    "a zip of zeros": deflated_zip(bytes(1 << 26)),
    "a zip whose member is said to have 4 GB": zip_of([zip_record(b"thing.pth", 0xFFFF_FFF0)]),
    "a zip that names one part often": zip_of([zip_record(b"thing.pth", 4)] * 1000),
    "a zip of 20,000 parts": zip_of([zip_record(b"%05d.pth" % i, 0) for i in range(20_000)]),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_that_lies_unpacks_to_nothing(tmp_path: Path, kind: str) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.write_bytes(ARCHIVES[kind])
    with refused("far more than it is|cut short|not a readable|twice|match|members"):
        extract_member(archive, "*.pth", out)
    assert not out.exists() or out.stat().st_size < 32 * MIB


@pytest.mark.parametrize("kind", ARCHIVES)
def test_nor_is_it_a_checkpoint(tmp_path: Path, kind: str) -> None:
    (tmp_path / "network.pth").write_bytes(ARCHIVES[kind])
    with refused("network.pth"):
        read_content(tmp_path / "network.pth")


def test_a_torch_file_whose_parts_overlap_is_refused(tmp_path: Path) -> None:
    names = [b"archive/data.pkl", *(b"archive/data/%d" % i for i in range(1000))]
    (tmp_path / "network.pt").write_bytes(zip_of([zip_record(name, 1 << 20) for name in names]))
    with refused("parts overlap"):
        read_content(tmp_path / "network.pt")


# ONNX


def graph_of(*tensors: TensorProto) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    nodes = [helper.make_node("Add", ["x", tensors[0].name], ["y"], name="n")]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "g", [value], [out], initializer=list(tensors))
    return bytes(helper.make_model(graph).SerializeToString())


def tensor(*dims: int, raw: bytes = b"", kind: int = TensorProto.FLOAT) -> TensorProto:
    return TensorProto(name="t", dims=dims, raw_data=raw, data_type=kind)


@pytest.mark.parametrize(
    "bomb",
    [
        tensor(1 << 40, raw=bytes(4)),
        tensor(1 << 20, 1 << 20, 1 << 20),
        tensor(1 << 62, 1 << 62, raw=bytes(8)),
        tensor(0, 1 << 40),
        tensor(-1, raw=bytes(4)),
        tensor(1 << 40, raw=bytes(4), kind=TensorProto.STRING),
        tensor(1 << 40, raw=bytes(4), kind=TensorProto.FLOAT16),
        tensor(1, raw=bytes(4), kind=999),
    ],
)
def test_an_onnx_tensor_is_no_larger_than_its_numbers(tmp_path: Path, bomb: TensorProto) -> None:
    file = tmp_path / "network.onnx"
    file.write_bytes(graph_of(bomb))
    with refused(r"network\.onnx"):
        read_checkpoint(file)


def test_an_onnx_file_of_many_nodes_ends(tmp_path: Path) -> None:
    model = onnx.load_from_string(graph_of(tensor(1, raw=bytes(4))))
    node = model.graph.node[0]
    model.graph.node.extend([node] * 20_000)
    (tmp_path / "network.onnx").write_bytes(model.SerializeToString())
    with refused(r"network\.onnx", 512 * MIB):
        read_checkpoint(tmp_path / "network.onnx")


# Clamps, cards, names


@pytest.mark.parametrize("clamp", [True, float("inf"), float("nan"), 1e-30, 0, -1, "256", [256]])
def test_a_clamp_is_a_sensible_number(clamp: object) -> None:
    with refused("conv_clamp"):
        import_content(nvidia_content(tiny().state_dict()) | {"conv_clamp": clamp}, "network")


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """Weights with a card."""
    torch.save(nvidia_content(tiny().state_dict()), tmp_path / "network.pt")
    return convert(tmp_path / "network.pt")


def with_config(path: Path, **config: object) -> str:
    card = json.loads(card_path(path).read_text())
    return json.dumps(card | {"config": card["config"] | config})


CARDS: list[tuple[Callable[[Path], str], str]] = [
    (lambda path: "[" * 100_000, "not a card"),
    (lambda path: '{"a":' * 100_000, "not a card"),
    (lambda path: " " * (2 * MIB), "over 1 MiB"),
    (lambda path: "[]", "not a card"),
    (lambda path: json.dumps(json.loads(card_path(path).read_text()) | {"card": 2}), "version"),
    (lambda path: with_config(path, conv_clamp=True), "conv_clamp is True"),
    (lambda path: with_config(path, conv_clamp=float("inf")), "conv_clamp is inf"),
    (lambda path: with_config(path, channels=[1 << 40] * 3), "does not fit its card"),
    (lambda path: with_config(path, channels=[8] * 40), "does not fit its card"),
    (lambda path: with_config(path, **{"\x1b[31m": 1}), "does not fit its card"),
]


@pytest.mark.parametrize(("card", "said"), CARDS)
def test_a_card_that_lies_is_refused(
    converted: Path, card: Callable[[Path], str], said: str
) -> None:
    card_path(converted).write_text(card(converted))
    with refused(said):
        read_checkpoint(converted)


def test_a_card_that_never_ends_is_refused(converted: Path) -> None:
    card_path(converted).unlink()
    os.mkfifo(card_path(converted))
    with pytest.raises(DeidError, match="no known checkpoint"):  # it has none, then
        read_checkpoint(converted)
    os.mkfifo(pipe := converted.with_name("pipe.safetensors"))
    with refused("not a file"):
        read_checkpoint(pipe)
    with refused("a pipe, not a file"):
        require_commercial_content(pipe)


def test_what_a_terminal_would_obey_does_not_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From names inside a file, and from the file's own."""
    (tmp_path / "odd.onnx").write_bytes(graph_of(TensorProto(name="\x1b[31mEVIL", dims=[1])))
    torch.save({"\x1b[2J": torch.zeros(1)}, tmp_path / "odd.pt")
    good = tmp_path / "\x1b[31mgood.pt"
    torch.save(nvidia_content(tiny().state_dict()), good)
    for file, status in ((tmp_path / "odd.onnx", 1), (tmp_path / "odd.pt", 1), (good, 0)):
        monkeypatch.setattr("sys.argv", ["deid", "weights", "convert", str(file)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == status
        said = capsys.readouterr()
        assert said.out + said.err
        assert "\x1b" not in said.out + said.err
