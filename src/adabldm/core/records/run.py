"""The card of a run, `adabldm.json`."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from adabldm.core.records.files import VersionedRecord
from adabldm.core.settings.common import Boxes, DataFormat, DataSettings


class Reading(BaseModel):
    """How a data set is read; what is left out is recognised by itself."""

    model_config = ConfigDict(frozen=True, extra="allow")

    format: DataFormat | None = Field(None, description="Layout of the data set.")
    mask_threshold: int | None = Field(None, ge=0, le=254, description="Grey level above which a mask pixel is defect.")
    boxes: Boxes | None = Field(None, description="What becomes of boxes without masks.")
    good_folder: tuple[str, ...] = Field((), description="Folders of defect-free images, relative to the data set.")
    bad_folder: tuple[str, ...] = Field((), description="Folders of defect images.")
    mask_folder: tuple[str, ...] = Field((), description="Folders of masks.")

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


class RunCard(VersionedRecord):
    """What a run knows of itself."""

    what: ClassVar[str] = "card of a run"

    object_name: str = Field(min_length=1, description="What the images show.")
    defects: tuple[str, ...] = Field(description="Defect types that the control branch knows.")
    base: str = Field(description="Base that it was fitted from, as it was given.")
    resolution: int = Field(ge=8, le=8192, description="Side of the windows that it was trained on, in px.")
    foreground: str = Field(description='How the object was found: "grabcut", "texture" or "folder".')
    preset: str = Field(description="Name of the fit's preset.")
    reading: Reading = Field(Reading(), description="How the data set was read.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Everything else that the fit used.")

    @classmethod
    def upgrade(cls, values: dict[str, Any], version: int) -> dict[str, Any]:
        """A card of the version before knows of the reading the threshold of the masks only."""
        settings = values.get("settings")
        threshold = settings.get("mask_threshold") if isinstance(settings, dict) else None
        return super().upgrade({"reading": {"mask_threshold": threshold}, **values}, version)
