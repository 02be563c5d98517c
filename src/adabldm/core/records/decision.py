"""The record of a decision on one generated image: a line of `decisions.jsonl`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from adabldm.core.records.files import VersionedRecord


class Decision(VersionedRecord):
    """What was decided on one image; the last decision on an image counts."""

    what: ClassVar[str] = "decision on an image"

    index: int = Field(ge=0, description="Number of the image in its folder.")
    decision: Literal["keep", "reject", "undecided"] = Field(
        description='"keep", "reject", or "undecided" to take an earlier decision back.'
    )
    note: str | None = Field(None, description="Remark of the person who decided.")
    rule: str | None = Field(None, description="Rule that decided, with the score; none if a person named the image.")

    def plain(self) -> dict[str, Any]:
        """JSON values; fields that do not apply are left out."""
        values = super().plain()
        return {key: value for key, value in values.items() if value is not None or key not in type(self).model_fields}
