"""Loads the mini world from its verified weight files."""

import hashlib
from pathlib import Path
from typing import TypeVar

from torch import nn

from deid.errors import DeidError
from deid.faces.detection.center import CenterDetector, CenterSinglePass
from deid.nets.attributes import MetricNet, PerceptualNet
from deid.worlds.cards import read_verified
from deid.worlds.mini import networks
from deid.worlds.mini.generator import mini_generator
from deid.worlds.mini.render.parameters import GROUPS
from deid.worlds.mini.test_faces import held_out_faces
from deid.worlds.world import World

Net = TypeVar("Net", bound=nn.Module)

SAMPLES = frozenset(
    {
        "935acf32e840f6d579e476bc882302906359adb48666bfa96293afbb1e961da0",  # close
        "9480dd2c1219aad98a5c2c0bcd5ad59dfeecfed2dc21e8627390e8d1dac8e4ad",  # family
        "f87a35fc7a87749eb12e44f5f6a89e80f0dfe5e2801b2a31b59334f109af3cc8",  # friends
        "e70641765896b028b4a18df9dce7b2c2a48c2ebca2b84c30e25daf6833a3fa7b",  # pair
        "ccc4580fcb77de5e9bb504449f69e0a63585d1e6efdcc39caebaa437ff1680b5",  # portrait
        "9b2a551a6986dc57ce525feafe4a024d90275c8f60a7243580c8719b810a5fc1",  # team
    }
)
"""`picture_sha256` of the pictures in `data/samples` (`deid.worlds.mini.render.samples`)."""

FID_LABEL = "FID (mini features)"
LPIPS_LABEL = "LPIPS-form distance (mini features)"


def load_mini_world(  # long: a line for each field of the bundle
    folder: Path, truncation: float = 1.0
) -> World:
    """The world whose weights and cards are in `folder`; networks frozen, in eval mode.

    Raises DeidError for a file that is missing, unreadable or not what its card says.
    """
    hashes: list[str] = []

    def trained(name: str, network: Net) -> Net:
        filled, sha256 = _filled(folder, name, network)
        hashes.append(sha256)
        return filled

    generator = trained("generator", mini_generator())
    identity = trained("identity", networks.recognizer("identity"))
    expression = trained("expression", networks.attribute_regressor("expression")).trunk
    landmarks = trained("landmarks", networks.landmark_net())
    # Not among the hashes of the world: training does not depend on it.
    metrics, _ = _filled(folder, "metric_features", networks.attribute_regressor("metric_features"))
    embedded = trained("detector", networks.center_net())
    detector = CenterDetector(embedded, single_pass=_single_pass(folder))
    held_out = {name: trained(name, networks.recognizer(name)) for name in networks.HELD_OUT}
    perceptual = trained("perceptual", networks.attribute_regressor("perceptual")).trunk
    return World(
        name="mini",
        samples=SAMPLES,
        resolution=generator.resolution,
        generator=generator,
        identity=identity,
        expression_trunk=expression,
        expression_dim=expression.dim,
        landmarks=landmarks,
        detector=detector,
        held_out=held_out,
        selecting=networks.HELD_OUT[0],
        perceptual=PerceptualNet(perceptual).eval(),
        metric_features=MetricNet(metrics, GROUPS["expression"], FID_LABEL, LPIPS_LABEL).eval(),
        test_faces=held_out_faces,
        weights_sha256=hashlib.sha256("".join(hashes).encode()).hexdigest(),
        domain="rendered people",
        calibration=folder.parent / "calibration.json",
        truncation=truncation,
    )


def _single_pass(folder: Path) -> CenterSinglePass:
    """The detector of the multi-scale mode; not among the hashes of the world either."""
    network, sha256 = _filled(folder, "finder", networks.center_net())
    return CenterSinglePass(network, f"mini:{sha256[:8]}")


def _filled(folder: Path, name: str, network: Net) -> tuple[Net, str]:
    state, sha256 = read_verified(folder, name)
    try:
        network.load_state_dict(state)
    except RuntimeError:
        raise DeidError(
            f"{folder / name}.safetensors: shapes are not those of this version's network; "
            f"restore it with `git checkout -- {folder}` or train it again with `make pretrain`"
        ) from None
    return network.float().eval().requires_grad_(False), sha256
