"""What ONNX Runtime gains over torch: each network of figure 1, one face, one thread, in turn.

    python -m benchmarks.exported                 # the worlds mini and photo
    python -m benchmarks.exported --world mini

Processor time, which other work on the machine disturbs least. Mini's M and M_adv are untrained:
their numbers do not matter here. A swap is both encoders, M and G.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from deid.batch.project import bundle_at, find_root
from deid.model import Deidentifier
from deid.params import StageOneParams, StageTwoParams
from deid.registry.export import to_onnx
from deid.registry.networks import networks_of
from deid.seeds import torch_generator
from deid.weights.onnx_session import open_session
from deid.worlds import load_world

SWAP = ("identity", "expression", "mapping", "generator")


def model_of(name: str) -> Deidentifier:
    """What ships, or untrained."""
    bundle = bundle_at(find_root(), name)
    world = load_world(bundle.world)
    if bundle.stage_one.is_dir():
        return Deidentifier.load(bundle.stage_one, bundle.stage_two, world)
    w = world.generator.w_mean
    model = Deidentifier(world, StageOneParams().mapping_widths, w, torch.ones_like(w))
    model.attach(StageTwoParams().adversarial_widths, StageTwoParams().delta)
    return model.requires_grad_(False)


@torch.no_grad()
def compare(name: str, count: int) -> None:
    """Print milliseconds and ratios of one world."""
    model = model_of(name)
    world = model.world
    z = torch.randn(1, world.generator.z_dim, generator=torch_generator("benchmark"))
    w = world.truncated_mapping(z)
    faces = world.draw(w).clamp(-1.0, 1.0)
    values = {"w": w, "faces": faces, "identity": world.identity(faces)}
    values["expression"] = model.expression(faces)
    whole = [0.0, 0.0]
    for network in networks_of(model, 1.0):
        inputs = [values[name] for name in network.inputs]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "network.onnx"
            to_onnx(network, tuple(inputs), file)
            session = open_session(file)
        given = dict(zip(network.inputs, [value.numpy() for value in inputs], strict=True))

        def by_torch(network=network, inputs=inputs) -> object:  # type: ignore[no-untyped-def]
            return network.compute(*inputs)

        def by_onnx(session=session, given=given) -> object:  # type: ignore[no-untyped-def]
            return session.run(None, given)

        times = medians((by_torch, by_onnx), count)
        report(f"{name}: {network.name}", times)
        if network.name in SWAP:
            whole = [total + time for total, time in zip(whole, times, strict=True)]
    report(f"{name}: a swap", whole)


def medians(works: tuple[Callable[[], object], ...], count: int) -> list[float]:
    """Milliseconds of each, done in turn."""
    times: list[list[float]] = [[] for _ in works]
    for number in range(count + 2):
        for work, taken in zip(works, times, strict=True):
            began = time.process_time()
            work()
            if number >= 2:
                taken.append(1000 * (time.process_time() - began))
    return [statistics.median(taken) for taken in times]


def report(what: str, times: list[float]) -> None:
    by_torch, by_onnx = times
    print(
        f"{what:30} torch {by_torch:7.2f} ms, ONNX Runtime {by_onnx:7.2f}: {by_torch / by_onnx:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=("mini", "photo"))
    parser.add_argument("--count", type=int, default=15)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in (asked.world,) if asked.world else ("mini", "photo"):
        compare(name, asked.count)


if __name__ == "__main__":
    main()
