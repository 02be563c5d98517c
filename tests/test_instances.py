"""Several defects in one image, chained edits, candidates, refined masks; one image again, moved and deleted data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ANYTHING, GENERATE, Adabldm, contents, manifest, run_command
from fabricate import grown, write_data_set
from numpy.typing import NDArray
from PIL import Image

from adabldm.core.images import read_picture
from adabldm.core.mask_files import read_labels, read_mask
from adabldm.core.records import ImageRecord
from adabldm.core.scores import visible_change
from adabldm.core.settings import GenerateSettings
from adabldm.core.settings.variation import VariationSettings
from adabldm.data.decisions import rejected_indices
from adabldm.data.generated import defects_of, read_manifest
from adabldm.data.inspection import open_data_set
from adabldm.evaluation.conditions import BaselinePlan, read_synthetic, write_baseline
from adabldm.masks.refine import changed_mask
from adabldm.production.plan import defects_in, plan_production
from adabldm.production.scenes import GAP, SceneMaker, SceneOptions
from adabldm.selection.nearest import NearestReal
from adabldm.workflows.generate import generate

SEVERAL = ("--count", 6, "--batch-size", 3, "--per-image", "1-3", "--mix", "--quiet")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, run: Path, data: Path) -> Path:
    """One to three defects in each of six images. Read only."""
    out = tmp_path_factory.mktemp("several") / "images"
    assert run_command("generate", run, "--data", data, "--out", out, *SEVERAL, *ANYTHING) == 0
    return out


def masks_of(folder: Path, record: ImageRecord) -> list[NDArray[np.bool_]]:
    return [defect.mask.read() for defect in defects_of(folder, record)]


def outside(record: ImageRecord, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels that are in no window."""
    free = np.ones(shape[:2], np.bool_)
    for one in record.instances:
        if one.window is not None:
            top, left, side = one.window
            free[max(0, top) : top + side, max(0, left) : left + side] = False
    return free


def test_each_defect_has_a_record_and_a_mask_and_touches_no_other(several: Path, data: Path) -> None:
    records = list(read_manifest(several).values())
    numbers, types = [len(one.instances) for one in records], {one.types for one in records}
    assert 1 <= min(numbers) < max(numbers) <= 3
    assert ("scratch", "spot") in types
    for record in records:
        assert record.labels is not None
        made, source = read_picture(several / record.image).pixels, read_picture(data / record.source).pixels
        labels, mask = read_labels(several / record.labels), read_mask(several / record.mask)
        assert np.array_equal(labels > 0, mask)
        assert [one.label for one in record.instances] == list(range(1, len(record.instances) + 1))
        assert np.array_equal(np.unique(labels), range(len(record.instances) + 1))
        assert record.defect == (record.types[0] if len(record.types) == 1 else "combined")
        assert f"/{record.defect}/" in record.image
        for one in record.instances:
            own = labels == one.label
            assert not (grown(own, GAP) & (labels > 0) & ~own).any()
            left, top, width, height = one.box
            assert own[top : top + height, left : left + width].sum() == own.sum() == one.area
            assert one.reference is not None
            assert (data / one.reference).is_file()
            assert one.reference.split("/")[1] == one.defect
            assert visible_change(made, source, own) > 1
        free = outside(record, mask.shape)
        assert np.array_equal(made[free], source[free])
        assert not free[mask].any()


@pytest.fixture(scope="module")
def unfiltered(tmp_path_factory: pytest.TempPathFactory, run: Path, data: Path) -> Path:
    """What `generate` makes with one defect in each image, whatever a model with random weights draws."""
    out = tmp_path_factory.mktemp("unfiltered") / "images"
    assert run_command("generate", run, "--data", data, "--out", out, *GENERATE, *ANYTHING) == 0
    return out


def test_the_first_defect_is_where_it_would_be_alone(several: Path, unfiltered: Path) -> None:
    """The fixture `unfiltered` has the same seed, and batches of another size, which move a grey level at most."""
    for many, one in zip(manifest(several), manifest(unfiltered), strict=True):
        first = many["instances"][0]
        assert many["source"] == one["source"]
        assert {key: first[key] for key in ("shape", "window", "strength")} == {
            key: one[key] for key in ("shape", "window", "strength")
        }
        assert "instances" not in one
        assert "labels" not in one


def test_an_interrupted_run_gives_the_same_bytes(
    adabldm: Adabldm, run: Path, data: Path, several: Path, tmp_path: Path
) -> None:
    out = tmp_path / "images"
    shutil.copytree(several, out)
    lines = (out / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (out / "manifest.jsonl").write_bytes(b"".join([lines[5], lines[0], lines[1], lines[2][:90]]))
    (out / json.loads(lines[1])["labels"]).unlink()
    assert adabldm("generate", run, "--data", data, "--out", out, *SEVERAL, *ANYTHING, "--threads", 1).code == 0
    assert contents(out) == contents(several)
    refused = adabldm("generate", run, "--data", data, "--out", out, *SEVERAL, *ANYTHING, "--per-image", 2)
    assert refused.code == 2
    assert 'per_image was ["1-3"], is now ["1-3", "2"]' in refused.err


def test_numbers_of_defects_keep_to_their_range_and_are_mixed_if_asked() -> None:
    vary = VariationSettings.create({"per_image": ["2-4", "b=1"]})
    drawn = [defects_in(vary, ("a", "b", "c"), 0, index) for index in range(60)]
    assert [one[0] for one in drawn[:4]] == ["a", "b", "c", "a"]
    assert {len(one) for one in drawn if one[0] == "a"} == {2, 3, 4}
    assert {len(one) for one in drawn if one[0] == "b"} == {1}
    assert all(len(set(one)) == 1 for one in drawn)
    mixed = [defects_in(vary.changed(mix=True), ("a", "b", "c"), 0, index) for index in range(60)]
    assert {name for one in mixed for name in one[1:]} == {"a", "b", "c"}
    assert [len(one) for one in mixed] != [len(defects_in(vary, ("a", "b", "c"), 1, index)) for index in range(60)]


def test_exports_hold_each_defect_with_its_type(adabldm: Adabldm, several: Path, tmp_path: Path) -> None:
    out = tmp_path / "coco"
    assert adabldm("export", several, "--to", "coco", "--out", out, "--quiet").code == 0
    written = json.loads((out / "annotations" / "instances_train.json").read_text())
    names = {one["id"]: one["name"] for one in written["categories"]}
    assert set(names.values()) == {"scratch", "spot"}
    files = {one["id"]: one["file_name"] for one in written["images"]}
    for record in read_manifest(several).values():
        image = next(key for key, name in files.items() if Path(name).stem == f"{record.index:06d}")
        boxes = [(names[one["category_id"]], one["bbox"]) for one in written["annotations"] if one["image_id"] == image]
        for one in record.instances:
            inside = [
                box for name, box in boxes
                if name == one.defect and box[0] >= one.box[0] and box[1] >= one.box[1]
                and box[0] + box[2] <= one.box[0] + one.box[2] and box[1] + box[3] <= one.box[1] + one.box[3]
            ]  # fmt: skip
            assert inside


def test_conditions_have_the_types_of_the_defects(several: Path, data: Path) -> None:
    images = read_synthetic(several, data, 6)
    for image, record in zip(images, read_manifest(several).values(), strict=True):
        assert [mark.type for mark in image.marks] == [one.defect for one in record.instances]
        assert all(mark.mask.sum() == one.area for mark, one in zip(image.marks, record.instances, strict=True))
        assert image.mask is not None
        assert np.array_equal(image.mask, read_mask(several / record.mask))


@pytest.mark.parametrize("name", ["copy-paste", "nsa", "perlin"])
def test_baselines_put_as_many_defects_at_the_same_places(data: Path, several: Path, tmp_path: Path, name: str) -> None:
    vary = VariationSettings.create({"per_image": ["1-3"], "mix": True})
    maker = SceneMaker(open_data_set(data), "texture", SceneOptions(vary=vary))
    out = write_baseline(BaselinePlan(name, ("scratch", "spot"), 6, 0, tmp_path / "out"), maker)
    for own, record in zip(read_manifest(out).values(), read_manifest(several).values(), strict=True):
        first = next(one for one in record.instances if one.label == 1)
        assert own.source == record.source
        assert own.instances[0].shape == first.shape
        if first.attempt == 0 and name != "perlin":
            assert own.instances[0].box == first.box
        labels = read_labels(out / str(own.labels))
        source, made = read_picture(data / own.source).pixels, read_picture(out / own.image).pixels
        for one in own.instances:
            mask = labels == one.label
            assert not (grown(mask, GAP) & (labels > 0) & ~mask).any()
            assert visible_change(made, source, mask) > 1


def test_rules_of_curate_look_at_the_worst_defect(adabldm: Adabldm, several: Path, tmp_path: Path) -> None:
    out = tmp_path / "images"
    shutil.copytree(several, out)
    worst = {index: max(one.seam or 0 for one in record.instances) for index, record in read_manifest(out).items()}
    limit = sorted(worst.values())[3]
    assert adabldm("curate", out, "--max-seam", limit).code == 0
    assert rejected_indices(out) == {index for index, seam in worst.items() if seam > limit}


# Chained edits


def test_a_picture_with_defects_keeps_them_in_mask_and_record(
    adabldm: Adabldm, run: Path, data: Path, several: Path, tmp_path: Path
) -> None:
    out = tmp_path / "chained"
    options = ("--onto", several, "--count", 3, "--batch-size", 3, "--seed", 4, "--defect", "spot", "--quiet")
    result = adabldm("generate", run, "--data", data, "--out", out, *options)
    assert result.code == 0, result.err
    before = {one.image: one for one in read_manifest(several).values()}
    for record in read_manifest(out).values():
        base = before[str(record.base)]
        assert record.source == base.source
        kept = [one for one in record.instances if one.origin == "source"]
        assert [(one.defect, one.box, one.window, one.seam) for one in kept] == [
            (one.defect, one.box, one.window, one.seam) for one in base.instances
        ]
        (new,) = (one for one in record.instances if one.origin == "made")
        assert new.defect == "spot"
        masks = masks_of(out, record)
        assert all(np.array_equal(*pair) for pair in zip(masks, masks_of(several, base), strict=False))
        assert not (grown(masks[-1], GAP) & np.logical_or.reduce(masks[:-1])).any()
        made, old = (read_picture(place).pixels for place in (out / record.image, several / base.image))
        free = outside(record.model_copy(update={"instances": (new,)}), old.shape)
        assert np.array_equal(made[free], old[free])
    again = adabldm("reproduce", out, 1)
    assert again.code == 0, again.err


def test_real_pictures_with_defects_can_be_edited_further(
    adabldm: Adabldm, run: Path, data: Path, tmp_path: Path
) -> None:
    other, out = write_data_set(tmp_path / "other", good=0, defects={"stain": 2}, seed=5), tmp_path / "onto"
    options = ("--onto", other, "--count", 2, "--batch-size", 2, "--quiet")
    result = adabldm("generate", run, "--data", data, "--out", out, *options)
    assert result.code == 0, result.err
    for record in read_manifest(out).values():
        assert record.base == record.source
        kind, name = record.source.split("/")[1:]
        first, second = masks_of(out, record)
        assert kind == record.instances[0].defect == "stain"
        assert np.array_equal(first, read_mask(other / "ground_truth" / kind / name.replace(".png", "_mask.png")))
        assert not (first & second).any()
        assert [one.origin for one in record.instances] == ["source", "made"]
        assert record.instances[0].seam is None


@pytest.mark.parametrize("kind", ["photographed", "generated"])
def test_pictures_of_another_data_set_with_the_same_names_have_their_own_sources(
    adabldm: Adabldm, run: Path, data: Path, tmp_path: Path, kind: str
) -> None:
    other, onto = write_data_set(tmp_path / "other", size=(80, 112), seed=5), tmp_path / "other"
    if kind == "generated":
        onto = tmp_path / "made"
        made = adabldm("generate", run, "--data", other, "--out", onto, "--count", 2, "--batch-size", 2, "--quiet")
        assert made.code == 0, made.err
    options = {"run": str(run), "data": data, "out": tmp_path / "out", "onto": onto, "count": 2, "batch_size": 2}
    generate(GenerateSettings.create(options))
    maker = plan_production(GenerateSettings.create(options))[1].maker
    for record in read_manifest(tmp_path / "out").values():
        assert (data / record.source).is_file()
        assert maker.source_of(record) == other / record.source
        assert maker.foreground(record.source, record.base).shape == (80, 112)
    page = (tmp_path / "out/reports/index.html").read_text()
    assert page.count("data:image") >= 4


# Candidates and masks


def test_the_candidate_nearest_to_the_real_defects_is_kept(
    adabldm: Adabldm, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "best"
    options = ("--count", 4, "--batch-size", 2, "--best-of", 3, "--quiet")
    assert adabldm("generate", run, "--data", data, "--out", out, *options, *ANYTHING).code == 0
    data_set = open_data_set(data)
    nearest = NearestReal(data_set.instances)
    chosen = set()
    for record, alone in zip(read_manifest(out).values(), read_manifest(generated).values(), strict=False):
        assert record.distance is not None
        assert record.candidate in (0, 1, 2)
        pixels, mask = read_picture(out / record.image).pixels, read_mask(out / record.mask)
        own = next(
            one for one in data_set.instances[record.defect] if data_set.relative(one.sample) == record.reference
        )
        assert nearest.distance(pixels, mask, record.defect, own) == pytest.approx(record.distance, abs=1e-5)
        chosen.add(record.candidate)
        if record.attempt == alone.attempt == 0:
            first = read_picture(generated / alone.image).pixels
            assert record.distance <= float(nearest.distance(first, mask, record.defect, own) or 0) + 1e-5
            assert (record.candidate == 0) == np.array_equal(first, pixels)
    assert chosen != {0}


def test_a_refined_mask_is_what_changed_in_the_target_mask() -> None:
    source = np.full((60, 60, 3), 120, np.uint8)
    target = np.zeros((60, 60), np.bool_)
    target[10:40, 10:50] = True
    result = source.copy()
    result[20:30, 15:35] = 60
    result[24:26, 20:22] = 120  # a hole
    result[50:55, 50:55] = 0  # outside the target mask
    found = changed_mask(result, source, target)
    expected = np.zeros_like(target)
    expected[20:30, 15:35] = True
    assert np.count_nonzero(found & expected) / np.count_nonzero(found | expected) > 0.85
    assert not (found & ~target).any()
    assert np.array_equal(changed_mask(source, source, target), target)


def test_saved_masks_are_refined_and_the_images_stay(
    adabldm: Adabldm, run: Path, data: Path, unfiltered: Path, tmp_path: Path
) -> None:
    out = tmp_path / "refined"
    options = ("--count", 4, "--batch-size", 2, "--shrink-mask", "--quiet")
    assert adabldm("generate", run, "--data", data, "--out", out, *options, *ANYTHING).code == 0
    shares = []
    for record, alone in zip(read_manifest(out).values(), read_manifest(unfiltered).values(), strict=False):
        assert (out / record.image).read_bytes() == (unfiltered / alone.image).read_bytes()
        mask, target = read_mask(out / record.mask), read_mask(unfiltered / alone.mask)
        assert not (mask & ~target).any()
        assert record.mask_share == pytest.approx(mask.sum() / target.sum(), abs=1e-3)
        shares.append(record.mask_share)
        source = read_picture(data / record.source).pixels
        change = visible_change(read_picture(out / record.image).pixels, source, mask)
        assert record.visible_change == pytest.approx(change, abs=1e-3)
    assert min(shares) < 1


# One image again, other places, rejected and deleted images


def test_an_image_is_made_again_byte_by_byte(
    adabldm: Adabldm, run: Path, data: Path, several: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    result = adabldm("reproduce", several, 4, "--out", out)
    assert result.code == 0, result.err
    assert "image, mask, labels, record are the same" in result.out
    record = manifest(several)[4]
    for key in ("image", "mask", "labels"):
        assert (out / Path(record[key]).name).read_bytes() == (several / record[key]).read_bytes()
    assert json.loads((out / "000004.json").read_text()) == record


def test_an_image_that_differs_is_told(adabldm: Adabldm, several: Path, tmp_path: Path) -> None:
    root = tmp_path / "images"
    shutil.copytree(several, root)
    record = manifest(root)[0]
    with Image.open(root / record["image"]) as image:
        values = np.array(image)
    values[0, 0] ^= 1
    Image.fromarray(values).save(root / record["image"])
    result = adabldm("reproduce", root, 0)
    assert (result.code, "image differ" in result.err) == (2, True)
    (root / record["image"]).unlink()
    result = adabldm("reproduce", root, 0, "--out", tmp_path / "back")
    assert result.code == 0, result.err
    assert "nothing to compare" in result.err
    assert (tmp_path / "back" / Path(record["image"]).name).read_bytes() == (several / record["image"]).read_bytes()
    result = adabldm("reproduce", root, 99)
    assert (result.code, "there is no image 99" in result.err) == (2, True)


def test_data_and_run_may_move(adabldm: Adabldm, run: Path, data: Path, tmp_path: Path) -> None:
    first, out = tmp_path / "before", tmp_path / "images"
    shutil.copytree(run, first / "run")
    shutil.copytree(data, first / data.name)
    ready = first / "objects"
    ready.mkdir()
    for path in (data / "train" / "good").iterdir():
        Image.fromarray(np.full((96, 128), 255, np.uint8)).save(ready / path.name)
    options = ("--count", 2, "--batch-size", 2, "--foreground", "folder", "--quiet")

    def generate(place: Path) -> Any:
        places = ("--data", place / data.name, "--foreground-folder", place / "objects")
        return adabldm("generate", place / "run", *places, "--out", out, *options)

    assert generate(first).code == 0
    second = first.rename(tmp_path / "after")
    result = generate(second)
    assert result.code == 0, result.err
    assert "0 images made, 2 were there" in result.err
    lost = adabldm("reproduce", out, 1)
    assert lost.code == 2
    assert "--run" in lost.err
    places = ("--run", second / "run", "--data", second / data.name, "--foreground-folder", second / "objects")
    found = adabldm("reproduce", out, 1, *places)
    assert found.code == 0, found.err
    good = second / data.name / "train" / "good" / "002.png"
    good.write_bytes((second / data.name / "train" / "good" / "003.png").read_bytes())
    for result in (adabldm("reproduce", out, 1, *places), generate(second)):
        assert result.code == 2
        assert "content was" in result.err


def test_deleted_and_rejected_images_stay_away_and_are_replaced(
    adabldm: Adabldm, run: Path, data: Path, several: Path, tmp_path: Path
) -> None:
    out = tmp_path / "images"
    shutil.copytree(several, out)
    command = ("generate", run, "--data", data, "--out", out, *SEVERAL, *ANYTHING)
    (out / manifest(out)[1]["image"]).unlink()
    assert adabldm("curate", out, "--reject", 3).code == 0
    assert "0 images made" in adabldm(*command).err
    assert not (out / manifest(out)[1]["image"]).exists()
    result = adabldm(*command, "--replace-rejected")
    assert "2 images made" in result.err
    assert {one["index"] for one in manifest(out)} == {0, 1, 2, 3, 4, 5, 7, 9}
    assert {one.index for one in read_manifest(out).values()} == {0, 2, 3, 4, 5, 7, 9}
    assert "0 images made" in adabldm(*command, "--replace-rejected").err


# Few examples


def test_one_example_of_a_type_is_enough_and_still_varies(
    adabldm: Adabldm, run: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "one"
    options = ("--count", 6, "--batch-size", 6, "--shots", 1, "--defect", "spot", "--quiet")
    assert adabldm("generate", run, "--data", data, "--out", out, *options).code == 0
    records = manifest(out)
    assert {one["reference"] for one in records} == {"train/spot/000.png"}
    assert len({(out / one["mask"]).read_bytes() for one in records}) == 6
    assert len({one["strength"] for one in records}) == 6
    assert len({one["source"] for one in records}) > 1
    areas = [int(read_mask(out / one["mask"]).sum()) for one in records]
    assert max(areas) > 1.1 * min(areas)


def test_shots_hold_for_evaluations_too(adabldm: Adabldm, tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "cloth", test=True, good=2, defects={"spot": 2, "scratch": 2}, size=(64, 80))
    out = tmp_path / "proof"
    options = ("--condition", "copy-paste", "--count", 4, "--detector", "unet", "--detector-steps", 1, "--seeds", 1)
    command = ("evaluate", "--data", root, "--out", out, *options, "--quiet", "--shots", 1, "--size", "spot=12-14px")
    assert adabldm(*command).code == 0
    records = manifest(out / "images" / "copy-paste")
    assert {one["shape"] for one in records} == {"000_mask.png"}
    assert all(9 <= np.ptp(np.argwhere(read_mask(out / "images" / "copy-paste" / one["mask"])), 0).max() + 1 <= 15
               for one in records if one["defect"] == "spot")  # fmt: skip
    other = adabldm(*command[:-4], "--shots", 2, "--size", "spot=12-14px")
    assert (other.code, "shots was 1, is now 2" in other.err) == (2, True)
    assert adabldm(*command, "--turn", "dent=none").code == 2
