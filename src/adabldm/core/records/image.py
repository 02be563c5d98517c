"""The record of one generated image: a line of `manifest.jsonl`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

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
}
"""Fields that are scores, with the names under which they are shown."""


class Rejection(BaseModel):
    """An attempt that was rejected."""

    model_config = ConfigDict(frozen=True, extra="allow")

    attempt: int = Field(ge=0, description="Number of the attempt, from 0.")
    source: str = Field(description="Source of the attempt, relative to the data set.")
    reason: str = Field(description="The rule that was missed, in one sentence.")


class ImageRecord(VersionedRecord):
    """What is known of one generated image. Fields that do not apply, as a baseline's attempt, are `None`."""

    what: ClassVar[str] = "record of an image"

    image: str = Field(description="Path of the image, relative to its folder.")
    mask: str = Field(description="Path of the mask, relative to its folder.")
    index: int = Field(ge=0, description="Number of the image in its folder.")
    source: str = Field(description="Path of the defect-free source, relative to the data set.")
    defect: str = Field(min_length=1, description="Defect type.")
    object: str = Field(description="What the image shows.")
    prompt: str = Field(description="Prompt of the edit.")
    seed: int = Field(description="Seed of the run; the image draws from (seed, index, attempt).")
    attempt: int | None = Field(None, ge=0, description="Attempt that was kept, from 0.")
    preset: str = Field(description="Name of the preset, or of the baseline.")
    adapt: str = Field(description="Method of decoder adaptation.")
    background_psnr: float | None = Field(None, allow_inf_nan=False, description="PSNR outside the mask, in dB.")
    seam: float | None = Field(None, allow_inf_nan=False, description="Step across the mask's boundary, 1 = invisible.")
    edit_strength: float | None = Field(None, allow_inf_nan=False, description="Change inside over that around.")
    visible_change: float | None = Field(None, allow_inf_nan=False, description="Mean change inside, in grey levels.")
    contrast: float | None = Field(
        None, allow_inf_nan=False, description="Visible change over the texture's deviation."
    )
    defect_fidelity: float | None = Field(None, allow_inf_nan=False, description="Adapted against unadapted, in dB.")
    accepted: bool | None = Field(None, description="Whether the kept attempt passed all rules.")
    rejected: tuple[Rejection, ...] = Field((), description="Attempts that were rejected.")
    shape: str | None = Field(None, description="Where the mask comes from: a mask's file name, or a procedure.")
    reference: str | None = Field(None, description="Real defect that the edit began from, relative to the data set.")
    strength: float | None = Field(None, allow_inf_nan=False, description="Factor of the real defect's contrast.")
    tone: float | None = Field(None, allow_inf_nan=False, description="Factor of an area's mean change of brightness.")
    exposure: float | None = Field(None, allow_inf_nan=False, description="Factor of the exposure of the edit.")
    resolution: int | None = Field(None, ge=1, description="Side of the window at the model, in px.")
    window: tuple[int, int, int] | None = Field(None, description="(top, left, side) of the edited square, in px.")
    levels: Annotated[Levels, AfterValidator(check_levels)] | None = Field(
        None, description="Of a source of more than 8 bits: (black, white, step) as levels of the file."
    )
    model: str = Field(description="Digest of the model's weights; none for a baseline.")

    @property
    def scores(self) -> dict[str, float]:
        """The scores that are known, by field."""
        return {name: value for name in SCORES if (value := getattr(self, name)) is not None}

    def plain(self) -> dict[str, Any]:
        """JSON values; fields that do not apply are left out."""
        values = super().plain()
        return {key: value for key, value in values.items() if value is not None or key not in type(self).model_fields}
