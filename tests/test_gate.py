"""Whatever fails, no original face leaves: judged by pixels and by a recognizer from outside.

The scenes are the mini world's, whose detector, landmarks and judges really work. What comes out
is never believed: it is measured at the places where the faces were known to be.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from deid.anonymize import Anonymizer
from deid.evaluate.metrics import threshold_at
from deid.faces.alignment import apply_affine, crop_to_picture, invert_affine
from deid.faces.detection.boxes import iou
from deid.faces.faces import FaceDetector, Faces
from deid.gate import anonymize as anonymize_module
from deid.gate import compose as compose_module
from deid.gate import face as face_module
from deid.gate import find as find_module
from deid.gate import geometry as geometry_module
from deid.gate import picture as picture_module
from deid.gate import place as place_module
from deid.gate import recognize as recognize_module
from deid.gate import sweep as sweep_module
from deid.gate.calibration import pair_similarities
from deid.gate.components import Components
from deid.gate.face import Face
from deid.gate.fallback import (
    COARSE,
    OPAQUE,
    SMALLEST_JUDGED,
    build_anonymizers,
    fallback_chain,
    small_face_chain,
)
from deid.gate.geometry import Geometry, detected
from deid.gate.judges import Judge, Verifier, world_verifier
from deid.gate.limits import Limits, Unsafe
from deid.gate.picture import deidentify_picture
from deid.gate.place import Placing, place
from deid.gate.record import FaceRecord
from deid.gate.sweep import sweep
from deid.imaging.align import Square, crop_face
from deid.imaging.codec import Form, decode, encode
from deid.imaging.paste import (
    OPAQUE_GRAY,
    Region,
    coverage,
    hard_region,
    hull_of_box,
    looks_filled,
)
from deid.model import Deidentifier
from deid.params import AnonymizeParams
from deid.pixels import Pixels, to_pixels, to_tensor
from deid.worlds.world import World
from tests.conftest import ROOT
from tests.toy import toy_world
from tests.toy_model import save_toy_model

SETTINGS = AnonymizeParams()
LEFT = 0.35  # of the original's detail, by which a face could still be the one it was


@pytest.fixture(scope="module")
def verifier(world: World) -> Verifier:
    return world_verifier(world)


@pytest.fixture(scope="module")
def limit(world: World) -> float:
    """Where En_id, which is no judge here, takes two faces for one person: once in a hundred."""
    faces = world.test_faces(60, 2, 7)
    with torch.inference_mode():
        vectors = world.identity(to_tensor(faces.pixels)).numpy()
    return threshold_at(1e-2, pair_similarities(vectors, faces.identities)[1])


def scene(name: str = "pair") -> Pixels:
    return decode((ROOT / f"data/samples/{name}.png").read_bytes(), name).pixels


@dataclass(frozen=True)
class Outsider:
    """Who knows the original picture, and looks for its faces in what came out."""

    picture: Pixels
    faces: Faces
    world: World
    limit: float

    def leaks(self, output: Pixels) -> list[str]:
        """What of each original face can still be seen at its place."""
        said = []
        for number, points in enumerate(np.asarray(self.faces.points, np.float64)):
            left, cosine = self.detail(output, points), self.similarity(output, points)
            if left > LEFT or cosine > self.limit:
                said.append(f"face {number}: {left:.2f} of its detail, similarity {cosine:.2f}")
        return said

    def detail(self, output: Pixels, points: np.ndarray) -> float:
        """How much of the original's fine structure is left: 1 unchanged, 0 nothing."""
        before, after = (
            cv2.Laplacian(
                crop_face(p, Square(points), 64)[20:52, 18:46].astype(np.float32), cv2.CV_32F
            )
            for p in (self.picture, output)
        )
        return float((before * after).sum() / (before * before).sum())

    def similarity(self, output: Pixels, points: np.ndarray) -> float:
        pair = np.stack([crop_face(p, Square(points), 64) for p in (self.picture, output)])
        with torch.inference_mode():
            a, b = self.world.identity(to_tensor(pair))
        return float(a @ b)


@pytest.fixture(scope="module")
def outsider(world: World, limit: float) -> Outsider:
    picture = scene()
    faces = world.detector.detect([picture])[0]
    assert len(faces) == 2
    return Outsider(picture, faces, world, limit)


def build(world: World, verifier: Verifier, method: str = "blur", **changes: Any) -> Components:
    levels = build_anonymizers(method, world, None, SETTINGS)
    plain = Components(world.detector, world.landmarks, world.resolution, True, levels, verifier)
    return replace(plain, **changes)


Reencode = Callable[[Pixels], Pixels]


def jpeg(pixels: Pixels) -> Pixels:
    return decode(encode(pixels, None, Form("JPEG", quality=90)), "the output").pixels


def safe(
    picture: Pixels,
    components: Components,
    method: str = "blur",
    reencode: Reencode = jpeg,
    limits: Limits | None = None,
) -> tuple[Pixels | None, list[FaceRecord]]:
    """What would be written: the last pixels that came out of the encoder; None: no file."""
    last: list[Pixels] = []

    def watched(pixels: Pixels) -> tuple[bytes, Pixels]:
        last.append(reencode(pixels))
        return b"", last[-1]

    try:
        _, faces = deidentify_picture(picture, components, method, lambda i: i, watched, limits)
    except Exception:
        return None, []
    return last[-1], faces


# ---- the measure itself


def test_the_outsider_sees_an_original_face_and_none_in_a_blurred_one(
    world: World, verifier: Verifier, outsider: Outsider
) -> None:
    assert len(outsider.leaks(outsider.picture)) == 2
    assert len(outsider.leaks(jpeg(outsider.picture))) == 2
    output, faces = safe(outsider.picture, build(world, verifier))
    assert output is not None
    assert outsider.leaks(output) == []
    assert {face.verdict for face in faces} == {"verified"}


# ---- a failure at every step


def raises(error: BaseException) -> Callable[..., Any]:
    def act(*_: Any, **__: Any) -> Any:
        raise error

    return act


ERRORS = (RuntimeError("injected"), MemoryError("injected"), TimeoutError("injected"))


@dataclass
class Makes:
    """An anonymizer that does what it is told."""

    act: Callable[[Tensor], Any]
    name: str = "told"
    resolution: int | None = None
    enough: int | None = None

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Any:
        return self.act(faces)


@dataclass
class Detects:
    """A detector that finds what it is told, from its first call to its last."""

    answers: Iterator[Callable[[Pixels], Faces]]
    name: str = "told"

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        return [next(self.answers)(picture) for picture in pictures]


def everywhere(act: Callable[[Tensor], Any]) -> dict[str, Anonymizer]:
    return {level: Makes(act) for level in fallback_chain("blur")}


def judge(act: Callable[..., Any]) -> Verifier:
    return Verifier((Judge("told", 0.5, act),), side=64)


def spoilt(found: Faces, value: float) -> Faces:
    return replace(found, points=np.full_like(found.points, value))


ANONYMIZERS: dict[str, Callable[[Tensor], Any]] = {
    **{f"raises {type(e).__name__}": raises(e) for e in ERRORS},
    "gives NaN": lambda f: f * float("nan"),
    "gives another shape": lambda f: f[:, :, ::2],
    "gives more pictures": lambda f: torch.cat([f, f]),
    "gives nothing": lambda f: None,
    "gives its input": lambda f: f,
    "hardly changes its input": lambda f: f + 0.01,
    "mirrors its input": lambda f: f.flip(3),
}

JUDGES: dict[str, Callable[..., Any]] = {
    **{f"raises {type(e).__name__}": raises(e) for e in ERRORS},
    "says NaN": lambda f, p: np.full((len(f), 8), np.nan, np.float32),
    "says nothing": lambda f, p: np.zeros((0, 8), np.float32),
    "knows everybody": lambda f, p: np.ones((len(f), 4), np.float32) / 2,
    "gives None": lambda f, p: None,
}


@pytest.mark.parametrize("failure", ANONYMIZERS)
def test_no_face_leaves_whatever_the_anonymizer_does(
    world: World, verifier: Verifier, outsider: Outsider, failure: str
) -> None:
    components = build(world, verifier, anonymizers=everywhere(ANONYMIZERS[failure]))
    output, faces = safe(outsider.picture, components)
    assert output is not None, "a mask was possible"
    assert outsider.leaks(output) == []
    if failure != "mirrors its input":
        assert {face.verdict for face in faces} == {"masked"}
        assert all(face.failures for face in faces)


@pytest.mark.parametrize("failure", JUDGES)
@pytest.mark.parametrize("made", ["blurred", "unchanged"])
def test_no_face_leaves_whatever_a_judge_does(
    world: World, verifier: Verifier, outsider: Outsider, failure: str, made: str
) -> None:
    changes = {} if made == "blurred" else {"anonymizers": everywhere(lambda f: f)}
    components = build(world, judge(JUDGES[failure]), **changes)
    output, faces = safe(outsider.picture, components)
    assert output is not None
    assert outsider.leaks(output) == []
    assert {face.verdict for face in faces} == {"masked"}


def test_a_judge_that_is_blind_lets_no_unchanged_face_pass(
    world: World, outsider: Outsider
) -> None:
    said = iter(range(1000))
    blind = judge(lambda f, p: np.eye(1000, dtype=np.float32)[[next(said)]])
    components = build(world, blind, anonymizers=everywhere(lambda f: f))
    output, faces = safe(outsider.picture, components)
    assert output is not None
    assert outsider.leaks(output) == []
    assert "unchanged" in faces[0].failures[0]


DETECTORS: dict[str, Callable[[FaceDetector], Callable[[Pixels], Faces]]] = {
    **{f"raises {type(e).__name__}": lambda _, e=e: raises(e) for e in ERRORS},
    "points are NaN": lambda d: lambda p: spoilt(d.detect([p])[0], np.nan),
    "points are one": lambda d: lambda p: spoilt(d.detect([p])[0], 9.0),
    "answers None": lambda d: lambda p: None,  # type: ignore[return-value, dict-item]
}


@pytest.mark.parametrize("failure", DETECTORS)
@pytest.mark.parametrize("when", ["first", "sweep"])
def test_no_face_leaves_whatever_a_detector_does(
    world: World, verifier: Verifier, outsider: Outsider, failure: str, when: str
) -> None:
    broken = Detects(iter(lambda: DETECTORS[failure](world.detector), None))
    changes: dict[str, Any] = {"detector": broken} if when == "first" else {"sweeper": broken}
    if when == "first":
        changes["sweeper"] = world.detector
    output, _ = safe(outsider.picture, build(world, verifier, **changes))
    assert output is None or outsider.leaks(output) == []


STEPS = {
    "crop_face": (face_module, place_module, anonymize_module, recognize_module),
    "place": (find_module,),
    "five_points": (place_module,),
    "hull_of_landmarks": (place_module,),
    "soft_region": (geometry_module,),
    "hard_region": (geometry_module,),
    "hull_with_box": (geometry_module,),
    "hull_with_oval": (geometry_module,),
    "paste": (compose_module,),
    "fill": (compose_module,),
    "to_pixels": (anonymize_module,),
    "embed_face": (sweep_module,),
    "check_own": (recognize_module,),
    "sweep": (picture_module,),
    "coverage": (sweep_module,),
    "looks_filled": (recognize_module,),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [*ERRORS, None], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("method", ["blur", "mask"])
def test_no_face_leaves_when_a_step_of_our_own_fails_or_does_nothing(
    world: World,
    verifier: Verifier,
    outsider: Outsider,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: Exception | None,
    method: str,
) -> None:
    for module in STEPS[step]:
        monkeypatch.setattr(module, step, raises(error) if error else lambda *_, **__: None)
    output, _ = safe(outsider.picture, build(world, verifier, method), method)
    assert output is None or outsider.leaks(output) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -99.0])
def test_no_face_leaves_when_the_landmark_network_says_nonsense(
    world: World, verifier: Verifier, outsider: Outsider, value: float
) -> None:
    components = build(world, verifier, landmarks=lambda f: torch.full((len(f), 68, 2), value))
    output, faces = safe(outsider.picture, components)
    assert output is not None
    assert outsider.leaks(output) == []
    assert len(faces) == 2


@pytest.mark.parametrize("method", ["blur", "mask"])
def test_no_face_leaves_when_the_encoder_or_decoder_fails(
    world: World, verifier: Verifier, outsider: Outsider, method: str
) -> None:
    original = outsider.picture
    broken: dict[str, Reencode] = {
        **{type(error).__name__: raises(error) for error in ERRORS},
        "writes the original": lambda pixels: original,
        "writes a part of the original": lambda pixels: np.where(
            np.arange(pixels.shape[1])[:, None] < pixels.shape[1] // 2, original, pixels
        ),
        "loses a row": lambda pixels: pixels[1:],
        "turns it": lambda pixels: np.rot90(pixels),
        "gives nothing": lambda pixels: None,  # type: ignore[return-value, dict-item]
    }
    for name, reencode in broken.items():
        output, _ = safe(original, build(world, verifier, method), method, reencode)
        assert output is None or outsider.leaks(output) == [], name


def test_when_time_is_over_faces_are_masked_and_at_last_nothing_is_written(
    world: World, verifier: Verifier, outsider: Outsider
) -> None:
    def clock(step: float) -> Callable[[], float]:
        ticks = iter(range(10_000))
        return lambda: step * next(ticks)

    ends = {}
    for step in (0.0, 0.1, 0.21, 0.3, 0.6, 3.0):
        limits = Limits(seconds=1.0, clock=clock(step))
        output, faces = safe(outsider.picture, build(world, verifier), limits=limits)
        assert output is None or outsider.leaks(output) == []
        ends[step] = "none" if output is None else {face.verdict for face in faces}
    assert ends[0.0] == {"verified"}
    assert ends[3.0] == "none"
    assert ends[0.21] == {"masked"}


def test_missing_networks_of_a_later_level_are_passed_over_and_of_the_first_mask(
    world: World, verifier: Verifier, outsider: Outsider
) -> None:
    only = {COARSE: build_anonymizers(COARSE, world, None, SETTINGS)[COARSE]}
    output, faces = safe(outsider.picture, build(world, verifier, anonymizers=only))
    assert output is not None
    assert {face.method for face in faces} == {OPAQUE}
    unchanged = {"blur": Makes(lambda f: f), **only}
    output, faces = safe(outsider.picture, build(world, verifier, anonymizers=unchanged))
    assert output is not None
    assert "blur" not in {face.method for face in faces}
    assert COARSE in {face.method for face in faces}
    assert all(face.level == (2 if face.method == COARSE else 3) for face in faces)
    assert outsider.leaks(output) == []


# ---- the sweep


def without(detector: FaceDetector, *missed: int) -> Callable[[Pixels], Faces]:
    """The detector, blind to its n-th faces."""

    def detect(picture: Pixels) -> Faces:
        found = detector.detect([picture])[0]
        kept = [i for i in range(len(found)) if i not in missed]
        return Faces(found.boxes[kept], found.scores[kept], found.points[kept])

    return detect


@pytest.mark.parametrize("missed", [(0,), (1,), (0, 1)])
def test_a_face_that_only_the_sweep_finds_is_handled(
    world: World, verifier: Verifier, outsider: Outsider, missed: tuple[int, ...]
) -> None:
    poor = Detects(iter([without(world.detector, *missed)]))
    components = build(world, verifier, detector=poor, sweeper=world.detector)
    output, faces = safe(outsider.picture, components)
    assert output is not None
    assert outsider.leaks(output) == []
    assert [face.found for face in faces].count("sweep") == len(missed)
    assert len(faces) == 2


def test_a_face_within_anothers_place_that_nobody_touched_is_unhandled(
    world: World, verifier: Verifier, outsider: Outsider
) -> None:
    class InPlace:
        """A handled face about all of the picture, of which a corner was replaced."""

        kept, opaque, levels = False, False, ("blur",)
        geometry = SimpleNamespace(
            square=Square(np.array([[5.0, 5], [9, 5], [7, 7], [5, 9], [9, 9]]))
        )

        def whole(self, shape: tuple[int, ...]) -> Region:
            height, width = shape[:2]
            corners = [[0.0, 0], [width, 0], [width, height], [0, height]]
            return hard_region(np.array(corners), shape)

    final = outsider.picture.copy()
    final[:12, :12] = 0
    found = world.detector.detect([final])[0]
    handled: list[Any] = [InPlace()]
    assert len(found) == 2
    assert sweep(outsider.picture, final, found, handled, verifier) == [0, 1]
    asked, points = partial(sweep_module._untouched, outsider.picture), found.points[0]
    assert asked(final, points, handled[0])
    assert not asked(255 - final, points, handled[0])
    for far in (-1e4, 1e4):  # a half face at the edge, of which nothing is in the picture
        assert not asked(final, points + far, handled[0])
    handled[0].geometry.square = Square(np.asarray(points, np.float64))
    assert not asked(final, points, handled[0])


def leftmost(found: Faces) -> int:
    return int(np.argmin(np.asarray(found.boxes)[:, 0]))


def again(world: World, grown: float, aside: float) -> Callable[[Pixels], Faces]:
    """The detector, to which the left face looks so much larger, and moved by so much of its side
    towards its neighbor."""

    def detect(picture: Pixels) -> Faces:
        found = world.detector.detect([picture])[0]
        boxes, points = np.array(found.boxes), np.array(found.points)
        left = leftmost(found)
        move = np.array([aside * Square(points[left].astype(np.float64)).side, 0], np.float32)
        for one in (points[left], boxes[left].reshape(2, 2)):
            middle = one.mean(axis=0)
            one[:] = middle + grown * (one - middle) + move
        return Faces(boxes, found.scores, points)

    return detect


class KeepsLeft:
    """Keeps whoever is at the left face's place."""

    def __init__(self, world: World, picture: Pixels) -> None:
        found = world.detector.detect([picture])[0]
        self.box = np.asarray(found.boxes[leftmost(found)])

    def keeps(self, picture: Pixels, face: Face) -> bool:
        return float(iou(np.asarray(face.geometry.box), self.box[None])[0]) > 0.3


def test_a_face_that_is_to_stay_stays_though_it_is_seen_anew_beyond_its_outline(
    world: World, verifier: Verifier, outsider: Outsider
) -> None:
    chooser: Any = KeepsLeft(world, outsider.picture)
    sweeper = Detects(iter([again(world, 1.4, 0.0)] * 4))
    components = build(world, verifier, chooser=chooser, sweeper=sweeper)
    output, faces = safe(outsider.picture, components, reencode=lambda pixels: pixels)
    assert output is not None
    assert sorted(face.verdict for face in faces) == ["kept", "verified"]
    assert len(outsider.leaks(output)) == 1


def test_somebody_else_who_appears_in_the_place_of_one_who_stays_is_handled(
    world: World, verifier: Verifier, outsider: Outsider
) -> None:
    chooser: Any = KeepsLeft(world, outsider.picture)
    first, then = again(world, 1.0, 0.12), again(world, 1.0, 0.0)
    sweeper = Detects(iter([first, *[then] * 4]))
    components = build(world, verifier, chooser=chooser, sweeper=sweeper)
    _, faces = safe(outsider.picture, components, reencode=lambda pixels: pixels)
    assert [face.verdict for face in faces].count("kept") == 1
    (late,) = [face for face in faces if face.found == "sweep"]
    assert late.verdict in ("verified", "masked")


def test_the_same_person_twice_is_found_though_first_seen_once(
    world: World, verifier: Verifier, limit: float
) -> None:
    twice = np.concatenate([scene("portrait"), scene("portrait")[:, ::-1]], axis=1)
    everyone = world.detector.detect([twice])[0]
    assert len(everyone) >= 2
    poor = Detects(iter([without(world.detector, *range(1, len(everyone)))]))
    components = build(world, verifier, detector=poor, sweeper=world.detector)
    output, _ = safe(twice, components)
    assert output is not None
    assert Outsider(twice, everyone, world, limit).leaks(output) == []


def test_a_face_exchanged_for_another_of_the_picture_is_not_let_pass(
    world: World, verifier: Verifier, outsider: Outsider
) -> None:
    """No original is at its own place any more, and both are in the picture."""
    first, second = (crop_face(outsider.picture, Square(p), 64) for p in _placed(outsider))
    crops = [to_tensor(first), to_tensor(second)]

    def other(faces: Tensor) -> Tensor:
        near = [
            float((faces - torch.nn.functional.interpolate(c, faces.shape[2:])).abs().mean())
            for c in crops
        ]
        return torch.nn.functional.interpolate(crops[1 - int(np.argmin(near))], faces.shape[2:])

    levels = {**build_anonymizers("blur", world, None, SETTINGS), "exchange": Makes(other)}
    output, faces = safe(outsider.picture, build(world, verifier, anonymizers=levels), "exchange")
    assert output is not None
    reasons = [reason for face in faces for reason in face.failures]
    assert any("recognized as face" in reason for reason in reasons)
    for a, b in (_placed(outsider), _placed(outsider)[::-1]):
        pair = np.stack(
            [crop_face(output, Square(a), 64), crop_face(outsider.picture, Square(b), 64)]
        )
        with torch.inference_mode():
            seen, original = world.identity(to_tensor(pair))
        assert float(seen @ original) < outsider.limit


def _placed(outsider: Outsider) -> np.ndarray:
    return np.asarray(outsider.faces.points, np.float64)


def test_faces_that_appear_again_and_again_end_without_a_file(
    world: World, verifier: Verifier, outsider: Outsider
) -> None:
    def ghosts() -> Iterator[Callable[[Pixels], Faces]]:
        for number in range(100):
            x = 4.0 + 9 * number
            points = np.array([[[x, 4], [x + 3, 4], [x + 1.5, 6], [x, 8], [x + 3, 8]]], np.float32)
            found = Faces(np.array([[x - 2, 0, x + 5, 10]], np.float32), np.ones(1), points)
            yield lambda _, found=found: found

    haunted = build(world, verifier, sweeper=Detects(ghosts()))
    with pytest.raises(Unsafe, match="again and again"):
        deidentify_picture(outsider.picture, haunted, "blur", lambda i: i, lambda p: (b"", jpeg(p)))


def test_a_sweep_finds_nothing_new_where_all_was_handled(
    world: World, verifier: Verifier, limit: float
) -> None:
    """Else every picture would cost more levels than it needs."""
    for name in ("pair", "family", "team"):
        for method in ("blur", "pixelate", "mask"):
            picture = scene(name)
            output, faces = safe(picture, build(world, verifier, method), method)
            assert output is not None
            everyone = world.detector.detect([picture])[0]
            assert len(faces) == len(everyone)
            # Six pixels across a crop keep its colors, and so chance likenesses.
            known = 1.0 if method == "pixelate" else limit
            assert Outsider(picture, everyone, world, known).leaks(output) == []


# ---- small faces, masks, fallback chains


def test_faces_too_small_to_be_judged_are_destroyed(
    world: World, verifier: Verifier, outsider: Outsider
) -> None:
    height, width = outsider.picture.shape[:2]
    longest = float((outsider.faces.boxes[:, 2:] - outsider.faces.boxes[:, :2]).max())
    scale = 0.9 * SMALLEST_JUDGED / longest
    size = (round(width * scale), round(height * scale))
    small = np.asarray(cv2.resize(outsider.picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    levels = build_anonymizers("fgsm", world, None, SETTINGS)
    output, faces = safe(small, build(world, verifier, anonymizers=levels), "fgsm")
    assert output is not None
    assert faces
    assert {face.method for face in faces} <= {COARSE, OPAQUE}
    assert small_face_chain(COARSE) == (f"{COARSE}+1", OPAQUE)  # however fine its own blocks are


def test_a_mask_is_known_again_after_a_lossy_encoder_and_nothing_else_is() -> None:
    picture = scene()
    region = hard_region(hull_of_box(np.array([100.0, 60, 180, 160])), picture.shape)
    masked = picture.copy()
    x0, y0, x1, y1 = region.window
    masked[y0:y1, x0:x1][region.alpha > 0] = OPAQUE_GRAY
    assert looks_filled(masked, region)
    for quality in (50, 75, 95):
        lossy = encode(masked, None, Form("JPEG", quality=quality, subsampling=2))
        assert looks_filled(decode(lossy, "a").pixels, region)
    assert not looks_filled(picture, region)


def test_coverage_is_the_share_of_a_face_that_is_replaced() -> None:
    outline = hull_of_box(np.array([20.0, 20, 60, 60]))
    whole = hard_region(np.array([[10.0, 10], [70, 10], [70, 70], [10, 70]]), (100, 100))
    half = hard_region(np.array([[10.0, 10], [40, 10], [40, 70], [10, 70]]), (100, 100))
    assert coverage(outline, [whole], (100, 100)) == 1.0
    assert coverage(outline, [half], (100, 100)) == pytest.approx(0.5, abs=0.06)
    assert coverage(outline, [half, whole], (100, 100)) == 1.0
    assert coverage(outline, [], (100, 100)) == 0.0


def test_every_fallback_chain_ends_in_coarse_pixels_and_a_mask() -> None:
    for method in ("swap", "adversarial", "fgsm", "fgsm-0.03", "pgd", "blur", "pixelate", "mask"):
        levels = fallback_chain(method)
        assert levels[0] == method
        assert levels[-1] == OPAQUE
        assert len(set(levels)) == len(levels)
        if method != OPAQUE:
            assert COARSE in levels
            assert len(levels) >= 3
        assert small_face_chain(method)[-1] == OPAQUE


def test_each_level_is_stronger_than_the_one_before() -> None:
    fgsm = build_anonymizers("fgsm-0.03", toy_world(), None, SETTINGS)
    assert list(fgsm) == ["fgsm-0.03", "fgsm+1", "pgd+1", "pixelate"]
    faces = toy_world().test_faces(2, 1, 3).pixels
    moved = [
        float((anonymizer(to_tensor(faces), [1, 2]) - to_tensor(faces)).abs().max())
        for anonymizer in (fgsm["fgsm-0.03"], fgsm["fgsm+1"], fgsm["pgd+1"])
    ]
    assert moved == pytest.approx([0.06, 0.12, 0.12], abs=1e-3)
    blur = build_anonymizers("blur", toy_world(), None, SETTINGS)
    detail = [
        float(to_pixels(blur[level](to_tensor(faces), [1, 2])).std(axis=(1, 2)).mean())
        for level in ("blur", "blur+1")
    ]
    assert detail[1] < detail[0]


@pytest.mark.parametrize("stretch", [1.0, 2.0])
def test_a_refined_adversarial_face_goes_further_from_the_original(
    tmp_path: Path, stretch: float
) -> None:
    models = save_toy_model(tmp_path)
    settings = SETTINGS.model_copy(update={"adversarial_stretch": stretch})
    levels = build_anonymizers("adversarial", toy_world(), models, settings)
    swaps = ["swap", "swap+1", "swap+2", "swap+3"]
    assert list(levels) == ["adversarial", "adversarial+1", *swaps, "pixelate"]
    faces = to_tensor(toy_world().test_faces(4, 1, 3).pixels)
    model = Deidentifier.load(models.stage_one, models.stage_two, toy_world())
    plain, stretched = (
        (levels[level](faces, [0] * 4) - model.reconstruct(faces)).abs().mean()
        for level in ("adversarial", "adversarial+1")
    )
    assert 1.03 * plain < stretched < 2.0 * plain  # far out the toy generator moves little


def test_another_try_of_a_swap_has_another_donor(tmp_path: Path) -> None:
    levels = build_anonymizers("swap", toy_world(), save_toy_model(tmp_path), SETTINGS)
    assert list(levels) == ["swap", "swap+1", "swap+2", "swap+3", "pixelate"]
    face = Face(Geometry(np.zeros(4), Square(np.zeros((5, 2)))), 1.0, 5, fallback_chain("swap"))
    seeds = []
    while face.level.startswith("swap"):
        seeds.append(face.level_seed)
        face.escalate("told to")
    assert len(set(seeds)) == 4
    assert seeds[0] == 5


def test_the_judges_own_limits_hold_elsewhere_only_where_they_have_none() -> None:
    plain, strict = (
        Judge("a", 0.3, raises(ValueError())),
        Judge("b", 0.3, raises(ValueError()), 0.5),
    )
    assert (plain.limit(False), plain.limit(True)) == (0.3, 0.3)
    assert (strict.limit(False), strict.limit(True)) == (0.3, 0.5)
    both = Verifier((plain, strict), side=8)
    one = {name: np.array([[1.0, 0.0]], np.float32) for name in "ab"}
    near = {name: np.array([[0.4, 0.0]], np.float32) for name in "ab"}
    assert not both.judge(one, near).safe
    assert both.judge(one, near).margin == pytest.approx(0.1)
    assert not both.judge(one, near, elsewhere=True).safe
    assert Verifier((strict,), side=8).judge(one, near, elsewhere=True).safe


def test_points_given_to_a_judge_are_those_of_the_crop(world: World) -> None:
    seen: list[np.ndarray] = []

    def embed(faces: Pixels, points: np.ndarray) -> np.ndarray:
        seen.append(points[0])
        return np.ones((1, 1), np.float32)

    points = np.asarray(world.detector.detect([scene()])[0].points[0], np.float64)
    face_module.embed_face(scene(), Square(points), Verifier((Judge("a", 1.0, embed),), side=50))
    expected = apply_affine(invert_affine(crop_to_picture(points, 50)), points)
    assert np.allclose(seen[0], expected)


# ---- what is done once


def asked(judges: Verifier, seen: list[Pixels]) -> Verifier:
    """The same judges, and a list of what they were shown."""

    def watching(one: Judge) -> Judge:
        def embed(faces: Pixels, points: np.ndarray) -> np.ndarray:
            seen.extend(faces.copy())
            return one.embed(faces, points)

        return replace(one, embed=embed)

    return replace(judges, judges=tuple(watching(one) for one in judges.judges[:1]))


def test_no_crop_is_judged_twice_and_no_new_one_unjudged(
    world: World, verifier: Verifier, outsider: Outsider
) -> None:
    """A neighbor that escalates costs a face nothing; its own escalation, or other pixels, do."""
    seen: list[Pixels] = []
    levels = build_anonymizers("blur", world, None, SETTINGS)
    last = _placed(outsider)[-1]
    original = to_tensor(crop_face(outsider.picture, Square(last), 64))

    def hardly_changes_the_last(faces: Tensor) -> Tensor:
        small = torch.nn.functional.interpolate(faces, (64, 64), mode="area")
        is_last = float((small - original).abs().mean()) < 0.05
        return faces + 0.1 if is_last else levels["blur"](faces, [0])

    components = build(
        world,
        asked(verifier, seen),
        anonymizers={**levels, "blur": Makes(hardly_changes_the_last)},
        refine=False,
    )
    output, faces = safe(outsider.picture, components, reencode=lambda pixels: pixels)
    assert output is not None
    assert [face.method for face in faces] == ["blur", "blur+1"]
    assert len({crop.tobytes() for crop in seen}) == len(seen)
    for points in _placed(outsider):
        for picture in (outsider.picture, output):
            crop = crop_face(picture, Square(points), verifier.side)
            assert any(np.array_equal(crop, one) for one in seen)


def test_faces_placed_together_are_where_each_alone_would_be(
    world: World, outsider: Outsider
) -> None:
    for refine in (False, True):
        placing = Placing(world.landmarks, world.resolution, refine)
        found = [detected(outsider.faces, index) for index in range(len(outsider.faces))]
        together = place(outsider.picture, found, [False] * len(found), placing)
        for face, one in zip(found, together, strict=True):
            (other,) = place(outsider.picture, [face], [False], placing)
            assert one.geometry.hull is not None
            assert other.geometry.hull is not None
            assert np.allclose(one.geometry.hull, other.geometry.hull, atol=1e-3)
            assert np.allclose(one.geometry.square.points, other.geometry.square.points, atol=1e-3)


def test_one_face_that_cannot_be_placed_leaves_the_others_alone(
    world: World, verifier: Verifier, outsider: Outsider
) -> None:
    broken = outsider.faces.points.copy()
    broken[0] = 9.0
    half = Detects(iter([lambda _: replace(outsider.faces, points=broken)]))
    components = build(world, verifier, detector=half, sweeper=world.detector)
    output, faces = safe(outsider.picture, components)
    assert output is not None
    assert outsider.leaks(output) == []
    assert [face.verdict for face in faces] == ["masked", "verified"]


def test_what_a_failed_paste_left_behind_is_taken_back(
    world: World, verifier: Verifier, outsider: Outsider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def smears(canvas: Pixels, crop: Pixels, square: Square, region: Any, _: bool) -> None:
        x0, y0, x1, y1 = region.window
        canvas[y0:y1, x0:x1] = 255
        raise RuntimeError("injected")

    monkeypatch.setattr(compose_module, "paste", smears)
    components = build(world, verifier)
    output, faces = safe(outsider.picture, components, reencode=lambda pixels: pixels)
    assert output is not None
    assert {face.verdict for face in faces} == {"masked"}
    changed = output[(output != outsider.picture).any(axis=2)]
    assert (changed == OPAQUE_GRAY).all()
