"""The sampled pairs: the same bytes however they are drawn, and any row at any time."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deid.anonymize.swap import Swap
from deid.errors import DeidError
from deid.latents.sample import draw_missing, draw_rows, sample, sample_from
from deid.latents.shards import LatentDataset
from deid.model import Deidentifier
from deid.params import SampleParams, WorldParams, load_params
from deid.pixels import to_pixels, to_tensor
from deid.seeds import torch_generator
from deid.worlds.world import World
from tests.conftest import ROOT
from tests.toy import ToyGenerator, toy_world

PARAMS = SampleParams(count=2030, shard_size=100, batch_size=16, workers=2, seed=3)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pairs") / "latents"
    sample_from(PARAMS, toy_world, out)
    return out


def content(root: Path) -> tuple[bytes, bytes]:
    """All images and all w of a set, in the order of the rows."""
    images, w = sorted(root.glob("images-*.npy")), sorted(root.glob("w-*.npy"))
    return (
        b"".join(np.load(path).tobytes() for path in images),
        b"".join(np.load(path).tobytes() for path in w),
    )


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


# --- drawing ---


def test_shards_and_workers_do_not_change_a_byte(pairs: Path, tmp_path: Path) -> None:
    other = tmp_path / "latents"
    sample_from(PARAMS.model_copy(update={"shard_size": 777, "workers": 1}), toy_world, other)
    assert len(list(other.glob("images-*.npy"))) == 3
    assert content(other) == content(pairs)
    assert (other / "stats.safetensors").read_bytes() == (pairs / "stats.safetensors").read_bytes()


def test_a_killed_run_goes_on_to_the_same_bytes(pairs: Path, tmp_path: Path) -> None:
    out, partial = tmp_path / "latents", tmp_path / "latents.partial"
    program = (
        "from pathlib import Path; from deid.latents.sample import sample_from;"
        "from deid.params import SampleParams; from tests.toy import toy_world\n"
        "if __name__ == '__main__': sample_from("
        f"SampleParams.model_validate_json('{PARAMS.model_dump_json()}'), toy_world,"
        f"Path({str(out)!r}))"
    )
    script = tmp_path / "run.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, cwd=tmp_path, env=environment
    )
    try:
        while process.poll() is None and len(list(partial.glob("images-*.npy"))) < 2:
            time.sleep(0.01)
    finally:
        process.kill()
    # Workers hold the pipe too: it ends only when they have ended with their parent.
    process.communicate()
    assert process.returncode == -9
    finished = {path.name: path.stat().st_mtime_ns for path in partial.glob("images-*.npy")}
    assert 2 <= len(finished) < 21

    sample_from(PARAMS, toy_world, out)
    assert files(out) == files(pairs)
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == finished
    assert not partial.exists()


def no_world() -> World:
    raise AssertionError("nothing is to be drawn")


def test_pictures_left_out_are_drawn_when_asked_for_to_the_same_bytes(
    pairs: Path, tmp_path: Path
) -> None:
    some, whole = tmp_path / "latents", LatentDataset(pairs)
    sample_from(PARAMS.model_copy(update={"rendered": 250}), toy_world, some)
    before, dataset = files(some), LatentDataset(some)
    assert (len(dataset), dataset.index.count) == (300, 2030)  # whole shards
    assert len([name for name in before if name.startswith("images")]) == 3
    rows = np.array([0, 299, 300, 2029])
    np.testing.assert_array_equal(dataset.w(rows), whole.w(rows))
    assert torch.equal(dataset.w_std, whole.w_std)
    with pytest.raises(IndexError):
        dataset.images(rows)
    with pytest.raises(DeidError, match=r"images-00003\.npy: missing"):
        LatentDataset(some, 450)
    draw_missing(some, 450, toy_world)
    draw_missing(some, 2030, toy_world)
    later = LatentDataset(some, 2029)
    rows = np.array([2028, 0, 449, 450, 1234])
    np.testing.assert_array_equal(later.images(rows), whole.images(rows))
    assert files(some) == before  # which DVC knows
    for pairs_asked in (None, 7, 2030):
        draw_missing(some, pairs_asked, no_world)
    with pytest.raises(DeidError, match="has 2030 pairs, not 2031"):
        LatentDataset(some, 2031)


def test_a_row_is_its_own_z_through_the_generator(pairs: Path) -> None:
    dataset, generator = LatentDataset(pairs), toy_world().generator
    for row in (0, 15, 16, 1234, 2029):
        z = torch.randn(16, generator=torch_generator("latents", row, PARAMS.seed))
        w = generator.mapping(z[None])
        picture = to_pixels(generator.synthesis(w)).astype(int)
        np.testing.assert_allclose(dataset.w(np.array([row])), w, rtol=1e-5, atol=1e-6)
        assert abs(dataset.images(np.array([row])).astype(int) - picture).max() <= 1


def test_count_and_start_do_not_change_a_row() -> None:
    world = toy_world()
    params = SampleParams(batch_size=16)

    def draw(start: int, end: int) -> bytes:
        pairs = draw_rows(world, params, start, end)
        return b"".join(w.tobytes() + images.tobytes() for images, w in pairs)

    assert draw(0, 16) + draw(16, 32) == draw(0, 32)
    whole = zip(*draw_rows(world, params, 0, 48), strict=True)
    inner = zip(*draw_rows(world, params, 5, 41), strict=True)
    for all_blocks, some_blocks in zip(whole, inner, strict=True):
        assert sum(map(len, some_blocks)) == 36
        np.testing.assert_array_equal(np.concatenate(all_blocks)[5:41], np.concatenate(some_blocks))


def test_another_seed_gives_other_rows() -> None:
    first, second = (next(draw_rows(toy_world(), SampleParams(seed=s), 0, 50)) for s in (0, 1))
    assert not np.isclose(first[1], second[1]).any(axis=1).all()
    assert (first[0] != second[0]).any(axis=(1, 2, 3)).all()


def test_truncation_is_the_worlds_and_its_earlier_key_still_works(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("sample:\n  truncation: 0.7\n")
    assert load_params(file).world.truncation == 0.7
    file.write_text("world:\n  truncation: 0.7\nsample:\n  truncation: 0.5\n")
    with pytest.raises(DeidError, match=r"sample\.truncation and world.truncation differ"):
        load_params(file)


def test_pairs_donors_and_unrelated_people_are_truncated_alike() -> None:
    """With ψ near 0 each of them is the mean face, which no other truncation gives."""
    world = replace(toy_world(), truncation=1e-4)
    mean = world.generator.synthesis(world.generator.w_mean[None])
    pairs = to_tensor(next(draw_rows(world, SampleParams(), 0, 50))[0])
    donors = Swap(world, Deidentifier(world, (8, 8, 8), *torch.ones(2, 16)), 0.3, 1).donors(
        pairs[:4], [1, 2, 3, 4]
    )
    for faces in (pairs, donors):
        assert (faces - mean).abs().max() < 0.01


def test_truncation_shrinks_w_towards_its_mean() -> None:
    full, half = (
        next(draw_rows(replace(toy_world(), truncation=psi), SampleParams(), 0, 50))[1]
        for psi in (1.0, 0.5)
    )
    generator = ToyGenerator()
    mean = generator.mapping(torch.randn(200_000, 16)).mean(0).numpy()
    np.testing.assert_allclose(half, mean + 0.5 * (full - mean), atol=0.03)


class Faulty(ToyGenerator):
    """Works in the parent; in a worker it raises, or dies as if the system had killed it."""

    def __init__(self, dies: bool) -> None:
        super().__init__()
        self.dies = dies

    def synthesis(self, w: Tensor) -> Tensor:
        if multiprocessing.parent_process() is not None:
            if self.dies:
                os._exit(9)
            raise ValueError("planted fault")
        return super().synthesis(w)


def raising_world() -> World:
    return replace(toy_world(), generator=Faulty(dies=False))


def dying_world() -> World:
    return replace(toy_world(), generator=Faulty(dies=True))


def test_an_exception_in_a_worker_reaches_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="planted fault"):
        sample_from(SampleParams(count=100, workers=1), raising_world, tmp_path / "latents")
    assert not (tmp_path / "latents").exists()


def test_a_killed_worker_is_an_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DeidError, match=r"killed.*run again"):
        sample_from(SampleParams(count=100, workers=1), dying_world, tmp_path / "latents")
    assert not (tmp_path / "latents").exists()


def test_the_embedded_world_is_sampled(world: World, tmp_path: Path) -> None:
    params = SampleParams(count=70, shard_size=40, batch_size=20)
    sample(params, WorldParams(weights=ROOT / "data/mini/weights"), tmp_path / "latents")
    dataset = LatentDataset(tmp_path / "latents")
    assert dataset.index.weights_sha256 == world.weights_sha256
    rows = np.arange(60, 70)
    with torch.inference_mode():
        pictures = to_pixels(world.generator.synthesis(torch.from_numpy(dataset.w(rows))))
    assert abs(dataset.images(rows).astype(int) - pictures.astype(int)).max() <= 1


# --- reading ---


def test_random_access_equals_sequential(pairs: Path) -> None:
    dataset = LatentDataset(pairs)
    images, w = content(pairs)
    all_images = np.frombuffer(images, np.uint8).reshape(-1, 64, 64, 3)
    all_w = np.frombuffer(w, np.float32).reshape(-1, 16)
    assert len(dataset) == len(all_images) == len(all_w) == 2030
    random = np.random.default_rng(0)
    for rows in (
        random.permutation(2030),
        random.integers(0, 2030, 50),
        np.array([2029, 0, 99, 100, 0]),
        np.array([], dtype=np.int64),
    ):
        np.testing.assert_array_equal(dataset.images(rows), all_images[rows])
        np.testing.assert_array_equal(dataset.w(rows), all_w[rows])


def test_statistics_are_of_all_rows(pairs: Path) -> None:
    dataset = LatentDataset(pairs)
    w = dataset.w(np.arange(2030)).astype(np.float64)
    np.testing.assert_allclose(dataset.w_mean, w.mean(0), rtol=1e-6)
    np.testing.assert_allclose(dataset.w_std, w.std(0), rtol=1e-6)


@pytest.mark.parametrize("row", [-1, 2030])
def test_a_row_outside_the_set_is_refused(pairs: Path, row: int) -> None:
    with pytest.raises(IndexError):
        LatentDataset(pairs).w(np.array([0, row]))


@pytest.fixture
def copy(pairs: Path, tmp_path: Path) -> Path:
    root = tmp_path / "copy"
    root.mkdir()
    for name, data in files(pairs).items():
        (root / name).write_bytes(data)
    return root


@pytest.mark.parametrize(
    "name", ["images-00003.npy", "w-00020.npy", "index.json", "stats.safetensors"]
)
def test_missing_and_truncated_files_are_named(copy: Path, name: str) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DeidError, match=f"{name}.*deid sample"):
        LatentDataset(copy)
    path.write_bytes(b"")
    with pytest.raises(DeidError, match=f"{name}.*deid sample"):
        LatentDataset(copy)
    path.unlink()
    with pytest.raises(DeidError, match=f"{name}.*missing.*deid sample"):
        LatentDataset(copy)


def test_a_shard_with_too_few_rows_is_named(copy: Path) -> None:
    np.save(copy / "w-00000.npy", np.zeros((99, 16), np.float32))
    with pytest.raises(DeidError, match=r"w-00000\.npy"):
        LatentDataset(copy)


def test_an_array_of_objects_is_never_unpickled(copy: Path) -> None:
    np.save(copy / "w-00000.npy", np.array([{"a": 1}] * 100), allow_pickle=True)
    with pytest.raises(DeidError, match=r"w-00000\.npy"):
        LatentDataset(copy)


def test_an_index_that_means_nothing_is_refused(copy: Path) -> None:
    index = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps({**index, "count": 0}))
    with pytest.raises(DeidError, match=r"index\.json.*count"):
        LatentDataset(copy)
