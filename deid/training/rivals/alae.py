"""Trains ALAE (Pidhorskyi et al. 2020), style-based.

The generator of pictures is G∘F, their discriminator D∘E. With softplus f(t) = log(1 + e^t), their
equation 8 and algorithm 1, in turn in each step:

    1. E, D minimize  f(D∘E∘G∘F(z)) + f(−D∘E(x)) + γ/2 E‖∇_x D∘E(x)‖²
    2. F, G minimize  f(−D∘E∘G∘F(z))
    3. E, G minimize  ‖F(z) − E∘G∘F(z)‖²

Reciprocity (3) is in w, nowhere in pixels. In 1 and 2 half of the pictures are drawn from two w,
each in some layers (style mixing); 3 has one.

Departures. G and E have no layers above 16², whose places draw 4 × 4 pixels each, and do not grow
in training; widths are 64 and 96, theirs 16 to 512, and w has 96 numbers. In the first three
quarters of the training 3 has λ ‖x − G∘E(x)‖₁ beside it, where λ falls from `GUIDANCE` to 0, since
a training of minutes does not come to faces otherwise; it ends with theirs alone. γ is 2, theirs
10, in every eighth step eightfold (as StyleGAN2 has it). F learns at a tenth of the rate instead of
a hundredth; E and G are averaged over steps.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.alae import ALAE, LAYERS, Z_DIM
from deid.seeds import torch_generator
from deid.training.rivals.task import RivalTask
from deid.worlds.cards import Card
from deid.worlds.mini.pretrain.distillation import psnr
from deid.worlds.training_loop import Phase, Schedule
from deid.worlds.world import World

GAMMA, LAZY = 2.0, 8
GUIDANCE, GUIDED = 5.0, 0.75
"""λ at the start, and the share of the training after which it is 0."""

MIXED = 0.5


def r1(gradient: Tensor) -> Tensor:
    """E‖∇_x‖² / 2 of the gradient `[N,3,H,W]` of the logits of real pictures."""
    return 0.5 * gradient.square().flatten(1).sum(1).mean()


def reciprocity(w: Tensor, again: Tensor) -> Tensor:
    """‖F(z) − E∘G∘F(z)‖², the mean over numbers of w and pictures; F learns nothing of it."""
    return F.mse_loss(again, w.detach())


class ALAETask(RivalTask):
    """Three phases."""

    def build(self) -> nn.Module:
        return ALAE()

    def phases(self, model: nn.Module) -> list[Phase]:
        assert isinstance(model, ALAE)
        encoder = list(model.autoencoder.encoder.parameters())
        decoder = list(model.autoencoder.decoder.parameters())
        judges = [*encoder, *model.discriminator.parameters()]
        makers, both = [*decoder, *model.mapping.parameters()], [*encoder, *decoder]
        return [
            Phase(self.loss, judges, [self.adam(judges)]),
            Phase(self.generator_loss, makers, [self.adam(makers)]),
            Phase(self.reciprocity_loss, both, [self.adam(both)]),
        ]

    def adam(self, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
        """As in the paper."""
        return torch.optim.Adam(weights, self.schedule.learning_rate, (0.0, 0.99))

    def draw(self, model: ALAE, part: str, step: int) -> Tensor:
        """G∘F(z), half of it of mixed styles."""
        random = torch_generator(f"{self.stream}/{part}", step)
        z = torch.randn(2, self.schedule.batch_size, Z_DIM, generator=random)
        first, second = (model.mapping(one)[:, None] for one in z)
        cut = torch.randint(1, LAYERS, (z.shape[1], 1, 1), generator=random)
        mixed = torch.rand(z.shape[1], 1, 1, generator=random) < MIXED
        late = torch.arange(LAYERS)[None, :, None] >= cut
        return model.autoencoder.decode(torch.where(mixed & late, second, first))

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
        random = torch_generator(f"{self.stream}/reciprocity", step)
        z = torch.randn(self.schedule.batch_size, Z_DIM, generator=random)
        with torch.no_grad():
            w = model.mapping(z)
        coder = model.autoencoder
        loss = reciprocity(w, coder.encode(coder.decode(w)))
        guidance = GUIDANCE * max(0.0, 1.0 - step / (GUIDED * self.schedule.steps))
        if guidance > 0.0:
            images = self.pictures.images(self.batches(step))
            loss = loss + guidance * F.l1_loss(coder.decode(coder.encode(images)), images)
        return loss

    def measure(self, model: nn.Module) -> tuple[nn.Module, Card]:
        """Reciprocity, and likeness of what is given back."""
        assert isinstance(model, ALAE)
        images = self.pictures.images(self.validation)
        coder = model.autoencoder
        z = torch.randn(256, Z_DIM, generator=torch_generator(f"{self.stream}/measure"))
        w = model.mapping(z)
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
    schedule = Schedule(steps, batch_size=16, learning_rate=2e-3, averaging=0.995, bfloat16=False)
    return ALAETask("alae", world, data, schedule)
