"""`deid doctor`: what this machine has, what a world needs of it, and what is missing."""

import configparser
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from deid.batch.project import INSTALLED, bundle_at, find_root
from deid.errors import DeidError
from deid.params import load_params
from deid.pool import processors
from deid.weights.catalog import needs, size_text, with_parts
from deid.weights.entry import Role, WeightFile
from deid.weights.fetch import must_accept
from deid.weights.store import Store, check, default_store, remedy
from deid.worlds.cards import read_verified
from deid.worlds.mini.networks import HELD_OUT

_MINI = (
    "generator",
    "identity",
    "expression",
    "landmarks",
    "detector",
    "finder",
    *HELD_OUT,
    "perceptual",
    "metric_features",
)


_TRAINING = {
    "ffhq": "training, 6 faces a step: a GPU of 12 GB should do; see profiles/ffhq.yaml",
    "photo": "training: two CPU cores do; profiles/photo-gpu.yaml is for a GPU",
}


@dataclass(frozen=True)
class _Caller:
    """A tool that would call home, and what keeps it from doing so.

    `forced`: this program sets the variable whatever the environment says; else the environment's
    word counts.
    """

    tool: str
    variable: str
    off: tuple[str, ...]  # values, lower case
    forced: bool


_CALLERS = (
    _Caller("MLflow", "MLFLOW_DISABLE_TELEMETRY", ("true", "1"), False),
    _Caller("Prefect", "PREFECT_SERVER_ANALYTICS_ENABLED", ("false", "0"), False),
    _Caller("Great Expectations", "GX_ANALYTICS_ENABLED", ("false", "0"), True),
    _Caller("ONNX Runtime", "ORT_DISABLE_TELEMETRY", ("1", "true"), True),
)


@dataclass(frozen=True)
class Finding:
    """One file a world needs: `problem` is empty where it is here and as it should be."""

    role: str
    name: str
    note: str
    problem: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Everything `deid doctor` says."""

    machine: tuple[tuple[str, str], ...]
    world: str
    place: Path  # where weight files are looked for
    findings: tuple[Finding, ...]
    to_fetch: tuple[WeightFile, ...]  # what `deid weights fetch` would download
    remarks: tuple[str, ...]
    tools: tuple[tuple[str, str], ...]

    @property
    def missing(self) -> bool:
        """Whether the world cannot run."""
        return any(finding.problem for finding in self.findings)

    def text(self) -> str:
        """The report, for a person."""
        lines = ["machine", *_pairs(self.machine), ""]
        lines.append(f"world {self.world}; public files in {self.place}")
        width = max(len(found.name) for found in self.findings) + 2
        for found in self.findings:
            mark, said = ("LACKS", found.problem) if found.problem else ("has", found.note)
            lines.append(f"  {mark:7}{found.role:12}{found.name:{width}}{said}")
        lines += [f"  {remark}" for remark in self.remarks]
        lines += ["", *self._downloads(), "", "calls home", *_pairs(self.tools), ""]
        return "\n".join([*lines, self._verdict()])

    def _downloads(self) -> list[str]:
        if not self.to_fetch:
            return ["nothing to download"]
        # An archive comes once, however many of the files are in it.
        sizes = {f.archive or f.name: f.download_size for f in self.to_fetch}
        unknown = list(sizes.values()).count(None)
        more = f", and {unknown} of unpublished size" if unknown else ""
        total = size_text(sum(size or 0 for size in sizes.values()))
        rows = [(f.name, f"{size_text(f.download_size)}, {f.license}") for f in self.to_fetch]
        return [f"to download: {total}{more}", *_pairs(rows)]

    def _verdict(self) -> str:
        names = {finding.name for finding in self.findings}  # a file may have two roles
        count = len({finding.name for finding in self.findings if finding.problem})
        if not count:
            return f"the world {self.world} has all it needs"
        strict = any(must_accept(entry) for entry in self.to_fetch)  # no terminal, no question
        accept = " --accept-license" if strict else ""
        command = f"`deid weights fetch --world {self.world}{accept}`"
        fetch = f"; run {command}" if self.to_fetch else ""
        return f"the world {self.world} lacks {count} of {len(names)} files{fetch}"


def examine(world: str | None, commercial: bool, params: Path | None = None) -> Diagnosis:
    """Look at this machine and at the files of `world`, or of the world that is asked for by
    `params`, else of the one that `deid run` takes here.

    Raises DeidError for an unknown world or unreadable params. Reads all files of the world.
    """
    root = find_root()
    own = load_params(params).world if params else bundle_at(root, world).world
    if world not in (None, own.name):
        own = bundle_at(INSTALLED, world).world
    name, store = own.name, default_store()
    commercial = commercial or own.commercial
    wanted = needs(name, commercial, cast(Mapping[Role, tuple[str, ...]], own.files))
    entries = [(role, file) for role, names in wanted.items() for file in with_parts(names)]
    findings = [_examine_file(role, entry, store) for role, entry in entries]
    if name == "mini":
        findings = [_examine_mini(network, own.weights) for network in _MINI]
    absent = dict.fromkeys(entry for _, entry in entries if not store.path(entry).is_file())
    return Diagnosis(
        machine=machine(store.place),
        world=f"{name} --commercial" if commercial and entries else name,
        place=store.place,
        findings=tuple(findings),
        to_fetch=tuple(f for f in absent if f.sources and not store.offline),
        remarks=_remarks(name, entries, commercial),
        tools=silence(os.environ, root / ".dvc/config"),
    )


def _examine_file(role: str, entry: WeightFile, store: Store) -> Finding:
    path = store.path(entry)
    if not path.is_file():
        fetched = entry.sources and not store.offline
        return Finding(role, entry.name, "", "missing" if fetched else remedy(entry, store))
    try:
        check(entry, path, store)
    except DeidError as error:
        return Finding(role, entry.name, "", str(error))
    return Finding(role, entry.name, entry.file if entry.sha256 else f"{entry.file}, no hash known")


def _examine_mini(network: str, folder: Path) -> Finding:
    try:
        read_verified(folder, network)
    except DeidError as error:
        return Finding(network, f"mini/{network}", "", str(error))
    return Finding(network, f"mini/{network}", f"in {folder}")


def _remarks(
    world: str, entries: Sequence[tuple[str, WeightFile]], commercial: bool
) -> tuple[str, ...]:
    if not entries:
        return ()
    if not commercial:
        return (_TRAINING[world],)
    data = dict.fromkeys(f"{entry.name}: {entry.trained_on}" for _, entry in entries)
    terms = ("trained on (terms of the data are yours to judge):", *(f"  {x}" for x in data))
    return (_TRAINING[world], *terms)


def machine(place: Path) -> tuple[tuple[str, str], ...]:
    """What this machine has, as pairs of words; `place` is where weights will lie."""
    import torch

    existing = next(path for path in [place, *place.absolute().parents] if path.is_dir())
    disk = f"{shutil.disk_usage(existing).free / 1e9:.1f} GB free at {existing}"
    return (
        ("Python", platform.python_version()),
        ("torch", torch.__version__),
        ("device", _device()),
        ("bfloat16", _bfloat16()),
        ("memory", _memory()),
        ("disk", disk),
    )


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return f"{', '.join(names)}; {free / 1e9:.1f} of {total / 1e9:.1f} GB free on the first"
    cores = processors()
    return f"no GPU; {cores} CPU cores ({torch.backends.cpu.get_cpu_capability()})"


def _bfloat16() -> str:
    import torch

    if torch.cuda.is_available():
        return "yes" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    flags = _cpu_flags()
    native = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    return f"yes, in hardware ({', '.join(native)})" if native else "only emulated, so slower"


def _cpu_flags() -> frozenset[str]:
    """Of Linux: x86 says `flags`, ARM `Features`. Elsewhere unknown, hence empty."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    words = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(words, "").split())


def _memory() -> str:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {key: int(rest.split()[0]) for key, _, rest in (x.partition(":") for x in lines)}
        return f"{sizes['MemAvailable'] / 1e6:.1f} of {sizes['MemTotal'] / 1e6:.1f} GB available"
    except (OSError, KeyError, ValueError, IndexError):
        pass
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB in all"
    except (AttributeError, OSError, ValueError):
        return "unknown on this system"


def silence(environment: Mapping[str, str], dvc: Path) -> tuple[tuple[str, str], ...]:
    """For each tool that would call home: whether it is off, and by what."""
    found = [("DVC", _dvc(environment, dvc))]
    for caller in _CALLERS:
        value = environment.get(caller.variable)
        if value is None or caller.forced:
            said = f"off ({caller.variable} is set wherever this program starts it)"
        elif value.lower() in caller.off:
            said = f"off ({caller.variable}={value})"
        else:
            said = f"ON ({caller.variable}={value}): unset it or set it to {caller.off[0]}"
        found.append((caller.tool, said))
    return tuple(found)


def _dvc(environment: Mapping[str, str], config: Path) -> str:
    if find_spec("dvc") is None:
        return "not installed"
    if environment.get("DVC_NO_ANALYTICS"):
        return "off (DVC_NO_ANALYTICS)"
    parser = configparser.ConfigParser()
    try:
        parser.read(config)
        if not parser.getboolean("core", "analytics", fallback=True):
            return f"off (core.analytics in {config})"
    except (configparser.Error, ValueError, UnicodeDecodeError):
        pass
    return "ON: set DVC_NO_ANALYTICS=1, or work in the project's root, whose .dvc/config ends it"


def _pairs(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(key) for key, _ in rows) + 2
    return [f"  {key:{width}}{value}" for key, value in rows]
