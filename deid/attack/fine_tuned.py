"""An attacker who fine-tunes a recognizer, by gradient, on what a method makes of other people.

All its weights learn to give, for an output, the code that the original has in the network as it
was: cross-entropy over the originals of all who are learned from. People are in four parts, and a
network learns from two of them, six networks in all. An output is compared with a person by a
network that has seen neither of both, so that still there is a gallery of everybody, and nobody in
it whom the network is drawn to, or kept away from.
"""

import copy
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deid.attack.scores import People, Scores, person_scores
from deid.diversity import diversify, draw_changes
from deid.pixels import Pixels, to_tensor
from deid.progress import progress
from deid.seeds import numpy_generator, torch_generator

Codes = NDArray[np.float64]

PARTS = 4
LEAST = 3 * PARTS
"""People, or each part would have too few to learn from."""

BATCH, RATE, SHARPNESS = 16, 3e-4, 16.0
"""Outputs a step; Adam's rate; by which cosines are multiplied before they are compared."""


def tuned_scores(
    network: nn.Module, outputs: Pixels, originals: Codes, people: People, steps: int
) -> Scores | None:
    """How alike each output `uint8 [N,S,S,3]` and each person of `people [N]` is to a `network`
    that was tuned on others by so many `steps`, `[N,P]`; None where there are too few people.

    `originals [N,D]` are its own codes of the originals, in pairs with the outputs.
    """
    count = int(people.max()) + 1
    if count < LEAST:
        return None
    part = numpy_generator("attack/parts").permutation(count) % PARTS  # [P]
    faces, scores = to_tensor(outputs), np.full((len(outputs), count), -np.inf)
    pairs = list(combinations(range(PARTS), 2))
    with progress("fine-tune", len(pairs)) as bar:
        for left_out in pairs:
            known = ~np.isin(part[people], left_out)
            tuned = _tune(network, faces[known], originals[known], people[known], steps)
            codes = _centered(_codes(tuned, faces), known)
            cosines = codes @ _centered(originals, known).T
            best = person_scores(cosines, people, count)
            for mine, theirs in _compared(*left_out):
                cells = np.ix_(part[people] == mine, part == theirs)
                scores[cells] = best[cells]
            bar.advance()
    return scores


def _compared(a: int, b: int) -> Iterator[tuple[int, int]]:
    """Whose outputs the network that has seen neither part compares with whom: each with the other
    one, and people of a part among themselves where theirs is the part before."""
    yield from ((a, b), (b, a))
    if b == (a + 1) % PARTS:
        yield a, a
    elif a == (b + 1) % PARTS:
        yield b, b


def _tune(
    network: nn.Module, outputs: Tensor, originals: Codes, people: People, steps: int
) -> nn.Module:
    """A copy that has learned which of the `originals [M,D]` is in which of the `outputs [M,…]`."""
    tuned = copy.deepcopy(network).requires_grad_(True)  # in eval mode: too few for statistics
    device = next(tuned.parameters()).device
    names, person = np.unique(people, return_inverse=True)
    wanted = torch.from_numpy(np.stack([originals[people == one].mean(0) for one in names]))
    wanted = F.normalize(wanted.float(), dim=1).to(device)
    optimizer = torch.optim.Adam(tuned.parameters(), RATE)
    for step in range(steps):
        random = numpy_generator("attack/fine-tune", step)
        rows = random.choice(len(outputs), min(BATCH, len(outputs)), replace=False)
        changes = draw_changes(len(rows), torch_generator("attack/changes", step))
        found = F.normalize(tuned(diversify(outputs[rows].to(device), changes)), dim=1)
        target = torch.from_numpy(person[rows]).to(device)
        loss = F.cross_entropy(SHARPNESS * found @ wanted.T, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return tuned.requires_grad_(False)


@torch.inference_mode()
def _codes(network: nn.Module, faces: Tensor) -> Codes:
    """Of each picture and its mirror image together, `[N,D]`."""
    device = next(network.parameters()).device
    parts = [one.to(device) for one in torch.split(faces, BATCH)]
    codes = [network(part) + network(part.flip(-1)) for part in parts]
    return F.normalize(torch.cat(codes).double(), dim=1).cpu().numpy()


def _centered(codes: Codes, known: NDArray[np.bool_]) -> Codes:
    """Unit vectors without the mean of those who were learned from."""
    off = codes - codes[known].mean(axis=0)
    return np.asarray(off / np.linalg.norm(off, axis=1, keepdims=True))
