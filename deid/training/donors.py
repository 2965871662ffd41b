"""How the bank's donors look once stage one has drawn them: what `swap` chooses by.

    python -m deid.training.donors deid/worlds/photo/shipped/stage_one

takes the bank that `deid.worlds.photo.pretrain.donors` drew and writes it anew. Stage one draws a
donor's code with other people's expressions, and it is that face that a stranger sees, not the
donor's own picture. Donors whose hair then hangs over the brows are left out, but of a bank that
was measured so before, for another stage one, nobody is.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from deid.anonymize.steering import SMALL, drawn_at
from deid.imaging.flaws import FRINGE, fringe
from deid.model import Deidentifier
from deid.nets.backbones import at_size
from deid.params import WorldParams
from deid.pixels import to_pixels
from deid.progress import progress
from deid.seeds import torch_generator
from deid.worlds import load_world
from deid.worlds.cards import hardware, write_card
from deid.worlds.donors import DonorBank
from deid.worlds.photo.generator import OURS
from deid.worlds.world import World

NETWORK = (
    "no network: donors' codes in En_id (HSE_FaceRec), and codes and looks as stage one draws them"
)

FACES = 48
"""So many people's expressions, of whom each donor is drawn with `TIMES`."""

TIMES = 3

FRINGES = 1
"""In at most so many of them the hair may hang over the brows."""


@torch.inference_mode()
def as_drawn(
    world: World, model: Deidentifier, bank: DonorBank, fringes: int = FRINGES, seed: int = 0
) -> DonorBank:
    """The donors of `bank` with at most so many `fringes`, with the mean code and looks of the
    faces drawn of them."""
    expressions = _expressions(world, model, seed)
    kept, drawn_codes, looks = [], [], []
    with progress("donors", total=len(bank.codes)) as bar:
        for row, code in enumerate(bank.codes):
            random = torch_generator("donor bank expressions", row, seed)
            chosen = torch.randperm(len(expressions), generator=random)[:TIMES]
            w = model.latent_from(code.expand(TIMES, -1), expressions[chosen])
            drawn = drawn_at(model, w, SMALL)
            if _fringes(world, drawn) <= fringes:
                kept.append(code)
                seen, looked = world.code_and_looks(drawn)
                drawn_codes.append(F.normalize(seen.mean(0), dim=0))
                looks.append(looked.mean(0))
            bar.advance()
    return DonorBank(*map(torch.stack, (kept, looks, drawn_codes)))


def _expressions(world: World, model: Deidentifier, seed: int) -> Tensor:
    """Those of `FACES` people whom the generator draws, in whose picture the detector finds one
    face, `[FACES, …]`."""
    found: list[Tensor] = []
    index = 0
    while len(found) < FACES:
        random = torch_generator("donor bank faces", index, seed)
        w = world.truncated_mapping(torch.randn(1, world.generator.z_dim, generator=random))
        face, index = world.draw(w, world.resolution).clamp(-1.0, 1.0), index + 1
        if len(world.detector.detect(list(to_pixels(face)))[0].boxes) == 1:
            found.append(model.expression(at_size(face, SMALL)))
    return torch.cat(found)


def _fringes(world: World, drawn: Tensor) -> int:
    """In how many of the faces `[N,3,S,S]` hair hangs over the brows."""
    landmarks = world.landmarks(drawn).double().numpy()
    faces = zip(to_pixels(drawn), landmarks, strict=True)
    return sum(fringe(face, points) > FRINGE for face, points in faces)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage_one", type=Path)
    parser.add_argument("--out", type=Path, default=OURS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    world = load_world(WorldParams(name="photo"))
    model = Deidentifier.load(asked.stage_one, None, world)
    assert world.donors is not None, "the photo world has a bank"
    card = json.loads((OURS / "donors.json").read_text())
    again = "kept" in card["training"]
    bank = as_drawn(world, model, world.donors, TIMES if again else FRINGES)
    about = {"network": NETWORK, "data": card["data"], "license": card["license"]}
    about["training"] = card["training"] | {"kept": len(bank.codes), "drawn": TIMES}
    about["seconds"] = round(card["seconds"] + time.process_time() - began)
    write_card(asked.out, "donors", bank.half(), about | {"hardware": hardware()})


if __name__ == "__main__":
    main()
