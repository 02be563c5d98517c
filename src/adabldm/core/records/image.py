"""The record of one generated image: a line of `manifest.jsonl`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from adabldm.core.depth import Levels, check_levels
from adabldm.core.records.files import VersionedRecord

SCORES = {
    "background_psnr": "background PSNR (dB)",
    "seam": "seam",
    "edit_strength": "edit strength",
    "visible_change": "visible change",
    "contrast": "contrast",
    "defect_fidelity": "defect fidelity (dB)",
    "distance": "distance to real defects",
}
"""Fields that are scores, with the names under which they are shown."""
COMBINED = "combined"
"""Defect type of an image whose defects are of several types, as in MVTec AD."""


class Rejection(BaseModel):
    """An attempt that was rejected."""

    model_config = ConfigDict(frozen=True, extra="allow")

    attempt: int = Field(ge=0, description="Number of the attempt, from 0.")
    source: str = Field(description="Source of the attempt, relative to the data set.")
    reason: str = Field(description="The rule that was missed, in one sentence.")
    instance: int | None = Field(None, ge=1, description="Number of the defect in its image; none where it has one.")

    def plain(self) -> dict[str, Any]:
        """JSON values; fields that do not apply are left out."""
        return self.model_dump(mode="json", exclude_none=True)


class Making(BaseModel):
    """How one defect was made, and how well. Fields that do not apply, as a baseline's attempt, are `None`."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    attempt: int | None = Field(None, ge=0, description="Attempt that was kept, from 0.")
    background_psnr: float | None = Field(None, allow_inf_nan=False, description="PSNR outside the mask, in dB.")
    seam: float | None = Field(None, allow_inf_nan=False, description="Step across the mask's boundary, 1 = invisible.")
    edit_strength: float | None = Field(None, allow_inf_nan=False, description="Change inside over that around.")
    visible_change: float | None = Field(None, allow_inf_nan=False, description="Mean change inside, in grey levels.")
    contrast: float | None = Field(
        None, allow_inf_nan=False, description="Visible change over the texture's deviation."
    )
    defect_fidelity: float | None = Field(None, allow_inf_nan=False, description="Adapted against unadapted, in dB.")
    distance: float | None = Field(
        None, allow_inf_nan=False, description="Distance to the nearest real defect of its type, by features."
    )
    candidate: int | None = Field(None, ge=0, description="Candidate that was kept of those at its place, from 0.")
    accepted: bool | None = Field(None, description="Whether the kept attempt passed all rules.")
    shape: str | None = Field(None, description="Where the mask comes from: a mask's file name, or a procedure.")
    reference: str | None = Field(None, description="Real defect that the edit began from, relative to the data set.")
    strength: float | None = Field(None, allow_inf_nan=False, description="Factor of the real defect's contrast.")
    tone: float | None = Field(None, allow_inf_nan=False, description="Factor of an area's mean change of brightness.")
    exposure: float | None = Field(None, allow_inf_nan=False, description="Factor of the exposure of the edit.")
    resolution: int | None = Field(None, ge=1, description="Side of the window at the model, in px.")
    window: tuple[int, int, int] | None = Field(None, description="(top, left, side) of the edited square, in px.")
    mask_share: float | None = Field(
        None, ge=0, le=1, description="Share of the target mask that the saved one keeps, where it was refined."
    )

    @property
    def scores(self) -> dict[str, float]:
        """The scores that are known, by field."""
        return {name: value for name in SCORES if (value := getattr(self, name)) is not None}


class InstanceRecord(Making):
    """One defect of an image that may have several."""

    label: int = Field(ge=1, description="Its value in the image of labels.")
    defect: str = Field(min_length=1, description="Defect type.")
    origin: Literal["made", "source"] = Field(
        "made", description='"made": by this edit; "source": the picture that was edited had it already.'
    )
    prompt: str | None = Field(None, description="Prompt of the edit.")
    box: tuple[int, int, int, int] = Field(description="(left, top, width, height) of its mask, in px.")
    area: int = Field(ge=1, description="Pixels of its mask.")

    def plain(self) -> dict[str, Any]:
        """JSON values; fields that do not apply are left out."""
        return self.model_dump(mode="json", exclude_none=True)


class ImageRecord(Making, VersionedRecord):
    """What is known of one generated image. Fields that do not apply, as a baseline's attempt, are `None`.

    An image with one defect tells how it was made itself. One with several has them in `instances`, and its own scores
    are those of all of them together.
    """

    what: ClassVar[str] = "record of an image"

    image: str = Field(description="Path of the image, relative to its folder.")
    mask: str = Field(description="Path of the mask of all its defects, relative to its folder.")
    labels: str | None = Field(
        None, description="Path of the image of labels, relative to its folder: 0, or the number of the defect there."
    )
    index: int = Field(ge=0, description="Number of the image in its folder.")
    source: str = Field(description="Path of the defect-free source, relative to the data set.")
    base: str | None = Field(
        None, description="Path of the picture with defects that was edited, relative to the folder of --onto."
    )
    defect: str = Field(
        min_length=1, description=f'Defect type; "{COMBINED}" for an image with defects of several types.'
    )
    object: str = Field(description="What the image shows.")
    prompt: str = Field(description="Prompt of the edit, the first one of several.")
    seed: int = Field(description="Seed of the run; the image draws from (seed, index, attempt).")
    preset: str = Field(description="Name of the preset, or of the baseline.")
    adapt: str = Field(description="Method of decoder adaptation.")
    rejected: tuple[Rejection, ...] = Field((), description="Attempts that were rejected.")
    instances: tuple[InstanceRecord, ...] = Field(
        (), description="Its defects, where several were asked for or it had some before."
    )
    missing: int | None = Field(
        None, ge=1, description="Defects that were drawn for it and for which no place was left."
    )
    levels: Annotated[Levels, AfterValidator(check_levels)] | None = Field(
        None, description="Of a source of more than 8 bits: (black, white, step) as levels of the file."
    )
    model: str = Field(description="Digest of the model's weights; none for a baseline.")

    @property
    def types(self) -> tuple[str, ...]:
        """The types of its defects, sorted."""
        return tuple(sorted({one.defect for one in self.instances} or {self.defect}))

    def plain(self) -> dict[str, Any]:
        """JSON values; fields that do not apply are left out."""
        values = super().plain()
        values["rejected"] = [one.plain() for one in self.rejected]
        values["instances"] = [one.plain() for one in self.instances] or None
        order = {name: place for place, name in enumerate(("schema", *type(self).__annotations__))}
        making = order["adapt"]  # the fields of `Making` stand there, and those that this version does not know last
        known = type(self).model_fields
        names = sorted(values, key=lambda name: order.get(name, making if name in known else len(order)))
        return {key: values[key] for key in names if values[key] is not None or key not in known}
