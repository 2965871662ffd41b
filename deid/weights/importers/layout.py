"""What the StyleGAN importers share: finding, renaming and completing a generator's tensors."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from deid.errors import DeidError
from deid.nets.style import MappingNetwork
from deid.seeds import torch_generator
from deid.weights.importers.base import Imported, weights

MEAN_ROWS = 10_000
"""So many w are averaged where a file has no mean w."""

MAX_SIZES, MAX_WIDTH, MAX_DEPTH = 9, 2048, 32
"""No StyleGAN is larger than 1024 px, or half as wide, or has a mapping half as deep."""

Rule = tuple[str, Callable[[re.Match[str]], str]]
"""A pattern of their names, matched in full, and our name for it."""


def part(content: Mapping[str, Any], keys: Iterable[str], mark: str) -> Mapping[str, Any] | None:
    """The state dict with a tensor called `mark`: under one of `keys`, or the content itself."""
    for candidate in (*(content.get(key) for key in keys), content):
        if isinstance(candidate, Mapping) and isinstance(candidate.get(mark), Tensor):
            return candidate
    return None


def renamed(state: Mapping[str, Any], rules: Iterable[Rule], taps: Iterable[int]) -> dict[str, Any]:
    """Our names. Names that end with `kernel` or `resample_filter` are the fixed FIR filter and
    must be `taps`, times any gain; any other name without a rule is a part we do not have."""
    own: dict[str, Tensor] = {}
    for name, tensor in weights(state).items():
        if re.search(r"(^|\.)(kernel|resample_filter)$", name):
            _check_filter(name, tensor, tuple(taps))
            continue
        for pattern, ours in rules:
            if match := re.fullmatch(pattern, name):
                if ours(match) in own:
                    raise DeidError(f"two tensors are {ours(match)!r}, one of them {name!r}")
                own[ours(match)] = tensor.float()
                break
        else:
            raise DeidError(f"it has a part this network has not: {name!r}")
    return own


def numbered(
    state: Mapping[str, Tensor], stem: str, rest: str, first: int = 0, step: int = 1
) -> list[Tensor]:
    """The tensors called `<stem>.<number>.<rest>`, whose numbers run from `first` in `step`s.

    Raises DeidError where there is none or one is missing.
    """
    pattern = rf"{re.escape(stem)}\.(0|[1-9]\d*)\.{re.escape(rest)}"
    found = {int(m[1]): t for name, t in state.items() if (m := re.fullmatch(pattern, name))}
    wanted = range(first, first + step * len(found), step)
    if not found or sorted(found) != list(wanted):
        raise DeidError(f"parts are missing: of '{stem}.N.{rest}' it has N = {sorted(found)[:20]}")
    return [found[number] for number in wanted]


def mapping_widths(state: Mapping[str, Tensor]) -> list[int]:
    """[z, …, w], from tensors under our names."""
    matrices = numbered(state, "mapping_network.layers", "weight")
    if any(matrix.ndim != 2 for matrix in matrices):
        raise DeidError("the mapping's weights are not matrices")
    widths = [matrices[0].shape[1], *(matrix.shape[0] for matrix in matrices)]
    if len(widths) > MAX_DEPTH or max(widths) > MAX_WIDTH:  # before memory is asked for
        raise DeidError(
            f"a mapping of {len(widths)} widths up to {max(widths)}: too large to be so"
        )
    return widths


def layer_widths(state: Mapping[str, Tensor], stem: str, rest: str) -> list[int]:
    """The widths at 4, 8, … px, from the weights of the ToRGB layers, each [3, width, 1, 1]."""
    widths = [matrix.shape[1] for matrix in numbered(state, stem, rest)]
    if len(widths) > MAX_SIZES or max(widths) > MAX_WIDTH:  # before memory is asked for
        raise DeidError(
            f"{4 << (len(widths) - 1)} px at {max(widths)} channels: too large to be so"
        )
    return widths


def fill_noise(
    state: dict[str, Tensor], stem: str, sizes: Iterable[int], shared: bool
) -> list[str]:
    """Noise that the file lacks, seeded by its number, or with `shared` by its size; notes."""
    filled = 0
    for index, size in enumerate(sizes):
        name = f"{stem}.{index}.noise"
        if name not in state:
            seed = size if shared else index
            state[name] = torch.randn(1, 1, size, size, generator=torch_generator("noise", seed))
            filled += 1
    rule = "a size" if shared else "a layer"
    note = f"{filled} noise buffers: not in the file; normal, seeded by name, one for {rule}"
    return [note] if filled else []


def fill_mean(state: dict[str, Tensor], widths: list[int], rate: float = 0.01) -> list[str]:
    """The mean w, where the file has none: of w for 10,000 seeded z; notes."""
    if "w_mean" in state:
        return []
    prefix = "mapping_network."
    own = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    with torch.device("meta"):
        network = MappingNetwork(widths, rate=rate)
    try:
        network.load_state_dict(own, assign=True)
    except RuntimeError as error:
        raise DeidError(
            f"its mapping is incomplete: {str(error).splitlines()[-1].strip()}"
        ) from None
    z = torch.randn(MEAN_ROWS, widths[0], generator=torch_generator("w_mean"))
    with torch.inference_mode():
        total = sum(network(rows).double().sum(0) for rows in z.reshape(10, -1, widths[0]))
    state["w_mean"] = (torch.as_tensor(total) / MEAN_ROWS).float().clone()
    return [f"mean w: not in the file; the mean of w for {MEAN_ROWS:,} z, seeded by name"]


def shaped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without dimensions of one that only some layouts have; contiguous, own memory."""
    return {name: _shaped(name, tensor).contiguous() for name, tensor in state.items()}


def stylegan2(
    state: dict[str, Tensor],
    conv_clamp: Any = None,
    notes: Iterable[str] = (),
) -> Imported:
    """From tensors under our names; widths from shapes, missing noise and mean w filled."""
    state = shaped(state)
    widths = mapping_widths(state)
    channels = layer_widths(state, "to_rgb", "weight")
    sizes = [4 << (index + 1) // 2 for index in range(2 * len(channels) - 1)]
    added = fill_noise(state, "convolutions", sizes, shared=False) + fill_mean(state, widths)
    config = {"channels": channels, "mapping": widths, "conv_clamp": conv_clamp}
    return Imported("stylegan2", config, state, (*notes, *added))


def _shaped(name: str, tensor: Tensor) -> Tensor:
    if name.endswith(".noise"):
        return tensor.reshape(1, 1, *tensor.shape[-2:])
    if name.endswith("noise_strength"):
        return tensor.reshape(()) if tensor.numel() == 1 else tensor.flatten()
    if name == "constant":
        return tensor.reshape(1, *tensor.shape[-3:])
    if name.endswith("bias") or name == "w_mean":
        return tensor.flatten()
    return tensor[0] if tensor.ndim == 5 else tensor


def _check_filter(name: str, tensor: Tensor, taps: tuple[int, ...]) -> None:
    wanted = torch.tensor(taps, dtype=torch.float32)
    wanted = torch.outer(wanted, wanted) / wanted.sum() ** 2
    found = tensor.float().reshape(-1, *tensor.shape[-2:])[0]
    if found.shape != wanted.shape or not torch.allclose(found / found.sum(), wanted, atol=1e-5):
        raise DeidError(
            f"{name!r} is another filter than {list(taps)}, which is the one known here"
        )
