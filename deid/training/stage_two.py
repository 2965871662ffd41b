"""Stage two (section 3.2): the adversarial mapping M_adv, equations (9)–(12).

Same-face only, everything but M_adv frozen. The attacked recognizers (`World.attacked`) see each
adversarial picture slightly moved, resized, mirrored and relit at random (input diversity, Xie et
al. 2019), so that what fools them fools recognizers that nobody attacked.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deid.diversity import diversify, draw_changes
from deid.errors import DeidError
from deid.latents.shards import LatentDataset
from deid.losses import (
    adversarial_mapping_loss,
    looks_loss,
    model_identity_loss,
    visual_identity_loss,
)
from deid.model import Deidentifier
from deid.params import StageTwoParams, WorldParams
from deid.pixels import to_tensor
from deid.seeds import seed_of, torch_generator
from deid.stage_files import read_description
from deid.training.alike import AlikeLoss
from deid.training.held_out import stage_two_figures
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
from deid.training.sheets import stage_two_sheet
from deid.worlds import load_world
from deid.worlds.world import World

WARM_RATE = 1e-3
"""Adam's, in the first steps."""


def train_stage_two(
    params: StageTwoParams, world_params: WorldParams, latents: Path, stage_one: Path, out: Path
) -> None:
    """Train on the images in `latents` and the model in `stage_one`; write to `out`.

    A killed run goes on from its last checkpoint when called again, to the same bytes; see
    `start_fabric` for what several devices mean to the calling program.
    """
    run_stage(StageTwo(params, load_world(world_params), latents, stage_one), out)


class StageTwo:
    """M_adv in training."""

    name = "stage two"

    def __init__(
        self, params: StageTwoParams, world: World, latents: Path, stage_one: Path
    ) -> None:
        self.params = params
        self.pairs = LatentDataset(latents)
        require_same_world(self.pairs, world, latents)
        if (params.warm_steps or params.lambda_alike) and (
            world.donors is None or world.looks is None
        ):
            raise DeidError(
                "stage_two: this world has no bank of donors; write 0 for warm_steps, lambda_alike"
            )
        self.model = Deidentifier.load(stage_one, None, world)
        self.fabric = start_fabric(params)
        self.world = world.to(self.fabric.device)
        self.stage_one_sha256 = str(read_description(stage_one)["sha256"])
        with seeded(seed_of("stage two/initial weights", 0, params.seed)):
            self.model.attach(params.adversarial_widths, params.delta)
        self.model.to(self.fabric.device)
        assert self.model.adversarial_mapping is not None
        self.mapping = self.model.adversarial_mapping
        self.alike = AlikeLoss(self.model, self.pairs, self.fabric, params.seed)
        adam = torch.optim.Adam(self.mapping.parameters(), betas=(0.9, 0.99))
        self.optimizer: Any = self.fabric.setup_optimizers(adam)

    def recipe(self) -> dict[str, Any]:
        """Everything that shapes the result."""
        return {
            "params": self.params.recipe(),
            "world": self.world.weights_sha256,
            "pairs": self.pairs.index.model_dump(mode="json"),
            "stage_one_sha256": self.stage_one_sha256,
            "donors": self.world.donors_sha256,  # who show the way to people who are alike
        }

    def figures(self) -> Losses:
        return stage_two_figures(self.model, self.params.batch_size)

    def save(self, folder: Path, figures: Losses) -> None:
        params = self.params
        config = {"adversarial_widths": list(params.adversarial_widths), "delta": params.delta}
        about = {"config": config, "figures": figures, **self.recipe()}
        self.model.save_stage_two(folder, about)
        stage_two_sheet(self.model, folder / "sheet.png")

    def state(self) -> dict[str, Any]:
        return {"adversarial_mapping": self.mapping, "optimizer": self.optimizer}

    def step(self, index: int) -> Losses:
        """One step of equation (12), with the extra terms, for M_adv; in the warm start its own."""
        params, parts, count = self.params, [], self.params.accumulate
        warm = params.warm_steps
        if index < warm:
            return self._warm_step(index)
        factor = rate_factor(index - warm, params.steps - warm)
        set_rate(self.optimizer, params.learning_rate * factor)
        faces, changes = self._batch(index)
        self.optimizer.zero_grad(set_to_none=True)
        for chunk in zip(faces.chunk(count), changes.chunk(count, -1), strict=True):
            losses = self._losses(index, *chunk)
            self.fabric.backward(losses["total"] / count)
            parts.append({name: loss.item() for name, loss in losses.items()})
        take_step(self.fabric, self.optimizer)
        return global_losses(self.fabric, mean_losses(parts))

    def _warm_step(self, index: int) -> Losses:
        """One step towards people who are alike (`AlikeLoss`)."""
        set_rate(self.optimizer, WARM_RATE * rate_factor(index, self.params.warm_steps))
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.alike(index)
        self.fabric.backward(loss)
        take_step(self.fabric, self.optimizer)
        return global_losses(self.fabric, {"alike": loss.item()})

    def _batch(self, index: int) -> tuple[Tensor, Tensor]:
        """This process's share n of the batch: faces `[n,3,R,R]` and their changes `[7,n]`."""
        seed, size = self.params.seed, self.params.batch_size
        rows = batch_rows("stage two/batch", index, seed, len(self.pairs), (size,))
        faces = to_tensor(self.pairs.images(local_slice(rows, self.fabric))).to(self.fabric.device)
        changes = draw_changes(size, torch_generator("stage two/diversity", index, seed))
        return faces, local_slice(changes, self.fabric)

    def _losses(self, index: int, faces: Tensor, changes: Tensor) -> dict[str, Tensor]:
        """Equation (12) with the extra terms in use, and each of them."""
        params, world, side = self.params, self.world, faces.shape[-1]
        with self.fabric.autocast():
            with torch.no_grad():
                w = self.model.latent(faces, faces)
                reconstruction = self.model.synthesize(w, side).float()
                codes = [recognizer(faces).float() for recognizer in world.attacked]
            output = self.model.synthesize(self.model.adversarial_latent(w), side).float()
            seen = diversify(output, changes)
            output_codes = [recognizer(seen).float() for recognizer in world.attacked]
        # In full precision: bfloat16 knows landmarks to a whole pixel only, and a small distance
        # of features is a difference of nearly equal numbers.
        with torch.no_grad():
            points = world.landmarks(faces)
        output_points = world.landmarks(output)
        perceptual = world.perceptual.distance(reconstruction, output).mean()
        pairs = zip(codes, output_codes, strict=True)
        known = [model_identity_loss(*pair, params.similarity_floor) for pair in pairs]
        model = torch.stack(known).mean()
        visual = visual_identity_loss(points, output_points, faces.shape[-1])
        total = adversarial_mapping_loss((model, visual), (params.lambda_id, params.lambda_visual))
        total = total + params.lambda_perceptual * perceptual
        losses = {"similarity": model, "visual": visual, "perceptual": perceptual}
        if world.looks is not None and params.lambda_looks:
            with torch.no_grad():
                looks = world.looks(faces)
            losses["looks"] = looks_loss(looks, world.looks(output))
            total = total + params.lambda_looks * losses["looks"]
        if params.lambda_alike:
            losses["alike"] = self.alike(index)
            total = total + params.lambda_alike * losses["alike"]
        return {"total": total, **losses}
