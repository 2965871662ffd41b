"""A function fits on a screen, a file in the head; one that does not says why: `# long: ...`."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

FUNCTION, FILE = 40, 300
REASON = "# long: "


def sources() -> Iterator[tuple[Path, list[str]]]:
    """Each file of the package and the flows, with its lines."""
    for folder in ("deid", "flows"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file.relative_to(ROOT), file.read_text().splitlines()


def functions(lines: list[str]) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """Each function, with the text of its signature."""
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, "\n".join(lines[node.lineno - 1 : node.body[0].lineno - 1])


def test_no_function_is_longer_than_a_screen_without_a_reason() -> None:
    long = [
        f"{file}:{node.lineno} {node.name} has {length} lines"
        for file, lines in sources()
        for node, signature in functions(lines)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION
        if REASON not in signature
    ]
    assert not long, "\n".join(long)


def test_no_file_is_longer_than_three_hundred_lines_without_a_reason() -> None:
    long = [
        f"{file} has {len(lines)} lines"
        for file, lines in sources()
        if len(lines) > FILE
        if not any(line.startswith(REASON) for line in lines[:20])
    ]
    assert not long, "\n".join(long)
