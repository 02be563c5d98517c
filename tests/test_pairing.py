"""Which image an annotation means, which mask belongs to an image, and which split it is in."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fabricate_formats as made
import numpy as np
import pytest
from conftest import Adabldm
from fabricate_formats import BAD, GOOD, SIZE, STAIN_MASKS, grey, save
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from adabldm.core.samples import DataSet, Sample
from adabldm.core.settings import GenerateSettings
from adabldm.data.formats import ReadOptions
from adabldm.data.formats.annotations import ByName
from adabldm.data.formats.numbered import palette
from adabldm.data.inspection import Inspection, check_data_set
from adabldm.workflows.generate import generate

SPLITS = ("good", "defective", "test_good", "test_defective")


def check(root: Path, **options: Any) -> Inspection:
    return check_data_set(root, ReadOptions(**options))


def listed(found: Inspection) -> dict[str, list[str]]:
    """The images of each kind and split, relative to the data set."""
    return {name: sorted(map(found.data_set.relative, getattr(found.data_set, name))) for name in SPLITS}


def samples(data_set: DataSet) -> Iterable[Sample]:
    return (sample for name in SPLITS for sample in getattr(data_set, name))


def notes(found: Inspection) -> str:
    return "\n".join(found.data_set.notes)


def change_json(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# Annotation files that lie elsewhere


@pytest.mark.parametrize("written", ["..\\images\\{}", "../images/{}", "C:\\work\\images\\{}", "{}"])
def test_an_image_is_read_once_however_a_labelme_file_writes_its_path(tmp_path: Path, written: str) -> None:
    made.labelme(tmp_path / "images")
    (tmp_path / "annotations").mkdir()
    for path in sorted((tmp_path / "images").glob("*.json")):
        moved = shutil.move(path, tmp_path / "annotations" / path.name)
        change_json(Path(moved), lambda content: content.update(imagePath=written.format(content["imagePath"])))
    found = check(tmp_path)
    assert found.problems == ()
    assert listed(found)["defective"] == [f"images/b{n}.png" for n in range(len(BAD))]
    assert listed(found)["good"] == [f"images/g{n}.png" for n in range(len(GOOD))]


@pytest.mark.parametrize("place", ["", "annotations"])
@pytest.mark.parametrize("relative", [False, True])
def test_an_image_is_read_once_however_a_coco_file_writes_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, relative: bool
) -> None:
    made.coco(tmp_path)
    path = tmp_path / place / "annotations.json"
    path.parent.mkdir(exist_ok=True)
    if place:
        (tmp_path / "annotations.json").rename(path)
    before = os.path.relpath(tmp_path / "images", path.parent) if relative else str(tmp_path / "images")
    monkeypatch.chdir(tmp_path.parent)

    def rename(content: Any) -> None:
        for entry in content["images"]:
            entry["file_name"] = f"{before}/{entry['file_name']}"

    change_json(path, rename)
    found = check(Path(tmp_path.name))
    assert found.problems == ()
    assert "left out" not in notes(found)
    assert (len(found.data_set.good), len(found.data_set.defective)) == (len(GOOD), len(BAD))


def two_cameras(root: Path) -> list[Path]:
    """Pictures of equal names in two folders, one COCO file, defects on three pictures; those of `cam2` are absent."""
    images, annotations = [], []
    for camera in (1, 2):
        for n, pixels in enumerate(GOOD):
            if camera == 1:
                save(pixels, root / f"cam1/{n}.png")
            number = 10 * camera + n
            entry = {"id": number, "file_name": f"cam{camera}/{n}.png", "height": SIZE[0], "width": SIZE[1]}
            images.append(entry)
            if (camera, n) in {(1, 2), (2, 0), (2, 1)}:
                annotations.append(
                    {"id": number, "image_id": number, "category_id": 1, "segmentation": [[5, 5, 40, 5, 40, 30, 5, 30]]}
                )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "dent"}]}
    made.write_json(root / "annotations.json", content)
    return [root / f"cam2/{n}.png" for n in range(len(GOOD))]


def test_defects_of_an_image_that_is_not_there_are_not_put_onto_another(tmp_path: Path) -> None:
    absent = two_cameras(tmp_path)
    found = check(tmp_path)
    assert found.problems == ()
    assert listed(found)["defective"] == ["cam1/2.png"]
    assert listed(found)["good"] == ["cam1/0.png", "cam1/1.png"]
    assert "3 entries without an image were left out (cam2/0.png" in notes(found)
    for n, path in enumerate(absent):
        save(GOOD[n], path)
    assert listed(check(tmp_path))["defective"] == ["cam1/2.png", "cam2/0.png", "cam2/1.png"]


def test_images_that_moved_to_another_folder_are_found_with_a_note(tmp_path: Path) -> None:
    two_cameras(tmp_path)
    change_json(tmp_path / "annotations.json", lambda content: content.update(images=content["images"][len(GOOD) :]))
    change_json(tmp_path / "annotations.json", lambda content: content.update(annotations=content["annotations"][1:]))
    found = check(tmp_path)
    assert found.problems == ()
    assert listed(found)["defective"] == ["cam1/0.png", "cam1/1.png"]
    assert "3 images were found by their names in another folder than the annotations say (cam2/0.png at" in notes(
        found
    )


def test_two_entries_for_one_image_are_refused(tmp_path: Path) -> None:
    two_cameras(tmp_path)
    (tmp_path / "cam1").rename(tmp_path / "pictures")
    (problem, *_) = check(tmp_path).problems
    assert "lists cam1/0.png and cam2/0.png, but of these" in problem


def test_a_labelme_file_without_its_image_is_not_put_onto_another(tmp_path: Path) -> None:
    made.labelme(tmp_path / "cam1")
    made.labelme(tmp_path / "cam2")
    (tmp_path / "cam1/b3.json").unlink()
    for path in (tmp_path / "cam2").glob("*.png"):
        path.unlink()
    found = check(tmp_path)
    assert found.problems == ()
    assert "cam1/b3.png" in listed(found)["good"]
    assert "4 annotation files without an image were left out (b0.json" in notes(found)


@settings(max_examples=50, deadline=None)
@given(
    folders=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3),
    written=st.lists(st.sampled_from(["a", "b", "c", "..", "."]), max_size=3),
)
def test_folders_agree_as_far_as_they_are_equal_from_the_end(
    tmp_path_factory: pytest.TempPathFactory, folders: list[str], written: list[str]
) -> None:
    root = tmp_path_factory.mktemp("set")
    image = root.joinpath(*folders, "0.png")
    save(GOOD[0], image)
    name = "/".join([*written, "0.png"])
    plain = [part for part in written if part not in {"..", "."}]
    expected = bool(plain) and folders[-1] == plain[-1]
    assert ByName(root).agrees(image, name) is expected
    assert ByName(root).find(name, root / "x.json") == [image]


# Masks and previews among the images


def test_masks_and_previews_are_no_good_images(tmp_path: Path) -> None:
    made.labelme(tmp_path / "labelme")
    made.yolo(tmp_path / "yolo")
    made.ok_ng_mask(tmp_path / "folders")
    for n in range(2):
        save(grey(STAIN_MASKS[n]), tmp_path / f"labelme/masks/b{n}.png")
        save(grey(STAIN_MASKS[n]), tmp_path / f"labelme/g{n}_mask.png")
        save(BAD[n], tmp_path / f"labelme/b{n}_json/img.png")
        save(grey(STAIN_MASKS[n]), tmp_path / f"yolo/masks/b{n}.png")
    good = next(path for path in (tmp_path / "folders").iterdir() if path.name.lower() in {"ok", "good"})
    first = sorted(good.iterdir())[0]
    save(grey(STAIN_MASKS[0] & False), first.with_name(f"{first.stem}_mask.png"))
    left_out = {"labelme": "6 masks and previews were left out", "yolo": "2 pictures outside of folders named images",
                "folders": "left out 1 masks of defect-free images"}  # fmt: skip
    for form, words in left_out.items():
        found = check(tmp_path / form)
        assert found.problems == ()
        assert len(found.data_set.good) == len(GOOD)
        assert words in notes(found)


def test_pictures_whose_names_sound_like_masks_are_pictures(tmp_path: Path) -> None:
    for n, pixels in enumerate(GOOD):
        save(pixels, tmp_path / f"OK/{n}_label.png")
        save(BAD[n], tmp_path / f"NG/{n}_label.png")
        save(grey(STAIN_MASKS[n]), tmp_path / f"MASK/{n}_label.png")
    found = check(tmp_path)
    assert found.problems == ()
    assert (len(found.data_set.good), len(found.data_set.defective)) == (3, 3)
    assert "without an image" not in notes(found)


@pytest.mark.parametrize("inner", ["", "NG"])
def test_masks_of_both_splits_stay_apart(tmp_path: Path, inner: str) -> None:
    for split, first in (("train", 0), ("test", 1)):
        save(GOOD[first], tmp_path / split / "OK" / "0.png")
        save(BAD[first], tmp_path / split / "NG" / "n0.png")
        save(grey(STAIN_MASKS[first]), tmp_path / split / "MASK" / inner / "n0.png")
    found = check(tmp_path)
    assert found.problems == ()
    for sample, mask in ((found.data_set.defective[0], 0), (found.data_set.test_defective[0], 1)):
        np.testing.assert_array_equal(sample.defects[0].mask.read(), STAIN_MASKS[mask])
    (tmp_path / "train" / "MASK" / inner / "n0.png").unlink()
    assert any("train/NG/n0.png: no mask" in problem for problem in check(tmp_path).problems)


# Splits that the files state


@pytest.mark.parametrize("form", ["folders", "lists", "moved", "both"])
def test_yolo_images_belong_where_the_yaml_file_says(tmp_path: Path, form: str) -> None:
    made.yolo(tmp_path)
    held = ["b3.png", "g2.png"]
    for folder, suffix in (("images", ".png"), ("labels", ".txt")):
        for name in held:
            path = (tmp_path / folder / "train" / name).with_suffix(suffix)
            if path.exists() and form in {"folders", "moved"}:
                (tmp_path / folder / "set2").mkdir(exist_ok=True)
                path.rename(tmp_path / folder / "set2" / path.name)
    entries = {"folders": "images/set2", "moved": "../images/set2", "lists": "held.txt", "both": ["held.txt"]}
    train = "all.txt" if form == "both" else "images/train"
    (tmp_path / "held.txt").write_text("".join(f"./images/train/{name}\n" for name in held))
    (tmp_path / "all.txt").write_text("".join(f"{tmp_path}/images/train/{name}\n" for name in [*held, "g0.png"]))
    text = {"path": "/elsewhere/set", "train": [] if form == "lists" else train, "val": entries[form],
            "names": {0: "stain", 1: "scratch"}}  # fmt: skip
    (tmp_path / "data.yaml").write_text(json.dumps(text))
    found = check(tmp_path)
    assert found.problems == ()
    tested = [Path(name).name for kind in SPLITS[2:] for name in listed(found)[kind]]
    assert sorted(tested) == ([] if form == "both" else held)


@pytest.mark.parametrize("place", ["classes.txt", "obj.names", "labels/classes.txt"])
def test_yolo_classes_are_named_by_a_text_file(tmp_path: Path, place: str) -> None:
    made.yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / place).write_text("stain\nscratch\n")
    found = check(tmp_path)
    assert found.problems == ()
    types = {defect.type for sample in found.data_set.defective for defect in sample.defects}
    assert types == {"scratch", "stain"}
    assert "without an image" not in notes(found)


def test_lists_of_pascal_voc_divide_the_images(tmp_path: Path) -> None:
    made.voc(tmp_path)
    sets = tmp_path / "ImageSets" / "Segmentation"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("g0\ng1\nb0\nb1\nb2\n")
    (sets / "val.txt").write_text("g2\nb3\nb2\n")
    found = listed(check(tmp_path))
    assert found["test_good"] == ["JPEGImages/g2.png"]
    assert found["test_defective"] == ["JPEGImages/b3.png"]
    assert found["defective"] == [f"JPEGImages/b{n}.png" for n in range(3)]


# Forms of annotation tools


def test_objects_of_pascal_voc_may_be_in_its_colours(tmp_path: Path) -> None:
    made.voc(tmp_path)
    before = [[defect.mask.read() for defect in sample.defects] for sample in samples(check(tmp_path).data_set)]
    for path in (tmp_path / "SegmentationObject").iterdir():
        save(palette()[np.asarray(Image.open(path))], path)
    after = [[defect.mask.read() for defect in sample.defects] for sample in samples(check(tmp_path).data_set)]
    assert len(after) == len(BAD) + len(GOOD)
    assert [len(masks) for masks in after] == [len(masks) for masks in before]
    assert all(np.array_equal(*pair) for masks in zip(before, after, strict=True) for pair in zip(*masks, strict=True))


def test_a_file_of_cvat_for_all_images_is_refused(tmp_path: Path) -> None:
    for n, pixels in enumerate(GOOD):
        save(pixels, tmp_path / f"images/{n}.png")
    polygon = '<polygon label="dent" points="5,5;40,5;40,30"/>'
    (tmp_path / "annotations.xml").write_text(
        f'<annotations><image id="0" name="0.png" width="120" height="90">{polygon}</image></annotations>'
    )
    (problem,) = check(tmp_path).problems
    assert "written by CVAT for all images at once" in problem
    assert "COCO 1.0" in problem


@pytest.mark.parametrize("corners", [[[10, 10], [40, 30]], [[40, 30], [10, 10]],
                                     [[10, 10], [40, 10], [40, 30], [10, 30]]])  # fmt: skip
def test_a_rectangle_may_have_two_or_four_corners(tmp_path: Path, corners: list[list[int]]) -> None:
    made.labelme(tmp_path)
    shape = {"label": "dent", "points": corners, "shape_type": "rectangle"}
    change_json(tmp_path / "b0.json", lambda content: content.update(shapes=[shape]))
    found = check(tmp_path, boxes="fill")
    (mask,) = (defect.mask.read() for sample in found.data_set.defective for defect in sample.defects
               if defect.type == "dent")  # fmt: skip
    box = np.zeros(SIZE, bool)
    box[10:31, 10:41] = True
    np.testing.assert_array_equal(mask, box)


def test_a_circle_of_three_points_is_refused(tmp_path: Path) -> None:
    made.labelme(tmp_path)
    shape = {"label": "dent", "points": [[10, 10], [20, 10], [10, 20]], "shape_type": "circle"}
    change_json(tmp_path / "b0.json", lambda content: content.update(shapes=[shape]))
    (problem,) = check(tmp_path).problems
    assert "of the form circle with 3 points" in problem


def test_a_region_in_run_lengths_is_no_type_without_defects(tmp_path: Path) -> None:
    made.coco(tmp_path)

    def add(content: Any) -> None:
        content["categories"].append({"id": 9, "name": "roi"})
        region = {"size": list(SIZE), "counts": made.run_lengths(np.ones(SIZE, bool))}
        content["annotations"].append({"id": 99, "image_id": 100, "category_id": 9, "segmentation": region})

    change_json(tmp_path / "annotations.json", add)
    assert "no defect of the types" not in notes(check(tmp_path))


def test_a_region_for_a_type_that_needs_no_example(adabldm: Adabldm, tmp_path: Path) -> None:
    for n in range(2):
        save(np.asarray(Image.fromarray(GOOD[n]).resize((160, 120))), tmp_path / f"parts/OK/{n}.png")
    region = np.zeros((120, 160), bool)
    region[:, :80] = True
    save(grey(region), tmp_path / "edge.png")
    options = {"run": "surface", "data": tmp_path / "parts", "out": tmp_path / "out", "defect": ["stain"], "count": 2}
    generate(GenerateSettings.create({**options, "roi": [f"stain={tmp_path / 'edge.png'}"]}))
    for path in (tmp_path / "out/ground_truth/stain").iterdir():
        assert not (np.asarray(Image.open(path)) > 0)[~region].any()
    where = ("--data", tmp_path / "parts", "--out", tmp_path / "no", "--count", 1)
    wrong = adabldm("generate", "surface", *where, "--defect", "stain", "--roi", f"dust={tmp_path / 'edge.png'}")
    assert (wrong.code, "no such defect type, expected one of stain" in " ".join(wrong.err.split())) == (2, True)
