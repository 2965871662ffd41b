"""The `deps` of each stage in dvc.yaml that are code, from the imports of the code itself.

    python -m tests.dvc_deps            prints them
    python -m tests.dvc_deps --write    puts them into dvc.yaml

A stage depends on its entry modules and all that they import, lazily too. What does not shape a
result is left out (`HARMLESS`). Worlds other than mini are loaded only where they are asked for:
`deid weights lock` writes a hash of their code beside those of their files (data/photo/dvc.yaml,
data/ffhq/dvc.yaml), and every stage depends on that file.
"""

import ast
import re
import sys
from collections.abc import Iterable, Set
from pathlib import Path

from tests.test_layers import ROOT, graph, modules

ENTRIES = {
    "sample": ["deid.latents.sample"],
    "validate": ["deid.latents.validate"],
    "stage_one": ["deid.training.stage_one"],
    "stage_two": ["deid.training.stage_two"],
    "evaluate": ["deid.evaluate.run"],
    "attack": ["deid.attack.stage"],
    "report": ["deid.evaluate.report"],
    "register": ["deid.registry.register", "deid.registry.model"],
}
HARMLESS = {
    "deid": "lazy names of the library",
    "deid.errors": "messages",
    "deid.progress": "bars",
    "deid.tracking": "copies of results in MLflow",
    "deid.tracking.lineage": "the same",
    "deid.tracking.run": "the same",
    "deid.tracking.store": "the same",
    "deid.storage.staging": "how files are written, not what",
    "deid.params": "checks values; DVC records those of params.yaml, which names every one",
    "deid.faces.detection.mtcnn": "a detector that mini does not have",
    "deid.faces.detection.scrfd": "the same",
    "deid.faces.detection.yunet": "the same",
    "deid.weights.store": "where files of other worlds and detectors lie",
    "deid.worlds.ffhq.world": "another world",
    "deid.worlds.photo.world": "another world",
}
READERS_AND_TERMS = {
    "deid.faces.detection.scrfd": "no world's detector",
    "deid.faces.detection.yunet": "the same",
    "deid.weights.allowed": "which pickles are refused",
    "deid.weights.archives": "which archives are refused",
    "deid.weights.cards": "which files are refused",
    "deid.weights.catalog": "which files a world takes: the lock names them",
    "deid.weights.entry": "the same",
    "deid.weights.files": "which files are refused",
    "deid.weights.onnx_session": "detectors that no world has",
    "deid.weights.pickles": "which pickles are refused",
    "deid.weights.store": "where files lie",
}
"""Beneath public worlds, what does not shape a result either."""
FOREIGN = {
    # How pictures and records are kept, of which the attack sees the pictures only.
    # A registered version is made of files; the code that it runs is the installed package.
    "attack": ("deid.audit", "deid.storage"),
    "register": ("deid.batch", "deid.storage", "deid.worlds", "deid.gate", "deid.weights"),
}
EXTRA = {
    "validate": ["deid/latents/validation.css", "deid/latents/validation.html"],
    "attack": ["deid/attack/report.html"],
    "report": ["deid/evaluate/report.html"],
}


def code_of(stage: str) -> list[str]:
    """Files that shape the result of `stage`, relative to the root, sorted."""
    known, left_out = modules(), set(HARMLESS)
    left_out |= {m for m in known if m.startswith(FOREIGN.get(stage, ("-",)))}
    files = [_relative(known[m]) for m in reached(ENTRIES[stage], left_out)]
    return sorted(files + EXTRA.get(stage, []))


def reached(entries: Iterable[str], left_out: Set[str]) -> set[str]:
    """Modules that do anything, of `entries` and all that they import, but for `left_out`."""
    imported, known = graph(), modules()
    seen: set[str] = set()
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        if module in seen or module in left_out:
            continue
        seen.add(module)
        parts = module.split(".")
        packages = {".".join(parts[:end]) for end in range(1, len(parts))}
        waiting += imported[module] | (packages & imported.keys())
    return {module for module in seen if _does_anything(known[module])}


def code_of_public_worlds() -> list[str]:
    """Files that shape what the other worlds compute, relative to the root, sorted."""
    worlds = [f"deid.worlds.{name}.world" for name in ("ffhq", "photo")]
    shaping = {*worlds, "deid.faces.detection.mtcnn"}
    left_out = (HARMLESS.keys() - shaping) | READERS_AND_TERMS.keys()
    known = modules()
    return sorted(_relative(known[module]) for module in reached(worlds, left_out))


def _relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


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
