"""Where w goes when somebody whom a generator draws is to look older, or otherwise."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RIDGE = 0.1
"""Of the regression, for each face in it: of w, in standard deviations, few tell any one look."""

LEFT = 0.5
"""Of a difference in looks, what is not followed: one hardly sees it, and it would tell who
somebody is."""

SHARE = 0.8
"""Of the rest of it, what is: looks change a little more than a straight map says."""

MOST = 4.0
"""A difference in looks beyond which it is not followed: 48 years."""


class LooksShifts(nn.Module):
    """`directions [K,w_dim]`: how w differs where each of the looks (`LooksNetwork`) is by one step
    more, and whatever else was told apart is as it was.

    Looks follow from w by a straight map roughly: of their variance over drawn faces, three
    quarters in *photo*. So one step makes a face older (InterFaceGAN, Shen et al. 2020).
    """

    directions: Tensor

    def __init__(self, directions: Tensor) -> None:
        super().__init__()
        self.register_buffer("directions", directions)

    @classmethod
    def fitted(cls, w: Tensor, looks: Tensor, others: Tensor) -> "LooksShifts":
        """From w `[N,w_dim]` of many faces, their `looks [N,K]`, and what is to stay, `others
        [N,S]`: the likeliest change of w, were it normally distributed, with which straight maps
        from w (ridge regression) tell of one look a step more, and of all else the same."""
        latents, told = w.double(), torch.cat([looks, others], 1).double()
        latents, told = latents - latents.mean(0), told - told.mean(0)
        spread = latents.std(0)
        standard = latents / spread
        normal = standard.T @ standard + RIDGE * len(w) * torch.eye(w.shape[1]).double()
        maps = torch.linalg.solve(normal, standard.T @ told) / spread[:, None]
        moved = maps.T @ (latents.T @ latents / len(w))
        return cls(torch.linalg.solve(moved @ maps, moved)[: looks.shape[1]].float())

    def shifted(
        self, w: Tensor, looks: Tensor, wanted: Tensor, columns: Sequence[int] | None = None
    ) -> Tensor:
        """w `[N,w_dim]` of faces that were drawn with `looks [N,K]`, for ones with about those that
        are `wanted`, or with those `columns` of them."""
        difference = F.softshrink((wanted - looks).clamp(-MOST, MOST), LEFT)
        asked = list(range(difference.shape[1]) if columns is None else columns)
        return w + SHARE * difference[:, asked] @ self.directions[asked]
