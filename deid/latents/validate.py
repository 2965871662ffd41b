"""Check the sampled pairs before anything is trained on them.

The measurements are tables of numbers: a row a pair, a dimension of w, a shard, or a picture that
the world's detector looked at. Great Expectations judges them.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deid.errors import DeidError
from deid.faces.faces import FaceDetector
from deid.latents.expectations import Check, Outcome, Tables, check_tables
from deid.latents.shards import (
    Index,
    LatentDataset,
    images_path,
    open_rows,
    read_index,
    w_path,
    w_statistics,
)
from deid.params import ValidateParams, WorldParams
from deid.pixels import Pixels
from deid.progress import progress
from deid.seeds import numpy_generator
from deid.storage.staging import resumable_directory, write_atomically
from deid.worlds import load_world
from deid.worlds.world import World

_ROWS = 1000  # read at a time: 12 MB of pictures of 64 px
_PICTURES = 100  # shown to the detector at a time
_LENGTH_RATIO = 10.0  # a w so much longer or shorter than the median is a fault


def validate(params: ValidateParams, world_params: WorldParams, latents: Path, out: Path) -> None:
    """Judge the pairs in `latents`; write `out/validation.json` and `out/data_docs/index.html`.

    Raises `DeidError` that names every failed expectation and what was observed; the documents
    are there nevertheless. Shards that are missing or unreadable are a `DeidError` as well.
    """
    validate_in(params, load_world(world_params), latents, out)


def validate_in(params: ValidateParams, world: World, latents: Path, out: Path) -> None:
    """`validate` with the networks of a loaded world."""
    index = read_index(latents)
    tables = measure(params, world, latents, index)
    with resumable_directory(out, {**params.model_dump(mode="json"), **index.model_dump()}) as work:
        shutil.rmtree(work / "data_docs", ignore_errors=True)  # of a killed run
        outcomes = check_tables(tables, work / "data_docs")
        report = {
            "success": all(outcome.success for outcome in outcomes),
            "pairs": index.count,
            "weights_sha256": index.weights_sha256,
            "expectations": [asdict(outcome) for outcome in outcomes],
        }
        text = json.dumps(report, indent=2) + "\n"
        write_atomically(work / "validation.json", text.encode())
    _raise_for(outcomes, latents, out)


def _raise_for(outcomes: Sequence[Outcome], latents: Path, out: Path) -> None:
    failed = [str(outcome) for outcome in outcomes if not outcome.success]
    if failed:
        raise DeidError(
            f"{latents}: {len(failed)} of {len(outcomes)} expectations failed: "
            f"{'; '.join(failed)}. See {out / 'data_docs' / 'index.html'}; draw the pairs again or "
            "correct the section validate of params.yaml"
        )


def require_valid(latents: Path, validation: Path) -> None:
    """`DeidError` unless the report in `validation` says that the pairs in `latents` passed."""
    path, index = validation / "validation.json", read_index(latents)
    remedy = "run `deid validate`"
    try:
        report = json.loads(path.read_bytes())
        success, drawn = report["success"], (report["pairs"], report["weights_sha256"])
    except FileNotFoundError:
        raise DeidError(f"{path}: missing; {remedy} before you train") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DeidError(f"{path}: damaged ({error}); {remedy} again") from None
    if success is not True:
        raise DeidError(f"{path}: {latents} failed its validation; {remedy}, which says where")
    if drawn != (index.count, index.weights_sha256):
        raise DeidError(f"{path}: is about other pairs than those in {latents}; {remedy} again")


def measure(params: ValidateParams, world: World, latents: Path, index: Index) -> Tables:
    """The tables to judge and their checks; only that of the shards where rows are missing."""
    shards = shards_table(latents, index)
    tables = {"shards": (shards, _shards_checks(index, world))}
    if shards["images"].sum() != index.rendered or shards["w"].sum() != index.count:
        return tables
    dataset = LatentDataset(latents)
    pairs = pairs_table(dataset)
    return {
        **tables,
        "pairs": (pairs, _pairs_checks(params, index, float(pairs["w_norm"].median()))),
        "dimensions": (dimensions_table(dataset, latents), _dimensions_checks(params)),
        "detection": (detection_table(dataset, world.detector, params.images), _detection(params)),
    }


# --- measurements ---


def shards_table(latents: Path, index: Index) -> pd.DataFrame:
    """A row a shard: how many images and w its files hold, and whose weights drew them."""
    numbers = [number for number, _, _ in index.shards()]
    images = {
        number: len(open_rows(images_path(latents, number)))
        for number, _, _ in index.shards(index.rendered)
    }
    return pd.DataFrame(
        {
            "images": [images.get(number, 0) for number in numbers],
            "w": [len(open_rows(w_path(latents, number))) for number in numbers],
            "weights": index.weights_sha256,
        }
    )


def pairs_table(dataset: LatentDataset) -> pd.DataFrame:
    """A row a pair: finiteness, length, mean and deviation of w; brightness and contrast of the
    image, in [0, 1]; a hash of each. Where no image was drawn, nothing of it."""
    parts, count = [], dataset.index.count
    with progress("measure pairs", total=count) as bar:
        for start in range(0, count, _ROWS):
            rows = np.arange(start, min(start + _ROWS, count))
            table = _measure_w(dataset.w(rows))
            drawn = rows[rows < len(dataset)]
            if len(drawn):
                table = table.join(_measure_images(dataset.images(drawn)))
            parts.append(table)
            bar.advance(len(rows))
    return pd.concat(parts, ignore_index=True)


def _measure_w(w: NDArray[np.float32]) -> pd.DataFrame:
    finite = np.isfinite(w).all(axis=1, keepdims=True)
    w64 = np.where(finite, w, np.nan).astype(np.float64)
    return pd.DataFrame(
        {
            "w_finite": finite.ravel(),
            "w_norm": np.linalg.norm(w64, axis=1),
            "w_mean": w64.mean(axis=1),
            "w_std": w64.std(axis=1),
            "w_hash": _hashes(w),
        }
    )


def _measure_images(images: Pixels) -> pd.DataFrame:
    # The sum of three channels fits 16 bits, and is 765 for white.
    gray = images[..., 0].astype(np.uint16) + images[..., 1] + images[..., 2]
    gray = gray.reshape(len(gray), -1).astype(np.float32)
    return pd.DataFrame(
        {
            "brightness": gray.mean(axis=1) / 765.0,
            "contrast": gray.std(axis=1) / 765.0,
            "image_hash": _hashes(images),
        }
    )


def _hashes(rows: NDArray[Any]) -> list[str]:
    return [hashlib.blake2b(row, digest_size=16).hexdigest() for row in rows]


def dimensions_table(dataset: LatentDataset, latents: Path) -> pd.DataFrame:
    """A row a dimension of w: mean and deviation over all pairs, and how far the recorded
    statistics are from them, in deviations."""
    mean, std = w_statistics(latents, dataset.index)
    with np.errstate(invalid="ignore"):  # of infinities, which the checks of w report
        error = np.maximum(abs(dataset.w_mean.numpy() - mean), abs(dataset.w_std.numpy() - std))
    return pd.DataFrame({"mean": mean, "std": std, "error": error / np.maximum(std, 1e-12)})


def detection_table(dataset: LatentDataset, detector: FaceDetector, images: int) -> pd.DataFrame:
    """A row a picture of a random `images`: its row in the set, and whether a face is found."""
    random = numpy_generator("validate", seed=dataset.index.seed)
    rows = np.sort(random.choice(len(dataset), min(images, len(dataset)), replace=False))
    found: list[int] = []
    with progress("detect faces", total=len(rows)) as bar:
        for start in range(0, len(rows), _PICTURES):
            pictures = list(dataset.images(rows[start : start + _PICTURES]))
            found += [int(len(faces) > 0) for faces in detector.detect(pictures)]
            bar.advance(len(pictures))
    return pd.DataFrame({"row": rows, "detected": found})


# --- expectations ---


def _between(column: str, low: float | None, high: float | None, **more: Any) -> dict[str, Any]:
    return {"column": column, "min_value": low, "max_value": high, **more}


def _shards_checks(index: Index, world: World) -> list[Check]:
    total, member = "ExpectColumnSumToBeBetween", "ExpectColumnValuesToBeInSet"
    own = {"column": "weights", "value_set": [world.weights_sha256]}
    return [
        Check("every image is there", total, _between("images", index.rendered, index.rendered)),
        Check("every w is there", total, _between("w", index.count, index.count)),
        Check("drawn with this world's weights", member, own),
    ]


def _pairs_checks(params: ValidateParams, index: Index, median: float) -> list[Check]:
    inside, unique = "ExpectColumnValuesToBeBetween", "ExpectColumnUniqueValueCountToBeBetween"
    finite = {"column": "w_finite", "value_set": [True]}
    length = _between("w_norm", median / _LENGTH_RATIO, median * _LENGTH_RATIO)
    mean = _between("w_mean", -params.max_w_abs_mean, params.max_w_abs_mean)
    distinct, images = (n - params.max_duplicates for n in (index.count, index.rendered))
    low, high = params.brightness
    most = {"mostly": params.min_in_range}
    return [
        Check("w is finite", "ExpectColumnValuesToBeInSet", finite),
        Check("w is neither far longer nor far shorter than the median", inside, length),
        Check("the mean of each w is near 0", inside, mean),
        Check("no w is constant", inside, _between("w_std", params.min_w_std, None)),
        Check("no w is drawn twice", unique, _between("w_hash", distinct, None)),
        Check("no image is drawn twice", unique, _between("image_hash", images, None)),
        Check("neither black nor white", inside, _between("brightness", low, high, **most)),
        Check("no flat image", inside, _between("contrast", params.min_contrast, None, **most)),
    ]


def _dimensions_checks(params: ValidateParams) -> list[Check]:
    inside, limit = "ExpectColumnValuesToBeBetween", params.max_w_abs_mean
    return [
        Check("the mean of each dimension is near 0", inside, _between("mean", -limit, limit)),
        Check("no dimension has collapsed", inside, _between("std", params.min_w_std, None)),
        Check("the recorded statistics are right", inside, _between("error", None, 1e-3)),
    ]


def _detection(params: ValidateParams) -> list[Check]:
    rate = _between("detected", params.min_detection_rate, 1.0)
    return [Check("the detector finds a face", "ExpectColumnMeanToBeBetween", rate)]
