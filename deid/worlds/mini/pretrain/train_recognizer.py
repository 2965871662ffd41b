"""Trains one of the mini world's three recognizers.

`identity` is attacked (CosFace, Wang et al. 2018); `mobile` (ArcFace, Deng et al. 2019) and
`convnext` (NormFace, Wang et al. 2017) are held out: other architectures, losses and seeds.

A class center is not a free vector: a small network makes it from the person's identity numbers.
Free vectors must be seen many times each; this one network learns from every picture for everyone,
and reached in 400 steps a TAR of 0.84 (FAR 1e-3) where free vectors reached 0.02.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.recognizer import Recognizer
from deid.pixels import to_tensor
from deid.worlds.cards import Card
from deid.worlds.mini.networks import recognizer
from deid.worlds.mini.pretrain.augment import Jitter, augment
from deid.worlds.mini.pretrain.dataset import Renders
from deid.worlds.mini.render.parameters import GROUPS
from deid.worlds.training_loop import Batches, Schedule, Task


@dataclass(frozen=True)
class Margin:
    """cos(θ + `angular`) - `additive` at the true class, all times `scale`."""

    angular: float
    additive: float
    scale: float


_GROUP = GROUPS["identity"]
CANDIDATES = 1_024
"""Classes in a step's softmax: those of the batch, and others by chance."""

RECIPES: dict[str, tuple[Margin, int, bool]] = {  # margin, seed, bfloat16
    "identity": (Margin(0.0, 0.35, 24.0), 1, True),
    "mobile": (Margin(0.35, 0.0, 24.0), 2, False),
    "convnext": (Margin(0.0, 0.0, 24.0), 3, True),
}


class Classifier(nn.Module):
    """A recognizer, and a network from identity numbers `[P,K]` to class centers `[P,dim]`."""

    def __init__(self, net: Recognizer) -> None:
        super().__init__()
        self.net = net
        self.centers = nn.Sequential(
            nn.Linear(_GROUP.stop - _GROUP.start, 256), nn.ReLU(), nn.Linear(256, net.dim)
        )
        self.numbers = nn.Linear(net.dim, _GROUP.stop - _GROUP.start)


def margin_logits(cosines: Tensor, labels: Tensor, margin: Margin, share: float) -> Tensor:
    """`[N,C]` cosines → scaled logits with `share` of the margin at the true class."""
    rows = torch.arange(len(labels))
    angle = torch.acos(cosines[rows, labels].clamp(-1 + 1e-6, 1 - 1e-6))
    target = torch.cos((angle + share * margin.angular).clamp(max=torch.pi))
    logits = cosines.clone()
    logits[rows, labels] = target - share * margin.additive
    return logits * margin.scale


class Recognition(Task):
    """Recognizer `name` of `RECIPES`, on the renders in `data`."""

    def __init__(self, name: str, data: Path, steps: int) -> None:
        self.margin, seed, bfloat16 = RECIPES[name]
        super().__init__(name, Schedule(steps, seed, bfloat16=bfloat16))
        self.renders = Renders(data)
        indices = self.renders.split("train")
        self.batches = Batches(indices, self.schedule, self.stream)
        first_views = indices[:: self.renders.settings.views]
        self.people = torch.from_numpy(self.renders.parameters(first_views)[:, _GROUP].copy())

    def build(self) -> nn.Module:
        return Classifier(recognizer(self.name))

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Margin softmax over people, and mean squared error of the identity numbers read back.

        The margin grows from 0 during the first half.
        """
        assert isinstance(model, Classifier)
        rng, indices = self.random(step), self.batches(step)
        images, _ = augment(self.renders.images(indices), Jitter(), rng)
        with self.schedule.precision():
            raw = model.net.raw(images).float()
        people, labels = self.candidates(self.renders.identities[indices], rng)
        cosines = F.linear(F.normalize(raw), F.normalize(model.centers(people)))
        share = min(1.0, step / (0.5 * self.schedule.steps))
        classification = F.cross_entropy(margin_logits(cosines, labels, self.margin, share), labels)
        return classification + 2.0 * F.mse_loss(model.numbers(raw), people[labels])

    def candidates(
        self, identities: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Identity numbers of the classes in the softmax, and the row of each picture's own."""
        present, labels = np.unique(identities, return_inverse=True)
        count = min(CANDIDATES, len(self.people))
        others = np.setdiff1d(rng.choice(len(self.people), count, replace=False), present)
        return self.people[np.concatenate([present, others])], torch.from_numpy(labels)

    def measure(self, model: nn.Module) -> tuple[nn.Module, Card]:
        """The recognizer alone, and its figures on people not trained on."""
        assert isinstance(model, Classifier)
        test, trained = self.renders.split("test"), self.renders.split("train")
        figures = verification(embed(model.net, self.renders, test), self.renders.identities[test])
        margin, views = self.margin, self.renders.settings.views
        return model.net, {
            "network": f"face recognizer, {type(model.net).__name__}, {self.name}",
            "objective": f"margin softmax (angular {margin.angular}, additive {margin.additive}, "
            f"scale {margin.scale}) to centers made from identity numbers + 2 MSE of those numbers",
            "data": f"{len(trained)} renders of {len(trained) // views} people",
            "test": f"{len(test)} renders of {len(test) // views} other people",
            "figures": {key: round(value, 5) for key, value in figures.items()},
        }


@torch.no_grad()
def embed(net: nn.Module, renders: Renders, indices: NDArray[np.int64]) -> Tensor:
    """Embeddings `[N,dim]` of pictures by index."""
    parts = np.array_split(indices, max(1, len(indices) // 128))
    return torch.cat([net(to_tensor(renders.images(part))) for part in parts])


def verification(embeddings: Tensor, identities: NDArray[np.int64]) -> dict[str, float]:
    """Over all pairs: area under the ROC curve, and the true accept rate at FAR 1e-3."""
    similarity = (embeddings @ embeddings.t()).numpy()
    rows, columns = np.triu_indices(len(similarity), 1)
    scores, same = similarity[rows, columns], identities[rows] == identities[columns]
    genuine, impostor = np.sort(scores[same]), np.sort(scores[~same])
    threshold = impostor[int(np.ceil(len(impostor) * (1 - 1e-3))) - 1]
    below = np.searchsorted(impostor, genuine, side="left")
    return {
        "auc": float(below.mean() / len(impostor)),
        "tar_at_far_1e-3": float((genuine > threshold).mean()),
        "threshold_at_far_1e-3": float(threshold),
    }
