"""Trains β-VAE (Higgins et al. 2017) and finds the factors that carry the identity.

Maximized is, over pictures x (their equation 4, with a Gaussian p(x|z) of deviation σ):

    E_q(z|x) [log p(x|z)] − β KL(q(z|x) ‖ N(0, I)),    β > 1
    −log p(x|z) = ‖x − x̂‖² / 2σ² + constant
    KL = ½ Σ_j (μ_j² + σ_j² − log σ_j² − 1)

z is drawn as μ + σ ε. β > 1 makes each factor pay for what it tells, so that factors come to be of
independent things; most faithful pictures are not the aim.

Departures. β is 4 with σ a tenth of the range of colors, where theirs for faces is 250 with σ of
the whole range, which is β σ² = 250 against 0.04: here a factor pays 6,250 times less for what it
tells, and this is nearly an autoencoder. Widths are 24, 48, 72 and 96 where
theirs are 32, 32, 64 and 64 and a dense layer of 256. Muon in place of Adam, and averaged weights,
as the training is of minutes.

Identity factors, which the paper has none of: on people it is trained on, each factor in turn takes
another person's value, and En_id tells how far the picture's identity moves. The fewest factors
that make `IDENTITY_SHARE` of all movement carry the identity.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from deid.nets.beta_vae import LATENT, BetaVAE
from deid.seeds import torch_generator
from deid.training.rivals.task import RivalTask
from deid.worlds.cards import Card
from deid.worlds.mini.pretrain.distillation import psnr
from deid.worlds.mini.pretrain.optimizer import Muon
from deid.worlds.training_loop import Schedule
from deid.worlds.world import World

ADAM_RATE = 0.2  # of Muon's
BETA = 4.0
SIGMA = 0.2
"""Of p(x|z), in colors of [-1, 1]: a tenth of their range."""

IDENTITY_SHARE = 0.5
PROBES = 16
"""Pictures on which the factors are tried."""


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) of each factor, in nats, `[N,K]` → `[N,K]`."""
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1.0)


def negative_elbo(images: Tensor, rebuilt: Tensor, kl: Tensor, beta: float = BETA) -> Tensor:
    """What is minimized, in nats a picture: both `[N,3,H,W]`, KL of each factor `[N,K]`."""
    error = (rebuilt - images).square().flatten(1).sum(1) / (2.0 * SIGMA**2)
    return (error + beta * kl.sum(1)).mean()


def carriers(moved: Tensor) -> Tensor:
    """Of factors that move the identity so far `[K]`, the fewest that make `IDENTITY_SHARE` of all
    movement: 1 for each of them, else 0."""
    order = moved.argsort(descending=True)
    before = moved[order].cumsum(0) - moved[order]
    chosen = torch.zeros_like(moved)
    chosen[order[before < IDENTITY_SHARE * moved.sum()]] = 1.0
    return chosen


class BetaVAETask(RivalTask):
    """One phase: the bound is everybody's."""

    memory_format = torch.contiguous_format  # Muon takes kernels as matrices

    def build(self) -> nn.Module:
        return BetaVAE()

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """Muon for matrices and kernels, Adam for biases."""
        every, rate = list(model.parameters()), self.schedule.learning_rate
        matrices, others = (
            [p for p in every if (p.ndim > 1) == kernel] for kernel in (True, False)
        )
        return [Muon(matrices, rate), torch.optim.Adam(others, rate * ADAM_RATE, (0.9, 0.99))]

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """The negative bound of a batch, a pixel's share of it, so that clipping means the same."""
        assert isinstance(model, BetaVAE)
        images = self.pictures.images(self.batches(step))
        mean, log_variance = model.encode(images)
        noise = torch.randn(mean.shape, generator=torch_generator(self.stream, step))
        rebuilt = model.decode(mean + (0.5 * log_variance).exp() * noise)
        return negative_elbo(images, rebuilt, kl_divergence(mean, log_variance)) / images[0].numel()

    def measure(self, model: nn.Module) -> tuple[nn.Module, Card]:
        """Fills in the identity factors; likeness of what is rebuilt and of what is resampled."""
        assert isinstance(model, BetaVAE)
        moved = self.movement(model)
        model.identity_factors.copy_(carriers(moved))
        images = self.pictures.images(self.validation)
        mean, log_variance = model.encode(images)
        kl = kl_divergence(mean, log_variance).mean(0)
        rebuilt = model.decode(mean)
        fresh = torch.randn(mean.shape, generator=torch_generator(f"{self.stream}/measure"))
        resampled = model.decode(torch.lerp(mean, fresh, model.identity_factors))
        return self.card(
            model,
            what="β-VAE, convolutional, 32 factors",
            objective=f"E[log p(x|z)] - {BETA} KL, p Gaussian with deviation {SIGMA} of [-1, 1]",
            test="people not trained on; likeness is En_id's, which chose the identity factors",
            figures={
                "psnr": round(psnr(rebuilt, images), 2),
                "kl_nats": round(float(kl.sum()), 2),
                "active_factors": int((kl > 0.1).sum()),
                "identity_factors": int(model.identity_factors.sum()),
                "likeness_rebuilt": self.likeness(images, rebuilt),
                "likeness_resampled": self.likeness(images, resampled),
            },
        )

    def movement(self, model: BetaVAE) -> Tensor:
        """How far each factor moves En_id when it takes another person's value, `[LATENT]`."""
        everybody = self.pictures.split()
        views = self.pictures.settings.views
        probes = everybody[:: max(views, len(everybody) // PROBES // views * views)][:PROBES]
        mean, _ = model.encode(self.pictures.images(probes))
        own = self.world.identity(model.decode(mean))
        moved = torch.zeros(LATENT)
        for factor in range(LATENT):
            other = mean.clone()
            other[:, factor] = mean[:, factor].roll(1)
            code = self.world.identity(model.decode(other))
            moved[factor] = (1.0 - (own * code).sum(1)).clamp_min(0.0).mean()
        return moved


def beta_vae(world: World, data: Path, steps: int) -> RivalTask:
    schedule = Schedule(
        steps, batch_size=16, learning_rate=5e-3, weight_decay=0.0, averaging=0.99, bfloat16=False
    )
    return BetaVAETask("beta-vae", world, data, schedule)
