"""Cross-validation over the training images: what is held out, and `evaluate --folds` through the command line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import fmean, stdev

import pytest
from conftest import Adabldm, contents
from fabricate import write_data_set
from hypothesis import given
from hypothesis import strategies as st

from adabldm.core.records import EvaluationReport, read_record
from adabldm.core.samples import Defect, LabelledMask, Sample
from adabldm.core.settings import FIT_PRESETS
from adabldm.data.folds import hold_out
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import check_data_set, open_data_set
from adabldm.models.store import read_card

NAMES = st.text("ab_-", max_size=3).flatmap(
    lambda text: st.integers(0, 10**9).map(lambda number: f"{text}{number}{text}2")
)
TYPES = st.lists(st.sampled_from(("crack", "pit", "scratch")), max_size=3)


@st.composite
def folds_of_samples(draw: st.DrawFn) -> tuple[list[Sample], int]:
    names = draw(st.lists(NAMES, min_size=1, max_size=30, unique=True))
    samples = [
        Sample(Path(name + ".png"), tuple(Defect(one, LabelledMask(Path(name), 1)) for one in draw(TYPES)))
        for name in names
    ]
    return draw(st.permutations(samples)), draw(st.integers(2, 7))


def group_of(sample: Sample) -> str:
    return min((defect.type for defect in sample.defects), default="good")


@given(folds_of_samples())
def test_every_sample_is_held_out_once_beside_its_neighbours(case: tuple[list[Sample], int]) -> None:
    samples, folds = case
    held = {
        number: [one.image for one in hold_out(samples, f"{number}/{folds}") if one.split == "test"]
        for number in range(1, folds + 1)
    }
    assert Counter(image for images in held.values() for image in images) == Counter(one.image for one in samples)
    fold_of = {image: number for number, images in held.items() for image in images}
    for group in {group_of(one) for one in samples}:
        own = [one.image for one in samples if group_of(one) == group]
        sizes = [sum(fold_of[image] == number for image in own) for number in held]
        assert max(sizes) - min(sizes) <= 1
        ordered = sorted(own, key=lambda image: (max(map(int, digits(image.stem))), str(image)))
        assert [fold_of[image] for image in ordered] == sorted(fold_of[image] for image in own)


def digits(text: str) -> list[str]:
    return "".join(letter if letter.isdigit() else " " for letter in text).split()


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose test images are no images. Read only."""
    root = write_data_set(
        tmp_path_factory.mktemp("spoilt") / "cloth", good=4, defects={"scratch": 4, "spot": 5}, test=True
    )
    for image in root.glob("test/*/*.png"):
        image.write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shortest fit, as a file."""
    short = FIT_PRESETS["quick"].changed(
        domain={"steps": 1, "batch_size": 2, "learning_rate": 1e-4},
        control={"steps": 2, "batch_size": 2, "learning_rate": 1e-4},
        examples=6,
    )
    path = tmp_path_factory.mktemp("preset") / "short.json"
    values = {name: value for name, value in short.plain().items() if name != "name"}
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def command(spoilt: Path, base: Path, preset: Path) -> list[object]:
    conditions = ["--condition", "nsa", "--condition", "adabldm:fast"]
    budget = ["--detector", "unet", "--detector-steps", 1, "--seeds", 1, "--count", 3]
    return [
        "evaluate",
        "--data",
        spoilt,
        "--folds",
        2,
        "--fit",
        preset,
        "--base",
        base,
        *conditions,
        *budget,
        "--quiet",
    ]


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory, command: list[object]) -> Path:
    """What the command left. Read only."""
    from conftest import run_command

    out = tmp_path_factory.mktemp("crossed") / "results"
    assert run_command(*command, "--out", out) == 0
    return out


def test_each_run_has_not_seen_what_its_fold_holds_out(crossed: Path, spoilt: Path) -> None:
    for number in (1, 2):
        card = read_card(crossed / f"run-{number}")
        assert card.reading.fold == f"{number}/2"
        data_set = open_data_set(spoilt, ReadOptions.of(card.reading))
        fitted = open_data_set(spoilt, ReadOptions.of(card.reading, split="train"))
        assert (fitted.good, fitted.defective) == (data_set.good, data_set.defective)
        shown = {json.loads(line)["source"] for line in manifest_lines(crossed / f"fold-{number}")}
        assert shown <= {data_set.relative(one) for one in data_set.good}
        held = read_record(crossed / f"fold-{number}" / "evaluation.json", EvaluationReport).test_images
        assert held == len(data_set.test_good) + len(data_set.test_defective)
        assert all(one.image.parts[-3] == "train" for one in (*data_set.test_good, *data_set.test_defective))


def manifest_lines(fold: Path) -> list[str]:
    manifests = sorted(fold.glob("images/*/manifest.jsonl"))
    assert [path.parent.name for path in manifests] == ["adabldm-fast", "nsa"]
    return [line for path in manifests for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_report_holds_means_over_the_folds(crossed: Path) -> None:
    whole = read_record(crossed / "evaluation.json", EvaluationReport)
    folds = [read_record(crossed / f"fold-{number}" / "evaluation.json", EvaluationReport) for number in (1, 2)]
    assert whole.settings.folds == 2
    assert whole.test_images == sum(one.test_images for one in folds) == 13
    for condition in ("nsa", "adabldm:fast"):
        for kind in ("mean", "scratch", "spot"):
            means = [one.detectors["unet"][condition][kind].ap.mean for one in folds]
            found = whole.detectors["unet"][condition][kind].ap
            assert (found.mean, found.std) == pytest.approx((fmean(means), stdev(means)), abs=1e-3)
    for condition in ("nsa", "adabldm:fast"):
        kids = [one.images[condition].together.kid for one in folds]
        own = whole.images[condition].together
        assert None not in kids
        assert (own.kid, own.kid_std) == pytest.approx((fmean(kids), stdev(kids)), abs=1e-4)
        assert whole.images[condition].mask.recall == pytest.approx(
            fmean(one.images[condition].mask.recall for one in folds), abs=1e-4
        )
        assert own.real == sum(one.images[condition].together.real for one in folds)
    text = (crossed / "evaluation.md").read_text(encoding="utf-8")
    assert "Cross-validation: 13 training images, held out in 2 folds" in text
    page = (crossed / "index.html").read_text(encoding="utf-8")
    assert 'src="fold-2/conditions.png"' in page


def test_a_rerun_changes_nothing_and_goes_on_where_something_is_missing(
    crossed: Path, command: list[object], adabldm: Adabldm
) -> None:
    before = contents(crossed)
    assert adabldm(*command, "--out", crossed).code == 0
    assert contents(crossed) == before
    missing = crossed / "fold-2" / "cells" / "images-nsa.json"
    missing.unlink()
    assert adabldm(*command, "--out", crossed).code == 0
    assert contents(crossed) == before
    other = adabldm(*command, "--out", crossed, "--folds", 3)
    assert other.code == 2
    assert "folds" in other.err


def test_a_run_that_has_seen_the_fold_is_refused(spoilt: Path, crossed: Path, tmp_path: Path, adabldm: Adabldm) -> None:
    told = (
        "evaluate",
        "--data",
        spoilt,
        "--out",
        tmp_path / "out",
        "--budget",
        "images",
        "--condition",
        "adabldm:fast",
    )
    found = adabldm(*told, "--run", crossed / "run-1", "--fold", "2/2")
    assert (found.code, "fitted without --fold 2/2" in found.err) == (2, True)
    found = adabldm(*told, "--run", crossed / "run-1", "--folds", 2)
    assert (found.code, "it may have seen" in found.err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_images_alone_need_no_detector(spoilt: Path, tmp_path: Path, adabldm: Adabldm) -> None:
    told = ("evaluate", "--data", spoilt, "--fold", "1/2", "--budget", "images", "--count", 2, "--quiet")
    assert adabldm(*told, "--condition", "nsa", "--out", tmp_path / "out").code == 0
    report = read_record(tmp_path / "out" / "evaluation.json", EvaluationReport)
    assert (report.detectors, list(report.images)) == ({}, ["nsa"])
    assert not (tmp_path / "out" / "detections.png").exists()
    assert "no detector was trained" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--folds", 9), "4 training images of scratch, expected at least 9"),
        (("--folds", 1), "--folds: 1 was given"),
        (("--fold", "3/2"), "--fold: 3/2 was given"),
        (("--fold", "half"), "--fold: half was given"),
        (("--folds", 2, "--fold", "1/2"), "--fold: given beside --folds"),
        (("--fit", "quick", "--base", "tiny"), "--base: given without --folds"),
    ],
)
def test_bad_folds(spoilt: Path, tmp_path: Path, adabldm: Adabldm, options: tuple[object, ...], sentence: str) -> None:
    found = adabldm(
        "evaluate", "--data", spoilt, "--out", tmp_path / "out", "--budget", "images", "--condition", "nsa", *options
    )
    assert found.code == 2
    assert sentence in found.err
    assert not (tmp_path / "out").exists()


def test_a_type_with_test_images_only_is_divided_too(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "cloth", good=2, defects={"spot": 4})
    (root / "test").mkdir()
    (root / "train" / "spot").rename(root / "test" / "spot")
    found = check_data_set(root, ReadOptions(fold="1/2"))
    assert found.problems == ()
    assert len(found.data_set.defective) == len(found.data_set.test_defective) == 2
