"""`adabldm evaluate` through the command line: what it leaves, that no kill changes it, and what bad input gets."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from conftest import COMMAND, FIT, Adabldm, Result, cells, contents, kill_when, manifest, run_command
from fabricate import defect_mask, save, texture, write_data_set
from own_process import LONGEST
from PIL import Image

from adabldm.core.errors import InputError
from adabldm.core.events import Event, Progress
from adabldm.core.images import TEMPORARY, read_picture
from adabldm.core.mask_files import read_mask
from adabldm.core.records import CellRecord, EvaluationReport, ImagesRecord, read_record
from adabldm.core.records.evaluation import RESERVED_TYPES, Measures, Statistic
from adabldm.core.settings import PRESETS, CurateSettings, EvaluateSettings, GenerateSettings
from adabldm.data import inspection
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import open_data_set
from adabldm.evaluation.cells import measure
from adabldm.evaluation.conditions import read_synthetic
from adabldm.evaluation.detectors.common import image_score
from adabldm.evaluation.detectors.registry import make_detector
from adabldm.evaluation.labelled import Labelled, Mark
from adabldm.evaluation.measures import image_auroc, pixel_measures
from adabldm.production.scenes import SceneMaker
from adabldm.report.evaluation import MEASURES, condition_titles, format_markdown, recoloured
from adabldm.workflows.curate import curate
from adabldm.workflows.evaluate import evaluate
from adabldm.workflows.generate import generate

TYPES = ("scratch", "spot")
COUNT = 2
"""A scratch and a spot: enough together for measures of sets of images, too few of each type."""
SAME_PLACES = ("copy-paste", "nsa", "adabldm-fast")
"""Folders of the conditions that edit the same scenes inside the same masks."""
SCORES = ("background_psnr", "seam", "defect_fidelity", "edit_strength")
SAID = (*SCORES, "accepted")
QUICK = ("--detector-steps", 2, "--quiet")


def flags(option: str, values: tuple[object, ...]) -> list[object]:
    return [part for value in values for part in (option, value)]


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with a test split. Read only."""
    return write_data_set(tmp_path_factory.mktemp("split") / "woven_cloth", good=4, test=True)


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody else's synthetic images, two of each type, without a manifest. Read only."""
    root = tmp_path_factory.mktemp("foreign") / "their images"
    rng = np.random.default_rng(5)
    for defect in TYPES:
        for index in range(2):
            mask, pixels = defect_mask(defect, (96, 128), rng), texture((96, 128), rng)
            pixels[mask] = (200, 40, 40)
            save(root / "test" / defect / f"{index}.png", pixels)
            save(root / "ground_truth" / defect / f"{index}_mask.png", (mask * 255).astype(np.uint8))
    return root


@pytest.fixture(scope="session")
def conditions(foreign: Path) -> tuple[str, ...]:
    return ("real", "copy-paste", "nsa", "perlin", "adabldm:fast", f"folder:{foreign}")


Command = Callable[[Path], list[object]]


@pytest.fixture(scope="session")
def everything(split: Path, run: Path, conditions: tuple[str, ...]) -> Command:
    """The command with all conditions, by its output folder."""

    def command(out: Path) -> list[object]:
        chosen = [*flags("--condition", conditions), *flags("--detector", ("unet", "patchcore"))]
        sizes = ("--count", COUNT, "--seeds", 1, "--dtype", "bfloat16", *QUICK)
        return ["evaluate", "--data", split, "--run", run, "--out", out, *chosen, *sizes]

    return command


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory, everything: Command) -> Path:
    """What the command with all conditions left. Read only."""
    out = tmp_path_factory.mktemp("evaluated") / "results"
    assert run_command(*everything(out)) == 0
    return out


@pytest.fixture(scope="session")
def report(evaluated: Path) -> EvaluationReport:
    return read_record(evaluated / "evaluation.json", EvaluationReport)


@pytest.fixture(scope="session")
def twice(split: Path) -> Command:
    """A command with two seeds and without a run, by its output folder."""

    def command(out: Path) -> list[object]:
        chosen = [*flags("--condition", ("real", "nsa")), "--detector", "unet", "--count", 3, "--seeds", 2]
        return ["evaluate", "--data", split, "--out", out, *chosen, *QUICK]

    return command


@pytest.fixture(scope="session")
def evaluated_twice(tmp_path_factory: pytest.TempPathFactory, twice: Command) -> Path:
    """What the command with two seeds left. Read only."""
    out = tmp_path_factory.mktemp("evaluated-twice") / "results"
    assert run_command(*twice(out)) == 0
    return out


def read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def file_name(condition: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in condition)


def cell_path(out: Path, detector: str, condition: str, seed: int) -> Path:
    return out / "cells" / f"{detector}-{file_name(condition)}-{seed}.json"


# What it leaves


def test_the_folder_holds_images_cells_tables_and_pictures(
    evaluated: Path, report: EvaluationReport, conditions: tuple[str, ...], split: Path
) -> None:
    assert {path.name for path in evaluated.iterdir()} == {
        "images", "cells", "digests", "maps", "settings.json", "evaluation.json", "evaluation.md", "index.html",
        "conditions.png", "detections.png",
    }  # fmt: skip
    made = ("copy-paste", "nsa", "perlin", "adabldm-fast")
    assert {path.name for path in (evaluated / "images").iterdir()} == set(made)
    files = ("real", *made, file_name(conditions[-1]))
    assert {path.stem for path in (evaluated / "digests").iterdir()} == set(files[1:])
    assert {path.stem for path in (evaluated / "cells").iterdir()} == {
        *(f"images-{name}" for name in files[1:]),
        *(f"unet-{name}-0" for name in files),
        "patchcore-any-0",
    }
    assert report.settings.model_dump() == {
        "conditions": conditions, "detectors": ("unet", "patchcore"), "seeds": 1, "networks": 1,
        "count": COUNT, "budget": "full", "detector_steps": 2, "seed": 0, "folds": None,
    }  # fmt: skip
    assert (report.data, report.types, report.test_images) == (str(split), TYPES, 10)
    assert list(report.detectors["unet"]) == list(conditions)
    assert list(report.detectors["patchcore"]) == ["any"]
    assert list(report.images) == list(conditions[1:])


@pytest.mark.parametrize("name", ["evaluation.json", "settings.json", "cells/unet-real-0.json"])
def test_files_say_their_version(evaluated: Path, name: str) -> None:
    assert read_json(evaluated / name)["schema"] == 1


@pytest.mark.parametrize("folder", ["evaluated", "evaluated_twice"])
def test_the_report_is_made_of_the_cells(request: pytest.FixtureRequest, folder: str) -> None:
    out: Path = request.getfixturevalue(folder)
    report = read_record(out / "evaluation.json", EvaluationReport)
    seeds = range(report.settings.seeds)
    for detector, rows in report.detectors.items():
        for condition, found in rows.items():
            cells = [read_json(cell_path(out, detector, condition, seed))["measures"] for seed in seeds]
            assert found.keys() == {*TYPES, "mean"}
            for defect, measures in found.items():
                for key in MEASURES:
                    own, values = statistic(measures, key), [cell[defect][key] for cell in cells]
                    assert list(own.values) == values
                    assert own.mean == pytest.approx(fmean(values), abs=1e-3)
                    assert own.std == pytest.approx(stdev(values) if len(values) > 1 else 0, abs=1e-3)
                    assert all(0 <= value <= 100 for value in values)
            for cell in cells:
                for key in MEASURES:
                    assert cell["mean"][key] == pytest.approx(fmean(cell[defect][key] for defect in TYPES), abs=2e-3)
    means = [found["mean"] for found in report.detectors["unet"].values()]
    assert len({one.model_dump_json() for one in means}) == len(means)  # a condition is another training
    if len(seeds) > 1:
        measured = [statistic(one, key).values for one in means for key in MEASURES]
        assert any(first != second for first, second in measured)  # so is a seed


def statistic(measures: Measures[Statistic], key: str) -> Statistic:
    found: Statistic = getattr(measures, key)
    return found


def test_a_detector_is_tested_on_the_real_test_images(report: EvaluationReport, split: Path) -> None:
    """The label-free control is simple enough to be asked again here."""
    detector = make_detector("patchcore")
    good = [Labelled(read_picture(path).pixels) for path in sorted((split / "train" / "good").iterdir())]
    detector.fit(good, seed=0)
    for defect in TYPES:
        paths = [*sorted((split / "test" / "good").iterdir()), *sorted((split / "test" / defect).iterdir())]
        scores = [image_score(detector.predict(read_picture(path).pixels)) for path in paths]
        expected = image_auroc(scores, [path.parent.name != "good" for path in paths])
        found = report.detectors["patchcore"]["any"][defect].image_auroc.values[0]
        assert found == pytest.approx(expected, abs=1e-3)


def test_the_maps_of_several_networks_are_averaged(adabldm: Adabldm, split: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    chosen = ("--condition", "real", "--detector", "unet", "--detector", "patchcore", "--seeds", 2, "--networks", 2)
    assert adabldm("evaluate", "--data", split, "--out", out, *chosen, *QUICK).code == 0
    data_set = open_data_set(split)
    training = [Labelled.read(one) for one in (*data_set.good, *data_set.defective)]
    tested = [Labelled.read(one) for one in (*data_set.test_good, *data_set.test_defective)]
    tested = [one for one in tested if not one.marks or one.has("spot")]
    masks = [one.truth("spot")[0] for one in tested]
    report = read_record(out / "evaluation.json", EvaluationReport)
    for cell, seeds in enumerate([(0, 1), (2, 3)]):
        maps = []
        for seed in seeds:
            detector = make_detector("unet", steps=2)
            detector.fit(training, seed=seed)
            maps.append([detector.predict(one.pixels) for one in tested])
        means = [(first + second) / 2 for first, second in zip(*maps, strict=True)]
        expected, alone = pixel_measures(means, masks), pixel_measures(maps[1], masks)
        found = report.detectors["unet"]["real"]["spot"]
        assert found.auroc.values[cell] == pytest.approx(expected.auroc, abs=1e-2)
        assert found.ap.values[cell] == pytest.approx(expected.ap, abs=1e-2)
        assert abs(found.ap.values[cell] - alone.ap) > 0.1
    assert "2 networks each" in (out / "index.html").read_text(encoding="utf-8")
    assert "networks averaged for each: 2" in (out / "evaluation.md").read_text(encoding="utf-8")


def test_image_measures_are_there_for_every_condition_and_type(
    evaluated: Path, report: EvaluationReport, conditions: tuple[str, ...]
) -> None:
    for condition in conditions[1:]:
        figures = report.images[condition]
        assert figures.types.keys() == set(TYPES)
        for measured, count, shots in ((figures.together, 2, 6), *((one, 1, 3) for one in figures.types.values())):
            assert measured.backbone == "EfficientNet-Lite0"
            assert (measured.synthetic, measured.real, measured.few_shot) == (count, shots, shots)
            if count > 1:
                assert measured.frechet is not None
                assert measured.kid_std is not None
                assert min(measured.frechet, measured.kid_std) > 0
            else:
                assert (measured.kid, measured.frechet, measured.diversity) == (None, None, None)
            assert measured.nearest_few_shot is not None
            assert 0 < measured.nearest_few_shot < 4
    for name in ("copy-paste", "nsa", "perlin", "adabldm:fast"):
        scores, records = report.images[name].scores, manifest(evaluated / "images" / name.replace(":", "-"))
        for key in SCORES:
            if key == "defect_fidelity" and name != "adabldm:fast":  # nothing was decoded
                assert scores.defect_fidelity is None
            else:
                assert getattr(scores, key) == pytest.approx(fmean(record[key] for record in records), abs=1e-3)
    copied = report.images["copy-paste"]
    assert copied.scores.background_psnr == 100
    assert copied.mask.precision == 1


def test_what_a_folder_without_a_manifest_does_not_say_is_absent(
    evaluated: Path, report: EvaluationReport, conditions: tuple[str, ...]
) -> None:
    figures = report.images[conditions[-1]]
    assert figures.scores.model_dump() == dict.fromkeys(SAID)
    assert figures.mask.model_dump() == dict.fromkeys(("iou", "precision", "recall"))
    head, *rows = markdown_tables(evaluated)["Image measures"]
    needy = head.index("background PSNR (dB)")
    assert head[needy:] == [
        "background PSNR (dB)", "seam", "defect fidelity (dB)", "edit strength", "met the limits",
        "mask IoU", "mask precision", "mask recall",
    ]  # fmt: skip
    shown = {row[0]: row[needy:] for row in rows}
    assert shown[f"folder {Path(conditions[-1]).name}"] == ["–"] * 8
    assert "–" not in shown["AdaBLDM fast"]


def markdown_tables(out: Path) -> dict[str, list[list[str]]]:
    """Rows of cells by title, the head first."""
    found: dict[str, list[list[str]]] = {}
    for line in (out / "evaluation.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            rows = found.setdefault(line.removeprefix("## "), [])
        elif line.startswith("| "):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return {title: [rows[0], *(row for row in rows[1:] if set(row) != {"---"})] for title, rows in found.items()}


class Tables(HTMLParser):
    """Rows of cells of every table of a page, by the heading above it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.title, self.inside, self.found = "", "", dict[str, list[list[str]]]()
        self.images: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "h2":
            self.title, self.inside = "", "h2"
        elif tag == "tr":
            self.found.setdefault(self.title, []).append([])
        elif tag in {"td", "th"}:
            self.inside = "cell"
            self.found[self.title][-1].append("")
        elif tag == "img":
            self.images.append(str(dict(attributes)["src"]))

    def handle_endtag(self, tag: str) -> None:
        if tag in {"h2", "td", "th"}:
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "h2":
            self.title += data
        elif self.inside == "cell":
            self.found[self.title][-1][-1] += data


def expected_rows(report: EvaluationReport, detector: str, pairs: list[tuple[str, str]]) -> Iterator[list[str]]:
    """Rows of a detector's table for (type, measure) pairs, the best of a column in bold."""
    rows = report.detectors[detector]
    tops = [max(statistic(found[defect], key).mean for found in rows.values()) for defect, key in pairs]
    for condition, found in rows.items():
        row = [condition_titles(rows)[condition]]
        for (defect, key), top in zip(pairs, tops, strict=True):
            own = statistic(found[defect], key)
            text = f"{own.mean:.1f}" + (f" ± {own.std:.1f}" if report.settings.seeds > 1 else "")
            row.append(f"**{text}**" if len(rows) > 1 and own.mean == top else text)
        yield row


@pytest.mark.parametrize("folder", ["evaluated", "evaluated_twice"])
def test_the_tables_show_the_numbers_of_the_report(request: pytest.FixtureRequest, folder: str) -> None:
    """One training says nothing of the deviation, so that none is shown."""
    out: Path = request.getfixturevalue(folder)
    report = read_record(out / "evaluation.json", EvaluationReport)
    tables = markdown_tables(out)
    for detector in report.detectors:
        head, *rows = tables[f"{detector}: real test images"]
        assert head == ["condition", *MEASURES.values()]
        assert rows == list(expected_rows(report, detector, [("mean", key) for key in MEASURES]))
        for key in ("ap", "iap90"):
            head, *rows = tables[f"{detector}: {MEASURES[key]} by defect type"]
            assert head == ["condition", *TYPES]
            assert rows == list(expected_rows(report, detector, [(defect, key) for defect in TYPES]))
    head, *rows = tables["Image measures"]
    assert [row[0] for row in rows] == list(condition_titles(report.images).values())
    for figures, row in zip(report.images.values(), rows, strict=True):
        shown = dict(zip(head, row, strict=True))
        whole = figures.together
        assert shown["KID (EfficientNet-Lite0)"] == f"{whole.kid:.4f} ± {whole.kid_std:.4f}"
        assert shown["Fréchet distance (EfficientNet-Lite0)"] == f"{whole.frechet:.2f}"
        if figures.scores.seam is not None:
            assert shown["seam"] == f"{figures.scores.seam:.2f}"
            assert shown["mask recall"] == f"{figures.mask.recall:.2f}"


def test_a_bar_in_a_folders_name_does_not_part_a_cell_of_the_markdown(report: EvaluationReport) -> None:
    renamed = json.loads(json.dumps(report.plain()).replace("nsa", "folder:a|b"))
    text = format_markdown(EvaluationReport.parse(renamed, "here"))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert any("folder a&#124;b" in line for line in lines)
    assert not any("a|b" in line for line in lines)


def test_folders_and_files_of_presets_are_called_by_their_own_names() -> None:
    names = ("real", "nsa", "perlin", "adabldm:fast", "adabldm:/home/me/presets/calm.json", "folder:/home/me/more/")
    assert list(condition_titles(names).values()) == [
        "real", "Poisson-blended", "Perlin noise", "AdaBLDM fast", "AdaBLDM calm", "folder more",
    ]  # fmt: skip
    two = ("folder:/a/more", "folder:/b/more", "folder:/b/other")
    assert condition_titles(two) == {two[0]: two[0], two[1]: two[1], two[2]: "folder other"}


def test_a_sheet_in_the_colours_of_the_dark_theme_shows_the_same_pictures(evaluated: Path) -> None:
    for name in ("conditions.png", "detections.png"):
        sheet = read_picture(evaluated / name).pixels
        dark = recoloured(sheet, (29, 33, 37), (231, 234, 238))
        assert dark[:, :150].mean() < 60, "the labels stand on dark paper"
        assert dark[:, :150].max() > 200, "and can be read"
        for top in range(0, len(sheet), 128 + 6):
            assert (dark[top + 128 : top + 134] == (29, 33, 37)).all()
            for left in range(150 + 6, sheet.shape[1], 128 + 6):
                place = np.s_[top : top + 128, left : left + 128]
                assert (dark[place] == sheet[place]).all()


def test_the_page_shows_the_same_tables_and_both_sheets(evaluated: Path) -> None:
    page = Tables((evaluated / "index.html").read_text(encoding="utf-8"))
    plain = {
        title: [[cell.strip("*") for cell in row] for row in rows] for title, rows in markdown_tables(evaluated).items()
    }
    assert page.found == plain
    assert page.images == ["conditions.png", "detections.png"]


def test_the_sheets_have_a_row_for_every_condition(evaluated: Path, conditions: tuple[str, ...]) -> None:
    row = 128 + 6
    for name, rows, columns in (
        ("conditions.png", len(conditions), COUNT),  # the masks, then all but "real"
        ("detections.png", len(conditions) + 2, 6),  # the images, the truth, then all
    ):
        sheet = read_picture(evaluated / name).pixels
        assert sheet.shape[0] == rows * row
        assert sheet.shape[1] >= columns * row
        bands = [sheet[start : start + 128] for start in range(0, len(sheet), row)]
        assert len({band.tobytes() for band in bands}) == rows
        assert min(band.std() for band in bands) > 5


def test_standard_output_is_the_folder_and_the_table_goes_to_standard_error(
    adabldm: Adabldm, everything: Command, evaluated: Path
) -> None:
    """Beside that, a second run trains nothing and changes nothing."""
    before, stamps = contents(evaluated), {path: path.stat().st_mtime_ns for path in (evaluated / "cells").iterdir()}
    result = adabldm(*everything(evaluated))
    assert result.code == 0
    assert result.out.splitlines() == [str(evaluated)]
    assert (evaluated / "evaluation.md").read_text(encoding="utf-8") in result.err
    assert str(evaluated / "index.html") in result.err
    assert contents(evaluated) == before
    assert {path: path.stat().st_mtime_ns for path in (evaluated / "cells").iterdir()} == stamps


# Fair conditions


def test_every_condition_adds_as_many_images_of_as_many_types(evaluated: Path) -> None:
    for name in (*SAME_PLACES, "perlin"):
        records = manifest(evaluated / "images" / name)
        assert [record["defect"] for record in records] == ["scratch", "spot"]


def test_edits_have_the_precision_that_is_asked_for(evaluated: Path) -> None:
    assert read_json(evaluated / "images" / "adabldm-fast" / "settings.json")["dtype"] == "bfloat16"


def test_conditions_edit_the_same_sources_inside_the_same_masks(evaluated: Path, split: Path) -> None:
    """The first attempt at every image is the same scene; an attempt that was rejected moves on to the next one."""
    maker = SceneMaker(open_data_set(split), "texture")
    for name in (*SAME_PLACES, "perlin"):
        root = evaluated / "images" / name
        for index, record in enumerate(manifest(root)):
            scene = maker.draw(TYPES[index % 2], 0, index, record.get("attempt", 0))
            assert (record["source"], record["shape"]) == (scene.path, scene.shape.source)
            saved, pixels = read_mask(root / record["mask"]), read_picture(root / record["image"]).pixels
            assert not np.array_equal(pixels[saved], scene.picture.pixels[saved])
            if name != "perlin":
                assert np.array_equal(saved, scene.mask)
            if name in {"perlin", "copy-paste"}:
                assert np.array_equal(pixels[~saved], scene.picture.pixels[~saved])
            assert np.count_nonzero(saved) == np.count_nonzero(scene.mask)
    for index in range(COUNT):
        first = [manifest(evaluated / "images" / name)[index]["image"] for name in ("copy-paste", "nsa", "perlin")]
        assert len(set(first)) == 1
        files = [(evaluated / "images" / name / first[0]).read_bytes() for name in ("copy-paste", "nsa", "perlin")]
        assert len(set(files)) == 3


def test_a_preset_may_come_from_a_file(adabldm: Adabldm, split: Path, run: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "mine.json", tmp_path / "results"
    path.write_text(json.dumps({**PRESETS["fast"].plain(), "name": "mine"}), encoding="utf-8")
    name = f"adabldm:{path}"
    options = ("--condition", name, "--detector", "patchcore", "--count", 1, "--seeds", 1, *QUICK)
    result = adabldm("evaluate", "--data", split, "--run", run, "--out", out, *options)
    assert result.code == 0, result.err
    assert [record["preset"] for record in manifest(out / "images" / file_name(name))] == ["mine"]


def test_defects_of_other_types_count_for_neither_side() -> None:
    """The measures of a type are those of the same images without the pixels of the others."""
    rng = np.random.default_rng(0)
    spot, scratch = np.zeros((2, 30, 40), bool)
    spot[4:9, 5:12], scratch[20:22, 3:38] = True, True
    pixels = np.zeros((30, 40, 3), np.uint8)
    spots, scratches = Labelled(pixels, (Mark("spot", spot),)), Labelled(pixels, (Mark("scratch", scratch),))
    both = Labelled(pixels, (Mark("spot", spot), Mark("scratch", scratch)))
    maps = [np.float32(rng.normal(size=(30, 40)) + image) for image in (0 * spot, spot, scratch, spot | scratch)]
    found = measure(maps, [Labelled(pixels), spots, scratches, both], TYPES)
    for image in (2, 3):
        maps[image] = np.where(scratch, 99, maps[image]).astype(np.float32)
    assert measure(maps, [Labelled(pixels), spots, scratches, both], TYPES)["spot"] == found["spot"]
    assert measure(maps, [Labelled(pixels), spots, scratches, both], TYPES)["scratch"] != found["scratch"]
    maps[2] = np.full((30, 40), 50, np.float32)  # an image that shows no spot is no test of spots
    assert measure(maps, [Labelled(pixels), spots, scratches, both], TYPES)["spot"] == found["spot"]


# Progress


def heard(settings: EvaluateSettings) -> list[Progress]:
    events: list[Event] = []
    evaluate(settings, events.append)
    return [event for event in events if isinstance(event, Progress)]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_progress_is_that_of_the_whole_command(split: Path, run: Path, tmp_path: Path, workers: int) -> None:
    settings = EvaluateSettings.create(
        data=split, out=tmp_path / "results", run=str(run), condition=("real", "nsa", "adabldm:fast"), count=2,
        detector=("unet",), detector_steps=2, seeds=1, workers=workers,
    )  # fmt: skip
    found = heard(settings)
    reading = [event for event in found if event.task == "read"]
    assert {event.fraction for event in reading} == {0.0}
    found = found[len(reading) :]
    tasks = ["make nsa", "make adabldm:fast", "measure images", "train unet", "test unet"]
    assert list(dict.fromkeys(event.task for event in found)) == tasks
    assert found[-1].fraction == 1
    assert found[-1].seconds_left == 0
    last = {event.task: event for event in found}
    assert all(event.done == event.total for event in last.values())
    assert {event.task: event.total for event in last.values()} == dict(zip(tasks, (2, 2, 2, 6, 30), strict=True))
    fractions = [event.fraction for event in found]
    assert fractions[0] == 0
    again = heard(settings.changed(workers=1))
    assert min(event.fraction for event in again if event.task != "read") == 1, "everything was there"


# Folders of the version before


def test_the_data_set_is_read_twice_for_any_number_of_presets(
    split: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with what tests need, once as `generate` reads it."""
    read, check = list[str | None](), inspection.check_data_set

    def counted(root: Path, options: ReadOptions, listen: Any) -> Any:
        read.append(options.split)
        return check(root, options, listen)

    monkeypatch.setattr(inspection, "check_data_set", counted)
    presets = ("adabldm:fast", f"adabldm:{tmp_path / 'calm.json'}")
    (tmp_path / "calm.json").write_text(json.dumps(PRESETS["fast"].changed(name="calm").plain()))
    common: dict[str, Any] = {"data": split, "run": str(run), "count": 2, "budget": "images"}
    evaluate(EvaluateSettings(**common, out=tmp_path / "both", condition=("real", *presets)))
    assert read == [None, "train"]
    made = tmp_path / "both" / "images" / file_name(presets[0])
    known = json.loads((made / "settings.json").read_text())["made_with"]
    generate(GenerateSettings.create({**known, "count": 2, "out": tmp_path / "alone"}))
    assert read == [None, "train", "train"]
    assert contents(tmp_path / "alone")["manifest.jsonl"] == contents(made)["manifest.jsonl"]


OLD = Path(__file__).resolve().parent / "fixtures" / "schema0" / "evaluation"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder of the version before, as if it had been made here, beside its data set."""
    out = tmp_path / "evaluation"
    shutil.copytree(OLD, out)
    data = write_data_set(tmp_path / "woven_cloth", good=3, defects={"spot": 2, "scratch": 2}, test=True)
    settings = {**read_json(out / "settings.json"), "data": str(data), "model": "none"}
    (out / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return out


def test_a_report_of_the_version_before_loses_nothing() -> None:
    report = read_record(OLD / "evaluation.json", EvaluationReport)
    values = read_json(OLD / "evaluation.json")
    values["settings"]["folds"] = None  # fields that are new
    for figures in values["images"].values():
        figures["scores"]["accepted"] = None
    assert report.plain() == {"schema": 1, "difference": None, **values}
    for name in ("copy-paste", "adabldm-fast"):
        figures = read_record(OLD / "cells" / f"images-{name}.json", ImagesRecord).figures
        assert figures == report.images[name.replace("-fast", ":fast")]
        cell = read_record(OLD / "cells" / f"unet-{name}-0.json", CellRecord)
        assert cell.measures["mean"].ap == report.detectors["unet"][name.replace("-fast", ":fast")]["mean"].ap.mean


def test_an_evaluation_of_the_version_before_is_continued(old: Path, adabldm: Adabldm) -> None:
    report = read_record(old / "evaluation.json", EvaluationReport)
    before = {path: path.read_bytes() for path in (old / "cells").iterdir()}
    chosen = (*flags("--condition", ("real", "copy-paste")), "--detector", "unet", "--detector-steps", 1)
    command = ("evaluate", "--data", old.parent / "woven_cloth", "--out", old, *chosen, "--count", 2, "--quiet")
    assert adabldm(*command, "--seeds", 2).code == 0
    more = read_record(old / "evaluation.json", EvaluationReport)
    assert more.images == {"copy-paste": report.images["copy-paste"]}
    for name in ("real", "copy-paste"):
        old_values = report.detectors["unet"][name]["mean"].ap.values
        values = more.detectors["unet"][name]["mean"].ap.values
        assert (len(values), values[:1]) == (2, old_values)
    assert {path: path.read_bytes() for path in before} == before
    changed = adabldm(*command, "--seeds", 2, "--networks", 2)
    check_refused(changed, str(old), "networks was 1, is now 2", "another --out")


# Interruptions


def test_a_killed_evaluation_goes_on_to_the_same_result(
    adabldm: Adabldm, twice: Command, evaluated_twice: Path, tmp_path: Path
) -> None:
    whole, out = evaluated_twice, tmp_path / "results"
    kill_when(lambda: (out / "cells" / "unet-real-0.json").exists(), *twice(out))
    done = {path: path.stat().st_mtime_ns for path in (out / "cells").glob("*.json")}
    assert 2 <= len(done) < 5
    assert not (out / "evaluation.json").exists()
    # As if it had died while it wrote a cell, and earlier while it wrote an image and a line.
    (out / "cells" / f"{TEMPORARY}77").write_bytes(b'{"meas')
    lines = (out / "images" / "nsa" / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (out / "images" / "nsa" / "manifest.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:30])
    result = adabldm(*twice(out))
    assert result.code == 0, result.err
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert contents(out, without=["cells"]) == contents(whole, without=["cells"])
    assert cells(out) == cells(whole)
    assert {path.name for path in (out / "cells").iterdir()} == cells(whole).keys()


def test_workers_come_to_the_same_result(
    adabldm: Adabldm, twice: Command, evaluated_twice: Path, tmp_path: Path
) -> None:
    """With a thread each, as the other has."""
    out = tmp_path / "results"
    result = adabldm(*twice(out), "--workers", 2)
    assert result.code == 0, result.err
    assert contents(out, without=["cells"]) == contents(evaluated_twice, without=["cells"])
    assert cells(out) == cells(evaluated_twice)


def test_a_killed_worker_ends_the_command_with_a_sentence(twice: Command, tmp_path: Path) -> None:
    call = [*COMMAND, *map(str, twice(tmp_path / "results")), "--workers", "2"]
    with subprocess.Popen([*call, "--detector-steps", "100000"], stderr=subprocess.PIPE, text=True) as command:
        workers: list[psutil.Process] = []
        deadline = time.monotonic() + LONGEST
        while len(workers) < 2 and command.poll() is None and time.monotonic() < deadline:
            servers = psutil.Process(command.pid).children()  # the workers are children of the server of processes
            workers = [worker for server in servers for worker in server.children()]
            time.sleep(0.1)
        workers[0].kill()
        _, said = command.communicate(timeout=LONGEST)
    assert command.returncode == 2, said
    (line,) = [line for line in said.splitlines() if line.startswith("adabldm: ")]
    assert "a worker process was killed" in line
    assert "Traceback" not in said


def test_workers_that_fail_end_the_command(
    adabldm: Adabldm, twice: Command, evaluated_twice: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    shutil.copytree(evaluated_twice, out)
    for path in (out / "cells").glob("unet-*.json"):
        path.unlink()
    shutil.rmtree(out / "maps")
    (out / "maps").write_text("in the way")
    result = adabldm(*twice(out), "--workers", 2)
    assert result.code != 0
    assert len(list((out / "cells").glob("unet-*-0.json"))) == 0


# Bad input


def check_refused(result: Result, *words: str) -> None:
    """Left with 2, one sentence on standard error that holds all `words`, nothing on standard output."""
    assert (result.code, result.out) == (2, "")
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("adabldm: ")
    assert lines[0].endswith(".")
    assert [word for word in words if word not in lines[0]] == [], lines[0]


def test_a_run_that_has_seen_the_test_is_refused(adabldm: Adabldm, base: Path, split: Path, tmp_path: Path) -> None:
    """As data of MVTec AD lead into it: a fit takes an image that is held back for the test afterwards."""
    data, run, out = tmp_path / "woven_cloth", tmp_path / "run", tmp_path / "out"
    shutil.copytree(split, data)
    (data / "test" / "spot" / "100.png").rename(data / "train" / "spot" / "100.png")
    assert adabldm("fit", data, "--out", run, "--base", base, *FIT).code == 0
    chosen = ("--condition", "copy-paste", "--budget", "images", "--count", 2, "--quiet")
    result = adabldm("evaluate", "--data", split, "--run", run, "--out", out, *chosen)
    check_refused(result, str(run), "was fitted on 1 of the", "images of the test", str(Path("spot") / "100.png"))
    assert not out.exists()


def test_a_run_that_knows_more_real_defects_than_the_others_is_told(
    adabldm: Adabldm, base: Path, split: Path, tmp_path: Path
) -> None:
    run, chosen = tmp_path / "run", ("--condition", "copy-paste", "--budget", "images", "--count", 2)
    assert adabldm("fit", split, "--out", run, "--base", base, *FIT).code == 0
    for shots, told in ((1, True), (None, False)):
        more = () if shots is None else ("--shots", shots)
        result = adabldm("evaluate", "--data", split, "--run", run, "--out", tmp_path / str(shots), *chosen, *more)
        assert result.code == 0, result.err
        assert ("which favours its images" in result.err) == told


Evaluate = Callable[..., Result]


@pytest.fixture
def refused(adabldm: Adabldm, run: Path, split: Path, tmp_path: Path) -> Evaluate:
    """Runs a short evaluation with other options; checks that nothing was written."""

    def call(*options: object, data: Path = split) -> Result:
        out = tmp_path / "out"
        run_option = () if "--run" in options or "no run" in options else ("--run", run)
        given = [option for option in options if option != "no run"]
        sizes = (*QUICK, "--count", 2, "--seeds", 1, "--detector", "unet")
        result = adabldm("evaluate", "--data", data, *run_option, "--out", out, *sizes, *given)
        assert not out.exists()
        return result

    return call


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--condition", "real", "--condition", "nsa", "--condition", "real"), ["--condition: real", "twice"]),
        (("--condition", "gan"), ["--condition: gan", "real, copy-paste, nsa, perlin, rendered", "folder:PATH"]),
        (("--condition", "adabldm:slow"), ["--condition: adabldm:slow", "fast, paper, released"]),
        (("--condition", "adabldm"), ["--condition: adabldm is unknown", "adabldm:PRESET"]),
        (("--condition", "folder:"), ["--condition: folder: is unknown", "folder:PATH"]),
        (("--condition", "folder:nowhere"), ["--condition: folder:nowhere", "no such folder", "check the path"]),
        (("--condition", "adabldm:nowhere.toml"), ["--condition: adabldm:nowhere.toml", "no such file"]),
        (("--detector", "eye"), ["--detector: eye", "unet, destseg, patchcore"]),
        (("--detector", "unet"), ["--detector: unet, unet", "each one once"]),
        (("--budget", "huge"), ["--budget: huge", "quick, full"]),
        (("--count", 0), ["--count: 0", "from 1 to"]),
        (("--seeds", 0), ["--seeds: 0", "at least 1"]),
        (("--networks", 0), ["--networks: 0", "at least 1"]),
        (("--workers", 0), ["--workers: 0", "at least 1"]),
        (("--detector-steps", 0), ["--detector-steps: 0", "at least 1"]),
        (("--device", "abacus"), ["--device: abacus", "use cpu"]),
        (("--dtype", "int8"), ["--dtype: int8", "float32", "bfloat16"]),
        (("--mask-threshold", 300), ["--mask-threshold: 300", "0 to 254"]),
        (("no run", "--condition", "adabldm:fast"), ["--run", "adabldm:fast", "add it"]),
        (("--run", "nowhere"), ["nowhere", "no such run"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_wrong_options(refused: Evaluate, options: tuple[object, ...], words: list[str]) -> None:
    check_refused(refused(*options), *words)


@pytest.fixture
def mine(split: Path, tmp_path: Path) -> Path:
    """A copy of the data set that a test may damage."""
    root = tmp_path / "woven cloth"
    shutil.copytree(split, root)
    return root


def test_types_without_real_test_images(refused: Evaluate, mine: Path) -> None:
    shutil.rmtree(mine / "test" / "spot")
    for index in range(100, 103):
        (mine / "ground_truth" / "spot" / f"{index}_mask.png").unlink()
    check_refused(refused(data=mine), str(mine), "no real test images of spot", "the rest in the test split")


def test_types_whose_only_images_are_test_images(refused: Evaluate, mine: Path) -> None:
    """They would be trained on: a test needs images of its own."""
    shutil.rmtree(mine / "train" / "scratch")
    for index in range(3):
        (mine / "ground_truth" / "scratch" / f"{index:03d}_mask.png").unlink()
    check_refused(refused(data=mine), str(mine), "no real test images of scratch", "in the training split")


@pytest.mark.parametrize("name", RESERVED_TYPES)
def test_a_type_named_like_an_entry_of_the_report_is_refused(refused: Evaluate, mine: Path, name: str) -> None:
    for place in (mine / "train", mine / "test", mine / "ground_truth"):
        (place / "spot").rename(place / name)
    check_refused(refused(data=mine), str(mine), f"named {name}", "rename it")


def test_no_defect_free_test_images(refused: Evaluate, mine: Path) -> None:
    shutil.rmtree(mine / "test" / "good")
    check_refused(refused(data=mine), str(mine), "no defect-free test images", "put them into the test split")


def test_all_missing_test_folders_are_told_in_one_go(refused: Evaluate, mine: Path) -> None:
    shutil.rmtree(mine / "test")
    for path in (mine / "ground_truth").rglob("1*_mask.png"):
        path.unlink()
    result = refused(data=mine)
    assert result.code == 2
    missing = [*(f"no real test images of {defect}" for defect in TYPES), "no defect-free test images"]
    lines = result.err.splitlines()
    assert len(lines) == len(missing)
    assert all(f"{mine}: {words}" in line for words, line in zip(missing, lines, strict=True))


@pytest.mark.parametrize(("folder", "suffix"), [("spot", ".png"), ("good", ".png"), ("scratch", ".bmp")])
def test_a_test_image_that_stands_in_training_under_another_name(
    refused: Evaluate, mine: Path, folder: str, suffix: str
) -> None:
    """The pictures are compared, not their names or files."""
    trained = mine / "train" / folder / "001.png"
    tested = mine / "test" / folder / f"another name{suffix}"
    with Image.open(trained) as image:
        image.save(tested)
    if folder != "good":
        masks = mine / "ground_truth" / folder
        shutil.copy(masks / "001_mask.png", masks / "another name_mask.png")
    check_refused(refused(data=mine), str(tested), "the same picture", str(trained), "remove one")


def test_broken_data_sets(refused: Evaluate, mine: Path, tmp_path: Path) -> None:
    check_refused(refused(data=tmp_path / "nowhere"), str(tmp_path / "nowhere"), "no such folder")
    path = mine / "test" / "spot" / "101.png"
    path.write_bytes(path.read_bytes()[:-300])
    check_refused(refused(data=mine), str(path), "not a readable image", "replace or remove")


def test_a_run_that_does_not_know_a_type(refused: Evaluate, run: Path, tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "data", good=2, defects={"hole": 2, "spot": 2}, test=True)
    result = refused("--condition", "real", "--condition", "adabldm:fast", data=data)
    check_refused(result, str(run), "knows scratch, spot", "hole", "fit a run")


def test_an_empty_mask_that_generate_would_refuse_later(refused: Evaluate, mine: Path) -> None:
    path = save(mine / "ground_truth" / "spot" / "001_mask.png", np.zeros((96, 128), np.uint8))
    result = refused("--condition", "nsa", "--condition", "adabldm:fast", data=mine)
    check_refused(result, str(path), "mask is empty", "draw it or remove")


def test_a_mask_that_fits_on_no_source(refused: Evaluate, mine: Path) -> None:
    for index, path in enumerate(sorted((mine / "train" / "good").iterdir())):
        save(path, texture((16, 20), np.random.default_rng(index)))
    result = refused("--condition", "copy-paste", "--foreground", "texture", data=mine)
    check_refused(result, "'scratch'", "too large", "20x16 px")


def test_fewer_synthetic_images_than_asked_for(refused: Evaluate, foreign: Path, evaluated: Path) -> None:
    for folder, found in ((foreign, 4), (evaluated / "images" / "nsa", 2)):
        result = refused("--condition", f"folder:{folder}", "--count", 7)
        check_refused(result, str(folder), f"{found} synthetic images, expected 7", f"--count {found}")


def test_a_folder_named_twice_under_two_names(refused: Evaluate, foreign: Path) -> None:
    names = (f"folder:{foreign}", f"folder:{foreign}/../{foreign.name}")
    check_refused(refused(*flags("--condition", names)), "--condition: folder:", "twice")


def test_a_folder_of_test_images(refused: Evaluate, split: Path, mine: Path) -> None:
    """Somebody's synthetic images may not be the answers to the test."""
    shutil.rmtree(mine / "train")
    for path in (mine / "ground_truth").rglob("0*_mask.png"):
        path.unlink()
    result = refused("--condition", f"folder:{mine}")
    check_refused(result, str(mine), "holds test images", str(split), "leave them out")


@pytest.fixture
def theirs(foreign: Path, tmp_path: Path) -> Path:
    """A copy of the foreign images that a test may damage."""
    shutil.copytree(foreign, tmp_path / "theirs")
    return tmp_path / "theirs"


def test_a_folder_of_broken_synthetic_images(refused: Evaluate, theirs: Path) -> None:
    path = theirs / "test" / "spot" / "0.png"
    path.write_bytes(path.read_bytes()[:-300])
    check_refused(refused("--condition", f"folder:{theirs}"), str(path), "not a readable image")


def test_a_generated_folder_whose_mask_has_another_size(refused: Evaluate, evaluated: Path, tmp_path: Path) -> None:
    root = tmp_path / "generated"
    shutil.copytree(evaluated / "images" / "copy-paste", root)
    path = root / manifest(root)[1]["mask"]
    save(path, np.full((20, 30), 255, np.uint8))
    check_refused(refused("--condition", f"folder:{root}"), str(path), "size", "export the mask")


def test_soft_masks_of_a_folder_are_read_with_a_threshold(
    adabldm: Adabldm, refused: Evaluate, split: Path, theirs: Path, tmp_path: Path
) -> None:
    path = theirs / "ground_truth" / "spot" / "0_mask.png"
    with Image.open(path) as image:
        hard = np.asarray(image)
    save(path, cv2.GaussianBlur(hard, (9, 9), 0))
    condition = ("--condition", f"folder:{theirs}")
    check_refused(refused(*condition), str(path), "not binary", "--mask-threshold")
    out = tmp_path / "fine"
    options = (*condition, "--detector", "patchcore", "--count", 3, "--seeds", 1, *QUICK)
    result = adabldm("evaluate", "--data", split, "--out", out, *options, "--mask-threshold", 127)
    assert result.code == 0, result.err
    assert list(read_record(out / "evaluation.json", EvaluationReport).images) == [f"folder:{theirs}"]


# A folder made by other settings


def test_results_of_other_settings_are_refused_by_name(adabldm: Adabldm, everything: Command, evaluated: Path) -> None:
    before = contents(evaluated)
    changes: dict[tuple[object, ...], str] = {
        ("--detector-steps", 3): "detector_steps was 2, is now 3",
        ("--budget", "quick"): 'budget was "full", is now "quick"',
        ("--count", 4): "count was 2, is now 4",
        ("--networks", 2): "networks was 1, is now 2",
        ("--seed", 1): "seed was 0, is now 1",
        ("--foreground", "grabcut"): 'foreground was "texture", is now "grabcut"',
        ("--mask-threshold", 127): "mask_threshold was null, is now 127",
    }
    every = [part for options in changes for part in options]
    check_refused(adabldm(*everything(evaluated), *every), str(evaluated), *changes.values(), "another --out")
    assert contents(evaluated) == before
    result = adabldm(*everything(evaluated), "--seed", 1)
    check_refused(result, f"{evaluated}: made with other settings (seed was 0, is now 1)", "another --out")
    assert contents(evaluated) == before


def test_more_conditions_detectors_and_seeds_follow_into_the_same_folder(
    adabldm: Adabldm, twice: Command, evaluated_twice: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    shutil.copytree(evaluated_twice, out)
    before = {path.name: path.read_bytes() for path in (out / "cells").iterdir()}
    more = ("--condition", "copy-paste", "--detector", "patchcore", "--seeds", 3)
    assert adabldm(*twice(out), *more).code == 0
    after = {path.name: path.read_bytes() for path in (out / "cells").iterdir()}
    assert {name: after[name] for name in before} == before
    unet = {f"unet-{name}-{seed}.json" for name in ("real", "nsa", "copy-paste") for seed in range(3)}
    patchcore = {f"patchcore-any-{seed}.json" for seed in range(3)}
    assert set(after) == {"images-nsa.json", "images-copy-paste.json", *unet, *patchcore}
    report = read_record(out / "evaluation.json", EvaluationReport)
    assert list(report.detectors["unet"]) == ["real", "nsa", "copy-paste"]
    assert len(report.detectors["unet"]["nsa"]["mean"].ap.values) == 3


def test_results_on_other_images_are_refused(
    adabldm: Adabldm, evaluated: Path, mine: Path, run: Path, conditions: tuple[str, ...]
) -> None:
    before = contents(evaluated)
    chosen = [*flags("--condition", conditions), *flags("--detector", ("unet", "patchcore"))]
    sizes = ("--count", COUNT, "--seeds", 1, *QUICK)
    (mine / "test" / "good" / "101.png").unlink()
    result = adabldm("evaluate", "--data", mine, "--run", run, "--out", evaluated, *chosen, *sizes)
    check_refused(result, str(evaluated), 'images was "20 images', 'is now "19 images', "another --out")
    assert contents(evaluated) == before


def test_a_folder_that_holds_something_else_is_left_alone(adabldm: Adabldm, split: Path, tmp_path: Path) -> None:
    out = tmp_path / "letters"
    out.mkdir()
    (out / "letter.txt").write_text("Dear reader", encoding="utf-8")
    result = adabldm("evaluate", "--data", split, "--out", out, "--condition", "real", *QUICK)
    check_refused(result, str(out), "not empty", "another --out")
    assert contents(out) == {"letter.txt": b"Dear reader"}


def given_images(root: Path, shade: int) -> None:
    """A data set with defects of one shade."""
    shutil.rmtree(root, ignore_errors=True)
    write_data_set(root, good=1, defects={"spot": 2}, seed=5)
    for path in sorted((root / "train" / "spot").iterdir()):
        pixels = np.array(Image.open(path))
        pixels[np.array(Image.open(root / "ground_truth" / "spot" / f"{path.stem}_mask.png")) > 127] = shade
        Image.fromarray(pixels).save(path)


def test_a_folder_whose_images_changed_is_measured_again(tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "cloth", test=True, good=3, defects={"spot": 2})
    mine, dashed, nested = tmp_path / "mine", tmp_path / "a-b", tmp_path / "a" / "b"

    def measured(folder: Path, out: str) -> object:
        values = {"data": data, "out": tmp_path / out, "budget": "images", "count": 2}
        return evaluate(EvaluateSettings.create({**values, "condition": (f"folder:{folder}",)})).images

    given_images(mine, 20)
    dark = measured(mine, "one")
    cell = next((tmp_path / "one" / "cells").glob("images-*.json"))
    written = cell.stat().st_mtime_ns
    assert measured(mine, "one") == dark
    assert cell.stat().st_mtime_ns == written, "what did not change is not made again"
    given_images(mine, 250)
    bright = measured(mine, "one")
    assert bright != dark
    assert bright == measured(mine, "two")
    given_images(dashed, 20)
    given_images(nested, 250)
    figures = [next(iter(measured(folder, "three").values())) for folder in (dashed, nested)]  # type: ignore[attr-defined]
    assert figures[0] != figures[1]
    for path in (tmp_path / "one" / "digests").glob("*.sha256"):
        path.unlink()
    assert measured(mine, "one") == bright, "of an earlier version"


def test_the_figures_of_an_edited_preset_are_made_again_with_its_images(run: Path, tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "woven_cloth", test=True)
    preset, out = tmp_path / "mine.json", tmp_path / "out"
    condition = f"adabldm:{preset}"

    def measured(place: Path) -> object:
        values = {
            "data": data,
            "run": str(run),
            "out": place,
            "budget": "images",
            "count": 2,
            "condition": (condition,),
        }
        return evaluate(EvaluateSettings.create(values)).images[condition]

    preset.write_text(json.dumps(PRESETS["fast"].changed(name="mine").plain()))
    first = measured(out)
    assert measured(out) == first
    preset.write_text(json.dumps(PRESETS["released"].changed(name="mine").plain()))
    with pytest.raises(InputError, match="delete the folder to start anew"):
        measured(out)
    shutil.rmtree(next((out / "images").iterdir()))
    again = measured(out)
    assert again != first
    assert again == measured(tmp_path / "fresh")


def test_a_picture_of_the_same_name_in_another_data_set_is_no_source(
    run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    other = write_data_set(tmp_path / "other", seed=9)
    for place, known in ((data, True), (other, False)):
        images = read_synthetic(generated, place, 4)
        assert [one.source is not None for one in images] == [known] * 4


def test_rejected_images_of_a_condition_can_be_taken_back_as_the_message_says(generated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(generated, tmp_path / "images"))
    curate(CurateSettings.create({"folder": folder, "reject": [1, 3]}))
    with pytest.raises(InputError, match=r"4 synthetic images, expected 6; take rejections back by .* --keep 1,3`"):
        read_synthetic(folder, tmp_path, 6)
    curate(CurateSettings.create({"folder": folder, "keep": ["1,3"]}))
    assert len(read_synthetic(folder, tmp_path, 6)) == 6
