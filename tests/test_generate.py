"""`adabldm generate` through the command line: what it leaves, and that no kill, order or worker changes a byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ANYTHING, GENERATE, Adabldm, SmallDisk, contents, kill_when, manifest, run_command
from fabricate import save, texture, write_data_set
from PIL import Image

from adabldm.core.images import TEMPORARY, Mask, Pixels, read_picture
from adabldm.core.mask_files import read_mask
from adabldm.core.scores import background_psnr, seam
from adabldm.core.settings import PRESETS, EditPreset, GenerateSettings
from adabldm.core.settings.edit import ADAPTATIONS, NoAdaptation, StagePlan
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import open_data_set
from adabldm.editing.look import settled
from adabldm.models.store import read_card, write_card
from adabldm.production.learnt import RealChanges
from adabldm.workflows.generate import generate

FAST = PRESETS["fast"]
KEYS = {
    "image", "mask", "source", "defect", "object", "prompt", "seed", "preset", "adapt", "background_psnr", "seam",
    "edit_strength", "model",
}  # fmt: skip
"""What every line of a manifest holds."""


def check_folder(out: Path, data: Path, count: int) -> None:
    """Images, masks and manifest agree; outside the windows every pixel is the source's."""
    records = manifest(out)
    assert [record["index"] for record in records] == list(range(count))
    assert len(list(out.glob("train/s*/*.png"))) == len(list((out / "ground_truth").rglob("*.png"))) == count
    for index, record in enumerate(records):
        assert record["image"] == f"train/{record['defect']}/{index:06d}.png"
        assert record["mask"] == f"ground_truth/{record['defect']}/{index:06d}_mask.png"
        image, source = read_picture(out / record["image"]), read_picture(data / record["source"])
        with Image.open(out / record["mask"]) as file:
            assert file.mode == "L"
            values = np.asarray(file)
        assert values.shape == image.size == source.size
        assert np.array_equal(np.unique(values), [0, 255])
        mask = values > 0
        assert image.grey == source.grey
        top, left, side = record["window"]
        outside = np.ones_like(mask)
        outside[max(0, top) : top + side, max(0, left) : left + side] = False
        assert np.array_equal(image.pixels[outside], source.pixels[outside])
        assert not outside[mask].any()
        assert not np.array_equal(image.pixels[mask], source.pixels[mask])
        # The scores are those of the files.
        psnr = background_psnr(image.pixels, source.pixels, mask)
        assert record["background_psnr"] == pytest.approx(psnr, abs=1e-3)
        assert record["seam"] == pytest.approx(seam(image.pixels, mask), abs=1e-3)


def test_a_generated_folder_is_a_data_set_with_a_manifest(generated: Path, data: Path, run: Path) -> None:
    assert {path.name for path in generated.iterdir()} - {"rejected.jsonl"} == {
        "train", "ground_truth", "manifest.jsonl", "settings.json", "reports"
    }  # fmt: skip
    check_folder(generated, data, 6)
    records = manifest(generated)
    assert all(record.keys() >= KEYS for record in records)
    assert [record["defect"] for record in records] == 3 * ["scratch", "spot"]
    assert {record["prompt"] for record in records} == {
        "woven cloth, a woven cloth with a scratch",
        "woven cloth, a woven cloth with a spot",
    }
    assert {(record["object"], record["seed"], record["preset"], record["adapt"]) for record in records} == {
        ("woven cloth", 0, "fast", FAST.adaptation.method)
    }
    assert len({record["model"] for record in records}) == 1


def test_sheet_and_page_show_the_images(generated: Path) -> None:
    with Image.open(generated / "reports" / "contact_sheet.jpg") as sheet:
        sheet.load()
        assert sheet.height > 6 * 40
    page = (generated / "reports" / "index.html").read_text(encoding="utf-8")
    assert [record["image"] for record in manifest(generated) if f'"../{record["image"]}"' not in page] == []


def test_the_folder_is_a_data_set_as_it_lies(adabldm: Adabldm, generated: Path, data: Path) -> None:
    found = json.loads(adabldm("inspect", generated, "--json").out)
    assert (found["format"], found["problems"], found["notes"]) == ("mvtec", [], [])
    rows = {(row["split"], row["defect"]): (row["images"], row["masks"]) for row in found["rows"]}
    assert rows == {("train", "good"): (6, 0), ("train", "scratch"): (3, 3), ("train", "spot"): (3, 3)}
    sources = sorted((data / "train" / "good").iterdir())
    assert [(generated / "train" / "good" / path.name).samefile(path) for path in sources] == [True] * 6
    masks = {record["mask"] for record in manifest(generated)}
    images = {record["image"] for record in manifest(generated)}
    pictures = {path.relative_to(generated).as_posix() for path in generated.rglob("*.png")}
    assert pictures == masks | images | {f"train/good/{path.name}" for path in sources}  # nothing else is counted


def test_where_defects_and_sources_stand_can_be_chosen(
    adabldm: Adabldm, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    call = ("generate", run, "--data", data, *GENERATE)
    tested, bare = tmp_path / "tested", tmp_path / "bare"
    assert adabldm(*call, "--out", tested, "--split", "test", "--good", "copy").code == 0
    for record, same in zip(manifest(tested), manifest(generated), strict=True):
        assert record["image"] == f"test/{record['defect']}/{record['index']:06d}.png"
        assert (tested / record["image"]).read_bytes() == (generated / same["image"]).read_bytes()
    source = next((data / "train" / "good").iterdir())
    assert (tested / "train" / "good" / source.name).read_bytes() == source.read_bytes()
    assert not (tested / "train" / "good" / source.name).samefile(source)
    found = json.loads(adabldm("inspect", tested, "--json").out)
    assert {row["defect"]: row["split"] for row in found["rows"]} == {
        "good": "train",
        "scratch": "test",
        "spot": "test",
    }
    before = contents(tested)
    assert adabldm(*call, "--out", tested).code == 0  # goes on as the folder is
    assert contents(tested) == before
    refused = adabldm(*call, "--out", tested, "--split", "train")
    assert (refused.code, 'split was "test", is now "train"' in refused.err) == (2, True)
    assert adabldm(*call, "--out", bare, "--good", "none", "--count", 1).code == 0
    assert [path.name for path in (bare / "train").iterdir()] == ["scratch"]


def test_a_folder_of_a_former_version_goes_on(
    adabldm: Adabldm, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    """It had its images in `test`, said so nowhere, and its reports lay beside the manifest."""
    call, out = ("generate", run, "--data", data, *GENERATE), tmp_path / "out"
    assert adabldm(*call, "--out", out, "--split", "test", "--count", 4, "--good", "none").code == 0
    values = json.loads((out / "settings.json").read_text())
    assert values.pop("split") == "test"
    (out / "settings.json").write_text(json.dumps(values))
    shutil.rmtree(out / "reports")
    for name in ("contact_sheet.png", "index.html"):
        (out / name).write_bytes(b"old")
    assert adabldm(*call, "--out", out, "--count", 5).code == 0
    assert "split" not in json.loads((out / "settings.json").read_text())
    assert [record["image"][:5] for record in manifest(out)] == ["test/"] * 5
    assert {path.name for path in out.iterdir()} - {"rejected.jsonl"} == {
        "test", "train", "ground_truth", "manifest.jsonl", "settings.json", "reports"
    }  # fmt: skip
    refused = adabldm(*call, "--out", out, "--split", "train")
    assert (refused.code, 'split was "test", is now "train"' in refused.err) == (2, True)
    exported = adabldm("export", out, "--to", "coco", "--out", tmp_path / "coco", "--quiet")
    assert (exported.code, len(list((tmp_path / "coco" / "train").iterdir()))) == (0, 5)


def test_standard_output_is_the_folder_and_the_rest_goes_to_standard_error(
    adabldm: Adabldm, run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = adabldm("generate", run, "--data", data, "--out", "here", "--count", 1, "--batch-size", 1)
    assert result.code == 0
    assert result.out.splitlines() == [str(tmp_path / "here")]
    assert [word for word in ("1 images made", "contact_sheet.jpg", "index.html") if word not in result.err] == []


def test_defect_types_can_be_chosen(adabldm: Adabldm, run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--count", 2, "--batch-size", 2, "--defect", "spot", "--defect", "spot", "--prompt", "a dark spot")
    assert adabldm("generate", run, "--data", data, "--out", out, *options).code == 0
    assert [(record["defect"], record["prompt"]) for record in manifest(out)] == 2 * [("spot", "a dark spot")]
    check_folder(out, data, 2)


@pytest.mark.parametrize("adapt", ADAPTATIONS)
def test_every_decoder_adaptation(adabldm: Adabldm, run: Path, data: Path, tmp_path: Path, adapt: str) -> None:
    out = tmp_path / "out"
    options = ("--count", 1, "--batch-size", 1, "--set", "look=none", "--set", "put_back.feather=0,0", "--adapt", adapt)
    if adapt == "finetune":
        options += ("--set", "adaptation.steps=60")
    assert adabldm("generate", run, "--data", data, "--out", out, *options).code == 0
    check_folder(out, data, 1)
    (record,) = manifest(out)
    assert record["adapt"] == adapt
    # Only without adaptation the decoder's own background stays; some ways leave the defect as it was decoded.
    assert (record["background_psnr"] < 25) == (adapt == "none")
    assert (record["defect_fidelity"] == 100) == (adapt in {"none", "residual"})


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_every_preset(adabldm: Adabldm, run: Path, data: Path, tmp_path: Path, preset: str) -> None:
    out = tmp_path / "out"
    options = ("--count", 1, "--preset", preset, "--set", "adaptation.steps=60")
    assert adabldm("generate", run, "--data", data, "--out", out, *options).code == 0
    check_folder(out, data, 1)
    (record,) = manifest(out)
    assert (record["preset"].split()[0], record["adapt"]) == (preset, "finetune")


@pytest.mark.parametrize(
    "options",
    [("--window", "full"), ("--masks", "procedural"), ("--placement", "real"), ("--set", "look=none")],
    ids=lambda options: options[0],
)
def test_options_that_change_the_scene(
    adabldm: Adabldm, run: Path, data: Path, generated: Path, tmp_path: Path, options: tuple[str, str]
) -> None:
    out = tmp_path / "out"
    result = adabldm("generate", run, "--data", data, "--out", out, "--count", 2, "--batch-size", 2, *options)
    assert result.code == 0, result.err
    check_folder(out, data, 2)
    first = manifest(generated)[0]
    assert (out / first["image"]).read_bytes() != (generated / first["image"]).read_bytes()


@pytest.mark.parametrize(("options", "said"), [(("--set", "look.start=2"), False), ((), True)])
def test_guidance_that_changes_nothing_is_said(
    adabldm: Adabldm, run: Path, data: Path, tmp_path: Path, options: tuple[str, ...], said: bool
) -> None:
    pictures = []
    for guidance in ("1", "3"):
        out = tmp_path / guidance
        result = adabldm("generate", run, "--data", data, "--out", out, "--count", 1, "--guidance", guidance, *options)
        assert result.code == 0, result.err
        assert ("--guidance changes nothing" in result.err) == said
        pictures.append((out / manifest(out)[0]["image"]).read_bytes())
    assert (pictures[0] == pictures[1]) == said


def test_the_precision_that_is_asked_for_is_used(adabldm: Adabldm, run: Path, data: Path, tmp_path: Path) -> None:
    records = {}
    for dtype in ("float32", "bfloat16"):
        out = tmp_path / dtype
        result = adabldm("generate", run, "--data", data, "--out", out, "--count", 1, "--dtype", dtype)
        assert result.code == 0, result.err
        assert json.loads((out / "settings.json").read_text())["dtype"] == dtype
        records[dtype] = read_picture(out / manifest(out)[0]["image"]).pixels.astype(int)
    difference = np.abs(records["float32"] - records["bfloat16"])
    assert difference.max() > 0
    assert difference.mean() < 0.5


def as_saved(mode: str, pixels: np.ndarray) -> Image.Image:
    """A picture in one of the forms that cameras and tools write."""
    if mode == "sixteen":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(pixels).quantize(64) if mode == "P" else Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(("mode", "saved"), [("L", "L"), ("sixteen", "I;16"), ("RGBA", "RGB"), ("P", "RGB")])
def test_sources_of_every_form(adabldm: Adabldm, run: Path, tmp_path: Path, mode: str, saved: str) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    good = root / "train" / "good" / "mit Lücke.png"
    good.parent.mkdir(parents=True)
    picture = as_saved(mode, texture((96, 128), np.random.default_rng(0)))
    picture.save(good)
    options = ("--count", 1, "--batch-size", 1, "--foreground", "texture")
    result = adabldm("generate", run, "--data", root, "--out", out, *options)
    assert result.code == 0, result.err
    assert "procedural" in result.err
    check_folder(out, root, 1)
    (record,) = manifest(out)
    assert record["source"] == "train/good/mit Lücke.png"
    top, left, side = record["window"]
    outside = np.ones((96, 128), bool)
    outside[max(0, top) : top + side, max(0, left) : left + side] = False
    expected = np.asarray(picture if mode == "sixteen" else picture.convert(saved))
    with Image.open(out / record["image"]) as image:
        assert image.mode == saved
        assert np.array_equal(np.asarray(image)[outside], expected[outside])


@pytest.mark.parametrize("size", [(20, 24), (18, 200), (400, 300)])
def test_images_of_any_size(adabldm: Adabldm, run: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    save(root / "train" / "good" / "0.png", texture(size, np.random.default_rng(0)))
    options = ("--count", 2, "--batch-size", 2, "--foreground", "texture")
    result = adabldm("generate", run, "--data", root, "--out", out, *options)
    assert result.code == 0, result.err
    check_folder(out, root, 2)


def test_mixed_sizes_and_grey_levels_in_one_batch(adabldm: Adabldm, run: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    for index, size in enumerate([(64, 64), (96, 128), (40, 200)]):
        save(root / "train" / "good" / f"{index}.png", texture(size, np.random.default_rng(index)), grey=index == 1)
    options = ("--count", 8, "--batch-size", 8, "--foreground", "texture", *ANYTHING)
    assert adabldm("generate", run, "--data", root, "--out", out, *options).code == 0
    assert len({record["source"] for record in manifest(out)}) == 3
    check_folder(out, root, 8)


def test_a_mask_threshold_reads_soft_masks(adabldm: Adabldm, run: Path, tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "data", good=2, defects={"spot": 1})
    path = root / "ground_truth" / "spot" / "000_mask.png"
    with Image.open(path) as image:
        hard = np.asarray(image)
    soft = cv2.GaussianBlur(hard, (9, 9), 0)
    Image.fromarray(soft).save(path)
    options = ("generate", run, "--data", root, "--count", 1, "--batch-size", 1, "--defect", "spot")
    refused = adabldm(*options, "--out", tmp_path / "refused")
    assert refused.code == 2
    assert [word for word in (str(path), "not binary", "--mask-threshold") if word not in refused.err] == []
    assert not (tmp_path / "refused").exists()
    assert adabldm(*options, "--out", tmp_path / "out", "--mask-threshold", 127).code == 0
    check_folder(tmp_path / "out", root, 1)


# Interruptions, order, workers

BARE = ("--set", "put_back.feather=0,0", "--adapt", "none", "--guidance", "1")
ONE_BY_ONE = ("--count", "8", "--batch-size", "1", *BARE, "--quiet")


@pytest.fixture(scope="session")
def one_by_one(tmp_path_factory: pytest.TempPathFactory, run: Path, data: Path) -> Path:
    """Eight images made one by one, none of them accepted, for the bare decoder changes the background. Read only."""
    out = tmp_path_factory.mktemp("one-by-one") / "images"
    assert run_command("generate", run, "--data", data, "--out", out, *ONE_BY_ONE) == 0
    return out


def test_what_was_rejected_is_written_down_with_the_reason(one_by_one: Path, data: Path) -> None:
    check_folder(one_by_one, data, 8)
    assert not any(record["accepted"] for record in manifest(one_by_one))
    lines = [json.loads(line) for line in (one_by_one / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["index"], line["attempt"]) for line in lines] == [(i, k) for i in range(8) for k in range(4)]
    assert all("expected" in line["reason"] and (data / line["source"]).is_file() for line in lines)


def test_a_killed_run_goes_on_with_the_same_bytes(
    adabldm: Adabldm, run: Path, data: Path, one_by_one: Path, tmp_path: Path
) -> None:
    out = tmp_path / "images"
    options = ("generate", run, "--data", data, "--out", out, *ONE_BY_ONE)

    def lines() -> int:
        place = out / "manifest.jsonl"
        return place.read_bytes().count(b"\n") if place.exists() else 0

    kill_when(lambda: lines() >= 2, *options)
    done = lines()
    assert 2 <= done < 8
    kept = {name: (out / name).stat().st_mtime_ns for record in manifest(out)[:done] for name in [record["image"]]}
    # As if it had died while it wrote an image and a line.
    (out / "train" / "scratch" / ".adabldm-part-77").write_bytes(b"\x89PNG")
    with (out / "manifest.jsonl").open("ab") as file:
        file.write(b'{"image": "train/sc')
    result = adabldm(*options)
    assert result.code == 0, result.err
    assert f"{8 - done} images made" in result.err
    assert f"{done} were there" in result.err
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    assert contents(out) == contents(one_by_one)


def test_lost_files_are_made_again_with_the_same_bytes(
    adabldm: Adabldm, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "images"
    shutil.copytree(generated, out)
    records = manifest(generated)
    (out / records[1]["image"]).unlink()
    (out / records[4]["mask"]).unlink()
    (out / "reports" / "index.html").unlink()
    result = adabldm("generate", run, "--data", data, "--out", out, *GENERATE)
    assert result.code == 0
    assert "1 images made" in result.err
    assert "1 images were deleted (1) and stay away" in result.err
    assert not (out / records[1]["image"]).exists()
    assert manifest(out) == records
    result = adabldm("generate", run, "--data", data, "--out", out, *GENERATE, "--restore-deleted")
    assert "1 images made" in result.err
    assert contents(out) == contents(generated)


def test_a_lost_manifest_is_made_again_with_the_same_bytes(
    adabldm: Adabldm, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "images"
    shutil.copytree(generated, out)
    lines = (out / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (out / "manifest.jsonl").write_bytes(b"".join([lines[5], lines[0], lines[2][:40]]))
    result = adabldm("generate", run, "--data", data, "--out", out, *GENERATE)
    assert result.code == 0, result.err
    assert "the last line was torn" in result.err
    assert contents(out) == contents(generated)


def test_a_finished_folder_is_left_as_it_is(
    adabldm: Adabldm, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "images"
    shutil.copytree(generated, out)
    result = adabldm("generate", run, "--data", data, "--out", out, *GENERATE)
    assert result.code == 0
    assert "0 images made, 6 were there" in result.err
    assert result.out.splitlines()[-1] == str(out)
    assert contents(out) == contents(generated)


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_threads_changes_nothing(
    adabldm: Adabldm, run: Path, data: Path, generated: Path, tmp_path: Path, workers: int
) -> None:
    out = tmp_path / "images"
    options = (*GENERATE, "--threads", workers)
    assert adabldm("generate", run, "--data", data, "--out", out, *options).code == 0
    assert contents(out) == contents(generated)


def test_a_larger_count_keeps_what_was_there(
    adabldm: Adabldm, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    """Three images, cut off in the middle of a batch, then all six: as if they had been made at once."""
    out = tmp_path / "images"
    options = ("generate", run, "--data", data, "--out", out, *GENERATE)
    assert adabldm(*options, "--count", 3).code == 0
    check_folder(out, data, 3)
    early = contents(out / "train") | contents(out / "ground_truth")
    late = contents(generated / "train") | contents(generated / "ground_truth")
    assert len(early) == 12
    assert {name: late[name] for name in early} == early
    assert adabldm(*options).code == 0
    assert contents(out) == contents(generated)


def test_another_batch_size_moves_a_pixel_by_one_grey_level_at_most(
    adabldm: Adabldm, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "images"
    options = (*GENERATE, "--batch-size", 6)
    assert adabldm("generate", run, "--data", data, "--out", out, *options).code == 0
    for first, second in zip(manifest(generated), manifest(out), strict=True):
        assert {key: first[key] for key in ("image", "source", "attempt", "window")} == {
            key: second[key] for key in ("image", "source", "attempt", "window")
        }
        assert (generated / first["mask"]).read_bytes() == (out / first["mask"]).read_bytes()
        pixels = [read_picture(folder / first["image"]).pixels.astype(int) for folder in (generated, out)]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_another_seed_makes_other_images(
    adabldm: Adabldm, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "images"
    options = (*GENERATE, "--count", 2, "--seed", 1)
    assert adabldm("generate", run, "--data", data, "--out", out, *options).code == 0
    mine, other = contents(out / "ground_truth"), contents(generated / "ground_truth")
    assert len(mine) == 2
    assert all(other[name] != value for name, value in mine.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seed", 1), "seed was 0, is now 1"),
        (("--batch-size", 3), "batch_size was 2, is now 3"),
        (("--adapt", "none"), f'preset.adaptation.method was "{FAST.adaptation.method}", is now "none"'),
        (("--guidance", 7.5), "preset.guidance.scale was {scale}, is now 7.5"),
        (("--preset", "paper"), 'preset.name was "fast", is now "paper"'),
        (("--masks", "procedural"), 'masks was "bank", is now "procedural"'),
        (("--placement", "real"), 'placement was "auto", is now "real"'),
        (("--window", "full"), 'window was "auto", is now "full"'),
        (("--mask-threshold", 9), "mask_threshold was null, is now 9"),
        (("--defect", "spot"), 'types was ["scratch", "spot"], is now ["spot"]'),
        (("--defect", "spot", "--defect", "scratch"), 'is now ["spot", "scratch"]'),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_folder_of_other_settings_is_refused_by_name(
    adabldm: Adabldm, run: Path, data: Path, generated: Path, options: tuple[object, ...], words: str
) -> None:
    before = contents(generated)
    words = words.replace("{scale}", str(settled(FAST, read_card(run).calibration).guidance.scale))
    result = adabldm("generate", run, "--data", data, "--out", generated, *GENERATE, *options)
    assert (result.code, result.out) == (2, "")
    assert [word for word in (str(generated), words, "another --out") if word not in result.err] == []
    assert contents(generated) == before


def test_a_folder_of_another_model_or_other_sources_is_refused_by_name(
    adabldm: Adabldm, run: Path, data: Path, base: Path, generated: Path, tmp_path: Path
) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    shutil.rmtree(other / "unet")
    shutil.copytree(base / "unet", other / "unet")
    write_card(other, read_card(other))  # with the digests of its present files
    result = adabldm("generate", other, "--data", data, "--out", generated, *GENERATE)
    assert result.code == 2
    assert 'model was "' in result.err
    fewer = tmp_path / "data"
    shutil.copytree(data, fewer)
    (fewer / "train" / "good" / "003.png").unlink()
    result = adabldm("generate", run, "--data", fewer, "--out", generated, *GENERATE)
    assert result.code == 2
    assert 'sources was "6 images' in result.err


def test_a_full_disk_loses_nothing_finished(
    adabldm: Adabldm, run: Path, data: Path, generated: Path, small_disk: Callable[[str], SmallDisk]
) -> None:
    disk = small_disk("72k")  # two or three of the six images
    out = disk.place / "images"
    options = ("generate", run, "--data", data, "--out", out, *GENERATE, "--good", "none")
    result = adabldm(*options)
    assert (result.code, result.out) == (2, "")
    message = result.err.splitlines()[-1]
    assert [word for word in ("adabldm: ", str(out), "free some space", "same command") if word not in message] == []
    names = contents(out)
    assert not [name for name in names if TEMPORARY in name]
    expected = contents(generated)
    pictures = {name: value for name, value in names.items() if name.endswith(".png")}
    assert {name: expected[name] for name in pictures} == pictures
    finished = len(manifest(out))
    assert 0 < finished < 6
    disk.grow("16m")
    result = adabldm(*options[:-2])  # the defect-free images are copies there
    assert result.code == 0, result.err
    assert f"{finished} were there" in result.err
    assert contents(out) == expected


def test_windows_are_edited_at_the_real_defects_exposure_and_begin_from_it(
    run: Path, data: Path, tmp_path: Path
) -> None:
    fast, paper = tmp_path / "fast", tmp_path / "paper"
    plan = StagePlan(steps=2, latent_stage=(0, 2), image_stage=(1, 2))
    short = EditPreset(name="paper", plan=plan, adaptation=NoAdaptation())
    for out, preset in ((fast, FAST), (paper, short)):
        generate(GenerateSettings(run=str(run), data=data, out=out, count=4, preset=preset, batch_size=2))
    for record in manifest(fast):
        brightness = []
        for image, mask in ((f"train/{record['defect']}/{record['shape'].replace('_mask', '')}", record["shape"]),):
            real = read_picture(data / image).pixels
            brightness.append(_around(real, read_mask(data / "ground_truth" / record["defect"] / mask)))
        source = read_picture(data / record["source"]).pixels
        brightness.append(_around(source, read_mask(fast / record["mask"])))
        assert record["exposure"] == pytest.approx(brightness[0] / brightness[1], abs=1e-3)
    assert any(abs(record["exposure"] - 1) > 0.01 for record in manifest(fast))
    assert {record["exposure"] for record in manifest(paper)} == {1.0}
    for record in manifest(fast):
        assert record["reference"] == f"train/{record['defect']}/{record['shape'].replace('_mask', '')}"
        assert (data / record["reference"]).is_file()
    assert {record.get("reference") for record in manifest(paper)} == {None}
    changes = RealChanges(open_data_set(data, ReadOptions(split="train")))
    for record in manifest(fast):
        examples = changes.examples(record["defect"])
        (example,) = [one for one in examples if one.defect.mask.name == record["shape"]]
        ranges = changes.ranges(record["defect"], example)
        assert ranges is not None
        for value, (least, most) in zip((record["strength"], record["tone"]), ranges, strict=True):
            assert least - 1e-4 <= value <= most + 1e-4
    assert len({record["strength"] for record in manifest(fast)}) == len(manifest(fast))
    assert {(record["strength"], record["tone"]) for record in manifest(paper)} == {(1.0, 1.0)}


def _around(pixels: Pixels, mask: Mask) -> float:
    """Median over the pixels that are at most 8 rows and 8 columns from the mask, and not in it."""
    near = {
        (y, x)
        for row, column in np.argwhere(mask).tolist()
        for y in range(max(0, row - 8), min(mask.shape[0], row + 9))
        for x in range(max(0, column - 8), min(mask.shape[1], column + 9))
        if not mask[y, x]
    }
    return float(np.median([pixels[place] for place in near]))
