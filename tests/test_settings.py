"""Settings: flags and files give the same, every field is an option, and every problem names its field."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from conftest import Adabldm
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from adabldm.app.cli import COMMANDS
from adabldm.app.command import Command, parse
from adabldm.core.errors import InputError, is_text
from adabldm.core.settings import (
    FIT_PRESETS,
    PRESETS,
    EditPreset,
    EvaluateSettings,
    FitPreset,
    FitSettings,
    GenerateSettings,
    Settings,
    SettingsError,
)
from adabldm.core.settings.common import ExportOptions, Recipe
from adabldm.core.settings.edit import ADAPTATIONS
from adabldm.core.settings.presets import change_preset, edit_preset, find_preset

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
WORD = st.from_regex(r"[a-z][a-z0-9_.]{0,8}", fullmatch=True)
"""A value that may stand by itself, such as a folder."""
FILES = {
    ".toml": lambda values: "".join(f"{in_toml(key)} = {in_toml(value)}\n" for key, value in values.items()),
    ".yaml": lambda values: yaml.safe_dump(values, allow_unicode=True),
    ".json": json.dumps,
}


def in_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{in_toml(key)} = {in_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(in_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


# Random settings, made from the fields themselves


def members(annotation: Any) -> list[Any]:
    return [one for one in get_args(annotation) if one is not type(None)] if is_union(annotation) else [annotation]


def is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def limit(info: FieldInfo, name: str, otherwise: float) -> Any:
    return next((found for one in info.metadata if (found := getattr(one, name, None)) is not None), otherwise)


def values_of(info: FieldInfo) -> st.SearchStrategy[Any]:
    kind = members(info.annotation)[0]
    if isinstance(kind, type) and issubclass(kind, Settings):
        return settings_of(kind)
    low, high = limit(info, "ge", -1000), limit(info, "le", 1000)
    extra = info.json_schema_extra
    if isinstance(extra, dict) and extra["positional"] and kind is not int:
        return st.lists(WORD, min_size=1, max_size=3) if get_origin(kind) is tuple else WORD
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is tuple:
        return st.lists(TEXT, min_size=1, max_size=3, unique=True)
    if get_origin(kind) is dict:
        shares = st.lists(st.floats(0.1, 0.9), min_size=2, max_size=2).map(sorted)
        recipe = st.fixed_dictionaries({"kind": st.sampled_from(["blob", "scratch"])}, optional={"share": shares})
        return st.dictionaries(TEXT, st.lists(recipe, max_size=2), max_size=2)
    below, open_end = limit(info, "lt", high), limit(info, "lt", math.inf) <= high
    floats = st.floats(low, min(high, below), exclude_max=open_end)
    plain = {int: st.integers(math.ceil(low), math.floor(high)), float: floats, bool: st.just(True)}
    return plain.get(kind, TEXT)


DEPENDENT: dict[type[Settings], Collection[str]] = {
    GenerateSettings: ExportOptions.model_fields.keys(),
    EvaluateSettings: ("folds", "fit", "base"),
}
"""Fields of one command that depend on each other."""


def settings_of(kind: type[Settings]) -> st.SearchStrategy[dict[str, Any]]:
    needed, optional = {}, {}
    for name, info in kind.model_fields.items():
        # Fields that depend on each other or on files, or are written as lists of numbers, have tests of their own.
        if name not in (
            "foreground",
            "foreground_folder",
            "reject",
            "keep",
            "recipes",
            "shard",
            "export",
            "export_out",
            "size",
            "turn",
            "flips",
            "contrast",
            "per_image",
            "mix",
            "onto",
            "roi",
            "nearest",
            "fold",
        ) and name not in DEPENDENT.get(kind, ()):
            (needed if info.is_required() else optional)[info.alias or name] = values_of(info)
    drawn = st.fixed_dictionaries(needed, optional=optional)
    return drawn.map(lambda values: {k: v for k, v in values.items() if not (k == "workers" and "ray" in values)})


def flags(kind: type[Settings], values: dict[str, Any], above: str = "") -> Iterator[str]:
    known = {info.alias or name: info for name, info in kind.model_fields.items()}
    for name in filter(values.__contains__, known):  # places are taken in the order of the fields
        info, value = known[name], values[name]
        option = f"--{above}{name.replace('_', '-')}"
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra["positional"]:
            yield from value if isinstance(value, list) else [str(value)]
        elif isinstance(info.annotation, type) and issubclass(info.annotation, Settings):
            yield from flags(info.annotation, value, f"{name}.")
        elif value is True:
            yield option
        elif isinstance(value, list):
            yield from (f"{option}={one}" for one in value)
        else:
            yield f"{option}={json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value}"


def parsed(command: Command, *tokens: str) -> Any:
    """The settings that a command is given."""
    taken: list[Any] = []

    def take(found: Any, surface: Any, listen: Any) -> None:
        taken.append(found)

    take.__name__ = command.name
    spy = Command(command.settings, take, command.summary, surface=command.surface)
    parse([command.name, *tokens], [spy], "")
    return taken[0]


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_flags_and_files_give_the_same(data: st.DataObject) -> None:
    command = data.draw(st.sampled_from(COMMANDS))
    values = data.draw(settings_of(command.settings))
    suffix = data.draw(st.sampled_from(sorted(FILES)))
    dashed = data.draw(st.booleans())
    written = {key.replace("_", "-") if dashed else key: value for key, value in values.items()}
    by_flags = parsed(command, *flags(command.settings, values))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"settings{suffix}"
        path.write_text(FILES[suffix](written), encoding="utf-8")
        assert parsed(command, "--config", str(path)) == by_flags
    assert by_flags == command.settings.create(values)
    without_remarks = {key: value for key, value in values.items() if key != "remarks"}  # no part of what is recorded
    assert command.settings.create(by_flags.plain()) == command.settings.create(without_remarks)


def test_flags_win_over_the_file_field_by_field(tmp_path: Path) -> None:
    generate = next(command for command in COMMANDS if command.name == "generate")
    path = tmp_path / "more.toml"
    path.write_text('data = "d"\nout = "o"\ncount = 3\nseed = 5\n[limits]\nmin-visible = 1\nmax_seam = 2\n')
    found = parsed(generate, "a-run", "--config", str(path), "--count", "9", "--limits.max-seam", "7")
    assert (found.run, found.data, found.count, found.seed) == ("a-run", Path("d"), 9, 5)
    assert (found.limits.min_visible, found.limits.max_seam) == (1, 7)


def test_a_file_may_hold_what_every_command_understands(adabldm: Adabldm, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "look.yaml"
    path.write_text(f"data: {data}\njson: true\nlog-file: {tmp_path / 'events.jsonl'}\n", encoding="utf-8")
    result = adabldm("inspect", "--config", path)
    assert (result.code, json.loads(result.out)["root"]) == (0, str(data))
    assert (tmp_path / "events.jsonl").exists()


def fields_of(kind: type[Settings], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, info in kind.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Settings):
            yield from fields_of(info.annotation, f"{above}{name}.")
        else:
            yield f"{above}{info.alias or name}".replace("_", "-"), info


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_help_has_every_field_in_its_group(adabldm: Adabldm, command: Command) -> None:
    result = adabldm(command.name, "--help")
    assert (result.code, result.err) == (0, "")
    text = re.sub(r"[│\s]+", " ", result.out)
    for name, info in fields_of(command.settings):
        extra = info.json_schema_extra
        positional = isinstance(extra, dict) and extra["positional"]
        assert f"{name.upper()} " if positional else f"--{name} " in text, name
        assert isinstance(info.description, str)
        assert info.description.endswith(".")
        assert isinstance(extra, dict) == ("." not in name)
        assert extra is None or f"─ {extra['group']} ─" in result.out
    assert re.search(rf"Examples:\n  adabldm {command.name}", result.out)
    for name in ("--config", "--quiet", "--log-file"):
        assert name in text
    assert "--no-" not in text
    assert "--empty-" not in text


def test_the_examples_of_the_help_can_be_parsed() -> None:
    for command in COMMANDS:
        lines = "\n".join(command.examples).replace("\\\n", "").splitlines()
        for line in lines:
            program, name, *tokens = line.split()
            assert (program, name) == ("adabldm", command.name)
            if "--config" not in tokens:
                assert isinstance(parsed(command, *tokens), command.settings)


def test_help_and_errors_need_no_pytorch() -> None:
    code = (
        "import sys; from adabldm.app.cli import main\n"
        "codes = [main(['generate', '--help']), main(['fit', '--count', '0'])]\n"
        "print(codes, file=sys.stderr)\n"
        "print({'torch', 'diffusers', 'transformers', 'cv2', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-2:] == ["[0, 2]", "set()"]


# Problems


def problems(call: Any, *arguments: Any, **more: Any) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        call(*arguments, **more)
    return {one.field: one.message for one in caught.value.fields}


NEEDED = {"run": "r", "data": "d", "out": "o", "count": 1}


def test_all_problems_are_told_at_once_by_field() -> None:
    values = {**NEEDED, "count": 0, "seed": "x", "limits": {"max_sean": 1}, "mask_threshold": 300, "windw": "full"}
    assert problems(GenerateSettings.create, values) == {
        "count": "0 was given, expected a number from 1 to 1000000",
        "seed": "x was given, expected a whole number",
        "mask_threshold": "300 was given, expected a number from 0 to 254",
        "limits.max_sean": "unknown setting, expected max_seam",
        "windw": "unknown setting, expected window",
    }


def test_problems_in_unions_and_containers_name_the_field_alone() -> None:
    plan = {"steps": 6, "latent_stage": [1, 7], "image_stage": [4, 5]}
    assert problems(GenerateSettings.create, {**NEEDED, "preset": {"name": "mine", "plan": plan}}) == {
        "preset.plan.latent_stage": "1,7 was given, expected steps within 0 to 6"
    }
    recipes = {"crack": [{"kind": "blob"}, {"kind": "dot", "share": [2, 1]}]}
    assert problems(GenerateSettings.create, {**NEEDED, "recipes": recipes}) == {
        "recipes.crack.1.kind": "dot was given, expected one of blob, scratch, polygon",
        "recipes.crack.1.share": "2.0,1.0 was given, expected the smaller number first",
    }
    adaptation = {"method": "ridge", "damping": 0, "reach": 1}
    found = problems(EditPreset.create, PRESETS["paper"].plain() | {"adaptation": adaptation})
    assert found == {
        "adaptation.damping": "0 was given, expected a number from 1e-09 to 1000000.0",
        "adaptation.reach": "unknown setting, expected one of method, inside, damping",
    }


def test_problems_of_several_fields_name_one_of_them(tmp_path: Path) -> None:
    assert problems(GenerateSettings.create, NEEDED, foreground="folder").keys() == {"foreground_folder"}
    fit = {"data": "d", "out": "o"}
    assert problems(FitSettings.create, fit, foreground_folder=tmp_path).keys() == {"foreground_folder"}
    other = {**NEEDED, "foreground": "texture"}
    assert problems(GenerateSettings.create, other, foreground_folder=tmp_path).keys() == {"foreground_folder"}
    assert GenerateSettings.create(NEEDED, foreground_folder=tmp_path).foreground is None  # the run may say "folder"
    missing = problems(GenerateSettings.create, NEEDED, foreground="folder", foreground_folder=tmp_path / "no")
    assert missing.keys() == {"foreground_folder"}
    twice = {"data": "d", "out": "o", "detector": ["unet", "unet"]}
    assert problems(EvaluateSettings.create, twice).keys() == {"detector"}


def test_a_preset_is_checked_as_a_whole_however_it_is_made() -> None:
    paper = PRESETS["paper"]
    steps = {"plan.latent_stage", "plan.image_stage"}
    assert problems(EditPreset.create, paper.plain() | {"plan": paper.plan.plain() | {"steps": 7}}).keys() <= steps
    assert problems(paper.plan.changed, steps=7).keys() <= {"latent_stage", "image_stage"}
    assert problems(change_preset, paper, ["plan.steps=7"]).keys() == {"set"}
    assert problems(PRESETS["fast"].changed, plan=paper.plan, look=PRESETS["fast"].look, guidance={"steps": (0, 86)})


# Presets


@pytest.mark.parametrize(
    "change",
    [
        "look.strengths=1e-300,1e300", "look.strengths=1,101", "put_back.feather=1e308,1", "put_back.finest=1000000000",
        "adaptation.grow=1000000000", "adaptation.reach=1e300", "adaptation.reach=1e-200", "look.start=1000",
        "plan.steps=1", "guidance.scale=-1", "guidance.scale=nan", "guidance.scale=1e9",
    ],
)  # fmt: skip
def test_absurd_values_of_a_preset_are_refused(change: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(change.partition("=")[0].partition(".")[0])):
        edit_preset("fast", [change])


def test_a_look_needs_a_step_to_begin_from() -> None:
    one = {"steps": 1, "latent_stage": [0, 1], "image_stage": [0, 1]}
    preset = {**PRESETS["fast"].plain(), "plan": one, "guidance": {"scale": None}}
    assert problems(EditPreset.create, preset) == {
        "plan.steps": "1 was given, expected at least 2 with a look, which leaves steps out"
    }
    assert EditPreset.create({**preset, "look": None}).plan.steps == 1


@pytest.mark.parametrize(("name", "expected"), [("a\nb", "on one line"), ("x" * 4097, "at most 4096 characters")])
def test_names_of_presets_can_be_shown(name: str, expected: str) -> None:
    for kind, presets in ((EditPreset, PRESETS), (FitPreset, FIT_PRESETS)):
        found = problems(kind.create, {**next(iter(presets.values())).plain(), "name": name})
        assert found.keys() == {"name"}
        assert expected in found["name"]


def places(values: object, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where plain values stand in each other, by keys and numbers."""
    yield at
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in pairs:
        yield from places(value, (*at, key))


@pytest.mark.parametrize("kind", [EditPreset, FitPreset])
def test_text_that_is_no_unicode_is_refused_by_a_sentence(kind: type[EditPreset | FitPreset], tmp_path: Path) -> None:
    sound = (PRESETS["fast"] if kind is EditPreset else FIT_PRESETS["quick"]).plain()
    path = tmp_path / "mine.json"
    for place in places(sound):
        for odd in ("\ud800", {"\ud800": 1}):
            values: Any = {"": json.loads(json.dumps(sound))}
            holder, (*above, last) = values, ("", *place)
            for key in above:
                holder = holder[key]
            holder[last] = odd
            if isinstance(values[""], dict):
                path.write_text(json.dumps(values[""]), encoding="ascii")
                for message in problems(find_preset, kind, {}, str(path)).values():
                    assert is_text(message)
                    assert "valid string" not in message


def test_a_copy_may_have_no_value_where_a_field_may_be_left_out() -> None:
    from_noise = PRESETS["fast"].changed(look=None, name="from noise")
    assert (from_noise.look, from_noise.name) == (None, "from noise")
    assert PRESETS["fast"].changed_where_given(look=None) == PRESETS["fast"]
    assert FIT_PRESETS["quick"].control.changed(patience=3).changed(patience=None).patience is None
    assert "expected" in problems(FIT_PRESETS["quick"].control.changed, steps=None)["steps"]


def test_presets_are_changed_by_name() -> None:
    fast = PRESETS["fast"]
    changed = edit_preset("fast", ["look.strengths=0.8,1.2", "plan.spacing=leading", "look.detail=1"], guidance=3)
    assert changed.name == "fast look.strengths=0.8,1.2 plan.spacing=leading look.detail=1"
    assert changed.look is not None
    assert fast.look is not None
    assert changed.look.strengths == (0.8, 1.2)
    assert changed.guidance == fast.guidance.changed(scale=3)
    assert changed.changed(name="fast", look=fast.look, plan=fast.plan, guidance=fast.guidance) == fast
    assert edit_preset("fast", ["look=none"]).look is None
    assert edit_preset("paper", ["look.start=3"]).look == PRESETS["fast"].look.__class__(start=3)
    assert edit_preset("fast", ["adaptation.damping=0.5"], adapt="ridge").adaptation == ADAPTATIONS["ridge"](
        damping=0.5
    )
    ridge = edit_preset("fast", ["adaptation.method=ridge", "adaptation.damping=0.5"])
    assert ridge.adaptation == ADAPTATIONS["ridge"](damping=0.5)
    assert edit_preset("fast", ["adaptation.method=none"]).adaptation == ADAPTATIONS["none"]()
    assert edit_preset("released", adapt="finetune").adaptation == PRESETS["released"].adaptation
    assert edit_preset(fast) is fast


@pytest.mark.parametrize(
    "change", ["look", "look.colour=1", "look.strengths=0.8", "look.strengths=2,1", "x=1", "name=y"]
)
def test_changes_that_do_not_fit_name_set(change: str) -> None:
    found = problems(edit_preset, "fast", [change])
    assert found.keys() == {"set"}
    assert "expected" in found["set"] or "leave it out" in found["set"]


@pytest.mark.parametrize("suffix", sorted(FILES))
def test_a_preset_may_be_a_file(tmp_path: Path, suffix: str) -> None:
    values = {key: value for key, value in PRESETS["fast"].plain().items() if key != "name"}
    values["guidance"]["scale"] = 4.0
    values["look"] = {key: value for key, value in values["look"].items() if value is not None}  # TOML knows no null
    path = tmp_path / f"gentle{suffix}"
    path.write_text(FILES[suffix](values), encoding="utf-8")
    expected = PRESETS["fast"].changed(name="gentle", guidance=PRESETS["fast"].guidance.changed(scale=4))
    assert edit_preset(str(path)) == expected
    path.write_text(FILES[suffix]({**values, "plan": {**values["plan"], "steps": 0}}), encoding="utf-8")
    message = problems(edit_preset, str(path))["preset"]
    assert message.startswith(f"{path}: plan.steps: 0 was given")
    path.write_text("{", encoding="utf-8")
    assert f"{path}: cannot be read as {suffix[1:].upper()}" in problems(edit_preset, str(path))["preset"]


def test_names_of_earlier_versions_say_what_to_write_now() -> None:
    assert "--preset fast --set look=none" in problems(edit_preset, "fast,start=0")["preset"]
    assert "--set FIELD=VALUE" in problems(edit_preset, "fast,tones=1-1,start=4")["preset"]
    old = FitSettings.create(data="d", out="o", preset="paper")
    assert "published" in problems(old.fit_preset)["preset"]
    assert "quick, standard, published" in problems(old.changed(preset="slow").fit_preset)["preset"]


def test_options_of_a_fit_change_its_preset() -> None:
    chosen = FitSettings.create(
        data="d", out="o", domain_steps=0, batch_size=3, seed=7, set=["control.learning_rate=1e-5"]
    ).fit_preset()
    quick = FIT_PRESETS["quick"]
    assert chosen.domain_mode == "none"
    assert (chosen.domain.batch_size, chosen.control.batch_size, chosen.control.seed) == (3, 3, 7)
    assert (chosen.control.learning_rate, chosen.control.steps) == (1e-5, quick.control.steps)
    assert FitSettings.create(data="d", out="o").fit_preset() == quick


def test_a_budget_fills_what_is_left_out() -> None:
    quick = EvaluateSettings.create(data="d", out="o", budget="quick", seeds=2, detector=[])
    assert (quick.count, quick.seeds, quick.detector) == (100, 2, ("unet",))
    assert EvaluateSettings.create(quick.plain()) == quick
    assert EvaluateSettings.create(data="d", out="o").seeds == 3


def test_settings_files_that_cannot_be_read(adabldm: Adabldm, tmp_path: Path) -> None:
    cases = {
        "missing.toml": (None, "no such file"),
        "other.ini": ("count=1", "unknown kind of file, expected .toml, .yaml, .yml, .json"),
        "broken.toml": ("count = ", "cannot be read as TOML"),
        "broken.yaml": ("[", "cannot be read as YAML"),
        "list.json": ("[1]", "expected settings by name"),
        "wrong.toml": ("cuont = 3", "cuont: unknown setting, expected count"),
    }
    for name, (text, words) in cases.items():
        path = tmp_path / name
        if text is not None:
            path.write_text(text, encoding="utf-8")
        result = adabldm("demo", "--config", path)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith(f"adabldm: {path}: ")
        assert words in result.err
    with pytest.raises(InputError):
        Recipe.create(kind="line")
