"""What `swap` leaves of people whom the generator draws, of seeds that nothing else uses.

    python -m benchmarks.generated OUT [--count 1000] [--judge FILE …] [--detector SPEC …]

OUT, a folder outside of the repository, keeps a small file for each `CHUNK` people (what judges and
detectors say, no picture): ended early, the same command goes on where it was, and `--count 0`
reads what is there. One view a person, 256 px; outputs as they are drawn, and pasted, before the
gate, and of both the new face alone, the rest gray. Judges are the photo world's held-out
recognizers and the files of `--judge`; none had part in training. Detectors look once, at 320 px.
The figures are those of `benchmarks.photographs`; so are the intervals.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from benchmarks.photographs import RATE, STATES, each, interval, loaded, recognizer
from deid.anonymize import Anonymizer
from deid.attack.learned import learned_scores
from deid.attack.scores import Searched, hits, without_own
from deid.faces.detection import build_detector
from deid.faces.faces import FaceDetector
from deid.gate.calibration import pair_similarities
from deid.pixels import to_pixels, to_tensor
from deid.storage.staging import write_atomically
from deid.worlds.world import FaceEmbedder, World

CHUNK, FIRST = 10, 1_000_000
"""People in a file, and the number of the first one's seed; tests and tables count from 0."""
SHOWN = ("made", "pasted")
DETECT_SIZE = 320
"""One pass, which finds fewer faces than the many of `deid run`, in a fraction of their time."""


def main() -> None:
    """Print the figures, one a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--judge", type=Path, action="append", default=[])
    parser.add_argument("--detector", action="append", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    missing = [
        chunk for chunk in range(-(-args.count // CHUNK)) if not file_of(args.out, chunk).exists()
    ]
    if missing:
        world, build = loaded()
        judges = dict(world.held_out) | {file.stem: recognizer(file) for file in args.judge}
        detectors = {"mtcnn": build_detector(None, world, DETECT_SIZE)} | {
            spec.split("=")[0]: build_detector([spec], world, DETECT_SIZE) for spec in args.detector
        }
        swap = build("swap")
        for chunk in missing:
            rows = measured(world, swap, judges, detectors, chunk)
            write_atomically(file_of(args.out, chunk), save(rows))
            print(f"{CHUNK * (chunk + 1)} people, {os.times().user:.0f} s", flush=True)
    for name, value in figures(args.out).items():
        print(f"{name:34}" + "  ".join(f"{part:.4f}" for part in np.atleast_1d(value)))


def file_of(folder: Path, chunk: int) -> Path:
    """Where a chunk's answers are kept."""
    return folder / f"{chunk:05d}.safetensors"


def measured(
    world: World,
    swap: Anonymizer,
    judges: Mapping[str, FaceEmbedder],
    detectors: Mapping[str, FaceDetector],
    chunk: int,
) -> dict[str, NDArray[Any]]:
    """The judges' vectors `[CHUNK,dim]` of originals and outputs, and in which outputs each
    detector finds a face."""
    seed = FIRST + chunk
    faces = to_tensor(world.test_faces(CHUNK, 1, seed).pixels)
    seeds = range(CHUNK * seed, CHUNK * (seed + 1))
    made = torch.cat([swap(faces[i : i + 1], [number]) for i, number in enumerate(seeds)])
    before = each(world.landmarks, faces)
    pictures = {"original": faces}
    for state in SHOWN:
        pictures[state], new, _ = STATES[state](world, faces, made, before)
        pictures[f"{state} alone"] = pictures[state] * new
    rows: dict[str, NDArray[Any]] = {
        f"{state}, {name}": each(judge, shown).astype(np.float32)
        for state, shown in pictures.items()
        for name, judge in judges.items()
    }
    for state in SHOWN:
        pixels = list(to_pixels(pictures[state]))
        for name, detector in detectors.items():
            seen = [len(found) > 0 for found in detector.detect(pixels)]
            rows[f"found, {state}, {name} at {DETECT_SIZE} px"] = np.array(seen)
    return rows


def figures(folder: Path) -> dict[str, Any]:
    """Matched, rank-1 and found, of all people that were measured so far."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise SystemExit(f"{folder}: nothing measured yet; give --count")
    chunks = [load_file(file) for file in files]
    if any(chunk.keys() != chunks[0].keys() for chunk in chunks):
        raise SystemExit(f"{folder}: measured with different judges or detectors; take another one")
    rows = {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}
    people = len(files) * CHUNK
    shown: dict[str, Any] = {"people": people}
    for key, values in rows.items():
        state, _, name = key.partition(", ")
        if state == "found":
            shown[key] = interval(values.astype(np.float64), np.mean)
        elif state != "original":
            shown |= _identity(rows[f"original, {name}"], values, f"{state}, {name}")
    return shown


def _identity(originals: NDArray[Any], seen: NDArray[Any], name: str) -> dict[str, Any]:
    people = np.arange(len(originals))
    _, strangers = pair_similarities(originals, people)
    threshold = float(np.quantile(strangers, 1 - RATE))
    matched = (originals * seen).sum(1) > threshold
    nearest = (seen @ originals.T).argmax(1) == people
    shown = {
        f"matched, {name}": interval(matched.astype(np.float64), np.mean),
        f"rank-1, {name}": interval(nearest.astype(np.float64), np.mean),
    }
    wide = seen.astype(np.float64)
    learned = learned_scores(wide, originals.astype(np.float64), wide, people)
    if learned is None:
        return shown
    found = hits(Searched(learned, without_own(learned, people), people))
    assert found is not None, "everybody is in the gallery"
    return shown | {
        f"matched, {name}, learned": interval(found.values["tar"], np.mean),
        f"rank-1, {name}, learned": interval(found.values["rank1"], np.mean),
    }


if __name__ == "__main__":
    main()
