"""Trains the mini world's face detectors.

`detector` sees upright people once, at a low price; by it the evaluation counts. `finder`, of the
same shape, is for the multi-scale mode: it sees heads of any rotation and place, hidden and cut,
and crowds (`deid.worlds.mini.pretrain.crowds`); and scenes, so that it knows what `detector` knows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from deid.faces.detection.center import CenterDetector
from deid.faces.faces import Faces
from deid.seeds import numpy_generator
from deid.worlds.cards import Card
from deid.worlds.mini.networks import center_net
from deid.worlds.mini.pretrain.augment import Jitter, augment
from deid.worlds.mini.pretrain.crowds import HeadsAndBackdrops, crowd, draw_heads
from deid.worlds.mini.pretrain.dataset import Renders
from deid.worlds.mini.pretrain.windows import (
    WINDOW,
    Picture,
    aligned,
    covered,
    draw_scenes,
    scene,
    targets,
    texture,
    window,
)
from deid.worlds.training_loop import Schedule, Task

_STILL = Jitter(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class UprightPeople:
    """Windows: half from scenes, half from aligned renders, some without people."""

    renders: Renders
    scenes: list[Picture]
    indices: NDArray[np.int64]

    def __call__(self, rng: np.random.Generator) -> Picture:
        if rng.random() < 0.12:
            return texture(rng)
        if rng.random() < 0.5:
            picture = self.scenes[rng.integers(len(self.scenes))]
        else:
            picture = aligned(self.renders, int(rng.choice(self.indices)))
        cut = window(picture, rng)
        return covered(cut, rng) if rng.random() < 0.12 else cut


@dataclass(frozen=True)
class AnyPeople:
    """Windows: most of heads of any rotation, some from scenes, some without people."""

    heads: HeadsAndBackdrops
    scenes: list[Picture]

    def __call__(self, rng: np.random.Generator) -> Picture:
        kind = rng.random()
        if kind < 0.1:
            return texture(rng)
        if kind < 0.35:
            cut = window(self.scenes[rng.integers(len(self.scenes))], rng)
        else:
            cut = crowd(self.heads, WINDOW, rng)
        return covered(cut, rng) if rng.random() < 0.08 else cut


class Detection(Task):
    """A detector, trained on the windows that `draw` makes."""

    def __init__(
        self,
        name: str,
        schedule: Schedule,
        draw: Callable[[np.random.Generator], Picture],
        measure: Callable[[CenterDetector], Card],
    ) -> None:
        super().__init__(name, schedule)
        self.draw, self._measure = draw, measure

    def build(self) -> nn.Module:
        return center_net()

    def batch(self, step: int) -> tuple[Tensor, list[Tensor]]:
        """Images `[N,3,S,S]`, and heat, care, near `[N,h,w]`, distances `[N,14,h,w]`."""
        rng = self.random(step)
        windows = [self.draw(rng) for _ in range(self.schedule.batch_size)]
        images, _ = augment(np.stack([w.pixels for w in windows]), _STILL, rng)
        wanted = [targets(w) for w in windows]
        stacks = [[getattr(t, f) for t in wanted] for f in ("heat", "care", "near", "distances")]
        return images, [torch.from_numpy(np.stack(values)) for values in stacks]

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Penalty-reduced focal loss of the heat (CornerNet, Law & Deng 2018, equation 1), and L1
        of the distances.
        """
        images, (heat, care, near, distances) = self.batch(step)
        with self.schedule.precision():
            output: Tensor = model(images).float()
        logit = output[:, 0]
        score = logit.sigmoid()
        hit = (heat == 1.0).float()
        found = -(1 - score).square() * F.logsigmoid(logit) * hit
        silent = -(1 - heat).pow(4) * score.square() * F.logsigmoid(-logit) * (1 - hit)
        count = hit.sum().clamp(min=1.0)
        away = ((output[:, 1:] - distances).abs().mean(1) * near).sum() / near.sum().clamp(min=1.0)
        return ((found + silent) * care).sum() / count + 2.0 * away

    def measure(self, model: nn.Module) -> tuple[nn.Module, Card]:
        """Figures on people and scenes not trained on."""
        return model, self._measure(CenterDetector(model))


def detector(data: Path, steps: int, scenes: int = 900) -> Task:
    """On the renders in `data` and on `scenes` scenes, which are drawn first."""
    renders = Renders(data)
    people = UprightPeople(renders, draw_scenes(scenes), renders.split("train"))
    schedule = Schedule(steps, seed=7, batch_size=32)
    return Detection("detector", schedule, people, partial(measure_detector, renders))


def finder(_: Path, steps: int, people: int = 1200, scenes: int = 600) -> Task:
    """On `people` heads and on `scenes` scenes, which are drawn first; needs no renders."""
    windows = AnyPeople(draw_heads(people, seed=2), draw_scenes(scenes))
    schedule = Schedule(steps, seed=8, batch_size=32)
    return Detection("finder", schedule, windows, measure_finder)


def match(found: Faces, picture: Picture) -> tuple[int, int]:
    """(clear faces that a found one meets at IoU ≥ 0.5, found ones that meet no face at all)."""
    if not len(picture.boxes) or not len(found):
        return 0, len(found)
    boxes = [torch.from_numpy(np.asarray(b, np.float32)) for b in (found.boxes, picture.boxes)]
    overlap = box_iou(*boxes).numpy()
    hits = (overlap.max(0) >= 0.5) & picture.clear
    return int(hits.sum()), int((overlap.max(1) < 0.3).sum())


def rates(detector: CenterDetector, pictures: list[Picture]) -> tuple[float, float]:
    """Recall of clear faces, and false faces a picture."""
    found = detector.detect([picture.pixels for picture in pictures])
    matches = [match(f, p) for f, p in zip(found, pictures, strict=True)]
    faces = sum(int(picture.clear.sum()) for picture in pictures)
    false = sum(wrong for _, wrong in matches)
    return sum(hit for hit, _ in matches) / faces, false / len(pictures)


def _test_scenes() -> list[Picture]:
    return [scene(index, "mini/scenes/test") for index in range(120)]


def measure_detector(renders: Renders, detector: CenterDetector) -> Card:
    """Rates on scenes; the share of aligned renders with a face, at 64 and 256 pixels."""
    recall, false = rates(detector, _test_scenes())
    small = list(renders.images(renders.split("test")[:1000]))
    large = [cv2.resize(p, (256, 256), interpolation=cv2.INTER_LINEAR) for p in small[::4]]
    noise = [texture(numpy_generator("mini/textures/test", i)).pixels for i in range(100)]
    at_64, at_256, at_noise = (detector.detect(pictures) for pictures in (small, large, noise))
    figures: dict[str, Any] = {
        "scene_recall": recall,
        "scene_false_faces": false,
        "aligned_64": np.mean([len(f) > 0 for f in at_64]),
        "aligned_64_more_than_one": np.mean([len(f) > 1 for f in at_64]),
        "noise_with_a_face": np.mean([len(f) > 0 for f in at_noise]),
        "aligned_256": np.mean([len(f) > 0 for f in at_256]),
    }
    return {
        "network": "anchor-free face detector, stride 4, over a pyramid of halves",
        "objective": "focal loss of centers, L1 of box sides and five points",
        "data": "windows of rendered scenes and of aligned renders, textures",
        "test": "120 other scenes (IoU 0.5), up to 1000 aligned renders of other people",
        "figures": {key: round(float(value), 5) for key, value in figures.items()},
    }


def measure_finder(detector: CenterDetector) -> Card:
    """Rates on crowds and on scenes, from one pass over each."""
    others = draw_heads(60, seed=1)
    streams = [numpy_generator("mini/crowds/test", index) for index in range(200)]
    crowds = [measurable(crowd(others, 2 * WINDOW, rng)) for rng in streams]
    figures = {}
    for name, pictures in (("crowds", crowds), ("scenes", _test_scenes())):
        recall, false = rates(detector, pictures)
        figures[name] = {"recall": round(recall, 5), "false_faces": round(false, 5)}
    return {
        "network": "the detector's",
        "objective": "the detector's",
        "data": "windows of heads of any rotation over anything, of rendered scenes, textures",
        "test": "200 crowds of other people (faces of 16 to 40 px) and 120 other scenes, IoU 0.5",
        "figures": figures,
    }


def measurable(picture: Picture) -> Picture:
    """The picture, where faces below 16 or beyond 40 pixels count neither way."""
    sides = np.sqrt((picture.boxes[:, 2:] - picture.boxes[:, :2]).prod(1))
    return replace(picture, clear=(sides >= 16) & (sides <= 40))
