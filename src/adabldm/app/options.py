"""Options of a command, derived from the fields of its settings: nothing of a field is written twice."""

from __future__ import annotations

import inspect
import json
import keyword
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cyclopts import Group, Parameter
from pydantic import BaseModel, SkipValidation
from pydantic.fields import FieldInfo

from adabldm.core.settings.base import Settings
from adabldm.core.settings.common import DATA, DEFECTS, EDIT, MACHINE, TRAINING, setting
from adabldm.core.settings.presets import read_settings_file
from adabldm.core.settings.problems import FieldProblem, SettingsError, sentence

COMMAND = "Command"
GROUPS = {
    name: Group(name, sort_key=place) for place, name in enumerate((DATA, DEFECTS, EDIT, TRAINING, MACHINE, COMMAND))
}
"""Panels of the help in their order."""


class CommandSettings(Settings):
    """What every command understands beside its own settings."""

    config: Path | None = setting(
        "TOML, YAML or JSON file with settings by name; options that are given beside it win.", COMMAND, None
    )
    log_file: Path | None = setting("File that every event is appended to, a line of JSON each.", COMMAND, None)
    quiet: bool = setting("Show no progress bar.", COMMAND, False)


class JsonCommandSettings(CommandSettings):
    """Of a command whose result can be read by a program."""

    as_json: bool = setting("Print JSON and nothing else.", COMMAND, False, alias="json")


@dataclass(frozen=True)
class Option:
    """A field of settings as an option.

    Attributes:
        path: names of the field and of those that hold it, such as ("limits", "max_seam").
        info: the field.
        group: heading in the help.
    """

    path: tuple[str, ...]
    info: FieldInfo
    group: str

    @property
    def positional(self) -> bool:
        """Whether it is given by place."""
        extra = self.info.json_schema_extra
        return isinstance(extra, Mapping) and bool(extra.get("positional"))

    @property
    def bare(self) -> str | None:
        """Its value where nothing follows it; `None` if something must follow."""
        extra = self.info.json_schema_extra
        value = extra.get("bare") if isinstance(extra, Mapping) else None
        return value if isinstance(value, str) else None

    @property
    def name(self) -> str:
        """As it is written: `--limits.max-seam`, or `DATA` if it is given by place."""
        dotted = ".".join(self.path).replace("_", "-")
        return dotted.upper() if self.positional else f"--{dotted}"

    @property
    def parameter(self) -> str:
        """Name of the parameter of the command's function."""
        name = "__".join(self.path)
        return f"{name}_" if keyword.iskeyword(name) else name


def options_of(kind: type[Settings], above: tuple[str, ...] = (), group: str = COMMAND) -> Iterator[Option]:
    """The options of all fields; settings that a field holds have options of their own."""
    for name, info in kind.model_fields.items():
        extra = info.json_schema_extra
        heading = str(extra["group"]) if isinstance(extra, Mapping) and "group" in extra else group
        path = (*above, info.alias or name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, Settings):
            yield from options_of(info.annotation, path, heading)
        else:
            yield Option(path, info, heading)


def signature(kinds: Sequence[type[Settings]], *, required: bool) -> inspect.Signature:
    """The signature that the command line is parsed by; values stay text, because the settings check them.

    Args:
        kinds: settings whose fields are the options.
        required: let the parser insist on fields without a default; only the help does, elsewhere a file may give them.
    """
    options = [option for kind in kinds for option in options_of(kind)]
    options.sort(key=lambda option: (not option.positional, not option.info.is_required()))
    return inspect.Signature([_parameter(option, required) for option in options])


def _parameter(option: Option, required: bool) -> inspect.Parameter:
    kind, default = _kind(option.info.annotation), option.info.get_default(call_default_factory=True)
    listed = get_origin(kind) is tuple
    form = Parameter(
        name=None if option.positional else option.name,
        help=option.info.description,
        group=GROUPS[option.group],
        required=required and option.info.is_required(),
        negative="",
        converter=None if kind is bool else _Texts(listed),
        allow_repeating=True,
        show_default=False if default is None or default is False or default in ((), {}) else _shown_default,
        metavar="JSON" if _is_json(option.info) else _metavar(kind),
    )
    place = inspect.Parameter.POSITIONAL_ONLY if option.positional else inspect.Parameter.KEYWORD_ONLY
    shown = None if option.info.is_required() else default
    return inspect.Parameter(option.parameter, place, default=shown, annotation=Annotated[kind, form, SkipValidation])


@dataclass(frozen=True)
class _Texts:
    """Hands on what was typed: the last one, or all of an option that may be repeated."""

    listed: bool

    def __call__(self, kind: Any, tokens: Sequence[Any]) -> Any:
        texts = [token.value for token in tokens]
        return texts if self.listed else texts[-1]


def _kind(annotation: Any) -> Any:
    """A field's type as the parser and the shells' completion need it: without `None` and without whole settings."""
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    plain = [
        one for one in members if one is not type(None) and not (isinstance(one, type) and issubclass(one, BaseModel))
    ]
    return str if len(plain) != 1 or get_origin(plain[0]) is dict else plain[0]


def _metavar(kind: Any) -> str | None:
    item = get_args(kind)[0] if get_origin(kind) is tuple else kind
    item = get_args(item)[0] if get_origin(item) in (Union, types.UnionType) else item
    names = {str: "TEXT", int: "N", float: "X", Path: "PATH"}
    return "NAME" if get_origin(item) is Literal else names.get(item)


def _shown_default(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def gather(kind: type[Settings], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `kind` among the arguments of the command's function, as nested plain values."""
    values: dict[str, Any] = {}
    for option in options_of(kind):
        if option.parameter not in given:
            continue
        place = values
        for name in option.path[:-1]:
            place = place.setdefault(name, {})
        value = given[option.parameter]
        place[option.path[-1]] = _json(value) if _is_json(option.info) else value
    return values


def _is_json(info: FieldInfo) -> bool:
    return get_origin(info.annotation) is dict


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text  # which the settings refuse, by its field


def with_bare_values(tokens: Sequence[str], kinds: Sequence[type[Settings]]) -> list[str]:
    """What was typed, with the values of options that nothing follows."""
    values = {option.name: option.bare for kind in kinds for option in options_of(kind) if option.bare is not None}
    found: list[str] = []
    for token, following in zip(tokens, [*tokens[1:], "-"], strict=True):
        found += [token, values[token]] if token in values and following.startswith("-") else [token]
    return found


def read_config(path: Path, kinds: Sequence[type[Settings]]) -> list[dict[str, Any]]:
    """The values of a file for each of `kinds`; the keys are names of fields, with "_" or "-".

    Raises:
        InputError: it cannot be read.
        SettingsError: a key that is no field of any.
    """
    values = read_settings_file(path)
    parts: list[dict[str, Any]] = [_underscored(kind, values) for kind in kinds]
    known = {key for kind in kinds for key in _keys(kind)}
    unknown = {key: value for key, value in values.items() if key.replace("-", "_") not in known}
    parts[0] |= unknown
    return parts


def _underscored(kind: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are fields of `kind`, their names with "_"."""
    keys = _keys(kind)
    found = {name: value for key, value in values.items() if (name := key.replace("-", "_")) in keys}
    return {name: _nested(keys[name].annotation, value) for name, value in found.items()}


def _nested(kind: Any, value: Any) -> Any:
    if not (isinstance(kind, type) and issubclass(kind, Settings) and isinstance(value, Mapping)):
        return value
    return {str(key).replace("-", "_"): inner for key, inner in value.items()}


def _keys(kind: type[Settings]) -> dict[str, FieldInfo]:
    return {info.alias or name: info for name, info in kind.model_fields.items()}


def merge(first: Mapping[str, Any], second: Mapping[str, Any], kind: type[Settings]) -> dict[str, Any]:
    """The values of both; `second` wins, field by field also in settings that a field holds."""
    merged = {**first, **second}
    for name, info in kind.model_fields.items():
        inner = info.annotation
        both = isinstance(first.get(name), Mapping) and isinstance(second.get(name), Mapping)
        if both and isinstance(inner, type) and issubclass(inner, Settings):
            merged[name] = merge(first[name], second[name], inner)
    return merged


def in_words(error: SettingsError, kinds: Sequence[type[Settings]], config: Path | None = None) -> list[str]:
    """The problems of settings as the command line tells them: each by its option.

    Args:
        error: of the settings.
        kinds: whose fields they are.
        config: file that gave some of the values; what is no option is named as a part of it.
    """
    names = {option.path: option.name for kind in kinds for option in options_of(kind)}
    return [_in_words(one, names, config) for one in error.fields]


def _in_words(problem: FieldProblem, names: Mapping[tuple[str, ...], str], config: Path | None) -> str:
    path = tuple(problem.field.split(".")) if problem.field else ()
    for length in range(len(path), 0, -1):
        if path[:length] in names:
            rest = ".".join(path[length:])
            return sentence(names[path[:length]], f"{rest}: {problem.message}" if rest else problem.message)
    where = problem.field if config is None else f"{config}: {problem.field}"
    return sentence(where.removesuffix(": "), problem.message)
