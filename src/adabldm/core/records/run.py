"""The card of a run, `adabldm.json`: every value has limits, for the card may come from a stranger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from adabldm.core.appearance import TOLERANCES
from adabldm.core.changes import Change
from adabldm.core.depth import Levels, check_levels
from adabldm.core.errors import InputError
from adabldm.core.names import check_defect_name
from adabldm.core.records.files import VersionedRecord
from adabldm.core.settings.common import FOLD, Boxes, DataFormat, DataSettings, Recipe


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


def _inside(name: str) -> str:
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or ":" in name:
        raise ValueError(f"{name[:80]!r} was given, expected a folder inside the data set")
    return name


OneLine = Annotated[str, AfterValidator(_printable)]
"""Text that a terminal and a page can show."""
DefectName = Annotated[str, AfterValidator(_defect_name)]
Inside = Annotated[str, AfterValidator(_printable), AfterValidator(_inside)]
"""Name of a folder that cannot lead out of another one."""
ComponentFile = Annotated[
    str,
    Field(pattern=r"^(vae|text_encoder|tokenizer|unet|scheduler|controlnet)/[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}$"),
]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Reading(BaseModel):
    """How a data set is read; what is left out is recognised by itself."""

    model_config = ConfigDict(frozen=True, extra="allow")

    format: DataFormat | None = Field(None, description="Layout of the data set.")
    mask_threshold: int | None = Field(None, ge=0, le=254, description="Grey level above which a mask pixel is defect.")
    boxes: Boxes | None = Field(None, description="What becomes of boxes without masks.")
    good_folder: tuple[Inside, ...] = Field((), max_length=1000, description="Folders of good images in the data set.")
    bad_folder: tuple[Inside, ...] = Field((), max_length=1000, description="Folders of defect images.")
    mask_folder: tuple[Inside, ...] = Field((), max_length=1000, description="Folders of masks.")
    fold: str | None = Field(None, pattern=FOLD, description="Fold of a cross-validation, whose share is held out.")

    @classmethod
    def of(cls, settings: DataSettings, fitted: Reading | None = None) -> Reading:
        """What the settings say; of what they leave out, what the fit said."""
        own = {name: getattr(settings, name) for name in cls.model_fields}
        given = {name: value for name, value in own.items() if value not in (None, ())}
        return (fitted or cls()).model_copy(update=given)

    def given(self) -> dict[str, Any]:
        """JSON values of what is not left out."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def decisive(self) -> dict[str, Any]:
        """JSON values for the settings file of a folder of results."""
        given = self.given()
        threshold = given.pop("mask_threshold", None)
        return {"mask_threshold": threshold, **({"reading": given} if given else {})}


Description = Annotated[
    tuple[Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)], ...],
    Field(min_length=len(TOLERANCES), max_length=len(TOLERANCES)),
]
"""Of an image; see `adabldm.core.appearance`."""


class Redrawn(BaseModel):
    """How like the real defects a run draws them again from one first step, without lost detail given back."""

    model_config = ConfigDict(frozen=True, extra="allow")

    start: int = Field(ge=1, le=1000, description="First step of the preset `fast`.")
    area: bool = Field(description="Whether these are the areas among the defects, or the spots and lines.")
    kept: float = Field(ge=-100, le=100, allow_inf_nan=False, description="Share of the real change that is there.")
    alike: float = Field(ge=-1, le=1, allow_inf_nan=False, description="Cosine of the drawn and the real change.")


class FromNoise(BaseModel):
    """What a run draws from noise into the masks of its real defects at one guidance scale, on the average."""

    model_config = ConfigDict(frozen=True, extra="allow")

    scale: float = Field(ge=1, le=50, allow_inf_nan=False, description="Guidance scale of the preset `fast`.")
    visible: float = Field(ge=0, le=1e4, allow_inf_nan=False, description="Its mean change over that of real ones.")
    share: float = Field(ge=0, le=1, allow_inf_nan=False, description="Share of the masks that changed visibly.")


@dataclass(frozen=True)
class Calibration:
    """How a run draws its own real defects; nothing is known of runs that were not measured."""

    redrawn: tuple[Redrawn, ...] = ()
    from_noise: tuple[FromNoise, ...] = ()


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
    preset: OneLine = Field(max_length=4096, description="Name of the fit's preset.")
    levels: Annotated[Levels, AfterValidator(check_levels)] | None = Field(
        None, description="Of images of more than 8 bits: (black, white, step) as levels of the files."
    )
    method: Literal["diffusion", "rendering"] = Field(
        "diffusion", description="What draws the defects: the run's networks, or the renderer, which needs none."
    )
    recipes: dict[DefectName, tuple[Recipe, ...]] = Field(
        {}, max_length=1000, description="Shapes of the types that were drawn, because they have no example."
    )
    steps: dict[OneLine, Annotated[int, Field(ge=0)]] | None = Field(
        None, max_length=10, description="Steps that each stage was trained."
    )
    reading: Reading = Field(Reading(), description="How the data set was read.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Everything else that the fit used.")
    seen_good: str | None = Field(
        None,
        pattern=r"^([0-9a-f]{12})*$",
        description="Twelve hexadecimal digits for each defect-free image of the fit, one after the other; none in old "
        "cards.",
    )
    seen_defects: str | None = Field(
        None, pattern=r"^([0-9a-f]{12})*$", description="The same for each image with a defect."
    )
    appearance: tuple[Description, ...] | None = Field(
        None, max_length=64, description="Numbers that describe some of the defect-free images; none in old cards."
    )
    changes: dict[DefectName, Annotated[tuple[Change, ...], Field(max_length=1000)]] = Field(
        {}, max_length=1000, description="What its real defects change in their pictures, by type; none in old cards."
    )
    redrawn: tuple[Redrawn, ...] = Field(
        (), max_length=100, description="How the run draws its real defects again, by first step; none in old cards."
    )
    from_noise: tuple[FromNoise, ...] = Field(
        (), max_length=100, description="What it draws from noise, by guidance scale; none in old cards."
    )
    files: dict[ComponentFile, Sha256] | None = Field(
        None, max_length=1000, description="SHA-256 of the files of the run's components, by path; none in old cards."
    )

    @classmethod
    def upgrade(cls, values: dict[str, Any], version: int) -> dict[str, Any]:
        """A card of the version before knows of the reading the threshold of the masks only."""
        settings = values.get("settings")
        threshold = settings.get("mask_threshold") if isinstance(settings, dict) else None
        return super().upgrade({"reading": {"mask_threshold": threshold}, **values}, version)

    @field_validator("defects")
    @classmethod
    def _different(cls, defects: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(defects)) < len(defects):
            raise ValueError("a defect type stands in it twice")
        return defects

    @property
    def calibration(self) -> Calibration:
        """How the run draws its own real defects."""
        return Calibration(self.redrawn, self.from_noise)

    def plain(self) -> dict[str, Any]:
        """JSON values; fields that do not apply are left out."""
        values = super().plain()
        left_out: tuple[object, ...] = (None, {})
        own = type(self).model_fields
        for name in ("redrawn", "from_noise"):
            if not getattr(self, name):
                del values[name]
        return {key: value for key, value in values.items() if value not in left_out or key not in own}
