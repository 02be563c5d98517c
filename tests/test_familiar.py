"""A run that is used on something else than it was fitted on says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import GENERATE, Adabldm
from fabricate import texture, write_data_set
from hypothesis import given
from hypothesis import strategies as st

from adabldm.core.appearance import FEWEST, MOST_DIFFERENCE, TOLERANCES, describe, difference, evenly
from adabldm.core.events import Event, Note, Progress, without_repeats
from adabldm.core.records import EvaluationReport, RunCard
from adabldm.core.settings import EvaluateSettings, FitSettings, GenerateSettings
from adabldm.models.store import load_run, read_card, shipped, write_card
from adabldm.workflows.evaluate import evaluate
from adabldm.workflows.fit import fit
from adabldm.workflows.generate import generate

UNLIKE = "look unlike those that the run was fitted on (woven cloth)"


def cloth(count: int, seed: int) -> list[tuple[float, ...]]:
    rng = np.random.default_rng(seed)
    return [describe(texture((96, 128), rng)) for _ in range(count)]


def something_else(count: int) -> list[tuple[float, ...]]:
    rng = np.random.default_rng(9)
    return [describe(np.rot90(255 - texture((96, 128), rng)).copy()) for _ in range(count)]


@pytest.fixture
def knowing(run: Path, tmp_path: Path) -> Path:
    """A run that was fitted on ten images of the cloth."""
    folder = Path(shutil.copytree(run, tmp_path / "knowing"))
    write_card(folder, read_card(run).model_copy(update={"appearance": tuple(cloth(10, 7))}))
    return folder


def strange(knowing: Path) -> Path:
    write_card(knowing, read_card(knowing).model_copy(update={"appearance": tuple(something_else(10))}))
    return knowing


def notes(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note) and "unlike" in event.text]


def test_the_same_object_is_known_and_others_are_not() -> None:
    known = cloth(12, 0)
    assert (difference(known, cloth(3, 1)) or 9) < 1
    assert (difference(known, something_else(3)) or 0) > MOST_DIFFERENCE
    for name, other in (("magnetic-tile", "hazelnut"), ("hazelnut", "magnetic-tile")):
        own, others = (read_card(shipped(one) or Path()).appearance or () for one in (name, other))
        assert (difference(own[::2], own[1::2]) or 9) < 1
        assert (difference(own, others) or 0) > 5
        assert (difference(own, known) or 0) > MOST_DIFFERENCE


def test_too_few_images_tell_nothing() -> None:
    assert difference(cloth(FEWEST - 1, 0), something_else(2)) is None
    assert difference(cloth(FEWEST, 0), []) is None


@given(st.integers(16, 90), st.integers(16, 90), st.integers(0, 2**31), st.sampled_from([1, 3, 200]))
def test_any_image_has_a_description_that_a_card_holds(height: int, width: int, seed: int, levels: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, levels, (height, width, 3), dtype=np.uint8)
    seen = describe(pixels)
    assert len(seen) == len(TOLERANCES)
    card = {"object_name": "x", "defects": [], "base": "", "resolution": 8, "foreground": "auto", "preset": ""}
    assert RunCard.parse({**card, "appearance": [seen]}, "card").appearance == (seen,)
    assert difference([seen] * FEWEST, [seen]) == 0


@given(st.integers(0, 60), st.integers(1, 20))
def test_values_are_chosen_evenly(count: int, most: int) -> None:
    chosen = evenly(range(count), most)
    assert len(chosen) == min(count, most)
    steps = np.diff(np.array(chosen, int))
    assert steps.size == 0 or steps.max() - steps.min() <= 1


def test_a_fit_keeps_what_its_images_look_like(run: Path, data: Path) -> None:
    card = load_run(run)[1]
    assert card.appearance is not None
    assert len(card.appearance) == 6
    assert (run / "adabldm.json").stat().st_size < 12_000
    # Six images are too few, so that nothing is said where the run is used on others.
    assert difference(card.appearance, something_else(4)) is None


def test_generate_says_once_that_a_run_sees_something_else(
    adabldm: Adabldm, knowing: Path, data: Path, tmp_path: Path
) -> None:
    events = list[Event]()
    settings = {"run": str(knowing), "data": data, "out": tmp_path / "known", "count": 1}
    summary = generate(GenerateSettings.create(settings), events.append)
    assert notes(events) == []
    assert (summary.difference or 9) < 1
    result = adabldm("generate", strange(knowing), "--data", data, "--out", tmp_path / "out", *GENERATE[:2])
    assert result.code == 0
    assert result.err.count(UNLIKE) == 1
    assert "fit a run to these images" in result.err
    assert UNLIKE in next((tmp_path / "out").rglob("index.html")).read_text(encoding="utf-8")
    summary = generate(GenerateSettings.create({**settings, "out": tmp_path / "out", "count": 6}), events.append)
    assert (summary.difference or 0) > MOST_DIFFERENCE
    assert len(notes(events)) == 1


def test_evaluate_says_it_once_and_reports_it(knowing: Path, tmp_path: Path) -> None:
    parts, out = write_data_set(tmp_path / "woven_cloth", good=4, test=True), tmp_path / "proof"
    settings = {"data": parts, "run": str(strange(knowing)), "out": out, "detector": ("unet",), "detector_steps": 1}
    events = list[Event]()
    report = evaluate(
        EvaluateSettings.create({**settings, "condition": ("real",), "count": 2, "budget": "quick", "seeds": 1}),
        events.append,
    )
    assert len(notes(events)) == 1
    assert UNLIKE in notes(events)[0]
    written = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert report.difference == written["difference"] > MOST_DIFFERENCE
    assert EvaluationReport.parse({**written, "difference": None}, "old").difference is None


def test_a_command_inside_another_one_repeats_no_remark() -> None:
    told = list[Event]()
    listen = without_repeats(told.append)
    for text in ("a", "b", "a"):
        listen(Note(text))
        listen(Progress("x", 1, 2, "img", 0.5, None))
    assert [event.text for event in told if isinstance(event, Note)] == ["a", "b"]
    assert len(told) == 5


def test_a_fit_that_is_resumed_with_other_images_says_so(knowing: Path, data: Path, base: Path) -> None:
    quick = {"domain_steps": 2, "control_steps": 3, "examples": 8, "batch_size": 2}
    settings = {"data": data, "out": strange(knowing), "base": str(base), "resume": True, **quick}
    events = list[Event]()
    fit(FitSettings.create(settings), events.append)
    assert len(notes(events)) == 1
    assert UNLIKE in notes(events)[0]
