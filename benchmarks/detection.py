"""How well faces are found where the truth is known: `python -m benchmarks.detection MODE …`.

    scenes    heads at 16–400 px, turned, half hidden, cut by the frame, 1–60 a picture
    large     faces of 20–60 px in one picture 6000 px wide
    renders   the mini world: generator samples and renders, enlarged to 256 px (issue 2)
    portraits aligned photographs: how many have a face, by each detector (issue 3)
    cost      seconds and pixels of the multi-scale mode against one pass

Detectors are specs as `deid run --detector` takes them; `mini` is the embedded world's.

A true face counts as found if a returned box overlaps it by 0.3 (intersection over union), or holds
its middle and is within a factor of two of its size (root of the area): detectors differ in how
much forehead and chin they count in, and whoever replaces such a box changes the face's identity
carrying middle. Whether that is so is shown beside it: `covered`, the share of a found face's
inner ellipse (0.8 of the face's width and height) that returned boxes cover, the worst twentieth.
A returned box that touches no true face (intersection over union < 0.05) is false.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from deid.faces.detection import Detector, SinglePassDetector, build_detector, build_network
from deid.faces.detection.boxes import areas, iou
from deid.faces.detection.merge import Pass, merge_detections
from deid.faces.detection.multi_scale import close_up, run_passes
from deid.faces.detection.views import multi_scale_views
from deid.faces.faces import FaceDetector, Faces
from deid.params import WorldParams
from deid.pixels import Pixels
from deid.progress import progress
from deid.seeds import torch_generator
from deid.worlds import load_world
from deid.worlds.mini.render.parameters import random_parameters
from deid.worlds.mini.render.renderer import render
from deid.worlds.mini.render.scenes import render_scene
from deid.worlds.world import World
from tests.scenes import Composed, Head, compose, photographs, rendered

Mask = NDArray[np.bool_]
SMALLEST = 20.0  # height of the upright face box, forehead to chin, from which a face must be found
SCENES = (  # people and size, by turns
    (1, (660, 700)),
    (2, (480, 640)),
    (4, (400, 520)),
    (8, (400, 520)),
    (16, (480, 640)),
    (25, (480, 640)),
    (40, (540, 720)),
    (60, (540, 720)),
)


@dataclass
class Tally:
    """One row for each true face, over all pictures."""

    truth: list[Composed]
    found: list[Mask]
    covered: list[NDArray[np.float32]]
    turned: list[NDArray[np.float32]]  # degrees by which the points' eyes miss the true turn
    false: list[int]

    def add(self, truth: Composed, faces: Faces) -> None:
        hits, covered, turned, false = match(truth, faces)
        self.truth.append(truth)
        self.found.append(hits)
        self.covered.append(covered)
        self.turned.append(turned)
        self.false.append(false)

    def lines(self) -> Iterator[str]:
        """Recall by kind of face, and false faces a picture."""
        every = {
            name: np.concatenate([getattr(t, name) for t in self.truth])
            for name in ("heights", "angles", "hidden", "cut")
        }
        found, height = np.concatenate(self.found), every["heights"]
        wanted, angle = height >= SMALLEST, np.abs(every["angles"])
        free = (every["hidden"] == 0) & (every["cut"] < 0.05)
        bands = [(16, 20), (20, 32), (32, 64), (64, 128), (128, 401)]
        groups: dict[str, Mask] = {f"height ≥ {SMALLEST:g}": wanted}
        groups |= {f"height {a}–{b}": (height >= a) & (height < b) for a, b in bands}
        groups |= {
            "upright, whole, free": wanted & (angle <= 15) & free,
            "turned 15–60°": wanted & (angle > 15) & (angle <= 60) & free,
            "turned 60–120°": wanted & (angle > 60) & (angle <= 120) & free,
            "turned 120–180°": wanted & (angle > 120) & free,
            "hidden 15–40 %": wanted & (every["hidden"] > 0),
            "cut 5–40 %": wanted & (every["cut"] >= 0.05),
        }
        for kind in sorted({t.background for t in self.truth}):
            of_kind = [np.full(len(t.boxes), t.background == kind) for t in self.truth]
            groups[f"on {kind}"] = wanted & np.concatenate(of_kind)
        for name, group in groups.items():
            if group.any():
                hits, of = int(found[group].sum()), int(group.sum())
                yield f"  recall {hits / of:.4f}  {hits}/{of}  {name}"
        seen = found & wanted
        worst = np.quantile(np.concatenate(self.covered)[seen], 0.05)
        wrong = float((np.concatenate(self.turned)[seen] > 30).mean())
        yield f"  covered {worst:.2f}; points more than 30° off {wrong:.4f}"
        yield f"  false faces a picture {np.mean(self.false):.3f} ({len(self.false)} pictures)"


def match(
    truth: Composed, faces: Faces
) -> tuple[Mask, NDArray[np.float32], NDArray[np.float32], int]:
    """(found `[K]`, covered `[K]`, points' error in degrees `[K]`, number of false faces)."""
    limit = np.array([truth.pixels.shape[1], truth.pixels.shape[0]] * 2, np.float32)
    boxes = np.clip(truth.boxes, 0, limit)
    hits, touched = np.zeros(len(boxes), np.bool_), np.zeros(len(faces), np.bool_)
    covered, turned = np.zeros(len(boxes), np.float32), np.zeros(len(boxes), np.float32)
    for i, box in enumerate(boxes):
        shared = iou(box, faces.boxes)
        touched |= shared > 0.05
        middle = (box[:2] + box[2:]) / 2
        holds = ((faces.boxes[:, :2] <= middle) & (faces.boxes[:, 2:] >= middle)).all(1)
        size = np.sqrt(areas(faces.boxes) / max(float(areas(box)), 1.0))
        good = (shared >= 0.3) | (holds & (size > 0.5) & (size < 2.0))
        hits[i] = good.any()
        if hits[i]:
            covered[i] = _covered(box, faces.boxes[shared > 0])
            eyes = faces.points[int(np.where(good, shared, -1).argmax())]
            across = eyes[1] - eyes[0]
            error = np.rad2deg(np.arctan2(across[1], across[0])) - truth.angles[i]
            turned[i] = abs((error + 180) % 360 - 180)
    return hits, covered, turned, int((~touched).sum())


def _covered(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> float:
    """Share of the inner ellipse of a box `[4]` that lies in any of `[M,4]`."""
    unit = (np.mgrid[:24, :24].reshape(2, -1).T + 0.5) / 12 - 1
    unit = unit[(unit**2).sum(1) < 0.64]
    at = (box[:2] + box[2:]) / 2 + unit * (box[2:] - box[:2]) / 2
    inside = ((at[:, None] >= boxes[None, :, :2]) & (at[:, None] <= boxes[None, :, 2:])).all(2)
    return float(inside.any(1).mean())


def scene(kind: str, faces: Path | None, i: int) -> Composed:
    """Picture `i` of a kind: `photographs`, `rendered` heads, or `native` mini-world scenes."""
    people, size = SCENES[i % len(SCENES)]
    if kind == "large":  # forty small faces in a picture 6000 pixels wide
        return compose(i, _heads(faces), 40, (4000, 6000), sizes=(20.0, 60.0), background="texture")
    if kind == "native":
        return native_scene(i, i % 6, size)
    if kind == "rendered":  # people of the mini world live before its own backdrops
        return compose(i, _heads(None), people, size, background="renderer")
    return compose(i, _heads(faces), people, size)


def native_scene(i: int, people: int, size: tuple[int, int]) -> Composed:
    """A scene as the mini world draws it, its truth in the same form as a composed one's."""
    drawn = render_scene(i, people, size)
    eyes = drawn.landmarks[:, [36, 45]]
    across = eyes[:, 1] - eyes[:, 0]
    none = np.zeros(len(drawn.boxes), np.float32)
    return Composed(
        drawn.pixels,
        drawn.boxes,
        drawn.boxes[:, 3] - drawn.boxes[:, 1],
        np.rad2deg(np.arctan2(across[:, 1], across[:, 0])).astype(np.float32),
        none,
        none,
        "scene",
    )


@cache
def _heads(faces: Path | None) -> list[Head]:
    return photographs(faces) if faces else rendered(60)


@cache
def _network(spec: str) -> SinglePassDetector:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return build_network(spec, _world())


@dataclass(frozen=True)
class Task:
    """One picture to be made and looked at by each network."""

    kind: str
    faces: Path | None
    number: int
    specs: tuple[str, ...]
    size: int | None


@dataclass(frozen=True)
class Answer:
    """What a detector found in one picture, and the processor seconds it took."""

    detector: str
    faces: Faces
    seconds: float


def answers(task: Task) -> tuple[Composed, list[Answer]]:
    """What each network alone, and all united, found in one picture."""
    truth, found = scene(task.kind, task.faces, task.number), []
    passes: list[Pass] = []
    networks = [_network(spec) for spec in task.specs]
    for network in networks:
        start = time.process_time()
        seen = run_passes(network, truth.pixels, task.size)
        alone = _united(seen, [network], truth.pixels, task.size)
        name = Detector([network], task.size).name
        found.append(Answer(name, alone, time.process_time() - start))
        passes += seen
    if len(networks) > 1:
        together = _united(passes, networks, truth.pixels, task.size)
        found.append(Answer("union of all", together, sum(answer.seconds for answer in found)))
    return truth, found


def _united(
    passes: Sequence[Pass],
    networks: Sequence[SinglePassDetector],
    picture: Pixels,
    size: int | None,
) -> Faces:
    confirm = close_up(networks, picture) if size is None else None
    return merge_detections(passes, picture.shape, confirm)


def report(tasks: Sequence[Task], jobs: int) -> None:
    """Print the table of each detector, and of all united, over the same pictures."""
    tallies: dict[str, Tally] = {}
    seconds: dict[str, float] = {}
    with ProcessPoolExecutor(jobs) as pool, progress("pictures", len(tasks)) as bar:
        for truth, found in pool.map(answers, tasks):
            for answer in found:
                name = answer.detector
                tallies.setdefault(name, Tally([], [], [], [], [])).add(truth, answer.faces)
                seconds[name] = seconds.get(name, 0.0) + answer.seconds
            bar.advance()
    for name, tally in tallies.items():
        print(f"{name}: {seconds[name] / len(tasks):.2f} s of one processor a picture")
        print("\n".join(tally.lines()), end="\n\n", flush=True)


def share_with_a_face(detector: FaceDetector, pictures: Iterable[Pixels]) -> str:
    """Of aligned portraits: how many have a face, and how many more than one."""
    counts = [len(faces) for faces in (detector.detect([p])[0] for p in pictures)]
    some, many = sum(c > 0 for c in counts), sum(c > 1 for c in counts)
    return f"{detector.name}: {some}/{len(counts)} = {some / len(counts):.4f}, {many} with several"


def mini_faces(count: int) -> tuple[list[Pixels], list[Pixels]]:
    """`count` generator samples and `count` renders, enlarged to 256 pixels."""
    from deid.pixels import to_pixels

    world = _world()
    samples, renders = [], []
    for start in range(0, count, 50):
        size = min(50, count - start)
        with torch.inference_mode():
            z = torch.randn(size, world.generator.z_dim, generator=torch_generator("bench", start))
            samples.append(to_pixels(world.generator.synthesis(world.generator.mapping(z))))
        rows = torch.from_numpy(random_parameters(range(start, start + size), seed=77))
        renders.append(to_pixels(render(rows, world.resolution).images))
    return tuple(  # type: ignore[return-value]
        [cv2.resize(p, (256, 256), interpolation=cv2.INTER_CUBIC) for p in np.concatenate(part)]
        for part in (samples, renders)
    )


def cost(detectors: Sequence[FaceDetector], picture: Pixels) -> None:
    """Print what the multi-scale mode shows and takes against one pass at the picture as it is."""
    for detector in detectors:
        assert isinstance(detector, Detector)
        once = Detector(detector.networks, max(picture.shape[:2]))
        times = [_seconds(lambda d=d: d.detect([picture])) for d in (once, detector)]  # type: ignore[misc]
        shown = sum(
            view.pixels.shape[0] * view.pixels.shape[1]
            for network in detector.networks
            for view in multi_scale_views(
                picture, network.scale_invariant, network.rotation_invariant
            )
        )
        area = picture.shape[0] * picture.shape[1] * len(detector.networks)
        print(
            f"{detector.name}: {shown / area:.1f} × the pixels, {times[1] / times[0]:.1f} × the "
            f"time of one pass ({times[0]:.3f} s)",
            flush=True,
        )


def _seconds(work: Callable[[], object]) -> float:
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@cache
def _world() -> World:
    root = Path(__file__).resolve().parent.parent
    return load_world(WorldParams(weights=root / "data/mini/weights"))


def main() -> None:
    """Print the figures of one mode."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=("scenes", "large", "renders", "portraits", "cost"))
    parser.add_argument("--detector", action="append", default=[], help="a spec; repeatable")
    parser.add_argument("--jobs", type=int, default=1, help="processes, for scenes")
    parser.add_argument(
        "--detect-size", type=int, help="one pass at this size, not the multi-scale mode"
    )
    parser.add_argument(
        "--faces", type=Path, help="folder of aligned portraits; none: rendered people"
    )
    parser.add_argument("--native", action="store_true", help="scenes as the mini world draws them")
    parser.add_argument("--count", type=int, default=24, help="pictures")
    parser.add_argument("--first", type=int, default=0, help="number of the first picture")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    world, specs = _world(), args.detector or ["mini"]
    if args.mode in ("scenes", "large"):
        kind = "native" if args.native else "photographs" if args.faces else "rendered"
        kind = "large" if args.mode == "large" else kind
        numbers = range(args.first, args.first + args.count)
        size = args.detect_size
        report([Task(kind, args.faces, i, tuple(specs), size) for i in numbers], args.jobs)
        return
    detectors = [build_detector([spec], world, args.detect_size) for spec in specs]
    heads = _heads(args.faces)
    if args.mode == "cost":
        cost(detectors, compose(0, heads, 8, (768, 1024)).pixels)
    elif args.mode == "renders":
        for name, pictures in zip(("samples", "renders"), mini_faces(args.count), strict=True):
            for detector in detectors:
                print(name, share_with_a_face(detector, pictures), flush=True)
    else:
        for detector in detectors:
            print(share_with_a_face(detector, [head.rgb for head in heads]), flush=True)


if __name__ == "__main__":
    main()
