"""Cross-validation over the training images: what is held out, and `evaluate --folds` through the command line."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from conftest import Adabldm, Result, contents
from fabricate import save, texture, write_data_set
from hypothesis import given
from hypothesis import strategies as st

from adabldm.core.records import EvaluationReport, read_record
from adabldm.core.samples import Defect, LabelledMask, Sample
from adabldm.core.settings import FIT_PRESETS
from adabldm.data.folds import hold_out, one_sided, too_few
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


def groups_of(samples: list[Sample]) -> dict[Path, str]:
    """The rarest type of each image."""
    shown = {one.image: sorted({defect.type for defect in one.defects}) for one in samples}
    frequent = Counter(name for names in shown.values() for name in names)
    return {image: min(names, key=lambda name: frequent[name]) if names else "good" for image, names in shown.items()}


def held_out(samples: list[Sample], folds: int) -> dict[int, list[Path]]:
    return {
        number: [one.image for one in hold_out(samples, f"{number}/{folds}") if one.split == "test"]
        for number in range(1, folds + 1)
    }


@given(folds_of_samples())
def test_every_sample_is_held_out_once_beside_its_neighbours(case: tuple[list[Sample], int]) -> None:
    samples, folds = case
    held, group_of = held_out(samples, folds), groups_of(samples)
    assert Counter(image for images in held.values() for image in images) == Counter(one.image for one in samples)
    fold_of = {image: number for number, images in held.items() for image in images}
    for group in set(group_of.values()):
        own = [image for image, name in group_of.items() if name == group]
        sizes = [sum(fold_of[image] == number for image in own) for number in held]
        assert max(sizes) - min(sizes) <= 1
        ordered = sorted(own, key=lambda image: (max(map(int, digits(image.stem))), str(image)))
        assert [fold_of[image] for image in ordered] == sorted(fold_of[image] for image in own)


@given(folds_of_samples())
def test_what_is_refused_is_what_some_fold_has_on_one_side(case: tuple[list[Sample], int]) -> None:
    samples, folds = case
    told = " ".join(one_sided(samples, samples, f"1/{folds}", Path("root")))
    shown = {name: {one.image for one in samples if name in one.types} for one in samples for name in one.types}
    for name, images in shown.items():
        sides = [(bool(images & set(held)), bool(images - set(held))) for held in held_out(samples, folds).values()]
        assert (f" image of {name} " in told or f" images of {name} " in told) != all(map(all, sides))
    few = " ".join(too_few(samples, f"1/{folds}", Path("root")))
    for name, images in shown.items():
        assert (f" {len(images)} training images of {name}, " in few) == (len(images) < folds)
    # A type is on both sides where enough images have none that is rarer, so that the rarest one always is.
    for name, count in Counter(groups_of(samples).values()).items():
        assert count < folds or (f" image of {name} " not in told and f" images of {name} " not in told)


@given(folds_of_samples())
def test_images_of_one_type_each_are_divided_as_ever(case: tuple[list[Sample], int]) -> None:
    samples, folds = [replace(one, defects=one.defects[:1]) for one in case[0]], case[1]
    expected: dict[int, set[Path]] = {number: set() for number in range(1, folds + 1)}
    for group in {one.types for one in samples}:
        own = [one.image for one in samples if one.types == group]
        own.sort(key=lambda image: (max(map(int, digits(image.stem))), str(image)))
        for number in expected:
            expected[number] |= set(own[len(own) * (number - 1) // folds : len(own) * number // folds])
    assert {number: set(images) for number, images in held_out(samples, folds).items()} == expected


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


def write_marked(root: Path, types: list[str]) -> Path:
    """A data set of six defect-free pictures and one for each string, which names its types by a letter each."""
    rng = np.random.default_rng(3)
    for index in range(6):
        save(root / "good" / f"{index:03d}.png", texture((96, 128), rng))
    for index, names in enumerate(types, 100):
        pixels, shapes = texture((96, 128), rng), []
        for place, name in enumerate(names):
            left, top = 10 + 40 * place, 30
            pixels[top : top + 20, left : left + 20] //= 3
            corners = [[left, top], [left + 20, top], [left + 20, top + 20], [left, top + 20]]
            shapes.append({"label": name, "shape_type": "polygon", "points": corners})
        save(root / "bad" / f"{index}.png", pixels)
        content = {"imagePath": f"{index}.png", "imageHeight": 96, "imageWidth": 128, "shapes": shapes}
        (root / "bad" / f"{index}.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def test_a_type_that_is_seen_beside_a_frequent_one_only_is_in_every_fold(tmp_path: Path, adabldm: Adabldm) -> None:
    data = write_marked(tmp_path / "plates", ["ab", "ab", "ab", *["a"] * 6])
    for number in (1, 2, 3):
        found = open_data_set(data, ReadOptions(fold=f"{number}/3"))
        assert {name: len(own) for name, own in found.instances.items()} == {"a": 6, "b": 2}
        assert {name: len(own) for name, own in found.test_instances.items()} == {"a": 3, "b": 1}
    told = ("--budget", "images", "--count", 2, "--condition", "nsa", "--quiet")
    assert adabldm("evaluate", "--data", data, "--out", tmp_path / "out", "--folds", 3, *told).code == 0


def test_a_type_on_one_side_of_a_fold_is_refused_before_the_first_fit(tmp_path: Path, adabldm: Adabldm) -> None:
    """Both images of x go with rarer types, of which they are the last."""
    data = write_marked(tmp_path / "plates", ["a", "b", "ax", "bx"])
    sentence = "in fold 2 of 2 all images of x are held out"
    for command in ("evaluate", "fit"):
        fold = ("--folds", 2, "--condition", "adabldm:fast") if command == "evaluate" else ("--fold", "1/2")
        given = ("--data", data) if command == "evaluate" else (data,)
        found = adabldm(command, *given, "--out", tmp_path / "out", *fold)
        assert found.code == 2
        assert sentence in found.err
        assert "ask for fewer folds" in found.err
        assert not (tmp_path / "out").exists()


@pytest.fixture
def compare(tmp_path: Path, adabldm: Adabldm) -> Callable[..., Result]:
    """Call `evaluate` with a folder of synthetic images."""

    def call(folder: Path, data: Path, *options: object) -> Result:
        told = ("--budget", "images", "--count", 4, "--condition", f"folder:{folder}", "--quiet")
        return adabldm("evaluate", "--data", data, "--out", tmp_path / "out", *told, *options)

    return call


@pytest.fixture
def of_fold(data: Path, run: Path, tmp_path: Path, adabldm: Adabldm) -> Path:
    """Images that were made for the first of two folds."""
    told = ("--data", data, "--fold", "1/2", "--count", 4, "--quiet")
    assert adabldm("generate", run, "--out", tmp_path / "made", *told).code == 0
    return tmp_path / "made"


def changed(folder: Path, name: str, values: dict[str, object]) -> None:
    """Change the settings of a folder, or every record of it; a value that is a mapping is changed likewise."""
    text = (folder / name).read_text(encoding="utf-8")
    lines = [json.loads(line) for line in ([text] if name == "settings.json" else text.splitlines())]
    for line in lines:
        for key, value in values.items():
            line[key] = {**line[key], **value} if isinstance(value, dict) else value
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def held_in(data: Path, fold: str) -> set[str]:
    found = open_data_set(data, ReadOptions(fold=fold))
    return {found.relative(one) for one in (*found.test_good, *found.test_defective)}


def test_a_folder_made_from_held_out_images_is_refused(
    compare: Callable[..., Result], generated: Path, of_fold: Path, data: Path
) -> None:
    held = held_in(data, "1/2")
    records = [json.loads(line) for line in (generated / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    many = sum(bool(held & {one["source"], one.get("reference")}) for one in records[:4])
    found = compare(generated, data, "--fold", "1/2")
    assert found.code == 2
    assert f"{generated}: {many} of its first 4 images were made from images that the test holds out" in found.err
    assert "generate with --fold 1/2" in found.err
    assert compare(of_fold, data, "--fold", "2/2").code == 2
    assert compare(of_fold, data, "--fold", "1/2").code == 0


def test_every_origin_of_an_image_counts(compare: Callable[..., Result], of_fold: Path, data: Path) -> None:
    reference = next(name for name in sorted(held_in(data, "1/2")) if "/spot/" in name)
    instance = {"label": 1, "defect": "spot", "box": (0, 0, 1, 1), "area": 1, "reference": reference}
    before = (of_fold / "manifest.jsonl").read_bytes()
    changed(of_fold, "settings.json", {"made_with": {"onto": str(data)}})
    for values in ({"reference": reference}, {"instances": [instance]}, {"base": reference}):
        changed(of_fold, "manifest.jsonl", values)
        found = compare(of_fold, data, "--fold", "1/2")
        assert found.code == 2
        assert "4 of its first 4 images were made from" in found.err
        assert reference in found.err
        (of_fold / "manifest.jsonl").write_bytes(before)


@pytest.mark.parametrize("known", [True, False])
def test_images_of_another_data_set_with_the_same_names_are_compared(
    compare: Callable[..., Result], generated: Path, data: Path, tmp_path: Path, known: bool
) -> None:
    """The data set from which they were made may be gone; then the pictures tell it."""
    folder = Path(shutil.copytree(generated, tmp_path / "images"))
    if not known:
        changed(folder, "settings.json", {"made_with": {"data": str(tmp_path / "gone")}})
    other = write_data_set(tmp_path / "other", seed=9)
    for fold in (("--fold", "1/2"), ("--folds", 2)):
        found = compare(folder, data, *fold)
        assert (found.code, "were made from images that the test holds out" in found.err) == (2, True)
        assert not (tmp_path / "out").exists()
        assert compare(folder, other, *fold).code == 0
        shutil.rmtree(tmp_path / "out")


def test_test_images_are_known_under_another_name(
    compare: Callable[..., Result], generated: Path, data: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(data, tmp_path / "mine"))
    write_data_set(tmp_path / "more", seed=9, good=2)
    (mine / "test").mkdir()
    (mine / "train" / "good").rename(mine / "test" / "good")
    (tmp_path / "more" / "train" / "good").rename(mine / "train" / "good")
    for defect in ("scratch", "spot"):
        (mine / "test" / defect).mkdir()
        (mine / "train" / defect / "000.png").rename(mine / "test" / defect / "000.png")
    found = compare(generated, mine)
    assert (found.code, "4 of its first 4 images were made from" in found.err) == (2, True)


def test_a_folder_without_a_manifest_is_refused_beside_folds(
    compare: Callable[..., Result], data: Path, tmp_path: Path
) -> None:
    theirs = write_data_set(tmp_path / "theirs", seed=9)
    found = compare(theirs, data, "--folds", 2)
    assert (found.code, f"{theirs}: has no manifest" in found.err) == (2, True)
    assert not (tmp_path / "out").exists()
    assert compare(theirs, data, "--fold", "1/2").code == 0
