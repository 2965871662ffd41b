"""What the learned rivals have in common: their weights, the side they draw at, and whose face
they give to whom.

Their weights lie in `trained/WORLD/`, each with a card; `data/rivals/dvc.yaml` has their trainings.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.anonymize.refine import one_by_one
from deid.anonymize.strangers import drawn, people
from deid.errors import DeidError
from deid.nets.backbones import at_size
from deid.worlds.cards import read_verified
from deid.worlds.world import World

TRAINED = Path(__file__).parent / "trained"
SIDE = 64
"""At which all of them draw, in pixels; what is larger comes back enlarged."""

GALLERY = 48
STRANGER = 0.4
"""The cosine in En_id below which a person of the gallery may lend the face."""

Network = TypeVar("Network", bound=nn.Module)


@runtime_checkable
class Swapping(Protocol):
    """A rival that can give one person's identity to another's picture (Table 2)."""

    def swap(self, donors: Tensor, faces: Tensor) -> Tensor:
        """Identity of `donors`, all else of `faces`, both `[N,3,R,R]` in [-1, 1] → the same."""
        ...


@runtime_checkable
class Rebuilding(Protocol):
    """A rival that can give a face back (Table 3)."""

    def reconstruct(self, faces: Tensor) -> Tensor:
        """`[N,3,R,R]` in [-1, 1] → the same."""
        ...


def load_trained(name: str, world: World, build: Callable[[], Network]) -> Network:
    """The rival's network as trained in this world, frozen.

    Raises `DeidError` where it was trained in another or with other networks, or its file is
    missing or changed.
    """
    folder = TRAINED / world.name
    if not (folder / f"{name}.json").is_file():
        worlds = sorted(card.parent.name for card in TRAINED.glob(f"*/{name}.json"))
        raise DeidError(
            f"method {name}: not trained in the world {world.name}, "
            f"{'only in ' + ', '.join(worlds) if worlds else 'nor in any other'}"
        )
    state, _ = read_verified(folder, name)
    card = json.loads((folder / f"{name}.json").read_text())
    if card.get("world") != world.trained_for:
        raise DeidError(
            f"method {name}: trained on other weights of the world {world.name}; train it again "
            "with `dvc repro` in data/rivals"
        )
    network = build()
    network.load_state_dict({key: value.to(torch.float32) for key, value in state.items()})
    return network.to(world.device).eval().requires_grad_(False)


def small(faces: Tensor) -> Tensor:
    """`[N,3,R,R]` → `[N,3,64,64]`, each pixel the mean of those it covers."""
    if faces.shape[-1] < SIDE:
        return at_size(faces, SIDE)
    return F.interpolate(faces, size=(SIDE, SIDE), mode="area")


def enlarged(drawn: Tensor, side: int) -> Tensor:
    """What was drawn, `[N,3,64,64]`, at the side of the picture it goes to, in [-1, 1]."""
    if side <= SIDE:
        return at_size(drawn, side).clamp(-1.0, 1.0)
    size = (side, side)
    return F.interpolate(drawn, size=size, mode="bicubic", align_corners=False).clamp(-1.0, 1.0)


@dataclass(frozen=True)
class Lenders:
    """People of the generator who lend their faces to whoever is a stranger to them."""

    world: World

    @cached_property
    def pictures(self) -> Tensor:
        """`[GALLERY,3,R,R]`, at the smallest side that the generator draws."""
        w = people(self.world, "lenders of faces", GALLERY)
        return drawn(self.world, w, self.world.resolutions[0])

    @cached_property
    def codes(self) -> Tensor:
        """En_id of each, `[GALLERY,dim]`."""
        with torch.no_grad():
            return torch.cat([self.world.identity(one) for one in torch.split(self.pictures, 1)])

    def for_faces(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """For each face a stranger's picture, by its seed; the least alike where nobody is one:
        `[N,3,r,r]`."""
        with torch.no_grad():
            likeness = self.world.identity(faces) @ self.codes.T
        chosen = []
        for own, seed in zip(likeness, seeds, strict=True):
            strangers = torch.nonzero(own < STRANGER).flatten()
            rows = strangers if len(strangers) else own.argmin()[None]
            chosen.append(int(rows[seed % len(rows)]))
        return self.pictures[chosen]


class FaceSwapper(ABC):
    """Gives each face that of one of the `Lenders`, by its seed; `Swapping` and `Rebuilding`."""

    name: str
    resolution: int | None = None
    enough: int | None = None

    def __init__(self, world: World) -> None:
        self.world, self.lenders = world, Lenders(world)

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,R,R]` in [-1, 1] → the same; seeds choose lenders."""
        return self.swap(self.lenders.for_faces(faces, seeds), faces)

    def swap(self, donors: Tensor, faces: Tensor) -> Tensor:
        """As `Swapping`; the donors may be of another size."""
        return one_by_one(self.swap_one, donors, faces)

    def reconstruct(self, faces: Tensor) -> Tensor:
        """Each face as its own donor."""
        return self.swap(faces, faces)

    @abstractmethod
    def swap_one(self, donor: Tensor, face: Tensor) -> Tensor:
        """`[1,3,r,r]` and `[1,3,R,R]` → as the face."""
