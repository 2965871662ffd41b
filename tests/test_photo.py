"""A photo in, a safe photo out: what must hold whatever goes wrong on the way."""

import errno
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor

from benchmarks.example_sheet import GAP, LABEL, example_sheet
from deid.anonymize.pixelate import Pixelate
from deid.audit.seal import AUDIT_FILES
from deid.batch import pipeline as pipeline_module
from deid.batch.pipeline import Pipeline, build_pipeline
from deid.batch.run import deidentify_path
from deid.batch.settings import RunSettings
from deid.batch.summary import Summary
from deid.errors import DeidError
from deid.evaluate.metrics import threshold_at
from deid.faces.alignment import apply_affine, crop_to_picture, invert_affine
from deid.faces.detection import build_detector
from deid.faces.detection.boxes import iou
from deid.faces.faces import Faces
from deid.gate import anonymize as anonymize_module
from deid.gate import compose as compose_module
from deid.gate import face as face_module
from deid.gate import geometry as geometry_module
from deid.gate import place as place_module
from deid.gate.calibration import pair_similarities
from deid.gate.components import Components
from deid.gate.geometry import Geometry, check_geometry
from deid.gate.judges import (
    Judge,
    Verifier,
    build_verifier,
)
from deid.gate.picture import deidentify_picture
from deid.gate.record import FaceRecord
from deid.imaging.align import Square, crop_face, place_face
from deid.imaging.codec import DEFAULT_QUALITY, decode, encode, jpeg_quality
from deid.imaging.paste import (
    OPAQUE_GRAY,
    coverage,
    hard_region,
    hull_of_points,
    hull_with_box,
    hull_with_oval,
    soft_region,
)
from deid.pixels import Pixels, picture_sha256
from deid.worlds.world import World
from tests.conftest import ROOT
from tests.onnx_files import exported
from tests.scenes import ALIGNED_FACE
from tests.toy import toy_world

FIVE = np.array([[0.375, 0.47], [0.625, 0.47], [0.5, 0.62], [0.4, 0.75], [0.6, 0.75]])


def face_at(x: float, y: float, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Box and five points of a face whose FFHQ square starts at x, y."""
    points = np.array([x, y]) + FIVE * side
    box = np.array([x + 0.2 * side, y + 0.25 * side, x + 0.8 * side, y + 0.95 * side])
    return box, points


@dataclass
class Known:
    """A detector that knows where the faces are."""

    faces: Sequence[tuple[np.ndarray, np.ndarray]]
    name: str = "known"

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        boxes = np.array([box for box, _ in self.faces], np.float32).reshape(-1, 4)
        points = np.array([point for _, point in self.faces], np.float32).reshape(-1, 5, 2)
        return [Faces(boxes, np.ones(len(boxes), np.float32), points) for _ in pictures]


@dataclass
class Paint:
    """An anonymizer that paints a color drawn from the seed, or does what it is told."""

    act: Callable[[Tensor], Tensor] | None = None
    name: str = "paint"
    resolution: int | None = None
    enough: int | None = None

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        if self.act:
            return self.act(faces)
        return torch.full_like(faces, (seeds[0] % 101) / 101 - 0.5)


def is_noise(crop: Pixels) -> bool:
    """Whether a crop shows an original of these tests, which are noise, or what was made of it."""
    size = len(crop)
    middle = crop[size // 3 : size * 2 // 3, size // 3 : size * 2 // 3].astype(float)
    return bool(np.abs(np.diff(middle, axis=1)).mean() > 10)


def judge(value: float | Callable[[], float]) -> Verifier:
    """A verifier whose one judge reports `value` for whatever is not noise any more; its
    threshold is 0.3."""

    def embed(faces: Pixels, points: np.ndarray) -> np.ndarray:
        if is_noise(faces[0]):
            return np.array([[1.0, 0.0]], np.float32)
        return np.array([[value() if callable(value) else value, 0.0]], np.float32)

    return Verifier((Judge("fixed", 0.3, embed),), side=32)


def components(**changes: object) -> Components:
    world = toy_world()
    plain = Components(
        detector=Known([face_at(30, 20, 60)]),
        landmarks=world.landmarks,
        landmark_side=64,
        refine=False,
        anonymizers={"swap": Paint(), "pixelate": Pixelate(4)},
        verifier=judge(0.0),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def anonymized(
    picture: Pixels, components: Components, method: str = "swap"
) -> tuple[Pixels, list[FaceRecord]]:
    """A picture whose encoder keeps every pixel, and what became of its faces."""
    encoded, faces = deidentify_picture(
        picture, components, method, lambda i: i, lambda pixels: (pixels.tobytes(), pixels)
    )
    return np.frombuffer(encoded, np.uint8).reshape(picture.shape), faces


def pipeline(allow_no_face: bool = False, seed: int = 0, **changes: object) -> Pipeline:
    settings = RunSettings(method="swap", allow_no_face=allow_no_face, seed=seed)
    return Pipeline(settings, components(**changes), model="none")


def noise(seed: int, height: int = 100, width: int = 120) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: Pixels, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path


def core(pixels: Pixels, x: int = 30, y: int = 20, side: int = 60) -> Pixels:
    """The middle of the face at x, y: inside every region, whatever its outline."""
    down = slice(y + side * 30 // 100, y + side * 82 // 100)
    return pixels[down, x + side * 32 // 100 : x + side * 68 // 100]


def records(folder: Path) -> dict[str, dict[str, object]]:
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    return {json.loads(line)["file"]: json.loads(line) for line in lines}


# ---- codec


def planted_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to see it upright
    exif[0x010F] = "SECRETCAMERA"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.5)})
    return exif.tobytes() + b"THUMBNAIL-OF-THE-FACE"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_nothing_but_the_picture_survives_and_it_is_upright(tmp_path: Path, suffix: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = save(tmp_path / f"a.{suffix}", noise(1), exif=planted_exif(), icc_profile=profile)
    stored = source.read_bytes()
    assert b"SECRETCAMERA" in stored, "the plant failed"
    decoded = decode(stored, "a")
    assert decoded.pixels.shape == (120, 100, 3)
    data = encode(decoded.pixels, decoded.alpha, decoded.form)
    for secret in (b"SECRETCAMERA", b"THUMBNAIL", b"Exif", b"EXIF", b"ICC"):
        assert secret not in data
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == {"jpg": "JPEG", "tiff": "TIFF"}.get(suffix, suffix.upper())
        assert not image.getexif().get_ifd(0x8825)
        assert "icc_profile" not in image.info
        assert image.size == (100, 120)
    if suffix in ("png", "tiff"):
        assert np.array_equal(decode(data, "b").pixels, np.rot90(noise(1), -1))


def test_transparency_and_gray_are_kept_and_hidden_pixels_are_cleared() -> None:
    pixels = np.dstack([noise(2), np.full((100, 120), 255, np.uint8)])
    pixels[:50, :, 3] = 0
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "PNG")
    decoded = decode(stored.getvalue(), "a")
    assert decoded.alpha is not None
    assert not decoded.pixels[:50].any()
    again = decode(encode(decoded.pixels, decoded.alpha, decoded.form), "b")
    assert np.array_equal(again.pixels, decoded.pixels)
    assert again.alpha is not None
    assert np.array_equal(again.alpha, decoded.alpha)

    gray = io.BytesIO()
    Image.fromarray(noise(3)[..., 0]).save(gray, "PNG")
    decoded = decode(gray.getvalue(), "c")
    with Image.open(io.BytesIO(encode(decoded.pixels, None, decoded.form))) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), noise(3)[..., 0])


@pytest.mark.parametrize("quality", [60, 75, 90, 96])
def test_jpeg_quality_is_read_from_the_file(quality: int) -> None:
    stored = io.BytesIO()
    Image.fromarray(noise(4)).save(stored, "JPEG", quality=quality, subsampling=2)
    form = decode(stored.getvalue(), "a").form
    assert abs(form.quality - quality) <= 1
    assert form.subsampling == 2
    assert jpeg_quality(None) == DEFAULT_QUALITY


def bomb() -> bytes:
    stored = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stored, "PNG")
    return stored.getvalue()


def truncated(kind: str) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(noise(5)).save(stored, kind)
    return stored.getvalue()[: len(stored.getvalue()) * 2 // 3]


@pytest.mark.parametrize(
    "data",
    [b"", b"not a picture", truncated("JPEG"), truncated("PNG"), truncated("TIFF"), bomb()],
    ids=["empty", "text", "jpeg", "png", "tiff", "bomb"],
)
def test_what_is_not_a_whole_picture_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(DeidError, match="holiday"):
        decode(data, "holiday.jpg")


# ---- geometry


def ramp(height: int, width: int, slope: float = 1.0) -> Pixels:
    """Red is `slope` times the place of the pixel's center in x, green in y."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    return np.rint(np.dstack([x, y, (x + y) / 2]) * slope).astype(np.uint8)


@pytest.mark.parametrize(("size", "turn"), [(16, 0.0), (24, 0.3), (64, 0.0), (100, -0.5)])
def test_a_crop_shows_what_the_affine_says(size: int, turn: float) -> None:
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = (FIVE - 0.5) @ rotation.T * 40 + 31.3
    crop = crop_face(ramp(62, 62, slope=4.0), Square(points), size).astype(float)
    centers = np.stack(np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5), -1)
    place = apply_affine(crop_to_picture(points, size), centers.reshape(-1, 2))
    inside = ((place > 1) & (place < 61)).all(axis=1)
    error = (crop[..., :2].reshape(-1, 2) / 4.0 - place)[inside]
    assert np.abs(error.mean(axis=0)).max() < 0.15
    assert np.abs(error).max() < 0.3


@pytest.mark.parametrize("size", [20, 38, 64, 256])
def test_a_crop_put_back_is_the_picture_again(size: int) -> None:
    picture = ramp(62, 62, slope=4.0)
    _, points = face_at(11.3, 9.7, 38.4)
    square = Square(points)  # its maps are computed once, and stay what they are
    crop = crop_face(picture, square, size)
    placed = [place_face(crop, square, (20, 20, 42, 42)) for _ in range(2)]
    assert np.array_equal(*placed)
    error = (placed[0].astype(float) - picture[20:42, 20:42]) / 4.0
    assert np.abs(error.mean(axis=(0, 1))).max() < 0.1
    assert np.abs(error).max() < 0.6


def test_a_region_holds_the_whole_hull_and_ends() -> None:
    box, points = face_at(30, 20, 60)
    hull = hull_of_points(Square(points))
    soft, hard = soft_region(hull, (100, 120), 5.0), hard_region(hull, (100, 120))
    full = np.zeros((100, 120))
    x0, y0, x1, y1 = hard.window
    full[y0:y1, x0:x1] = hard.alpha
    x0, y0, x1, y1 = soft.window
    assert (soft.alpha[full[y0:y1, x0:x1] == 1] == 1).all()
    assert soft.alpha.min() == 0
    assert ((soft.alpha > 0) & (soft.alpha < 1)).any()
    covered = hard_region(hull_with_box(hull, box), (100, 120))
    x0, y0, x1, y1 = covered.window
    assert x0 <= box[0]
    assert y0 <= box[1]
    assert x1 >= box[2]
    assert y1 >= box[3]


def test_points_far_from_their_box_are_not_those_of_its_face() -> None:
    box, points = face_at(30, 20, 60)
    check_geometry(Geometry(box, Square(points)))
    cut = np.minimum(box, [200, 200, 200, points.mean(axis=0)[1] - 3])
    check_geometry(Geometry(cut, Square(points)))
    for away in ([60, 0], [0, -60], [1000, 1000]):
        with pytest.raises(ValueError, match="do not fit"):
            check_geometry(Geometry(box, Square(points + away)))


def test_an_oval_holds_the_hull_and_the_boxs_sides_and_leaves_its_corners() -> None:
    box, points = face_at(30, 20, 60)
    hull = hull_of_points(Square(points))
    oval, whole = (np.zeros((110, 120), bool) for _ in range(2))
    for mask, outline in ((oval, hull_with_oval(hull, box)), (whole, hull_with_box(hull, box))):
        region = hard_region(outline, mask.shape)
        x0, y0, x1, y1 = region.window
        mask[y0:y1, x0:x1] = region.alpha > 0
    x0, y0, x1, y1 = (int(value) for value in box)
    x, y = (x0 + x1) // 2, (y0 + y1) // 2
    assert coverage(hull, [hard_region(hull_with_oval(hull, box), oval.shape)], oval.shape) == 1
    assert oval[y0:y1, x].all()
    assert oval[y, x0:x1].all()
    assert whole[y1, x0]
    assert not oval[y1, x0]
    assert (whole | ~oval).all()


# ---- one picture


def test_pixels_away_from_the_face_keep_their_values() -> None:
    picture = noise(6)
    out, faces = anonymized(picture, components())
    changed = (out != picture).any(axis=2)
    assert core(changed).mean() > 0.98
    assert not changed[:, :25].any()
    assert not changed[:, 95:].any()
    assert not changed[90:].any()
    assert [(face.method, face.verdict) for face in faces] == [("swap", "verified")]


def raises(*_: object) -> Tensor:
    raise RuntimeError("injected")


def injected() -> float:
    raise MemoryError("injected")


BROKEN: dict[str, dict[str, object]] = {
    "anonymizer raises": {"anonymizers": {"swap": Paint(raises)}},
    "anonymizer gives NaN": {"anonymizers": {"swap": Paint(lambda f: f * float("nan"))}},
    "anonymizer gives another shape": {"anonymizers": {"swap": Paint(lambda f: f[:, :, ::2])}},
    "anonymizer is missing": {"anonymizers": {}},
    "landmarks raise": {"landmarks": raises},
    "judge raises": {"verifier": judge(injected)},
    "judge says NaN": {"verifier": judge(float("nan"))},
    "judge knows the face": {"verifier": judge(0.9)},
    "nobody judges": {"verifier": Verifier((), side=32)},
    "points are not finite": {"detector": Known([(face_at(30, 20, 60)[0], FIVE * np.nan)])},
    "points are all one": {"detector": Known([(face_at(30, 20, 60)[0], FIVE * 0 + 50)])},
}


@pytest.mark.parametrize("failure", BROKEN)
def test_whatever_fails_ends_in_an_opaque_mask(failure: str) -> None:
    picture = noise(7)
    out, faces = anonymized(picture, components(**BROKEN[failure]))
    assert (core(out) == OPAQUE_GRAY).all()
    assert faces[0].method == "mask"
    assert faces[0].verdict == "masked"
    assert faces[0].failures
    assert np.array_equal(out[:, 100:], picture[:, 100:])


@pytest.mark.parametrize("step", ["crop_face", "paste", "hull_of_points", "soft_region"])
def test_a_step_of_our_own_that_fails_ends_in_a_mask(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (anonymize_module, compose_module, face_module, geometry_module, place_module):
        if hasattr(module, step):
            monkeypatch.setattr(module, step, raises)
    no_landmarks = components(landmarks=lambda images: torch.full((1, 68, 2), -99.0))
    out, faces = anonymized(noise(7), no_landmarks)
    assert (core(out) == OPAQUE_GRAY).all()
    assert "injected" in faces[0].failures[0]


def test_a_recognized_face_escalates_level_by_level() -> None:
    said = chain([0.9], repeat(0.1))
    out, faces = anonymized(noise(8), components(verifier=judge(lambda: next(said))))
    assert faces[0].method == "pixelate"
    assert faces[0].similarities == {"fixed": pytest.approx(0.1)}
    assert len(faces[0].failures) == 1
    assert len(np.unique(core(out).reshape(-1, 3), axis=0)) <= 40


def test_what_is_judged_is_what_comes_out_of_the_encoder() -> None:
    picture, seen = noise(9), []

    def embed(faces: Pixels, points: np.ndarray) -> np.ndarray:
        seen.append(faces[0].copy())
        return np.array([[1.0, 0.0] if is_noise(faces[0]) else [0.0, 1.0]], np.float32)

    watching = components(verifier=Verifier((Judge("watching", 0.3, embed),), side=32))
    deidentify_picture(picture, watching, "swap", lambda i: i, lambda p: (b"", np.full_like(p, 77)))
    assert sum((crop == 77).all() for crop in seen) == len(seen) - 1, "all but the original"


def test_an_overlapping_face_does_not_bring_back_its_neighbor() -> None:
    picture = noise(10)
    picture[:] = np.maximum(picture, 60)
    calls: list[int] = []

    def first_black_then_hardly_changed(faces: Tensor) -> Tensor:
        calls.append(1)
        return torch.full_like(faces, -1.0) if len(calls) == 1 else faces + 0.1

    # "paint" is no generative method, so colors are not matched to the face that was there.
    overlapping = components(
        detector=Known([face_at(10, 20, 60), face_at(34, 20, 60)]),
        anonymizers={"paint": Paint(first_black_then_hardly_changed), "pixelate": Pixelate(4)},
        verifier=Verifier((replace(judge(0.0).judges[0], threshold=2.0),), side=32),
    )
    out, _ = anonymized(picture, overlapping, "paint")
    assert core(out, 10).max() <= 20


def test_a_mask_is_not_softened_by_a_neighbor() -> None:
    picture = noise(11)
    picture[:, :52, 2] //= 4
    picture[:, 52:, 0] //= 4

    def embed(faces: Pixels, points: np.ndarray) -> np.ndarray:
        red, _, blue = faces[0, 8:24, 8:24].mean(axis=(0, 1))
        if red > blue:  # the first face is known at every level, the second one never
            return np.array([[1.0, 0.0, 0.0]], np.float32)
        return np.array([[0.0, is_noise(faces[0]), not is_noise(faces[0])]], np.float32)

    two = components(
        detector=Known([face_at(10, 20, 60), face_at(34, 20, 60)]),
        verifier=Verifier((Judge("of colors", 0.3, embed),), side=32),
    )
    out, faces = anonymized(picture, two)
    assert [face.method for face in faces] == ["mask", "swap"]
    assert (core(out, 10) == OPAQUE_GRAY).all()


# ---- a folder


def run(source: Path, out: Path, **changes: object) -> Summary:
    return deidentify_path(source, out, pipeline(**changes))  # type: ignore[arg-type]


def test_a_folder_keeps_its_tree_and_every_input_ends_once(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    save(source / "a.png", noise(1))
    save(source / "deep/er/b.jpg", noise(2), quality=90, exif=planted_exif())
    (source / "notes.txt").write_text("hello")
    (source / "bad.jpg").write_bytes(b"no picture")
    (source / "film.gif").write_bytes(b"GIF89a")
    (source / "link.png").symlink_to(source / "a.png")
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    summary = run(source, out)
    assert dict(summary.counts) == {"written": 2, "quarantined": 2, "skipped": 2}
    assert summary.failed
    assert "bad.jpg" in summary.text()
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == {
        "a.png",
        "deep/er/b.jpg",
        *AUDIT_FILES,
        ".deid/manifest.known.jsonl",
        ".deid/lock",
        ".deid/source.sha256",
    }
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before
    found = records(out)
    assert set(found) == {p.relative_to(source).as_posix() for p in source.rglob("*.*")}
    written = found["deep/er/b.jpg"]
    assert (
        written["output_sha256"] == hashlib.sha256((out / "deep/er/b.jpg").read_bytes()).hexdigest()
    )
    assert str(tmp_path) not in (out / "manifest.jsonl").read_text()


def test_outside_the_face_a_png_is_bit_identical(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", noise(1))
    run(tmp_path / "in", tmp_path / "out")
    with Image.open(tmp_path / "out/a.png") as image:
        changed = (np.asarray(image) != noise(1)).any(axis=2)
    assert core(changed).mean() > 0.98
    assert not changed[:, :25].any()
    assert not changed[:, 95:].any()


def test_a_second_run_finds_nothing_to_do_and_a_changed_one_does(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(3):
        save(source / f"{i}.png", noise(i))
    run(source, out)
    first = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.glob("*.png")}
    manifest = (out / "manifest.jsonl").read_bytes()

    assert dict(run(source, out).counts) == {"done": 3}
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.glob("*.png")} == first
    assert (out / "manifest.jsonl").read_bytes() == manifest

    (out / "1.png").write_bytes(b"spoilt")
    save(source / "2.png", noise(9))
    assert dict(run(source, out).counts) == {"done": 1, "quarantined": 1, "written": 1}
    (out / "1.png").unlink()
    assert dict(run(source, out).counts) == {"done": 2, "written": 1}
    assert dict(run(source, out, seed=5).counts) == {"written": 3}


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for i in range(4):
        save(source / f"{i}.png", noise(i))
    run(source, tmp_path / "whole")
    run(source, tmp_path / "killed")
    manifest = tmp_path / "killed/manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:2]) + lines[2][:40])  # 2.png: written, its line cut off
    (tmp_path / "killed/seal.json").unlink()  # which comes last
    (tmp_path / "killed/3.png").unlink()
    half = tmp_path / "killed/.deid-0123456789abcdef.tmp"
    half.write_bytes(b"half")
    assert dict(run(source, tmp_path / "killed").counts) == {"done": 2, "written": 2}
    assert not half.exists()
    for name in ("0.png", "1.png", "2.png", "3.png", "manifest.jsonl"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "killed" / name).read_bytes() == whole


def test_a_result_does_not_depend_on_what_else_is_in_the_batch(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"in/{i}.png", noise(i))
    run(tmp_path / "in", tmp_path / "out")
    run(tmp_path / "in/2.png", tmp_path / "alone")
    run(tmp_path / "in/2.png", tmp_path / "named/other.png")
    expected = (tmp_path / "out/2.png").read_bytes()
    assert (tmp_path / "alone/2.png").read_bytes() == expected
    assert (tmp_path / "named/other.png").read_bytes() == expected
    assert (tmp_path / "out/1.png").read_bytes() != expected


def test_originals_are_never_in_the_way(tmp_path: Path) -> None:
    source = tmp_path / "in"
    original = save(source / "a.png", noise(1)).read_bytes()
    for target in (source, tmp_path, source / ".." / "in"):
        with pytest.raises(DeidError, match="originals"):
            run(source, target)
    for target in (source / "a.png", source):
        with pytest.raises(DeidError, match="original"):
            run(source / "a.png", target)
    assert run(source, source / "safe").counts["written"] == 1
    assert run(source, source / "safe").counts == {"done": 1}, "it must not eat its own output"
    assert (source / "a.png").read_bytes() == original


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", noise(1))
    theirs = save(tmp_path / "out/a.png", noise(2)).read_bytes()
    summary = run(tmp_path / "in", tmp_path / "out")
    assert dict(summary.counts) == {"quarantined": 1}
    assert (tmp_path / "out/a.png").read_bytes() == theirs


def test_no_face_no_file_unless_allowed(tmp_path: Path) -> None:
    save(tmp_path / "in/a.jpg", noise(1), exif=planted_exif())
    nobody = Known([])
    summary = run(tmp_path / "in", tmp_path / "out", detector=nobody)
    assert summary.failed
    assert "--allow-no-face" in summary.text()
    assert not (tmp_path / "out/a.jpg").exists()
    summary = run(tmp_path / "in", tmp_path / "out", detector=nobody, allow_no_face=True)
    assert not summary.failed
    assert b"SECRETCAMERA" not in (tmp_path / "out/a.jpg").read_bytes()


class Failing:
    name = "failing"

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        raise RuntimeError("injected")


@pytest.mark.parametrize("step", ["detector", "decode", "encode", "deidentify_picture", "_seen"])
def test_a_picture_whose_step_fails_is_not_written(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in/a.png", noise(1))
    if step == "detector":
        summary = run(tmp_path / "in", tmp_path / "out", detector=Failing())
    else:
        monkeypatch.setattr(pipeline_module, step, raises)
        summary = run(tmp_path / "in", tmp_path / "out")
    assert dict(summary.counts) == {"quarantined": 1}
    assert "injected" in str(records(tmp_path / "out")["a.png"]["reason"])
    assert not list((tmp_path / "out").glob("*.png"))


def test_an_output_does_not_outlive_its_quarantine(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", noise(1))
    run(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out/a.png").exists()
    save(tmp_path / "in/a.png", noise(2))
    assert run(tmp_path / "in", tmp_path / "out", detector=Failing()).failed
    assert not (tmp_path / "out/a.png").exists()


def test_bad_paths_and_full_disks_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in/a.png", noise(1))
    with pytest.raises(DeidError, match="nowhere"):
        run(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DeidError, match="file"):
        run(tmp_path / "in", tmp_path / "file/out")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DeidError, match="No space left"):
        run(tmp_path / "in", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.png"))


# ---- components


def test_a_pipeline_of_the_world_masks_a_face(tmp_path: Path) -> None:
    built = build_pipeline(RunSettings(method="mask"), toy_world(), None)
    save(tmp_path / "in/a.png", noise(1))
    summary = deidentify_path(tmp_path / "in", tmp_path / "out", built)
    assert dict(summary.methods) == {"mask": 1}
    with Image.open(tmp_path / "out/a.png") as image:
        assert (np.asarray(image)[40:80, 40:80] == OPAQUE_GRAY).all()


class Vectors(torch.nn.Module):
    """Not a recognizer: `outputs` of `dim` numbers, the same for every picture."""

    def __init__(self, outputs: int, dim: int) -> None:
        super().__init__()
        self.outputs, self.dim = outputs, dim

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        pooled = images.mean((2, 3)).mean(1, keepdim=True)
        return (1.0 + 1e-6 * pooled.repeat(1, self.dim),) * self.outputs


@pytest.mark.parametrize(
    ("outputs", "dim", "said"),
    [(9, 1, "9 outputs"), (1, 3, "no vector for each face"), (1, 136, "the same vector")],
)
def test_a_network_that_is_no_recognizer_is_refused_before_any_picture(
    tmp_path: Path, outputs: int, dim: int, said: str
) -> None:
    file = exported(Vectors(outputs, dim), (1, 3, 112, 112), tmp_path)
    with pytest.raises(DeidError, match=said) as refused:
        build_verifier((f"foamliu={file}",), toy_world())
    assert "not a foamliu recognizer" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_detector_is_no_recognizer(assets: Path) -> None:
    with pytest.raises(DeidError, match="not a foamliu recognizer"):
        build_verifier((f"foamliu={assets / 'weights/det_500m.onnx'}",), toy_world())


def test_wrong_names_are_refused_before_any_picture(tmp_path: Path) -> None:
    world = toy_world()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    wrong = [
        (RunSettings(method="vanish"), "vanish"),
        (RunSettings(method="blur", detectors=("haar=x",)), "haar"),
        (RunSettings(method="blur", detectors=("scrfd=missing.onnx",)), "missing.onnx"),
        (RunSettings(method="blur", detectors=(f"scrfd={broken}",)), "broken.onnx"),
        (RunSettings(method="blur", detectors=(f"yunet={broken}",)), "broken.onnx"),
        (RunSettings(method="blur", recognizers=("eyes=x",)), "eyes"),
        (RunSettings(method="blur", recognizers=(f"arcface={broken}",)), "broken.onnx"),
    ]
    for settings, name in wrong:
        with pytest.raises(DeidError, match=name):
            build_pipeline(settings, world, None)


@pytest.mark.parametrize(
    "asked",
    [
        RunSettings(method="mask"),
        RunSettings(method="blur", allow_no_face=True),
        RunSettings(method="mask", dry_run=True),
        RunSettings(method="mask", detectors=("mini",)),
    ],
)
def test_networks_that_know_rendered_people_only_pass_no_photograph(
    world: World, tmp_path: Path, asked: RunSettings
) -> None:
    """Not even one with faces that mini's detector sees, nor one in which it sees none."""
    with Image.open(ROOT / "data/samples/team.png") as image:
        rendered = image.convert("RGB")
    changed = np.asarray(rendered).copy()
    changed[0, 0] ^= 1  # by any other picture than the samples
    save(tmp_path / "in/faces.png", changed)
    save(tmp_path / "in/empty.jpg", np.full((90, 120, 3), 90, np.uint8))
    summary = deidentify_path(tmp_path / "in", tmp_path / "out", build_pipeline(asked, world, None))
    assert dict(summary.counts) == {"quarantined": 2}
    assert summary.failed
    for line in summary.problems:
        assert "--world photo" in line
        assert "`deid weights fetch`" in line
        assert "--detector yunet --recognizer foamliu" in line
    assert not list((tmp_path / "out").glob("*.*g"))


def test_judges_that_know_rendered_people_only_pass_no_photograph(
    world: World, assets: Path, tmp_path: Path
) -> None:
    picture, _ = photograph(assets, [200])
    save(tmp_path / "in/a.png", picture)
    asked = RunSettings(method="blur", detectors=(f"scrfd={assets / 'weights/det_500m.onnx'}",))
    summary = deidentify_path(tmp_path / "in", tmp_path / "out", build_pipeline(asked, world, None))
    assert dict(summary.counts) == {"quarantined": 1}
    assert "or --recognizer foamliu" in summary.problems[0]


def test_samples_and_what_is_called_rendered_go_to_the_embedded_networks(
    world: World, tmp_path: Path
) -> None:
    samples = sorted((ROOT / "data/samples").iterdir())
    assert {picture_sha256(decode(f.read_bytes(), f.name).pixels) for f in samples} == world.samples
    sample, settings = ROOT / "data/samples/portrait.png", RunSettings(method="mask")
    for name, asked in (("sample", settings), ("called", replace(settings, rendered=True))):
        picture = decode(sample.read_bytes(), "sample").pixels.copy()
        picture[0, 0] ^= name == "called"
        save(tmp_path / name / "a.png", picture)
        shop = build_pipeline(asked, world, None)
        summary = deidentify_path(tmp_path / name, tmp_path / "out" / name, shop)
        assert dict(summary.counts) == {"written": 1}


def test_the_threshold_lets_a_thousandth_of_impostors_pass() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    people = np.arange(300) // 2
    genuine, cosines = pair_similarities(vectors, people)
    assert len(genuine) == 150
    assert len(cosines) == 300 * 299 // 2 - 150
    assert abs((cosines > threshold_at(1e-3, cosines)).mean() - 1e-3) < 2e-4


def test_a_judge_that_knows_nobody_again_is_refused() -> None:
    class Blind(torch.nn.Module):
        dim = 2

        def forward(self, images: Tensor) -> Tensor:
            angle = images.sum(dim=(1, 2, 3)) * 1e4  # unit vectors that say nothing of the face
            return torch.stack([angle.cos(), angle.sin()], dim=1)

    blind = replace(toy_world(), held_out={"blind": Blind()})
    with pytest.raises(DeidError, match="blind"):
        build_verifier((), blind)


def test_the_same_picture_is_never_safe() -> None:
    world = toy_world()
    verifier = build_verifier((), world)
    assert set(verifier.description) == {"toy/first", "toy/second"}
    face = world.test_faces(1, 1, 5).pixels[0]
    verdict = verifier.compare(face, face, FIVE * 64)
    assert not verdict.safe
    assert all(value > 0.999 for value in verdict.similarities.values())


def photograph(assets: Path, sides: Sequence[int]) -> tuple[Pixels, list[tuple[int, int, int]]]:
    """Portraits of the given sides, side by side on gray."""
    height, width = max(sides) + 40, sum(sides) + 20 * (len(sides) + 1)
    canvas, places, x = np.full((height, width, 3), 120, np.uint8), [], 20
    for index, side in enumerate(sides):
        with Image.open(assets / f"photoreal/{index:03d}.jpg") as image:
            face = image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        canvas[20 : 20 + side, x : x + side] = np.asarray(face)
        places.append((x, 20, side))
        x += side + 20
    return canvas, places


@pytest.mark.parametrize("method", ["blur", "pixelate", "mask", "fgsm"])
def test_photographs_are_judged_by_a_recognizer_of_real_faces(
    assets: Path, tmp_path: Path, method: str
) -> None:
    weights = assets / "weights"
    settings = RunSettings(
        method=method,
        detectors=(f"scrfd={weights / 'det_500m.onnx'}",),
        recognizers=(f"foamliu={weights / 'foamliu_mobilefacenet.onnx'}",),
    )
    picture, places = photograph(assets, [200, 90])
    save(tmp_path / "in/a.png", picture)
    built = build_pipeline(settings, toy_world(), None)
    summary = deidentify_path(tmp_path / "in", tmp_path / "out", built)
    assert not summary.failed
    faces = records(tmp_path / "out")["a.png"]["faces"]
    assert isinstance(faces, list)
    # Each person once, at the right place. The sweep may see a face in what was pixelated; what it
    # sees lies on a person, and is pixelated once more.
    people = [face for face in faces if face["found"] == "detector"]
    true = [np.array([x, y, x, y]) + np.array(ALIGNED_FACE) * side for x, y, side in places]
    on = [[iou(np.float32(box), np.float32([face["box"]]))[0] for box in true] for face in people]
    assert sorted(int(np.argmax(row)) for row in on) == list(range(len(places)))
    assert min(max(row) for row in on) > 0.5
    for face in faces:
        x0, y0, x1, y1 = face["box"]
        middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        assert any((middle > box[:2]).all() and (middle < box[2:]).all() for box in true)
    # Noise against the toy world's encoder does not fool a recognizer of real faces.
    assert all((face["method"] == method) == (method != "fgsm") for face in people)
    for face in faces:
        assert all(value < 0.35 for value in face["similarities"].values())
    with Image.open(tmp_path / "out/a.png") as image:
        out = np.asarray(image)
    for x, y, side in places:
        inner = np.s_[y + side // 3 : y + side * 3 // 4, x + side // 3 : x + side * 2 // 3]
        assert (out[inner] != picture[inner]).any(axis=2).mean() > 0.95
    # Nothing else is touched: only what a face on record accounts for, forehead and rim included.
    changed = (out != picture).any(axis=2)
    for face in faces:
        x0, y0, x1, y1 = face["box"]
        dx, dy = (x1 - x0) // 4 + 4, (y1 - y0) // 4 + 4
        changed[max(0, y0 - dy) : y1 + dy, max(0, x0 - dx) : x1 + dx] = False
    assert not changed.any()


def test_a_judge_of_real_faces_knows_a_person_again(assets: Path) -> None:
    spec = f"foamliu={assets / 'weights/foamliu_mobilefacenet.onnx'}"
    verifier = build_verifier((spec,), toy_world())
    detector = build_detector([f"scrfd={assets / 'weights/det_500m.onnx'}"], toy_world())
    picture, _ = photograph(assets, [256, 256])
    found = detector.detect([picture])[0]
    crops = [crop_face(picture, Square(points), 256) for points in found.points]
    points = [
        apply_affine(invert_affine(crop_to_picture(p, 256)), p) for p in found.points.astype(float)
    ]
    mirrored, swapped = crops[0][:, ::-1].copy(), points[0][[1, 0, 2, 4, 3]] * [-1, 1] + [256, 0]
    assert verifier.judges[0].embed(crops[0][None], points[0][None]).shape == (1, 128)
    same = verifier.judges[0].embed(np.stack([crops[0], mirrored]), np.stack([points[0], swapped]))
    assert same[0] @ same[1] > 0.8
    assert verifier.compare(crops[0], crops[1], points[0]).safe


def test_the_example_sheet_shows_what_all_folders_hold(tmp_path: Path) -> None:
    for name, shade in (("before", 200), ("after", 50)):
        save(tmp_path / name / "a.png", np.full((90, 120, 3), shade, np.uint8))
    save(tmp_path / "before/only.png", noise(1))
    folders = {name: tmp_path / name for name in ("before", "after")}
    example_sheet(folders, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert (pixels[90, -20] == 200).all()
    assert (pixels[-90, -20] == 50).all()
    assert pixels.shape[1] == LABEL + 240 + GAP
    with pytest.raises(DeidError, match="no picture"):
        example_sheet({"x": tmp_path / "nowhere"}, tmp_path / "none.png")
