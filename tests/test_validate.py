"""Good pairs pass; each kind of fault fails by name, and the documents say where."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from deid.errors import DeidError
from deid.latents.sample import draw_rows
from deid.latents.shards import Index, images_path, read_index, w_path, write_index
from deid.latents.validate import validate_in
from deid.params import SampleParams, ValidateParams
from tests.toy import RESOLUTION, toy_world

PARAMS = ValidateParams(images=120, max_w_abs_mean=3.0)
Rows = NDArray[Any]


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    """240 good pairs in three shards."""
    root, world = tmp_path / "latents", toy_world()
    root.mkdir()
    index = Index(
        world=world.name,
        weights_sha256=world.weights_sha256,
        seed=0,
        truncation=1.0,
        count=240,
        shard_size=100,
        resolution=RESOLUTION,
        w_dim=world.generator.w_dim,
    )
    for number, start, end in index.shards():
        blocks = list(draw_rows(world.generator, SampleParams(), start, end))
        np.save(images_path(root, number), np.concatenate([images for images, _ in blocks]))
        np.save(w_path(root, number), np.concatenate([w for _, w in blocks]))
    write_index(root, index)
    return root


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Every address that this process tried to reach."""
    tried: list[object] = []

    def refuse(_: socket.socket, address: object) -> None:
        tried.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield tried


def spoil(root: Path, change: Callable[[Rows, Rows], None]) -> None:
    """Change the first shard's images and w, and write the statistics anew."""
    images, w = np.load(images_path(root, 0)), np.load(w_path(root, 0))
    change(images, w)
    np.save(images_path(root, 0), images)
    np.save(w_path(root, 0), w)
    write_index(root, read_index(root))


def failures(root: Path, out: Path, params: ValidateParams = PARAMS) -> set[str]:
    """The meanings of the expectations that fail, after a look at all that must name them."""
    with pytest.raises(DeidError) as caught:
        validate_in(params, toy_world(), root, out)
    report = json.loads((out / "validation.json").read_text())
    page = (out / "data_docs/index.html").read_text()
    failed = [e for e in report["expectations"] if not e["success"]]
    assert report["success"] is False
    assert str(out / "data_docs/index.html") in str(caught.value)
    for expectation in failed:
        assert expectation["meaning"] in str(caught.value)
        assert expectation["observed"] in str(caught.value)
    assert page.count('class="failed"') == len(failed)
    return {expectation["meaning"] for expectation in failed}


def test_good_pairs_pass_and_the_documents_open_offline(
    latents: Path, tmp_path: Path, connections: list[object]
) -> None:
    out = tmp_path / "validation"
    validate_in(PARAMS, toy_world(), latents, out)
    report = json.loads((out / "validation.json").read_text())
    assert report["success"] is True
    assert report["pairs"] == 240
    assert {e["table"] for e in report["expectations"]} == {
        "shards",
        "pairs",
        "dimensions",
        "detection",
    }
    assert not connections
    pages = list((out / "data_docs").rglob("*.html"))
    assert len(pages) == 9  # the index; a page a suite, a page a validation
    for page in pages:
        text = page.read_text()
        assert not re.search(r"<script|(src|<link[^>]*href)=.?https?:|url\(.?https?:", text)
        for link in re.findall(r'<a\s[^>]*href="([^"#][^"]*)"', text):
            assert (page.parent / link).resolve().is_file(), f"{page}: {link}"


def test_the_same_pairs_give_the_same_report(latents: Path, tmp_path: Path) -> None:
    reports = []
    for name in ("first", "second"):
        validate_in(PARAMS, toy_world(), latents, tmp_path / name)
        reports.append((tmp_path / name / "validation.json").read_bytes())
    assert reports[0] == reports[1]


def not_a_number(images: Rows, w: Rows) -> None:
    w[7, 3] = np.nan


def infinite(images: Rows, w: Rows) -> None:
    w[7, 3] = np.inf


def same_w(images: Rows, w: Rows) -> None:
    w[5] = w[70]


def same_image(images: Rows, w: Rows) -> None:
    images[5] = images[70]


def flat_image(images: Rows, w: Rows) -> None:
    images[9] = 128


def black_image(images: Rows, w: Rows) -> None:
    images[9] //= 16


def exploded(images: Rows, w: Rows) -> None:
    w[11] *= np.where(np.arange(16) % 2, 50, -50) * np.sign(w[11])


def constant_w(images: Rows, w: Rows) -> None:
    w[11] = 1.0


@pytest.mark.parametrize(
    ("fault", "meanings"),
    [
        (not_a_number, {"w is finite"}),
        (infinite, {"w is finite"}),
        (same_w, {"no w is drawn twice"}),
        (same_image, {"no image is drawn twice"}),
        (flat_image, {"no flat image"}),
        (black_image, {"neither black nor white"}),
        (exploded, {"w is neither far longer nor far shorter than the median"}),
        (constant_w, {"no w is constant"}),
    ],
)
def test_a_fault_in_one_row_fails_by_name(
    latents: Path, tmp_path: Path, fault: Callable[[Rows, Rows], None], meanings: set[str]
) -> None:
    spoil(latents, fault)
    assert meanings <= failures(latents, tmp_path / "validation") <= meanings | {"no flat image"}


def test_duplicates_may_be_allowed(latents: Path, tmp_path: Path) -> None:
    spoil(latents, same_w)
    params = PARAMS.model_copy(update={"max_duplicates": 1})
    validate_in(params, toy_world(), latents, tmp_path / "validation")


def test_a_collapsed_dimension_fails_by_name(latents: Path, tmp_path: Path) -> None:
    for number in range(3):
        w = np.load(w_path(latents, number))
        w[:, 3] = 0.5
        np.save(w_path(latents, number), w)
    write_index(latents, read_index(latents))
    assert failures(latents, tmp_path / "validation") == {"no dimension has collapsed"}


def test_a_shifted_w_fails_by_name(latents: Path, tmp_path: Path) -> None:
    for number in range(3):
        np.save(w_path(latents, number), np.load(w_path(latents, number)) + 9.0)
    write_index(latents, read_index(latents))
    wanted = {"the mean of each w is near 0", "the mean of each dimension is near 0"}
    assert failures(latents, tmp_path / "validation") == wanted


@pytest.mark.parametrize(
    ("path", "meaning"), [(images_path, "every image is there"), (w_path, "every w is there")]
)
def test_missing_rows_fail_by_name(
    latents: Path, tmp_path: Path, path: Callable[[Path, int], Path], meaning: str
) -> None:
    np.save(path(latents, 2), np.load(path(latents, 2))[:-1])
    assert failures(latents, tmp_path / "validation") == {meaning}


def test_faces_that_are_not_found_fail_by_name(latents: Path, tmp_path: Path) -> None:
    def faceless(images: Rows, w: Rows) -> None:
        grey = np.linspace(60, 190, len(images)).astype(np.uint8)[:, None]
        images[:] = grey[:, None, None]
        images[:, 0, :, :] += np.arange(3, dtype=np.uint8)

    spoil(latents, faceless)
    assert "the detector finds a face" in failures(latents, tmp_path / "validation")


def test_pairs_of_other_weights_fail_by_name(latents: Path, tmp_path: Path) -> None:
    index = read_index(latents).model_copy(update={"weights_sha256": "f" * 64})
    write_index(latents, index)
    assert failures(latents, tmp_path / "validation") == {"drawn with this world's weights"}


def test_wrong_statistics_fail_by_name(latents: Path, tmp_path: Path) -> None:
    statistics = {"w_mean": torch.zeros(16), "w_std": torch.ones(16)}
    save_file(statistics, latents / "stats.safetensors")
    assert failures(latents, tmp_path / "validation") == {"the recorded statistics are right"}


def test_a_missing_shard_is_an_error_that_names_the_file(latents: Path, tmp_path: Path) -> None:
    images_path(latents, 1).unlink()
    with pytest.raises(DeidError, match=r"images-00001\.npy.*missing"):
        validate_in(PARAMS, toy_world(), latents, tmp_path / "validation")
    assert not (tmp_path / "validation").exists()
