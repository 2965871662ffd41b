"""What the donors of a swap tell: how many people share one, and for whom it could have been drawn.

No record of a run holds a donor, since it would tell whoever gets the record what an output may not
quite tell. Nor need it: En_id says of an output which donor is nearest, as stage one draws it, to
anybody who has the code and the weights. So donors are counted here as such an attacker would, from
originals and outputs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deid.anonymize.donor_pool import DonorPool, columns, counted
from deid.anonymize.swap import NEAR, OTHER_SEX
from deid.attack.scores import People
from deid.errors import DeidError
from deid.params import AnonymizeParams
from deid.pixels import Pixels, to_tensor
from deid.worlds.world import SEX, World

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Crowds:
    """Of N outputs of P people, by the donor that each tells.

    `donor [N]` is its row among `donors`; `could [N,P]` says for whom it could have been drawn.
    """

    donors: int
    donor: NDArray[np.int64]
    could: NDArray[np.bool_]
    people: People  # [N]

    def figures(self) -> dict[str, float]:
        """What a report says: of how many people the outputs tell the same donor, for how many it
        could have been drawn, and what a guess among these finds, beside one among all people."""
        pairs = np.unique(np.stack([self.donor, self.people], axis=1), axis=0)
        shared = np.bincount(pairs[:, 0], minlength=self.donors)[self.donor]
        candidates = self.could.sum(axis=1)
        own = self.could[np.arange(len(self.people)), self.people]
        return {
            "donors": self.donors,
            "told": len(np.unique(self.donor)),
            "people": self.could.shape[1],
            "shared_least": int(shared.min()),
            "shared_median": float(np.median(shared)),
            "alone": float((shared == 1).mean()),
            "candidates_median": float(np.median(candidates)),
            "own": float(own.mean()),
            "guess": float((own / np.maximum(candidates, 1)).mean()),
            "chance": 1.0 / self.could.shape[1],
        }


def crowds(
    world: World,
    settings: AnonymizeParams,
    originals: Pixels,
    outputs: Rows,
    people: People,
) -> Crowds:
    """Of `originals`, `uint8 [N,S,S,3]`, and outputs of `people [N]`, whose En_id is `outputs
    [N,dim]`. They are taken for swaps made with `settings`. The bank tells how stage one draws each
    donor; who leads that to the output's looks (`Steering`), as swaps without a pool are, would
    tell more.

    `DeidError` in a world without a bank of donors.
    """
    alike = settings.swap_donors == "alike" and columns(settings.swap_keep)
    if world.donors is None or world.looks is None or not alike:
        raise DeidError("--donor-pool: needs a world with a bank of donors, who are alike")
    bank = DonorPool.of(world.donors, settings.swap_keep, settings.swap_pool)
    drawn = bank.drawn.double().cpu().numpy()
    donor = (outputs @ drawn.T).argmax(axis=1)
    faces = torch.split(to_tensor(originals).to(world.device), 1)
    with torch.inference_mode():
        can = np.stack([eligible(bank, settings, world, face) for face in faces])
    could = np.zeros((len(outputs), int(people.max()) + 1), bool)
    for person in range(could.shape[1]):
        could[:, person] = can[people == person].any(axis=0)[donor]
    return Crowds(len(drawn), donor, could, people)


def eligible(
    bank: DonorPool, settings: AnonymizeParams, world: World, face: Tensor
) -> NDArray[np.bool_]:
    """Which donors a swap draws from for a face `[1,3,S,S]`, `[D]`: only of the person's sex, where
    there are any, and faces are not led to it (`Steering`)."""
    assert world.looks is not None, "a bank is of a world that measures looks"
    keep = settings.swap_keep
    looks = counted(world.looks(face)[0], keep)
    rows = bank.asked(world.identity(face)[0], looks, settings.swap_max_similarity, NEAR)
    if "sex" in keep and (world.shifts is None or settings.swap_pool is not None):
        sex = columns(keep).index(SEX)
        own = rows[(bank.looks[rows, sex] - looks[sex]).abs() <= OTHER_SEX]
        rows = own if len(own) else rows
    can = torch.zeros(len(bank.codes), dtype=torch.bool)
    can[rows.cpu()] = True
    return can.numpy()
