"""Hook of the documentation site: the reference of commands, presets and records, made from the code.

A page asks for a part with a comment such as `<!-- generated: commands -->`; `PARTS` names them all. Nothing is written
twice: names, types, defaults and descriptions come from the settings, the records and the table of commands.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from adabldm.app.cli import COMMANDS
from adabldm.app.command import COMPLETION, Command
from adabldm.app.options import GROUPS, CommandSettings, Option, options_of
from adabldm.core import records
from adabldm.core.records import VersionedRecord
from adabldm.core.settings import FIT_PRESETS, PRESETS, EditPreset, FitPreset, Settings
from adabldm.core.settings.base import Steps
from adabldm.core.settings.common import Limits, Recipe
from adabldm.core.settings.edit import ADAPTATIONS, Guidance, Look, PutBack, StagePlan
from adabldm.core.settings.fit import OWN_BRANCH_PRESETS, LoopSettings, Mixture, OwnBranch

MARKER = re.compile(r"<!-- generated: ([\w-]+) -->")
WORDS = {int: "integer", float: "number", str: "text", bool: "switch", Path: "path"}
BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace every marker of a page; MkDocs calls this for each page."""
    return MARKER.sub(lambda found: PARTS[found[1]](), markdown)


def commands() -> str:
    """All commands, then the options that every command understands."""
    shared = {option.name for option in options_of(CommandSettings)}
    sections = [_command(command, shared) for command in COMMANDS]
    common = ["## Options of every command", "", _option_table(options_of(CommandSettings)), "",
              "`adabldm --version` prints the version, `adabldm COMMAND --help` the options of a command. "
              f"`adabldm --install-completion`: {COMPLETION[0].lower()}{COMPLETION[1:]}"]  # fmt: skip
    return "\n\n".join([*sections, "\n".join(common)])


def _command(command: Command, shared: set[str]) -> str:
    options = list(options_of(command.settings))
    options += [option for option in options_of(command.surface) if option.name not in shared]
    lines = [f"## adabldm {command.name}", "", command.summary, "", "```sh", *command.examples, "```"]
    for group in GROUPS:
        here = [option for option in options if option.group == group]
        if here:
            lines += ["", f"**{group}**", "", _option_table(sorted(here, key=lambda one: not one.positional))]
    return "\n".join(lines)


def _option_table(options: Iterator[Option] | Sequence[Option]) -> str:
    rows = [(f"`{one.name}`", _kind(one.info), _default(one.info), _description(one.info)) for one in options]
    return _table(("option", "value", "default", "meaning"), rows)


def edit_presets() -> str:
    """Fields of a preset of edits, with their values in the presets that ship."""
    parts: list[tuple[str, str, type[Settings]]] = [
        ("plan", "Stage plan", StagePlan),
        ("guidance", "Guidance", Guidance),
        ("look", "Look of a real defect", Look),
        ("put_back", "Put-back", PutBack),
    ]
    sections = [_preset_part(name, title, kind, PRESETS) for name, title, kind in parts]
    return "\n\n".join([*sections, _adaptations()])


def _adaptations() -> str:
    lines = ["### Decoder adaptation (`adaptation`)", "",
             "`--adapt METHOD` chooses a method with its usual parameters; `--set adaptation.method=METHOD` does the "
             "same.", ""]  # fmt: skip
    rows = [(f"`{name}`", _first_line(kind)) for name, kind in ADAPTATIONS.items()]
    lines += [_table(("method", "what it does"), rows), "", _table(
        ("preset", "method", "parameters"),
        [(f"`{name}`", f"`{preset.adaptation.method}`", _parameters(preset.adaptation)) for name, preset in
         PRESETS.items()],
    )]  # fmt: skip
    for name, kind in ADAPTATIONS.items():
        if fields := {key: info for key, info in kind.model_fields.items() if key != "method"}:
            lines += ["", f"Parameters of `{name}`:", "", _field_table(fields, "adaptation.")]
    return "\n".join(lines)


def _parameters(settings: Settings) -> str:
    values = ((name, value) for name, value in settings.plain().items() if name != "method")
    return ", ".join(f"{name} {_value(value)}" for name, value in values) or "none"


def fit_presets() -> str:
    """Fields of a preset of fits, with their values in the presets that ship."""
    parts = [
        ("domain", "Domain stage", LoopSettings),
        ("control", "Control stage", LoopSettings),
        ("mixture", "Training windows", Mixture),
        ("own_branch", "The base's own control branch", OwnBranch),
    ]
    own = {
        name: info
        for name, info in FitPreset.model_fields.items()
        if name not in {"name", *(part for part, _, _ in parts)}
    }
    sections = ["### The fit as a whole\n\n" + _value_table(own, "", FIT_PRESETS)]
    sections += [_preset_part(name, title, kind, FIT_PRESETS) for name, title, kind in parts]
    return "\n\n".join(sections)


def _preset_part(name: str, title: str, kind: type[Settings], presets: Mapping[str, EditPreset | FitPreset]) -> str:
    table = _value_table(kind.model_fields, f"{name}.", presets)
    return f"### {title} (`{name}`)\n\n{_first_line(kind)}\n\n{table}"


def _value_table(fields: Mapping[str, FieldInfo], above: str, presets: Mapping[str, EditPreset | FitPreset]) -> str:
    rows = []
    for name, info in fields.items():
        values = [_either(preset, f"{above}{name}") for preset in presets.values()]
        rows.append((f"`{above}{name}`", _kind(info), *values, _description(info)))
    return _table(("field", "value", *(f"`{name}`" for name in presets), "meaning"), rows)


def _either(preset: EditPreset | FitPreset, field: str) -> str:
    """The value of a field; of a fit's preset the one for bases with a control branch of their own, and the other."""
    value = _value(_inside(preset, field))
    if not isinstance(preset, FitPreset) or preset.name not in OWN_BRANCH_PRESETS:
        return value
    own = _value(_inside(OWN_BRANCH_PRESETS[preset.name], field))
    return own if own == value else f"{own} / {value}"


def _inside(settings: Settings, field: str) -> Any:
    """The value of a dotted field; an ellipsis where the part that holds it is left out."""
    place: Any = settings.model_dump(mode="json", by_alias=True)
    for name in field.split("."):
        if place is None:
            return ...
        place = place.get(name)
    return place


def limits() -> str:
    """Limits of the selection."""
    return _field_table(Limits.model_fields, "limits.")


def recipes() -> str:
    """Fields of a recipe of procedural masks."""
    return _field_table(Recipe.model_fields)


def record_classes() -> str:
    """All records that are written to files, each followed by the models that its fields hold."""
    kinds = [kind for name in records.__all__ if _is_record(kind := getattr(records, name))]
    described: dict[type[BaseModel], None] = {}
    for kind in sorted(kinds, key=lambda kind: [*_FIRST, kind.__name__].index(kind.__name__)):
        described |= dict.fromkeys([kind, *_held(kind)])
    return "\n\n".join(_model(kind) for kind in described)


_FIRST = ("ImageRecord", "RunCard", "EvaluationReport")
"""Records that readers look for, in this order; the others follow."""


def _is_record(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, VersionedRecord) and kind is not VersionedRecord


def _held(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The models in the fields of a model, at any depth."""
    for info in kind.model_fields.values():
        for inner in _models(info.annotation):
            yield inner
            yield from _held(inner)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        generic = annotation.__pydantic_generic_metadata__
        yield generic["origin"] or annotation
        yield from (inner for argument in generic["args"] for inner in _models(argument))
    for argument in get_args(annotation):
        yield from _models(argument)


def _model(kind: type[BaseModel]) -> str:
    level = "##" if issubclass(kind, VersionedRecord) else "###"
    return f"{level} {kind.__name__}\n\n{_first_line(kind)}\n\n{_field_table(kind.model_fields)}"


def _field_table(fields: Mapping[str, FieldInfo], above: str = "") -> str:
    rows = [
        (f"`{above}{info.alias or name}`", _kind(info), _default(info), _description(info))
        for name, info in fields.items()
    ]
    return _table(("field", "value", "default", "meaning"), rows)


def _description(info: FieldInfo) -> str:
    """What a field means; a field that is a model of its own is described by that model."""
    nested = next((one for one in _members(info.annotation) if _has_fields(one)), None)
    return info.description or (_first_line(nested) if nested is not None else "")


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    return _value(info.get_default(call_default_factory=True))


def _value(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is ...:
        return "–"
    if value is None or value in ((), {}, []):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple | list):
        return ", ".join(map(_value, value))
    if isinstance(value, BaseModel):
        return "see its fields"
    if isinstance(value, float):
        return f"{value:g}"
    return f"`{value}`" if isinstance(value, str | Path) else str(value)


def _kind(info: FieldInfo) -> str:
    """The type of a field in words, with its bounds."""
    bounds = [BOUNDS[name].format(limit) for one in info.metadata for name, limit in _limits(one)]
    pair = "two integers" if _is_steps(info.annotation) else None
    plain = [one for one in _members(info.annotation) if not _has_fields(one)] or _members(info.annotation)
    members = [pair] if pair else [_word(one) for one in plain]
    return ", ".join([" or ".join(dict.fromkeys(members)), *bounds])


def _limits(metadata: object) -> Iterator[tuple[str, Any]]:
    for name in BOUNDS:
        if getattr(metadata, name, None) is not None:
            yield name, getattr(metadata, name)


def _is_steps(annotation: Any) -> bool:
    plain = get_args(get_args(Steps)[0])
    return any(get_args(one) == plain for one in _members(annotation))


def _word(member: Any) -> str:
    arguments = get_args(member)
    if get_origin(member) is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if get_origin(member) is tuple:
        return f"list of {_word(arguments[0])}" if Ellipsis in arguments else _fixed(arguments)
    if get_origin(member) in (dict, Mapping) or member is dict:
        return "JSON object"
    if isinstance(member, TypeVar):
        return "number or `Statistic`"
    if _has_fields(member):
        return f"[{member.__name__}](#{member.__name__.lower()})"
    return WORDS.get(member, getattr(member, "__name__", str(member)))


def _fixed(arguments: Sequence[Any]) -> str:
    number = {2: "two", 3: "three"}.get(len(arguments), str(len(arguments)))
    return f"{number} {_word(arguments[0])}s"


def _members(annotation: Any) -> list[Any]:
    """The members of a union without `None`; the annotation itself if it is no union."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for one in get_args(annotation) if one is not type(None) for inner in _members(one)]
    return [annotation]


def _has_fields(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


PARTS: Mapping[str, Callable[[], str]] = {
    "commands": commands,
    "edit-presets": edit_presets,
    "fit-presets": fit_presets,
    "limits": limits,
    "recipes": recipes,
    "records": record_classes,
}
"""What a page may ask for."""
