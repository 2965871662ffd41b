"""Good pairs pass; each kind of fault fails by name, and the documents say where."""

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from deid.errors import DeidError
from deid.latents.shards import images_path, read_index, w_path, write_index
from deid.latents.validate import validate_in
from deid.params import ValidateParams
from tests.toy import draw_pairs, toy_world

PARAMS = ValidateParams(images=120, max_w_abs_mean=3.0)
Rows = NDArray[Any]


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    """240 good pairs in three shards."""
    return draw_pairs(tmp_path / "latents", 240, 100)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every address that this process tried to reach."""
    tried: list[object] = []

    def refuse(_: socket.socket, address: object) -> None:
        tried.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


def spoil(root: Path, change: Callable[[Rows, Rows], None]) -> None:
    """Change the first shard's images and w, and write the statistics anew."""
    images, w = np.load(images_path(root, 0)), np.load(w_path(root, 0))
    change(images, w)
    np.save(images_path(root, 0), images)
    np.save(w_path(root, 0), w)
    write_index(root, read_index(root))


def failures(root: Path, out: Path) -> dict[str, str]:
    """The expectations that fail: meaning → observed, after a look at all that must name them."""
    with pytest.raises(DeidError) as caught:
        validate_in(PARAMS, toy_world(), root, out)
    report = json.loads((out / "validation.json").read_text())
    page = (out / "data_docs/index.html").read_text()
    failed = [e for e in report["expectations"] if not e["success"]]
    assert report["success"] is False
    assert str(out / "data_docs/index.html") in str(caught.value)
    for expectation in failed:
        assert expectation["meaning"] in str(caught.value)
        assert expectation["observed"] in str(caught.value)
    assert page.count('class="failed"') == len(failed)
    return {expectation["meaning"]: expectation["observed"] for expectation in failed}


def test_good_pairs_pass_with_one_report_and_pages_that_open_offline(
    latents: Path, tmp_path: Path, connections: list[object]
) -> None:
    out, again = tmp_path / "validation", tmp_path / "again"
    validate_in(PARAMS, toy_world(), latents, out)
    validate_in(PARAMS, toy_world(), latents, again)
    assert (out / "validation.json").read_bytes() == (again / "validation.json").read_bytes()
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


def test_rows_without_a_picture_are_judged_by_their_w(latents: Path, tmp_path: Path) -> None:
    index = read_index(latents).model_copy(update={"rendered": 100})
    write_index(latents, index)
    for number in (1, 2):
        images_path(latents, number).unlink()
    validate_in(PARAMS, toy_world(), latents, tmp_path / "out")
    w = np.load(w_path(latents, 2))
    w[7] = np.nan
    np.save(w_path(latents, 2), w)
    write_index(latents, index)
    assert "w is finite" in failures(latents, tmp_path / "again")


def test_each_fault_in_a_row_fails_by_name_and_row(latents: Path, tmp_path: Path) -> None:
    def plant(images: Rows, w: Rows) -> None:
        w[7, 3] = np.nan
        w[5] = w[70]
        w[11] = 100 * (w[11] - w[11].mean())
        w[12] = 1.0
        w[13] += 9.0
        images[9] = 128
        images[14], images[14, :8] = 0, 90
        images[21] = images[70]

    spoil(latents, plant)
    found = failures(latents, tmp_path / "validation")
    assert {meaning: phrase.split(":")[0] for meaning, phrase in found.items()} == {
        "w is finite": "1 of 240 rows fail, first row 7",
        "no w is drawn twice": "observed 239",
        "w is neither far longer nor far shorter than the median": (
            "1 of 240 rows fail, first row 11"
        ),
        "no w is constant": "1 of 240 rows fail, first row 12",
        "the mean of each w is near 0": "1 of 240 rows fail, first row 13",
        "no flat image": "1 of 240 rows fail, first row 9",
        "neither black nor white": "1 of 240 rows fail, first row 14",
        "no image is drawn twice": "observed 239",
    }


def test_an_infinite_w_fails_by_name(latents: Path, tmp_path: Path) -> None:
    def plant(images: Rows, w: Rows) -> None:
        w[8, 0] = np.inf

    spoil(latents, plant)
    assert "w is finite" in failures(latents, tmp_path / "validation")


def test_duplicates_may_be_allowed(latents: Path, tmp_path: Path) -> None:
    def plant(images: Rows, w: Rows) -> None:
        w[5], images[5] = w[70], images[70]

    spoil(latents, plant)
    params = PARAMS.model_copy(update={"max_duplicates": 1})
    validate_in(params, toy_world(), latents, tmp_path / "validation")


def test_each_fault_of_the_whole_set_fails_by_name(latents: Path, tmp_path: Path) -> None:
    def faceless(images: Rows, w: Rows) -> None:
        images[:] = np.linspace(60, 190, len(images)).astype(np.uint8)[:, None, None, None]

    spoil(latents, faceless)
    for number in range(3):
        w = np.load(w_path(latents, number)) + 9.0
        w[:, 3] = 0.5
        np.save(w_path(latents, number), w)
    write_index(latents, read_index(latents).model_copy(update={"weights_sha256": "f" * 64}))
    statistics = {"w_mean": torch.zeros(16), "w_std": torch.ones(16)}
    save_file(statistics, latents / "stats.safetensors")
    found = failures(latents, tmp_path / "validation")
    assert set(found) == {
        "drawn with this world's weights",
        "the mean of each w is near 0",
        "the mean of each dimension is near 0",
        "no dimension has collapsed",
        "the recorded statistics are right",
        "no flat image",
        "the detector finds a face",
    }
    assert found["no dimension has collapsed"].startswith("1 of 16 rows fail, first row 3")


@pytest.mark.parametrize(
    ("path", "meaning"), [(images_path, "every image is there"), (w_path, "every w is there")]
)
def test_missing_rows_fail_by_name(
    latents: Path, tmp_path: Path, path: Callable[[Path, int], Path], meaning: str
) -> None:
    np.save(path(latents, 2), np.load(path(latents, 2))[:-1])
    assert list(failures(latents, tmp_path / "validation")) == [meaning]


def test_a_missing_shard_is_an_error_that_names_the_file(latents: Path, tmp_path: Path) -> None:
    images_path(latents, 1).unlink()
    with pytest.raises(DeidError, match=r"images-00001\.npy.*missing"):
        validate_in(PARAMS, toy_world(), latents, tmp_path / "validation")
    assert not (tmp_path / "validation").exists()
