"""What the code imports is what `pyproject.toml` declares, and pictures need no extra."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions

from tests.conftest import ROOT

EXTRA_ROOMS = {
    "flows",
    "deid/attack",
    "deid/latents",
    "deid/training",
    "deid/evaluate",
    "deid/registry",
    "deid/serve",
}
"""Rooms that no `deid run` enters: only they may import an extra as they are loaded."""

FETCHED_BY_OTHERS = {
    "google": "protobuf, by onnx",
    "botocore": "by boto3",
    "mypy_boto3_s3": "types only",
}
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    """Normalized names of distributions."""
    found = (re.match(r"[\w.-]+", text) for text in requirements)
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


CORE = names(DECLARED["dependencies"])
EXTRAS = names([r for extra in DECLARED["optional-dependencies"].values() for r in extra])


@cache
def distributions() -> dict[str, list[str]]:
    return {module: list(known) for module, known in packages_distributions().items()}


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of the outside modules that any import beneath `tree` names."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            modules.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
    return modules - sys.stdlib_module_names - {"deid", "flows"} - set(FETCHED_BY_OTHERS)


def owners(module: str) -> set[str]:
    """The distributions that bring a module."""
    return names(distributions().get(module, [module]))


def test_every_import_is_a_declared_dependency() -> None:
    undeclared = {
        f"{file.relative_to(ROOT)} imports {module}"
        for folder in ("deid", "flows")
        for file in (ROOT / folder).rglob("*.py")
        for module in imported(ast.parse(file.read_text()))
        if not owners(module) & (CORE | EXTRAS)
    }
    assert not undeclared


def test_every_declared_dependency_is_imported() -> None:
    """Or is a command of the pipeline, or only bounds a version."""
    used = set[str]()
    for folder in ("deid", "flows"):
        for file in (ROOT / folder).rglob("*.py"):
            used |= {o for module in imported(ast.parse(file.read_text())) for o in owners(module)}
    assert CORE - used == set()
    not_by_name = {"dvc", "dvc-s3", "python-multipart", "pyarrow"}  # DVC, Starlette, Ray take them
    assert EXTRAS - used == not_by_name


def test_pictures_need_no_extra() -> None:
    """What is imported when a module is loaded; inside a function an extra may be missing."""
    needed = {
        f"{name} imports {module}"
        for file in (ROOT / "deid").rglob("*.py")
        if not (name := file.relative_to(ROOT).as_posix()).startswith(tuple(EXTRA_ROOMS))
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in imported(node)
        if not owners(module) & CORE
    }
    assert not needed
