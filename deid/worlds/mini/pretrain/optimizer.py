"""Muon (Jordan et al. 2024) for matrices, Adam for everything else.

Muon makes each step of a weight matrix orthogonal, so that rare directions (a smile, glasses) learn
as fast as common ones (hair, backdrop). Learning to draw took it less than half of Adam's steps.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_ADAM_SHARE = 0.2  # of Muon's rate: equal root mean square of a step


class MatrixOptimizer:
    """A kernel `[O,I,k,k]` counts as a matrix `[O,I·k·k]`; constants and ToRGB kernels do not."""

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float) -> None:
        every = list(parameters)
        self.kernels = [p for p in every if p.ndim >= 2 and p.shape[0] > 3]
        rest = [p for p in every if p.ndim < 2 or p.shape[0] <= 3]
        # Views of the same memory, since torch's Muon takes matrices only.
        self.matrices = [nn.Parameter(p.data.view(len(p), -1)) for p in self.kernels]
        self.muon = torch.optim.Muon(
            self.matrices,
            rate,
            weight_decay=0.0,
            momentum=0.9,
            ns_steps=4,
            adjust_lr_fn="match_rms_adamw",
        )
        self.adam = torch.optim.Adam(rest, rate * _ADAM_SHARE, betas=(0.9, 0.99))

    def step(self, rate: float) -> None:
        """One update at `rate`; the gradients are gone afterwards."""
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            assert kernel.grad is not None
            matrix.grad = kernel.grad.reshape(matrix.shape)
        for optimizer, share in ((self.muon, 1.0), (self.adam, _ADAM_SHARE)):
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
        for kernel in self.kernels:
            kernel.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
