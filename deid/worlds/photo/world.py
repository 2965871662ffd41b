"""Loads the photo world: a real StyleGAN and real face networks, all from package registries."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from torch import nn

from deid.errors import DeidError
from deid.nets.efficientnet_lite import EfficientNetLite0
from deid.nets.face_api import FaceApiNet
from deid.nets.hse_face import HseFaceNet
from deid.params import WorldParams
from deid.weights.store import Store, default_store
from deid.worlds.cards import read_verified
from deid.worlds.donors import DonorBank
from deid.worlds.head_turns import HeadTurns
from deid.worlds.looks_shifts import LooksShifts
from deid.worlds.photo.faces import EfficientNetPerceptual, FaceApiMetrics, Looks, MeshPoints
from deid.worlds.photo.generator import OURS, load_generator
from deid.worlds.public import faces
from deid.worlds.public.faces import Embedder
from deid.worlds.public.files import Files
from deid.worlds.world import World


def load_photo_world(params: WorldParams, store: Store | None = None) -> World:
    """The world whose files the catalog and `params.files` name; networks frozen, in eval mode.

    Raises DeidError naming a file that is missing, changed, unreadable, or that `params.commercial`
    forbids: the generator always, since it was distilled from weights not for commercial use.
    """
    files = Files("photo", params, store or default_store())
    generator, heads_sha256 = load_generator(dict(files.built("generator")), params.resolution)
    perceptual, standard = _perceptual(list(files.built("perceptual")))
    metrics = FaceApiMetrics(cast(FaceApiNet, files.network("attributes")))
    trunk = faces.expression_trunk(files.network("expression"), "efficientnet_lite0", 1280)
    world = files.world(generator, trunk, perceptual, faces.frozen(metrics), heads_sha256)
    return replace(
        world,
        contours=faces.frozen(MeshPoints(files.network("contours"))),
        region="face",
        standard=standard,
        calibration=OURS / "calibration.json",
        **_donors(world),
        **_directions(),
    )


def _perceptual(
    built: Sequence[tuple[str, nn.Module]],
) -> tuple[EfficientNetPerceptual, faces.Perceptual | None]:
    """What trains; and, where `params.files` names their files as well, standard FID and LPIPS."""
    trunks = [module for _, module in built if isinstance(module, EfficientNetLite0)]
    if not trunks:
        raise DeidError("world.files.perceptual: no efficientnet_lite0 among them; add its file")
    networks = faces.perceptuals(built)
    standard = networks.get("alex", next(iter(networks.values()), None))
    return faces.frozen(EfficientNetPerceptual(trunks[0])), standard


def _donors(world: World) -> dict[str, Any]:
    """The bank, and the looks by which it is searched; nothing where another En_id was chosen."""
    identity = cast(Embedder, world.identity).network
    if not isinstance(identity, HseFaceNet):
        return {}
    state, sha256 = read_verified(OURS, "donors")
    bank = DonorBank(**{name: values.float() for name, values in state.items()})
    looks = faces.frozen(Looks(identity))
    return {"looks": looks, "donors": faces.frozen(bank), "donors_sha256": sha256}


def _directions() -> dict[str, Any]:
    """Which way w goes when heads turn and looks change."""
    turns, turns_sha256 = read_verified(OURS, "turns")
    shifts, shifts_sha256 = read_verified(OURS, "shifts")
    return {
        "turns": faces.frozen(HeadTurns(**turns)),
        "turns_sha256": turns_sha256,
        "shifts": faces.frozen(LooksShifts(**shifts)),
        "shifts_sha256": shifts_sha256,
    }
