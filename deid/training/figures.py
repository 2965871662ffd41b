"""What a stage reached on held-out faces: people and pictures that no training saw."""

import torch
from torch import Tensor
from torch.nn import functional as F

from deid.images import to_tensor
from deid.model import Deidentifier
from deid.training.loop import Losses
from deid.worlds.world import INNER, FaceEmbedder, World

PEOPLE, VIEWS, SEED = 64, 2, 20


def held_out_faces(model: Deidentifier, people: int, views: int) -> Tensor:
    """Test faces `[people*views,3,R,R]`, the views of a person in a row, on the model's device."""
    pixels = model.world.test_faces(people, views, SEED).pixels
    return to_tensor(pixels).to(model.w_mean.device)


@torch.no_grad()
def stage_one_figures(model: Deidentifier) -> Losses:
    """Cosines of the swap with donor and attribute face in each recogniser, the landmarks' distance
    to the attribute face's and, as a yardstick, the donor's to them (pixels); the same in
    expression features; same-face L1 and, as a yardstick, that of the mean picture."""
    world = model.world
    faces = held_out_faces(model, PEOPLE, VIEWS)
    donors = faces.roll(VIEWS, 0)
    swaps, reconstructions = model.swap(donors, faces), model.reconstruct(faces)
    figures: Losses = {}
    for name, recogniser in _recognisers(world).items():
        codes = recogniser(swaps)
        figures[f"donor_cosine_{name}"] = _cosine(codes, recogniser(donors))
        figures[f"attribute_cosine_{name}"] = _cosine(codes, recogniser(faces))
        figures[f"same_face_cosine_{name}"] = _cosine(
            recogniser(reconstructions), recogniser(faces)
        )
    for name, pictures in (("", swaps), ("_unrelated", donors)):
        features, wanted = world.expression_trunk(pictures), world.expression_trunk(faces)
        figures[f"expression{name}"] = float(F.mse_loss(features, wanted))
    figures["landmark_px"] = _landmark_px(world, swaps, faces)
    figures["landmark_px_unrelated"] = _landmark_px(world, donors, faces)
    figures["same_face_l1"] = F.l1_loss(reconstructions, faces).item()
    figures["mean_picture_l1"] = (faces - faces.mean(0)).abs().mean().item()
    return figures


@torch.no_grad()
def stage_two_figures(model: Deidentifier) -> Losses:
    """Cosine of the original with the adversarial picture and with the reconstruction in each
    recogniser; how far the adversarial picture is from the reconstruction."""
    world = model.world
    faces = held_out_faces(model, PEOPLE, VIEWS)
    reconstructions, outputs = model.reconstruct(faces), model.adversarial(faces)
    figures: Losses = {}
    for name, recogniser in _recognisers(world).items():
        codes = recogniser(faces)
        figures[f"cosine_{name}"] = _cosine(recogniser(outputs), codes)
        figures[f"cosine_before_{name}"] = _cosine(recogniser(reconstructions), codes)
    figures["landmark_px"] = _landmark_px(world, outputs, faces)
    figures["landmark_px_before"] = _landmark_px(world, reconstructions, faces)
    figures["l1_to_reconstruction"] = F.l1_loss(outputs, reconstructions).item()
    figures["perceptual"] = world.perceptual.distance(outputs, reconstructions).mean().item()
    return figures


def _recognisers(world: World) -> dict[str, FaceEmbedder]:
    return {"identity": world.identity, **world.held_out}


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a, b).mean())


def _landmark_px(world: World, a: Tensor, b: Tensor) -> float:
    """Mean distance of the inner landmarks, pixels."""
    offset = (world.landmarks(a) - world.landmarks(b))[:, INNER]
    return float(offset.norm(dim=2).mean())
