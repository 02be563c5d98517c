"""What is wrong with settings: pydantic's findings in plain English, each with the name of its field."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from adabldm.core.errors import InputError, as_text

FIELD_PROBLEM = "field_problem"
"""Kind of the errors that `field_error` makes."""
LONGEST_VALUE = 80
"""Characters of a refused value that a message repeats."""

EXPECTED: Mapping[str, str] = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "settings by name",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_type": "a whole number",
    "less_than": "a number below {lt}",
    "less_than_equal": "at most {le}",
    "string_unicode": "text that can be written in UTF-8",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_attributes_type": "settings by name",
    "model_type": "settings by name",
    "path_type": "a path",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} characters",
    "string_type": "text",
    "too_long": "a list of at most {max_length}",
    "too_short": "a list of at least {min_length}",
    "tuple_type": "a list",
    "union_tag_invalid": "{expected_tags}",
    "union_tag_not_found": "a table with {discriminator}",
}
"""What was expected, by pydantic's kind of error, with the words of its context."""


@dataclass(frozen=True)
class FieldProblem:
    """One field that cannot be used.

    Attributes:
        field: dotted name of the field, such as "look.strengths"; empty for the object as a whole.
        message: what was given, what was expected and the way out, without the field's name.
    """

    field: str
    message: str


class SettingsError(InputError):
    """Settings that cannot be used; all problems at once.

    The command line names each field as an option and a service as a JSON field, both from `fields`.
    """

    def __init__(self, fields: Iterable[FieldProblem]) -> None:
        self.fields = tuple(fields)
        super().__init__(sentence(one.field, one.message) for one in self.fields)

    def below(self, field: str) -> SettingsError:
        """The same problems as those of one field: what they name becomes part of the message."""
        named = (f"{one.field}: {one.message}" if one.field else one.message for one in self.fields)
        return SettingsError(FieldProblem(field, message) for message in named)


def sentence(name: str, message: str) -> str:
    """A problem as it is shown: the field's name, if it has one, the message, and the full stop."""
    text = f"{name}: {message}" if name else message
    return text if text.endswith((".", "?", "!")) else f"{text}."


def field_error(field: str, message: str) -> PydanticCustomError:
    """The error that a validator of several fields raises, so that the problem names one of them.

    Args:
        field: name of the field that the user should change.
        message: what was given, what was expected and the way out, without the field's name.
    """
    return PydanticCustomError(FIELD_PROBLEM, "{message}", {"field": field, "message": message})


def settings_error(error: ValidationError, kind: type[BaseModel]) -> SettingsError:
    """The problems that pydantic found in values for `kind`, as ours: one for each field."""
    found: dict[str, FieldProblem] = {}
    for one in error.errors(include_url=False):
        place = _find(kind, one["loc"])
        if one["type"] == FIELD_PROBLEM:
            place.names.append(str(one["ctx"]["field"]))
        field = ".".join(place.names)
        found.setdefault(field, FieldProblem(field, _message(one, place)))
    # A value that may be text or a table fails as both; what is wrong inside the table says more.
    return SettingsError(one for one in found.values() if not any(name.startswith(f"{one.field}.") for name in found))


def _message(one: ErrorDetails, place: _Place) -> str:
    name, info = one["type"], place.info
    if name == "missing":
        return f"missing, expected a value{_description(info)}; give it"
    if name == "extra_forbidden":
        return _unknown(place.names[-1], place.holder)
    if name not in EXPECTED:
        return one["msg"].removeprefix("Value error, ")
    expected = EXPECTED[name].format(**one.get("ctx", {}))
    if name in ("literal_error", "union_tag_invalid"):
        expected = "one of " + expected.replace("'", "").replace(" or ", ", ")
    if name in ("greater_than_equal", "less_than_equal"):
        low, high = _bound(info, "ge"), _bound(info, "le")
        expected = f"a number from {low} to {high}" if low is not None and high is not None else expected
    return f"{shown(one['input'])} was given, expected {expected}"


def shown(value: object) -> str:
    """A refused value as a message repeats it."""
    plain = isinstance(value, str | Path) and re.fullmatch(r"\S+", str(value)) is not None
    text = as_text(value) if plain else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _description(info: FieldInfo | None) -> str:
    return f" ({info.description.rstrip('.')})" if info is not None and info.description else ""


def _bound(info: FieldInfo | None, name: str) -> Any:
    limits = (getattr(one, name, None) for one in (info.metadata if info is not None else ()))
    return next((limit for limit in limits if limit is not None), None)


def _unknown(name: str, holder: type[BaseModel]) -> str:
    """Of a name that is no field of `holder`: the one that was probably meant, or all that there are."""
    known = [field.alias or name for name, field in holder.model_fields.items()]
    close = difflib.get_close_matches(name, known, n=1)
    return f"unknown setting, expected {close[0] if close else 'one of ' + ', '.join(known)}"


@dataclass
class _Place:
    """A field on the way to which pydantic's names of union members and validators are left out.

    Attributes:
        names: of the fields, keys and positions on the way.
        annotation: type of what is there.
        holder: class of the settings that hold it.
        info: what is known of the field; `None` for what is none.
    """

    names: list[str]
    annotation: Any
    holder: type[BaseModel]
    info: FieldInfo | None = None


def _find(kind: type[BaseModel], location: Iterable[int | str]) -> _Place:
    place = _Place([], kind, kind)
    for step in location:
        members = _members(place.annotation)
        if len(members) > 1:  # `step` tells which member of the union this is about
            words = set(re.findall(r"\w+", str(step)))
            place.annotation = next((one for one in members if words & _tags(one)), None)
            continue
        (member,) = members
        if isinstance(member, type) and issubclass(member, BaseModel):
            fields = {field.alias or name: field for name, field in member.model_fields.items()}
            place.holder, place.info = member, fields.get(str(step))
            place.annotation = None if place.info is None else place.info.annotation
        elif get_origin(member) in (dict, tuple, list):
            kinds = [one for one in get_args(member) if one is not Ellipsis]
            by_position = get_origin(member) is not dict and isinstance(step, int)
            place.annotation = kinds[int(step) % len(kinds)] if by_position else kinds[-1]
        elif member is not None:
            continue  # the name of a validator
        place.names.append(str(step))
    return place


def _members(annotation: Any) -> list[Any]:
    """The members of a union without `None`; the annotation itself if it is no union."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in (Union, types.UnionType):
        return [annotation]
    return [inner for one in get_args(annotation) if one is not type(None) for inner in _members(one)]


def _tags(member: Any) -> set[str]:
    """What pydantic calls a member of a union: its name, or the value of its discriminator."""
    literals = [
        value
        for field in getattr(member, "model_fields", {}).values()
        if "Literal" in str(field.annotation)
        for value in get_args(field.annotation)
    ]
    return {getattr(member, "__name__", str(member)), *map(str, literals)}
