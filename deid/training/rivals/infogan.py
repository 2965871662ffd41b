"""Trains InfoGAN (Chen et al. 2016).

A generator takes noise z and codes c. The game (their equation 6, with V of Goodfellow et al.):

    min_{G,Q} max_D  V(D, G) − λ L_I(G, Q)
    V(D, G)   = E_x [log D(x)] + E_{z,c} [log(1 − D(G(z, c)))]
    L_I(G, Q) = E_{c, x=G(z,c)} [log Q(c|x)] + H(c)  ≤  I(c; G(z, c))

G minimizes −log D(G(z, c)) instead of log(1 − D), as GANs do. Q(c|x) shares all convolutions with
D; it is a softmax for each category and a Gaussian with mean and variance for each number.
Categories are uniform over ten values, numbers uniform in [-1, 1]: H(c) = 10 log 10 + 5 log 2 nats.
As in their code, Q's part of the bound also trains the convolutions that it shares with D.

Departures. Both kinds of codes at once (theirs for CelebA: ten categories; for rendered faces: five
numbers). λ = 1 for categories as theirs, 0.1 for numbers (theirs is "on the scale of the game").
64 px instead of 32, so a layer more on each side, narrower; weights of G are averaged. Training is
a hundredth of theirs.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.infogan import CATEGORICAL, CONTINUOUS, NOISE, VALUES, InfoGAN, Posterior
from deid.seeds import torch_generator
from deid.training.rivals.task import RivalTask
from deid.worlds.cards import Card
from deid.worlds.training_loop import Phase, Schedule
from deid.worlds.world import World

CATEGORY_WEIGHT, NUMBER_WEIGHT = 1.0, 0.1
"""λ of both kinds of codes."""

DISCRIMINATOR_RATE = 0.2
"""Of the generator's learning rate, as theirs: 0.0002 and 0.001."""


@dataclass(frozen=True)
class Drawn:
    """What G was given: `z [N,NOISE]`, the categories' values `[N,10]`, numbers `[N,5]`."""

    z: Tensor
    categories: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, count: int, random: torch.Generator) -> "Drawn":
        return cls(
            torch.randn(count, NOISE, generator=random),
            torch.randint(VALUES, (count, CATEGORICAL), generator=random),
            torch.rand(count, CONTINUOUS, generator=random) * 2.0 - 1.0,
        )

    @property
    def codes(self) -> Tensor:
        """As the generator takes them, `[N,CODES]`."""
        hot = F.one_hot(self.categories, VALUES).float()
        return torch.cat([hot.flatten(1), self.numbers], 1)


def information(posterior: Posterior, drawn: Drawn) -> tuple[Tensor, Tensor]:
    """L_I of the categories and of the numbers, in nats, means over the batch."""
    said = F.log_softmax(posterior.logits, 2)
    hit = said.gather(2, drawn.categories[..., None]).sum((1, 2)).mean()
    offset = (drawn.numbers - posterior.mean).square() / posterior.log_variance.exp()
    density = -0.5 * (offset + posterior.log_variance + math.log(2.0 * math.pi))
    entropy = CATEGORICAL * math.log(VALUES), CONTINUOUS * math.log(2.0)
    return hit + entropy[0], density.sum(1).mean() + entropy[1]


def weighed(posterior: Posterior, drawn: Drawn) -> Tensor:
    """λ L_I."""
    categories, numbers = information(posterior, drawn)
    return CATEGORY_WEIGHT * categories + NUMBER_WEIGHT * numbers


class InfoGANTask(RivalTask):
    """Two phases: D with Q, then G."""

    def build(self) -> nn.Module:
        return InfoGAN()

    def phases(self, model: nn.Module) -> list[Phase]:
        assert isinstance(model, InfoGAN)
        recognition = list(model.recognition.parameters())
        generator = list(model.generator.parameters())
        rate = self.schedule.learning_rate

        def adam(weights: list[nn.Parameter], rate: float) -> list[torch.optim.Optimizer]:
            return [torch.optim.Adam(weights, rate, (0.5, 0.999))]

        return [
            Phase(self.loss, recognition, adam(recognition, rate * DISCRIMINATOR_RATE)),
            Phase(self.generator_loss, generator, adam(generator, rate)),
        ]

    def draw(self, part: str, step: int) -> Drawn:
        """What G is given in a part of a step."""
        return Drawn.of(self.schedule.batch_size, torch_generator(f"{self.stream}/{part}", step))

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """D's and Q's: -V - λ L_I."""
        assert isinstance(model, InfoGAN)
        drawn = self.draw("recognition", step)
        with torch.no_grad():
            made = model.generator(drawn.z, drawn.codes)
        real, _ = model.recognition(self.pictures.images(self.batches(step)))
        fake, posterior = model.recognition(made)
        return F.softplus(-real).mean() + F.softplus(fake).mean() - weighed(posterior, drawn)

    def generator_loss(self, model: nn.Module, step: int) -> Tensor:
        """G's: -log D(G(z, c)) - λ L_I."""
        assert isinstance(model, InfoGAN)
        drawn = self.draw("generator", step)
        model.recognition.requires_grad_(False)
        fake, posterior = model.recognition(model.generator(drawn.z, drawn.codes))
        model.recognition.requires_grad_(True)
        return F.softplus(-fake).mean() - weighed(posterior, drawn)

    def measure(self, model: nn.Module) -> tuple[nn.Module, Card]:
        """The bound on generated pictures; what the codes keep of people not trained on."""
        assert isinstance(model, InfoGAN)
        images = self.pictures.images(self.validation)
        drawn = Drawn.of(len(images), torch_generator(f"{self.stream}/measure"))
        _, posterior = model.recognition(model.generator(drawn.z, drawn.codes))
        categories, numbers = information(posterior, drawn)
        right = (posterior.logits.argmax(2) == drawn.categories).float().mean()
        _, seen = model.recognition(images)
        redrawn = model.generator(drawn.z, seen.best)
        return self.card(
            model,
            what="InfoGAN, ten categories and five numbers",
            objective="GAN - λ L_I(G, Q)",
            test="L_I in nats, of generated pictures; likeness is En_id's, of people not trained on"
            " drawn again from the codes that Q saw",
            figures={
                "information_categories": round(float(categories), 2),
                "information_numbers": round(float(numbers), 2),
                "categories_recognized": round(float(right), 3),
                "likeness_redrawn": self.likeness(images, redrawn),
            },
        )


def infogan(world: World, data: Path, steps: int) -> RivalTask:
    schedule = Schedule(
        steps, batch_size=32, learning_rate=1e-3, weight_decay=0.0, averaging=0.99, bfloat16=False
    )
    return InfoGANTask("infogan", world, data, schedule)
