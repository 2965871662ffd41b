"""What a request may ask for: fields of `RunSettings`, in the query; what it does not name is as
the server was started."""

import re
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from deid.batch.in_memory import Box
from deid.batch.settings import METHODS, TRAINED, RunSettings

_BOX = re.compile(r"-?\d{1,6}(,-?\d{1,6}){3}")
BOX_PATTERN = rf"^{_BOX.pattern}$"


class RequestOptions(BaseModel):
    """Settings of one request; those that are not given are the server's own."""

    model_config = ConfigDict(extra="forbid")

    method: Annotated[
        str | None,
        Field(
            max_length=32,
            pattern=rf"^({'|'.join(METHODS)})(-\d*\.?\d+)?$",
            description="swap, adversarial, fgsm, pgd, blur, pixelate or mask; fgsm-0.05 and "
            "pgd-0.05 carry their own strength ε.",
            examples=["blur"],
        ),
    ] = None
    seed: Annotated[
        int | None, Field(ge=0, lt=2**31, description="Another seed gives other faces.")
    ] = None
    quality: Annotated[
        Literal["normal", "high"] | None,
        Field(description="high: new faces are refined in seconds."),
    ] = None
    region: Annotated[
        Literal["face", "head", "portrait"] | None, Field(description="What a new face replaces.")
    ] = None
    donor: Annotated[
        Literal["alike", "any"] | None, Field(description="For swap: whose face it is.")
    ] = None
    strength: Annotated[
        float | None,
        Field(ge=0, le=1, description="For swap and adversarial: how far from the own face."),
    ] = None
    allow_no_face: Annotated[
        bool | None,
        Field(description="Give a picture without a face back, without its metadata."),
    ] = None
    first_frame_only: Annotated[
        bool | None, Field(description="Of several frames or pages, take the first.")
    ] = None

    def settings(self, own: RunSettings) -> RunSettings:
        """Of a server whose own are `own`."""
        asked = self.model_dump(exclude_none=True, include=set(RequestOptions.model_fields))
        settings = replace(own, **asked)
        if self.seed is not None:
            settings = replace(settings, seed_file=None)
        # What the server was started with is for the methods that have it.
        if settings.method != "swap":
            settings = replace(settings, key=None, donor_pool=None, expression="own")
        if settings.method not in TRAINED and self.strength is None:
            settings = replace(settings, strength=1.0)
        return settings


class PictureOptions(RequestOptions):
    """The same, and which faces of the picture stay."""

    keep: Annotated[
        list[str],
        Field(
            max_length=50,
            description="A face that stays as it is, at the caller's own decision: its box as an "
            "answer told it, x0,y0,x1,y1. No picture is given back where one has no face.",
            examples=[["10,20,90,120"]],
            json_schema_extra={"items": {"type": "string", "pattern": BOX_PATTERN}},
        ),
    ] = []

    @field_validator("keep")
    @classmethod
    def _boxes(cls, keep: list[str]) -> list[str]:
        if not all(_BOX.fullmatch(box) for box in keep):
            raise ValueError("a box is x0,y0,x1,y1, whole numbers of pixels")
        return keep

    def boxes(self) -> tuple[Box, ...]:
        """`keep` as numbers."""
        found = (tuple(float(value) for value in box.split(",")) for box in self.keep)
        return tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in found)
