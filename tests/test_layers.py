"""The architecture, read from the code itself: imports point downward only, and never in a circle.

Every import counts, also one inside a function or under TYPE_CHECKING.
"""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = [
    # From the ground up. Rooms on one line may not import each other.
    ["errors"],
    ["seeds", "progress", "params", "pixels", "pool", "option", "cluster", "secret"],
    ["nets"],
    ["storage"],
    ["tracking"],
    ["audit"],
    ["weights"],
    ["faces"],
    ["imaging"],
    ["worlds"],
    ["losses", "stage_files", "diversity"],
    ["model"],
    ["latents", "anonymize"],
    ["training", "gate"],
    ["batch", "study"],
    ["evaluate"],
    ["attack"],
    ["registry"],
    ["serve"],
    ["api"],
    ["cli", "flows"],
]
"""The rooms of DESIGN.md; `pixels` and `tracking` lie lower, since what stands on them does."""

INSIDE = {
    # Rooms within a room, from the ground up.
    "deid.worlds": [
        "cards",
        "training_loop",
        "donors",
        "head_turns",
        "looks_shifts",
        "world",
        "public",
        "mini",
        "ffhq",
        "photo",
        "__init__",
    ],
    "deid.worlds.mini": [
        "render",
        "networks",
        "generator",
        "cards",
        "test_faces",
        "world",
        "pretrain",
    ],
}


@cache
def modules() -> dict[str, Path]:
    """Dotted name → file, of everything under deid/ and flows/."""
    found = {}
    for package in ("deid", "flows"):
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(file: Path, known: dict[str, Path]) -> set[str]:
    """The modules of ours that a file names in any import."""
    wanted = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
            wanted |= {name if name in known else module for name in names}
        elif isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
    return wanted & known.keys()


@cache
def graph() -> dict[str, set[str]]:
    """Module → modules it imports."""
    known = modules()
    return {name: imports(file, known) - {name} for name, file in known.items()}


def room(module: str) -> str:
    """The room that a module lies in: `deid.gate.face` is in `gate`."""
    parts = module.split(".")
    return "flows" if parts[0] == "flows" else (parts[1] if len(parts) > 1 else "deid")


def test_every_module_lies_in_a_room() -> None:
    rooms = {name for layer in LAYERS for name in layer}
    assert {room(module) for module in modules()} - {"deid"} == rooms


def test_imports_point_downward_only() -> None:
    height = {name: level for level, layer in enumerate(LAYERS) for name in layer}
    upward = [
        f"{module} imports {target}"
        for module, targets in graph().items()
        for target in sorted(targets)
        if "deid" not in (room(module), room(target)) and room(module) != room(target)
        if height[room(target)] >= height[room(module)]
    ]
    assert not upward


@pytest.mark.parametrize("package", sorted(INSIDE))
def test_imports_point_downward_inside_a_room(package: str) -> None:
    order = {name: level for level, name in enumerate(INSIDE[package])}

    def part(module: str) -> str | None:
        if module != package and not module.startswith(f"{package}."):
            return None
        return module.removeprefix(package).strip(".").split(".")[0] or "__init__"

    upward = [
        f"{module} imports {target}"
        for module, targets in graph().items()
        for target in sorted(targets)
        if (mine := part(module)) and (theirs := part(target)) and mine != theirs
        if order[theirs] >= order[mine] and theirs != "__init__"
    ]
    assert not upward


def test_there_is_no_circle_of_imports() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
