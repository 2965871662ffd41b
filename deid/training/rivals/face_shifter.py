"""Trains FaceShifter (Li, Bao, Yang, Chen and Wen 2020, "FaceShifter: Towards High Fidelity And
Occlusion Aware Face Swapping"): AEI-Net, its discriminators and HEAR-Net.

X_s is the source, X_t the target, Ŷ what AEI-Net draws, Y what HEAR-Net makes of it:

    L_adv   hinge losses of discriminators at several scales
    L_id  = 1 − cos(z_id(Ŷ), z_id(X_s)),        L_att = ½ Σ_k ‖z_att^k(Ŷ) − z_att^k(X_t)‖²
    L_rec = ½ ‖Ŷ − X_t‖² where X_t = X_s, else 0
    L_AEI = L_adv + 10 L_att + λ_id L_id + λ_rec L_rec
    L_HEAR = ½ ‖Y − X_t‖² where X_t = X_s + (1 − cos(z_id(Y), z_id(X_s))) + ‖Ŷ − Y‖₁

z_id is En_id, where theirs is ArcFace. What lies in front of a face is drawn for HEAR-Net alone.

Departures. 64 px (256), 6 levels of attributes (8) of 16 to 64 channels, group norm in the encoder
(batch norm), 1×1 convolutions for γ_att, β_att and the shortcut (3×3), and z_id narrowed to 64
numbers. Norms are means. A training of minutes must learn to draw first, or it learns noise that
En_id takes for the source (of 260 steps it did so all the same; 3,000 gave faces). So half of the
pairs are one face twice, also AEI-Net's (theirs: a fifth), λ_rec is 40 (10), L_rec also counts
outside of the face, whatever the pair, λ_id is 1 (5), and L_id comes in over the first quarter. It
is taken on `JUDGED` pictures of a batch, for En_id takes longer than all else. Both networks are
trained at once, HEAR-Net on what AEI-Net draws so far, and it adds to Ŷ in place of drawing Y anew.
Occlusions are ellipses with another picture's pixels; theirs were hands and rendered objects.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deid.imaging.region import face_regions
from deid.nets.face_shifter import Swapper
from deid.nets.unet import MultiScaleDiscriminator
from deid.training.rivals.task import RivalTask
from deid.worlds.cards import Card
from deid.worlds.mini.pretrain.distillation import psnr
from deid.worlds.training_loop import Phase, Schedule
from deid.worlds.world import World

ATTRIBUTES, IDENTITY, RECONSTRUCTION = 10.0, 1.0, 40.0
SAME = 0.5
"""The share of the pairs that are one picture twice."""

ARRIVAL = 0.25
"""The share of the training over which L_id comes in."""

JUDGED, HEARD, HEARD_JUDGED = 4, 4, 2
"""Pictures of a batch that En_id sees; of HEAR-Net's batch; and those of it that En_id sees."""

SCALES = 3
BETAS = (0.0, 0.999)
DISCRIMINATOR_RATE = 0.4
"""Of the generator's learning rate."""

RADII = (0.06, 0.2)
"""Of what lies in front of a face, in sides."""


class Opponents(nn.Module):
    """What is kept, and the discriminators, which are not."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.swapper = Swapper(dim)
        self.discriminator = MultiScaleDiscriminator(scales=SCALES)


def attributes_loss(made: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """L_att of two encodings."""
    parts = [F.mse_loss(a, b) for a, b in zip(made, wanted, strict=True)]
    return 0.5 * torch.stack(parts).sum()


def reconstruction_loss(made: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """L_rec, of the pixels that are `counted`, `[N,1,H,W]` or `[N,1,1,1]` of 0 and 1."""
    error = (made - targets).square().mean(1, keepdim=True) * counted
    return 0.5 * error.sum() / counted.expand_as(error).sum().clamp_min(1.0)


def identity_loss(codes: Tensor, sources: Tensor) -> Tensor:
    """L_id of unit vectors `[N,dim]`."""
    return (1.0 - (codes * sources).sum(1)).mean()


def hinge_loss(maps: list[Tensor], real: bool) -> Tensor:
    """Of a discriminator, the mean over its scales."""
    sign = 1.0 if real else -1.0
    return torch.stack([F.relu(1.0 - sign * each).mean() for each in maps]).mean()


class FaceShifterTask(RivalTask):
    """One step trains AEI-Net, then the discriminators, then HEAR-Net."""

    drawn: Tensor  # by AEI-Net in this step, for the discriminators

    def build(self) -> nn.Module:
        return Opponents(self.world.identity.dim)

    def phases(self, model: nn.Module) -> list[Phase]:
        assert isinstance(model, Opponents)
        aei, hear = list(model.swapper.aei.parameters()), list(model.swapper.hear.parameters())
        against, rate = list(model.discriminator.parameters()), self.schedule.learning_rate
        return [
            Phase(self.loss, aei, [torch.optim.Adam(aei, rate, BETAS)]),
            Phase(
                self.discriminator_loss,
                against,
                [torch.optim.Adam(against, DISCRIMINATOR_RATE * rate, BETAS)],
            ),
            Phase(self.hear_loss, hear, [torch.optim.Adam(hear, rate, BETAS)]),
        ]

    def pairs(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Tensor]:
        """Indices of targets and sources, and which of them are the same picture, `[N]` each; those
        come first."""
        targets = self.batches(step)
        sources = self.random(step).permutation(self.batches.indices)[: len(targets)]
        same = np.arange(len(targets)) < SAME * len(targets)
        return targets, np.where(same, targets, sources), torch.from_numpy(same)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """L_AEI."""
        assert isinstance(model, Opponents)
        targets, sources, same = self.pairs(step)
        faces, z_id = self.pictures.images(targets), self.pictures.codes(sources)
        aei = model.swapper.aei
        attributes = aei.encoder(faces)
        made = aei(attributes, z_id)
        self.drawn = made.detach()
        fooled = torch.stack([-each.mean() for each in model.discriminator(made)]).mean()
        codes = self.world.identity(made[-JUDGED:])
        beyond = 1.0 - face_regions(self.pictures.landmarks(targets), faces.shape[-1])
        counted = torch.maximum(beyond, same.float()[:, None, None, None])
        arrived = min(1.0, step / (ARRIVAL * self.schedule.steps))
        return (
            fooled
            + ATTRIBUTES * attributes_loss(aei.encoder(made), attributes)
            + arrived * IDENTITY * identity_loss(codes, z_id[-JUDGED:])
            + RECONSTRUCTION * reconstruction_loss(made, faces, counted)
        )

    def discriminator_loss(self, model: nn.Module, step: int) -> Tensor:
        """The hinge loss on the targets and on what was drawn of them."""
        assert isinstance(model, Opponents)
        real = self.pictures.images(self.batches(step))
        fake = hinge_loss(model.discriminator(self.drawn), real=False)
        return 0.5 * (hinge_loss(model.discriminator(real), real=True) + fake)

    def hear_loss(self, model: nn.Module, step: int) -> Tensor:
        """L_HEAR."""
        assert isinstance(model, Opponents)
        middle = self.schedule.batch_size // 2
        few = slice(middle - HEARD // 2, middle + HEARD // 2)  # half of them one picture twice
        every, others, twice = self.pairs(step)
        targets, sources, same = every[few], others[few], twice[few]
        faces = self.occluded(targets, step)
        z_id, own = self.pictures.codes(sources), self.pictures.codes(targets)
        with torch.no_grad():
            attributes = model.swapper.aei.encoder(faces)
            drawn, again = (model.swapper.aei(attributes, code) for code in (z_id, own))
        made = model.swapper.refine(drawn, faces, again)
        codes = self.world.identity(made[-HEARD_JUDGED:])
        return (
            reconstruction_loss(made, faces, same.float()[:, None, None, None])
            + identity_loss(codes, z_id[-HEARD_JUDGED:])
            + F.l1_loss(made, drawn)
        )

    def occluded(self, indices: NDArray[np.int64], step: int) -> Tensor:
        """Pictures in which something lies in front of every second face."""
        faces, random = self.pictures.images(indices), self.random(step)
        others = self.pictures.images(random.permutation(self.batches.indices)[: len(indices)])
        size = faces.shape[-1]
        y, x = torch.meshgrid(*[(torch.arange(size) + 0.5) / size] * 2, indexing="ij")
        inside = torch.zeros(len(faces), 1, size, size, dtype=torch.bool)
        for row in range(0, len(faces), 2):
            cx, cy = random.uniform(0.25, 0.75, 2)
            rx, ry = random.uniform(*RADII, 2)
            inside[row, 0] = ((x - cx) / rx).square() + ((y - cy) / ry).square() < 1.0
        return torch.where(inside, others.roll((size // 3, size // 4), (2, 3)), faces)

    def measure(self, model: nn.Module) -> tuple[nn.Module, Card]:
        """En_id and PSNR on people it was not trained on."""
        assert isinstance(model, Opponents)
        return self.card(
            model.swapper,
            network="FaceShifter: AEI-Net and HEAR-Net",
            objective="L_AEI and L_HEAR of the paper",
            test="other people: cosine in En_id with source and target; PSNR in dB of a picture"
            " given its own identity",
            figures={name: round(value, 3) for name, value in self.validate(model.swapper).items()},
        )

    @torch.no_grad()
    def validate(self, network: Swapper) -> dict[str, float]:
        """Over a quarter of the validation pictures, each with another's identity."""
        targets = self.validation[::4]
        sources = np.roll(targets, len(targets) // 2)
        faces, own = self.pictures.images(targets), self.pictures.codes(targets)
        z_id = self.pictures.codes(sources)
        again = network.aei.draw(faces, own)
        made = network.refine(network.aei.draw(faces, z_id), faces, again)
        codes = torch.cat([self.world.identity(one) for one in torch.split(made, 1)])
        return {
            "source": float((codes * z_id).sum(1).mean()),
            "target": float((codes * own).sum(1).mean()),
            "psnr": psnr(again, faces),
        }


def faceshifter(world: World, data: Path, steps: int) -> RivalTask:
    """Half a second a step on one core in mini."""
    schedule = Schedule(
        steps,
        batch_size=8,
        learning_rate=1e-3,
        weight_decay=0.0,
        averaging=0.99,
        bfloat16=False,
    )
    return FaceShifterTask("faceshifter", world, data, schedule)
