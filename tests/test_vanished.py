"""Folders that are taken by another process, or removed while a command writes into them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import filelock
import pytest
from conftest import FIT, GENERATE, Adabldm, contents
from fabricate import write_data_set

from adabldm.core.errors import OutputError
from adabldm.core.events import Event, ImageFinished, PreviewWritten, Progress
from adabldm.core.settings import EvaluateSettings, FitSettings, GenerateSettings
from adabldm.data.claim import HOLDER, LOCK, claim, this_process, told_holder
from adabldm.workflows.evaluate import evaluate
from adabldm.workflows.fit import fit
from adabldm.workflows.generate import generate

Work = Callable[[Path, Callable[[Event], None]], object]
GONE = "removed or replaced while it was written; delete what is left of it, then run the same command again"
QUICK = {"domain_steps": 2, "control_steps": 3, "examples": 8, "batch_size": 2}


@pytest.fixture
def work(run: Path, data: Path, base: Path) -> dict[str, Work]:
    """What writes into a folder, by command."""

    def do_generate(out: Path, listen: Callable[[Event], None]) -> object:
        settings = {"run": str(run), "data": data, "out": out, "count": 6, "batch_size": 2}
        return generate(GenerateSettings.create(settings), listen)

    def do_fit(out: Path, listen: Callable[[Event], None]) -> object:
        return fit(FitSettings.create({"data": data, "out": out, "base": str(base), **QUICK}), listen)

    return {"generate": do_generate, "fit": do_fit}


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    return write_data_set(tmp_path / "parts", good=4, test=True)


@pytest.mark.parametrize(
    ("command", "moment"),
    [("generate", ImageFinished), ("fit", PreviewWritten), ("fit", Progress)],
    ids=["generate", "fit, preview", "fit, step"],
)
@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_a_folder_that_vanishes_ends_the_command(
    work: dict[str, Work], tmp_path: Path, command: str, moment: type[Event], replaced: bool
) -> None:
    out, seen = tmp_path / "out", []

    def remove(event: Event) -> None:
        reading = isinstance(event, Progress) and event.before
        if isinstance(event, moment) and not reading and not seen:
            seen.append(event)
            while out.exists():  # a thread may write meanwhile, as beside `rm -rf`
                shutil.rmtree(out, ignore_errors=True)
            if replaced:
                out.mkdir()

    with pytest.raises(OutputError, match=GONE):
        work[command](out, remove)
    assert seen
    assert not (out / "adabldm.json").exists()


def test_an_evaluation_whose_folder_vanishes(evaluated: Path, tmp_path: Path) -> None:
    out = tmp_path / "proof"
    settings = EvaluateSettings.create(
        {"data": evaluated, "out": out, "condition": ("real", "copy-paste"), "detector": ("unet",), "count": 4,
         "budget": "quick", "detector_steps": 1, "seeds": 1}
    )  # fmt: skip

    def remove(event: Event) -> None:
        if isinstance(event, ImageFinished) and event.record.index == 1:
            shutil.rmtree(out)

    with pytest.raises(OutputError, match=GONE):
        evaluate(settings, remove)
    assert not (out / "evaluation.json").exists()


def test_images_that_vanish_are_missed_and_made_again_if_asked(
    work: dict[str, Work], run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def remove(event: Event) -> None:
        if isinstance(event, ImageFinished) and event.record.index == 3:
            (out / event.record.image).unlink()

    with pytest.raises(OutputError, match="1 images vanished while others were made, the first is number 3; run the"):
        work["generate"](out, remove)
    work["generate"](out, lambda event: None)
    assert contents(generated / "train").keys() - contents(out / "train").keys() == {"spot/000003.png"}
    settings = {"run": str(run), "data": data, "out": out, "count": 6, "batch_size": 2, "restore_deleted": True}
    generate(GenerateSettings.create(settings))
    assert contents(out / "train") == contents(generated / "train")


def test_the_lock_of_another_process_is_left_alone(tmp_path: Path) -> None:
    """A second process works in the folder that was made again."""
    root = tmp_path / "out"
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(OutputError, match=GONE))
        stack.enter_context(claim(root, {"seed": 1}, "generate"))
        shutil.rmtree(root)
        root.mkdir()
        (root / LOCK).write_text("another process")
    assert contents(root) == {LOCK: b"another process"}


@pytest.mark.parametrize("command", ["generate", "fit", "evaluate"])
def test_a_second_process_is_refused_and_touches_nothing(
    adabldm: Adabldm, run: Path, data: Path, base: Path, evaluated: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    arguments: dict[str, tuple[object, ...]] = {
        "generate": (run, "--data", data, "--out", out, *GENERATE),
        "fit": (data, "--base", base, "--out", out, *FIT),
        "evaluate": ("--data", evaluated, "--out", out, "--condition", "real", "--detector", "unet", "--seeds", 1,
                     "--budget", "quick", "--detector-steps", 1),
    }  # fmt: skip
    out.mkdir()
    with filelock.FileLock(out / LOCK, timeout=0):
        (out / ".adabldm-part-12345678").write_text("being written by the other")
        before = contents(out)
        result = adabldm(command, *arguments[command])
        assert (result.code, result.out) == (2, "")
        (line,) = [line for line in result.err.splitlines() if line.startswith("adabldm: ")]
        assert f"{out}: another process works in this folder; wait until it has finished, or choose another" in line
        assert contents(out) == before


def test_who_holds_a_folder_is_told_whatever_stands_there(tmp_path: Path) -> None:
    path = tmp_path / HOLDER
    assert told_holder(path) == "another process"
    for content, expected in ((b"\xff\xfe", "another process"), (b"", "another process"), (b"x" * 999, "x" * 300)):
        path.write_bytes(content)
        assert told_holder(path) == expected
    path.write_text(this_process())
    assert told_holder(path).startswith(f"process {os.getpid()} on ")
