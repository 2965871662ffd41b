"""A bank of donors: people whom the generator draws, as En_id sees them, and how they look."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIMILAR, ALIKE = 60, 8
"""Of so many people most similar to En_id, so many whose looks are nearest are alike. Were they
strangers chosen by looks alone, which know age, sex and skin, some would be of other descent."""


class DonorBank(nn.Module):
    """`codes [N,dim]`, unit vectors of En_id; and of the faces that stage one draws of them
    (`deid.training.donors`), `looks [N,K]`, in the world's measure of looks, and `drawn [N,dim]`,
    En_id's code, by which an attacker tells donors: their own where nobody has drawn them."""

    codes: Tensor
    looks: Tensor
    drawn: Tensor

    def __init__(self, codes: Tensor, looks: Tensor, drawn: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("looks", looks)
        self.register_buffer("drawn", codes.clone() if drawn is None else drawn)

    def choose(
        self, code: Tensor, looks: Tensor, most: float, near: int, random: torch.Generator
    ) -> Tensor:
        """The code `[dim]` of a donor for a person of `code` and `looks`, drawn by `random`.

        Only strangers to En_id are asked, whose cosine is at most `most`; without any, the least
        similar ones. Of them, one of the `near` that look most alike is drawn: were it always the
        nearest, the donor would tell who the person is.
        """
        nearest, _ = self._nearest(code, looks, most, near)
        return self.codes[nearest[torch.randint(len(nearest), (), generator=random)]]

    def reach(self, code: Tensor, looks: Tensor, most: float, near: int) -> float:
        """How far from the person's looks those of the donors are, at most, of whom `choose` draws
        one."""
        return float(self._nearest(code, looks, most, near)[1].amax())

    def _nearest(
        self, code: Tensor, looks: Tensor, most: float, near: int
    ) -> tuple[Tensor, Tensor]:
        """The rows of the donors that `choose` draws from, and how far their looks are."""
        similarity = self.codes @ code
        strangers = similarity.argsort()[: max(near, int((similarity <= most).sum()))]
        distance = (self.looks[strangers] - looks).norm(dim=1)
        nearest = distance.argsort()[:near]
        return strangers[nearest], distance[nearest]

    def alike(self, codes: Tensor, looks: Tensor) -> Tensor:
        """For people of `codes [N,dim]` and `looks [N,K]`, the mean code of those who are alike,
        unit vectors `[N,dim]`."""
        similar = (codes @ self.codes.T).topk(min(SIMILAR, len(self.codes))).indices  # [N,SIMILAR]
        distance = (self.looks[similar] - looks[:, None]).square().sum(2)
        nearest = distance.topk(min(ALIKE, similar.shape[1]), largest=False).indices
        return F.normalize(self.codes[similar.gather(1, nearest)].mean(1))
