from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import fabricate_formats as made
import numpy as np
import pytest
from conftest import FIT, GENERATE, Adabldm
from fabricate_formats import BAD, BOTH, CASES, GOOD, SCRATCH_MASKS, SIZE, STAIN_MASKS, grey, save
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from adabldm.core.errors import EmptyMaskError
from adabldm.core.images import Mask
from adabldm.core.settings import InspectSettings
from adabldm.data.exports.coco import CocoWriter
from adabldm.data.exports.items import Contents, ExportImage, ExportPlan, connected
from adabldm.data.exports.outlines import edge_polygon
from adabldm.data.formats import READERS, ReadOptions
from adabldm.data.formats.coco import COCOReader
from adabldm.data.formats.shapes import PolygonMask, RunLengthMask, area, decode_counts
from adabldm.data.inspection import Inspection, check_data_set
from adabldm.workflows.inspect import format_table, inspect, to_json

MAKE = Path(__file__).parents[2] / "shared/cases/make.py"
DEEP_PCB = Path(os.environ.get("ADABLDM_DATA", "")) / "deeppcb_coco"


def check(root: Path, **options: Any) -> Inspection:
    return check_data_set(root, ReadOptions(**options))


def counts(found: Inspection) -> dict[str, tuple[int, int, int]]:
    totals: dict[str, tuple[int, int, int]] = {}
    for row in found.rows:
        images, instances, pixels = totals.get(row.defect, (0, 0, 0))
        totals[row.defect] = images + row.images, instances + row.instances, pixels + row.pixels
    return totals


def expected(kind: str) -> dict[str, tuple[int, int, int]]:
    def pixels(masks: list[Any]) -> int:
        return int(sum(mask.sum() for mask in masks))

    if kind:
        return {"good": (len(GOOD), 0, 0), kind: (4, 7, pixels(BOTH))}
    return {"good": (len(GOOD), 0, 0), "stain": (4, 5, pixels(STAIN_MASKS)), "scratch": (2, 2, pixels(SCRATCH_MASKS))}


@pytest.mark.parametrize("case", CASES)
def test_every_form_is_recognised_and_read(case: str, tmp_path: Path) -> None:
    write, name, kind = CASES[case]
    write(tmp_path)
    found = check(tmp_path)
    assert found.problems == ()
    assert found.data_set.format == name
    tolerance = 0.05 if not kind else 0
    for defect, (images, instances, pixels) in expected(kind).items():
        assert counts(found)[defect][:2] == (images, instances)
        assert abs(counts(found)[defect][2] - pixels) <= tolerance * pixels
    assert set(counts(found)) == set(expected(kind))
    pickle.loads(pickle.dumps(found.data_set))
    assert len({hash(sample) for sample in found.data_set.defective}) == 4
    assert check(tmp_path, format=name).rows == found.rows


@pytest.mark.skipif(not MAKE.is_file(), reason="the shared cases are not here")
def test_the_shared_cases(tmp_path: Path) -> None:
    subprocess.run([sys.executable, MAKE, tmp_path], check=True, capture_output=True)
    for case, wanted in json.loads((tmp_path / "expected.json").read_text()).items():
        found = counts(check(tmp_path / case))
        assert found.pop("good")[0] == wanted["good"], case
        assert set(found) == set(wanted["defects"]), case
        for kind, (images, instances, pixels) in found.items():
            one = wanted["defects"][kind]
            assert (images, instances) == (one["images"], one["instances"]), case
            assert abs(pixels - one["pixels"]) <= (0.05 if case in {"labelme", "coco", "yolo-seg"} else 0) * pixels


# Masks


def test_large_defects_are_not_turned(tmp_path: Path) -> None:
    def large(folder: Path, number: int) -> None:
        mask = np.ones(SIZE, np.bool_)
        if number:
            mask[:30] = False
        save(grey(mask), folder / f"{number:03d}_mask.png")

    made.mvtec(tmp_path, large)
    assert counts(check(tmp_path))["flaw"][2] == 90 * 120 + 3 * 60 * 120


def test_a_single_inverted_mask_is_told_from_a_large_defect_by_its_picture(tmp_path: Path) -> None:
    CASES["red on white"][0](tmp_path)
    for path in (tmp_path / "ground_truth/flaw").iterdir():
        path.unlink()
    for number in range(4):
        save(grey(BOTH[number]), tmp_path / f"ground_truth/flaw/{number:03d}_mask.png")
    save(255 - grey(BOTH[3]), tmp_path / "ground_truth/flaw/003_mask.png")
    # All but an island of this picture is a defect.
    island = np.zeros(SIZE, np.bool_)
    island[30:60, 40:80] = True
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    save(np.where(island[..., None], GOOD[0], noise), tmp_path / "test/flaw/000.png")
    save(255 - grey(island), tmp_path / "ground_truth/flaw/000_mask.png")
    found = check(tmp_path)
    assert found.problems == ()
    masks = {sample.image.stem: sample.mask() for sample in found.data_set.defective}
    np.testing.assert_array_equal(masks["003"], BOTH[3])
    np.testing.assert_array_equal(masks["000"], ~island)
    notes = "\n".join(found.data_set.notes)
    assert "003_mask.png: black on white and was turned" in notes
    assert "000_mask.png: covers 89% of its image" in notes


def test_the_note_says_which_rule_turned_the_masks(tmp_path: Path) -> None:
    CASES["inverted"][0](tmp_path)
    assert any("black on white and were turned" in note for note in check(tmp_path).data_set.notes)


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(0, 40), st.integers(0, 40)),
    st.tuples(st.integers(5, 40), st.integers(5, 40)),
    st.integers(0, 20),
)
def test_a_polygon_has_its_area(corner: tuple[int, int], sides: tuple[int, int], slant: int) -> None:
    (x, y), (width, height) = corner, sides
    polygon = ((x, y), (x + width, y), (x + width + slant, y + height), (x + slant, y + height))
    mask = PolygonMask.of(Path("a.json"), "shape 0", (polygon,), (120, 120)).read()
    around = 2 * (width + height + slant)
    assert area(polygon) <= mask.sum() <= area(polygon) + around


# COCO polygons along the edges of pixels, or through their centres


def write_coco(root: Path, size: tuple[int, int], annotations: list[dict[str, Any]]) -> Path:
    save(np.zeros((*size, 3), np.uint8), root / "a.png")
    shared = {"image_id": 1, "category_id": 1}
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "stain"}],
        "annotations": [{"id": number, **shared, **one} for number, one in enumerate(annotations)],
    }
    made.write_json(root / "annotations.json", content)
    return root


def coco_masks(root: Path) -> list[Mask]:
    listing = COCOReader().list_samples(root, ReadOptions(require_good=False))
    assert listing.problems == []
    (sample,) = listing.samples
    return [defect.mask.read() for defect in sample.defects]


def through_centres(mask: Mask) -> dict[str, Any]:
    """A connected mask without holes as `cv2.findContours` outlines it."""
    (contour,), _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return {"segmentation": [contour.ravel().tolist()], "bbox": list(cv2.boundingRect(contour))}


def along_edges(mask: Mask) -> dict[str, Any]:
    corners = edge_polygon(mask)
    left, top = corners.min(axis=0).tolist()
    width, height = np.ptp(corners, axis=0).tolist()
    return {"segmentation": [corners.ravel().tolist()], "bbox": [left, top, width, height]}


BLOBS = [STAIN_MASKS[0], STAIN_MASKS[1], SCRATCH_MASKS[2], SCRATCH_MASKS[3]]


@settings(deadline=None, max_examples=60)
@given(arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_exported_coco_polygons_give_the_masks_back(mask: Mask) -> None:
    assume(mask.any())
    with TemporaryDirectory() as folder:
        root, picture = Path(folder) / "out", Path(folder) / "a.png"
        save(np.zeros((*mask.shape, 3), np.uint8), picture)
        parts = tuple(connected("stain", mask))
        writer = CocoWriter(ExportPlan(root, ("stain",), "cloth", segmentation="polygons"))
        writer.add(ExportImage(picture, "a", "a"), Contents(mask.shape, parts, {"stain": mask}))
        writer.finish()
        found = coco_masks(root)
    assert len(found) == len(parts)
    for one, part in zip(found, parts, strict=True):
        left, top, width, height = part.box
        assert np.array_equal(one[top : top + height, left : left + width], part.mask)
        assert one.sum() == part.area


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**32 - 1))
def test_polygons_along_edges_hold_the_pixels_whose_centres_they_enclose(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = size = tuple(int(side) for side in rng.integers(1, 20, 2))
    fine = int(rng.choice([1, 2, 4, 1024]))
    drawn = [rng.uniform(-0.4, 1.4, (int(rng.integers(3, 9)), 2)) * (width, height) for _ in range(2)]
    polygons = [tuple(map(tuple, ((one * fine).round() / fine).tolist())) for one in drawn]
    wanted = np.zeros(size, np.bool_)
    for polygon in polygons:
        inside = np.zeros(size, np.bool_)
        for row, column in np.ndindex(size):
            x, y = Fraction(2 * column + 1, 2), Fraction(2 * row + 1, 2)
            for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
                if (y0 <= y) != (y1 <= y):
                    slope = (Fraction(x1) - Fraction(x0)) / (Fraction(y1) - Fraction(y0))
                    inside[row, column] ^= Fraction(x0) + (y - Fraction(y0)) * slope <= x
        if not inside.any():  # thinner than a pixel, or outside
            try:
                inside = PolygonMask.of(Path("a"), "", [polygon], size).read()
            except EmptyMaskError:
                continue
        wanted |= inside
    mask = PolygonMask.of(Path("a"), "", polygons, size, along_edges=True)
    assert pickle.loads(pickle.dumps(mask)) == mask
    if wanted.any():
        assert np.array_equal(mask.read(), wanted)
    else:
        with pytest.raises(EmptyMaskError):
            mask.read()


def test_a_polygon_is_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    star = np.stack([np.cos(turns), np.sin(turns)], axis=1) * np.where(np.arange(60) % 2, 30, 12)[:, None] + 40
    mask = PolygonMask.of(Path("a"), "", [tuple(map(tuple, star.tolist()))], (80, 80), along_edges=True)
    whole = mask.read()
    monkeypatch.setattr("adabldm.data.formats.shapes.MOST_CROSSINGS", 100)
    assert np.array_equal(mask.read(), whole)


def test_a_thin_coco_polygon_is_not_lost(tmp_path: Path) -> None:
    square = {"segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]], "area": 100}
    thin = {"segmentation": [[20.1, 5, 20.3, 5, 20.3, 15, 20.1, 15]], "area": 2}
    first, second = coco_masks(write_coco(tmp_path, (30, 40), [square, thin]))
    assert first.sum() == 100
    assert np.array_equal(np.unique(np.nonzero(second)[1]), [20])


def test_coco_polygons_through_centres_are_told_by_their_areas(tmp_path: Path) -> None:
    annotations = [{**through_centres(mask), "area": int(mask.sum())} for mask in BLOBS]
    without = [{key: value for key, value in one.items() if key != "bbox"} for one in annotations]
    for name, entries in (("box", annotations), ("none", without)):
        found = coco_masks(write_coco(tmp_path / name, SIZE, entries))
        assert all(np.array_equal(one, mask) for one, mask in zip(found, BLOBS, strict=True))


def test_a_box_that_counts_pixels_outweighs_what_the_polygon_encloses(tmp_path: Path) -> None:
    """As `cv2.boundingRect` and `cv2.contourArea` give them."""
    annotations = [through_centres(mask) for mask in BLOBS]
    for one in annotations:
        one["area"] = cv2.contourArea(np.array(one["segmentation"], np.int32).reshape(-1, 2))
    found = coco_masks(write_coco(tmp_path, SIZE, annotations))
    assert all(np.array_equal(one, mask) for one, mask in zip(found, BLOBS, strict=True))


NO_AREAS: list[Any] = [None, 0, -5, "62", True, [1], {"a": 1}, float("nan"), float("inf"), 10**400, 1e300, 1e11]


@pytest.mark.parametrize("stated", [*NO_AREAS, "box", "none"], ids=lambda stated: f"{stated!s:.9}")
def test_an_area_that_tells_nothing_leaves_the_outline_to_the_defect(stated: Any, tmp_path: Path) -> None:
    parts = [*BLOBS, np.ones((3, 4), np.bool_)]  # the last one fills its box
    annotations: list[dict[str, Any]] = [along_edges(mask) for mask in parts]
    for one in annotations:
        if stated != "none":
            one["area"] = one["bbox"][2] * one["bbox"][3] if stated == "box" else stated
    found = coco_masks(write_coco(tmp_path, SIZE, annotations))
    for mask, part, one in zip(found, parts, annotations, strict=True):
        corners = np.array(one["segmentation"][0]).reshape(-1, 2)
        polygon = tuple(map(tuple, corners.astype(float).tolist()))
        assert np.array_equal(mask, PolygonMask.of(Path("a"), "", [polygon], SIZE).read())
        assert mask.sum() > part.sum()


def test_strange_areas_among_sound_ones_are_passed_over(tmp_path: Path) -> None:
    strange = [{**along_edges(BLOBS[0]), "area": one} for one in NO_AREAS]
    sound = [{**along_edges(mask), "area": int(mask.sum())} for mask in BLOBS]
    found = coco_masks(write_coco(tmp_path, SIZE, strange + sound))
    for one, mask in zip(found, [BLOBS[0]] * len(strange) + BLOBS, strict=True):
        assert np.array_equal(one, mask)


def test_corners_that_no_float_holds_are_reported(tmp_path: Path) -> None:
    root = write_coco(tmp_path, SIZE, [{"segmentation": [[10**400, 2, 12, 2, 12, 12]], "area": 50}])
    problems = COCOReader().list_samples(root, ReadOptions(require_good=False)).problems
    assert any("annotation 0: a polygon with no corners" in problem for problem in problems)


def test_of_many_annotations_some_are_compared(tmp_path: Path) -> None:
    many = [{**along_edges(mask), "area": int(mask.sum())} for mask in BLOBS * 60]
    found = coco_masks(write_coco(tmp_path, SIZE, many))
    assert all(np.array_equal(one, mask) for one, mask in zip(found, BLOBS * 60, strict=True))


@pytest.mark.skipif(not DEEP_PCB.is_dir(), reason="ADABLDM_DATA names no folder with deeppcb_coco")
def test_polygons_of_circuit_boards_run_through_centres() -> None:
    samples = COCOReader().list_samples(DEEP_PCB, ReadOptions()).samples
    masks = [defect.mask for sample in samples for defect in sample.defects]
    assert len(masks) > 200
    assert not any(mask.along_edges for mask in masks if isinstance(mask, PolygonMask))
    areas = {(split, str(one["id"])): one["area"] for split in ("train", "test")
             for one in json.loads((DEEP_PCB / split / "annotations.json").read_text())["annotations"]}  # fmt: skip
    same = 0
    for mask in masks:
        assert isinstance(mask, PolygonMask)
        same += mask.read().sum() == areas[mask.source.parent.name, mask.label.removeprefix("annotation ")]
    assert same > 0.9 * len(masks)


@settings(deadline=None, max_examples=40)
@given(st.binary(min_size=48, max_size=48))
def test_run_lengths_give_the_mask_back(data: bytes) -> None:
    mask = np.frombuffer(data, np.uint8).reshape(6, 8) > 128
    mask = mask | (np.arange(48).reshape(6, 8) == 20)
    runs = tuple(made.run_lengths(mask))
    np.testing.assert_array_equal(RunLengthMask.of(Path("a.json"), "annotation 1", runs, (6, 8)).read(), mask)


def test_compressed_run_lengths() -> None:
    assert decode_counts("52203") == (5, 2, 2, 2, 5)  # as pycocotools encodes them
    with pytest.raises(ValueError, match="breaks off"):
        decode_counts("P")


# Bad input


def test_broken_json_names_its_line_and_all_is_said_at_once(tmp_path: Path) -> None:
    made.labelme(tmp_path)
    (tmp_path / "b0.json").write_text('{\n "shapes": [\n {"label": }]\n}')
    line = {"label": "stain", "points": [[5, 5], [20, 5], [10, 5]], "shape_type": "polygon"}
    made.write_json(tmp_path / "b1.json", made.labelme_file("b1.png", [line]))
    (tmp_path / "b2.png").unlink()
    problems = "\n".join(check(tmp_path).problems)
    assert "b0.json: broken JSON in line 3" in problems
    assert "b1.json: shape 0: a polygon without area" in problems
    assert any("1 annotation files without an image were left out (b2.json)" in note
               for note in check(tmp_path).data_set.notes)  # fmt: skip
    assert "b0.png" not in {sample.image.name for sample in check(tmp_path).data_set.good}


def test_polygons_outside_are_clipped_with_a_note(tmp_path: Path) -> None:
    made.labelme(tmp_path)
    outside = {"label": "stain", "points": [[100, 10], [200, 10], [200, 30], [100, 30]], "shape_type": "polygon"}
    made.write_json(tmp_path / "b1.json", made.labelme_file("b1.png", [outside]))
    found = check(tmp_path)
    assert found.problems == ()
    assert any("1 polygons reach outside their image and were clipped (b1.json shape 0)" in note
               for note in found.data_set.notes)  # fmt: skip


def test_ids_that_point_nowhere_and_files_that_disagree(tmp_path: Path) -> None:
    made.coco(tmp_path)
    content = json.loads((tmp_path / "annotations.json").read_text())
    made.write_json(tmp_path / "second.json", content)
    content["annotations"][1]["image_id"] = 999
    content["annotations"][2]["category_id"] = 5
    made.write_json(tmp_path / "annotations.json", content)
    problems = "\n".join(check(tmp_path).problems)
    assert "annotation 1: image_id 999 is the id of no image" in problems
    assert "annotation 2: category_id 5 is the id of no category" in problems
    assert "second.json: annotates 003.png, as" in problems


@pytest.mark.parametrize(("shots", "images"), [(1, 2), (2, 3), (3, 3), (4, 4)])
def test_shots_leave_no_type_without_an_example(tmp_path: Path, shots: int, images: int) -> None:
    """Two images show stains alone, and two a scratch beside one, which come later."""
    made.coco(tmp_path)
    found = check(tmp_path, shots=shots).data_set
    assert (found.types, len(found.defective)) == (("scratch", "stain"), images)
    assert [sample.image for sample in found.defective] == sorted(sample.image for sample in found.defective)


def test_several_coco_files_and_one_name_in_two_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        made.coco(tmp_path / split)
    found = check(tmp_path)
    assert found.problems == ()
    assert {row.split for row in found.rows} == {"train", "test"}
    save(BAD[0], tmp_path / "train/other/x.png")
    save(BAD[0], tmp_path / "train/more/x.png")
    path = tmp_path / "train/annotations.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = "x.png"
    made.write_json(path, content)
    assert "the image x.png is there twice" in check(tmp_path).problems[0]


def test_boxes_are_refused_or_filled_by_grabcut(tmp_path: Path) -> None:
    made.coco(tmp_path)
    path = tmp_path / "annotations.json"
    content = json.loads(path.read_text())
    content["annotations"] = [{"id": 1, "image_id": 103, "category_id": 3, "bbox": [15, 15, 36, 35]}]
    content["images"] = content["images"][:4]
    made.write_json(path, content)
    refused = check(tmp_path)
    assert "--boxes grabcut" in refused.problems[0]
    assert not any("stain" in note or "no defect images" in note for note in refused.data_set.notes)  # it is there
    found = check(tmp_path, boxes="grabcut")
    assert found.problems == ()
    assert any("1 boxes were turned into masks by GrabCut" in note for note in found.data_set.notes)
    mask = found.data_set.defective[0].defects[0].mask.read()
    truth = STAIN_MASKS[0]
    assert (mask & truth).sum() / (mask | truth).sum() > 0.8


def test_folders_without_good_images(tmp_path: Path) -> None:
    made.labelme(tmp_path)
    for path in tmp_path.glob("g*.png"):
        path.unlink()
    assert "no defect-free images for training" in check(tmp_path).problems[0]


def test_visa_is_divided_as_its_table_says(tmp_path: Path) -> None:
    root = tmp_path / "candle"
    made.as_visa(root)
    images = sorted(path.relative_to(tmp_path).as_posix() for path in root.glob("Data/Images/*/*"))
    splits = ["test" if number % 2 else "train" for number in range(len(images))]
    rows = [f"candle,{split},normal,{image}," for split, image in zip(splits, images, strict=True)]
    table = tmp_path / "split_csv/1cls.csv"
    table.parent.mkdir()
    table.write_text("\n".join(["object,split,label,image,mask", *rows[:-1], "cashew,train,normal,x.JPG,", ""]))
    found = check(root)
    assert found.problems == ()
    read = {sample.image.relative_to(tmp_path).as_posix(): sample.split
            for samples in (found.data_set.good, found.data_set.test_good, found.data_set.defective)
            for sample in samples if sample.split == "test" or not sample.defects}  # fmt: skip
    assert read.items() <= dict(zip(images, splits, strict=True)).items()
    assert any("1 images that 1cls.csv does not list were left out" in note for note in found.data_set.notes)
    rows[0] = rows[0].replace("train", "both")
    table.write_text("\n".join(["object,split,label,image,mask", *rows, rows[1].replace(",test,", ",train,")]))
    problems = "\n".join(check(root).problems)
    assert "1cls.csv: line 2: split 'both', expected train or test" in problems
    assert f"1cls.csv: line {len(images) + 2}: {images[1]} is for train, but for test in line 3" in problems


def test_shapes_of_labelme(tmp_path: Path) -> None:
    made.labelme(tmp_path)
    found = [
        {"label": "ring", "points": [[60, 40], [60, 50]], "shape_type": "circle"},
        {"label": "line", "points": [[10, 80], [100, 80]], "shape_type": "line"},
        {"label": "field", "points": [[30, 20], [11, 5]], "shape_type": "rectangle"},
    ]
    made.write_json(tmp_path / "b0.json", made.labelme_file("b0.png", found))
    assert "b0.json shape 2: a box instead of a mask" in check(tmp_path).problems[0]
    read = check(tmp_path, boxes="fill")
    assert read.problems == ()
    sample = next(sample for sample in read.data_set.defective if sample.image.stem == "b0")
    masks = {defect.type: defect.mask.read() for defect in sample.defects}
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    round_ = np.hypot(rows - 40, columns - 60) <= 10.5
    assert (masks["ring"] & round_).sum() > 0.97 * (masks["ring"] | round_).sum()
    assert masks["line"][:, 50].sum() == 10
    np.testing.assert_array_equal(masks["field"], (rows >= 5) & (rows <= 20) & (columns >= 11) & (columns <= 30))
    assert any("1 lines were taken 10 px wide" in note for note in read.data_set.notes)
    found[0]["shape_type"] = "point"
    made.write_json(tmp_path / "b0.json", made.labelme_file("b0.png", found))
    assert "b0.json: shape 0: of the form point" in check(tmp_path).problems[0]


def test_a_group_of_shapes_is_one_defect(tmp_path: Path) -> None:
    made.labelme(tmp_path)
    found = [{"label": "stain", "points": [[x, 40], [x, 46]], "shape_type": "circle", "group_id": 4} for x in (20, 60)]
    made.write_json(tmp_path / "b0.json", made.labelme_file("b0.png", found))
    sample = next(one for one in check(tmp_path).data_set.defective if one.image.stem == "b0")
    (defect,) = sample.defects
    assert defect.mask.read()[40, [20, 60]].all()


def test_types_without_defects_and_entries_without_images_are_remarks(tmp_path: Path) -> None:
    made.coco(tmp_path)
    path = tmp_path / "annotations.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 9, "name": "dent"})
    content["images"].append({"id": 900, "file_name": "gone.png"})
    content["annotations"].append({"id": 900, "image_id": 900, "category_id": 9, "segmentation": []})
    made.write_json(path, content)
    found = check(tmp_path)
    assert found.problems == ()
    notes = "\n".join(found.data_set.notes)
    assert "annotations.json: no defect of the types dent is annotated" in notes
    assert "annotations.json: 1 entries without an image were left out (gone.png)" in notes


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\0.png", "\ud800.png", "circle/a.png"])
def test_names_that_no_image_can_have_are_remarks(tmp_path: Path, name: str) -> None:
    for kind in ("coco", "labelme"):
        root = tmp_path / kind
        getattr(made, kind)(root)
        (root / "circle").symlink_to("circle")
        path = root / ("annotations.json" if kind == "coco" else "b0.json")
        content = json.loads(path.read_text())
        (content["images"][0] if kind == "coco" else content)["file_name" if kind == "coco" else "imagePath"] = name
        path.write_text(json.dumps(content))
        found = check(root)
        if kind == "coco":
            assert any("without an image were left out" in note for note in found.data_set.notes)
        else:
            assert any(sample.image.stem == "b0" for sample in found.data_set.defective)


def test_sizes_that_differ_from_the_image_are_named(tmp_path: Path) -> None:
    made.coco(tmp_path)
    path = tmp_path / "annotations.json"
    content = json.loads(path.read_text())
    content["images"][0]["height"] = 5000
    made.write_json(path, content)
    assert "annotations.json: says 5000 x 120 px (height x width) of 000.png" in check(tmp_path).problems[0]


NONSENSE: list[Any] = [None, "x", [5], {"a": 1}, -1, [[1e300] * 6]]


@pytest.mark.parametrize("form", ["labelme", "coco"])
def test_annotation_files_with_nonsense_in_them_are_reported(form: str, tmp_path: Path) -> None:
    getattr(made, form)(tmp_path)
    path = tmp_path / {"labelme": "b3.json", "coco": "annotations.json"}[form]
    before = json.loads(path.read_text())
    for place in _places(before):
        for value in NONSENSE:
            content = json.loads(path.read_text())
            holder = content
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = value
            made.write_json(path, content)
            READERS[form].list_samples(tmp_path, ReadOptions())
            made.write_json(path, before)


def _places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where values stand in JSON: all keys, and the first place of lists."""
    keys = list(value) if isinstance(value, dict) else [0] if isinstance(value, list) and value else []
    return [place for key in keys for place in [(*above, key), *_places(value[key], (*above, key))]]


def test_one_mask_for_two_images_is_refused(tmp_path: Path) -> None:
    made.ok_ng_mask(tmp_path)
    save(BAD[0], tmp_path / "NG/scratch/a.png")
    save(BAD[1], tmp_path / "NG/stain/a.png")
    save(grey(BOTH[0]), tmp_path / "MASK/a.png")
    for path in (tmp_path / "NG").glob("*.png"):
        path.unlink()
    assert "MASK/a.png: would be the mask of two images of one name" in check(tmp_path).problems[0]
    for kind in ("scratch", "stain"):
        save(grey(BOTH[0]), tmp_path / f"MASK/{kind}/a.png")
    found = check(tmp_path)
    assert found.problems == ()
    assert found.data_set.types == ("scratch", "stain")


def test_folders_can_be_named(tmp_path: Path) -> None:
    made.ok_ng_mask(tmp_path)
    for name in ("OK", "NG", "MASK"):
        (tmp_path / name).rename(tmp_path / f"lot {name[0]}")
    options = {"good_folder": ("lot O",), "bad_folder": ("lot N",), "mask_folder": ("lot M",)}
    found = check(tmp_path, **options)
    assert found.problems == ()
    assert counts(found)["lot n"] == (4, 7, counts(found)["lot n"][2])
    assert "--mask-folder X: no such folder" in check(tmp_path, **{**options, "mask_folder": ("X",)}).problems[0]


def test_a_label_file_that_does_not_stand_with_its_image_is_refused(tmp_path: Path) -> None:
    made.yolo(tmp_path)
    (tmp_path / "labels/train/b0.txt").rename(tmp_path / "labels/b0.txt")
    (tmp_path / "labels/train/none.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    found = check(tmp_path)
    (problem,) = found.problems
    assert problem.startswith(f"{tmp_path}/labels/b0.txt: does not stand where its image")
    assert any("1 annotation files without an image were left out (none.txt)" in note for note in found.data_set.notes)


def test_a_folder_of_data_sets_asks_for_one_of_them(tmp_path: Path) -> None:
    for name in ("bottle", "cable"):
        made.ok_ng_mask(tmp_path / name)
    (problem,) = check(tmp_path).problems
    assert problem == f"{tmp_path}: holds several data sets (bottle, cable), expected one; give one of these folders."


# Reading in other commands


def test_generate_reads_as_the_fit_did(adabldm: Adabldm, base: Path, tmp_path: Path) -> None:
    data, run, out = (tmp_path / name for name in ("data", "run", "out"))
    made.coco(data)
    path = data / "annotations.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        corners = [value for key in ("bbox", "segmentation") for value in [annotation.pop(key)] if key == "bbox"]
        annotation["bbox"] = corners[0]
    made.write_json(path, content)
    refused = adabldm("fit", data, "--out", run, "--base", base, *FIT)
    assert refused.code == 2
    assert "--boxes grabcut" in refused.err
    assert adabldm("fit", data, "--out", run, "--base", base, *FIT, "--boxes", "fill", "--format", "coco").code == 0
    card = json.loads((run / "adabldm.json").read_text())
    wanted = {"format": "coco", "boxes": "fill"}
    assert wanted.items() <= card["reading"].items()
    assert adabldm("generate", run, "--data", data, "--out", out, *GENERATE, "--count", 2).code == 0
    assert json.loads((out / "settings.json").read_text())["reading"] == wanted
    changed = adabldm("generate", run, "--data", data, "--out", out, *GENERATE, "--count", 2, "--boxes", "grabcut")
    assert 'reading.boxes was "fill", is now "grabcut"' in changed.err


# Inspect


def test_a_layout_that_does_not_fit_is_mentioned(adabldm: Adabldm, tmp_path: Path) -> None:
    made.coco(tmp_path / "parts")
    found = check(tmp_path / "parts", format="yolo-seg")
    assert (found.data_set.format, found.problems) == ("yolo-seg", ())
    assert "looks like coco, and is read as yolo-seg because --format says so" in found.data_set.notes[0]
    assert not any("looks like" in note for note in check(tmp_path / "parts", format="coco").data_set.notes)
    (tmp_path / "parts" / "annotations.json").rename(tmp_path / "annotations.json")
    note = check(tmp_path / "parts").data_set.notes[0]
    assert [word for word in (*READERS, "was recognised", "--good-folder", "--format") if word not in note] == []
    file = adabldm("inspect", tmp_path / "annotations.json")
    assert (file.code, "annotations.json: a file, expected the folder" in file.err) == (2, True)


def test_inspect_names_the_layout_and_draws_a_sheet(tmp_path: Path) -> None:
    made.labelme(tmp_path / "parts")
    sheet = tmp_path / "sheet.png"
    found = inspect(InspectSettings(data=tmp_path / "parts", show=sheet))
    assert format_table(found).splitlines()[0].endswith("parts, read as labelme")
    values = to_json(found)
    assert values["format"] == "labelme"
    assert {"images", "instances", "pixels"} <= set(values["rows"][0])
    pixels = np.asarray(Image.open(sheet))
    for colour in ((255, 64, 64), (64, 160, 255)):
        assert (pixels == colour).all(axis=2).sum() > 50
    shutil.rmtree(tmp_path / "parts")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("<annotation>", "<annotations>", "begins with <annotations>, expected <annotation>"),
        ("<object>", "<thing>", "a box or polygon outside of any <object>"),
        ("<annotation>", "<annotation><size><width>60</width><height>45</height></size>", "an image of 60x45 px"),
        ("<xmin>", "<xmin>left", "object 1: a box without four numbers"),
    ],
    ids=["root", "object", "size", "box"],
)
def test_a_file_of_voc_that_says_something_else_is_refused(tmp_path: Path, before: str, after: str, words: str) -> None:
    made.voc_class_objects(tmp_path)
    path = tmp_path / "Annotations" / "b0.xml"
    text = path.read_text().replace(before, after)
    for tag in ("annotation", "object"):
        if before == f"<{tag}>" and f"</{after[1:]}" != f"</{tag}>" and "size" not in after:
            text = text.replace(f"</{tag}>", f"</{after[1:]}")
    path.write_text(text)
    assert [problem for problem in check(tmp_path).problems if words in problem and str(path) in problem]


def test_what_is_left_out_of_voc_is_said(tmp_path: Path) -> None:
    made.voc(tmp_path)
    one, two = (tmp_path / "Annotations" / f"b{number}.xml" for number in (0, 1))
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"  # turned, as tools that ignore EXIF say
    one.write_text(
        one.read_text().replace("<name>stain</name>", "<name> </name>").replace("<object>", f"{size}<object>", 1)
    )
    text = two.read_text()
    start, end = text.rindex("<object>"), text.rindex("</object>") + len("</object>")
    two.write_text(text[:start] + text[end:])
    found = check(tmp_path)
    assert found.problems == ()
    notes = "\n".join(found.data_set.notes)
    assert 'without a name count as "defect" (b0.xml object 1' in notes
    assert "1 masks in SegmentationObject show objects that their XML files do not list" in notes
    assert "b1.png" in notes
