"""The sampled pairs on disk: plain `.npy` shards, mapped into memory and read at random.

`index.json` says what was drawn, `images-00000.npy` (uint8 `[n,R,R,3]`) and `w-00000.npy` (float32
`[n,w_dim]`) hold rows `k * shard_size` onwards, `stats.safetensors` the mean and deviation of w. A
row is found by arithmetic, so nothing is decoded or read but the rows asked for. z is not stored:
it follows from the seed and the row's number.

Every row has its w; pictures of later rows may be missing until they are asked for, and then lie in
`later_folder`.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from deid.errors import DeidError
from deid.pixels import Pixels
from deid.storage.staging import write_atomically

REMEDY = "draw the pairs again with `deid sample`"
_STATISTICS_ROWS = 8192


class Index(BaseModel):
    """What was drawn, and how it lies in the shards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    world: str
    weights_sha256: str
    seed: int
    truncation: float
    count: int = Field(ge=1)
    rendered: int = Field(ge=1)  # the first rows, with pictures: whole shards
    shard_size: int = Field(ge=1)
    batch_size: int = Field(ge=1)  # rows computed together
    resolution: int = Field(ge=1)
    w_dim: int = Field(ge=1)

    def shards(self, rows: int | None = None) -> Iterator[tuple[int, int, int]]:
        """(number, first row, end row) of every shard in order, or of those of the first `rows`."""
        for number, start in enumerate(range(0, rows or self.count, self.shard_size)):
            yield number, start, min(start + self.shard_size, self.count)


def read_index(root: Path) -> Index:
    """`index.json` of a set of pairs; `DeidError` where it is missing or wrong."""
    path = root / "index.json"
    try:
        return Index.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DeidError(f"{path}: missing; {REMEDY}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = "".join(f"{part}: " for part in problem["loc"])
        raise DeidError(f"{path}: {where}{problem['msg']}; {REMEDY}") from None


def images_path(root: Path, shard: int) -> Path:
    """The file with the images of a shard."""
    return root / f"images-{shard:05}.npy"


def later_folder(root: Path, index: Index) -> Path:
    """Where pictures go that were left out at first: beside `root`, which stays as DVC knows it,
    and apart from those of other pairs."""
    same = index.model_dump_json(exclude={"rendered"}).encode()
    return root.with_name(f"{root.name}-later") / hashlib.sha256(same).hexdigest()[:16]


def w_path(root: Path, shard: int) -> Path:
    """The file with the w of a shard."""
    return root / f"w-{shard:05}.npy"


def open_rows(path: Path) -> NDArray[Any]:
    """Map a shard's file; `DeidError` where it is missing, truncated or no array."""
    try:
        rows: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DeidError(f"{path}: missing; {REMEDY}") from None
    except (ValueError, EOFError) as error:
        raise DeidError(f"{path}: truncated or not an array ({error}); {REMEDY}") from None
    if rows.ndim == 0:
        raise DeidError(f"{path}: a single number, not rows; {REMEDY}")
    return rows


def _open_shard(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    rows = open_rows(path)
    if rows.dtype != dtype or rows.shape != shape:
        wanted = f"{np.dtype(dtype).name} {list(shape)}"
        raise DeidError(f"{path}: {rows.dtype} {list(rows.shape)} for {wanted}; {REMEDY}")
    return rows


class LatentDataset:
    """Random access to the (image, w) pairs in `root`: those that `sample` drew pictures for, or
    the first `pairs`, for which `draw_missing` of `latents.sample` draws the others.

    Attributes: `index` (`Index`), `w_mean` and `w_std` (float32 tensors `[w_dim]`, over all rows).
    Raises `DeidError` where a file is missing, truncated or not what the index says.
    """

    def __init__(self, root: Path, pairs: int | None = None) -> None:
        self.index = index = read_index(root)
        self._pairs = pairs or index.rendered
        if self._pairs > index.count:
            raise DeidError(f"{root}: has {index.count} pairs, not {pairs}; ask for fewer")
        picture = (index.resolution, index.resolution, 3)
        later = later_folder(root, index)
        self._images = [
            _open_shard(
                images_path(root if start < index.rendered else later, shard),
                np.uint8,
                (end - start, *picture),
            )
            for shard, start, end in index.shards(self._pairs)
        ]
        self._w = [
            _open_shard(w_path(root, shard), np.float32, (end - start, index.w_dim))
            for shard, start, end in index.shards()
        ]
        self.w_mean, self.w_std = _read_statistics(root / "stats.safetensors", index.w_dim)

    def __len__(self) -> int:
        return self._pairs

    def images(self, indices: NDArray[np.integer]) -> Pixels:
        """Images of the rows `indices` `[N]`, in that order, repeats allowed: `uint8 [N,R,R,3]`."""
        return self._rows(self._images, indices, len(self))

    def w(self, indices: NDArray[np.integer]) -> NDArray[np.float32]:
        """w of the rows `indices` `[N]`, in that order, repeats allowed: `float32 [N,w_dim]`.

        Of all `index.count` rows, also of those without a picture.
        """
        return self._rows(self._w, indices, self.index.count)

    def _rows(
        self, shards: list[NDArray[Any]], indices: NDArray[np.integer], count: int
    ) -> NDArray[Any]:
        rows = np.asarray(indices)
        if rows.size and (rows.min() < 0 or rows.max() >= count):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a set of {count}")
        numbers, places = np.divmod(rows, self.index.shard_size)
        out = np.empty((len(rows), *shards[0].shape[1:]), shards[0].dtype)
        for number in np.unique(numbers):
            chosen = np.flatnonzero(numbers == number)
            out[chosen] = shards[number][places[chosen]]
        return out


def w_statistics(root: Path, index: Index) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (of the population) of each dimension of w, `[w_dim]` each.

    Two passes, float64, in blocks of rows that do not depend on the shards.
    """
    w = np.empty((index.count, index.w_dim), np.float32)
    for shard, start, end in index.shards():
        w[start:end] = open_rows(w_path(root, shard))
    blocks = [w[i : i + _STATISTICS_ROWS] for i in range(0, index.count, _STATISTICS_ROWS)]
    mean = np.sum([b.sum(0, dtype=np.float64) for b in blocks], axis=0) / index.count
    with np.errstate(invalid="ignore"):  # infinities are for `validate` to report
        square = np.sum([np.square(b - mean).sum(0) for b in blocks], axis=0) / index.count
    return mean, np.sqrt(square)


def write_index(root: Path, index: Index) -> None:
    """Add statistics and index to the finished shards in `root`."""
    mean, std = w_statistics(root, index)
    tensors = {"w_mean": torch.from_numpy(mean).float(), "w_std": torch.from_numpy(std).float()}
    write_atomically(root / "stats.safetensors", save(tensors))
    write_atomically(root / "index.json", (index.model_dump_json(indent=2) + "\n").encode())


def _read_statistics(path: Path, w_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        tensors = load_file(path)
        mean, std = tensors["w_mean"], tensors["w_std"]
    except (OSError, SafetensorError, KeyError) as error:
        raise DeidError(f"{path}: missing or damaged ({error}); {REMEDY}") from None
    if mean.shape != (w_dim,) or std.shape != (w_dim,):
        raise DeidError(f"{path}: not statistics of {w_dim} dimensions; {REMEDY}")
    return mean, std
