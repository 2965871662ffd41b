"""Several processes train one model, each on its share of every batch.

All begin with the same weights and apply the same mean gradients, so they stay equal without ever
sending a weight. Gradients are averaged by hand rather than by torch's DistributedDataParallel: a
step has several updates of different networks, through methods of their own and frozen networks,
which that wrapper does not see; a mean over an optimizer's parameters has no such conditions.
"""

import os
import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from deid.errors import DeidError
from deid.params import SpreadParams, StageOneParams, StageTwoParams
from deid.pool import keep_memory

Array = TypeVar("Array", torch.Tensor, NDArray[Any])


def start_fabric(params: StageOneParams | StageTwoParams) -> Fabric:
    """The device to train on; with `devices` > 1 also the other processes.

    Those run this process's own command again from its beginning (Lightning's launcher) and meet it
    here, so nothing that only one may do comes before. Under torchrun they run already. The result
    depends on the number of threads, hence it is a parameter. `DeidError` where torchrun started
    another number of processes than `devices`.
    """
    devices = processes_for(params)
    if _under_torchrun() or int(os.environ.get("LOCAL_RANK", 0)) > 0:
        _end_with_parent()
    fabric = Fabric(
        # Only GPUs of CUDA and processors can work together.
        accelerator="cpu" if devices > 1 and not torch.cuda.is_available() else "auto",
        devices=devices,
        strategy=params.strategy,
        precision=params.precision,
    )
    with peers(fabric):
        fabric.launch()
    torch.set_num_threads(params.threads)  # after the launch, which sets it too
    keep_memory()
    return fabric


def processes_for(params: SpreadParams) -> int:
    """How many processes: as many as asked for, or fewer on a machine that has fewer GPUs, or
    without any fewer processors, so that each still has an equal share."""
    if _under_torchrun():
        started = int(os.environ["WORLD_SIZE"])
        if started != params.devices:
            raise DeidError(
                f"torchrun started {started} processes, but devices is {params.devices} in "
                "params.yaml; make them equal"
            )
        return started
    there = torch.cuda.device_count() if torch.cuda.is_available() else os.cpu_count() or 1
    return max(n for n in range(1, params.devices + 1) if n <= there and params.devices % n == 0)


def _under_torchrun() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, even while it waits for a peer."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch parent").start()


@contextmanager
def peers(fabric: Fabric) -> Iterator[None]:
    """Around every exchange with the other processes: one that is gone becomes a `DeidError`."""
    try:
        yield
    except RuntimeError as error:  # what torch.distributed raises, and no more exact
        if fabric.world_size == 1:
            raise
        reason = str(error).splitlines()[0]
        raise DeidError(
            f"process {fabric.global_rank}: another process of this training ended ({reason}); "
            "fix what it said, then run the same command again to resume"
        ) from error


def barrier(fabric: Fabric) -> None:
    """Wait until every process is here."""
    with peers(fabric):
        fabric.barrier()


def local_slice(rows: Array, fabric: Fabric) -> Array:
    """This process's part of a whole batch: an equal slice of the last axis of `rows`."""
    length = rows.shape[-1] // fabric.world_size
    start = fabric.global_rank * length
    part: Array = rows[..., start : start + length]
    return part


def take_step(fabric: Fabric, optimizer: Any) -> None:
    """Step `optimizer` with the mean over all processes of its parameters' gradients."""
    if fabric.world_size > 1:
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        parts = torch.split(_reduced(fabric, flat, "mean"), [g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))
    optimizer.step()


def mean_losses(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each loss over micro-batches of one size, all with the same losses."""
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


def global_losses(fabric: Fabric, losses: Mapping[str, float]) -> dict[str, float]:
    """The mean of each loss over all processes, the same in each of them."""
    if fabric.world_size == 1:
        return dict(losses)
    values = torch.tensor(list(losses.values()), dtype=torch.float64, device=fabric.device)
    means = _reduced(fabric, values, "mean").tolist()
    return dict(zip(losses, means, strict=True))


def gathered(fabric: Fabric, rows: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, as many of each, in the order of the processes."""
    if fabric.world_size == 1:
        return rows
    whole = rows.new_zeros(fabric.world_size, *rows.shape)
    whole[fabric.global_rank] = rows
    return _reduced(fabric, whole, "sum").flatten(0, 1)


def peak_memory(device: torch.device) -> float:
    """The most memory this process has held so far, MiB: the GPU's where it trains on one.

    Without a GPU it is the resident set, which includes pages of the mapped pairs that were read.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def most_memory(fabric: Fabric) -> float:
    """`peak_memory` of the process with the highest."""
    peak = torch.tensor(peak_memory(fabric.device), device=fabric.device)
    return float(_reduced(fabric, peak, "max"))


def _reduced(fabric: Fabric, values: torch.Tensor, how: str) -> torch.Tensor:
    with peers(fabric):
        return cast(torch.Tensor, fabric.all_reduce(values, reduce_op=how))
