"""`params.yaml` as types: one class a section, and no key that means nothing.

A stage reads its own section and `world`, nothing else, so DVC reruns only what a change touches.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from deid.errors import DeidError

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0.0, lt=1.0)]
Weight = Annotated[float, Field(ge=0.0)]
Truncation = Annotated[float, Field(gt=0.0, le=1.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Hidden = tuple[Positive, Positive, Positive]  # hidden widths of a four-layer perceptron
Attributes = Annotated[tuple[Literal["age", "sex", "skin", "pose"], ...], Field(min_length=1)]
Precision = Literal["32-true", "bf16-mixed"]


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError("the first must be less than the second")
    return bounds


class Section(BaseModel):
    """A section of params.yaml: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation is not bool:  # pydantic takes it for 0 or 1
            raise ValueError("true and false are not values of this key")
        return value


class WorldParams(Section):
    """Which pretrained networks everything runs on."""

    name: Literal["mini", "photo", "ffhq"] = "mini"
    weights: Path = Path("data/mini/weights")  # mini: its networks; else what DVC watches
    resolution: Literal[128, 256, 512, 1024] = 256  # photo: side of the pictures G draws
    commercial: bool = False  # not mini: refuse every file whose license forbids commercial use
    # Not mini: role → other files of `deid weights list`, or paths of converted ones.
    files: dict[str, tuple[str, ...]] = {}
    faces: Path | None = None  # not mini: aligned test faces, a folder a person; None: drawn by G
    truncation: Truncation = 1.0  # ψ of all faces drawn by G: pairs, donors, test faces

    @field_validator("files", mode="before")
    @classmethod
    def _one_is_a_list_too(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {role: (name,) if isinstance(name, str) else name for role, name in value.items()}


class SampleParams(Section):
    """The (image, w) pairs: 70,000 in the paper."""

    count: Positive = 70_000
    seed: int = 0
    shard_size: Positive = 5_000
    batch_size: Positive = 50
    workers: Positive = 2
    rendered: Positive | None = None  # so many pictures at once, others when asked for; None: all
    resolution: Positive | None = None  # of the pairs, where the world has a choice; None: its own
    truncation: Truncation | None = None  # its earlier place; see `WorldParams`


class ValidateParams(Section):
    """What the sampled pairs must satisfy before anything is trained on them."""

    images: Positive = 2_000
    min_detection_rate: Share = 0.98
    max_duplicates: int = Field(default=0, ge=0)
    # Darkest and lightest mean of an image.
    brightness: Annotated[tuple[Share, Share], AfterValidator(_ascending)] = (0.08, 0.92)
    min_contrast: Share = 0.03  # deviation of an image's gray values, white being 1
    min_in_range: Share = 0.999  # share of the images within these ranges
    max_w_abs_mean: Weight = 20.0
    min_w_std: Weight = 0.01


class SpreadParams(Section):
    """How a training is spread over devices and passes. The result is the same within float error,
    so a run may go on with other values, and none of them is part of what it is known by.

    Each step takes `batch_size` faces in all: every device an equal share, in `accumulate` equal
    parts, one after the other, to need less memory.
    """

    devices: Positive = 1
    strategy: Literal["auto", "ddp"] = "auto"  # auto: ddp where there are several devices
    accumulate: Positive = 1

    @field_validator("batch_size", check_fields=False)
    @classmethod
    def _equal_parts(cls, size: int, info: ValidationInfo) -> int:
        parts = info.data.get("devices", 1) * info.data.get("accumulate", 1)
        if size % parts:
            raise ValueError(f"must be a multiple of devices × accumulate, {parts}")
        return size

    def recipe(self) -> dict[str, Any]:
        """The settings that shape the result, as JSON: not how it is spread or kept."""
        unshaped = {*SpreadParams.model_fields, "checkpoint_every"}
        return self.model_dump(mode="json", exclude=unshaped)


class StageOneParams(SpreadParams):
    """Disentanglement: equations (1)–(8)."""

    seed: int = 0
    pairs: Positive | None = None  # so many of the sampled ones; None: those with a picture
    steps: Positive = 1_500
    batch_size: Positive = 16
    threads: Positive = 2
    precision: Precision = "32-true"
    mapping_widths: Hidden = (512, 512, 512)
    discriminator_widths: Hidden = (256, 128, 64)
    learning_rate: Rate = 1e-3
    learning_rate_adversarial: Rate = 2e-4
    learning_rate_discriminator: Rate = 4e-4
    lambda_id: Weight = 1.0  # λ1
    lambda_landmark: Weight = 0.06  # λ2, for squared hundredths of the picture's side
    lambda_reconstruct: Weight = 2.0  # λ3
    lambda_expression: Weight = 0.1  # not in the paper: gaze and light, which no landmark shows
    lambda_contours: Weight = 0.08  # not in the paper: lips and lids, where a world has them
    lambda_openings: Weight = 0.3  # not in the paper: how far mouth and eyes are open
    lambda_latent: Weight = 0.0  # not in the paper: the same face's own w
    warm_steps: int = Field(default=0, ge=0)  # of `steps`: on w alone, without the generator
    mapping_steps: int = Field(default=0, ge=0)  # the first of these, for M alone
    mapping_batch_size: Positive = 256
    warm_batch_size: Positive = 24
    warm_learning_rate: Rate = 1e-3
    encoder_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # En_expr's rate, in those of M
    alpha: Share = 0.84  # α of equation (8)
    r1_gamma: Weight = 10.0  # γ of equation (2)
    r1_every: Positive = 4
    same_face_every: Positive = 2
    checkpoint_every: Positive = 200


class StageTwoParams(SpreadParams):
    """The adversarial mapping: equations (9)–(12)."""

    seed: int = 0
    steps: Positive = 400
    warm_steps: Annotated[int, Field(ge=0)] = 0  # of these, on w alone; needs a bank of donors
    batch_size: Positive = 16
    threads: Positive = 2
    precision: Precision = "32-true"
    adversarial_widths: Hidden = (512, 512, 512)
    learning_rate: Rate = 1e-3
    delta: Annotated[float, Field(gt=0.0)] = 1.5  # δ of equation (10), in deviations of w
    lambda_id: Weight = 1.0  # λ4
    lambda_visual: Weight = 0.06  # λ5, for squared hundredths of the picture's side
    lambda_perceptual: Weight = 2.0  # not in the paper: likeness to a human's eye
    lambda_looks: Weight = 0.0  # nor this: age, sex, skin, where the world has a measure of them
    lambda_alike: Weight = 0.0  # nor this: the way to people who are alike; needs a bank of donors
    similarity_floor: Annotated[float, Field(ge=-1.0, le=1.0)] = -0.2  # lower is no better
    checkpoint_every: Positive = 200


class AnonymizeParams(Section):
    """Settings of the methods; ε in units of the full intensity range [0, 1], as in the paper."""

    fgsm_epsilon: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    pgd_epsilon: Annotated[float, Field(gt=0.0, le=1.0)] = 0.03
    pgd_steps: Positive = 10
    blur_sigma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.12  # of the crop's side
    pixelate_blocks: Annotated[int, Field(ge=1, le=16)] = 6  # across the crop
    swap_max_similarity: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.3  # of donor and original
    swap_tries: Annotated[int, Field(ge=1, le=64)] = 8  # donors drawn before the best is taken
    swap_donors: Literal["alike", "any"] = "alike"  # to the person, where there is a bank
    swap_steps: Annotated[int, Field(ge=0, le=200)] = 0  # by the gradient, after M's answer
    adversarial_steps: Annotated[int, Field(ge=0, le=500)] = 0  # of inversion, before M_adv
    adversarial_stretch: Annotated[float, Field(ge=1.0, le=4.0)] = 1.0  # further than M_adv's w
    # Perceptual distance of M_adv's way, at most; None: δ alone is a bound.
    adversarial_distance: Annotated[float, Field(gt=0.0)] | None = None
    # Of swap and adversarial: how far from the person's own code, or w, to the other one.
    strength: Share = 1.0
    swap_keep: Attributes = ("age", "sex", "skin")  # in common with the person
    swap_pool: Annotated[int, Field(ge=4)] | None = None  # donors for everybody; None: all


class EvaluateParams(Section):
    """Tables 1–3 on held-out faces."""

    identities: Annotated[int, Field(ge=2)] = 250
    views: Positive = 4
    seeds: Positive = 3
    batch_size: Positive = 50
    methods: tuple[str, ...] = ()  # further rows: of `deid run --method`, inversion, or pgd-0.03


class AttackParams(Section):
    """Attacks on what the trained methods make of held-out people, as `deid run` does it."""

    identities: Annotated[int, Field(ge=2)] = 20
    views: Positive = 2  # of each; A1 needs two
    seed: int = 0
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = ("swap", "adversarial")
    # Besides A0, who always does; A2 and A3 learn, and need 8 people; A3+ 24.
    attackers: tuple[Literal["A0", "A0b", "A1", "A2", "A3", "A3+", "A4"], ...] = ("A0", "A1", "A4")


class Gates(Section):
    """What a challenger must reach in `reports/metrics.json` to become champion."""

    # Of `adversarial` in table 1 and `swap` in table 2, as the selecting recognizer sees them.
    max_id_similarity: float = 0.5
    max_reidentification: Share = 0.05
    min_detect_rate: Share = 0.99
    max_source_id_loss: float = 0.1  # of `swap`
    max_fid: Annotated[float, Field(gt=0.0)] = 5.0  # of either, in the world's own features
    # How many times as long as the champion's a face may take, timed in turn on the same faces on
    # the machine that promotes; None: not timed.
    max_slowdown: Annotated[float, Field(ge=1.0)] | None = 1.5
    # How much worse than the best champion ever any of them may be, as a share of its limit.
    max_regression: Weight = 0.1


class RegisterParams(Section):
    """The model registry."""

    model: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "face-deid"
    gates: Gates = Gates()


class Params(Section):
    """All of params.yaml."""

    world: WorldParams = WorldParams()
    sample: SampleParams = SampleParams()
    validate_: ValidateParams = Field(default=ValidateParams(), alias="validate")
    stage_one: StageOneParams = StageOneParams()
    stage_two: StageTwoParams = StageTwoParams()
    anonymize: AnonymizeParams = AnonymizeParams()
    evaluate: EvaluateParams = EvaluateParams()
    attack: AttackParams = AttackParams()
    register_: RegisterParams = Field(default=RegisterParams(), alias="register")

    @model_validator(mode="after")
    def _one_truncation(self) -> Self:
        """`sample.truncation` stands for `world.truncation`, which it may not contradict."""
        psi, world = self.sample.truncation, self.world
        if psi not in (None, world.truncation):
            if "truncation" in world.model_fields_set:
                raise ValueError("sample.truncation and world.truncation differ; keep the latter")
            object.__setattr__(self, "world", world.model_copy(update={"truncation": psi}))
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read params.yaml; a wrong key or value becomes a `DeidError` that names it."""
    try:
        content: Any = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise DeidError(f"{path}: no such file; run from the project's root") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DeidError(f"{path}: not readable as YAML: {error}".replace("\n", " ")) from None
    try:
        return Params.model_validate(content or {})
    except ValidationError as error:
        raise DeidError(f"{path}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"]) or "top level"
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; remove it or correct its spelling"
    return f"{key}: {problem['msg']} (is {problem.get('input')!r}); correct the value"
