"""A base from nothing: what it leaves, that a killed training goes on as if nothing had been, whose folder it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import contents
from fabricate import write_data_set

from adabldm.core.errors import InputError
from adabldm.core.events import Event, Note, PreviewWritten, Progress
from adabldm.core.settings import TrainBaseSettings
from adabldm.models import tiny
from adabldm.models.store import BASE_NAMES, load_base
from adabldm.workflows.train_base import train_base


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of four and of one good images, so that two thirds of all windows show the first."""
    root = tmp_path_factory.mktemp("sets")
    return (
        write_data_set(root / "woven_cloth", good=4, defects={"spot": 2}),
        write_data_set(root / "felt", good=1, defects={"dent": 1}, seed=1),
    )


def settings_of(sets: tuple[Path, ...], out: Path, **changes: object) -> TrainBaseSettings:
    steps = {"autoencoder_steps": 2, "diffusion_steps": 2, "examples": 9}
    return TrainBaseSettings.create({"data": sets, "out": out, **steps, **changes})


@pytest.fixture(scope="module")
def trained(sets: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """A base and what was told of its training. Read only."""
    events: list[Event] = []
    return train_base(settings_of(sets, tmp_path_factory.mktemp("base") / "base"), events.append), events


def test_a_base_is_what_fit_reads(trained: tuple[Path, list[Event]]) -> None:
    out, _ = trained
    assert {*BASE_NAMES, "settings.json", "checkpoints", "previews", "logs"} == {path.name for path in out.iterdir()}
    base = load_base(str(out))
    assert base.vae.config["scaling_factor"] != tiny.autoencoder().config["scaling_factor"]
    settings = json.loads((out / "settings.json").read_text(encoding="utf-8"))
    assert (settings["schema"], settings["object"]) == (1, ["woven cloth", "felt"])


def test_progress_is_that_of_the_whole_training(trained: tuple[Path, list[Event]]) -> None:
    _, events = trained
    reports = [event for event in events if isinstance(event, Progress)]
    assert list(dict.fromkeys(event.task for event in reports)) == ["read", "autoencoder", "encode", "base"]
    assert [event.total for event in reports if event.task == "read" and event.done == 0] == [6, 2]
    totals = {event.task: event.total for event in reports if event.task != "read"}
    assert totals == {"autoencoder": 2, "encode": 9, "base": 2}
    assert (reports[0].fraction, reports[-1].fraction, reports[-1].seconds_left) == (0.0, 1.0, 0.0)
    previews = [event for event in events if isinstance(event, PreviewWritten)]
    assert [(event.task, event.step, event.path.exists()) for event in previews] == [
        ("autoencoder", 2, True), ("base", 2, True),
    ]  # fmt: skip
    assert [event.text for event in events if isinstance(event, Note) and "dB on held-out windows" in event.text]


class Interrupted(Exception):
    pass


def test_an_interrupted_training_goes_on(
    sets: tuple[Path, Path], trained: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    out = tmp_path / "base"

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and (event.task, event.done) == ("base", 1):
            raise Interrupted

    with pytest.raises(Interrupted):
        train_base(settings_of(sets, out), stop)
    assert not (out / "unet").exists()
    again: list[Event] = []
    train_base(settings_of(sets, out), again.append)
    first = next(event for event in again if isinstance(event, Progress) and event.task != "read")
    assert (first.task, first.done) == ("autoencoder", 2)
    mine, other = (contents(folder, without=["logs", "checkpoints"]) for folder in (out, trained[0]))
    assert mine.keys() == other.keys()
    assert [name for name in mine if mine[name] != other[name]] == []


def test_a_folder_of_others_is_refused_and_left_alone(
    sets: tuple[Path, Path], trained: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    out, _ = trained
    (tmp_path / "notes.txt").write_text("mine")
    for folder, changes, problem in (
        (out, {"seed": 1}, "other settings.*seed was 0, is now 1"),
        (out, {"examples": 8}, "examples was 9, is now 8"),
        (tmp_path, {}, "not empty and not made by train-base"),
    ):
        before = contents(folder)
        with pytest.raises(InputError, match=problem):
            train_base(settings_of(sets, folder, **changes))
        assert contents(folder) == before


def test_data_decide_by_their_content_and_not_by_their_place(
    sets: tuple[Path, Path], trained: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    out, (first, second) = trained[0], sets
    moved = tmp_path / first.name
    shutil.copytree(first, moved)
    train_base(settings_of((moved, second), out))
    for path in (moved / "train" / "good").iterdir():
        path.write_bytes(next((second / "train" / "good").iterdir()).read_bytes())
        break
    with pytest.raises(InputError, match=r"other settings \(content was"):
        train_base(settings_of((moved, second), out))


def test_names_are_given_for_all_folders_or_for_none(sets: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="object: 1 given for 2 folders, expected one for each, or none"):
        train_base(settings_of(sets, tmp_path / "base", object=("cloth",)))
    assert not (tmp_path / "base").exists()


def test_every_folder_has_a_share_however_few_examples_there_are(sets: tuple[Path, Path], tmp_path: Path) -> None:
    more = shutil.copytree(sets[1], tmp_path / "more_felt")
    out = train_base(settings_of((*sets, more), tmp_path / "base", examples=1))
    assert load_base(str(out)).controlnet is None
