"""Trains CIAGAN; its losses are in `deid.anonymize.rivals.ciagan`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from deid.errors import DeidError
from deid.nets.ciagan import (
    EMBEDDING,
    IDENTITIES,
    PICTURE,
    SEEN,
    Discriminator,
    Generator,
    Siamese,
    anonymized,
    lines,
    masks,
)
from deid.pixels import to_pixels
from deid.seeds import numpy_generator
from deid.training.rivals.task import RivalTask
from deid.worlds.cards import Card
from deid.worlds.training_loop import Phase, Schedule
from deid.worlds.world import World

MARGIN = 3.0
"""a of the contrastive loss."""

IDENTITY, PIXELS = 0.1, 10.0
"""Weights of the contrastive loss and of pixels that are known, beside D's say, in G's loss."""

BETAS = (0.5, 0.999)


class Networks(nn.Module):
    """G, D and S; the convolutions of D with spectral norm, as theirs."""

    def __init__(self, people: int) -> None:
        super().__init__()
        self.generator, self.discriminator = Generator(), Discriminator()
        self.siamese = Siamese()
        self.proxies = nn.Parameter(torch.randn(people, EMBEDDING))
        for layer in self.discriminator.modules():
            if isinstance(layer, nn.Conv2d):
                spectral_norm(layer)


@dataclass(frozen=True)
class Batch:
    """Pictures as the networks see them, `[N,C,48,48]`."""

    faces: Tensor
    lines: Tensor
    inside: Tensor


class CIAGANTask(RivalTask):
    """Three networks, a phase each."""

    memory_format = torch.contiguous_format

    def __init__(self, world: World, data: Path, schedule: Schedule) -> None:
        super().__init__("ciagan", world, data, schedule)
        self.views = self.pictures.settings.views
        self.people = len(self.pictures.split()) // self.views
        if self.people < IDENTITIES:
            raise DeidError(
                f"{data}: {self.people} people to train on, CIAGAN needs {IDENTITIES}; draw more"
            )

    def build(self) -> Networks:
        return Networks(self.people)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """That of the generator."""
        assert isinstance(model, Networks)
        sources, targets = self.pairs(step, "generator", IDENTITIES)
        own = self.pictures.person(sources) == self.pictures.person(targets)
        batch, whose = self.seen(sources), self.seen(targets)
        with _frozen(model.discriminator), _frozen(model.siamese):
            made = self.made(model, batch, targets)
            score = model.discriminator(made, batch.lines)
            wanted = model.siamese(whose.faces * whose.inside)
            distance = squared_distance(model.siamese(made * batch.inside), wanted)
        person = 0.5 * distance.mean()
        accepted: Tensor = (score - 1.0).square().mean()
        return accepted + IDENTITY * person + PIXELS * difference(batch, made, own)

    def phases(self, model: nn.Module) -> list[Phase]:
        """A step of S, of D and of G, as theirs."""
        assert isinstance(model, Networks)
        siamese = [*model.siamese.parameters(), model.proxies]
        parts = [
            (self.loss, list(model.generator.parameters())),
            (self.discriminator_loss, list(model.discriminator.parameters())),
            (self.siamese_loss, siamese),
        ]
        rate = self.schedule.learning_rate
        return [Phase(loss, ws, [torch.optim.Adam(ws, rate, BETAS)]) for loss, ws in parts]

    def discriminator_loss(self, model: nn.Module, step: int) -> Tensor:
        """Least squares of real pictures and of those that G makes of others."""
        assert isinstance(model, Networks)
        sources, targets = self.pairs(step, "discriminator", IDENTITIES)
        real = self.seen(self.batches(step))
        batch = self.seen(sources)
        with torch.no_grad():
            made = self.made(model, batch, targets)
        judged = model.discriminator(
            torch.cat([real.faces, made]), torch.cat([real.lines, batch.lines])
        )
        accepted, rejected = judged.chunk(2)
        loss: Tensor = (accepted - 1.0).square().mean() + rejected.square().mean()
        return loss

    def siamese_loss(self, model: nn.Module, step: int) -> Tensor:
        """Contrastive, and Proxy-NCA, which the paper pretrains with."""
        assert isinstance(model, Networks)
        first, second = self.pairs(step, "siamese", self.people)
        a, b = self.seen(first), self.seen(second)
        found = model.siamese(torch.cat([a.faces * a.inside, b.faces * b.inside]))
        who = torch.from_numpy(self.pictures.person(np.concatenate([first, second])))
        same = (who[: len(first)] == who[len(first) :]).float()
        one, other = found.chunk(2)
        pairs = contrastive_loss(one, other, same)
        return pairs + proxy_nca_loss(found, who, model.proxies)

    def pairs(
        self, step: int, phase: str, targets: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pictures of two people, half of the time of the same one, who is among the first
        `targets`: `[N]` and `[N]`."""
        random = numpy_generator(f"{self.stream}/{phase}", step, self.schedule.seed)
        size = self.schedule.batch_size
        target = random.integers(targets, size=size)
        source = np.where(np.arange(size) % 2, target, random.integers(self.people, size=size))
        views = random.integers(self.views, size=(2, size))
        return source * self.views + views[0], target * self.views + views[1]

    def seen(self, indices: NDArray[np.int64]) -> Batch:
        """Those pictures as the networks see them."""
        landmarks = self.pictures.landmarks(indices)
        faces = self.pictures.images(indices)
        return Batch(faces[SEEN], lines(landmarks)[SEEN], masks(landmarks, PICTURE)[SEEN])

    def made(self, model: Networks, batch: Batch, targets: NDArray[np.int64]) -> Tensor:
        """x', not clamped, so that gradients flow; the targets' people are its identities."""
        whom = torch.from_numpy(self.pictures.person(targets))
        drawn = model.generator(batch.faces * (1.0 - batch.inside), batch.lines, whom)
        return torch.lerp(batch.faces, drawn, batch.inside)

    def measure(self, model: nn.Module) -> tuple[nn.Module, Card]:
        """Likeness of what becomes of faces of people it is not trained on, each given to another
        of its identities."""
        assert isinstance(model, Networks)
        network, held_out = model.generator, self.validation
        whom = torch.arange(len(held_out)) % IDENTITIES
        landmarks = self.pictures.landmarks(held_out)
        made = anonymized(network, self.pictures.images(held_out), landmarks, whom)
        codes = torch.cat([self.world.identity(one) for one in torch.split(made, 1)])
        wanted = self.pictures.codes(whom.numpy() * self.views)
        found = self.world.detector.detect(list(to_pixels(made)))
        return self.card(
            network,
            objective="least squares GAN with landmarks, contrastive loss of a siamese network",
            identities=IDENTITIES,
            test="people not trained on; likeness is En_id’s, which had no part",
            figures={
                "likeness_to_the_original": _cosine(codes, self.pictures.codes(held_out)),
                "likeness_to_the_identity": _cosine(codes, wanted),
                "faces_found": round(float(np.mean([len(one) > 0 for one in found])), 3),
            },
        )


def difference(batch: Batch, made: Tensor, own: NDArray[np.bool_]) -> Tensor:
    """Mean |x' − x| within the mask, of those that stay who they are, `own [N]`: of them alone
    the face is known."""
    inside = batch.inside * torch.from_numpy(own)[:, None, None, None]
    off = ((made - batch.faces).abs() * inside).sum()
    return off / (3.0 * inside.sum()).clamp_min(1.0)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """d² of each pair of embeddings, `[N]`."""
    return (a - b).square().sum(1)


def contrastive_loss(a: Tensor, b: Tensor, same: Tensor) -> Tensor:
    """Of embeddings `[N,dim]`; `same [N]` is 1 for one person, 0 for two."""
    squared = squared_distance(a, b)
    apart = F.relu(MARGIN - (squared + 1e-9).sqrt()).square()
    return 0.5 * (same * squared + (1.0 - same) * apart).mean()


def proxy_nca_loss(found: Tensor, who: Tensor, proxies: Tensor) -> Tensor:
    """Movshovitz-Attias et al. 2017, equation 4: embeddings `[N,dim]` lie close to the proxy of
    their person `[N]` and far from the others, on a sphere of radius `MARGIN`."""
    a, b = (MARGIN * F.normalize(x) for x in (found, proxies))
    nearness = -torch.cdist(a, b).square()
    own = nearness.gather(1, who[:, None])[:, 0]
    others = nearness.scatter(1, who[:, None], -torch.inf).logsumexp(1)
    return (others - own).mean()


def _cosine(a: Tensor, b: Tensor) -> float:
    """The mean of unit vectors `[N,dim]`."""
    return round((a * b).sum(1).mean().item(), 3)


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for its weights, only through it."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def ciagan(world: World, data: Path, steps: int) -> RivalTask:
    """Its training on labeled people, several views each."""
    schedule = Schedule(
        steps,
        batch_size=8,
        learning_rate=5e-4,
        weight_decay=0.0,
        averaging=0.995,
        bfloat16=False,  # which many processors only imitate
    )
    return CIAGANTask(world, data, schedule)
