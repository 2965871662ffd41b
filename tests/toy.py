"""A toy world for tests: every network tiny, random, deterministic and differentiable.

Its pictures are blobs, not people; it has the shapes, ranges and gradients of a real world, and
that is all a test of what stands above a world needs.
"""

import io
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from deid.faces.faces import Faces
from deid.latents.sample import draw_rows
from deid.latents.shards import Index, images_path, w_path, write_index
from deid.params import SampleParams
from deid.pixels import Pixels, to_pixels
from deid.seeds import torch_generator
from deid.worlds.world import LandmarkNetwork, TestFaces, World

RESOLUTION = 64


def _random(*shape: int, name: str, scale: float = 1.0) -> nn.Parameter:
    values = torch.randn(shape, generator=torch_generator(f"toy/{name}")) * scale
    return nn.Parameter(values, requires_grad=False)


class ToyMapping(nn.Module):
    """z → w, one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = _random(16, 16, name="mapping", scale=0.25)

    def forward(self, z: Tensor) -> Tensor:
        return F.leaky_relu(z @ self.matrix, 0.2) * 1.5


class ToyGenerator(nn.Module):
    """Modulated convolutions from 8 to 64 pixels, a style at each of four sizes; a light oval in
    the middle, as if it were a face."""

    oval: Tensor
    w_mean: Tensor

    z_dim, w_dim, num_ws, resolution = 16, 16, 4, RESOLUTION

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.mapping_network = ToyMapping()
        z = torch.randn(10_000, 16, generator=torch_generator("toy/w_mean"))
        self.register_buffer("w_mean", self.mapping(z).mean(0))
        self.constant = _random(1, width, 8, 8, name="constant")
        self.styles = _random(4, 16, width, name="styles", scale=0.25)
        self.kernels = _random(4, width, width, 3, 3, name="kernels", scale=(9 * width) ** -0.5)
        self.colors = _random(3, width, 1, 1, name="colors", scale=0.7 * width**-0.5)
        y, x = torch.meshgrid(*[torch.linspace(-1, 1, RESOLUTION)] * 2, indexing="ij")
        self.register_buffer("oval", torch.exp(-((x / 0.6) ** 2) - (y / 0.8) ** 2) * 1.5 - 0.6)

    def mapping(self, z: Tensor) -> Tensor:
        w: Tensor = self.mapping_network(z)
        return w

    def synthesis(self, w: Tensor) -> Tensor:
        ws = w[:, None].expand(-1, self.num_ws, -1) if w.ndim == 2 else w
        x = self.constant.expand(len(ws), -1, -1, -1)
        for i in range(self.num_ws):
            if i:
                x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
            x = x * (1 + ws[:, i] @ self.styles[i])[:, :, None, None]
            x = F.leaky_relu(F.conv2d(x, self.kernels[i], padding=1), 0.2) * 1.4
        x = x / x.square().mean((1, 2, 3), keepdim=True).add(1e-6).sqrt()
        return torch.tanh(F.conv2d(x, self.colors) + self.oval) * 0.8


class ToyEmbedder(nn.Module):
    """16 × 16 thumbnail → one hidden layer → vector; of unit length where `unit`."""

    def __init__(self, name: str, dim: int = 32, unit: bool = True) -> None:
        super().__init__()
        self.dim, self.unit = dim, unit
        self.hidden = _random(768, 64, name=f"{name}/hidden", scale=768**-0.5)
        self.out = _random(64, dim, name=f"{name}/out", scale=64**-0.5)

    def forward(self, images: Tensor) -> Tensor:
        thumbnail = F.interpolate(images, size=(16, 16), mode="area").flatten(1)
        features = torch.tanh(thumbnail @ self.hidden) @ self.out
        return F.normalize(features, dim=1) if self.unit else features


def _template() -> Tensor:
    """68 landmarks of an FFHQ-aligned face in a unit square."""

    def arc(x: float, y: float, rx: float, ry: float, start: float, turn: float, n: int) -> Tensor:
        angles = torch.linspace(start, start + turn, n + (abs(turn) > 6))[:n]
        return torch.stack([x + rx * torch.cos(angles), y + ry * torch.sin(angles)], dim=1)

    pi = math.pi
    nose = torch.tensor([[0.5, y] for y in (0.47, 0.52, 0.57, 0.61)])
    parts = [
        arc(0.5, 0.5, 0.32, 0.42, pi, -pi, 17),
        arc(0.375, 0.42, 0.09, 0.04, pi, pi, 5),
        arc(0.625, 0.42, 0.09, 0.04, pi, pi, 5),
        nose,
        arc(0.5, 0.62, 0.06, 0.02, pi, -pi, 5),
        arc(0.375, 0.4725, 0.05, 0.02, pi, 2 * pi, 6),
        arc(0.625, 0.4725, 0.05, 0.02, pi, 2 * pi, 6),
        arc(0.5, 0.7475, 0.11, 0.05, pi, 2 * pi, 12),
        arc(0.5, 0.7475, 0.08, 0.02, pi, 2 * pi, 8),
    ]
    return torch.cat(parts)


class ToyLandmarks(nn.Module):
    """A mean face, moved by up to some pixels as the picture has it."""

    template: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.offsets = ToyEmbedder("landmarks", dim=136, unit=False)
        self.register_buffer("template", _template())

    def forward(self, images: Tensor) -> Tensor:
        moved = self.template + 0.03 * torch.tanh(self.offsets(images)).view(-1, 68, 2)
        return moved * images.new_tensor([images.shape[3], images.shape[2]])


class ToyDetector:
    """One face in the middle of any picture whose gray values vary; none in a flat one."""

    name = "toy"

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        return [self._detect(picture) for picture in pictures]

    def _detect(self, picture: Pixels) -> Faces:
        height, width = picture.shape[:2]
        contrast = float(picture.mean(axis=2).std())
        found = int(contrast > 4.0)
        size = np.array([width, height], dtype=np.float32)
        box = np.array([[0.18, 0.3, 0.82, 0.92]], dtype=np.float32) * np.tile(size, 2)
        unit = [[0.375, 0.4725], [0.625, 0.4725], [0.5, 0.62], [0.39, 0.7475], [0.61, 0.7475]]
        points = np.array([unit], dtype=np.float32) * size
        score = np.array([min(contrast / 20.0, 1.0)], dtype=np.float32)
        return Faces(boxes=box[:found], scores=score[:found], points=points[:found])


class ToyPerceptual(nn.Module):
    """Features of a random embedder; their squared distance."""

    fid_label, lpips_label = "FID (toy features)", "LPIPS (toy features)"

    def __init__(self, name: str = "perceptual") -> None:
        super().__init__()
        self.features = ToyEmbedder(name, unit=False)

    def pooled(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        return features

    def expression(self, images: Tensor) -> Tensor:
        return self.pooled(images)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.pooled(a) - self.pooled(b)).square().mean(1)


class ToyContours:
    """Twenty of the landmarks; the first two open and close."""

    dim = 41

    def __init__(self, landmarks: LandmarkNetwork) -> None:
        self.landmarks = landmarks

    def __call__(self, images: Tensor) -> Tensor:
        return self.landmarks(images)[:, :20]

    def openings(self, points: Tensor) -> Tensor:
        return (points[:, 0] - points[:, 1]).norm(dim=1, keepdim=True) / 10.0

    def code(self, images: Tensor) -> Tensor:
        points = self(images)
        return torch.cat([points.flatten(1) / images.shape[-1], self.openings(points)], 1)


def _test_faces(generator: ToyGenerator, identities: int, views: int, seed: int) -> TestFaces:
    random = torch_generator("toy/test faces", seed=seed)
    people = torch.randn(identities, generator.z_dim, generator=random).repeat_interleave(views, 0)
    z = people + 0.2 * torch.randn(people.shape, generator=random)
    parts = torch.split(generator.mapping(z), 50)  # all at once take memory that is slow to get
    pixels = np.concatenate([to_pixels(generator.synthesis(w)) for w in parts])
    return TestFaces(pixels, np.repeat(np.arange(identities, dtype=np.int64), views))


@cache
def toy_world() -> World:
    """The same world at every call and in every process."""
    generator = ToyGenerator().eval()
    return World(
        name="toy",
        domain="photographs",
        resolution=RESOLUTION,
        generator=generator,
        identity=ToyEmbedder("identity").eval(),
        expression_trunk=ToyEmbedder("expression", dim=24, unit=False).eval(),
        expression_dim=24,
        landmarks=ToyLandmarks().eval(),
        detector=ToyDetector(),
        held_out={"first": ToyEmbedder("held out 1").eval(), "second": ToyEmbedder("two").eval()},
        selecting="first",
        perceptual=ToyPerceptual().eval(),
        metric_features=ToyPerceptual("metric").eval(),
        test_faces=lambda identities, views, seed: _test_faces(generator, identities, views, seed),
        weights_sha256="0" * 64,
    )


def draw_pairs(latents: Path, count: int = 64, shard_size: int = 64) -> Path:
    """Good pairs of the toy world, in `latents`."""
    world = toy_world()
    latents.mkdir(parents=True)
    index = Index(
        world=world.name,
        weights_sha256=world.weights_sha256,
        seed=0,
        truncation=1.0,
        count=count,
        rendered=count,
        shard_size=shard_size,
        batch_size=SampleParams().batch_size,
        resolution=RESOLUTION,
        w_dim=world.generator.w_dim,
    )
    for number, start, end in index.shards():
        blocks = list(draw_rows(world, SampleParams(), start, end))
        np.save(images_path(latents, number), np.concatenate([images for images, _ in blocks]))
        np.save(w_path(latents, number), np.concatenate([w for _, w in blocks]))
    write_index(latents, index)
    return latents


def picture(seed: int = 0, side: int = 96) -> bytes:
    """A PNG in whose middle the toy detector sees a face."""
    noise = np.random.default_rng(seed).integers(0, 255, (side // 8, side // 8, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()
