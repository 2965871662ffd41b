"""Gradient steps on one tensor, for methods that work on a single face."""

import torch
from torch import Tensor
from torch.optim.adam import adam


class Descent:
    """Adam (Kingma and Ba 2015) down a loss of `tensor`, a leaf that requires gradients.

    The function behind `torch.optim.Adam`, bit for bit, because the class first loads torch's
    compiler: 4 s in each process.
    """

    def __init__(
        self,
        tensor: Tensor,
        rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.tensor, self.rate, self.betas, self.eps = tensor, rate, betas, eps
        self._mean, self._square = torch.zeros_like(tensor), torch.zeros_like(tensor)
        self._steps = torch.tensor(0.0)

    def step(self, loss: Tensor) -> None:
        """Move the tensor, in place, by its gradient in a loss `[]`."""
        (gradient,) = torch.autograd.grad(loss, self.tensor)
        with torch.no_grad():
            adam(
                [self.tensor],
                [gradient],
                [self._mean],
                [self._square],
                [],
                [self._steps],
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=self.rate,
                weight_decay=0.0,
                eps=self.eps,
                maximize=False,
            )
