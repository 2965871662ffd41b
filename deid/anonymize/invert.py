"""Inversion: the w or w+ whose picture is the person, found by gradient from M's answer.

M sees a code of a face, so its reconstruction is alike and not the same; a w for every layer of
the generator (w+, Abdal et al. 2019) can draw the very person, and a single w (Karras et al. 2020)
the person as the generator would draw anybody.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from deid.anonymize.refine import descend, one_by_one
from deid.losses import landmark_loss
from deid.model import Deidentifier

STEPS = 60
"""Near the 70 with which a trial elsewhere reached a likeness; not tuned here."""

RATE = 0.06
PIXELS, SHADE, PERSON, LANDMARK, NEAR = 1.0, 0.3, 0.4, 0.02, 0.02
"""Weights: of the face's pixels, of the picture's light and shade, of En_id's and En_lnd's say, and
of the way from M's answer: far from it the generator draws fog."""

CENTER, RADII = (0.5, 0.57), (0.28, 0.36)
"""The ellipse of an aligned face, x first, in sides of the picture."""


def invert(model: Deidentifier, faces: Tensor, steps: int = STEPS, single: bool = False) -> Tensor:
    """w+ `[N,num_ws,w_dim]` with G(w+) near `faces [N,3,R,R]`, drawn at the generator's smallest
    side; w `[N,w_dim]`, the same for every layer, where `single`."""
    return one_by_one(lambda face: _invert(model, face, steps, single), faces)


def _invert(model: Deidentifier, face: Tensor, steps: int, single: bool) -> Tensor:
    world, side = model.world, model.world.resolutions[0]
    with torch.no_grad():
        code, points = world.identity(face), world.landmarks(face) * (side / face.shape[-1])
        w = model.standardize(model.latent_of(code, face))
    small = F.interpolate(face, size=(side, side), mode="area")
    inside, shade = _ellipse(side).to(face), _shade(small)

    def loss_of(w: Tensor) -> Tensor:
        output = model.synthesize(model.unstandardize(w), side)
        pixels = ((output - small).abs() * inside).mean() / inside.mean()
        known = F.cosine_similarity(world.identity(output), code)
        points_loss = landmark_loss(points, world.landmarks(output), side)
        loss = PIXELS * pixels + SHADE * F.l1_loss(_shade(output), shade)
        return loss + PERSON * (1.0 - known).mean() + LANDMARK * points_loss

    start = w if single else w[:, None].expand(-1, world.generator.num_ws, -1)
    return model.unstandardize(descend(start, loss_of, steps, RATE, NEAR))


def _ellipse(side: int) -> Tensor:
    """1 on a face, 0 around it, `[side,side]`."""
    at = (torch.arange(side) + 0.5) / side
    x, y = ((at - c) / r for c, r in zip(CENTER, RADII, strict=True))
    return (x.square()[None, :] + y.square()[:, None] < 1.0).float()


def _shade(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, max(1, images.shape[-1] // 16))
