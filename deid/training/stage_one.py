"""Stage one (section 3.1): disentangle identity from expression, equations (1)–(8).

First, if asked, a warm start (`warm_start`). Then cross-face and same-face steps alternate. A step
makes two separate updates: the non-adversarial losses train En_expr and M through the generator;
then D_W learns to tell the generator's own w from M's, and M alone learns to pass, with optimizers
of their own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deid.latents.sample import draw_missing
from deid.latents.shards import LatentDataset
from deid.losses import (
    contour_loss,
    discriminator_loss,
    expression_loss,
    identity_loss,
    landmark_loss,
    latent_loss,
    mapping_adversarial_loss,
    non_adversarial_loss,
    opening_loss,
    r1_penalty,
    reconstruction_loss,
)
from deid.model import Deidentifier
from deid.nets.mappers import LatentDiscriminator
from deid.params import StageOneParams, WorldParams
from deid.pixels import to_tensor
from deid.seeds import seed_of
from deid.training.held_out import stage_one_figures
from deid.training.loop import (
    Losses,
    batch_rows,
    rate_factor,
    require_same_world,
    seeded,
    set_rate,
)
from deid.training.processes import global_losses, local_slice, mean_losses, start_fabric, take_step
from deid.training.run import run_stage
from deid.training.sheets import stage_one_sheet
from deid.training.warm_start import WarmStart
from deid.worlds import load_world
from deid.worlds.world import ContourNetwork, World

BETAS = (0.5, 0.99)


def train_stage_one(
    params: StageOneParams, world_params: WorldParams, latents: Path, out: Path
) -> None:
    """Train on the pairs in `latents`; write model, curves and a sheet of samples to `out`.

    A killed run goes on from its last checkpoint when called again, to the same bytes; see
    `start_fabric` for what several devices mean to the calling program.
    """
    draw_missing(latents, params.pairs, partial(load_world, world_params))
    run_stage(StageOne(params, load_world(world_params), latents), out)


@dataclass(frozen=True)
class Batch:
    """What a step works on: I_id, I_expr `[n,3,R,R]`, I_id's own standardized w `[n,w_dim]`."""

    identity_faces: Tensor
    attribute_faces: Tensor
    w: Tensor
    same: bool  # I_id is I_expr

    def parts(self, count: int) -> "Iterator[Batch]":
        """The batch in `count` equal parts."""
        tensors = (self.identity_faces, self.attribute_faces, self.w)
        for faces, others, w in zip(*(tensor.chunk(count) for tensor in tensors), strict=True):
            yield Batch(faces, others, w, self.same)


class StageOne:
    """En_expr, M and D_W in training."""

    name = "stage one"

    def __init__(self, params: StageOneParams, world: World, latents: Path) -> None:
        self.params = params
        self.pairs = LatentDataset(latents, params.pairs)
        require_same_world(self.pairs, world, latents)
        self.fabric = start_fabric(params)
        self.world = world = world.to(self.fabric.device)
        w_dim = world.generator.w_dim
        with seeded(seed_of("stage one/initial weights", 0, params.seed)):
            model = Deidentifier(world, params.mapping_widths, self.pairs.w_mean, self.pairs.w_std)
            discriminator = LatentDiscriminator(w_dim, params.discriminator_widths)
        self.model = model.to(self.fabric.device).to(memory_format=torch.channels_last)
        self.discriminator = discriminator.to(self.fabric.device)
        self.warm_start = WarmStart(params, self.model, self.pairs, self.fabric)
        self._make_optimizers()

    def _make_optimizers(self) -> None:
        mapping = list(self.model.mapping.parameters())
        encoder = list(self.model.expression_encoder.parameters())
        both: list[dict[str, Any]] = [
            {"params": encoder, "share": self.params.encoder_rate},
            {"params": mapping},
        ]
        adam, setup = torch.optim.Adam, self.fabric.setup_optimizers
        self.optimizer: Any = setup(adam(both, betas=(0.9, 0.99)))
        self.adversarial_optimizer: Any = setup(adam(mapping, betas=BETAS))
        self.discriminator_optimizer: Any = setup(
            adam(self.discriminator.parameters(), betas=BETAS)
        )

    def recipe(self) -> dict[str, Any]:
        """Everything that shapes the result."""
        return {
            "params": self.params.recipe(),
            "world": self.world.weights_sha256,
            "pairs": self.pairs.index.model_dump(mode="json"),
        }

    def figures(self) -> Losses:
        return stage_one_figures(self.model, self.params.batch_size)

    def save(self, folder: Path, figures: Losses) -> None:
        config = {"mapping_widths": list(self.params.mapping_widths)}
        about = {"config": config, "figures": figures, **self.recipe()}
        self.model.save_stage_one(folder, about)
        stage_one_sheet(self.model, folder / "sheet.png")

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "discriminator": self.discriminator,
            "optimizer": self.optimizer,
            "adversarial_optimizer": self.adversarial_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }

    def step(self, index: int) -> Losses:
        """Both updates on batch `index`; in the warm start its own."""
        self._set_rates(index)
        if index < self.params.warm_steps:
            return global_losses(self.fabric, self._warm_update(index))
        same = index % self.params.same_face_every == 0
        batch, real = self._batch(index, same)
        losses, code = self._non_adversarial_update(batch)
        losses |= self._discriminator_update(real, code, index)
        losses |= self._adversarial_update(code)
        return global_losses(self.fabric, losses)

    def _warm_update(self, index: int) -> Losses:
        loss = self.warm_start.loss(index)
        self._update(self.optimizer, loss)
        return {"warm": loss.item()}

    def _batch(self, index: int, same: bool) -> tuple[Batch, Tensor]:
        """This process's share n of the batch, and standardized w of other pairs `[n,w_dim]`."""
        params, device = self.params, self.fabric.device
        shape = (3, params.batch_size)
        rows = batch_rows("stage one/batch", index, params.seed, len(self.pairs), shape)
        rows = local_slice(rows, self.fabric)
        faces = to_tensor(self.pairs.images(rows[0])).to(device)
        others = faces if same else to_tensor(self.pairs.images(rows[1])).to(device)
        own, real = (torch.from_numpy(self.pairs.w(rows[i])).to(device) for i in (0, 2))
        return Batch(faces, others, self.model.standardize(own), same), self.model.standardize(real)

    def _non_adversarial_update(self, batch: Batch) -> tuple[Losses, Tensor]:
        """One step of equation (4) for En_expr and M; also returns z, detached.

        Only this update goes in parts: it draws pictures, the others see vectors.
        """
        parts, codes, count = [], [], self.params.accumulate
        self.optimizer.zero_grad(set_to_none=True)
        for part in batch.parts(count):
            losses, code = self._non_adversarial_losses(part)
            self.fabric.backward(losses["total"] / count)
            parts.append({name: loss.item() for name, loss in losses.items()})
            codes.append(code)
        take_step(self.fabric, self.optimizer)
        return mean_losses(parts), torch.cat(codes)

    def _non_adversarial_losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Equation (4), its terms and the extra ones; and z, detached."""
        params, model = self.params, self.model
        with self.fabric.autocast():
            code = model.code(batch.identity_faces, batch.attribute_faces)
            mapped = model.mapping(code)
            w = model.unstandardize(mapped)
            output = model.synthesize(w, batch.attribute_faces.shape[-1]).float()
        terms = self._terms(code.detach(), batch.attribute_faces, output, batch.same)
        weights = (params.lambda_id, params.lambda_landmark, params.lambda_reconstruct)
        total = non_adversarial_loss(terms, weights)
        names = ("identity", "landmark", "reconstruct") if batch.same else ("identity", "landmark")
        extra = self._extra_terms(batch, mapped, output)
        for weight, loss in extra.values():
            total = total + weight * loss
        losses = {"total": total, **{name: loss for name, (_, loss) in extra.items()}}
        return losses | dict(zip(names, terms, strict=False)), code.detach()

    def _extra_terms(
        self, batch: Batch, mapped: Tensor, output: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """What the paper has not: weight and loss of each term in use."""
        params, faces = self.params, batch.attribute_faces
        terms = {"expression": (params.lambda_expression, self._expression(faces, output))}
        if self.world.contours is not None:
            contours, openings = self._contours(self.world.contours, faces, output)
            terms["contours"] = (params.lambda_contours, contours)
            terms["openings"] = (params.lambda_openings, openings)
        if batch.same and params.lambda_latent > 0.0:
            terms["latent"] = (params.lambda_latent, latent_loss(batch.w, mapped.float()))
        return terms

    def _contours(
        self, network: ContourNetwork, faces: Tensor, output: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where lips and lids are, and how far mouth and eyes are open."""
        with torch.no_grad():
            points = network(faces)
        moved = network(output)
        openings = opening_loss(network.openings(points), network.openings(moved))
        return contour_loss(points, moved, faces.shape[-1]), openings

    def _terms(
        self, code: Tensor, attribute_faces: Tensor, output: Tensor, same: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """L_id, L_landmark and L_reconstruct of an output."""
        world, dim = self.world, self.world.identity.dim
        with self.fabric.autocast():
            output_code = world.identity(output).float()
        # The losses are in full precision, as MS-SSIM subtracts squares; so are the landmarks,
        # which bfloat16 knows to a whole pixel only.
        points, moved = world.landmarks(attribute_faces), world.landmarks(output)
        identity = identity_loss(code[:, :dim] / dim**0.5, output_code)
        landmark = landmark_loss(points, moved, attribute_faces.shape[-1])
        mix = reconstruction_loss(attribute_faces, output, self.params.alpha, same)
        return identity, landmark, mix

    def _expression(self, attribute_faces: Tensor, output: Tensor) -> Tensor:
        """The extra term in the features of En_expr as it was before training; 0 at weight 0."""
        if self.params.lambda_expression == 0.0:
            return output.new_zeros(())
        trunk = self.world.expression_trunk
        with self.fabric.autocast():
            wanted, features = trunk(attribute_faces), trunk(output)
        return expression_loss(wanted.float(), features.float())

    def _discriminator_update(self, real: Tensor, code: Tensor, index: int) -> Losses:
        """One step of equation (2) for D_W; R1 is lazy: rare, and as much stronger."""
        params = self.params
        with torch.no_grad():
            mapped = self.model.mapping(code)
        loss = discriminator_loss(self.discriminator(real), self.discriminator(mapped))
        losses = {"discriminator": loss.item()}
        if index % params.r1_every == 0:
            penalty = r1_penalty(self.discriminator, real)
            loss = loss + params.r1_gamma * params.r1_every * penalty
            losses["r1"] = penalty.item()
        self._update(self.discriminator_optimizer, loss)
        return losses

    def _adversarial_update(self, code: Tensor) -> Losses:
        """One step of equation (3) for M."""
        loss = mapping_adversarial_loss(self.discriminator(self.model.mapping(code)))
        self._update(self.adversarial_optimizer, loss)
        return {"adversarial": loss.item()}

    def _update(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        take_step(self.fabric, optimizer)

    def _set_rates(self, index: int) -> None:
        params = self.params
        warm = index < params.warm_steps
        phases = sorted({0, params.mapping_steps, params.warm_steps, params.steps})
        begin, end = next((a, b) for a, b in pairwise(phases) if index < b)
        factor = rate_factor(index - begin, end - begin)
        rate = params.warm_learning_rate if warm else params.learning_rate
        set_rate(self.optimizer, rate * factor)
        set_rate(self.adversarial_optimizer, params.learning_rate_adversarial * factor)
        set_rate(self.discriminator_optimizer, params.learning_rate_discriminator * factor)
