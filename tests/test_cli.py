"""The command line answers what a person mistypes or breaks in one line, and leaves nothing."""

import errno
import io
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from deid import __version__, cli
from deid.batch.settings import BatchSettings, RunSettings
from deid.batch.summary import Summary
from deid.errors import DeidError
from deid.params import load_params
from tests.conftest import ROOT

SAMPLE = ROOT / "data/samples/pair.png"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: the params, weights and thresholds of mini, and nothing else."""
    shutil.copy(ROOT / "profiles/mini.yaml", tmp_path / "params.yaml")
    (tmp_path / "data/mini").mkdir(parents=True)
    shutil.copytree(ROOT / "data/mini/weights", tmp_path / "data/mini/weights")
    shutil.copy(ROOT / "data/mini/calibration.json", tmp_path / "data/mini")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def deid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """Run `deid WORDS`; exit code, standard output, standard error."""
    monkeypatch.setattr("sys.argv", ["deid", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), said.out, said.err


def test_the_defaults_are_the_mini_worlds_settings_and_the_projects_are_of_photographs() -> None:
    from deid.params import Params

    assert load_params(ROOT / "profiles/mini.yaml") == Params()
    assert load_params(ROOT / "params.yaml").world.name == "photo"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("  delta: 1.5", "  dleta: 0.7", "stage_two.dleta: unknown key"),
        ("  delta: 1.5", "  delta: -1", "stage_two.delta"),
        ("  count: 70000", "  count: many", "sample.count"),
        ("sample:", "smaple:", "smaple: unknown key"),
        ("sample:", "sample: [", "not readable as YAML"),
    ],
)
def test_a_wrong_parameter_is_named(
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    named: str,
) -> None:
    text = Path("params.yaml").read_text()
    assert old in text
    Path("params.yaml").write_text(text.replace(old, new, 1))
    code, _, said = deid(monkeypatch, capsys, "sample")
    assert code == 1
    assert named in said
    assert len(said.strip().splitlines()) == 1
    assert not Path("data/latents.partial").exists()


def test_missing_params_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, said = deid(monkeypatch, capsys, "sample")
    assert code == 1
    assert "params.yaml: no such file" in said


def test_corrupted_and_missing_weights_are_named(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = checkout / "data/mini/weights/identity.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    code, _, said = deid(monkeypatch, capsys, "run", str(SAMPLE), "out.png", "--method", "mask")
    assert code == 1
    assert "identity.safetensors" in said
    weights.unlink()
    code, _, said = deid(monkeypatch, capsys, "run", str(SAMPLE), "out.png", "--method", "mask")
    assert code == 1
    assert "identity.safetensors" in said
    assert not Path("out.png").exists()


def test_stages_without_their_inputs_say_what_to_run(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage in (
        "validate",
        "stage-one",
        "stage-two",
        "evaluate",
        "attack-stages",
        "report",
        "register",
    ):
        code, _, said = deid(monkeypatch, capsys, stage)
        assert code == 1, stage
        assert said.startswith("deid: "), stage
        assert "Traceback" not in said, stage


def test_a_picture_is_masked_and_the_original_stays(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = SAMPLE.read_bytes()
    monkeypatch.setattr("sys.argv", ["deid", "run", str(SAMPLE.parent), "out", "--method", "mask"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    assert "written" in capsys.readouterr().out
    assert SAMPLE.read_bytes() == before
    assert Path("out", SAMPLE.name).is_file()
    assert Path("out/manifest.jsonl").is_file()


def test_a_picture_that_takes_longer_than_its_time_limit_is_not_written(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("run", str(SAMPLE), "out", "--method", "mask", "--time-limit")
    code, said, _ = deid(monkeypatch, capsys, *words, "1e-9")
    assert code == 1
    assert "out of time" in said
    assert not Path("out", SAMPLE.name).exists()
    assert deid(monkeypatch, capsys, *words, "1000")[0] == 0
    assert Path("out", SAMPLE.name).is_file()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("run", "nothing.png", "out", "--method", "mask"), "nothing.png"),
        (("run", str(SAMPLE), str(SAMPLE), "--method", "mask"), "pair.png"),
        (("run", str(SAMPLE), "out.png", "--method", "magic"), "magic"),
        (("run", str(SAMPLE), "out.png", "--method", "swap"), "dvc repro"),
        (("run", str(SAMPLE), "out.png", "--method", "mask", "--detector", "x=y"), "x=y"),
        (("run", str(SAMPLE), "out.png", "--method", "mask", "--time-limit", "0"), "0 seconds"),
    ],
)
def test_a_wrong_request_is_named_and_writes_nothing(
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    named: str,
) -> None:
    before = SAMPLE.read_bytes()
    code, _, said = deid(monkeypatch, capsys, *words)
    assert code == 1
    assert named in said
    assert len(said.strip().splitlines()) == 1
    assert not Path("out").exists()
    assert not Path("out.png").exists()
    assert SAMPLE.read_bytes() == before


def test_a_name_that_the_console_cannot_print_is_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "顔\udcff.png"
    summary = Summary("m", Counter(quarantined=1), problems=[f"{name}: broken"])
    monkeypatch.setattr("deid.batch.project.run_project", lambda *_: summary)
    console = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", console)
    monkeypatch.setattr("sys.argv", ["deid", "run", "in", "out"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    console.flush()
    assert ended.value.code == 1
    console.buffer.seek(0)
    assert rb"\u9854\udcff.png: broken" in console.buffer.read()


def test_options_become_one_settings_object(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[RunSettings, BatchSettings]] = []

    def fake(source: str, destination: str, asked: RunSettings, batch: BatchSettings, *_: object):  # type: ignore[no-untyped-def]
        seen.append((asked, batch))
        return Summary("m")

    monkeypatch.setattr("deid.batch.project.run_project", fake)
    words = "run in out --method blur --detector yunet --detector scrfd --recogniser foamliu"
    more = "--time-limit 2 --keep-metadata icc --dry-run --jobs 2 --audit a --prune --rendered"
    monkeypatch.setattr("sys.argv", ["deid", *words.split(), *more.split()])
    with pytest.raises(SystemExit):
        cli.main()
    asked = RunSettings(
        method="blur",
        detectors=("yunet", "scrfd"),
        recognizers=("foamliu",),
        seconds=2.0,
        keep_metadata=("icc",),
        dry_run=True,
        rendered=True,
    )
    assert seen == [(asked, BatchSettings(jobs=2, audit="a", prune=True))]


@pytest.mark.parametrize("option", ["--world", "--model"])
def test_a_parameters_file_and_what_names_another_model_are_not_given_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    said = deid(monkeypatch, capsys, "run", "in", "out", "--params", "p.yaml", option, "photo")
    assert said[0] == 1
    assert "each names a model; give one" in said[2]


def test_version_and_tracebacks_are_there_when_asked_for(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert deid(monkeypatch, capsys, "--version")[1] == f"deid {__version__}\n"
    _, _, said = deid(monkeypatch, capsys, "run", "nowhere", "out")
    assert len(said.splitlines()) == 1
    _, _, said = deid(monkeypatch, capsys, "--verbose", "run", "nowhere", "out")
    assert "Traceback" in said
    logging.getLogger("deid").setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "here: No space left on device; free space"),
        (errno.EACCES, "here: Permission denied; fix its permissions"),
        (errno.ECONNRESET, "here: Connection reset by peer"),
    ],
)
def test_an_error_of_the_system_gets_the_advice_that_suits_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, said: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), "here")

    monkeypatch.setattr("deid.batch.project.run_project", fail)
    assert deid(monkeypatch, capsys, "run", "in", "out")[2] == f"deid: {said}\n"


def test_the_help_waits_for_no_library() -> None:
    code = (
        "import sys, deid.cli.main;"
        "heavy = {'torch', 'cv2', 'PIL', 'numpy', 'pydantic', 'yaml', 'boto3'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_parent_of_a_run_waits_for_no_network_and_no_training() -> None:
    code = (
        "import sys, deid.batch.project, deid.registry.choice;"
        "heavy = {'torch', 'cv2', 'numpy', 'mlflow', 'great_expectations', 'skimage', 'matplotlib',"
        " 'pandas', 'scipy',"
        " 'lightning_fabric', 'deid.training.loop'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("module", "frozen"), [("triton", False), ("another", True)])
def test_the_end_of_a_command_searches_for_no_garbage_unless_triton_would_list_it(
    module: str, frozen: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_exit: list[Callable[[], None]] = []
    froze: list[bool] = []
    monkeypatch.setattr("atexit.register", at_exit.append)
    monkeypatch.setattr("gc.freeze", lambda: froze.append(True))
    assert deid(monkeypatch, capsys, "--version")[0] == 0
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setitem(sys.modules, module, ModuleType(module))
    for function in at_exit:
        function()
    assert bool(froze) == frozen


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e12", "-1"])
@pytest.mark.parametrize(
    "words",
    [
        "run in out --timeout",
        "run in out --engine ray --gpus",
        "serve --timeout",
        "serve --receive",
        "serve --reload",
        "serve --rate",
        "serve --port",
        "sample --engine ray --gpus",
    ],
)
def test_a_number_without_an_end_or_a_meaning_is_named(
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    value: str,
) -> None:
    flag = words.rpartition(" ")[2]
    code, _, said = deid(monkeypatch, capsys, *words.split(), value)
    assert code in (1, 2)  # the latter where the parser of options sees it
    assert flag in said
    assert "Traceback" not in said
    assert not (checkout / "out").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"jobs": 0}, "--jobs 0: must be more than 0"),
        ({"shard_size": 0}, "--shard-size 0: must be more than 0"),
        ({"shard_size": 10**19}, "--shard-size 10000000000000000000: must be at most 1000000"),
        ({"gpus": -0.5}, "--gpus -0.5: must not be less than 0"),
        ({"timeout": float("nan")}, "--timeout nan: must be more than 0"),
    ],
)
def test_so_is_one_that_comes_from_a_flow_or_from_python(
    settings: dict[str, float], said: str
) -> None:
    with pytest.raises(DeidError, match=f"^{said}"):
        BatchSettings(**settings)  # type: ignore[arg-type]
    assert BatchSettings(jobs=1, timeout=1_000_000, shard_size=1).gpus == 0


def test_a_port_is_one_that_there_is() -> None:
    from deid.serve.settings import ServeSettings

    for port in (-1, 65_536, 99_999):
        with pytest.raises(DeidError, match=f"^--port {port}: must "):
            ServeSettings(port=port)
    assert [ServeSettings(port=port).port for port in (0, 65_535)] == [0, 65_535]
