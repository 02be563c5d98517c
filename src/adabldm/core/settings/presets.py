"""Presets by name or from a file, changed by name: the same for edits and for fits."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from adabldm.core.errors import InputError
from adabldm.core.settings.base import Settings
from adabldm.core.settings.edit import ADAPTATIONS, PRESETS, EditPreset
from adabldm.core.settings.problems import FieldProblem, SettingsError

Preset = TypeVar("Preset", bound=Settings)

FILES = (".toml", ".yaml", ".yml", ".json")
"""Suffixes of files that hold settings."""


def edit_preset(
    preset: str | Path | EditPreset = "fast",
    changes: Sequence[str] = (),
    *,
    adapt: str | None = None,
    guidance: float | None = None,
) -> EditPreset:
    """A preset of edits.

    Args:
        preset: a name of `PRESETS`, the path of a file that holds an `EditPreset`, or one itself.
        changes: "field=value" each, such as "look.strengths=0.8,1.2" or "look=none"; the preset's name tells them.
        adapt: method of decoder adaptation, with its usual parameters if it is not the preset's own.
        guidance: guidance scale.

    Raises:
        SettingsError: unknown preset, field or value.
    """
    chosen = preset if isinstance(preset, EditPreset) else find_preset(EditPreset, PRESETS, str(preset))
    if adapt is not None and adapt not in ADAPTATIONS:
        problem = f"{adapt!r} was given, expected one of {', '.join(ADAPTATIONS)}"
        raise SettingsError([FieldProblem("adapt", problem)])
    if adapt is not None and adapt != chosen.adaptation.method:
        chosen = chosen.changed(adaptation={"method": adapt})
    if guidance is not None:
        try:
            scale = chosen.guidance.changed(scale=guidance)
        except SettingsError as error:
            raise SettingsError(FieldProblem("guidance", one.message) for one in error.fields) from error
        chosen = chosen.changed(guidance=scale)
    return change_preset(chosen, changes)


def find_preset(
    kind: type[Preset], known: Mapping[str, Preset], name: str, renamed: Mapping[str, str] | None = None
) -> Preset:
    """A preset by name, or from a file that holds one.

    Args:
        kind: class of the preset.
        known: presets by name.
        name: one of them, or the path of a file.
        renamed: what to say of names that are not in use any more.

    Raises:
        SettingsError: it is neither, or the file cannot be used.
    """
    if name in known:
        return known[name]
    path = Path(name).expanduser()
    if path.suffix.lower() in FILES:
        try:
            return kind.create({"name": path.stem, **read_settings_file(path)})
        except SettingsError as error:
            raise SettingsError(FieldProblem("preset", f"{path}: {line}") for line in error.problems) from error
        except InputError as error:
            raise SettingsError(FieldProblem("preset", line) for line in error.problems) from error
    first, *changes = name.split(",")
    if name in (renamed or {}):
        message = f"{name!r} {(renamed or {})[name]}"
    elif first in known and all("=" in change for change in changes):
        way = "look=none" if changes == ["start=0"] else "FIELD=VALUE for each, such as look.start=4"
        message = f"{name!r} was given, but changes are given on their own now; write --preset {first} --set {way}"
    else:
        message = f"{name!r} was given, expected one of {', '.join(known)}, or a file ({', '.join(FILES)})"
    raise SettingsError([FieldProblem("preset", message)])


def change_preset(preset: Preset, changes: Sequence[str]) -> Preset:
    """A preset with some fields changed by name.

    Args:
        preset: an `EditPreset` or `FitPreset`; the changes are added to its name.
        changes: "field=value" each; the field is dotted, the value as in TOML, or plain text without quotes; "none"
            takes an optional part away.

    Raises:
        SettingsError: no such field, or a value that does not fit; the problems name the field "set".
    """
    if not changes:
        return preset
    values = preset.plain()
    problems = [problem for change in changes if (problem := _change(values, change)) is not None]
    if problems:
        raise SettingsError(FieldProblem("set", problem) for problem in problems)
    try:
        return type(preset).create({**values, "name": " ".join([str(values["name"]), *changes])})
    except SettingsError as error:
        raise error.below("set") from error


def read_settings_file(path: Path) -> dict[str, Any]:
    """The values of a TOML, YAML or JSON file.

    Raises:
        InputError: it is missing, of another kind or broken.
    """
    import yaml

    suffix = path.suffix.lower()
    if suffix not in FILES:
        raise InputError(f"{path}: unknown kind of file, expected {', '.join(FILES)}; rename it.")
    load = {".toml": tomllib.loads, ".json": json.loads}.get(suffix, yaml.safe_load)
    try:
        values: object = load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path.") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as {suffix[1:].upper()} ({reason}); correct it.") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"{path}: expected settings by name, such as `count = 100`; correct it.")
    return values


def _change(values: dict[str, Any], change: str) -> str | None:
    """Carry out one change in nested plain values; returns what is wrong with it."""
    field, equals, text = change.partition("=")
    *parents, last = field.strip().split(".")
    if not equals or not last:
        return f"{change!r} was given, expected FIELD=VALUE such as look.strengths=0.8,1.2"
    if field.strip() == "name":
        return f"{change!r} was given, but the name is made of the changes; leave it out"
    place: Any = values
    for name in parents:
        if not isinstance(place.get(name), dict):
            place[name] = {}  # a part that the preset does without
        place = place[name]
    if last == "method":  # its "none" is a name, and the parameters are those of another method
        place.clear()
        place[last] = text.strip()
    else:
        place[last] = _value(text.strip())
    return None


def _value(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
