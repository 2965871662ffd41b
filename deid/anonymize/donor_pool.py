"""The donors that a swap chooses from: all of a bank, or a few for everybody.

Of a whole bank, the donors whom a person may get are those nearest in looks, and so those whom a
donor could stand for are few. From a pool no larger than their number, everybody gets one of the
same donors: then a donor tells the sex, whom En_id takes for alike, and no more.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from deid.worlds.donors import DonorBank
from deid.worlds.world import SEX

ATTRIBUTES = {"age": (0,), "sex": (SEX,), "skin": (2, 3, 4)}
"""Which of the looks they are, in worlds that measure looks."""

POSE = "pose"
"""Not of the donor's looks: where the head is turned to."""

KEEPABLE = (*ATTRIBUTES, POSE)
"""What a new face can have in common with the person."""

LEAST = 4
"""Fewer would hold hardly a stranger of each sex."""

STRANGERS = 0.75
"""The share of a small pool that anybody may get: those who are least similar to the person. Were
it all of it, somebody would get the one donor who is alike."""


class DonorPool(DonorBank):
    """Donors with the looks that count. Where hardly any is a stranger, as many are asked as are to
    be near, or a `share` of all if that is less."""

    def __init__(self, codes: Tensor, looks: Tensor, drawn: Tensor, share: float = 1.0) -> None:
        super().__init__(codes, looks, drawn)
        self.share = share

    @classmethod
    def of(cls, bank: DonorBank, keep: Sequence[str], count: int | None) -> "DonorPool":
        """All donors of `bank`, with the looks of `keep` (`ATTRIBUTES`), or `count` of them.

        Those are one from the middle of each cell of looks. Cells are halved at the median of the
        look that differs most in them, the largest first (Mondrian, LeFevre et al. 2006), so that
        each stands for as many donors. No seed takes part: the same pool in another batch has the
        same donors, and its people are in the same crowd.
        """
        looks = counted(bank.looks, keep)
        if count is None:
            return cls(bank.codes, looks, bank.drawn)
        cells = [torch.arange(len(looks), device=looks.device)]
        while len(cells) < min(count, len(looks)):
            cells.sort(key=len)
            cells += _halves(looks, cells.pop())
        rows = torch.stack([_middle(looks, cell) for cell in cells])
        return cls(bank.codes[rows], looks[rows], bank.drawn[rows], STRANGERS)

    def asked(self, code: Tensor, looks: Tensor, most: float, near: int) -> Tensor:
        """The rows of the donors that `choose` draws from."""
        return self._nearest(code, looks, most, near)[0]

    def _nearest(
        self, code: Tensor, looks: Tensor, most: float, near: int
    ) -> tuple[Tensor, Tensor]:
        return super()._nearest(code, looks, most, min(near, int(self.share * len(self.codes))))


def counted(looks: Tensor, keep: Sequence[str]) -> Tensor:
    """Those of the looks `[…,K]` that are to be kept."""
    return looks if tuple(keep) == tuple(ATTRIBUTES) else looks[..., columns(keep)]


def columns(keep: Sequence[str]) -> list[int]:
    """The numbers of the looks so called; none for the pose."""
    return [column for name in keep for column in ATTRIBUTES.get(name, ())]


def _halves(looks: Tensor, cell: Tensor) -> list[Tensor]:
    own = looks[cell]
    order = own[:, own.std(0).argmax()].argsort(stable=True)
    return list(cell[order].tensor_split(2))


def _middle(looks: Tensor, cell: Tensor) -> Tensor:
    own = looks[cell]
    return cell[(own - own.mean(0)).norm(dim=1).argmin()]
