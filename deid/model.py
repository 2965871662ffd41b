"""The network of the paper's figure 1: two encoders, M, M_adv and the generator.

The world's networks stay frozen and are no part of the model's state; what a stage trains is. Its
files are `deid.stage_files`; where it departs from the paper, `docs/paper.md`.
"""

import copy
from collections.abc import Mapping as Dictionary
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from deid.errors import DeidError
from deid.nets.mappers import AdversarialMapping, Mapping
from deid.stage_files import damaged, read_stage, write_stage
from deid.worlds.world import World

ADVERSARIAL = "adversarial_mapping."


class Deidentifier(nn.Module):
    """Figure 1. Faces are FFHQ-aligned `[N,3,H,W]` in [-1, 1] of any size; so are the pictures
    it returns, at the world's resolution.

    Attributes, in the paper's words: `expression_encoder` En_expr, `mapping` M,
    `adversarial_mapping` M_adv (None after stage one); En_id, En_lnd and G are `world`'s.
    `w_mean` and `w_std` `[w_dim]` are the moments of the generator's w, in which M and M_adv work.
    """

    w_mean: Tensor
    w_std: Tensor

    def __init__(
        self, world: World, mapping_widths: Sequence[int], w_mean: Tensor, w_std: Tensor
    ) -> None:
        super().__init__()
        self.world = world
        # Its batch norms keep the statistics they were pretrained with: batches here are small.
        self.expression_encoder = copy.deepcopy(world.expression_trunk).eval().requires_grad_(True)
        z_dim = world.identity.dim + world.expression_dim
        z_dim += world.contours.dim if world.contours else 0
        self.mapping = Mapping(z_dim, mapping_widths, world.generator.w_dim)
        self.adversarial_mapping: AdversarialMapping | None = None
        self.register_buffer("w_mean", w_mean.clone().float())
        self.register_buffer("w_std", w_std.clone().float())

    def train(self, mode: bool = True) -> Self:
        """Nothing here behaves differently in training."""
        return super().train(False)

    def code(self, identity_faces: Tensor, attribute_faces: Tensor) -> Tensor:
        """Equation (1): z = [En_id(I_id), En_expr(I_expr)], `[N,z_dim]`; in a world that has them
        also I_expr's lips and lids (not in the paper), as averaged features hardly tell them.

        The identity part is scaled to unit variance, as unit vectors are tiny in each component.
        """
        identity = self.world.identity(identity_faces)
        return self.joined(identity, self.expression(attribute_faces))

    def expression(self, faces: Tensor) -> Tensor:
        """The part of z that tells the expression of faces, `[N,z_dim - dim]`."""
        parts = [self.expression_encoder(faces)]
        if self.world.contours is not None:
            with torch.no_grad():
                parts.append(self.world.contours.code(faces))
        return torch.cat(parts, 1)

    def joined(self, identity: Tensor, expression: Tensor) -> Tensor:
        """z of its parts: En_id's unit vectors `[N,dim]`, and `expression`."""
        return torch.cat([identity * identity.shape[1] ** 0.5, expression], 1).float()

    def latent(self, identity_faces: Tensor, attribute_faces: Tensor) -> Tensor:
        """w = M(z), `[N,w_dim]`."""
        return self.latent_of(self.world.identity(identity_faces), attribute_faces)

    def latent_of(self, identity: Tensor, attribute_faces: Tensor) -> Tensor:
        """As `latent`, of people of whom only En_id's unit vectors `[N,dim]` are known."""
        return self.latent_from(identity, self.expression(attribute_faces))

    def latent_from(self, identity: Tensor, expression: Tensor) -> Tensor:
        """w of both parts of z."""
        return self.unstandardize(self.mapping(self.joined(identity, expression)))

    def adversarial_latent(self, w: Tensor) -> Tensor:
        """w_adv = Clip_δ(M_adv(w), w), equation (10), `[N,w_dim]`; needs stage two."""
        if self.adversarial_mapping is None:
            raise DeidError("no adversarial mapping: load stage two, or train it first")
        return self.unstandardize(self.adversarial_mapping(self.standardize(w)))

    def standardize(self, w: Tensor) -> Tensor:
        """w in standard deviations from the generator's mean w."""
        return (w - self.w_mean) / self.w_std.clamp_min(1e-6)

    def unstandardize(self, w: Tensor) -> Tensor:
        """The inverse of `standardize`."""
        return w * self.w_std.clamp_min(1e-6) + self.w_mean

    def synthesize(self, w: Tensor, side: int | None = None) -> Tensor:
        """G(w) as the generator gives it, `[N,3,R,R]`; may leave [-1, 1] a little.

        R is the world's resolution, or what holds `side` pixels where its generator has a choice.
        """
        return self.world.draw(w, side)

    @torch.no_grad()
    def swap(self, donors: Tensor, faces: Tensor) -> Tensor:
        """The donors' identity with the faces' expression, pose and light."""
        return self.synthesize(self.latent(donors, faces), faces.shape[-1]).clamp(-1.0, 1.0)

    @torch.no_grad()
    def reconstruct(self, faces: Tensor) -> Tensor:
        """The faces as the generator draws them."""
        return self.swap(faces, faces)

    @torch.no_grad()
    def adversarial(self, faces: Tensor) -> Tensor:
        """The same persons to a human, others to a recognizer: I_adv. Needs stage two."""
        w = self.adversarial_latent(self.latent(faces, faces))
        return self.synthesize(w, faces.shape[-1]).clamp(-1.0, 1.0)

    @classmethod
    def load(cls, stage_one: Path, stage_two: Path | None, world: World) -> "Deidentifier":
        """The trained model, from the directories of its stages, frozen.

        Raises `DeidError` where a file is missing or damaged, or parts do not belong together.
        """
        about, tensors = read_stage(stage_one, "stage_one", world)
        try:
            widths = about["config"]["mapping_widths"]
            model = cls(world, widths, tensors["w_mean"], tensors["w_std"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise damaged(stage_one, error) from None
        if stage_two is not None:
            about_two, tensors_two = read_stage(stage_two, "stage_two", world)
            if about_two.get("stage_one_sha256") != about["sha256"]:
                raise DeidError(
                    f"{stage_two}: trained on another stage one than {stage_one}; run `dvc repro`"
                )
            try:
                model.attach(**about_two["config"])
            except (TypeError, ValueError, RuntimeError) as error:
                raise damaged(stage_two, error) from None
            tensors |= tensors_two
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise DeidError(f"{stage_one}: weights do not fit: {error}; train it again") from None
        return model.requires_grad_(False).to(world.device)

    def attach(self, adversarial_widths: Sequence[int], delta: float) -> AdversarialMapping:
        """Give the model a fresh M_adv, with which w_adv = w, and return it."""
        w_dim = self.world.generator.w_dim
        self.adversarial_mapping = AdversarialMapping(w_dim, adversarial_widths, delta)
        return self.adversarial_mapping.to(self.w_mean.device)

    def save_stage_one(self, folder: Path, about: Dictionary[str, Any]) -> None:
        """Write En_expr, M and the moments of w, with `about` in the description."""
        own = {k: v for k, v in self.state_dict().items() if not k.startswith(ADVERSARIAL)}
        write_stage(folder, "stage_one", self.world, own, about)

    def save_stage_two(self, folder: Path, about: Dictionary[str, Any]) -> None:
        """Write M_adv, with `about` in the description."""
        own = {k: v for k, v in self.state_dict().items() if k.startswith(ADVERSARIAL)}
        write_stage(folder, "stage_two", self.world, own, about)
