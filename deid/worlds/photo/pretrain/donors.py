"""Draws the bank of donors from which `swap` chooses (`deid.worlds.donors`).

    python -m deid.worlds.photo.pretrain.donors --count 1198
    python -m deid.training.donors deid/worlds/photo/shipped/stage_one

write it to where the world is loaded from: first their codes, then how stage one draws them. Half
an hour of one core; the files of the world must be in the store (`deid weights fetch --world
photo`).
"""

import argparse
import time
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from deid.nets.hse_face import HseFaceNet
from deid.params import WorldParams
from deid.pixels import to_pixels
from deid.progress import progress
from deid.seeds import torch_generator
from deid.weights.store import default_store
from deid.worlds.cards import hardware, write_card
from deid.worlds.donors import DonorBank
from deid.worlds.photo.faces import Looks
from deid.worlds.photo.generator import OURS, load_generator
from deid.worlds.public.files import Files

TRUNCATION = 0.7


@torch.inference_mode()
def draw_donors(count: int, seed: int = 0) -> DonorBank:
    """`count` people whom the generator draws, in whose picture the detector finds one face."""
    files = Files("photo", WorldParams(name="photo"), default_store())
    generator, _ = load_generator(dict(files.built("generator")), 256)
    (_, identity), *_ = files.recognizers("identity")
    network = cast(HseFaceNet, identity.network)  # type: ignore[attr-defined]
    measure, detector = Looks(network), files.detector()
    codes: list[Tensor] = []
    looks: list[Tensor] = []
    index = 0
    with progress("donors", total=count) as bar:
        while len(codes) < count:
            z = torch.randn(
                1, generator.z_dim, generator=torch_generator("donor bank", index, seed)
            )
            w = generator.w_mean.lerp(generator.mapping(z), TRUNCATION)
            picture, index = generator.synthesis(w).clamp(-1, 1), index + 1
            if len(detector.detect(list(to_pixels(picture)))[0].boxes) == 1:
                codes.append(identity(picture)[0])
                looks.append(measure(picture)[0])
                bar.advance()
    return DonorBank(torch.stack(codes).half(), torch.stack(looks).half())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1198)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OURS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    bank = draw_donors(asked.count, asked.seed)
    about = {
        "network": "no network: codes of donors in En_id (HSE_FaceRec), and their looks",
        "data": f"w of random seeds, truncated by {TRUNCATION}; the generator's own pictures",
        "license": "made from pictures of a generator under NVIDIA's non-commercial terms: "
        "non-commercial",
        "training": {"count": asked.count, "seed": asked.seed},
        "seconds": round(time.process_time() - began),
        "hardware": hardware(),
    }
    write_card(asked.out, "donors", bank, about)


if __name__ == "__main__":
    main()
