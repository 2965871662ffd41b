"""A world: one bundle of frozen networks with one interface.

Everything above `deid.worlds` (sampling, training, evaluation, anonymizing, serving) knows these
types and never which world it has. All networks take FFHQ-aligned faces, `float32 [N,3,H,W]`, RGB,
[-1, 1], of any size (each resizes to what it needs, differentiably), and are frozen and in eval
mode. Gradients flow through them to their input. Tensors are to be on the world's device; the
detector takes pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deid.faces.faces import FaceDetector
from deid.nets.style import truncate
from deid.pixels import Pixels
from deid.worlds.donors import DonorBank
from deid.worlds.head_turns import HeadTurns
from deid.worlds.looks_shifts import LooksShifts

CPU = torch.device("cpu")


class Generator(Protocol):
    """StyleGAN: z → mapping → w, w → synthesis → picture."""

    z_dim: int
    w_dim: int
    num_ws: int
    resolution: int
    w_mean: Tensor  # [w_dim], the mean of `mapping`

    def mapping(self, z: Tensor) -> Tensor:
        """`[N,z_dim]` standard normal → `w [N,w_dim]`."""
        ...

    def synthesis(self, w: Tensor) -> Tensor:
        """`w [N,w_dim]` (used at every layer) or `w+ [N,num_ws,w_dim]` → `[N,3,R,R]`."""
        ...


@runtime_checkable
class MultiScaleGenerator(Protocol):
    """A generator that draws the same w at several sizes."""

    resolutions: tuple[int, ...]  # ascending

    def synthesis(self, w: Tensor, resolution: int | None = None) -> Tensor:
        """As `Generator.synthesis`, at one of `resolutions`."""
        ...


class FaceEmbedder(Protocol):
    """A face recognizer: `[N,3,H,W]` → unit vectors `[N,dim]`; a dot product is a cosine."""

    dim: int

    def __call__(self, images: Tensor) -> Tensor: ...


class LandmarkNetwork(Protocol):
    """68 landmarks (iBUG order) in pixels of the input, x first: `[N,3,H,W]` → `[N,68,2]`."""

    def __call__(self, images: Tensor) -> Tensor: ...


class ContourNetwork(Protocol):
    """Points on lips and eyelids, in pixels of the input: `[N,3,H,W]` → `[N,P,2]`, x first."""

    dim: int  # of `code`

    def __call__(self, images: Tensor) -> Tensor: ...

    def openings(self, points: Tensor) -> Tensor:
        """How far mouth and eyes are open, `[N,P,2]` → `[N,K]`, in spreads over faces."""
        ...

    def code(self, images: Tensor) -> Tensor:
        """What M is told of them: `[N,3,H,W]` → `[N,dim]`, each spread by about 1."""
        ...


SEX = 1
"""Which of a person's looks is the sex: how sure it is that it is a man, in thirds of certainty."""


class LooksNetwork(Protocol):
    """What a donor should have in common with the person: `[N,3,H,W]` → `[N,K]`, in units in which
    1 is a difference that one sees; number `SEX` is the sex."""

    def __call__(self, images: Tensor) -> Tensor: ...

    def age_and_sex(self, images: Tensor) -> Tensor:
        """Years, and how likely a man is shown, `[N,2]`."""
        ...


@runtime_checkable
class LooksOfIdentity(Protocol):
    """Looks that En_id's own network tells in the pass that makes its code."""

    def with_code(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """En_id's unit vectors `[N,dim]`, and the looks `[N,K]`."""
        ...


class PerceptualNetwork(Protocol):
    """Features in which pictures are compared."""

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Perceptual distance of each pair, `[N]`, 0 for equal pictures."""
        ...


class MetricNetwork(PerceptualNetwork, Protocol):
    """Measures every figure of a report that compares faces; has no part in training.

    FID is that of `pooled`, LPIPS is `distance`.
    """

    fid_label: str  # how a report must call the FID computed in these features
    lpips_label: str

    def pooled(self, images: Tensor) -> Tensor:
        """`[N,3,H,W]` → `[N,D]`."""
        ...

    def expression(self, images: Tensor) -> Tensor:
        """Features in which faces of like expression lie close, `[N,3,H,W]` → `[N,K]`."""
        ...


Domain = Literal["rendered people", "photographs"]

RegionName = Literal["face", "head", "portrait"]
"""What a new face replaces: brow to chin; the forehead and its hairline as well; or all that is
drawn about it, hair and background too."""


@dataclass(frozen=True)
class TestFaces:
    """Held-out aligned faces, no identity of which was seen in any training."""

    pixels: Pixels  # uint8 [N,R,R,3]
    identities: NDArray[np.int64]  # [N]


@dataclass(frozen=True)
class World:
    """The bundle. Paper names in brackets.

    A network that had part in training or in the choice of a champion reports no figure:
    `perceptual` trains and `metric_features` measures; the recognizer `selecting` picks the
    champion and `reporting` names those of the tables.
    """

    name: str
    resolution: int
    generator: Generator  # G
    identity: FaceEmbedder  # En_id, the attacked recognizer (VGGFace2 ResNet-50)
    expression_trunk: nn.Module  # En_expr before fine-tuning (Inception-V3): images → [N,dim]
    expression_dim: int
    landmarks: LandmarkNetwork  # En_lnd
    detector: FaceDetector  # detection rate (MTCNN)
    held_out: Mapping[str, FaceEmbedder]  # ID similarity (ArcFace); never used in training
    selecting: str  # the one of `held_out` that training logs and promotion gates look at
    perceptual: PerceptualNetwork  # the perceptual term of stage two; no figure of a report
    metric_features: MetricNetwork  # FID, LPIPS, expression of reports; no part in any training
    test_faces: Callable[[int, int, int], TestFaces]  # (identities, views each, seed)
    weights_sha256: str  # one hash over every weight file, for provenance
    domain: Domain  # what its networks have seen; of other pictures they know nothing
    truncation: float = 1.0  # ψ of pairs, donors and drawn test faces alike
    device: torch.device = CPU  # where the networks compute
    photographed: bool = False  # test_faces come from files and not from the weights
    samples: frozenset[str] = frozenset()  # `picture_sha256` of pictures known to be in the domain
    calibration: Path | None = None  # a file of thresholds that comes with the weights
    contours: ContourNetwork | None = None  # lips and eyelids, of which 68 landmarks tell little
    looks: LooksNetwork | None = None  # by which donors are chosen, where there is a bank of them
    donors: DonorBank | None = None
    donors_sha256: str = ""  # of their bank, with which a stage need not have been trained
    turns: HeadTurns | None = None  # which way w goes when a head turns
    turns_sha256: str = ""  # of their file, of which no stage knows
    shifts: LooksShifts | None = None  # which way w goes when somebody looks older, or otherwise
    shifts_sha256: str = ""  # as of turns
    region: RegionName = "head"  # what a new face replaces, if nobody says otherwise
    memory: Path | None = None  # a folder for what was measured of these very weights
    standard: MetricNetwork | None = None  # FID and LPIPS as everybody has them, beside its own
    ensemble: Mapping[str, FaceEmbedder] = field(default_factory=dict)  # attacked beside En_id
    stage_sha256: str = ""  # of what a trained stage runs through, where judges may vary: G, En_id

    @property
    def trained_for(self) -> str:
        """The hash that a trained stage must have been made for."""
        return self.stage_sha256 or self.weights_sha256

    @property
    def companions(self) -> dict[str, str]:
        """Hashes of what draws beside trained stages and comes with no version of them: the bank,
        and the directions in which heads turn and looks shift."""
        return {
            "donors": self.donors_sha256,
            "turns": self.turns_sha256,
            "shifts": self.shifts_sha256,
        }

    @property
    def reporting(self) -> tuple[str, ...]:
        """The held-out recognizers whose figures are reported: all but the selecting one.

        Empty where there is only one; its figures are then no independent evidence.
        """
        return tuple(name for name in self.held_out if name != self.selecting)

    @property
    def attacked(self) -> tuple[FaceEmbedder, ...]:
        """The recognizers that methods learn to fool, En_id first; they judge no output."""
        return (self.identity, *self.ensemble.values())

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The sides at which the generator draws, ascending."""
        if isinstance(self.generator, MultiScaleGenerator):
            return self.generator.resolutions
        return (self.generator.resolution,)

    def code_and_looks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What En_id says of `[N,3,H,W]`, and the looks, where the world measures them; in one pass
        where one network tells both."""
        assert self.looks is not None
        if isinstance(self.looks, LooksOfIdentity):
            return self.looks.with_code(images)
        return self.identity(images), self.looks(images)

    def draw(self, w: Tensor, side: int | None = None) -> Tensor:
        """G(w), w or w+: `[N,3,R,R]`, about [-1, 1].

        R is the world's own resolution, or the smallest that holds pictures of `side` pixels.
        """
        generator = self.generator
        if side is None or not isinstance(generator, MultiScaleGenerator):
            return generator.synthesis(w)
        held = [r for r in generator.resolutions if r >= side]
        return generator.synthesis(w, held[0] if held else generator.resolutions[-1])

    def truncated_mapping(self, z: Tensor) -> Tensor:
        """`z [N,z_dim]` → `w [N,w_dim]`, truncated by the world's ψ."""
        return truncate(self.generator.mapping(z), self.generator.w_mean, self.truncation)

    def to(self, device: torch.device) -> "World":
        """The same world on `device`; its networks are moved, not copied."""
        parts = (self.generator, self.identity, self.landmarks, self.expression_trunk)
        features = (self.perceptual, self.metric_features, self.standard)
        recognizers = (*self.ensemble.values(), *self.held_out.values())
        tellers = (self.contours, self.looks, self.donors, self.turns, self.shifts, *recognizers)
        for network in (*parts, *features, *tellers):
            if isinstance(network, nn.Module):
                network.to(device)
        return replace(self, device=device)
