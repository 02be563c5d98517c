"""The claim of an output folder: whose it is is decided before anything in it is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import contents

from adabldm.core.errors import InputError, OutputError
from adabldm.core.images import TEMPORARY
from adabldm.core.records import SCHEMA
from adabldm.core.settings import PRESETS
from adabldm.core.settings.common import Limits
from adabldm.core.settings.edit import EditPreset, Finetune, StagePlan
from adabldm.core.settings.presets import edit_preset
from adabldm.data.claim import HOLDER, LOCK, SETTINGS, claim
from adabldm.data.generated import GeneratedFolder
from adabldm.data.upgrade import LATER_LIMITS

OLD = Path(__file__).parent / "fixtures" / "schema0"
SOME = {"seed": 1, "preset": {"name": "fast", "steps": [1, 6]}, "size": (64, 64)}


def take(root: Path, settings: Any = SOME, command: str = "generate", **options: Any) -> None:
    with claim(root, settings, command, **options):
        pass


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    take(tmp_path / "mine")
    return tmp_path / "mine"


def refusal(root: Path, *arguments: Any, **options: Any) -> str:
    """The message; nothing in the folder was touched."""
    before = contents(root)
    with pytest.raises(InputError) as caught:
        take(root, *arguments, **options)
    assert contents(root) == before
    (problem,) = caught.value.problems
    return problem


def test_settings_are_left_and_nothing_else(mine: Path) -> None:
    assert list(contents(mine)) == [SETTINGS]
    values = json.loads((mine / SETTINGS).read_text(encoding="utf-8"))
    assert values == {"schema": SCHEMA, "command": "generate", **SOME, "size": [64, 64]}
    before = contents(mine)
    take(mine, {"size": [64, 64], **SOME})
    assert contents(mine) == before


def test_a_folder_of_somebody_is_not_touched(tmp_path: Path) -> None:
    home = tmp_path / "home1"
    (home / "x").mkdir(parents=True)
    (home / "x" / ".part-video.mp4").write_text("v")
    (home / "x" / f"{TEMPORARY}12345678").write_text("v")
    (home / "letter.txt").write_text("d")
    assert "not empty and not made by generate; choose another --out" in refusal(home)
    (home / "letter.txt").unlink()
    assert "not empty" in refusal(home)
    (home / SETTINGS).write_text('{"editor": "vim"}')
    assert "other settings" in refusal(home)
    assert (home / "x" / ".part-video.mp4").read_text() == "v"


def test_other_settings_and_commands_are_refused_by_name(mine: Path) -> None:
    changed = {"preset": {"name": "fast", "steps": [1, 7]}, "adapt": None, "size": [64, 64]}
    message = refusal(mine, changed)
    for words in ("seed was 1, is now not set", "preset.steps was [1, 6], is now [1, 7]", "adapt was not set, is now"):
        assert words in message
    assert [word for word in ("size", "schema", "preset.name") if word in message] == []
    assert "made by generate, not by evaluate" in refusal(mine, SOME, "evaluate")


def test_damaged_and_later_settings_are_refused(mine: Path) -> None:
    for content, words in (
        ('{"pres', "cannot be read"),
        ("[]", "not written by generate"),
        ('{"schema": "new"}', "not written by generate"),
        (f'{{"schema": {SCHEMA + 1}}}', "update adabldm"),
    ):
        (mine / SETTINGS).write_text(content)
        assert words in refusal(mine)


def test_files_and_dead_links_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a file, expected a folder"):
        take(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be created"):
        take(tmp_path / "file" / "below")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="leads nowhere"):
        take(tmp_path / "link")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_a_folder_may_be_a_link(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(mine, target_is_directory=True)
    take(tmp_path / "link")


def test_our_leftovers_are_removed_and_nobody_elses(mine: Path, tmp_path: Path) -> None:
    ours = [
        mine / f"{TEMPORARY}abcdefgh", mine / "test" / "spot" / f"{TEMPORARY}x", mine / "cells" / ".part-ab_d3fgh",
        mine / LOCK, mine / HOLDER,
    ]  # fmt: skip
    theirs = [
        mine / "notes" / f"{TEMPORARY}abcdefgh", mine / "notes" / ".part-abcdefgh", mine / "test" / ".part-video.mp4",
        tmp_path / "elsewhere" / f"{TEMPORARY}abcdefgh",
    ]  # fmt: skip
    for path in (*ours, *theirs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    (mine / "maps").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (mine / "test" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    take(mine)
    assert [path for path in ours if path.exists()] == []
    assert [path for path in theirs if not path.exists()] == []


def test_a_kill_while_settings_are_written_is_no_obstacle(tmp_path: Path) -> None:
    for name in (f"{TEMPORARY}12345678", LOCK, HOLDER):
        (tmp_path / name).write_bytes(b'{"sche')
    take(tmp_path)
    assert list(contents(tmp_path)) == [SETTINGS]


def test_nested_folders_have_claims_of_their_own(tmp_path: Path) -> None:
    with claim(tmp_path, {}, "evaluate"):
        take(tmp_path / "images" / "nsa", {"condition": "nsa"}, "evaluate")
    assert sorted(contents(tmp_path)) == ["images/nsa/settings.json", "settings.json"]


HOLD = """
import sys
from pathlib import Path
from adabldm.data.claim import claim
with claim(Path(sys.argv[1]), {"seed": 1}, "generate"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_who_works_there(tmp_path: Path) -> None:
    root = tmp_path / "out"
    command = [sys.executable, "-c", HOLD, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        (root / f"{TEMPORARY}abcdefgh").write_text("being written")
        message = refusal(root, {"seed": 1})
        assert f"process {process.pid} on {os.uname().nodename} works in this folder; wait" in message
        process.communicate()
    assert process.returncode == 0
    assert set(contents(root)) == {SETTINGS, f"{TEMPORARY}abcdefgh"}
    take(root, {"seed": 1})
    assert list(contents(root)) == [SETTINGS]


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    root = tmp_path / "out"
    command = [sys.executable, "-c", HOLD, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert (root / LOCK).exists()
    take(root, {"seed": 1})
    assert list(contents(root)) == [SETTINGS]


def test_an_error_in_the_work_ends_the_claim(tmp_path: Path) -> None:
    with pytest.raises(OutputError), claim(tmp_path, {}, "fit", name="fit.json"):
        raise OutputError("full")
    assert list(contents(tmp_path)) == ["fit.json"]
    take(tmp_path, {}, "fit", name="fit.json")


# Folders of the version before there were schema numbers


def decisive(preset: EditPreset, **changes: Any) -> dict[str, Any]:
    """What `generate` writes today for the settings of the old folder."""
    prompts = {defect: f"woven cloth, a woven cloth with a {defect}" for defect in ("scratch", "spot")}
    return {
        "model": "f712d24235bf", "object": "woven cloth", "types": ["scratch", "spot"], "prompts": prompts,
        "preset": preset.plain(), "seed": 0, "window": "auto", "foreground": "texture",
        "sources": "3 images, 97f97e5b129c", "real_masks": {"scratch": 2, "spot": 2},
        "limits": {**Limits().plain(), **LATER_LIMITS},
        "masks": "bank", "recipes": {}, "placement": "auto", "foreground_folder": None, "mask_threshold": None,
        "dtype": "float32", "batch_size": 8, **changes,
    }  # fmt: skip


def old_settings(root: Path, **changes: Any) -> Path:
    root.mkdir()
    values = json.loads((OLD / "generated" / SETTINGS).read_text(encoding="utf-8"))
    (root / SETTINGS).write_text(json.dumps({**values, **changes}), encoding="utf-8")
    return root


def test_an_old_generated_folder_goes_on(tmp_path: Path) -> None:
    root = old_settings(tmp_path / "out")
    before = contents(root)
    look = ["look.start=3", "look.area_start=5", "look.strengths=0.5,1.8", "look.tones=-1,1", "look.detail=0.8"]
    fast = edit_preset("fast", [*look, "guidance.scale=2.5"]).changed(name="fast")
    with GeneratedFolder(root).open(decisive(fast)):
        pass
    assert contents(root) == before  # older versions still read it
    assert "seed was 0, is now 1" in refusal(root, decisive(fast, seed=1))
    assert "preset.look.tones was" in refusal(root, decisive(PRESETS["fast"]))
    message = refusal(root, decisive(PRESETS["released"]))
    assert "preset.plan.steps was 6, is now 50" in message
    assert "preset.adaptation.method was" in message


def test_an_old_folder_of_paper_and_released_goes_on(tmp_path: Path) -> None:
    none = {"start": 0, "area_start": 0, "strengths": [1.0, 1.0], "tones": [1.0, 1.0], "detail": 1.0, "fidelity": 0.0}
    plain = {**none, "guide_trimap": False, "match_exposure": False, "feather": [0.0, 0.0], "finest": 0, "guided": None}
    plain |= {"guidance": 9.0, "adapt": "finetune", "final_blend": False, "batch_size": 1}
    paper = {"preset": "paper", "steps": 85, "latent_stage": [50, 80], "image_stage": [80, 85], **plain}
    released = {
        "preset": "released", "steps": 50, "latent_stage": [26, 46], "image_stage": [45, 50], "renoise": "same",
        "spacing": "leading", "latent_mask": "nearest", **plain,
        "finetuning": {**Finetune().plain(), "outside": 100.0, "inside": 1.0, "reduction": "mean"},
    }  # fmt: skip
    del released["finetuning"]["method"]
    for old in (paper, released):
        root = old_settings(tmp_path / str(old["preset"]), **old)
        take(root, decisive(PRESETS[str(old["preset"])], batch_size=1))


def test_old_presets_with_changes_go_on_by_their_values(tmp_path: Path) -> None:
    root = old_settings(tmp_path / "out", preset="fast,steps=8,start=0", steps=8, start=0, adapt="ridge")
    fast = edit_preset("fast", guidance=2.5)
    plan = StagePlan(**{**fast.plan.plain(), "steps": 8})
    same = EditPreset.create(
        {**fast.plain(), "name": "fast steps", "plan": plan, "look": None, "adaptation": {"method": "ridge"}}
    )
    take(root, decisive(same))
    assert "preset.look" in refusal(root, decisive(fast))


def test_an_old_fit_and_an_old_evaluation_go_on(tmp_path: Path) -> None:
    for command, folder, name in (("fit", "run", "fit.json"), ("evaluate", "evaluation", SETTINGS)):
        root = tmp_path / command
        root.mkdir()
        content = (OLD / folder / name).read_bytes()
        (root / name).write_bytes(content)
        take(root, json.loads(content), command, name=name)
        assert "was" in refusal(root, {**json.loads(content), "data": "/other"}, command, name=name)
