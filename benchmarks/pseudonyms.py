"""Whether a key gives a person one new face, and how far a dial goes from the own face to it.

    python benchmarks/pseudonyms.py keys --world mini --people 60
    python benchmarks/pseudonyms.py keys --pictures PICTURES --people 40 --views altered
    python benchmarks/pseudonyms.py strength --pictures PICTURES --people 40

PICTURES is a folder of aligned faces, each of another person. Faces are worked on at 128 px (mini:
64), as drawn, before pasting and any verification. Judges are the world's held-out recognizers:
none had part in training or in choosing the donor; in photo, promotion looks at `dlib-resnet`.

`keys`: two views of each person (mini: rendered anew in another pose, expression and light; photo:
`altered`, the photograph turned, moved, mirrored, blurred, recolored and compressed, or `moved`,
the person drawn by M with expressions and poses of two others), each under two keys. "same key" and
"across keys" are areas under the ROC curve of the cosines of outputs of different views of one
person against those of different people; "originals" that of the views themselves; A0 and A4 the
rank-1 of outputs of one view among the other views as they are, or as another key made them.

`strength`: mean cosine of original and output, and rank-1 of outputs among the originals, by the
recognizers that report; with the first donor asked for.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from photographs import portraits
from sklearn.metrics import roc_auc_score
from torch import Tensor

from deid.anonymize import ModelPaths, build, with_key
from deid.anonymize.base import Guarded
from deid.anonymize.swap import NEAR, Swap
from deid.batch.bundle import shipped_bundle
from deid.batch.project import bundle_at, find_root
from deid.model import Deidentifier
from deid.nets.backbones import at_size
from deid.pixels import to_pixels, to_tensor
from deid.secret import SecretKey
from deid.seeds import torch_generator
from deid.worlds import load_world
from deid.worlds.world import World

SIDE = 128
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
KEYS = tuple(SecretKey(bytes([number]) * 32) for number in (1, 2))


def main() -> None:
    """Print the figures, one a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("keys", "strength"))
    parser.add_argument("--world", choices=("photo", "mini"), default="photo")
    parser.add_argument("--pictures", type=Path, help="of photo")
    parser.add_argument("--stage-one", type=Path, help="a trained stage; else the one shipped")
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--views", choices=("altered", "moved"), default="altered")
    parser.add_argument("--donor", choices=("alike", "any"), default="alike")
    parser.add_argument("--keep", default="sex", help="of age,sex,skin, with --donor alike")
    parser.add_argument("--sheet", type=Path, help="a picture of the first people")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bundle = shipped_bundle(args.world) or bundle_at(find_root(), args.world)
    world = load_world(bundle.world)
    stage_one = args.stage_one or bundle.stage_one
    models = ModelPaths(
        stage_one, None if args.stage_one or not bundle.stage_two.is_dir() else bundle.stage_two
    )
    settings = bundle.anonymize.model_copy(update={"swap_donors": args.donor})
    if args.what == "keys":
        settings = settings.model_copy(update={"swap_keep": tuple(args.keep.split(","))})

    def method(name: str) -> Any:
        return cast(Guarded, build(name, world, models, settings)).inner

    if args.what == "strength":
        strength(world, at_size(portraits(args.pictures, args.people), SIDE), method, args.sheet)
    else:
        keys(world, views(world, method("swap").model, args), method("swap"), args.sheet)


@torch.no_grad()
def views(world: World, model: Deidentifier, args: argparse.Namespace) -> Tensor:
    """Two views of each person, `[2,N,3,R,R]`."""
    if args.world == "mini":
        seen = to_tensor(world.test_faces(args.people, 2, 0).pixels)
        return seen.unflatten(0, (args.people, 2)).transpose(0, 1)
    faces = at_size(portraits(args.pictures, args.people), SIDE)
    if args.views == "altered":
        return torch.stack([faces, altered(faces)])
    own = world.identity(faces)
    moods = torch.cat([model.expression(face) for face in faces.split(1)])
    drawn = [
        torch.cat(
            [model.synthesize(w, SIDE) for w in model.latent_from(own, moods.roll(k, 0)).split(1)]
        )
        for k in (7, 17)
    ]
    return torch.stack(drawn).clamp(-1, 1)


def altered(faces: Tensor) -> Tensor:
    """The same photographs as other cameras and hands would give them."""
    random, made = np.random.default_rng(0), []
    for pixels in to_pixels(faces):
        middle, size = (SIDE / 2, SIDE / 2), (SIDE, SIDE)
        move = cv2.getRotationMatrix2D(middle, random.normal(0, 4), np.exp(random.normal(0, 0.04)))
        move[:, 2] += random.normal(0, SIDE / 50, 2)
        seen = cv2.warpAffine(pixels, move, size, borderMode=cv2.BORDER_REFLECT)
        seen = seen[:, ::-1] if random.random() < 0.5 else seen
        seen = cv2.GaussianBlur(seen, (0, 0), random.uniform(0.3, 1.2))
        light = (seen / 255.0) ** np.exp(random.normal(0, 0.3)) * random.uniform(0.8, 1.2, 3)
        stored = np.ascontiguousarray(np.clip(light * 255, 0, 255).astype(np.uint8))
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(30, 90))]
        made.append(cv2.imdecode(cv2.imencode(".jpg", stored, quality)[1], cv2.IMREAD_COLOR))
    return to_tensor(np.stack(made))


@torch.no_grad()
def keys(world: World, seen: Tensor, swap: Swap, sheet: Path | None) -> None:
    """Figures of two keys."""
    keyed = [with_key(swap, key) for key in KEYS]
    outputs = torch.stack(
        [torch.stack([each(lambda x, s=s: s(x, [0]), faces) for faces in seen]) for s in keyed]
    )  # [key,view,N,3,R,R]
    if sheet:
        shown = [seen[0], seen[1], outputs[0, 0], outputs[0, 1], outputs[1, 0], outputs[1, 1]]
        write_sheet(sheet, shown)
    for name, judge in (("En_id", world.identity), *world.held_out.items()):
        before = [each(judge, faces) for faces in seen]
        after = [[each(judge, faces) for faces in made] for made in outputs]
        print(
            f"{name:14} originals {auc(*before):.4f}  same key "
            f"{auc(*after[0]):.4f} {auc(*after[1]):.4f}  across keys "
            f"{auc(after[0][0], after[1][1]):.3f} {auc(after[1][0], after[0][1]):.3f}  "
            f"A0 {rank1(after[0][1], before[0]):.3f}  A4 {rank1(after[0][1], after[1][0]):.3f}  "
            f"own {diagonal(after[0][0], before[0]):.3f}  "
            f"strangers {off_diagonal(before[0], before[0]):.3f}  "
            f"one person's {diagonal(*after[0]):.3f}  others' {off_diagonal(*after[0]):.3f}",
            flush=True,
        )


@torch.no_grad()
def strength(world: World, faces: Tensor, method: Callable[[str], Any], sheet: Path | None) -> None:
    """Figures of swap and adversarial at each strength."""
    swap, adversarial = method("swap"), method("adversarial")
    donors = torch.stack([first_donor(swap, face[None], i) for i, face in enumerate(faces)])
    judges = {name: world.held_out[name] for name in world.reporting}
    before = {name: each(judge, faces) for name, judge in judges.items()}
    shown = [faces]
    for share in STRENGTHS:
        weaker = _Given(replace(swap, strength=share), donors)
        made = {"swap": torch.cat([weaker(i, face[None]) for i, face in enumerate(faces)])}
        less = replace(adversarial, stretch=share * adversarial.stretch)
        made["adversarial"] = each(lambda x, less=less: less(x, [0]), faces)
        for name, outputs in made.items():
            shown.append(outputs)
            figures = []
            for judge, network in judges.items():
                after = each(network, outputs)
                similarity = diagonal(after, before[judge])
                figures.append(f"{judge} {similarity:.3f}, {rank1(after, before[judge]):.3f}")
            print(f"{name:12} {share:.2f}  " + "  ".join(figures), flush=True)
    if sheet:
        write_sheet(sheet, [shown[0], *shown[1::2], *shown[2::2]])


def first_donor(swap: Swap, face: Tensor, seed: int) -> Tensor:
    """The code `[dim]` of the first donor asked for, whatever flaws it shows."""
    if swap.bank is None or swap.world.looks is None:
        return swap.codes(face, [seed])[0]
    person = swap.world.identity(face)[0], swap.world.looks(face)[0]
    random = torch_generator("donor", 0, seed)
    return swap.bank.choose(*person, swap.max_similarity, NEAR, random)


class _Given:
    """A swap whose donors are chosen already, as they are the same at every strength."""

    def __init__(self, swap: Swap, donors: Tensor) -> None:
        self._swap, self._donors = swap, donors

    def __call__(self, index: int, face: Tensor) -> Tensor:
        donor = self._donors[index : index + 1]
        return self._swap.given(self._swap.toward(donor, face), face)


def each(network: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    """What a network says of every picture, one at a time."""
    return torch.cat([network(picture) for picture in pictures.split(1)])


def auc(a: Tensor, b: Tensor) -> float:
    """Of cosines of rows `[N,dim]` of the same people in two views."""
    return float(roc_auc_score(np.eye(len(a)).ravel(), (a @ b.T).numpy().ravel()))


def rank1(asked: Tensor, gallery: Tensor) -> float:
    """The share of rows whose nearest one in the gallery is their own."""
    return float(((asked @ gallery.T).argmax(1) == torch.arange(len(asked))).float().mean())


def diagonal(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum(1).mean())


def off_diagonal(a: Tensor, b: Tensor) -> float:
    similarity = a @ b.T
    return float(similarity[~torch.eye(len(a), dtype=torch.bool)].mean())


def write_sheet(file: Path, rows: list[Tensor], people: int = 8) -> None:
    """The first people side by side, a row for each kind of picture."""
    picture = torch.cat([torch.cat(list(row[:people]), 2) for row in rows], 1)
    cv2.imwrite(str(file), np.ascontiguousarray(to_pixels(picture[None])[0][..., ::-1]))


if __name__ == "__main__":
    main()
