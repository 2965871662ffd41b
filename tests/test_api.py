"""Three lines from Python make a picture safe, wherever they are run."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid import DeidError, deidentify
from deid.imaging.paste import OPAQUE_GRAY
from tests.conftest import ROOT

SAMPLE = ROOT / "data/samples/pair.png"


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


def test_what_is_wrong_is_said_in_a_line() -> None:
    stored = io.BytesIO(b"no picture")
    with pytest.raises(DeidError, match=r"nowhere\.png"):
        deidentify("nowhere.png", method="mask")
    with pytest.raises(DeidError, match="not a whole picture"):
        deidentify(stored.getvalue(), method="mask")
    with pytest.raises(DeidError, match="float64"):
        deidentify(np.zeros((4, 4, 3)), method="mask")  # type: ignore[arg-type]
    with pytest.raises(DeidError, match="no picture"):
        deidentify(stored, method="mask")  # type: ignore[arg-type]
    with pytest.raises(DeidError, match="magic"):
        deidentify(SAMPLE, method="magic")
    with pytest.raises(DeidError, match="generator"):
        deidentify(SAMPLE, method="mask", root=Path.cwd())
    assert not list(Path.cwd().iterdir())


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, deid; deid.DeidError;"
        "heavy = {'torch', 'cv2', 'PIL', 'numpy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
