"""The card of a run, `adabldm.json`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from adabldm.core.depth import Levels
from adabldm.core.records.files import VersionedRecord


class RunCard(VersionedRecord):
    """What a run knows of itself."""

    what: ClassVar[str] = "card of a run"

    object_name: str = Field(min_length=1, description="What the images show.")
    defects: tuple[str, ...] = Field(description="Defect types that the control branch knows.")
    base: str = Field(description="Base that it was fitted from, as it was given.")
    resolution: int = Field(ge=8, le=8192, description="Side of the windows that it was trained on, in px.")
    foreground: str = Field(description='How the object was found: "grabcut", "texture" or "folder".')
    preset: str = Field(description="Name of the fit's preset.")
    levels: Levels | None = Field(
        None, description="Of images of more than 8 bits: (black, white, step) as levels of the files."
    )
    method: Literal["diffusion", "rendering"] = Field(
        "diffusion", description="What draws the defects: the run's networks, or the renderer, which needs none."
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="Everything else that the fit used.")

    def plain(self) -> dict[str, Any]:
        """JSON values; levels are left out where there are none."""
        values = super().plain()
        return {key: value for key, value in values.items() if key != "levels" or value is not None}
