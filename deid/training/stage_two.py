"""Stage two (section 3.2): the adversarial mapping M_adv, equations (9)–(12).

Same-face only, everything but M_adv frozen. The attacked recogniser sees each adversarial picture
slightly moved, resized, mirrored and relit at random (input diversity, Xie et al. 2019), so that
what fools it fools recognisers that nobody attacked.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deid.images import to_tensor
from deid.latents.shards import LatentDataset
from deid.losses import adversarial_mapping_loss, model_identity_loss, visual_identity_loss
from deid.model import Deidentifier, read_description
from deid.params import StageTwoParams, WorldParams
from deid.seeds import seed_of, torch_generator
from deid.staging import resumable_directory
from deid.training.checkpoint import remove_checkpoint
from deid.training.figures import stage_two_figures
from deid.training.loop import (
    Losses,
    batch_rows,
    move_world,
    rate_factor,
    require_same_world,
    rounded,
    seeded,
    set_rate,
    start_fabric,
    train,
)
from deid.training.sheets import draw_curves, stage_two_sheet
from deid.worlds import load_world
from deid.worlds.world import World


def train_stage_two(
    params: StageTwoParams, world_params: WorldParams, latents: Path, stage_one: Path, out: Path
) -> None:
    """Train on the images in `latents` and the model in `stage_one`; write to `out`.

    A killed run goes on from its last checkpoint when called again, to the same bytes.
    """
    from deid.tracking import tracked_run

    world = load_world(world_params)
    stage = StageTwo(params, world, latents, stage_one)
    with resumable_directory(out, stage.recipe()) as working:
        with tracked_run("stage_two", params.model_dump(mode="json"), resume=working) as tracker:
            train(stage, working, tracker)
            figures = rounded(stage_two_figures(stage.model))
            tracker.metrics(params.steps, **figures)
            stage.model.save_stage_two(working, stage.about(figures))
            draw_curves(working / "losses.png", working / "losses.csv", "Stage two")
            stage_two_sheet(stage.model, working / "sheet.png")
            for name in ("losses.png", "sheet.png", "model.json"):
                tracker.artifact(working / name)
        remove_checkpoint(working)


class StageTwo:
    """M_adv in training."""

    name = "stage two"

    def __init__(
        self, params: StageTwoParams, world: World, latents: Path, stage_one: Path
    ) -> None:
        self.params, self.world = params, world
        self.pairs = LatentDataset(latents)
        require_same_world(self.pairs, world, latents)
        self.fabric = start_fabric(params.threads, params.precision)
        move_world(world, self.fabric.device)
        self.model = Deidentifier.load(stage_one, None, world)
        self.stage_one_sha256 = str(read_description(stage_one)["sha256"])
        with seeded(seed_of("stage two/initial weights", 0, params.seed)):
            self.model.attach(params.adversarial_widths, params.delta)
        self.model.to(self.fabric.device)
        assert self.model.adversarial_mapping is not None
        self.mapping = self.model.adversarial_mapping
        adam = torch.optim.Adam(self.mapping.parameters(), betas=(0.9, 0.99))
        self.optimiser: Any = self.fabric.setup_optimizers(adam)

    def recipe(self) -> dict[str, Any]:
        """Everything that shapes the result."""
        return {
            "params": self.params.model_dump(mode="json"),
            "world": self.world.weights_sha256,
            "pairs": self.pairs.index.model_dump(mode="json"),
            "stage_one_sha256": self.stage_one_sha256,
        }

    def about(self, figures: Losses) -> dict[str, Any]:
        """What `model.json` says."""
        params = self.params
        config = {"adversarial_widths": list(params.adversarial_widths), "delta": params.delta}
        return {"config": config, "figures": figures, **self.recipe()}

    def state(self) -> dict[str, Any]:
        return {"adversarial_mapping": self.mapping, "optimiser": self.optimiser}

    def step(self, index: int) -> Losses:
        """One step of equation (12), with the extra term of human likeness, for M_adv."""
        params, world = self.params, self.world
        set_rate(self.optimiser, params.learning_rate * rate_factor(index, params.steps))
        rows = batch_rows(
            "stage two/batch", index, params.seed, len(self.pairs), (params.batch_size,)
        )
        faces = to_tensor(self.pairs.images(rows)).to(self.fabric.device)
        random = torch_generator("stage two/diversity", index, params.seed)
        with self.fabric.autocast():
            with torch.no_grad():
                w = self.model.latent(faces, faces)
                reconstruction = self.model.synthesise(w).float()
                points, code = world.landmarks(faces), world.identity(faces)
            output = self.model.synthesise(self.model.adversarial_latent(w)).float()
            output_code = world.identity(diversify(output, random))
            output_points = world.landmarks(output)
            perceptual = world.perceptual.distance(reconstruction, output).mean()
        model = model_identity_loss(code, output_code, params.similarity_floor)
        visual = visual_identity_loss(points, output_points, faces.shape[-1])
        total = adversarial_mapping_loss((model, visual), (params.lambda_id, params.lambda_visual))
        total = total + params.lambda_perceptual * perceptual
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(total)
        self.optimiser.step()
        losses = {"total": total, "similarity": model, "visual": visual, "perceptual": perceptual}
        return {name: loss.item() for name, loss in losses.items()}


def diversify(images: Tensor, random: torch.Generator) -> Tensor:
    """`[N,3,H,W]`, each moved by up to 4 %, resized by up to 8 %, turned by up to 4°, half of them
    mirrored, with brightness and contrast changed by up to 10 %. Differentiable."""
    count = len(images)

    def uniform(reach: float) -> Tensor:
        return (torch.rand(count, generator=random) * 2.0 - 1.0) * reach

    scale, angle = 1.0 + uniform(0.08), uniform(0.07)
    mirror = torch.sign(uniform(1.0))
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0], affine[:, 0, 1] = scale * angle.cos() * mirror, -scale * angle.sin()
    affine[:, 1, 0], affine[:, 1, 1] = scale * angle.sin() * mirror, scale * angle.cos()
    affine[:, 0, 2], affine[:, 1, 2] = uniform(0.08), uniform(0.08)
    contrast, brightness = 1.0 + uniform(0.1), uniform(0.1)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False).to(images)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved * _as_pictures(contrast, images) + _as_pictures(brightness, images)


def _as_pictures(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images)[:, None, None, None]
