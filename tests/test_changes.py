from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fabricate import box, texture
from hypothesis import given
from hypothesis import strategies as st

from adabldm.core.changes import REACHED, Change, Expected, measure, seen_at
from adabldm.core.images import Mask, Pixels, write_png
from adabldm.core.records import Calibration, FromNoise, Redrawn
from adabldm.core.samples import DataSet, Defect, Sample
from adabldm.core.scores import score
from adabldm.core.settings import PRESETS, EditPreset
from adabldm.core.settings.common import Limits
from adabldm.core.settings.presets import edit_preset
from adabldm.editing.look import UNKNOWN, UNKNOWN_SCALE, settled
from adabldm.editing.stage_plan import timesteps
from adabldm.production.learnt import RealChanges
from adabldm.selection.rules import Candidate, first_rejection
from adabldm.training.fill import Filler
from adabldm.training.real_changes import real_change

GREY = (0.0, 0.0, 0.0, 0.0)


def change(contrast: float = 4.0, tone: float = -30.0, share: float = 1.0, brightness: float | None = None) -> Change:
    return Change(
        contrast=contrast, visible=abs(tone), tone=tone, share=share, edge=3.0, turned=GREY, shown=GREY,
        brightness=brightness,
    )  # fmt: skip


def scene(colour: tuple[int, int, int] = (-60, -60, -60), part: float = 1.0) -> tuple[Pixels, Pixels, Mask]:
    """(result, source, mask): a square that is changed by a colour, as far as a part of its rows."""
    source = texture((96, 96), np.random.default_rng(3))
    mask = np.zeros((96, 96), bool)
    mask[30:60, 40:70] = True
    result = source.astype(int)
    result[30 : 30 + round(30 * part), 40:70] += colour
    return np.clip(result, 0, 255).astype(np.uint8), source, mask


numbers = st.lists(
    st.builds(change, st.floats(0.3, 60), st.floats(-200, 200), st.floats(0, 1)), min_size=1, max_size=12
)


@given(numbers, st.integers(0, 11))
def test_nothing_is_drawn_that_no_real_one_could_be(examples: list[Change], pick: int) -> None:
    own, expected = examples[pick % len(examples)], Expected(examples)
    low, high = expected.strengths(own)
    mean, deviation = expected.contrast()
    assert low <= 1 <= high
    for factor in (low, high):
        at = math.log(own.contrast)  # a real one beyond the range is only brought nearer to it
        assert abs(at + math.log(factor) - mean) <= max(REACHED * deviation, abs(at - mean)) + 1e-6
    darkest, lightest = expected.tones(own)
    assert -1 <= darkest <= 1 <= lightest <= 1.5
    mean, deviation = expected.tone()
    for factor in (darkest, lightest):
        assert abs(own.tone * factor - mean) <= max(REACHED * deviation, abs(own.tone - mean)) + 1e-6


@given(
    st.lists(
        st.builds(
            lambda contrast, under, brightness: change(contrast, brightness - under, brightness=brightness),
            st.floats(0.3, 60), st.floats(0, 255), st.floats(0, 255),
        ),
        min_size=1, max_size=12,
    )
)  # fmt: skip
def test_nothing_is_as_bright_as_no_real_one_could_be(examples: list[Change]) -> None:
    values = [one.brightness or 0.0 for one in examples]
    mean = sum(values) / len(values)
    squares = sum((value - mean) ** 2 for value in values) + 3 * 6.0**2
    reach = REACHED * math.sqrt(squares / (len(values) + 2) * (1 + 1 / len(values)))
    expected = Expected(examples)
    for own, value in zip(examples, values, strict=True):
        for factor in (*expected.strengths(own), *expected.tones(own)) if abs(own.tone) >= 1 else ():
            assert abs(value + (factor - 1) * own.tone - mean) <= max(reach, abs(value - mean)) + 1e-6


def test_bare_copper_stays_bright() -> None:
    expected = Expected([change(30.0, 200.0, brightness=250.0)] * 20)
    assert all(0.95 < factor < 1.05 for factor in expected.strengths(expected.examples[0]))
    assert Expected([change(30.0, 200.0)] * 20).strengths(change(30.0, 200.0))[0] < 0.9, "old cards do not say it"


def test_few_examples_are_widened_by_the_prior() -> None:
    one, ten = Expected([change()]), Expected([change()] * 10)
    assert one.strengths(change())[1] == pytest.approx(math.exp(0.35 * math.sqrt(2)))
    assert one.strengths(change())[1] > ten.strengths(change())[1] > 1
    # the stated rule, written out for two examples
    first, second = math.log(2.0), math.log(8.0)
    squares = (first - second) ** 2 / 2 + 3 * 0.35**2
    wanted = ((first + second) / 2, math.sqrt(squares / 4 * 1.5))
    assert Expected([change(2.0), change(8.0)]).contrast() == pytest.approx(wanted)


def test_a_change_is_measured() -> None:
    found = measure(seen_at(*scene()))
    assert found.tone == pytest.approx(-60, abs=1)
    assert found.visible == pytest.approx(60, abs=1)
    assert found.share == 1
    assert measure(seen_at(*scene(part=0.5))).share == pytest.approx(0.5)
    assert max(map(abs, found.turned)) < 2


def test_what_lies_below_a_real_defect_is_guessed_and_its_change_found() -> None:
    result, source, mask = scene()
    good = [texture((96, 96), np.random.default_rng(seed)) for seed in range(4)]
    first, again = (real_change(Filler(good), result, mask) for _ in range(2))
    assert first == again
    assert first.tone == pytest.approx(measure(seen_at(result, source, mask)).tone, abs=8)


@pytest.mark.parametrize(
    ("colour", "part", "reason"),
    [
        ((-60, -60, -60), 1.0, None),
        ((-7, -7, -7), 1.0, "fainter than real ones"),
        ((-60, -60, -60), 0.2, "empty mask"),
        ((-60, -60, -60), 0.6, "mask half empty"),
        ((-90, 0, -90), 1.0, "false colour"),
    ],
)
def test_the_rules_see_what_a_person_sees(colour: tuple[int, int, int], part: float, reason: str | None) -> None:
    result, source, mask = scene(colour, part)
    real = measure(seen_at(*scene()))
    expected = Expected([real] * 8)
    candidate = Candidate(result, source, mask, score(result, source, mask), "pit", expected, np.ones_like(mask))
    limits = Limits(min_visible=0, min_contrast=0)
    found = first_rejection(candidate, limits)
    assert found is None if reason is None else found is not None and found.startswith(reason)
    without = first_rejection(Candidate(result, source, mask, candidate.scores, "pit"), limits)
    assert (without is None) == (part >= 0.3), "rules on real defects hold where there are some"


def test_a_defect_off_the_object_is_rejected() -> None:
    result, source, mask = scene()
    given = Candidate(result, source, mask, score(result, source, mask), "pit", None, ~mask)
    assert str(first_rejection(given, Limits())).startswith("off the object: 0% of the mask")


def drawn(*found: tuple[int, bool, float, float]) -> tuple[Redrawn, ...]:
    return tuple(Redrawn(start=start, area=area, kept=kept, alike=alike) for start, area, kept, alike in found)


def test_the_first_step_is_the_first_that_is_trusted() -> None:
    fast = PRESETS["fast"]
    known = drawn((2, False, 0.9, 0.5), (3, False, 0.4, 0.95), (4, False, 0.9, 0.93), (5, False, 1.0, 0.99))
    areas = drawn((2, True, 0.9, 0.5), (5, True, 0.5, 0.6))
    look = settled(fast, Calibration((*known, *areas))).look
    assert look is not None
    assert (look.start, look.area_start, look.detail) == (4, 5, 0.93)
    once = settled(fast, Calibration(known))
    assert settled(once, Calibration(areas)) == once, "what is settled stays"
    unknown = settled(fast, Calibration()).look
    assert unknown is not None
    assert (unknown.start, unknown.area_start, unknown.detail) == (UNKNOWN.start, UNKNOWN.area_start, UNKNOWN.detail)
    given = settled(edit_preset("fast", ["look.start=2", "look.detail=0.5"]), Calibration(known)).look
    assert given is not None
    assert (given.start, given.detail) == (2, 0.5)
    assert settled(PRESETS["paper"], Calibration(known)) == PRESETS["paper"]


def plan_of(steps: int, *more: str) -> EditPreset:
    return edit_preset("fast", [f"plan.steps={steps}", f"plan.latent_stage=1,{steps}", "plan.image_stage=1,2", *more])


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("steps", [3, 4, 6, 12, 24, 85])
@pytest.mark.parametrize("known", [(), drawn((3, False, 0.9, 0.95), (4, False, 0.9, 0.97), (4, True, 0.9, 0.95))])
def test_a_plan_of_other_steps_begins_at_the_same_noise(spacing: str, steps: int, known: tuple[Redrawn, ...]) -> None:
    measured = (3, 4) if known else (UNKNOWN.start, UNKNOWN.area_start)
    look = settled(plan_of(steps, f"plan.spacing={spacing}"), Calibration(known)).look
    assert look is not None
    assert look.detail == (0.95 if known else UNKNOWN.detail)
    levels = timesteps(steps, spacing)
    for start, own in zip((look.start, look.area_start), measured, strict=True):
        assert start is not None
        assert own is not None
        level = timesteps(6, "trailing")[own]
        assert levels[start] <= level or start == steps - 1
        assert start == 1 or levels[start - 1] > level
        assert start == own or (steps, spacing) != (6, "trailing")


def test_first_steps_that_fast_does_not_have_are_not_trusted() -> None:
    look = settled(plan_of(12), Calibration(drawn((3, False, 0.9, 0.95), (7, False, 0.9, 0.95)))).look
    assert look is not None
    assert (look.start, look.area_start, look.detail) == (6, 10, UNKNOWN.detail)


def from_noise(*found: tuple[float, float, float]) -> tuple[FromNoise, ...]:
    return tuple(FromNoise(scale=scale, visible=visible, share=share) for scale, visible, share in found)


@pytest.mark.parametrize(
    ("measured", "scale"),
    [
        ((), UNKNOWN_SCALE),
        (((1.5, 1.0, 0.95), (2.5, 1.4, 0.97), (4.0, 1.8, 0.99)), 1.5),
        (((1.5, 0.5, 0.91), (2.5, 0.9, 0.93), (4.0, 1.2, 0.95)), 3.05),  # between, by the logarithm
        (((1.5, 0.5, 0.5), (2.5, 1.0, 0.8), (4.0, 1.4, 0.9)), 4.0),  # to fill the masks
        (((1.5, 1.0, 0.5), (2.5, 1.5, 0.6), (4.0, 3.0, 0.7)), 2.5),  # but no more than so visible
        (((1.5, 2.0, 0.5), (2.5, 2.5, 0.6), (4.0, 3.0, 0.7)), 1.5),
        (((4.0, 0.6, 0.7), (1.5, 0.2, 0.5), (2.5, 0.4, 0.6)), 4.0),
    ],
)
def test_the_guidance_scale_draws_as_visibly_as_real_defects(
    measured: tuple[tuple[float, float, float], ...], scale: float
) -> None:
    found = Calibration(from_noise=from_noise(*measured))
    assert settled(PRESETS["fast"], found).guidance.scale == pytest.approx(scale, abs=0.011)
    assert settled(edit_preset("fast", guidance=3.0), found).guidance.scale == 3.0
    assert settled(PRESETS["paper"], found).guidance.scale == 9.0


def test_a_picture_with_many_defects_is_read_a_few_times_and_not_for_each_of_them(tmp_path: Path) -> None:
    reads: list[int] = []

    @dataclass(frozen=True)
    class Spot:
        place: int
        name: str = "spot"

        def read(self) -> Mask:
            reads.append(self.place)
            return box((8 * self.place, 8 * self.place + 5), (30, 40))

    for name in ("good", "bad"):
        write_png(tmp_path / f"{name}.png", texture((96, 128), np.random.default_rng(0)))
    defects = tuple(Defect("spot", Spot(place)) for place in range(10))
    good, bad = Sample(tmp_path / "good.png"), Sample(tmp_path / "bad.png", defects)
    changes = RealChanges(DataSet(tmp_path, "tile", (good,), (bad,)))
    assert len(changes.measured("spot")) == len(list(changes.windows(["spot"]))) == 10
    assert max(map(reads.count, range(10))) <= 4, "each by itself and with the others, measured and shown"
