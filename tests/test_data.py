from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricate import save, write_data_set
from PIL import Image

from adabldm.data.folder import check_folder, open_data_set
from adabldm.data.generated import REQUIRED_KEYS, GeneratedFolder, check_defect_name, read_manifest
from adabldm.errors import InputError, OutputError
from adabldm.images import read_mask, read_picture
from adabldm.workflows.inspect import format_table, inspect, to_json


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data_set(tmp_path / "metal_nut-2", size=(40, 56))


def the_problem(root: Path, **options: Any) -> str:
    problems = check_folder(root, **options).problems
    assert len(problems) == 1, problems
    with pytest.raises(InputError) as caught:
        open_data_set(root, **options)
    assert caught.value.problems == problems
    return problems[0]


def blank(height: int = 40, width: int = 56) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.zeros((height, width), np.uint8)


# Reading a sound folder


def test_lists_few_shot_images_in_a_fixed_order(root: Path) -> None:
    data_set = open_data_set(root)
    assert data_set.object_name == "metal nut 2"
    assert [sample.image.name for sample in data_set.good] == [f"{index:03d}.png" for index in range(6)]
    assert list(data_set.defects) == ["scratch", "spot"]
    spot = data_set.defects["spot"][1]
    assert (spot.split, spot.defect) == ("train", "spot")
    assert spot.mask == root / "ground_truth/spot/001_mask.png"
    assert (data_set.test_good, data_set.test_defects, data_set.notes) == ((), {}, ())
    assert data_set.good[0].mask is None
    assert data_set.good[0].defect is None


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
    assert {defect: len(samples) for defect, samples in data_set.test_defects.items()} == {"scratch": 3, "spot": 3}
    assert data_set.test_defects["spot"][0].mask == tmp_path / "tile/ground_truth/spot/100_mask.png"


def test_few_shot_images_come_from_test_where_train_has_none(root: Path) -> None:
    (root / "test").mkdir()
    (root / "train/spot").rename(root / "test/spot")
    data_set = open_data_set(root)
    assert {sample.split for sample in data_set.defects["spot"]} == {"test"}
    assert {sample.split for sample in data_set.defects["scratch"]} == {"train"}
    assert data_set.test_defects == {}
    assert len(data_set.notes) == 1
    assert "spot come from test/" in data_set.notes[0]


def test_shots_takes_the_first_by_name(root: Path) -> None:
    data_set = open_data_set(root, shots=2)
    assert [sample.image.name for sample in data_set.defects["spot"]] == ["000.png", "001.png"]


def test_object_name_can_be_given(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_data_set(root, object_name=" hex nut ").object_name == "hex nut"
    monkeypatch.chdir(root)
    assert open_data_set(Path()).object_name == "metal nut 2"


def test_accepts_masks_of_the_same_name_and_any_lossless_suffix(root: Path) -> None:
    masks = root / "ground_truth/spot"
    (masks / "000_mask.png").rename(masks / "000.png")
    Image.open(masks / "001_mask.png").save(masks / "001_mask.bmp")
    (masks / "001_mask.png").unlink()
    assert [s.mask.name for s in open_data_set(root).defects["spot"] if s.mask] == [
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
    inspection = check_folder(root)
    assert inspection.problems == ()
    row = inspection.rows[0]
    assert (row.split, row.defect, row.images, row.modes) == ("train", "good", 10, ("colour", "grey"))
    assert (row.heights, row.widths, row.areas) == ((40, 100), (30, 60), None)
    assert "tiefer Riß" in inspection.data_set.defects


def test_composed_and_decomposed_letters_are_the_same_name(root: Path) -> None:
    (root / "train/spot/000.png").rename(root / "train/spot/o\u0308.png")
    (root / "ground_truth/spot/000_mask.png").rename(root / "ground_truth/spot/\u00f6_mask.png")
    assert check_folder(root).problems == ()


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
    save(root / "ground_truth/spot/000_mask.png", blank() + 255)
    (root / "test/dent").mkdir(parents=True)
    notes = "\n".join(open_data_set(root, min_size=41).notes)
    assert "12 images have a shorter side under 41 px" in notes
    assert "spot/000_mask.png: covers 100% of its image" in notes
    assert "dent hold no images" in notes


# Every kind of bad folder


def test_missing_folder_and_file_instead_of_folder(root: Path) -> None:
    assert "nowhere: no such folder" in the_problem(root / "nowhere")
    assert "000.png: a file, expected a folder" in the_problem(root / "train/good/000.png")


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


def test_mask_without_image(root: Path) -> None:
    (root / "train/spot/001.png").unlink()
    assert "ground_truth/spot/001_mask.png: a mask without an image" in the_problem(root)
    shutil.rmtree(root / "train/spot")
    assert "ground_truth/spot: 3 masks without an image" in the_problem(root)


def test_mask_of_another_size(root: Path) -> None:
    save(root / "ground_truth/spot/001_mask.png", blank(56, 40) + 255)
    problem = the_problem(root)
    assert "spot/001_mask.png: 56 x 40 px" in problem
    assert "expected 40 x 56 px" in problem


def test_empty_mask_and_its_way_out(root: Path) -> None:
    save(root / "ground_truth/spot/001_mask.png", blank())
    assert "spot/001_mask.png: the mask is empty" in the_problem(root)
    data_set = open_data_set(root, skip_empty=True)
    assert [sample.image.name for sample in data_set.defects["spot"]] == ["000.png", "002.png"]
    assert "spot/001.png: left out" in data_set.notes[0]


def test_non_binary_mask_and_its_way_out(root: Path) -> None:
    grey = blank()
    grey[5:9, 5:9], grey[6, 6] = 100, 200
    save(root / "ground_truth/spot/001_mask.png", grey)
    assert "spot/001_mask.png: the mask is not binary" in the_problem(root)
    spot = next(row for row in check_folder(root, mask_threshold=127).rows if row.defect == "spot")
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
    assert check_folder(root).problems == ()


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
        open_data_set(root, shots=0)
    expected = ("shots", "train/good", "scratch/002_mask.png", "scratch/000_mask.png", "scratch/001.png")
    for part in (*expected, "spot/000.png", "spot/001_mask.png"):
        assert sum(part in problem for problem in caught.value.problems) >= 1, part
    assert len(caught.value.problems) == 7
    assert str(caught.value).count("\n") == 6
    rows = {row.defect: row for row in check_folder(root).rows}
    assert (rows["spot"].images, rows["spot"].masks) == (3, 1)


# Inspect


def test_inspect_prints_a_table_notes_and_problems(root: Path) -> None:
    text = format_table(inspect(root))
    lines = text.splitlines()
    assert lines[0].endswith("metal nut 2")
    assert lines[3].split() == ["train", "good", "6", "40", "x", "56", "colour", "-", "-"]
    assert len({line.find("colour") for line in lines[3:6]}) == 1
    assert "No problems found." in text
    (root / "ground_truth/spot/000_mask.png").unlink()
    text = format_table(inspect(root, min_size=64))
    assert text.index("Notes:") < text.index("Problems:")
    assert "No problems" not in text
    assert "no such folder" in format_table(inspect(root / "nowhere"))


def test_inspect_to_json(root: Path) -> None:
    answer = json.loads(json.dumps(to_json(inspect(root))))
    assert answer["object"] == "metal nut 2"
    assert answer["rows"][0]["heights"] == [40, 40]
    assert answer["problems"] == []


# The generated folder

SETTINGS = {"preset": "fast", "seed": 1, "size": (64, 64)}


def add(folder: GeneratedFolder, index: int, **changes: Any) -> None:
    rng = np.random.default_rng(index)
    mask = np.zeros((8, 9), bool)
    mask[index % 8] = True
    record = dict.fromkeys(REQUIRED_KEYS, 0.5) | {"index": index, "defect": "Riß", "object": "nut"}
    if index % 2:
        record["rejected"] = [{"attempt": 0, "reason": "no visible defect"}]
    folder.add(index, rng.integers(0, 256, (8, 9, 3), dtype=np.uint8), mask, record | changes)


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = GeneratedFolder(tmp_path / "out")
    folder.open(SETTINGS)
    for index in range(4):
        add(folder, index)
    folder.finish()
    return folder.root


def test_generated_layout(made: Path) -> None:
    lines = [json.loads(line) for line in (made / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert list(lines[2])[:3] == ["image", "mask", "index"]
    assert lines[2]["image"] == "test/Riß/000002.png"
    assert lines[2]["mask"] == "ground_truth/Riß/000002_mask.png"
    assert "Riß" in (made / "manifest.jsonl").read_text(encoding="utf-8")
    assert read_mask(made / lines[2]["mask"])[2].all()
    rejected = [json.loads(line) for line in (made / "rejected.jsonl").read_text().splitlines()]
    assert rejected == [{"index": index, "attempt": 0, "reason": "no visible defect"} for index in (1, 3)]
    assert sorted(contents(made))[-3:] == ["test/Riß/000001.png", "test/Riß/000002.png", "test/Riß/000003.png"]


def test_grey_images_keep_one_channel(tmp_path: Path) -> None:
    folder = GeneratedFolder(tmp_path)
    folder.open({})
    record = dict.fromkeys(REQUIRED_KEYS, "") | {"index": 0, "defect": "a"}
    folder.add(0, np.full((4, 4, 3), 7, np.uint8), np.ones((4, 4), bool), record, grey=True)
    assert read_picture(tmp_path / "test/a/000000.png").grey


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_resume_after_a_torn_manifest_gives_the_same_bytes(made: Path, cut: int) -> None:
    whole = contents(made)
    manifest = made / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-cut])
    (made / "rejected.jsonl").unlink()
    (made / "test/Riß/.part-abc").write_bytes(b"half a picture")
    folder = GeneratedFolder(made)
    folder.open({**SETTINGS, "size": [64, 64]})
    assert list(folder.finished()) == [0, 1, 2]
    assert manifest.read_bytes().endswith(b"}\n")
    add(folder, 3)
    folder.finish()
    assert contents(made) == whole


def test_resume_after_lost_files_and_lines_in_any_order(made: Path) -> None:
    whole = contents(made)
    (made / "test/Riß/000000.png").unlink()
    (made / "ground_truth/Riß/000002_mask.png").unlink()
    with (made / "manifest.jsonl").open("ab") as file:
        file.write(b'\x00\x00\n{"index": 9}\n[]\n')
    folder = GeneratedFolder(made)
    assert list(read_manifest(made)) == [1, 3]
    assert list(folder.finished()) == [1, 3]
    add(folder, 2)
    add(folder, 0)
    folder.finish()
    assert contents(made) == whole


def test_finish_without_rejections_leaves_no_list(made: Path) -> None:
    for index in (1, 3):
        (made / f"test/Riß/00000{index}.png").unlink()
    GeneratedFolder(made).finish()
    assert not (made / "rejected.jsonl").exists()


def test_other_settings_are_refused_by_name(made: Path) -> None:
    whole = contents(made)
    with pytest.raises(InputError) as caught:
        GeneratedFolder(made).open({"preset": "paper", "size": (64, 64), "adapt": None})
    message = str(caught.value)
    assert 'preset was "fast", is now "paper"' in message
    assert "seed was 1, is now not set" in message
    assert "adapt was not set, is now null" in message
    assert "size" not in message
    assert "--out" in message
    assert contents(made) == whole


def test_foreign_folders_are_refused(tmp_path: Path, made: Path) -> None:
    (made / "settings.json").write_text('{"pres')
    with pytest.raises(InputError, match=r"settings\.json: cannot be read"):
        GeneratedFolder(made).open(SETTINGS)
    (made / "settings.json").write_text("[]")
    with pytest.raises(InputError, match="not written by generate"):
        GeneratedFolder(made).open(SETTINGS)
    (made / "settings.json").unlink()
    with pytest.raises(InputError, match="not empty"):
        GeneratedFolder(made).open(SETTINGS)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a file"):
        GeneratedFolder(tmp_path / "file").open(SETTINGS)


def test_a_kill_while_settings_are_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".part-123").write_bytes(b'{"pre')
    GeneratedFolder(tmp_path).open(SETTINGS)
    assert list(contents(tmp_path)) == ["settings.json"]


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "..", ".", ".hidden", "good"])
def test_defect_names_that_are_no_folder_are_refused(made: Path, name: str) -> None:
    with pytest.raises(InputError, match="defect type"):
        check_defect_name(name)
    with pytest.raises(InputError, match="defect type"):
        add(GeneratedFolder(made), 4, defect=name)


def test_bad_records_write_nothing(made: Path) -> None:
    whole = contents(made)
    folder = GeneratedFolder(made)
    for changes, text in (
        ({"seam": float("inf")}, "cannot be written as JSON"),
        ({"model": Path("x")}, "cannot be written as JSON"),
    ):
        with pytest.raises(InputError, match=text):
            add(folder, 4, **changes)
    with pytest.raises(InputError, match="lacks source, object"):
        folder.add(0, np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), bool), {"index": 0, "defect": "a"})
    record = dict.fromkeys(REQUIRED_KEYS, 0) | {"defect": "a"}
    with pytest.raises(InputError, match="equal sizes"):
        folder.add(0, np.zeros((4, 4, 3), np.uint8), np.ones((4, 5), bool), record)
    with pytest.raises(InputError, match="its own index"):
        folder.add(7, np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), bool), record)
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
    with pytest.raises(OutputError, match="No space left"):
        add(folder, 4)
    assert (made / "manifest.jsonl").read_bytes() == manifest
    assert list(made.rglob(".part-*")) == []
    monkeypatch.undo()
    add(folder, 4)
    assert list(folder.finished()) == [0, 1, 2, 3, 4]
