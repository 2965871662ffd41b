"""What the README shows can be typed: commands, options, targets, files and the Python example."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from deid import api, cli
from deid.api import Result
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
EXTERNAL = {"curl", "export", "mkdir", "mlflow", "pip", "prefect", "source"}
"""Commands of other projects."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def shell_commands() -> list[list[str]]:
    """Each command of the shell blocks and of `inline code` that begins with one of ours."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    text = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    lines += [span for span in spans if re.match(r"(deid|make|python -m|pip install) ", span)]
    parts = (part for line in lines for part in line.split("&&"))
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def check_ours(words: list[str]) -> None:
    """The subcommand exists and takes these options, as its parser says."""
    command: Any = typer.main.get_command(cli.app)
    words = words[1:]
    while isinstance(getattr(command, "commands", None), dict):
        assert words, f"{command.name} needs a subcommand"
        assert words[0] in command.commands, words
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word.split("=")[0] for word in words if word.startswith("-")} <= known, words


def test_every_command_can_be_typed() -> None:
    commands = shell_commands()
    assert len(commands) > 20
    commands = [words[1:] if re.match(r"[A-Z_]+=", words[0]) else words for words in commands]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands:
        if words[0] == "deid":
            check_ours(words)
        elif words[0] == "make":
            assert words[1] in targets, words
        elif words[0] == "cp":
            assert (ROOT / words[1]).is_file(), words
        elif words[:2] == ["python", "-m"]:
            assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file(), words
        elif words[0] == "dvc":
            assert words[1] == "repro", words
        else:
            assert words[0] in EXTERNAL, words


def test_older_spellings_still_work() -> None:
    check_ours(["deid", "run", "--recogniser"])
    check_ours(["deid", "weights", "fetch", "--accept-licence"])


def test_every_option_it_names_exists() -> None:
    text = "\n".join([README, *blocks("bash")])
    group: Any = typer.main.get_command(cli.app)
    asked_of = [group.commands[name] for name in ("run", "attack", "serve")]
    asked_of += group.commands["registry"].commands.values()
    known = {option for c in asked_of for parameter in c.params for option in parameter.opts}
    asked = {f"--{name}" for name in re.findall(r"`--([a-z-]+)", text)}
    assert asked
    assert asked <= known


def test_every_extra_it_names_exists() -> None:
    extras = set(re.findall(r"\.\[([a-z]+)\]", README))
    declared = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    assert extras == set(re.findall(r"^([a-z]+) = \[", declared.partition("\n[")[0], re.MULTILINE))


def test_every_file_it_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a sample of the mini world, whose networks are in git, in place of a photograph."""
    (example,) = blocks("python")
    sample = ROOT / "data/samples/pair.png"
    asked: dict[str, object] = {}
    genuine = api.deidentify

    def deidentify(picture: str, **options: object) -> Result:
        asked.update(options, picture=picture)
        return genuine(sample, method="blur", world="mini")

    monkeypatch.setattr(api, "deidentify", deidentify)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(example.replace("safe.jpg", "safe.png"), "README.md", "exec"), scope)
    assert (tmp_path / "safe.png").is_file()
    result = scope["result"]
    assert isinstance(result, Result)
    assert (result.verdict, len(result.faces)) == ("verified", 2)
    assert result.image.size
    assert asked == {"picture": "photo.jpg"}


def test_make_says_its_targets() -> None:
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("install", "setup", "repro", "test", "lint", "pretrain", "clean"):
        assert re.search(rf"^{target} ", said.stdout, re.MULTILINE), target
