"""What all settings have in common: they are frozen, validated on creation, and know nothing of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from adabldm.core.errors import as_text, is_text
from adabldm.core.settings.problems import FieldProblem, SettingsError, field_error, settings_error, shown

__all__ = ["FieldProblem", "Pair", "PresetName", "Range", "Settings", "SettingsError", "Steps"]

LONGEST_NAME = 4096
"""Characters of the name of a preset."""


class Settings(BaseModel):
    """Base of all settings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="after")
    def _can_be_written(self) -> Self:
        for name, value in self:
            for one in _texts(value):
                if not is_text(one):
                    raise field_error(name, f"{as_text(one)} is not written in UTF-8, expected text that is; rename it")
        return self

    @classmethod
    def create(cls, values: Mapping[str, Any] | None = None, /, **more: Any) -> Self:
        """Settings from plain values; `None` values of `more` are left out, so that the field keeps its default.

        Raises:
            SettingsError: values that do not fit, all at once.
        """
        given = {**(values or {}), **{key: value for key, value in more.items() if value is not None}}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise settings_error(error, cls) from error

    def changed(self, **changes: Any) -> Self:
        """A validated copy with some of its fields changed; `None` is a value, for fields that may be left out.

        Raises:
            SettingsError: values that do not fit, all at once.
        """
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).create({**given, **changes})

    def changed_where_given(self, **changes: Any) -> Self:
        """The same where changes of `None` are left out, as of options that were not given; raises as `changed`."""
        return self.changed(**{key: value for key, value in changes.items() if value is not None})

    def plain(self) -> dict[str, Any]:
        """JSON values of all fields, by the names that options and files use."""
        return self.model_dump(mode="json", by_alias=True)


def _texts(value: object) -> Iterator[str | Path]:
    """All text in a value, also in lists and tables."""
    if isinstance(value, str | Path):
        yield value
    elif isinstance(value, list | tuple | set | frozenset):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, Mapping):
        yield from _texts((*value.keys(), *value.values()))


def _pair(value: object) -> object:
    """Two numbers, which may be written as "0.8,1.2"."""
    parts = tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or len(parts) != 2:
        raise ValueError(f"{shown(value)} was given, expected two numbers such as 0.8,1.2")
    return parts


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"{value[0]},{value[1]} was given, expected the smaller number first")
    return value


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"{shown(value)} was given, expected text on one line")
    return value


PresetName = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_one_line)]
"""Name of a preset, with all that was changed in it; records and pages show it."""
Pair = Annotated[tuple[float, float], BeforeValidator(_pair)]
"""Two numbers."""
Range = Annotated[Pair, AfterValidator(_rising)]
"""(smallest, largest), both included."""
Steps = Annotated[tuple[int, int], BeforeValidator(_pair), AfterValidator(_rising)]
"""(first, end) of 0-based steps, half-open."""
