"""What an anonymizer is, and the guard that every one of them runs behind."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from deid.worlds.world import CPU, World


class Anonymizer(Protocol):
    """Takes the identity out of aligned face crops.

    A result depends on its own face and seed only, never on the rest of the batch (up to float
    noise), so that shards and batch sizes do not change what a person looks like.
    """

    @property
    def name(self) -> str: ...

    @property
    def resolution(self) -> int | None:
        """The one side length it works at, in pixels; None: any size."""
        ...

    @property
    def enough(self) -> int | None:
        """A side beyond which a larger crop shows in nothing that it makes; None: there is none."""
        ...

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`faces [N,3,H,W]` in [-1, 1] and one seed a face → the same shape and range."""
        ...


@dataclass(frozen=True)
class ModelPaths:
    """Where the trained stages lie; `stage_two` is needed by `adversarial` alone."""

    stage_one: Path
    stage_two: Path | None = None


def working_side(world: World) -> int | None:
    """The side that a method works at which draws with the generator; None: any, as it draws."""
    return world.resolution if len(world.resolutions) == 1 else None


def finite(images: Tensor) -> bool:
    """Whether all values are; their sum tells it, and costs a tenth of looking at each."""
    return bool(images.sum().isfinite())


@dataclass(frozen=True)
class Guarded:
    """Fails closed: nothing malformed goes in, nothing malformed or not finite comes out."""

    inner: Anonymizer
    name: str  # as asked for, with its ε
    device: torch.device = CPU  # where the inner one computes

    @property
    def resolution(self) -> int | None:
        return self.inner.resolution

    @property
    def enough(self) -> int | None:
        return self.inner.enough

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """As the inner one; `ValueError` or `FloatingPointError` where input or output is bad."""
        if faces.ndim != 4 or faces.shape[1] != 3 or len(seeds) != len(faces):
            raise ValueError(
                f"{self.name}: takes [N,3,H,W] and N seeds, "
                f"got {tuple(faces.shape)} and {len(seeds)} seeds"
            )
        if self.resolution and faces.shape[2:] != (self.resolution, self.resolution):
            raise ValueError(
                f"{self.name}: works at {self.resolution} px, got {tuple(faces.shape[2:])}"
            )
        if not finite(faces):
            raise FloatingPointError(f"{self.name}: the input holds values that are not finite")
        if len(faces) == 0:
            return faces.clone()
        output = self.inner(faces.to(self.device), seeds).to(faces.device)
        if output.shape != faces.shape:
            raise ValueError(f"{self.name}: gave {tuple(output.shape)} for {tuple(faces.shape)}")
        if not finite(output):
            raise FloatingPointError(f"{self.name}: the output holds values that are not finite")
        return output.detach().clamp(-1.0, 1.0)
