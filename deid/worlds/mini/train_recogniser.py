"""Trains one of the mini world's three recognisers.

    python -m deid.worlds.mini.train_recogniser identity --out data/mini/trained/identity --steps N

`identity` is attacked (CosFace, Wang et al. 2018); `mobile` (ArcFace, Deng et al. 2019) and
`convnext` (NormFace, Wang et al. 2017) are held out: other architectures, losses and seeds. All
also tell the renderer's identity numbers from the embedding: in a budget of minutes a class is seen
only a few times, and this teaches from the first picture on.
"""

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deid.images import to_tensor
from deid.nets.recogniser import Recogniser
from deid.seeds import numpy_generator
from deid.worlds.mini.augment import Jitter, augment
from deid.worlds.mini.cards import Card
from deid.worlds.mini.dataset import Renders
from deid.worlds.mini.fit import Batches, Schedule, train
from deid.worlds.mini.networks import recogniser
from deid.worlds.mini.parameters import GROUPS


@dataclass(frozen=True)
class Margin:
    """cos(θ + `angular`) - `additive` at the true class, all times `scale`."""

    angular: float
    additive: float
    scale: float


RECIPES: dict[str, tuple[Margin, int, bool]] = {  # margin, seed, bfloat16
    "identity": (Margin(0.0, 0.35, 24.0), 1, True),
    "mobile": (Margin(0.35, 0.0, 24.0), 2, False),
    "convnext": (Margin(0.0, 0.0, 16.0), 3, True),
}


class Classifier(nn.Module):
    """A recogniser, a direction for each person in training, and a reader of identity numbers."""

    def __init__(self, net: Recogniser, people: int) -> None:
        super().__init__()
        self.net = net
        self.directions = nn.Parameter(torch.randn(people, net.dim) * 0.1)
        group = GROUPS["identity"]
        self.numbers = nn.Linear(net.dim, group.stop - group.start)


def margin_logits(cosines: Tensor, labels: Tensor, margin: Margin, share: float) -> Tensor:
    """`[N,C]` cosines → scaled logits with `share` of the margin at the true class."""
    rows = torch.arange(len(labels))
    angle = torch.acos(cosines[rows, labels].clamp(-1 + 1e-6, 1 - 1e-6))
    target = torch.cos((angle + share * margin.angular).clamp(max=torch.pi))
    logits = cosines.clone()
    logits[rows, labels] = target - share * margin.additive
    return logits * margin.scale


def loss(
    renders: Renders,
    batches: Batches,
    margin: Margin,
    schedule: Schedule,
    model: nn.Module,
    step: int,
) -> Tensor:
    """Margin softmax over the people, and mean squared error of the identity numbers."""
    assert isinstance(model, Classifier)
    indices = batches(step)
    rng = numpy_generator(f"mini/{batches.name}/augment", step, schedule.seed)
    images, _ = augment(renders.images(indices), Jitter(), rng)
    with schedule.precision():
        raw = model.net.raw(images).float()
    labels = torch.from_numpy(renders.identities[indices])
    cosines = F.linear(F.normalize(raw), F.normalize(model.directions))
    share = min(1.0, step / (0.5 * schedule.steps))
    who = F.cross_entropy(margin_logits(cosines, labels, margin, share), labels)
    numbers = torch.from_numpy(renders.parameters(indices)[:, GROUPS["identity"]])
    return who + 2.0 * F.mse_loss(model.numbers(raw), numbers)


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


def measure(name: str, renders: Renders, model: nn.Module) -> tuple[nn.Module, Card]:
    """The recogniser alone, and its figures on people not trained on."""
    assert isinstance(model, Classifier)
    test = renders.split("test")
    figures = verification(embed(model.net, renders, test), renders.identities[test])
    margin = RECIPES[name][0]
    train_count = len(renders.split("train"))
    return model.net, {
        "network": f"face recogniser, {type(model.net).__name__}, {name}",
        "objective": f"margin softmax (angular {margin.angular}, additive {margin.additive}, "
        f"scale {margin.scale}) + 2 MSE of the identity numbers",
        "data": f"{train_count} renders of {train_count // renders.settings.views} people",
        "test": f"{len(test)} renders of {len(test) // renders.settings.views} other people",
        "figures": {key: round(value, 5) for key, value in figures.items()},
    }


def train_recogniser(name: str, data: Path, out: Path, steps: int) -> None:
    """Train recogniser `name` on the renders in `data`, into the folder `out`."""
    margin, seed, bfloat16 = RECIPES[name]
    renders = Renders(data)
    schedule = Schedule(steps, seed, bfloat16=bfloat16)
    indices = renders.split("train")
    people = len(indices) // renders.settings.views

    train(
        name,
        lambda: Classifier(recogniser(name), people),
        partial(loss, renders, Batches(indices, schedule, name), margin, schedule),
        partial(measure, name, renders),
        schedule,
        out,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(RECIPES))
    parser.add_argument("--data", type=Path, default=Path("data/mini/renders"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    given = parser.parse_args()
    train_recogniser(given.name, given.data, given.out, given.steps)


if __name__ == "__main__":
    main()
