"""The report's group scenes: people of the test set side by side, de-identified as photographs are.

Unlike the tables, which show what a method draws, these are what a person gets: faces found,
replaced, pasted, verified by the judges of the gate, and made coarse or masked where those insist.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from deid.evaluate.cells import Bench
from deid.faces.detection import build_detector
from deid.gate.components import Components
from deid.gate.fallback import build_anonymizers
from deid.gate.judges import world_verifier
from deid.gate.limits import Unsafe
from deid.gate.picture import deidentify_picture
from deid.imaging.scene import compose
from deid.pixels import Pixels
from deid.seeds import seed_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCENES, PEOPLE = 10, 4
SIDES = (256, 176, 216, 144, 232, 160)
"""Of the portraits in a scene, pixels; the next scene begins with the next of them."""
METHOD = "swap"
ACROSS = 2


def draw_groups(bench: Bench, portraits: Pixels) -> "Figure":
    """Up to `SCENES` groups of `portraits uint8 [N,R,R,3]`, each above what becomes of it; with
    fewer than `PEOPLE` of them one smaller group."""
    from matplotlib.figure import Figure

    components, groups = components_of(bench), scenes(portraits)
    rows = -(-len(groups) // ACROSS)
    figure = Figure(figsize=(4.6 * min(ACROSS, len(groups)), 3.7 * rows), layout="constrained")
    axes = figure.subplots(2 * rows, min(ACROSS, len(groups)), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, scene in enumerate(groups):
        row, column = divmod(number, ACROSS)
        output, caption = deidentified(scene, components, number)
        for side, pixels in enumerate((scene, output)):
            axes[2 * row + side, column].imshow(pixels, interpolation="bicubic")
        axes[2 * row + 1, column].set_title(caption, fontsize=9)
    return figure


def scenes(portraits: Pixels) -> list[Pixels]:
    """The groups `uint8 [H,W,3]`, in the order of the portraits."""
    count = min(SCENES, max(1, len(portraits) // PEOPLE))
    return [
        compose(_sized(portraits[PEOPLE * i : PEOPLE * (i + 1)], first=i)) for i in range(count)
    ]


def _sized(portraits: Pixels, first: int) -> Sequence[Pixels]:
    sides = [SIDES[(first + i) % len(SIDES)] for i in range(len(portraits))]
    smaller = [side < portraits.shape[1] for side in sides]
    methods = [cv2.INTER_AREA if small else cv2.INTER_CUBIC for small in smaller]
    return [
        np.asarray(cv2.resize(portrait, (side, side), interpolation=method), np.uint8)
        for portrait, side, method in zip(portraits, sides, methods, strict=True)
    ]


def deidentified(scene: Pixels, components: Components, number: int) -> tuple[Pixels, str]:
    """What becomes of a scene, and at which levels its faces ended; gray where it is withheld."""

    def seed(face: int) -> int:
        return seed_of("evaluate/groups", number, face)

    def round_trip(pixels: Pixels) -> tuple[bytes, Pixels]:
        return pixels.tobytes(), pixels

    try:
        made, records = deidentify_picture(scene, components, METHOD, seed, round_trip)
    except Unsafe as error:
        return np.full_like(scene, 127), f"withheld: {error}"
    levels = Counter(record.method for record in records)
    caption = ", ".join(f"{name} {count}" for name, count in sorted(levels.items()))
    return np.frombuffer(made, np.uint8).reshape(scene.shape), caption or "no face found"


def components_of(bench: Bench) -> Components:
    """The world's own networks, as `deid run` has them, with one pass of the detector: here
    everybody stands upright."""
    world = bench.world
    side = sum(sorted(SIDES)[-PEOPLE:])
    return Components(
        build_detector((), world, side),
        world.landmarks,
        world.resolution,
        True,
        build_anonymizers(METHOD, world, bench.models, bench.settings),
        world_verifier(world),
        region=world.region,
    )
