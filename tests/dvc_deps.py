"""The `deps` of each stage in dvc.yaml that are code, from the imports of the code itself.

    python -m tests.dvc_deps            prints them
    python -m tests.dvc_deps --write    puts them into dvc.yaml

A stage depends on its entry modules and all that they import, lazily too. What does not shape a
result is left out (`HARMLESS`). Worlds other than mini are loaded only where they are asked for;
their code is hashed with their files (see data/ffhq/dvc.yaml).
"""

import ast
import re
import sys
from pathlib import Path

from tests.test_layers import ROOT, graph, modules

ENTRIES = {
    "sample": ["deid.latents.sample"],
    "validate": ["deid.latents.validate"],
    "stage_one": ["deid.training.stage_one"],
    "stage_two": ["deid.training.stage_two"],
    "evaluate": ["deid.evaluate.run"],
    "register": ["deid.registry.registry", "deid.registry.model"],
}
HARMLESS = {
    "deid": "lazy names of the library",
    "deid.errors": "messages",
    "deid.progress": "bars",
    "deid.tracking": "copies of results in MLflow",
    "deid.storage.staging": "how files are written, not what",
    "deid.params": "checks values; DVC records those of params.yaml, which names every one",
    "deid.faces.detection.mtcnn": "a detector that mini does not have",
    "deid.faces.detection.scrfd": "the same",
    "deid.faces.detection.yunet": "the same",
    "deid.weights.store": "where files of other worlds and detectors lie",
    "deid.worlds.ffhq.world": "another world",
    "deid.worlds.photo.world": "another world",
}
FOREIGN = {
    # A registered version is made of files; the code that it runs is the installed package.
    "register": ("deid.batch", "deid.storage", "deid.worlds", "deid.gate", "deid.weights"),
}
EXTRA = {"evaluate": ["deid/evaluate/report.html"]}


def code_of(stage: str) -> list[str]:
    """Files that shape the result of `stage`, relative to the root, sorted."""
    imported, known = graph(), modules()
    seen: set[str] = set()
    waiting = list(ENTRIES[stage])
    while waiting:
        module = waiting.pop()
        if module in seen or module in HARMLESS or module.startswith(FOREIGN.get(stage, ("-",))):
            continue
        seen.add(module)
        parts = module.split(".")
        packages = {".".join(parts[:end]) for end in range(1, len(parts))}
        waiting += imported[module] | (packages & imported.keys())
    files = [known[m].relative_to(ROOT).as_posix() for m in seen if _does_anything(known[m])]
    return sorted(files + EXTRA.get(stage, []))


def declared(text: str, stage: str) -> list[str]:
    """The code among the `deps` of `stage` in the text of dvc.yaml."""
    return re.findall(r"^ +- (deid/\S+)$", _deps(text, stage), re.MULTILINE)


def written(text: str) -> str:
    """The text of dvc.yaml with the right code in every stage."""
    for stage in ENTRIES:
        block = _deps(text, stage)
        data = re.sub(r"^ +- deid/\S+\n", "", block, flags=re.MULTILINE)
        lines = "".join(f"      - {file}\n" for file in code_of(stage))
        text = text.replace(block, data.replace("    deps:\n", f"    deps:\n{lines}", 1), 1)
    return text


def _deps(text: str, stage: str) -> str:
    """The lines of dvc.yaml from the name of `stage` to the end of its `deps`."""
    found = re.search(
        rf"^  {stage}:\n(?:    .*\n)*?    deps:\n(?:      - .*\n)+", text, re.MULTILINE
    )
    assert found, f"dvc.yaml: stage {stage} has no deps"
    return found.group()


def _does_anything(file: Path) -> bool:
    """Whether a file holds more than a docstring."""
    body = ast.parse(file.read_text()).body
    return any(not isinstance(node, ast.Expr) for node in body)


def main() -> None:
    path = ROOT / "dvc.yaml"
    if "--write" in sys.argv[1:]:
        path.write_text(written(path.read_text()))
    else:
        print("\n".join(f"{stage}: {' '.join(code_of(stage))}" for stage in ENTRIES))


if __name__ == "__main__":
    main()
