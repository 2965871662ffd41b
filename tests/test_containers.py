"""The container recipes, as far as they can be held to the code without an engine."""

import re
import shlex
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from deid.cli.main import app
from deid.weights.store import STORE_VARIABLE
from tests.conftest import ROOT

RECIPE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", RECIPE, re.MULTILINE)


def understood(command: list[str]) -> None:
    """`deid COMMAND` is parsed: an option that does not exist is an error before `--help` acts."""
    group = command[: next(i for i, word in enumerate(command) if word.startswith("-"))]
    options = command[len(group) :]
    shown = CliRunner().invoke(app, [*group, "--help"], terminal_width=200)
    assert shown.exit_code == 0, shown.output
    for word in options:
        if word.startswith("-"):
            assert re.search(rf"{word}\b", shown.output), f"{word} of {command}"


def test_what_is_copied_is_there_and_all_that_the_package_is_built_of_is_copied() -> None:
    copied = [
        word for line in instructions("COPY") if "--from" not in line for word in line.split()[:-1]
    ]
    assert all((ROOT / word).exists() for word in copied)
    built = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    for part in [*built, PYPROJECT["project"]["readme"], "uv.lock", "pyproject.toml", "LICENSE"]:
        assert any(Path(part) == Path(c) or Path(c) in Path(part).parents for c in copied), part
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{Path(word)}" for word in copied} <= set(ignored)


def test_it_runs_as_nobody_with_the_variables_that_the_code_reads() -> None:
    assert instructions("USER") == ["10001"]
    assert f"{STORE_VARIABLE}=/weights" in instructions("ENV")[-1]
    assert "--extra serve" in instructions("RUN")[1]
    assert "serve" in PYPROJECT["project"]["optional-dependencies"]


def test_every_command_is_one_that_deid_knows() -> None:
    (command,) = instructions("CMD")[-1:]
    understood(yaml.safe_load(command))
    for line in re.findall(r"^#   docker run .* face-deid ?(.*)$", RECIPE, re.MULTILINE):
        if line:
            understood(shlex.split(line))
    for name in ("deid", "fetch"):
        understood(COMPOSE["services"][name]["command"])


def test_the_service_is_read_only_and_asks_for_tokens_and_ports_stay_on_this_machine() -> None:
    service = COMPOSE["services"]["deid"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "--tokens" in service["command"]
    assert f"/run/secrets/{service['secrets'][0]}" in service["command"]
    ports = [port for one in COMPOSE["services"].values() for port in one.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    used = {
        v.partition(":")[0] for one in COMPOSE["services"].values() for v in one.get("volumes", ())
    }
    assert used == set(COMPOSE["volumes"])


def test_prefect_is_the_one_of_the_lock() -> None:
    assert version("prefect") in COMPOSE["services"]["prefect"]["image"]


@pytest.mark.parametrize(
    "option", ["--host", "--workers", "--artifacts-destination", "--allowed-hosts"]
)
def test_mlflow_knows_its_options(option: str) -> None:
    from mlflow.cli import server

    assert option in COMPOSE["services"]["mlflow"]["command"]
    assert option in {name for parameter in server.params for name in parameter.opts}
