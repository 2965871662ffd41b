"""What a stage reached on held-out faces: people and pictures that no training saw."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from deid.faces.alignment import INNER
from deid.model import Deidentifier
from deid.pixels import to_tensor
from deid.training.loop import Losses
from deid.worlds.world import FaceEmbedder, World

PEOPLE, VIEWS, SEED = 32, 1, 20


def held_out_faces(model: Deidentifier, people: int, views: int) -> Tensor:
    """Test faces `[people*views,3,R,R]`, the views of a person in a row, on the model's device."""
    pixels = model.world.test_faces(people, views, SEED).pixels
    return to_tensor(pixels).to(model.w_mean.device)


@torch.no_grad()
def stage_one_figures(model: Deidentifier, batch_size: int) -> Losses:
    """Cosines of the swap with donor and attribute face in each recognizer, the landmarks' distance
    to the attribute face's and, as a yardstick, the donor's to them (pixels); the same in
    expression features; same-face L1 and, as a yardstick, that of the mean picture.

    No network sees more than `batch_size` faces at once."""
    world, each = model.world, partial(in_batches, batch_size)
    faces = held_out_faces(model, PEOPLE, VIEWS)
    swaps = each(model.swap, _donors(faces), faces)
    reconstructions = each(model.reconstruct, faces)
    figures: Losses = {}
    for name, recognizer in _recognizers(world).items():
        codes, swapped = each(recognizer, faces), each(recognizer, swaps)
        figures[f"donor_cosine_{name}"] = _cosine(swapped, _donors(codes))
        figures[f"attribute_cosine_{name}"] = _cosine(swapped, codes)
        figures[f"same_face_cosine_{name}"] = _cosine(each(recognizer, reconstructions), codes)
    features = each(world.expression_trunk, faces)
    figures["expression"] = _squared(each(world.expression_trunk, swaps), features)
    figures["expression_unrelated"] = _squared(_donors(features), features)
    points = each(world.landmarks, faces)
    figures["landmark_px"] = _landmark_px(each(world.landmarks, swaps), points)
    figures["landmark_px_unrelated"] = _landmark_px(_donors(points), points)
    figures["same_face_l1"] = F.l1_loss(reconstructions, faces).item()
    figures["mean_picture_l1"] = (faces - faces.mean(0)).abs().mean().item()
    return figures


@torch.no_grad()
def stage_two_figures(model: Deidentifier, batch_size: int) -> Losses:
    """Cosine of the original with the adversarial picture and with the reconstruction in each
    recognizer; how far the adversarial picture is from the reconstruction.

    No network sees more than `batch_size` faces at once."""
    world, each = model.world, partial(in_batches, batch_size)
    faces = held_out_faces(model, PEOPLE, VIEWS)
    reconstructions, outputs = each(model.reconstruct, faces), each(model.adversarial, faces)
    figures: Losses = {}
    for name, recognizer in _recognizers(world).items():
        codes = each(recognizer, faces)
        figures[f"cosine_{name}"] = _cosine(each(recognizer, outputs), codes)
        figures[f"cosine_before_{name}"] = _cosine(each(recognizer, reconstructions), codes)
    points = each(world.landmarks, faces)
    figures["landmark_px"] = _landmark_px(each(world.landmarks, outputs), points)
    figures["landmark_px_before"] = _landmark_px(each(world.landmarks, reconstructions), points)
    figures["l1_to_reconstruction"] = F.l1_loss(outputs, reconstructions).item()
    distances = each(world.perceptual.distance, outputs, reconstructions)
    figures["perceptual"] = distances.mean().item()
    return figures


def in_batches(size: int, network: Callable[..., Tensor], *pictures: Tensor) -> Tensor:
    """What `network` makes of all `pictures` `[N,...]`, of `size` at a time."""
    parts = zip(*(torch.split(whole, size) for whole in pictures), strict=True)
    return torch.cat([network(*part) for part in parts])


def _donors(rows: Tensor) -> Tensor:
    """For each face's row the row of its donor: the next person in the same view."""
    return rows.roll(VIEWS, 0)


def _recognizers(world: World) -> dict[str, FaceEmbedder]:
    """En_id and the recognizer that selects; those that report are not looked at before the end."""
    return {"identity": world.identity, world.selecting: world.held_out[world.selecting]}


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a, b).mean())


def _squared(a: Tensor, b: Tensor) -> float:
    return F.mse_loss(a, b).item()


def _landmark_px(a: Tensor, b: Tensor) -> float:
    """Mean distance of the inner ones of two sets of landmarks `[N,68,2]`, pixels."""
    return float((a - b)[:, INNER].norm(dim=2).mean())
