from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricate import save, write_data_set
from PIL import Image

from adabldm.core.errors import InputError, OutputError
from adabldm.core.images import TEMPORARY, Mask, read_picture
from adabldm.core.mask_files import read_mask
from adabldm.core.names import check_defect_name
from adabldm.core.records import ImageRecord, Rejection
from adabldm.core.samples import DataSet, Defect, Instance, MaskFile, Sample, by_type
from adabldm.core.settings import InspectSettings
from adabldm.data.content import content_digest
from adabldm.data.formats import READERS, Listing, ReadOptions, find_reader
from adabldm.data.generated import GeneratedFolder, read_deleted, read_kept, read_manifest, read_records
from adabldm.data.inspection import Inspection, check_data_set, open_data_set
from adabldm.workflows.inspect import format_table, inspect, to_json


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data_set(tmp_path / "metal_nut-2", size=(40, 56))


def check(root: Path, **options: Any) -> Inspection:
    return check_data_set(root, ReadOptions(**options))


def read(root: Path, **options: Any) -> DataSet:
    return open_data_set(root, ReadOptions(**options))


def mask_file(instance: Instance) -> Path:
    assert isinstance(instance.defect.mask, MaskFile)
    return instance.defect.mask.path


def image_names(instances: tuple[Instance, ...]) -> list[str]:
    return [instance.sample.image.name for instance in instances]


def the_problem(root: Path, **options: Any) -> str:
    problems = check(root, **options).problems
    assert len(problems) == 1, problems
    with pytest.raises(InputError) as caught:
        read(root, **options)
    assert caught.value.problems == problems
    return problems[0]


def blank(height: int = 40, width: int = 56) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.zeros((height, width), np.uint8)


# Reading a sound folder


def test_lists_few_shot_images_in_a_fixed_order(root: Path) -> None:
    data_set = open_data_set(root)
    assert data_set.object_name == "metal nut 2"
    assert [sample.image.name for sample in data_set.good] == [f"{index:03d}.png" for index in range(6)]
    assert list(data_set.instances) == ["scratch", "spot"]
    assert data_set.types == ("scratch", "spot")
    assert [sample.types for sample in data_set.defective] == [("scratch",)] * 3 + [("spot",)] * 3
    spot = data_set.instances["spot"][1]
    assert (spot.sample.split, spot.defect.type) == ("train", "spot")
    assert mask_file(spot) == root / "ground_truth/spot/001_mask.png"
    assert data_set.relative(spot.sample) == "train/spot/001.png"
    assert (data_set.test_good, data_set.test_defective, data_set.notes) == ((), (), ())
    assert data_set.good[0].defects == ()
    assert data_set.good[0].mask() is None
    assert data_set.format == "mvtec"


def test_fabricated_data_is_deterministic_and_its_defects_are_visible(root: Path, tmp_path: Path) -> None:
    again = write_data_set(tmp_path / "again", size=(40, 56))
    for path in root.rglob("*.png"):
        assert path.read_bytes() == (again / path.relative_to(root)).read_bytes()
    pixels = read_picture(root / "train/spot/000.png").pixels.astype(float)
    mask = read_mask(root / "ground_truth/spot/000_mask.png")
    assert pixels[~mask].mean() - pixels[mask].mean() > 50


def test_masks_serve_both_splits(tmp_path: Path) -> None:
    data_set = open_data_set(write_data_set(tmp_path / "tile", size=(32, 32), test=True, grey=True))
    assert len(data_set.test_good) == 6
    assert {defect: len(found) for defect, found in data_set.test_instances.items()} == {"scratch": 3, "spot": 3}
    assert mask_file(data_set.test_instances["spot"][0]) == tmp_path / "tile/ground_truth/spot/100_mask.png"


def test_few_shot_images_come_from_test_where_train_has_none(root: Path) -> None:
    (root / "test").mkdir()
    (root / "train/spot").rename(root / "test/spot")
    data_set = open_data_set(root)
    assert {instance.sample.split for instance in data_set.instances["spot"]} == {"test"}
    assert {instance.sample.split for instance in data_set.instances["scratch"]} == {"train"}
    assert data_set.test_defective == ()
    assert len(data_set.notes) == 1
    assert "spot come from the test split" in data_set.notes[0]


def test_shots_takes_the_first_by_name(root: Path) -> None:
    assert image_names(read(root, shots=2).instances["spot"]) == ["000.png", "001.png"]


def test_object_name_can_be_given(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(root, object_name=" hex nut ").object_name == "hex nut"
    monkeypatch.chdir(root)
    assert open_data_set(Path()).object_name == "metal nut 2"


def test_accepts_masks_of_the_same_name_and_any_lossless_suffix(root: Path) -> None:
    masks = root / "ground_truth/spot"
    (masks / "000_mask.png").rename(masks / "000.png")
    Image.open(masks / "001_mask.png").save(masks / "001_mask.bmp")
    (masks / "001_mask.png").unlink()
    assert [mask_file(instance).name for instance in open_data_set(root).instances["spot"]] == [
        "000.png",
        "001_mask.bmp",
        "002_mask.png",
    ]


def test_mixed_sizes_modes_and_names_are_fine(root: Path) -> None:
    good = root / "train/good"
    save(good / "zwölf große 円.png", blank(100, 30))
    Image.fromarray(blank(50, 60).astype(np.uint16)).save(good / "16 bit.png")
    Image.new("RGBA", (33, 44), "red").save(good / "alpha.png")
    Image.new("P", (33, 44)).save(good / "palette.png")
    (root / "train/spot").rename(root / "train/tiefer Riß")
    (root / "ground_truth/spot").rename(root / "ground_truth/tiefer Riß")
    inspection = check_data_set(root)
    assert inspection.problems == ()
    row = inspection.rows[0]
    assert (row.split, row.defect, row.images, row.modes) == ("train", "good", 10, ("colour", "grey"))
    assert (row.heights, row.widths, row.areas) == ((40, 100), (30, 60), None)
    assert "tiefer Riß" in inspection.data_set.types


def test_composed_and_decomposed_letters_are_the_same_name(root: Path) -> None:
    (root / "train/spot/000.png").rename(root / "train/spot/o\u0308.png")
    (root / "ground_truth/spot/000_mask.png").rename(root / "ground_truth/spot/\u00f6_mask.png")
    assert check_data_set(root).problems == ()


def test_folders_may_be_links(root: Path, tmp_path: Path) -> None:
    shutil.move(root / "train/good", tmp_path / "elsewhere")
    (root / "train/good").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    data_set = open_data_set(tmp_path / "link")
    assert len(data_set.good) == 6
    assert data_set.object_name == "link"


def test_junk_is_ignored_and_other_files_are_noted(root: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", ".hidden.png"):
        (root / "train/good" / name).write_bytes(b"junk")
    assert open_data_set(root).notes == ()
    for name in ("a.txt", "b.csv", "c.json", "d.xml"):
        (root / "train/good" / name).write_bytes(b"text")
    (root / "train/good/nested").mkdir()
    assert [note for note in open_data_set(root).notes if "a.txt, b.csv, c.json, …" in note]


def test_a_set_without_defects_is_allowed_unless_they_are_required(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "a", defects={}, size=(32, 32))
    assert "only procedural masks" in open_data_set(root).notes[0]
    assert "no defect images" in the_problem(root, require_defects=True)


def test_notes_on_small_images_inverted_masks_and_empty_types(root: Path) -> None:
    large = blank() + 255
    large[:4] = 0
    save(root / "ground_truth/spot/000_mask.png", large)
    (root / "test/dent").mkdir(parents=True)
    notes = "\n".join(read(root, min_size=41).notes)
    assert "12 images have a shorter side under 41 px" in notes
    assert "spot/000_mask.png: covers 90% of its image" in notes
    assert "dent hold no images" in notes


# Every kind of bad folder


def test_missing_folder_and_file_instead_of_folder(root: Path) -> None:
    assert "nowhere: no such folder" in the_problem(root / "nowhere")
    assert "000.png: a file, expected the folder of a data set" in the_problem(root / "train/good/000.png")


def test_no_good_images(root: Path) -> None:
    for path in (root / "train/good").iterdir():
        path.unlink()
    assert "train/good: empty" in the_problem(root)
    (root / "train/good").rmdir()
    assert "train/good: missing" in the_problem(root)


def test_image_without_mask(root: Path) -> None:
    (root / "ground_truth/spot/001_mask.png").unlink()
    problem = the_problem(root)
    assert "train/spot/001.png: no mask, expected ground_truth/spot/001_mask.png" in problem


def test_mask_without_image_is_a_remark(root: Path) -> None:
    (root / "train/spot/001.png").unlink()
    assert "left out 1 masks without an image in train/spot or test/spot (001_mask.png)" in read(root).notes[0]
    shutil.rmtree(root / "train/spot")
    assert "ground_truth/spot: left out 3 masks without an image" in read(root).notes[0]


def test_mask_of_another_size(root: Path) -> None:
    save(root / "ground_truth/spot/001_mask.png", blank(56, 40) + 255)
    problem = the_problem(root)
    assert "spot/001_mask.png: 56 x 40 px" in problem
    assert "expected 40 x 56 px" in problem


def test_empty_mask_and_its_way_out(root: Path) -> None:
    save(root / "ground_truth/spot/001_mask.png", blank())
    assert "spot/001_mask.png: the mask is empty" in the_problem(root)
    data_set = read(root, skip_empty=True)
    assert image_names(data_set.instances["spot"]) == ["000.png", "002.png"]
    assert "spot/001.png: left out" in data_set.notes[0]


def test_non_binary_mask_and_its_way_out(root: Path) -> None:
    grey = blank()
    grey[5:9, 5:9], grey[6, 6] = 100, 200
    save(root / "ground_truth/spot/001_mask.png", grey)
    assert "spot/001_mask.png: the mask is not binary" in the_problem(root)
    spot = next(row for row in check(root, mask_threshold=127).rows if row.defect == "spot")
    assert spot.areas is not None
    assert spot.areas[0] == 1
    assert "001_mask.png: no mask value is above 250" in the_problem(root, mask_threshold=250)


def test_truncated_image_and_text_named_as_image(root: Path) -> None:
    path = root / "train/good/003.png"
    path.write_bytes(path.read_bytes()[:700])
    assert "train/good/003.png: not a readable image" in the_problem(root)
    path.write_text("text")
    assert "train/good/003.png: not a readable image" in the_problem(root)
    path.unlink()
    path.symlink_to("gone.png")
    assert "train/good/003.png: no such file" in the_problem(root)


@pytest.mark.parametrize("folder", ["train/good", "train/spot"])
def test_two_images_of_one_stem(root: Path, folder: str) -> None:
    Image.open(root / folder / "001.png").save(root / folder / "001.bmp")
    problem = the_problem(root)
    assert "001.png" in problem
    assert "001.bmp" in problem


def test_one_stem_in_both_splits_would_share_a_mask(root: Path) -> None:
    (root / "test/spot").mkdir(parents=True)
    shutil.copy(root / "train/spot/001.png", root / "test/spot/001.png")
    assert "test/spot/001.png: has the same name as" in the_problem(root)


def test_two_masks_for_one_image(root: Path) -> None:
    shutil.copy(root / "ground_truth/spot/001_mask.png", root / "ground_truth/spot/001.png")
    assert "spot/001.png: two masks, 001_mask.png and 001.png" in the_problem(root)


def test_tiny_image(root: Path) -> None:
    save(root / "train/good/003.png", blank(15, 100))
    assert "train/good/003.png: 15 x 100 px" in the_problem(root)
    save(root / "train/good/003.png", blank(16, 100))
    assert check_data_set(root).problems == ()


@pytest.mark.parametrize(
    ("options", "text"),
    [({"shots": 0}, "shots: 0"), ({"mask_threshold": 255}, "mask threshold: 255"), ({"object_name": " "}, "object")],
)
def test_bad_arguments(root: Path, options: dict[str, Any], text: str) -> None:
    assert text in the_problem(root, **options)


def test_all_problems_are_reported_in_one_go(root: Path) -> None:
    (root / "ground_truth/spot/000_mask.png").unlink()
    save(root / "ground_truth/spot/001_mask.png", blank())
    save(root / "ground_truth/scratch/000_mask.png", blank(9, 9) + 255)
    (root / "train/scratch/001.png").write_text("text")
    (root / "train/scratch/002.png").unlink()
    shutil.rmtree(root / "train/good")
    with pytest.raises(InputError) as caught:
        read(root, shots=0)
    expected = ("shots", "train/good", "scratch/000_mask.png", "scratch/001.png")
    for part in (*expected, "spot/000.png", "spot/001_mask.png"):
        assert sum(part in problem for problem in caught.value.problems) >= 1, part
    assert len(caught.value.problems) == 6
    assert str(caught.value).count("\n") == 5
    rows = {row.defect: row for row in check_data_set(root).rows}
    assert (rows["spot"].images, rows["spot"].masks) == (3, 1)


# Layouts, and several defects in one image


class Listed:
    """A layout in which every image has masks of both types, as a real layout with instances would."""

    name = "listed"

    def detects(self, root: Path) -> bool:
        return (root / "listed.txt").is_file()

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        def defect(kind: str, number: int) -> Defect:
            return Defect(kind, MaskFile(root / f"ground_truth/{kind}/{number:03d}_mask.png", options.mask_threshold))

        both = [
            Sample(root / f"train/spot/{number:03d}.png", (defect("spot", number), defect("scratch", number)))
            for number in range(3)
        ]
        both[0] = replace(both[0], defects=(*both[0].defects, defect("spot", 1)))
        return Listing([Sample(root / "train/good/000.png"), *both])


@pytest.fixture
def listed(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(READERS, "listed", Listed())
    return root


def test_layouts_are_recognised_or_named(root: Path, tmp_path: Path) -> None:
    readers = [Listed(), *READERS.values()]
    assert find_reader(root, readers=readers).name == "mvtec"
    (root / "listed.txt").touch()
    assert find_reader(root, readers=readers).name == "listed"
    assert find_reader(root, "mvtec", readers).name == "mvtec"
    assert find_reader(tmp_path, readers=readers).name == "mvtec"  # says what is missing
    with pytest.raises(InputError, match="--format dicom: unknown, expected one of btad, mvtec"):
        read(root, format="dicom")


def test_several_defects_of_several_types_in_one_image(listed: Path) -> None:
    inspection = check(listed, format="listed")
    data_set = inspection.data_set
    assert inspection.problems == ()
    assert data_set.format == "listed"
    assert data_set.types == ("scratch", "spot")
    assert {name: len(found) for name, found in data_set.instances.items()} == {"scratch": 3, "spot": 4}
    first = data_set.defective[0]
    assert first.types == ("scratch", "spot")
    masks = [defect.mask.read() for defect in first.defects]
    np.testing.assert_array_equal(first.mask(), masks[0] | masks[1] | masks[2])
    np.testing.assert_array_equal(first.mask("spot"), masks[0] | masks[2])
    assert first.mask("dent") is None
    rows = {row.defect: row for row in inspection.rows}
    assert (rows["spot"].images, rows["spot"].masks, rows["spot"].instances) == (3, 4, 4)
    assert (rows["scratch"].images, rows["scratch"].masks) == (3, 3)
    assert by_type([first]) == {
        "scratch": (Instance(first, first.defects[1]),),
        "spot": (Instance(first, first.defects[0]), Instance(first, first.defects[2])),
    }


def test_one_empty_mask_of_several_takes_its_defect_away_only(listed: Path) -> None:
    save(listed / "ground_truth/scratch/000_mask.png", blank())
    assert "scratch/000_mask.png: the mask is empty" in the_problem(listed, format="listed")
    data_set = read(listed, format="listed", skip_empty=True)
    assert [len(sample.defects) for sample in data_set.defective] == [2, 2, 2]
    assert any("spot/000.png: a scratch in it is left out" in note for note in data_set.notes)


def test_every_bad_mask_of_an_image_is_a_problem(listed: Path) -> None:
    save(listed / "ground_truth/scratch/002_mask.png", blank(9, 9) + 255)
    save(listed / "ground_truth/spot/002_mask.png", blank(8, 8) + 255)
    problems = check(listed, format="listed").problems
    assert [problem.split(": ")[0].removeprefix(f"{listed}/ground_truth/") for problem in problems] == [
        "spot/002_mask.png", "scratch/002_mask.png",
    ]  # fmt: skip


def test_shots_count_images_of_each_type(listed: Path) -> None:
    assert len(read(listed, format="listed", shots=2).defective) == 2


def test_training_alone_leaves_test_images_unread(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "tile", size=(32, 32), test=True)
    for name in ("good", "spot"):
        (root / "test" / name / "100.png").write_text("no image")
    assert len(check_data_set(root).problems) == 2
    data_set = read(root, split="train")
    assert (len(data_set.good), len(data_set.defective), data_set.test_good, data_set.test_defective) == (6, 6, (), ())


# Inspect


def test_inspect_prints_a_table_notes_and_problems(root: Path) -> None:
    text = format_table(inspect(InspectSettings(data=root)))
    lines = text.splitlines()
    assert lines[0].endswith("metal nut 2, read as mvtec")
    assert lines[3].split() == ["train", "good", "6", "40", "x", "56", "colour", "-", "-"]
    assert len({line.find("colour") for line in lines[3:6]}) == 1
    assert "No problems found." in text
    (root / "ground_truth/spot/000_mask.png").unlink()
    (root / "test" / "dent").mkdir(parents=True)
    text = format_table(inspect(InspectSettings(data=root)))
    assert text.index("Notes:") < text.index("Problems:")
    assert "No problems" not in text
    with pytest.raises(InputError, match="no such folder"):
        inspect(InspectSettings(data=root / "nowhere"))


def test_inspect_to_json(root: Path) -> None:
    answer = json.loads(json.dumps(to_json(inspect(InspectSettings(data=root)))))
    assert list(answer) == ["root", "format", "object", "rows", "notes", "problems"]
    assert answer["format"] == "mvtec"
    assert answer["object"] == "metal nut 2"
    good, scratch = answer["rows"][:2]
    assert good["heights"] == [40, 40]
    assert (good["split"], good["defect"], good["images"], good["instances"], good["pixels"]) == (
        "train",
        "good",
        6,
        0,
        0,
    )
    areas = [int(instance.defect.mask.read().sum()) for instance in open_data_set(root).instances["scratch"]]
    assert (scratch["images"], scratch["instances"], scratch["pixels"]) == (3, 3, sum(areas))
    assert answer["problems"] == []


# The generated folder

SETTINGS = {"preset": "fast", "seed": 1, "size": (64, 64)}


def record_of(index: int, **changes: Any) -> ImageRecord:
    values: dict[str, Any] = {
        "image": "", "mask": "", "index": index, "source": "train/good/0.png", "defect": "Riß", "object": "nut",
        "prompt": "a nut", "seed": 1, "preset": "fast", "adapt": "poisson", "seam": 0.5, "model": "none",
        "rejected": [Rejection(attempt=0, source="train/good/1.png", reason="no visible defect")] if index % 2 else [],
    }  # fmt: skip
    return ImageRecord(**values | changes)


def picture_of(index: int) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], Mask]:
    mask = np.zeros((8, 9), bool)
    mask[index % 8] = True
    return np.random.default_rng(index).integers(0, 256, (8, 9, 3), dtype=np.uint8), mask


def add(folder: GeneratedFolder, index: int, **changes: Any) -> ImageRecord:
    return folder.add(record_of(index, **changes), *picture_of(index))


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = GeneratedFolder(tmp_path / "out")
    with folder.open(SETTINGS):
        for index in range(4):
            add(folder, index)
        folder.finish()
    return folder.root


def test_generated_layout(made: Path) -> None:
    lines = [json.loads(line) for line in (made / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert list(lines[2])[:4] == ["schema", "image", "mask", "index"]
    assert lines[2]["image"] == "train/Riß/000002.png"
    assert lines[2]["mask"] == "ground_truth/Riß/000002_mask.png"
    assert "Riß" in (made / "manifest.jsonl").read_text(encoding="utf-8")
    assert read_mask(made / lines[2]["mask"])[2].all()
    assert read_manifest(made)[2] == record_of(2, image=lines[2]["image"], mask=lines[2]["mask"])
    rejected = [json.loads(line) for line in (made / "rejected.jsonl").read_text().splitlines()]
    assert rejected == [
        {"schema": 1, "index": index, "attempt": 0, "source": "train/good/1.png", "reason": "no visible defect"}
        for index in (1, 3)
    ]
    assert sorted(contents(made))[-3:] == ["train/Riß/000001.png", "train/Riß/000002.png", "train/Riß/000003.png"]


@pytest.mark.parametrize("kind", ["grey", "deep", "colour"])
def test_results_keep_channels_and_depth_of_their_source(tmp_path: Path, kind: str) -> None:
    colours = picture_of(0)[0]
    path = save(tmp_path / "a.png", colours, grey=kind == "grey", deep=kind == "deep")
    source, folder, mask = read_picture(path), GeneratedFolder(tmp_path / "out"), picture_of(3)[1]
    edited = source.pixels.copy()
    edited[mask] = 255 - edited[mask]
    with folder.open({}):
        record = folder.add(record_of(0), source.as_file(edited), mask)
    result = read_picture(folder.root / record.image)
    np.testing.assert_array_equal(result.pixels, edited)
    assert result.grey == (kind != "colour")
    assert (result.deep is not None) == (kind == "deep")
    if source.deep is not None and result.deep is not None:
        np.testing.assert_array_equal(result.deep[~mask], source.deep[~mask])
        assert len(np.unique(source.deep % 257)) > 1


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_resume_after_a_torn_manifest_gives_the_same_bytes(made: Path, cut: int) -> None:
    whole = contents(made)
    manifest = made / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-cut])
    (made / "rejected.jsonl").unlink()
    (made / f"train/Riß/{TEMPORARY}abc").write_bytes(b"half a picture")
    folder = GeneratedFolder(made)
    with folder.open({**SETTINGS, "size": [64, 64]}):
        torn = cut > 1  # a line that lacks its end alone is whole
        assert list(folder.finished()) == ([0, 1, 2] if torn else [0, 1, 2, 3])
        assert [note for note in folder.notes if "the last line was torn" in note] == list(folder.notes)
        assert len(folder.notes) == torn
        assert manifest.read_bytes().endswith(b"}\n")
        add(folder, 3)
        folder.finish()
    assert contents(made) == whole


def test_resume_after_lost_files_and_lines_in_any_order(made: Path) -> None:
    whole = contents(made)
    (made / "train/Riß/000000.png").unlink()
    (made / "ground_truth/Riß/000002_mask.png").unlink()
    with (made / "manifest.jsonl").open("ab") as file:
        file.write(b"\n\x00\x00\x00")  # a machine that lost its power
    assert list(read_manifest(made)) == [1, 3]
    folder = GeneratedFolder(made)
    with folder.open(SETTINGS):
        assert "1 images without their mask do not count (train/Riß/000002.png)" in folder.notes[1]
        assert list(folder.finished()) == [1, 3]
        assert read_deleted(made) == {0}
        folder.finish()
        assert read_records(made).keys() == {0, 1, 2, 3}, "a line stays until its image is made again"
        folder.release([0, 2, 3])
        assert not (made / "train/Riß/000002.png").exists()
        assert read_records(made).keys() == read_manifest(made).keys() == {1, 3}
        add(folder, 2)
        add(folder, 0)
        folder.finish()
    assert contents(made) == whole


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"\x00\x00", "not a line of JSON"),
        (b"\xff", "not a line of JSON"),
        (b'{"index": 9}', "image: Field required"),
        (b"[]", "a usable record of an image"),
        (json.dumps({**record_of(0).plain(), "schema": 9}).encode(), "update adabldm"),
        (json.dumps({**record_of(0).plain(), "index": "many"}).encode(), "index: "),
    ],
)
def test_a_line_that_cannot_be_used_is_named_and_nothing_is_lost(made: Path, line: bytes, words: str) -> None:
    manifest = made / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join([lines[0], line + b"\n", *lines[1:]]))
    whole = contents(made)
    with pytest.raises(InputError) as caught, GeneratedFolder(made).open(SETTINGS):
        pass
    assert "manifest.jsonl, line 2: " in str(caught.value)
    assert words in str(caught.value)
    assert "remove the line" in str(caught.value) or "update" in str(caught.value)
    assert contents(made) == whole


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.png", "test/../../a.png", "", ".", "a\\b.png", "a\0.png"])
@pytest.mark.parametrize("key", ["image", "mask"])
def test_paths_of_a_manifest_stay_inside_the_folder(tmp_path: Path, key: str, name: str) -> None:
    values = {**record_of(0, image="a.png", mask="b.png").plain(), key: name}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(values) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 1: .*expected the path of a file inside the folder; remove the line"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "../../secret.png"}, "expected the path of a file inside the data set"),
        ({"reference": "/etc/passwd"}, "expected the path of a file inside the data set"),
        ({"index": -1}, "greater than or equal to 0"),
        ({"index": 99999}, "index 99999, but its file is train/"),
        ({"defect": "../../evil"}, "cannot name a folder"),
        ({"object": None}, "object: "),
        ({"window": [1, 2]}, "window"),
        ({"more": float("nan")}, "NaN is no finite number"),
        ({"more": "\ud800"}, "not Unicode"),
        ({"seam": "much"}, "seam: "),
        ({"prompt": "another"}, "index 1 stands in line 2 too"),
        ({"index": 2, "mask": "ground_truth/Riß/000002_mask.png"}, "but its file is train/"),
        ({"index": 7, "image": "a.png", "mask": "b.png"}, ""),
        ({"index": 7, "image": "x" * 300, "mask": "b.png"}, ""),
        ({"index": 7, "image": "a.png"}, "but its file is ground_truth"),
        ({"index": 7, "image": "a.png", "mask": "out.png"}, "is a link that leads out of the folder"),
        (
            {"index": 7, "image": "a.png", "mask": "b.png", "labels": "out.png"},
            "is a link that leads out of the folder",
        ),
    ],
    ids=str,
)
def test_a_manifest_is_not_believed(made: Path, changes: dict[str, Any], words: str) -> None:
    path = made / "manifest.jsonl"
    line = {**json.loads(path.read_text(encoding="utf-8").splitlines()[1]), **changes}
    (made / "out.png").symlink_to(made.parent / "elsewhere.png")
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    if words:
        with pytest.raises(InputError, match="manifest.jsonl, line 5: ") as caught:
            read_manifest(made)
        assert words in str(caught.value)
        assert "remove the line" in str(caught.value) or "rename it" in str(caught.value)
    else:
        assert list(read_manifest(made)) == [0, 1, 2, 3]  # its files are not there


def test_a_line_that_stands_there_twice_counts_once(made: Path) -> None:
    whole = contents(made)
    lines = (made / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (made / "manifest.jsonl").write_bytes(b"".join([*lines, lines[2]]))
    with GeneratedFolder(made).open(SETTINGS):
        pass
    assert contents(made) == whole


def test_deep_json_is_no_traceback(made: Path) -> None:
    for name in ("manifest.jsonl", "decisions.jsonl", "settings.json"):
        before = (made / name).read_bytes() if (made / name).exists() else b""
        (made / name).write_bytes(b"[" * 100_000 + b"\n")
        with pytest.raises(InputError, match=name), GeneratedFolder(made).open(SETTINGS):
            read_kept(made)
        (made / name).write_bytes(before)


def test_unknown_fields_survive_a_rerun(made: Path) -> None:
    manifest = made / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    more = [{**line, "reviewer": {"name": "Ö", "mark": None}, "day": None} for line in lines]
    manifest.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in more), encoding="utf-8")
    before = contents(made)
    folder = GeneratedFolder(made)
    with folder.open(SETTINGS):
        folder.finish()
    assert contents(made) == before


def test_finish_without_rejections_leaves_no_list(made: Path) -> None:
    for index in (1, 3):
        (made / f"train/Riß/00000{index}.png").unlink()
    folder = GeneratedFolder(made)
    with folder.open(SETTINGS):
        folder.finish()
    assert not (made / "rejected.jsonl").exists()


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a/b",
        "a\\b",
        "..",
        ".",
        ".hidden",
        "good",
        "good ",
        "Good",
        " spot",
        "spot ",
        "spot.",
        "a\tb",
        "é" * 101,
    ],
)
def test_defect_names_that_are_no_folder_are_refused(made: Path, name: str) -> None:
    with pytest.raises(InputError, match="defect type"):
        check_defect_name(name)
    record = record_of(4).model_copy(update={"defect": name})
    with pytest.raises(InputError, match="defect type"):
        GeneratedFolder(made).add(record, *picture_of(4))


def test_bad_records_write_nothing(made: Path) -> None:
    whole = contents(made)
    folder = GeneratedFolder(made)
    record = record_of(4).model_copy(update={"seam": float("inf")})
    with pytest.raises(InputError, match="cannot be written as JSON"):
        folder.add(record, *picture_of(4))
    with pytest.raises(InputError, match="equal sizes"):
        folder.add(record_of(4), np.zeros((4, 4, 3), np.uint8), np.ones((4, 5), bool))
    assert contents(made) == whole


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_a_full_disk_leaves_no_half_sample(made: Path, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    manifest = (made / "manifest.jsonl").read_bytes()
    real, calls = os.fsync, []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) > allowed:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    folder = GeneratedFolder(made)
    with pytest.raises(OutputError, match=r"No space left.*free some space"):
        add(folder, 4)
    assert (made / "manifest.jsonl").read_bytes() == manifest
    assert list(made.rglob(f"{TEMPORARY}*")) == []
    monkeypatch.undo()
    add(folder, 4)
    assert list(folder.finished()) == [0, 1, 2, 3, 4]


def test_the_check_of_a_data_set_notes_its_content(tmp_path: Path) -> None:
    """So that `generate` need not read everything once more: the digest is that of files and masks."""
    root = write_data_set(tmp_path / "data", good=2, defects={"spot": 2})
    data_set = open_data_set(root)
    samples = (*data_set.good, *data_set.defective)
    assert all(sample.content is not None for sample in samples)
    plain = [replace(sample, content=None) for sample in samples]
    assert content_digest(samples) == content_digest(plain)
    assert plain == list(samples)
    mask = next(root.glob("ground_truth/spot/*.png"))
    pixels = np.asarray(Image.open(mask)).copy()
    pixels[0, 0] = 255
    save(mask, pixels)
    changed = open_data_set(root)
    assert content_digest((*changed.good, *changed.defective)) != content_digest(plain[:2])
    assert content_digest((*changed.good, *changed.defective)) == content_digest(plain), "the old one is read anew"
    assert content_digest(samples) != content_digest(plain)
