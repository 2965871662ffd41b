"""A model's networks as ONNX files, for programs without torch.

Each file is held against torch, on faces that the world draws, before the folder appears: whole, or
not at all. A file takes one face a call; on a CPU more at once are no faster.
"""

import json
import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from deid import __version__
from deid.errors import DeidError, missing_extra
from deid.model import Deidentifier
from deid.registry.card import LIMITS, NOT_FOR
from deid.registry.choice import Chosen
from deid.registry.networks import VALUES, Network, networks_of
from deid.seeds import torch_generator
from deid.storage.staging import file_sha256
from deid.weights.catalog import Roles, needs
from deid.weights.onnx_session import open_session
from deid.worlds import load_world
from deid.worlds.world import World

DESCRIPTION, CARD = "model.json", "README.md"
MOST = 1e-3
"""By how much a value may differ from torch's."""
FACES = 3
"""Drawn to hold the files against torch; the first also leads the exporter through the network."""

CARD_TEXT = """\
# Networks of {model}, world {world}

By {made_by}; content `{content_sha256}`. `model.json` beside this has each file's hash, shapes,
terms, and by how much it differed from torch.

**Nothing here looks for faces or verifies a result.** What these files draw is not what deid calls
safe: that is a picture in which recognizers of its own found nobody again. Use deid for that.

| file | in the paper | takes | gives |
|---|---|---|---|
{rows}

All values are float32, one face a call. Faces are FFHQ-aligned squares, RGB from -1 to 1.

```python
from onnxruntime import InferenceSession

def run(name, **inputs):
    return InferenceSession(f"{{name}}.onnx").run(None, inputs)[0]

def swap(donor, face):
    expression = run("expression", faces=face)
    w = run("mapping", identity=run("identity", faces=donor), expression=expression)
    return run("generator", w=w).clip(-1, 1)
```

With `adversarial_mapping`, `swap(face, face)` draws `w = run("adversarial_mapping", w=w)`.
`deid run` also leads w, where the world knows how: heads turn, and age, sex and skin become
the person's.

## Limits

{limits}

## Terms

{commercial}

{terms}
"""


def export_onnx(chosen: Chosen, out: Path) -> dict[str, Any]:
    """Write the networks of `chosen` and what they are to the new folder `out`; what `model.json`
    says. `DeidError`, and no folder, where `out` is there already, the stages are not, or a file
    does not compute what torch does."""
    try:
        import onnxscript  # noqa: F401  # torch's exporter stands on it
    except ModuleNotFoundError as error:
        raise DeidError(missing_extra(error, "onnx")) from None
    if out.exists():
        raise DeidError(f"{out}: is there already, and is not written over; name a new folder")
    bundle = chosen.bundle
    if not bundle.stage_one.is_dir():
        raise DeidError(
            f"{chosen.name}: no trained stages of world {bundle.world.name}; run `dvc repro`, or "
            "choose another --model"
        )
    world = load_world(bundle.world).to(torch.device("cpu"))
    stage_two = bundle.stage_two if bundle.stage_two.is_dir() else None
    model = Deidentifier.load(bundle.stage_one, stage_two, world)
    chosen_files = cast(Roles, bundle.world.files)
    files = needs(bundle.world.name, bundle.world.commercial, chosen_files)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        stretch = bundle.anonymize.strength * bundle.anonymize.adversarial_stretch
        networks = networks_of(model, stretch)
        values = _values(world)
        about = _about(chosen, world) | {
            "networks": {n.name: _write(n, values, files, folder) for n in networks}
        }
        (folder / DESCRIPTION).write_text(json.dumps(about, indent=2) + "\n")
        (folder / CARD).write_text(_card(about))
        folder.rename(out)
    return about


def _values(world: World) -> dict[str, Tensor]:
    """w and faces of `FACES` people who do not exist; what networks give joins them."""
    z = torch.randn(FACES, world.generator.z_dim, generator=torch_generator("export"))
    w = world.truncated_mapping(z)
    return {"w": w, "faces": world.draw(w).clamp(-1.0, 1.0)}


@torch.no_grad()
def _write(
    network: Network, values: dict[str, Tensor], files: Roles, folder: Path
) -> dict[str, Any]:
    """One file, held against torch; what `model.json` says of it."""
    file = folder / f"{network.name}.onnx"
    inputs = {name: values[name] for name in network.inputs}
    one_by_one = [tuple(value[n : n + 1] for value in inputs.values()) for n in range(FACES)]
    wanted = torch.cat([network.compute(*given) for given in one_by_one])
    to_onnx(network, one_by_one[0], file)
    difference = largest_difference(file, inputs, wanted)
    if not difference <= MOST:  # nor if it is no number
        raise DeidError(
            f"{network.name}: ONNX Runtime differs from torch by {difference:.2g}, at most "
            f"{MOST:g} is allowed; nothing was written. Take torch and onnxscript as in uv.lock"
        )
    values.setdefault(network.output, wanted)
    return {
        "file": file.name,
        "sha256": file_sha256(file),
        "symbol": network.symbol,
        "inputs": {name: _about_value(name, value) for name, value in inputs.items()},
        "output": {network.output: _about_value(network.output, wanted)},
        "largest_difference_from_torch": difference,
        "licenses": network.licenses(files) or ("MIT",),
        "commercial": network.is_commercial(files),
    }


def to_onnx(network: Network, given: tuple[Tensor, ...], file: Path) -> None:
    """Write `network`, through which `given`, one of each input, leads the exporter, to `file`."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch's exporter does inside
        torch.onnx.export(
            network.module().eval(),
            given,
            file,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=network.inputs,
            output_names=(network.output,),
        )


def largest_difference(file: Path, inputs: Mapping[str, Tensor], wanted: Tensor) -> float:
    """Of any value that ONNX Runtime gives for `inputs` `[N,...]`, face by face, from `wanted`."""
    session = open_session(file)
    names = [value.name for value in session.get_inputs()]
    given = [
        session.run(None, {name: inputs[name][n : n + 1].numpy() for name in names})[0]
        for n in range(len(wanted))
    ]
    return float(np.abs(np.concatenate(given) - wanted.numpy()).max())


def _about_value(name: str, value: Tensor) -> dict[str, Any]:
    return {"what": VALUES[name], "type": "float32", "shape": [1, *value.shape[1:]]}


def _about(chosen: Chosen, world: World) -> dict[str, Any]:
    return {
        "model": chosen.name if chosen.version else Path(chosen.name).name,
        "version": chosen.version,
        "content_sha256": chosen.content_sha256,
        "world": world.name,
        "world_sha256": world.weights_sha256,
        "made_by": f"deid {__version__}, torch {torch.__version__}",
    }


def _card(about: Mapping[str, Any]) -> str:
    """Markdown."""
    networks = about["networks"]
    rows = [
        f"| `{n['file']}` | {n['symbol']} | {_signature(n['inputs'])} | {_signature(n['output'])} |"
        for n in networks.values()
    ]
    forbidden = [n["file"] for n in networks.values() if not n["commercial"]]
    terms = dict.fromkeys(license for n in networks.values() for license in n["licenses"])
    return CARD_TEXT.format(
        **about,
        rows="\n".join(rows),
        limits="\n".join(f"- {limit}" for limit in (NOT_FOR, *LIMITS[1:])),
        terms="\n".join(f"- {license}" for license in terms),
        commercial=f"**Not for commercial use**: {', '.join(forbidden)}." if forbidden else "",
    )


def _signature(values: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"`{name}` {value['shape']}" for name, value in values.items())
