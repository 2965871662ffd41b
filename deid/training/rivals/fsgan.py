"""Trains FSGAN (Nirkin, Keller and Hassner 2019, "FSGAN: Subject Agnostic Face Swapping and
Reenactment"): reenactment G_r, segmentation G_s and inpainting G_c, and discriminators of the first
and the last.

I_s and I_t are two views of one person, p_t landmarks, S_t where I_t's face is, F faces alone:

    L_rec(x, y) = L_perc(x, y) + λ_pixel ‖x − y‖₁
    L_adv       = log D(F_t) + log(1 − D(F)), of D at several scales
    L(G_r) = L_rec(F_r, F_t) + λ_adv L_adv + λ_seg ‖S_r − S_t‖₁,        F_r, S_r = G_r(I_s; H(p_t))
    L(G_s) = L_ce(G_s(I_t), S_t) + λ_reenactment ‖G_s(I_t) − S_r‖₁,     λ_reenactment from 0 to 1
    L(G_c) = L_rec(G_c(F_t less ellipses; S_t), F_t) + λ_adv L_adv

Departures. 64 px (256), 16 to 96 channels, U-Nets without multi-scale heads. Landmarks are one map
a part (theirs a map each). G_r takes one step to p_t: without steps between there is no stepwise
loss, which counts where a head turns by tens of degrees; faces aligned by their eyes do not. Theirs
takes L_perc in two VGG-19 of identity and of attributes; here it is 1 − cos in En_id of `JUDGED`
pictures of a batch, and an L1 of differences between neighboring pixels; errors count up to four
times near landmarks. λ_pixel is 1 and λ_adv 0.01 (0.1 and 0.001), since L_perc is so much weaker.
En_id has no part in L(G_c).
S_r has a cross-entropy of weight 1 (an L1 of weight 0.1, under which it stays empty in so short a
training). S_t is drawn from landmarks (`face_regions`), for there are no labels, so hair over a
brow counts as face. Where a person has one picture, and in every second pair elsewhere, I_s is I_t
warped by thin plates to another person's landmarks. All networks are trained at once. There is no
blending network: theirs learns to give what a Poisson solver gives, which is used in its place.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deid.imaging.region import face_regions
from deid.imaging.warp import warped
from deid.nets.fsgan import Generators, heatmaps
from deid.nets.unet import MultiScaleDiscriminator
from deid.pixels import to_pixels, to_tensor
from deid.training.rivals.task import RivalTask
from deid.worlds.cards import Card
from deid.worlds.mini.pretrain.distillation import psnr
from deid.worlds.training_loop import Phase, Schedule
from deid.worlds.world import World

PERCEPTUAL, PIXEL, ADVERSARIAL, SEGMENTATION = 1.0, 1.0, 0.01, 1.0
NEAR_LANDMARKS = 3.0
"""By how much more an error counts there."""

JUDGED = 2
"""Pictures of a batch that En_id sees."""

BETAS = (0.5, 0.999)
DISCRIMINATOR_RATE = 0.2
"""Of the generators' learning rate."""

ELLIPSES, RADII = 2, (0.05, 0.18)
"""Taken from a face that is to be completed, and their radii in sides."""


class Opponents(nn.Module):
    """What is kept, and the discriminators, which are not."""

    def __init__(self) -> None:
        super().__init__()
        self.generators = Generators()
        self.of_reenacted, self.of_completed = (MultiScaleDiscriminator() for _ in range(2))


def pixel_loss(made: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """L1 of colors and of their differences between neighbors, weighted by `weight [N,1,H,W]`."""
    error = (made - wanted) * weight
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return (error.abs().mean() + edges) / weight.mean()


def real_loss(maps: list[Tensor]) -> Tensor:
    """−log D, of logits, the mean over scales."""
    return torch.stack([F.softplus(-each).mean() for each in maps]).mean()


def fake_loss(maps: list[Tensor]) -> Tensor:
    """−log(1 − D)."""
    return torch.stack([F.softplus(each).mean() for each in maps]).mean()


class FSGANTask(RivalTask):
    """One step trains the three generators, then their discriminators."""

    made: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    """Made and real faces of this step, reenacted and completed, for the discriminators."""

    def build(self) -> nn.Module:
        return Opponents()

    def phases(self, model: nn.Module) -> list[Phase]:
        assert isinstance(model, Opponents)
        generators = list(model.generators.parameters())
        against = [*model.of_reenacted.parameters(), *model.of_completed.parameters()]
        rate = self.schedule.learning_rate
        return [
            Phase(self.loss, generators, [torch.optim.Adam(generators, rate, BETAS)]),
            Phase(
                self.discriminator_loss,
                against,
                [torch.optim.Adam(against, DISCRIMINATOR_RATE * rate, BETAS)],
            ),
        ]

    def sources(self, targets: NDArray[np.int64], random: np.random.Generator) -> Tensor:
        """I_s of each target: of every second another view, else a warp, `[N,3,64,64]`."""
        views = self.pictures.settings.views
        others = targets // views * views + (
            (targets % views + random.integers(1, max(2, views), len(targets))) % views
        )
        own = self.pictures.landmarks(targets).double().numpy()
        wanted = self.pictures.landmarks(random.permutation(self.batches.indices)[: len(targets)])
        pixels, away = to_pixels(self.pictures.images(targets)), wanted.double().numpy()
        warps = np.stack([warped(*each) for each in zip(pixels, own, away, strict=True)])
        warps = warps.round().clip(0, 255).astype(np.uint8)
        turned = (np.arange(len(targets)) % 2 == 0) & (views > 1)
        seen = self.pictures.images(others)
        return torch.where(torch.from_numpy(turned)[:, None, None, None], seen, to_tensor(warps))

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """L(G_r) + L(G_s) + L(G_c), which share no weights."""
        assert isinstance(model, Opponents)
        targets, random = self.batches(step), self.random(step)
        faces, landmarks = self.pictures.images(targets), self.pictures.landmarks(targets)
        region = face_regions(landmarks, faces.shape[-1])
        weight = region * (
            1.0 + NEAR_LANDMARKS * heatmaps(landmarks, faces.shape[-1]).amax(1, True)
        )
        networks = model.generators

        reenacted, found = networks.reenact(self.sources(targets, random), landmarks)
        codes = self.world.identity((faces + (reenacted - faces) * region)[:JUDGED])
        perceptual = (1.0 - (codes * self.pictures.codes(targets[:JUDGED])).sum(1)).mean()
        alone = reenacted * region
        loss = PERCEPTUAL * perceptual + PIXEL * pixel_loss(reenacted, faces, weight)
        loss = loss + ADVERSARIAL * real_loss(model.of_reenacted(alone))
        loss = loss + SEGMENTATION * F.binary_cross_entropy_with_logits(found, region)

        segmented, guide = networks.segment(faces), found.detach().sigmoid()
        loss = loss + F.binary_cross_entropy_with_logits(segmented, region)
        loss = loss + step / self.schedule.steps * (segmented.sigmoid() - guide).abs().mean()

        known = region * (1.0 - ellipses(len(faces), faces.shape[-1], random))
        completed = networks.complete(faces, known, region) * region
        loss = loss + PIXEL * pixel_loss(completed, faces, weight)
        loss = loss + ADVERSARIAL * real_loss(model.of_completed(completed))
        self.made = (alone.detach(), faces * region), (completed.detach(), faces * region)
        return loss

    def discriminator_loss(self, model: nn.Module, step: int) -> Tensor:
        """Of both, on what the step has made."""
        assert isinstance(model, Opponents)
        pairs = zip((model.of_reenacted, model.of_completed), self.made, strict=True)
        parts = [fake_loss(judge(made)) + real_loss(judge(real)) for judge, (made, real) in pairs]
        return torch.stack(parts).sum()

    def measure(self, model: nn.Module) -> tuple[nn.Module, Card]:
        """Errors on people it was not trained on."""
        assert isinstance(model, Opponents)
        return self.card(
            model.generators,
            network="FSGAN: reenactment, segmentation and inpainting, three U-Nets",
            objective="L(G_r), L(G_s) and L(G_c) of the paper; regions from landmarks",
            test="other people: PSNR in dB of a reenacted and a completed face within its region;"
            " intersection over union of the region found",
            figures={name: round(value, 3) for name, value in self.validate(model).items()},
        )

    @torch.no_grad()
    def validate(self, model: Opponents) -> dict[str, float]:
        """On sources made as in training."""
        networks, random = model.generators, self.random(self.schedule.steps)
        targets = self.validation
        faces, landmarks = self.pictures.images(targets), self.pictures.landmarks(targets)
        region = face_regions(landmarks, faces.shape[-1])
        reenacted, _ = networks.reenact(self.sources(targets, random), landmarks)
        known = region * (1.0 - ellipses(len(faces), faces.shape[-1], random))
        completed = networks.complete(faces, known, region)
        found = (networks.segment(faces) > 0).float()
        both, either = (found * region).sum(), torch.maximum(found, region).sum()
        return {
            "reenacted": psnr(reenacted, faces, region),
            "completed": psnr(completed, faces, region - known),
            "overlap": float(both / either),
        }


def ellipses(count: int, size: int, random: np.random.Generator) -> Tensor:
    """1 within ellipses somewhere about the middle of each picture, `[count,1,size,size]`."""
    y, x = torch.meshgrid(*[(torch.arange(size) + 0.5) / size] * 2, indexing="ij")
    inside = torch.zeros(count, 1, size, size)
    for row in range(count):
        for _ in range(ELLIPSES):
            cx, cy = random.uniform(0.2, 0.8), random.uniform(0.3, 0.95)
            rx, ry = random.uniform(*RADII, 2)
            inside[row, 0][((x - cx) / rx).square() + ((y - cy) / ry).square() < 1.0] = 1.0
    return inside


def fsgan(world: World, data: Path, steps: int) -> RivalTask:
    """Half a second a step on one core in mini."""
    schedule = Schedule(
        steps,
        batch_size=8,
        learning_rate=2e-3,
        weight_decay=0.0,
        averaging=0.99,
        bfloat16=False,
    )
    return FSGANTask("fsgan", world, data, schedule)
