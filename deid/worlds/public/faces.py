"""Public face networks behind the world's protocols (`deid.worlds.world`).

Each adapter is a network and its `Convention`; a world's pictures go in as they are.
"""

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.worlds.public.conventions import CONVENTIONS, Convention
from deid.worlds.public.five import FiveLandmarks

FID_LABEL = "FID"
LPIPS_LABELS = {"alex": "LPIPS (AlexNet)", "vgg": "LPIPS (VGG-16)"}


class Embedder(nn.Module):
    """A recognizer: `[N,3,H,W]` → unit vectors `[N,dim]` (`FaceEmbedder`)."""

    def __init__(self, network: nn.Module, convention: Convention, dim: int) -> None:
        super().__init__()
        self.network = network
        self.convention = convention
        self.dim = dim

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.network(self.convention(images)).float(), dim=1)


class Landmarks(nn.Module):
    """`[N,3,H,W]` → `[N,68,2]` in pixels of the input, x first (`LandmarkNetwork`)."""

    def __init__(self, network: nn.Module, convention: Convention) -> None:
        super().__init__()
        self.network = network
        self.convention = convention

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        points = self.network(self.convention(images)).float()
        return self.convention.to_picture(points, width, height)


class Trunk(nn.Module):
    """Pooled features: `[N,3,H,W]` → `[N,dim]`; En_expr before fine-tuning."""

    def __init__(self, network: nn.Module, convention: Convention, dim: int) -> None:
        super().__init__()
        self.network = network
        self.convention = convention
        self.dim = dim

    def forward(self, images: Tensor) -> Tensor:
        # Inception is about 1.2 times as fast in this layout on a CPU, and no weight has to change
        # its own for it; the recognizers gain nothing (benchmarks/inception.py).
        pictures = self.convention(images).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.network(pictures)
        return features


class Perceptual(nn.Module):
    """FID's features and LPIPS (`MetricNetwork`).

    `fid` is a `Trunk` around `fid_inception`, `lpips` the network of `deid.nets.perceptual`. The
    labels are the standard names, since these are the standard networks; who puts others in their
    place must say so in the labels.
    """

    def __init__(self, fid: nn.Module, lpips: nn.Module, fid_label: str, lpips_label: str) -> None:
        super().__init__()
        self.fid = fid
        self.lpips = lpips
        self.fid_label = fid_label
        self.lpips_label = lpips_label

    def pooled(self, images: Tensor) -> Tensor:
        features: Tensor = self.fid(images)
        return features

    def expression(self, images: Tensor) -> Tensor:
        """FID's features: an Inception-V3 as the paper's, but one that no stage fine-tunes."""
        return self.pooled(images)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        distance: Tensor = self.lpips(a, b)
        return distance.flatten()


def embedder(name: str, network: nn.Module) -> Embedder:
    """A recognizer by its name in `CONVENTIONS`; `network` is built and filled."""
    dim = network.dim
    assert isinstance(dim, int)
    return frozen(Embedder(network, CONVENTIONS[name], dim))


def landmarks(name: str, network: nn.Module) -> Landmarks | FiveLandmarks:
    """68 landmarks by a network that knows all, or by the O-Net of `mtcnn` from its five."""
    adapter = FiveLandmarks if name == "mtcnn" else Landmarks
    return frozen(adapter(network, CONVENTIONS[name]))


def expression_trunk(network: nn.Module, name: str = "inception_v3", dim: int = 2048) -> Trunk:
    """En_expr's trunk by its name in `CONVENTIONS`."""
    return frozen(Trunk(network, CONVENTIONS[name], dim))


def perceptual(fid: nn.Module, lpips: nn.Module) -> Perceptual:
    """FID by `fid_inception`, LPIPS by `lpips` with either backbone."""
    trunk = Trunk(fid, CONVENTIONS["fid_inception"], 2048)
    backbone = str(lpips.pnet_type)
    return frozen(Perceptual(trunk, lpips, FID_LABEL, LPIPS_LABELS[backbone]))


def perceptuals(built: Iterable[tuple[str, nn.Module]]) -> dict[str, Perceptual]:
    """FID's network with each LPIPS, by its backbone, of networks by name; none where there is no
    FID or no LPIPS among them."""
    networks = list(built)
    fid = [module for name, module in networks if name == "fid_inception"]
    lpips = [module for name, module in networks if name == "lpips"] if fid else []
    return {str(module.pnet_type): perceptual(fid[0], module) for module in lpips}


Net = TypeVar("Net", bound=nn.Module)


def frozen(network: Net) -> Net:
    """In eval mode, its weights without gradients."""
    return network.eval().requires_grad_(False)
