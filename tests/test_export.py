"""Exports: every format is read again by the library that it belongs to, or by our own reader."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml
from conftest import GENERATE, Adabldm
from fabricate import box, overlap, save, texture, write_data_set
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, read_picture
from adabldm.core.mask_files import read_mask
from adabldm.core.records import ImageRecord
from adabldm.core.samples import Defect, MaskFile
from adabldm.core.settings import CurateSettings, ExportSettings
from adabldm.core.windows import bounding_box
from adabldm.data.exports.items import ExportImage, connected, divide, place_image, read_contents, real_images
from adabldm.data.exports.outlines import centre_polygon, edge_polygon, has_holes, run_lengths, with_area
from adabldm.data.formats import ReadOptions
from adabldm.data.generated import MANIFEST, GeneratedFolder
from adabldm.data.inspection import check_data_set
from adabldm.workflows.curate import curate
from adabldm.workflows.export import export

SIZE = (64, 80)


def shape(number: int) -> Mask:
    """A mask of two parts; one of them has a hole."""
    mask = box((8 + number, 30), (10, 30), SIZE)
    mask[14:22, 15:22] = False
    mask[45, 50 : 60 + number] = True
    return mask


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight generated images of four sources, types "spot" and "thin scratch" in turns, two parts each. Read only."""
    root, rng = tmp_path_factory.mktemp("made") / "images", np.random.default_rng(0)
    folder = GeneratedFolder(root)
    with folder.open({"seed": 0}):
        for index in range(8):
            record = ImageRecord(
                image="",
                mask="",
                index=index,
                source=f"train/good/{index % 4:03d}.png",
                defect=("spot", "thin scratch")[index % 2],
                object="cloth",
                prompt="",
                seed=0,
                preset="fast",
                adapt="none",
                seam=1.0 + index / 4,
                contrast=2.0,
                model="none",
            )
            folder.add(record, texture(SIZE, rng), shape(index))
        folder.finish()
    return root


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six good and four defective images of the same size. Read only."""
    return write_data_set(tmp_path_factory.mktemp("real") / "cloth", size=SIZE, defects={"spot": 2, "thin scratch": 2})


def run(folder: Path, to: str, out: Path, **more: object) -> Path:
    export(ExportSettings.create({"folder": folder, "to": to, "out": out, **more}))
    return out


MASKS = arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14)))


@given(MASKS)
def test_run_lengths_hold_the_mask(mask: Mask) -> None:
    values = np.zeros(mask.size, np.bool_)
    place, defect = 0, False
    for length in run_lengths(mask):
        values[place : place + length] = defect
        place, defect = place + length, not defect
    assert place == mask.size
    assert np.array_equal(values.reshape(mask.shape, order="F"), mask)


@given(MASKS)
@settings(max_examples=300)
def test_edge_polygons_hold_the_mask(mask: Mask) -> None:
    """By the even-odd rule at pixel centres."""
    for part in connected("spot", mask):
        ring = edge_polygon(part.mask)
        inside = np.zeros(part.mask.shape, np.bool_)
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            for row in range(min(y0, y1), max(y0, y1)):  # an edge between two pixels, or a slanted bridge
                x = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)
                inside[row, np.arange(inside.shape[1]) + 0.5 < x] ^= True
        assert np.array_equal(inside, part.mask)


@given(MASKS)
@settings(max_examples=300)
def test_centre_polygons_hold_the_mask(mask: Mask) -> None:
    """Exactly where there are no holes; a bridge to a hole and its thin rim may be filled else."""
    for part in connected("spot", mask):
        ring = with_area(centre_polygon(part.mask))
        assert len(ring) >= 3
        x, y = ring.T
        assert np.dot(x, np.roll(y, -1)) != np.dot(y, np.roll(x, -1))
        drawn = np.zeros(part.mask.shape, np.uint8)
        cv2.fillPoly(drawn, [ring.astype(np.int32)], 1)
        if not has_holes(part.mask):
            assert np.array_equal(drawn > 0, part.mask)
        else:
            assert (drawn > 0)[part.mask].all()


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40), st.floats(0.05, 0.9))
def test_no_source_is_in_both_splits(sources: list[str], share: float) -> None:
    images = [ExportImage(Path(f"{n}.png"), str(n), source) for n, source in enumerate(sources)]
    if len(set(sources)) < 2:
        with pytest.raises(InputError, match="one source"):
            divide(images, share)
        return
    divided = divide(images, share)
    train, val = ({one.source for one in divided if one.split == split} for split in ("train", "val"))
    assert not train & val
    assert train
    assert val
    backwards = divide(images[::-1], share)[::-1]
    assert [one.split for one in backwards] == [one.split for one in divided]


@pytest.mark.parametrize("segmentation", ["auto", "polygons", "rle"])
def test_coco_is_read_by_pycocotools(made: Path, tmp_path: Path, segmentation: str) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    out = run(made, "coco", tmp_path / "out", validation=0.25, segmentation=segmentation)
    seen = 0
    for split in ("train", "val"):
        read = coco.COCO(str(out / "annotations" / f"instances_{split}.json"))
        for number, image in read.imgs.items():
            annotations = [read.anns[one] for one in read.getAnnIds(imgIds=[number])]
            index = int(Path(image["file_name"]).stem)
            assert len(annotations) == 2
            whole = np.any([read.annToMask(one) for one in annotations], axis=0)
            assert np.array_equal(whole, shape(index))
            for one in annotations:
                assert one["area"] == read.annToMask(one).sum()
                assert read.cats[one["category_id"]]["name"] == ("spot", "thin scratch")[index % 2]
                assert one["attributes"]["seam"] == 1.0 + index / 4
            assert (out / split / image["file_name"]).samefile(made / _path(index))
            seen += 1
    assert seen == 8


def _path(index: int) -> str:
    return GeneratedFolder(Path()).paths(index, ("spot", "thin scratch")[index % 2])[0]


def test_formats_are_read_by_supervision(made: Path, tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    coco = run(made, "coco", tmp_path / "coco")
    yolo = run(made, "yolo-seg", tmp_path / "yolo")
    voc = run(made, "voc", tmp_path / "voc")
    read = {
        "coco": supervision.DetectionDataset.from_coco(
            str(coco / "train"), str(coco / "annotations" / "instances_train.json"), force_masks=True
        ),
        "yolo": supervision.DetectionDataset.from_yolo(
            str(yolo / "images" / "train"), str(yolo / "labels" / "train"), str(yolo / "data.yaml"), force_masks=True
        ),
        "voc": supervision.DetectionDataset.from_pascal_voc(str(voc / "JPEGImages"), str(voc / "Annotations")),
    }
    for name, data_set in read.items():
        assert len(data_set) == 8, name
        for path, _, found in data_set:
            index = int(Path(path).stem)
            types = {data_set.classes[one] for one in found.class_id}
            assert types == {("spot", "thin scratch")[index % 2]}
            boxes = {tuple(int(value) for value in one) for one in found.xyxy}
            expected = {(10, 8 + index, 29, 29), (50, 45, 59 + index, 45)}
            assert all(any(np.abs(np.subtract(a, b)).max() <= 1 for b in expected) for a in boxes), name
            if name == "yolo":
                assert overlap(found.mask.any(axis=0), shape(index)) > 0.9
    labels = (yolo / "labels" / "train" / "000000.txt").read_text().splitlines()
    assert len(labels) == 2
    assert yaml.safe_load((yolo / "data.yaml").read_text())["names"] == {0: "spot", 1: "thin scratch"}


def test_labelme_polygons_draw_the_mask(made: Path, tmp_path: Path) -> None:
    out = run(made, "labelme", tmp_path / "out")
    files = sorted((out / "train").glob("*.json"))
    assert len(files) == 8
    for path in files:
        values = json.loads(path.read_text())
        drawn = Image.new("1", (values["imageWidth"], values["imageHeight"]))
        for one in values["shapes"]:
            ImageDraw.Draw(drawn).polygon([tuple(point) for point in one["points"]], outline=1, fill=1)
        assert overlap(np.asarray(drawn), shape(int(path.stem))) > 0.9
        assert (path.parent / values["imagePath"]).is_file()
        assert "seam=" in values["shapes"][0]["description"]


def test_voc_holds_classes_instances_and_boxes(made: Path, tmp_path: Path) -> None:
    out = run(made, "voc", tmp_path / "out", validation=0.25)
    lists = {split: (out / "ImageSets/Segmentation" / f"{split}.txt").read_text().split() for split in ("train", "val")}
    assert len(lists["train"]) + len(lists["val"]) == 8
    for index in range(8):
        classes = np.asarray(Image.open(out / "SegmentationClass" / f"{index:06d}.png"))
        objects = np.asarray(Image.open(out / "SegmentationObject" / f"{index:06d}.png"))
        assert np.array_equal(classes > 0, shape(index))
        assert set(np.unique(classes)) == {0, index % 2 + 1}
        assert set(np.unique(objects)) == {0, 1, 2}
        root = ElementTree.parse(out / "Annotations" / f"{index:06d}.xml").getroot()
        first = root.find("object/bndbox")
        assert first is not None
        assert [int(one.text or "") for one in first] == [11, 9 + index, 30, 30]
        assert float(root.findtext("object/attributes/seam") or 0) == 1.0 + index / 4


def test_mvtec_is_read_by_our_own_reader(made: Path, real: Path, tmp_path: Path) -> None:
    out = run(made, "mvtec", tmp_path / "out", validation=0.3, **{"with": real})
    found = check_data_set(out, ReadOptions())
    assert found.problems == ()
    rows = {(row.split, row.defect): row.images for row in found.rows}
    assert sum(rows.values()) == 8 + 6 + 4
    assert sum(count for (_, defect), count in rows.items() if defect == "good") == 6
    assert {split for split, _ in rows} == {"train", "test"}
    for index in range(8):
        defect = ("spot", "thin scratch")[index % 2]
        mask = out / "ground_truth" / defect / f"{index:06d}_mask.png"
        assert np.array_equal(read_mask(mask), shape(index))
        assert mask.samefile(made / "ground_truth" / defect / mask.name)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A real image with a large spot, a scratch on it and one beside it; and three good ones."""
    root, rng = tmp_path / "mixed", np.random.default_rng(1)
    (root / "labels").mkdir(parents=True)
    (root / "data.yaml").write_text("names: [spot, thin scratch]")
    boxes = [(0, (10, 10, 50, 50)), (1, (20, 20, 40, 24)), (1, (60, 20, 70, 24))]
    lines = [[number, *(f"{value / side:.5f}" for value, side in zip(_corners(box), [80, 64] * 4, strict=True))]
             for number, box in boxes]  # fmt: skip
    for index in range(4):
        save(root / f"images/{index}.png", texture(SIZE, rng))
    (root / "labels/0.txt").write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
    return root


def _corners(box: tuple[int, int, int, int]) -> list[int]:
    left, top, right, bottom = box
    return [left, top, right, top, right, bottom, left, bottom]


@pytest.mark.parametrize("to", ["mvtec", "anomalib", "huggingface"])
def test_an_image_of_several_types_is_called_combined(made: Path, mixed: Path, tmp_path: Path, to: str) -> None:
    out = run(made, to, tmp_path / "out", **{"with": mixed})
    if to == "huggingface":
        lines = map(json.loads, (out / "train/metadata.jsonl").read_text().splitlines())
        assert [line["label"] for line in lines if line["file_name"].endswith("real_images_0.png")] == ["combined"]
    else:
        (image,) = (path for path in out.rglob("real_images_0.png") if "ground_truth" not in path.parts)
        (mask,) = out.rglob("ground_truth/combined/real_images_0*.png")
        assert image.parent.name == "combined"
        assert read_mask(mask).sum() == pytest.approx(40 * 40 + 10 * 4, rel=0.1)


def test_a_defect_on_a_larger_one_stays_to_be_seen_in_voc(made: Path, mixed: Path, tmp_path: Path) -> None:
    out = run(made, "voc", tmp_path / "out", **{"with": mixed})
    found = check_data_set(out, ReadOptions())
    assert found.problems == ()
    (sample,) = (one for one in found.data_set.defective if one.image.stem == "real_images_0")
    sizes = sorted(int(defect.mask.read().sum()) for defect in sample.defects)
    assert [defect.type for defect in sample.defects].count("thin scratch") == 2
    assert sizes[0] < sizes[1] < 120 < sizes[2] < 41 * 41 - sizes[1] + 1
    assert not sample.defects[0].mask.read()[20:24, 22:38].any()


@pytest.mark.parametrize("to", ["coco", "yolo-seg", "labelme", "voc"])
def test_annotations_are_read_by_our_own_readers(made: Path, real: Path, tmp_path: Path, to: str) -> None:
    """As a data set to go on with; the file of settings in it is no annotation."""
    out = run(made, to, tmp_path / "out", validation=0.3, segmentation="rle", **{"with": real})
    found = check_data_set(out, ReadOptions())
    assert (found.data_set.format, found.problems, found.data_set.notes) == (to, (), ())
    instances: dict[str, int] = {}
    for row in found.rows:
        instances[row.defect] = instances.get(row.defect, 0) + row.instances
    parts = [len(read_contents(image).instances) for image in real_images(check_data_set(real).data_set)]
    assert instances.pop("good") == 0
    assert sum(instances.values()) == 16 + sum(parts)
    assert instances.keys() == {"spot", "thin scratch"}
    for sample in (*found.data_set.defective, *found.data_set.test_defective):
        if sample.image.stem.isdecimal():
            mask, truth = sample.mask(), shape(int(sample.image.stem))
            assert mask is not None
            assert bounding_box(mask) == bounding_box(truth)
            assert overlap(mask, truth) > 0.9


@pytest.mark.parametrize("validation", [0.0, 0.3])
def test_anomalib_finds_a_mask_for_every_test_image(made: Path, tmp_path: Path, validation: float) -> None:
    """Its readers pair the sorted images with the sorted masks, also where numbers have no zeros in front."""
    real = write_data_set(tmp_path / "cloth", size=SIZE, defects={"spot": 2, "thin scratch": 2})
    for defect in ("spot", "thin scratch"):
        for path in (*real.glob(f"train/{defect}/*"), *real.glob(f"ground_truth/{defect}/*")):
            path.rename(path.with_name(path.name.replace("000", "1").replace("001", "10")))
    out = run(made, "anomalib", tmp_path / "out", validation=validation, **{"with": real}) / "cloth"
    images = sorted(path for path in out.glob("test/*/*.png") if path.parent.name != "good")
    masks = sorted(out.glob("ground_truth/*/*.png"))
    assert [path.relative_to(out / "test") for path in images] == [
        mask.relative_to(out / "ground_truth") for mask in masks
    ]
    assert list(out.glob("train/good/*.png"))
    assert [path.name for path in out.glob("train/*")] == ["good"]
    extra = list(out.with_name("cloth_extra").glob("train/*/*.png"))
    assert (len(images) + len(extra), bool(extra)) == (12, validation > 0)


def test_anomalib_gets_png_files_alone(made: Path, tmp_path: Path) -> None:
    """`MVTecAD` reads no others."""
    real = write_data_set(tmp_path / "data" / "cloth", good=3, size=SIZE, defects={"spot": 1})
    good = real / "train" / "good"
    Image.open(good / "000.png").convert("L").save(good / "a.jpg", quality=90)
    (good / "000.png").unlink()
    deep = np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE) * 7
    Image.fromarray(deep).save(good / "b.tif")
    out = run(made, "anomalib", tmp_path / "out", **{"with": real}) / "cloth"
    assert {path.name for path in (out / "train" / "good").iterdir()} == {
        f"real_train_good_{name}.png" for name in ("001", "002", "a", "b")
    }
    written = Image.open(out / "train" / "good" / "real_train_good_a.png")
    assert written.mode == "L"
    assert np.array_equal(np.asarray(written), np.asarray(Image.open(good / "a.jpg")))
    assert np.array_equal(np.asarray(Image.open(out / "train" / "good" / "real_train_good_b.png")), deep)
    assert (out / "train" / "good" / "real_train_good_001.png").samefile(good / "001.png")


def test_hugging_face_lines_name_files(made: Path, real: Path, tmp_path: Path) -> None:
    out = run(made, "huggingface", tmp_path / "out", validation=0.3, **{"with": real})
    seen = 0
    for split in ("train", "validation"):
        lines = [json.loads(line) for line in (out / split / "metadata.jsonl").read_text().splitlines()]
        assert len({tuple(line) for line in lines}) == 1
        for line in lines:
            size = read_picture(out / split / line["file_name"]).size
            assert np.asarray(Image.open(out / split / line["mask_file_name"])).shape == size
            assert (line["label"] == "good") == (line["objects"]["bbox"] == [])
            assert (line["seam"] is not None) == line["synthetic"]
            seen += 1
    assert seen == 18


def test_images_are_linked_copied_and_written_again(adabldm: Adabldm, made: Path, tmp_path: Path) -> None:
    linked, copied = tmp_path / "linked", tmp_path / "copied"
    assert adabldm("export", made, "--to", "coco", "--out", linked, "--quiet").code == 0
    assert adabldm("export", made, "--to", "coco", "--out", copied, "--copy", "--quiet").code == 0
    original = made / _path(3)
    assert original.samefile(linked / "train" / "000003.png")
    assert not original.samefile(copied / "train" / "000003.png")
    assert original.read_bytes() == (copied / "train" / "000003.png").read_bytes()
    assert adabldm("export", made, "--to", "coco", "--out", linked, "--quiet").code == 0  # goes on
    other = adabldm("export", made, "--to", "voc", "--out", linked)
    assert (other.code, "made with other settings" in other.err) == (2, True)


def test_generate_exports_what_it_made(
    adabldm: Adabldm, generated: Path, request: pytest.FixtureRequest, data: Path, tmp_path: Path
) -> None:
    images, out = Path(shutil.copytree(generated, tmp_path / "images")), tmp_path / "coco"
    call = ("generate", request.getfixturevalue("run"), "--data", data, "--out", images, *GENERATE)
    assert "--export-out: missing" in adabldm(*call, "--export", "coco").err
    assert "--export: missing" in adabldm(*call, "--export-out", out).err
    assert "inside" in adabldm(*call, "--export", "coco", "--export-out", images / "coco").err
    curate(CurateSettings.create({"folder": images, "reject": [2]}))
    assert adabldm(*call, "--export", "coco", "--export-out", out).code == 0
    exported = sorted(path.stem for path in (out / "train").iterdir())
    assert exported == [f"{index:06d}" for index in (0, 1, 3, 4, 5)]
    assert adabldm(*call, "--export", "coco", "--export-out", out).code == 0  # nothing is left to do
    more = adabldm(*call, "--replace-rejected", "--export", "coco", "--export-out", out)
    assert (more.code, "1 images are still to be made" in more.err) == (2, True)
    assert len(list(images.glob("train/s*/*.png"))) == 6


@pytest.mark.parametrize("shots", [(), ("--shots", 3)])
def test_generate_exports_with_all_options_of_an_export(
    adabldm: Adabldm, generated: Path, run: Path, data: Path, tmp_path: Path, shots: tuple[object, ...]
) -> None:
    """The same files as an export afterwards; a data set that cannot be read is told before anything is made."""
    images, out = Path(shutil.copytree(generated, tmp_path / "images")), tmp_path / "coco"
    call = ("generate", run, "--data", data, "--out", images, *GENERATE, *shots)
    options = ("--with", data, "--validation", 0.3, "--segmentation", "rle", "--copy")
    for name in ("--with", "--validation", "--segmentation", "--copy"):
        value = options[options.index(name) + 1 : options.index(name) + 2] if name != "--copy" else ()
        refused = adabldm(*call, name, *value)
        assert (refused.code, f"{name}: given, but nothing is exported" in refused.err) == (2, True)
    missing = adabldm(*call, "--export", "coco", "--export-out", out, "--with", tmp_path / "nowhere")
    assert (missing.code, f"{tmp_path / 'nowhere'}: no such folder" in missing.err, out.exists()) == (2, True, False)
    inside = adabldm(*call, "--export", "coco", "--export-out", data / "coco", *options)
    assert (inside.code, "inside" in inside.err) == (2, True)
    assert adabldm(*call, "--export", "coco", "--export-out", out, *options).code == 0
    later = tmp_path / "later"
    assert adabldm("export", images, "--to", "coco", "--out", later, *options, "--quiet").code == 0
    found = {path.relative_to(out): path.read_bytes() for path in out.rglob("*.*") if path.parent != out}
    assert found == {path.relative_to(later): path.read_bytes() for path in later.rglob("*.*") if path.parent != later}
    assert len([path for path in found if path.name.startswith("real_")]) == 12
    assert {path.parts[0] for path in found} == {"train", "val", "annotations"}


def test_a_turned_photograph_is_written_as_its_masks_lie(made: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(texture((40, 64), np.random.default_rng(0))).save(turned, exif=exif)
    mask = save(tmp_path / "mask.png", (box((5, 20), (5, 20), (64, 40)) * 255).astype(np.uint8))
    image = ExportImage(turned, "a", "a", (Defect("spot", MaskFile(mask)),), synthetic=False)
    assert read_contents(image).size == (64, 40)
    place_image(image, tmp_path / image.file_name, copy=False)
    assert Image.open(tmp_path / "a.png").size == (40, 64)


def test_bad_input_is_told_at_once(adabldm: Adabldm, made: Path, tmp_path: Path) -> None:
    result = adabldm("export", tmp_path, "--to", "coco", "--out", tmp_path / "out")
    assert (result.code, "no manifest.jsonl" in result.err) == (2, True)
    result = adabldm("export", made, "--to", "coco", "--out", made / "out")
    assert (result.code, "inside" in result.err) == (2, True)
    result = adabldm("export", made, "--to", "tfrecord", "--out", tmp_path / "out", "--validation", 1)
    assert result.code == 2
    assert "--to" in result.err
    assert "--validation" in result.err
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    for index in (2, 5):
        (copy / GeneratedFolder(copy).paths(index, ("spot", "thin scratch")[index % 2])[1]).write_bytes(b"no image")
    result = adabldm("export", copy, "--to", "coco", "--out", tmp_path / "out", "--quiet")
    assert (result.code, len(result.err.splitlines())) == (2, 2)
    assert not (tmp_path / "out" / "annotations").exists()


def test_masks_that_are_linked_are_not_decoded(adabldm: Adabldm, made: Path, tmp_path: Path) -> None:
    """Where a format needs their files alone: 10,000 of them would take a minute. Sizes are compared all the same."""
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    paths = [copy / GeneratedFolder(copy).paths(index, ("spot", "thin scratch")[index % 2])[1] for index in range(8)]
    whole = paths[2].read_bytes()
    paths[2].write_bytes(whole[: len(whole) - 20])  # its head says all that is needed
    result = adabldm("export", copy, "--to", "mvtec", "--out", tmp_path / "mvtec")
    assert (result.code, "8 train images, 8 defects" in result.err) == (0, True)
    refused = adabldm("export", copy, "--to", "coco", "--out", tmp_path / "coco", "--quiet")
    assert (refused.code, str(paths[2]) in refused.err) == (2, True)
    save(paths[5], np.zeros((SIZE[0], SIZE[1] + 1), np.uint8))
    result = adabldm("export", copy, "--to", "mvtec", "--out", tmp_path / "again", "--quiet")
    assert (result.code, "expected equal sizes" in result.err) == (2, True)


def test_the_sources_of_a_generated_folder_are_known_in_a_chain(adabldm: Adabldm, run: Path, tmp_path: Path) -> None:
    """Images of generated ones name their sources in another way than the real data set does."""
    write_data_set(tmp_path / "parts", good=5)
    for kind, name in (("good", "OK"), ("spot", "NG/spot"), ("scratch", "NG/scratch")):
        (tmp_path / "C" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "parts/train" / kind).rename(tmp_path / "C" / name)
    (tmp_path / "parts/ground_truth").rename(tmp_path / "C/MASK")
    data = tmp_path / "C"
    for out in (tmp_path / "g1", tmp_path / "g2"):
        result = adabldm("generate", run, "--data", data, "--out", out, *GENERATE)
        assert result.code == 0, result.err
        data = out
    out = tmp_path / "exported"
    values = {"folder": tmp_path / "g2", "to": "huggingface", "out": out, "validation": 0.4, "with": tmp_path / "C"}
    export(ExportSettings.create(values))
    splits: dict[str, set[str]] = {}
    for split in ("train", "validation"):
        for line in map(json.loads, (out / split / "metadata.jsonl").read_text().splitlines()):
            if line["label"] == "good" or not line["file_name"].rpartition("/")[2].startswith("real_"):
                splits.setdefault(Path(line["source"]).stem, set()).add(split)
    assert len(splits) == 5
    assert all(len(found) == 1 for found in splits.values())


def test_rejected_images_of_a_generated_folder_are_no_real_defects(made: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(made, tmp_path / "made"))
    for number in range(2):
        save(root / f"train/good/{number}.png", texture(SIZE, np.random.default_rng(number)))
    curate(CurateSettings.create({"folder": root, "reject": ["0-4"]}))
    found = check_data_set(root, ReadOptions())
    assert found.problems == ()
    assert sorted(sample.image.stem for sample in found.data_set.defective) == ["000005", "000006", "000007"]
    assert any("5 generated images were left out, for they were rejected" in note for note in found.data_set.notes)


def test_images_that_miss_the_limits_are_named(adabldm: Adabldm, made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made, tmp_path / "images")
    lines = [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]
    for line in lines:
        line["accepted"] = line["index"] not in (2, 4, 5, 6)
    (folder / MANIFEST).write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = " ".join(adabldm("export", folder, "--to", "coco", "--out", tmp_path / "all").err.split())
    assert "missed the limits in every attempt are exported too: 4." in told
    command = ["curate", str(folder), "--reject", "2,4-6"]
    assert f"adabldm {' '.join(command)}, and export" in told
    assert adabldm(*command).code == 0
    result = adabldm("export", folder, "--to", "coco", "--out", tmp_path / "kept")
    assert (result.code, "missed the limits" in result.err) == (0, False)
    assert not (tmp_path / "kept" / "train" / "000005.png").exists()
