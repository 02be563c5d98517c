"""Records as JSON files: one version number, one place that reads and writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adabldm.core.errors import InputError, is_text
from adabldm.core.images import atomic_file

SCHEMA = 1
"""Version of all records. Files from before there were versions count as 0."""
LARGEST_FILE = 64 * 2**20
"""Bytes of a file that is read as one record."""

OneRecord = TypeVar("OneRecord", bound="VersionedRecord")


class VersionedRecord(BaseModel):
    """Base of all records.

    A field that this version does not know is kept and written again, so that a folder survives a step back; a file of
    a later version is refused, because its fields may mean something else.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    what: ClassVar[str] = "record"

    version: int = Field(SCHEMA, alias="schema", ge=0, description="Version of the record's fields.")

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        found = values.get("schema", SCHEMA)
        if isinstance(found, int) and found > SCHEMA:
            raise ValueError(f"schema {found} was found, this version of adabldm reads up to {SCHEMA}; update adabldm")
        return cls.upgrade(dict(values), found) if isinstance(found, int) and 0 <= found < SCHEMA else values

    @classmethod
    def upgrade(cls, values: dict[str, Any], version: int) -> dict[str, Any]:
        """The values of an older version as those of this one."""
        del version
        return {**values, "schema": SCHEMA}

    def plain(self) -> dict[str, Any]:
        """JSON values by the names that stand in the file."""
        return self.model_dump(mode="json", by_alias=True)

    def line(self) -> str:
        """The record as one line of JSON, without the line's end.

        Raises:
            InputError: a value cannot be written, such as a number that is not finite.
        """
        return _dump(self.plain(), None)

    @classmethod
    def parse(cls, values: Any, where: str, way_out: str = "restore it or make it again") -> Self:
        """A record from JSON values.

        Args:
            values: of the file or line.
            where: names it in messages.
            way_out: what to do with an unusable one.

        Raises:
            InputError: values that do not fit.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            field = ".".join(map(str, first["loc"]))
            reason = first["msg"].removeprefix("Value error, ")
            later = isinstance(values, dict) and isinstance(found := values.get("schema"), int) and found > SCHEMA
            advice = "" if later else f"; not a usable {cls.what}; {way_out}"
            raise InputError(f"{where}: {field + ': ' if field else ''}{reason}{advice}.") from error


def read_json(text: str | bytes) -> Any:
    """JSON values of a file or line that anybody may have written.

    Raises:
        ValueError: no JSON, text that is not Unicode, numbers that are not finite, or values nested too deeply.
    """
    try:
        values = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("values are nested too deeply") from error
    escape = "\\ud" if isinstance(text, str) else b"\\ud"
    if escape in text.lower() and not is_text(json.dumps(values, ensure_ascii=False)):  # type: ignore[operator]
        raise ValueError("text that is not Unicode")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no finite number")


def read_record(path: Path, kind: type[OneRecord]) -> OneRecord:
    """Read a file that holds one record.

    Raises:
        InputError: it is missing, damaged, or of a later version.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"larger than {LARGEST_FILE >> 20} MiB")
        values = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged or not readable ({error}); restore it or make it again.") from error
    if isinstance(values, dict):
        values.setdefault("schema", 0)
    return kind.parse(values, str(path))


def write_record(path: Path, record: VersionedRecord) -> None:
    """Write a file that holds one record, whole or not at all.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    with atomic_file(path) as file:
        file.write((_dump(record.plain(), 2) + "\n").encode())


def _dump(values: dict[str, Any], indent: int | None) -> str:
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False, indent=indent)
    except (TypeError, ValueError) as error:
        raise InputError(f"{list(values)}: cannot be written as JSON ({error}); give finite, plain values.") from error
