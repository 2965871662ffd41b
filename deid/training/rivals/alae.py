"""Trains ALAE (Pidhorskyi et al. 2020), style-based.

The generator of pictures is G∘F, their discriminator D∘E. With softplus f(t) = log(1 + e^t), their
equation 8 and algorithm 1, in turn in each step:

    1. E, D minimize  f(D∘E∘G∘F(z)) + f(−D∘E(x)) + γ/2 E‖∇_x D∘E(x)‖²
    2. F, G minimize  f(−D∘E∘G∘F(z))
    3. E, G minimize  ‖F(z) − E∘G∘F(z)‖²

Reciprocity (3) is in w, nowhere in pixels. In 1 and 2 half of the pictures are drawn from two w,
each in some layers (style mixing); 3 has one.

Departures. F and G start as the world's generator, which is a StyleGAN as theirs, and learn on at a
fiftieth of E's rate, since a training of minutes comes to no faces from nothing; so they do not
grow in training. E sees places of 4 × 4 pixels and no layers above 16²; its widths are 64 and 96,
theirs 16 to 512. R1 is in every eighth step eightfold (as StyleGAN2 has it); all four are averaged
over steps.
"""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.errors import DeidError
from deid.nets.alae import ALAE
from deid.nets.style import StyleGenerator
from deid.seeds import torch_generator
from deid.training.rivals.pictures import SIDE
from deid.training.rivals.task import RivalTask
from deid.worlds.cards import Card
from deid.worlds.mini.pretrain.distillation import psnr
from deid.worlds.training_loop import Phase, Schedule
from deid.worlds.world import World

GAMMA, LAZY = 10.0, 8
KEPT = 0.02
"""F's and G's rate, of E's and D's."""

MIXED = 0.5


def r1(gradient: Tensor) -> Tensor:
    """E‖∇_x‖² / 2 of the gradient `[N,3,H,W]` of the logits of real pictures."""
    return 0.5 * gradient.square().flatten(1).sum(1).mean()


def reciprocity(w: Tensor, again: Tensor) -> Tensor:
    """‖F(z) − E∘G∘F(z)‖², the mean over numbers of w and pictures; F learns nothing of it."""
    return F.mse_loss(again, w.detach())


class ALAETask(RivalTask):
    """Three phases."""

    memory_format = torch.contiguous_format  # a generator may hold kernels of any rank

    def build(self) -> nn.Module:
        return ALAE(cast(StyleGenerator, self.world.generator))

    def phases(self, model: nn.Module) -> list[Phase]:
        assert isinstance(model, ALAE)
        encoder = list(model.autoencoder.encoder.parameters())
        decoder = [*model.mapping.parameters(), *model.autoencoder.decoder.parameters()]
        judges = [*encoder, *model.discriminator.parameters()]
        return [
            Phase(self.loss, judges, [self.adam(judges)]),
            Phase(self.generator_loss, decoder, [self.adam(decoder, KEPT)]),
            Phase(
                self.reciprocity_loss,
                [*encoder, *decoder],
                [self.adam(encoder), self.adam(decoder, KEPT)],
            ),
        ]

    def adam(self, weights: list[nn.Parameter], share: float = 1.0) -> torch.optim.Optimizer:
        """As in the paper; `share` of the learning rate."""
        return torch.optim.Adam(weights, share * self.schedule.learning_rate, (0.0, 0.99))

    def draw(self, model: ALAE, part: str, step: int) -> Tensor:
        """G∘F(z), half of it of mixed styles."""
        coder = model.autoencoder
        random = torch_generator(f"{self.stream}/{part}", step)
        z = torch.randn(2, self.schedule.batch_size, coder.decoder.z_dim, generator=random)
        first, second = (model.mapping(one)[:, None] for one in z)
        cut = torch.randint(1, coder.decoder.num_ws, (z.shape[1], 1, 1), generator=random)
        mixed = torch.rand(z.shape[1], 1, 1, generator=random) < MIXED
        late = torch.arange(coder.decoder.num_ws)[None, :, None] >= cut
        return coder.decode(torch.where(mixed & late, second, first))

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """1: E's and D's."""
        assert isinstance(model, ALAE)
        with torch.no_grad():
            made = self.draw(model, "discriminator", step)
        real = self.pictures.images(self.batches(step)).requires_grad_(step % LAZY == 0)
        logits = model.logits(real)
        loss = F.softplus(model.logits(made)).mean() + F.softplus(-logits).mean()
        if step % LAZY == 0:
            (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
            loss = loss + LAZY * GAMMA * r1(gradient)
        return loss

    def generator_loss(self, model: nn.Module, step: int) -> Tensor:
        """2: F's and G's."""
        assert isinstance(model, ALAE)
        judges = (model.autoencoder.encoder, model.discriminator)
        for judge in judges:
            judge.requires_grad_(False)
        logits = model.logits(self.draw(model, "generator", step))
        for judge in judges:
            judge.requires_grad_(True)
        return F.softplus(-logits).mean()

    def reciprocity_loss(self, model: nn.Module, step: int) -> Tensor:
        """3: E's and G's."""
        assert isinstance(model, ALAE)
        w = self.latents(model, "reciprocity", self.schedule.batch_size, step)
        return reciprocity(w, model.autoencoder.encode(model.autoencoder.decode(w)))

    @torch.no_grad()
    def latents(self, model: ALAE, part: str, count: int, step: int = 0) -> Tensor:
        """F(z), `[count,w_dim]`."""
        random = torch_generator(f"{self.stream}/{part}", step)
        z = torch.randn(count, model.autoencoder.decoder.z_dim, generator=random)
        w: Tensor = model.mapping(z)
        return w

    def measure(self, model: nn.Module) -> tuple[nn.Module, Card]:
        """Reciprocity, and likeness of what is given back."""
        assert isinstance(model, ALAE)
        images = self.pictures.images(self.validation)
        coder = model.autoencoder
        w = self.latents(model, "measure", 256)
        error = reciprocity(w, coder.encode(coder.decode(w))) / w.var(0).mean()
        codes = coder.encode(images)
        rebuilt = coder.decode(codes)
        return self.card(
            coder,
            what="ALAE, style-based: E and G",
            objective="adversarial in pictures through E, with R1; reciprocity in w",
            test="people not trained on; likeness is En_id's; reciprocity in w's variance",
            figures={
                "reciprocity": round(float(error), 4),
                "psnr": round(psnr(rebuilt, images), 2),
                "likeness_rebuilt": self.likeness(images, rebuilt),
            },
        )


def alae(world: World, data: Path, steps: int) -> RivalTask:
    """Its training, where the world's generator draws what E sees; `DeidError` elsewhere."""
    if world.resolutions != (SIDE,):
        raise DeidError(f"alae: G draws {SIDE} px; the world {world.name} has no such generator")
    schedule = Schedule(
        steps, batch_size=8, learning_rate=2e-3, weight_decay=0.0, averaging=0.995, bfloat16=False
    )
    return ALAETask("alae", world, data, schedule)
