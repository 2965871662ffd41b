"""The command line answers what a person mistypes or breaks in one line, and leaves nothing."""

import shutil
from pathlib import Path

import pytest

from deid import cli
from deid.params import load_params
from tests.conftest import ROOT

SAMPLE = ROOT / "data/samples/pair.png"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's params and weights and nothing else, as current directory."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "data/mini").mkdir(parents=True)
    shutil.copytree(ROOT / "data/mini/weights", tmp_path / "data/mini/weights")
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


def test_the_committed_params_are_the_defaults() -> None:
    from deid.params import Params

    assert load_params(ROOT / "params.yaml") == Params()


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
    for stage in ("validate", "stage-one", "stage-two", "evaluate", "register"):
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


def test_a_picture_that_takes_longer_than_its_time_limit_is_withheld(
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
