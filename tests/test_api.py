"""Three lines from Python make a picture safe, wherever they are run."""

import io
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid import DeidError, api
from deid.imaging.paste import OPAQUE_GRAY
from tests.conftest import ROOT

SAMPLE = ROOT / "data/samples/pair.png"
deidentify = partial(api.deidentify, world="mini")  # whose networks are in git


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is no checkout."""
    monkeypatch.chdir(tmp_path)


def test_three_lines_make_a_safe_file(tmp_path: Path) -> None:
    before = SAMPLE.read_bytes()
    result = deidentify(SAMPLE, method="blur")
    result.save("safe.png")
    assert (tmp_path / "safe.png").read_bytes() == result.data
    assert result.verdict == "verified"
    assert len(result.faces) == 2
    assert {face.method for face in result.faces} == {"blur"}
    assert SAMPLE.read_bytes() == before


def test_paths_bytes_images_and_arrays_give_the_same_faces() -> None:
    with Image.open(SAMPLE) as image:
        image.load()
    kinds = [str(SAMPLE), SAMPLE.read_bytes(), image, np.asarray(image.convert("RGB"))]
    results = [deidentify(kind, method="pixelate") for kind in kinds]
    first = results[0].pixels
    assert first.shape == (image.height, image.width, 3)
    for result in results:
        assert np.array_equal(result.pixels, first)
        assert result.image.size == image.size
    assert results[1].data == results[0].data


def test_gray_arrays_stay_gray() -> None:
    with Image.open(SAMPLE) as image:
        gray = np.asarray(image.convert("L"))
    result = deidentify(gray, method="mask", allow_no_face=True, rendered=True)
    assert result.image.mode == "L"
    assert result.verdict in ("masked", "no face")
    if result.verdict == "masked":
        assert (result.pixels == OPAQUE_GRAY).any()


def test_no_face_is_an_error_unless_it_is_allowed() -> None:
    wall = np.full((64, 64, 3), 128, np.uint8)
    with pytest.raises(DeidError, match="no face"):
        deidentify(wall, method="mask", rendered=True)
    result = deidentify(wall, method="mask", allow_no_face=True, rendered=True)
    assert result.verdict == "no face"
    assert np.array_equal(result.pixels, wall)


def test_a_picture_that_may_be_a_photograph_is_refused() -> None:
    with Image.open(SAMPLE) as image:
        mirrored = np.asarray(image.convert("RGB"))[:, ::-1]
    with pytest.raises(DeidError, match="rendered people only"):
        deidentify(mirrored, method="mask")


def test_what_is_wrong_is_said_in_a_line(tmp_path_factory: pytest.TempPathFactory) -> None:
    stored = io.BytesIO(b"no picture")
    with pytest.raises(DeidError, match=r"nowhere\.png"):
        deidentify("nowhere.png", method="mask")
    with pytest.raises(DeidError, match="not a whole picture"):
        deidentify(stored.getvalue(), method="mask")
    with pytest.raises(DeidError, match="float64"):
        deidentify(np.zeros((4, 4, 3)), method="mask")  # type: ignore[arg-type]
    with pytest.raises(DeidError, match="not a whole picture"):
        deidentify(stored, method="mask")
    with pytest.raises(DeidError, match="a list is not a picture"):
        deidentify([], method="mask")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tint"):
        deidentify(SAMPLE, method="mask", tint=1)  # type: ignore[call-arg]
    with pytest.raises(DeidError, match="magic"):
        deidentify(SAMPLE, method="magic")
    project = tmp_path_factory.mktemp("project")
    (project / "params.yaml").write_text("world: {weights: nowhere}\n")
    with pytest.raises(DeidError, match="generator"):
        deidentify(SAMPLE, method="mask", root=project)
    with pytest.raises(DeidError, match="'moon': unknown"):
        deidentify(SAMPLE, method="mask", world="moon")
    assert not list(Path.cwd().iterdir())


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, deid; deid.DeidError;"
        "heavy = {'torch', 'cv2', 'PIL', 'numpy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def sample() -> Image.Image:
    with Image.open(SAMPLE) as image:
        return image.convert("RGB")


def test_the_saved_file_is_what_its_name_says(sample: Image.Image, tmp_path: Path) -> None:
    result = deidentify(sample, method="mask", rendered=True)
    for name, kind in (("o.png", "PNG"), ("o.tif", "TIFF"), ("o.bmp", "BMP")):
        result.save(name)
        with Image.open(tmp_path / name) as saved:
            assert saved.format == kind
            assert np.array_equal(np.asarray(saved.convert("RGB")), result.pixels)
    for name in ("o.jpg", "o.webp", "o.heic", "o.xyz", "o"):
        with pytest.raises(DeidError, match=r"the result is PNG.*\.png"):
            result.save(name)
        assert not (tmp_path / name).exists()


def test_an_image_comes_out_upright(sample: Image.Image) -> None:
    lying = sample.transpose(Image.Transpose.ROTATE_90)
    lying.getexif()[0x0112] = 6  # to be turned by 90 degrees clockwise
    result = deidentify(lying, method="mask", rendered=True)
    assert result.image.size == sample.size
    assert len(result.faces) == 2


@pytest.mark.parametrize("mode", ["CMYK", "HSV", "YCbCr", "LAB", "I", "PA"])
def test_images_of_any_mode_are_taken(sample: Image.Image, mode: str) -> None:
    image = Image.new(mode, (40, 30)) if mode in ("LAB", "I", "PA") else sample.convert(mode)
    result = deidentify(image, method="mask", rendered=True, allow_no_face=True)
    assert result.image.size == image.size


def test_open_files_lists_and_a_single_string_are_taken() -> None:
    with SAMPLE.open("rb") as opened:
        first = deidentify(opened, method="mask", detectors=[], recognizers=[])
    assert first == deidentify(io.BytesIO(SAMPLE.read_bytes()), method="mask")
    with pytest.raises(DeidError, match=r"nowhere\.onnx"):
        deidentify(SAMPLE, method="mask", detectors="yunet=nowhere.onnx")
    with pytest.raises(DeidError, match="nowhere"):
        deidentify(SAMPLE, method="mask", keep="nowhere")
    assert len(repr(first)) < 200


def test_what_cannot_come_back_is_said(sample: Image.Image) -> None:
    stored = io.BytesIO()
    sample.convert("CMYK").save(stored, "JPEG")
    result = deidentify(stored.getvalue(), method="mask", rendered=True, allow_no_face=True)
    assert any("CMYK" in note for note in result.notes)


def test_no_result_is_saved_over_its_original_however_that_was_given(tmp_path: Path) -> None:
    file, link = tmp_path / "p.png", tmp_path / "link.png"
    shutil.copy(SAMPLE, file)
    link.symlink_to(file)
    before = file.read_bytes()
    with file.open("rb") as opened, Image.open(file) as image:
        given = ["p.png", file, link, before, opened, image]
        results = [deidentify(one, "mask") for one in given]
    for result in results:
        for name in ("p.png", file, link, tmp_path / "nowhere/../p.png"):
            with pytest.raises(DeidError, match="is the original"):
                result.save(name)
        result.save("safe.png")
        result.save("safe.png")  # its own output may give way
    with Image.open(file) as image:
        image.rotate(180).save(file)  # changed since, and still no output's place
    with pytest.raises(DeidError, match="is the original"):
        results[0].save(file)
    assert link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"p.png", "link.png", "safe.png"}


def test_a_copy_of_the_original_is_an_original(tmp_path: Path) -> None:
    shutil.copy(SAMPLE, tmp_path / "copy.png")
    with pytest.raises(DeidError, match=r"copy\.png: is the original"):
        deidentify(SAMPLE, "mask").save("copy.png")


def test_saving_touches_no_other_file_and_follows_no_link(tmp_path: Path) -> None:
    result = deidentify(SAMPLE, "mask")
    mine, theirs = tmp_path / ".safe.png.tmp", tmp_path / "theirs"
    theirs.write_bytes(b"theirs")
    mine.symlink_to(theirs)
    result.save("safe.png")
    assert (mine.is_symlink(), theirs.read_bytes()) == (True, b"theirs")
    assert (tmp_path / "safe.png").read_bytes() == result.data
    (tmp_path / "link.png").symlink_to(theirs)
    result.save("link.png")
    assert theirs.read_bytes() == b"theirs"
