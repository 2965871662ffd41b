"""What a run came from: `dvc repro`, code, data, machine; and runs whose process is gone."""

import json
import os
import platform
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from deid.errors import DeidError
from deid.params import load_params
from deid.storage.staging import file_sha256, files_sha256
from deid.tracking.store import experiment_id

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

PARENT = "mlflow.parentRunId"
PIPELINE = "pipeline"
"""The tag of a parent run: which `dvc repro` it is."""
PROCESS = "process"
"""The tag of every run: host, number and start of the process that it stands for."""
REPRO = "dvc repro"


def git_commit() -> str | None:
    """The checked-out commit, with `-dirty` where tracked files differ; None outside a checkout."""
    try:
        commit, changed = (
            subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + ("-dirty" if changed.strip() else "")


def circumstances() -> dict[str, str]:
    """Tags of a run that starts now in this process: code, pipeline, world, machine."""
    import psutil

    tags = {PROCESS: _named(psutil.Process()), "machine": _machine()}
    if commit := git_commit():
        tags["mlflow.source.git.commit"] = commit
    if (lock := Path("dvc.lock")).is_file():
        tags["dvc_lock_sha256"] = file_sha256(lock)
    return tags | _world()


def usage(begun: float) -> dict[str, float]:
    """Seconds since `begun` (monotonic) and the most memory that this process and each of its
    children held, in MiB; of a GPU, too."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    own, children = (
        resource.getrusage(who).ru_maxrss / unit
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    figures = {"system/seconds": time.monotonic() - begun, "system/peak_memory_mib": own}
    if children:
        figures["system/peak_memory_of_a_child_mib"] = children
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        figures["system/peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return figures


def enter_pipeline(client: "MlflowClient") -> str | None:
    """The run of the `dvc repro` that this process is a stage of, opened; None outside of one."""
    process = _dvc_process()
    if process is None:
        return None
    name, experiment = _named(process), experiment_id(client)
    for run in client.search_runs([experiment], f"tags.{PIPELINE} = '{name}'", max_results=1):
        client.update_run(run.info.run_id, status="RUNNING")
        return str(run.info.run_id)
    tags = circumstances() | {PIPELINE: name, PROCESS: name}
    made = client.create_run(experiment, tags=tags, run_name=REPRO)
    if (params := Path("params.yaml")).is_file():
        client.log_artifact(made.info.run_id, str(params))
    return str(made.info.run_id)


def sweep(client: "MlflowClient") -> None:
    """Close the runs whose process on this machine is gone: their stage was killed. One that goes
    on later opens its run again."""
    running = client.search_runs([experiment_id(client)], "attributes.status = 'RUNNING'")
    for run in running:
        if _is_gone(run.data.tags.get(PROCESS, "")):
            client.set_terminated(run.info.run_id, "KILLED")


def log_inputs(client: "MlflowClient", run_id: str, stage: str) -> None:
    """The data that `stage` reads, with the digests that DVC has for them; outside of `dvc repro`,
    which sees that they are those of dvc.lock, none."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if "DVC_STAGE" not in os.environ:
        return
    found = [
        DatasetInput(
            Dataset(
                name=path,
                digest=str(out["md5"])[:36],
                source_type="dvc",
                source=json.dumps({"uri": path, "md5": out["md5"]}),
                profile=json.dumps({k: out[k] for k in ("size", "nfiles") if k in out}),
            ),
            [InputTag("mlflow.data.context", stage)],
        )
        for path, out in _inputs(stage)
    ]
    if found:
        client.log_inputs(run_id, found)


def _inputs(stage: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and entry in dvc.lock of what `stage` reads and another stage wrote."""
    try:
        pipeline, lock = (yaml.safe_load(Path(f).read_text()) for f in ("dvc.yaml", "dvc.lock"))
        wanted = set(pipeline["stages"][stage]["deps"])
        stages = lock["stages"].values()
    except (OSError, yaml.YAMLError, KeyError, TypeError):  # the first stage of a new project
        return
    for made in stages:
        for out in made.get("outs", ()):
            if out["path"] in wanted and "md5" in out:
                yield out["path"], out


def _world() -> dict[str, str]:
    """Which networks everything stands on, as the project says."""
    try:
        world = load_params().world
        weights = world.weights
        sha256 = files_sha256(weights, ["**/*"]) if weights.is_dir() else file_sha256(weights)
    except (DeidError, OSError):  # a stage of tests, or one that ends with an error of its own
        return {}
    return {"world": world.name, "world_weights_sha256": sha256}


def _machine() -> str:
    import psutil

    memory = psutil.virtual_memory().total / 2**30
    told = f"{socket.gethostname()}: {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        told += f", {torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}"
    return told


def _dvc_process() -> Any:
    """The `dvc` that started this process, or None."""
    import psutil

    if "DVC_STAGE" not in os.environ:
        return None
    for process in psutil.Process().parents():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if any(Path(word).name == "dvc" for word in words[:4]):
            return process
    return None


def _named(process: Any) -> str:
    return f"{socket.gethostname()} {process.pid} {process.create_time():.0f}"


def _is_gone(name: str) -> bool:
    """Whether the process so called ended; one of another machine is not known to have."""
    import psutil

    host, _, rest = name.partition(" ")
    if host != socket.gethostname() or not rest:
        return False
    number, _, started = rest.partition(" ")
    try:
        return abs(psutil.Process(int(number)).create_time() - float(started)) > 1.0
    except psutil.NoSuchProcess:
        return True
