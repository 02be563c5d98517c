"""The card of a run, `adabldm.json`: every value has limits, for the card may come from a stranger."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator

from adabldm.core.errors import InputError
from adabldm.core.names import check_defect_name
from adabldm.core.records.files import VersionedRecord


def _defect_name(name: str) -> str:
    try:
        check_defect_name(name)
    except InputError as error:
        raise ValueError(str(error).rstrip(".")) from error
    return name


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{text[:80]!r} holds a character that cannot be printed")
    return text


OneLine = Annotated[str, AfterValidator(_printable)]
"""Text that a terminal and a page can show."""
DefectName = Annotated[str, AfterValidator(_defect_name)]
ComponentFile = Annotated[
    str,
    Field(pattern=r"^(vae|text_encoder|tokenizer|unet|scheduler|controlnet)/[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}$"),
]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RunCard(VersionedRecord):
    """What a run knows of itself."""

    what: ClassVar[str] = "card of a run"

    object_name: OneLine = Field(min_length=1, max_length=200, description="What the images show.")
    defects: tuple[DefectName, ...] = Field(max_length=1000, description="Defect types that the control branch knows.")
    base: OneLine = Field(max_length=4096, description="Base that it was fitted from, as it was given.")
    resolution: int = Field(ge=8, le=8192, strict=True, description="Side of the training windows, in px.")
    foreground: Literal["auto", "grabcut", "texture", "folder"] = Field(
        description='How the object was found: "grabcut", "texture" or "folder".'
    )
    preset: OneLine = Field(max_length=200, description="Name of the fit's preset.")
    method: Literal["diffusion", "rendering"] = Field(
        "diffusion", description="What draws the defects: the run's networks, or the renderer, which needs none."
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="Everything else that the fit used.")
    files: dict[ComponentFile, Sha256] | None = Field(
        None, max_length=1000, description="SHA-256 of the files of the run's components, by path; none in old cards."
    )

    @field_validator("defects")
    @classmethod
    def _different(cls, defects: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(defects)) < len(defects):
            raise ValueError("a defect type stands in it twice")
        return defects

    def plain(self) -> dict[str, Any]:
        """JSON values; fields that do not apply are left out."""
        values = super().plain()
        return {key: value for key, value in values.items() if value is not None or key not in type(self).model_fields}
