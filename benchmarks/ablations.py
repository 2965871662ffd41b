"""What each loss and device of the two stages is for: trained without it, from the same pairs.

    python -m benchmarks.ablations OUT [--steps 300 120] [--only "no L_id" ...]

In the world mini, with the settings of profiles/mini.yaml but for fewer pairs and steps. Every
ablation starts from the same weights and sees the same batches; those of stage two stand on one
stage one, that of the row `all`. OUT/ablations.json has a row each (none is trained twice, a killed
one resumes), OUT/ablations.md the tables.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from deid.anonymize import ModelPaths
from deid.evaluate.cells import Bench as CellBench
from deid.evaluate.cells import measure, produce
from deid.evaluate.faces import HeldOut, held_out_faces
from deid.latents.sample import sample
from deid.params import EvaluateParams, Params, SampleParams, load_params
from deid.storage.staging import resumable_directory, write_atomically
from deid.training.checkpoint import remove_checkpoint
from deid.training.loop import Stage, train
from deid.training.stage_one import StageOne
from deid.training.stage_two import StageTwo
from deid.worlds import load_world
from deid.worlds.world import World

PARAMS = Path("profiles/mini.yaml")
PAIRS, FACES = 4_000, EvaluateParams(identities=60, views=2, batch_size=20)
ALL = "all"
NEVER = 1_000_000  # steps
SMALL = {"threads": 1, "checkpoint_every": 50}

Changes = Mapping[str, float]
ABLATIONS: Mapping[str, Mapping[str, Changes]] = {
    "one": {
        ALL: {},
        "no adversarial loss (3)": {"learning_rate_adversarial": 1e-12},  # a rate is above 0
        "no L_id (5)": {"lambda_id": 0.0},
        "no L_landmark (6)": {"lambda_landmark": 0.0},
        "no L_reconstruct (7)": {"lambda_reconstruct": 0.0},
        "same-face steps only": {"same_face_every": 1},
        "cross-face steps only": {"same_face_every": NEVER},
        "half of the steps a warm start": {"warm_steps": 0.5, "mapping_steps": 0.25},  # shares
        "no expression term": {"lambda_expression": 0.0},
        "no R1 in (2)": {"r1_gamma": 0.0},
        "no MS-SSIM in (8)": {"alpha": 0.0},
        "no L1 in (8)": {"alpha": 1.0},
    },
    "two": {
        ALL: {},
        "no L_id^visual (11)": {"lambda_visual": 0.0},
        "no clip (10)": {"delta": 100.0},
        "no perceptual term": {"lambda_perceptual": 0.0},
        "neither of both terms": {"lambda_visual": 0.0, "lambda_perceptual": 0.0},
        "none of the three": {"lambda_visual": 0.0, "lambda_perceptual": 0.0, "delta": 100.0},
    },
}
"""Stage → what is left out → settings in place of the profile's."""

MEASURED = {"one": {"swap": "table2", "reconstruction": "table3"}, "two": {"adversarial": "table3"}}
"""Stage → its methods, and the table whose figures they get."""

COLUMNS = {
    "one": {
        "swap: donor’s likeness ↑": "swap.source_id_similarity",
        "original’s likeness ↓": "swap.id_similarity",
        "expression off ↓": "swap.target_expression_loss",
        "FID ↓": "swap.fid",
        "reconstruction: likeness ↑": "reconstruction.id_similarity",
        "LPIPS ↓": "reconstruction.lpips",
        "expression off  ↓": "reconstruction.expression_loss",
        "FID  ↓": "reconstruction.fid",
    },
    "two": {
        "likeness ↓": "adversarial.id_similarity",
        "re-identified ↓": "adversarial.reidentification",
        "En_id, attacked ↓": "adversarial.id_similarity_attacked",
        "faces found ↑": "adversarial.detect_rate",
        "LPIPS ↓": "adversarial.lpips",
        "expression off ↓": "adversarial.expression_loss",
        "FID ↓": "adversarial.fid",
    },
}
Rows = dict[str, dict[str, dict[str, float]]]  # stage → ablation → figure


@dataclass(frozen=True)
class Bench:
    """What all ablations have in common."""

    out: Path
    params: Params
    world: World
    faces: HeldOut

    @property
    def pairs(self) -> Path:
        return self.out / "pairs"

    def folder(self, stage: str, name: str) -> Path:
        """Where the stage `name` of `stage` lies."""
        return self.out / f"stage {stage}, {name.replace('/', ' ')}"

    def train(self, stage: str, name: str, steps: int) -> None:
        """Train it, unless it is there."""
        folder = self.folder(stage, name)
        if folder.exists():
            return
        trained = self._stage_one(name, steps) if stage == "one" else self._stage_two(name, steps)
        with resumable_directory(folder, trained.recipe()) as working:
            train(trained, working)
            trained.save(working, {})
            remove_checkpoint(working)

    def _stage_one(self, name: str, steps: int) -> Stage:
        changes = dict(ABLATIONS["one"][name])
        for key in ("warm_steps", "mapping_steps"):
            changes[key] = round(changes.get(key, 0.0) * steps)
        params = self.params.stage_one.model_copy(update={**SMALL, "steps": steps, **changes})
        return StageOne(params, self.world, self.pairs)

    def _stage_two(self, name: str, steps: int) -> Stage:
        update = {**SMALL, "steps": steps, **ABLATIONS["two"][name]}
        params = self.params.stage_two.model_copy(update=update)
        return StageTwo(params, self.world, self.pairs, self.folder("one", ALL))

    def figures(self, stage: str, name: str) -> dict[str, float]:
        """What its methods earn."""
        folder = self.folder(stage, name)
        both = (folder, None) if stage == "one" else (self.folder("one", ALL), folder)
        cells = CellBench(self.world, ModelPaths(*both), self.params.anonymize, FACES.batch_size)
        found = {}
        for method, table in MEASURED[stage].items():
            output = produce(cells, method, self.faces)
            cell = measure(cells, table, self.faces, output)
            found |= {f"{method}.{key}": value for key, value in cell.figures.items()}
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, nargs=2, default=(300, 120), help="of each stage")
    parser.add_argument("--only", nargs="+", default=[], help="these rows, beside `all`")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    params = load_params(PARAMS)
    world = load_world(params.world)
    bench = Bench(asked.out, params, world, held_out_faces(world, FACES, 0))
    if not bench.pairs.exists():
        sample(SampleParams(count=PAIRS, shard_size=500, workers=1), params.world, bench.pairs)
    file = asked.out / "ablations.json"
    rows: Rows = json.loads(file.read_bytes()) if file.exists() else {}
    for (stage, ablations), steps in zip(ABLATIONS.items(), asked.steps, strict=True):
        done = rows.setdefault(stage, {})
        for name in ablations:
            if name in done or (asked.only and name not in (ALL, *asked.only)):
                continue
            bench.train(stage, name, steps)
            done[name] = bench.figures(stage, name)
            write_atomically(file, json.dumps(rows, indent=1).encode())
            write_atomically(asked.out / "ablations.md", tables(rows).encode())
            print(stage, name, done[name], flush=True)


def tables(rows: Rows) -> str:
    """A table a stage, in Markdown."""
    lines = []
    for stage, done in rows.items():
        columns = COLUMNS[stage]
        lines += [f"| stage {stage} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for name in (name for name in ABLATIONS[stage] if name in done):
            values = " | ".join(f"{done[name][key]:.3f}" for key in columns.values())
            lines.append(f"| {name} | {values} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
