"""A face in the transparency of a picture does not leave with it."""

import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deid.batch.pipeline import Pipeline, build_pipeline
from deid.batch.settings import RunSettings
from deid.errors import DeidError
from deid.gate.sixteen_bit import LEFT_OUT as LOW_BYTES
from deid.gate.transparency import LEFT_OUT
from deid.imaging.codec import decode
from deid.pixels import Pixels
from deid.worlds.world import World
from tests.conftest import ROOT

SAMPLES = ROOT / "data/samples"


@pytest.fixture(scope="module")
def pipeline(world: World) -> Pipeline:
    return build_pipeline(
        RunSettings(method="mask", allow_no_face=True, rendered=True), world, None
    )


def sample(name: str, mode: str = "RGB") -> Pixels:
    with Image.open(SAMPLES / f"{name}.png") as image:
        return np.asarray(image.convert(mode))


def png(*planes: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.dstack(planes)).save(out, "PNG")
    return out.getvalue()


def flat(shape: tuple[int, ...], level: int) -> Pixels:
    return np.full(shape[:2], level, np.uint8)


def safe(pipeline: Pipeline, data: bytes) -> tuple[Image.Image, int, tuple[str, ...]]:
    """The output, how many faces were handled, and the notes."""
    blank = pipeline.blank_record("a.png", hashlib.sha256(data).hexdigest())
    out, record = pipeline.process(blank, data, ".png")
    return Image.open(io.BytesIO(out)), len(record.faces), record.notes


FACE = sample("portrait", "L")


@pytest.mark.parametrize(
    "planes",
    [
        (flat(FACE.shape, 255), FACE),  # seen over black
        (flat(FACE.shape, 0), 255 - FACE),  # seen over white
        (flat(FACE.shape, 0), FACE),  # seen only by who looks at the transparency itself
        (*[flat(FACE.shape, 180)] * 3, FACE),
    ],
    ids=["over black", "over white", "alone", "color"],
)
def test_a_face_in_the_transparency_does_not_leave(
    pipeline: Pipeline, planes: tuple[Pixels, ...]
) -> None:
    out, _, notes = safe(pipeline, png(*planes))
    assert notes == (LEFT_OUT,)
    assert "A" not in out.getbands()
    colors = np.asarray(out.convert("RGB"))[FACE > 0]
    assert (colors == planes[0][0, 0]).all(), "what is left shows nothing of it"


def test_a_face_that_its_transparency_repeats_does_not_leave(pipeline: Pipeline) -> None:
    rgb = sample("portrait")
    out, handled, notes = safe(pipeline, png(rgb, np.maximum(FACE, 1)))
    assert notes == (LEFT_OUT,)
    assert handled == 1
    assert "A" not in out.getbands()


def test_a_cut_out_keeps_its_transparency(pipeline: Pipeline) -> None:
    """Round about a face; the face itself is opaque."""
    rgb = sample("portrait")
    (box,) = pipeline.components.detector.detect([rgb])[0].boxes
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * 1.1
    y, x = np.mgrid[: rgb.shape[0], : rgb.shape[1]]
    inside = (((x - middle[0]) / half[0]) ** 2 + ((y - middle[1]) / half[1]) ** 2) < 1
    alpha = np.where(inside, 255, 0).astype(np.uint8)
    data = png(rgb, alpha)
    out, handled, notes = safe(pipeline, data)
    assert notes == ()
    assert handled == 1
    assert np.array_equal(np.asarray(out)[..., 3], alpha)
    before = decode(data, "a").pixels
    assert (np.asarray(out.convert("RGB")) != before).any()


def test_from_python_as_well(tmp_path: Path) -> None:
    from deid import deidentify

    path = tmp_path / "hidden.png"
    path.write_bytes(png(flat(FACE.shape, 255), FACE))
    result = deidentify(path, method="mask", world="mini", allow_no_face=True, rendered=True)
    assert result.image.mode == "L"


# The lower bits of a 16-bit picture.


def png16(samples: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", samples[..., ::-1] if samples.ndim == 3 else samples)
    assert done
    return data.tobytes()


@pytest.mark.parametrize("bits", [8, 11])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_face_in_the_shadows_of_sixteen_bits_does_not_leave(
    pipeline: Pipeline, bits: int, mode: str
) -> None:
    dark = sample("portrait", mode).astype(np.uint16) << (bits - 8)
    with pytest.raises(DeidError, match="shows that the upper 8 of its 16 bits do not tell"):
        safe(pipeline, png16(dark))


def test_a_face_in_the_low_bytes_does_not_leave(pipeline: Pipeline) -> None:
    face = sample("portrait", "L")
    across = np.linspace(0, 255, face.shape[1]).astype(np.uint16)
    data = png16(face + (across << 8))
    blank = pipeline.blank_record("a.png", hashlib.sha256(data).hexdigest())
    out, record = pipeline.process(blank, data, ".png")
    assert LOW_BYTES in record.notes
    assert decode(out, "a").form.samples is None


def test_sixteen_bits_stay_where_they_hide_nobody(pipeline: Pipeline) -> None:
    """A photograph, whose low bytes are noise, before a dark and noisy background."""
    random = np.random.default_rng(0)
    picture = sample("portrait").astype(np.uint16) << 8
    picture = np.pad(picture, ((0, 0), (120, 120), (0, 0)))
    picture[:, :120] = random.integers(0, 700, picture[:, :120].shape)
    picture[:, -120:] = random.integers(0, 700, picture[:, -120:].shape)
    data = png16(picture + random.integers(0, 256, picture.shape).astype(np.uint16))
    blank = pipeline.blank_record("a.png", hashlib.sha256(data).hexdigest())
    out, record = pipeline.process(blank, data, ".png")
    assert len(record.faces) == 1
    assert decode(out, "a").form.samples is not None


def test_an_outline_does_not_leave_where_all_about_a_face_is_drawn(world: World) -> None:
    """Of somebody cut out, transparency shows the hair and the shoulders."""
    picture, alpha = sample("portrait"), flat(FACE.shape, 0)
    height, width = alpha.shape
    cv2.ellipse(alpha, (width // 2, height // 2), (width // 2, height // 2), 0, 0, 360, 255, -1)
    for region, mode in (("head", "RGBA"), ("portrait", "RGB")):
        settings = RunSettings(method="mask", allow_no_face=True, rendered=True, region=region)
        image, _, notes = safe(build_pipeline(settings, world, None), png(picture, alpha))
        assert image.mode == mode
        assert (LEFT_OUT in notes) == (mode == "RGB")
