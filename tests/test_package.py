"""The wheel: built from this tree, it de-identifies pictures where no checkout is near."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

import deid
from tests.conftest import ROOT

EXTRAS = (
    "dvc",
    "great_expectations",
    "insightface",
    "lightning_fabric",
    "lpips",
    "matplotlib",
    "mlflow",
    "pandas",
    "prefect",
    "torch_fidelity",
)
WITHOUT_EXTRAS = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`deid` of an environment that holds the wheel and its dependencies, and no extra."""
    uv = shutil.which("uv", path=f"{os.environ['PATH']}{os.pathsep}{ROOT / '.uv/bin'}")
    assert uv, "uv is neither on the path nor in .uv; run `make setup`"
    folder = tmp_path_factory.mktemp("package")

    def run(*words: str | Path) -> None:
        subprocess.run([uv, *words, "--quiet", "--offline"], cwd=ROOT, check=True)

    run("build", "--wheel", "--out-dir", folder / "dist")
    run("venv", folder / "venv")
    (wheel,) = (folder / "dist").glob("*.whl")
    run("pip", "install", "--no-deps", "--python", folder / "venv/bin/python", wheel)
    (packages,) = (folder / "venv/lib").glob("*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (packages / "without_extras.py").write_text(WITHOUT_EXTRAS)
    (packages / "without_extras.pth").write_text("import without_extras")
    return folder / "venv/bin/deid"


def run(command: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `deid WORDS` in `folder`, with no more of this environment than the home folder."""
    env = {name: os.environ[name] for name in ("HOME", "OMP_NUM_THREADS") if name in os.environ}
    return subprocess.run(
        [command, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=300
    )


def test_an_installed_deid_makes_a_sample_safe(command: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "data/samples/pair.png", tmp_path)
    done = run(command, tmp_path, "run", "pair.png", "safe.png", "--method", "blur", "--world=mini")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "safe.png").read_bytes() != (tmp_path / "pair.png").read_bytes()


def test_a_folder_with_nothing_but_parameters_will_do(command: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "data/samples/pair.png", tmp_path)
    shutil.copy(ROOT / "profiles/mini.yaml", tmp_path / "params.yaml")
    done = run(command, tmp_path, "run", "pair.png", "safe.png", "--method", "mask")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (("validate",), "pandas", "pipeline"),
        (("stage-one",), "pandas", "pipeline"),
        (("register",), "mlflow", "pipeline"),
        (("run", "in", "out", "--method=blur", "--detector=scrfd={}"), "insightface", "photo"),
    ],
)
def test_what_an_extra_installs_is_asked_for_in_one_line(
    command: Path, tmp_path: Path, words: tuple[str, ...], package: str, extra: str
) -> None:
    shutil.copy(ROOT / "profiles/mini.yaml", tmp_path / "params.yaml")
    (tmp_path / "in").mkdir()
    shutil.copy(ROOT / "data/samples/pair.png", tmp_path / "in")
    (tmp_path / "scrfd.onnx").touch()
    done = run(command, tmp_path, *(word.format(tmp_path / "scrfd.onnx") for word in words))
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert f"needs {package}" in said
    assert f"pip install '.[{extra}]'" in said


def test_the_package_says_its_version_and_that_it_is_typed(command: Path) -> None:
    code = "import deid, importlib.metadata as m; print(deid.__version__, m.version('face-deid'))"
    python = command.with_name("python")
    said = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == [deid.__version__] * 2
    assert list(command.parents[1].glob("lib/*/site-packages/deid/py.typed"))
    assert list(command.parents[1].glob("lib/*/site-packages/face_deid-*/licenses/LICENSE"))
