"""A bank of donors: people whom the generator draws, as En_id sees them, and how they look."""

import torch
from torch import Tensor, nn


class DonorBank(nn.Module):
    """`codes [N,dim]`, unit vectors of En_id; `looks [N,K]`, in the world's measure of looks."""

    codes: Tensor
    looks: Tensor

    def __init__(self, codes: Tensor, looks: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("looks", looks)

    def choose(
        self, code: Tensor, looks: Tensor, most: float, near: int, random: torch.Generator
    ) -> Tensor:
        """The code `[dim]` of a donor for a person of `code` and `looks`, drawn by `random`.

        Only strangers to En_id are asked, whose cosine is at most `most`; without any, the least
        similar ones. Of them, one of the `near` that look most alike is drawn: were it always the
        nearest, the donor would tell who the person is.
        """
        similarity = self.codes @ code
        least = similarity.argsort()
        strangers = least[: max(near, int((similarity <= most).sum()))]
        distance = (self.looks[strangers] - looks).square().sum(dim=1)
        chosen = strangers[distance.argsort()[:near]]
        return self.codes[chosen[torch.randint(len(chosen), (), generator=random)]]
