"""Bad input through the command line: exit code 2, a clear sentence for each problem, nothing written or trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import FIT, Adabldm, Result, contents, write_base
from fabricate import save, texture
from PIL import Image

Break = Callable[[Path], Path]
"""Damages a data set and returns the path that the message must name."""


def no_good_images(root: Path) -> Path:
    shutil.rmtree(root / "train" / "good")
    return root / "train" / "good"


def empty_good_folder(root: Path) -> Path:
    for path in (root / "train" / "good").iterdir():
        path.unlink()
    return root / "train" / "good"


def image_without_mask(root: Path) -> Path:
    (root / "ground_truth" / "spot" / "001_mask.png").unlink()
    return root / "train" / "spot" / "001.png"


def mask_of_another_size(root: Path) -> Path:
    return save(root / "ground_truth" / "spot" / "001_mask.png", np.eye(60, 70, dtype=np.uint8) * 255)


def empty_mask(root: Path) -> Path:
    return save(root / "ground_truth" / "spot" / "001_mask.png", np.zeros((96, 128), np.uint8))


def soft_mask(root: Path) -> Path:
    values = np.tile(np.arange(128, dtype=np.uint8) * 2, (96, 1))
    return save(root / "ground_truth" / "spot" / "001_mask.png", values)


def truncated_image(root: Path) -> Path:
    path = root / "train" / "good" / "003.png"
    path.write_bytes(path.read_bytes()[:-400])
    return path


def truncated_mask(root: Path) -> Path:
    path = root / "ground_truth" / "scratch" / "002_mask.png"
    path.write_bytes(path.read_bytes()[:50])
    return path


def no_image_at_all(root: Path) -> Path:
    path = root / "train" / "good" / "notes.png"
    path.write_text("remember to clean the lens", encoding="utf-8")
    return path


def too_small_image(root: Path) -> Path:
    return save(root / "train" / "good" / "003.png", np.full((10, 200, 3), 90, np.uint8))


def two_masks(root: Path) -> Path:
    shutil.copy(root / "ground_truth" / "spot" / "001_mask.png", root / "ground_truth" / "spot" / "001.png")
    return root / "train" / "spot" / "001.png"


BROKEN: dict[Break, list[str]] = {
    no_good_images: ["missing", "defect-free images", "put them there"],
    empty_good_folder: ["empty", "defect-free images", "put them there"],
    image_without_mask: [
        "no mask",
        "ground_truth/spot/001_mask.png",
        "adabldm studio --data",
        "--boxes grabcut",
        "or remove",
    ],
    mask_of_another_size: ["60 x 70", "96 x 128", "export the mask"],
    empty_mask: ["mask is empty", "draw it or remove"],
    soft_mask: ["not binary", "--mask-threshold 127"],
    truncated_image: ["not a readable image", "replace or remove"],
    truncated_mask: ["not a readable image", "replace or remove"],
    no_image_at_all: ["not a readable image", "replace or remove"],
    too_small_image: ["10 x 200", "at least 16", "replace or remove"],
    two_masks: ["two masks", "remove the wrong one"],
}


def check_refused(result: Result, *words: str, out: Path | None = None) -> None:
    """Left with 2, one line on standard error that holds all `words`, nothing on standard output, no folder `out`."""
    assert (result.code, result.out) == (2, "")
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("adabldm: ")
    assert lines[0].endswith(".")
    assert [word for word in words if word not in lines[0]] == [], lines[0]
    assert out is None or not out.exists()


@pytest.fixture
def mine(data: Path, tmp_path: Path) -> Path:
    """A copy of the data set that a test may damage."""
    root = tmp_path / "woven cloth"
    shutil.copytree(data, root)
    return root


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_broken_data_set(adabldm: Adabldm, mine: Path, run: Path, base: Path, tmp_path: Path, damage: Break) -> None:
    words = [str(damage(mine)), *BROKEN[damage]]
    out = tmp_path / "out"
    check_refused(adabldm("fit", mine, "--out", out, "--base", base, *FIT), *words, out=out)
    check_refused(adabldm("generate", run, "--data", mine, "--out", out, "--count", 1), *words, out=out)
    report = adabldm("inspect", mine)
    assert report.code == 2
    assert [word for word in words if word not in report.out] == []


def test_all_problems_of_a_data_set_are_told_in_one_go(
    adabldm: Adabldm, mine: Path, run: Path, base: Path, tmp_path: Path
) -> None:
    at_once = (image_without_mask, truncated_image, truncated_mask, no_image_at_all)
    named = {str(damage(mine)) for damage in at_once}
    out = tmp_path / "out"
    for command in (
        ("fit", mine, "--out", out, "--base", base, *FIT),
        ("generate", run, "--data", mine, "--out", out, "--count", 1),
    ):
        result = adabldm(*command)
        lines = result.err.splitlines()
        assert (result.code, result.out, len(lines)) == (2, "", 4)
        assert {line.removeprefix("adabldm: ").split(": ")[0] for line in lines} == named
        assert not out.exists()


def test_missing_folders_and_files_instead_of_folders(
    adabldm: Adabldm, data: Path, run: Path, base: Path, tmp_path: Path
) -> None:
    out, nowhere, file = tmp_path / "out", tmp_path / "nowhere", tmp_path / "file"
    file.write_text("here", encoding="utf-8")
    for place, words in ((nowhere, "no such folder"), (file, "a file, expected")):
        check_refused(adabldm("fit", place, "--out", out, "--base", base, *FIT), str(place), words, out=out)
        options = ("--data", place, "--out", out, "--count", 1)
        check_refused(adabldm("generate", run, *options), str(place), words, out=out)
    for place in (file, file / "below"):
        check_refused(adabldm("fit", data, "--out", place, "--base", base, *FIT), str(place), "another")
        check_refused(adabldm("generate", run, "--data", data, "--out", place, "--count", 1), str(place), "another")
    assert file.read_text(encoding="utf-8") == "here"


def test_a_data_set_without_defects_cannot_be_fitted(adabldm: Adabldm, mine: Path, base: Path, tmp_path: Path) -> None:
    for folder in ("scratch", "spot"):
        shutil.rmtree(mine / "train" / folder)
        shutil.rmtree(mine / "ground_truth" / folder)
    out = tmp_path / "out"
    result = adabldm("fit", mine, "--out", out, "--base", base, *FIT)
    check_refused(result, str(mine), "no defect images", "about ten of each type", "add some", out=out)


def test_a_threshold_above_every_mask_value(adabldm: Adabldm, mine: Path, base: Path, tmp_path: Path) -> None:
    path = save(mine / "ground_truth" / "spot" / "001_mask.png", np.eye(96, 128, dtype=np.uint8) * 90)
    options = ("--out", tmp_path / "out", "--base", base, *FIT, "--mask-threshold", 127)
    check_refused(adabldm("fit", mine, *options), str(path), "lower --mask-threshold", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--count", 0), ["--count: 0", "from 1 to"]),
        (("--workers", -3), ["--workers: -3", "from 1 to"]),
        (("--defect", "hole"), ["'hole'", "scratch, spot"]),
        (("--preset", "slow"), ["--preset: 'slow'", "fast, paper, released"]),
        (("--preset", "fast,start=0"), ["--preset: ", "--preset fast --set look=none"]),
        (("--set", "look.strengths=2,1"), ["--set: look.strengths: ", "smaller number first"]),
        (("--adapt", "magic"), ["--adapt: 'magic'", "residual", "finetune", "ridge", "none"]),
        (("--guidance", 0), ["--guidance: 0", "from 1 to 50"]),
        (("--masks", "drawn"), ["--masks: drawn", "bank, procedural"]),
        (("--device", "abacus"), ["--device: ", "abacus", "use cpu"]),
        (("--device", "cuda:99"), ["--device: ", "cuda:99", "use cpu"]),
        (("--mask-threshold", 300), ["--mask-threshold: 300", "0 to 254"]),
        (("--prompt", "scratch " * 500), ["tokens", "shorten"]),
        (("--foreground", "folder"), ["--foreground-folder: ", "foreground is folder"]),
        (("--foreground-folder", "masks"), ["--foreground-folder: ", "masks"]),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_generate_refuses(
    adabldm: Adabldm, run: Path, data: Path, tmp_path: Path, options: tuple[object, ...], words: list[str]
) -> None:
    out = tmp_path / "out"
    result = adabldm("generate", run, "--data", data, "--out", out, "--count", 2, *options)
    check_refused(result, *words, out=out)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preset", "slow"), ["--preset: 'slow'", "quick, standard, published"]),
        (("--preset", "paper"), ["--preset: 'paper'", "published"]),
        (("--set", "control.steps=0"), ["--set: control.steps: 0", "at least 1"]),
        (("--base", "nowhere"), ["--base", "nowhere", "no such folder", "'tiny'"]),
        (("--base", "nobody/nothing"), ["--base", "nobody/nothing", "hub", "'tiny'"]),
        (("--device", "abacus"), ["--device: ", "abacus", "use cpu"]),
        (("--shots", 0), ["--shots: 0", "at least 1"]),
        (("--object", " "), ["object name", "empty"]),
        (("--object", "cloth " * 500), ["object name", "too long"]),
        (("--object", "cloth " * 30), ["tokens", "shorten"]),
        (("--resolution", 20), ["--resolution: 20", "at least 32"]),
        (("--resolution", 36), ["--resolution", "36", "multiple of 8"]),
        (("--domain-steps", -1), ["--domain-steps: -1", "at least 0"]),
        (("--mask-threshold", 255), ["--mask-threshold: 255", "0 to 254"]),
        (("--foreground", "folder"), ["--foreground-folder: ", "foreground is folder"]),
        (("--foreground-folder", "masks"), ["--foreground-folder: ", "masks"]),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_fit_refuses(
    adabldm: Adabldm, data: Path, base: Path, tmp_path: Path, options: tuple[object, ...], words: list[str]
) -> None:
    out = tmp_path / "out"
    check_refused(adabldm("fit", data, "--out", out, "--base", base, *FIT, *options), *words, out=out)


def test_counts_of_at_least_one(adabldm: Adabldm, data: Path, base: Path, tmp_path: Path) -> None:
    names = ("examples", "control-steps", "batch-size", "checkpoint-every", "micro-batch", "preview-every")
    options = [part for name in names for part in (f"--{name}", 0)]
    result = adabldm("fit", data, "--out", tmp_path / "out", "--base", base, *FIT, *options)
    assert (result.code, result.out) == (2, "")
    told = {line.removeprefix("adabldm: ") for line in result.err.splitlines()}
    assert told == {f"--{name}: 0 was given, expected at least 1." for name in names}
    assert not (tmp_path / "out").exists()


def test_ready_foreground_masks_must_all_be_there(
    adabldm: Adabldm, data: Path, run: Path, base: Path, tmp_path: Path
) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    for index in range(6):
        save(masks / f"{index:03d}.png", np.full((96, 128), 255, np.uint8))
    ready = ("--foreground", "folder", "--foreground-folder", masks)
    assert adabldm("generate", run, "--data", data, "--out", tmp_path / "fine", "--count", 1, *ready).code == 0
    (masks / "004.png").unlink()
    words = (str(data / "train" / "good" / "004.png"), str(masks / "004.png"), "add it")
    check_refused(adabldm("generate", run, "--data", data, "--out", out, "--count", 1, *ready), *words, out=out)
    check_refused(adabldm("fit", data, "--out", out, "--base", base, *FIT, *ready), *words, out=out)


def test_a_mask_that_fits_on_no_source(adabldm: Adabldm, mine: Path, run: Path, tmp_path: Path) -> None:
    for path in (mine / "train" / "good").iterdir():
        save(path, texture((16, 20), np.random.default_rng(0)))
    out = tmp_path / "out"
    result = adabldm("generate", run, "--data", mine, "--out", out, "--count", 4, "--defect", "scratch")
    check_refused(result, "'scratch'", "too large", "20x16 px", "use larger images", out=out)


# Folders that hold something else


def test_a_folder_that_holds_something_else_is_left_alone(
    adabldm: Adabldm, run: Path, data: Path, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "letters"
    out.mkdir()
    (out / "letter.txt").write_text("Dear reader", encoding="utf-8")
    check_refused(adabldm("fit", data, "--out", out, "--base", base, *FIT), str(out), "not empty", "another --out")
    check_refused(
        adabldm("generate", run, "--data", data, "--out", out, "--count", 1), str(out), "not empty", "another --out"
    )
    assert contents(out) == {"letter.txt": b"Dear reader"}


def test_a_fit_is_not_begun_anew_by_accident(adabldm: Adabldm, run: Path, data: Path, base: Path) -> None:
    before = contents(run)
    result = adabldm("fit", data, "--out", run, "--base", base, *FIT)
    check_refused(result, str(run), "holds a fit already", "--resume")
    assert contents(run) == before


# Damaged models


def cut_in_half(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.fixture
def my_run(run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "name", ["controlnet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "vae/config.json"]
)
def test_a_damaged_run(adabldm: Adabldm, my_run: Path, data: Path, tmp_path: Path, name: str) -> None:
    part = cut_in_half(my_run / name).parent
    out = tmp_path / "out"
    result = adabldm("generate", my_run, "--data", data, "--out", out, "--count", 1)
    check_refused(result, str(part), "changed since", "copy the run again", out=out)


def test_a_damaged_card(adabldm: Adabldm, my_run: Path, data: Path, tmp_path: Path) -> None:
    card = cut_in_half(my_run / "adabldm.json")
    options = ("--data", data, "--out", tmp_path / "out", "--count", 1)
    check_refused(adabldm("generate", my_run, *options), str(card), "damaged", out=tmp_path / "out")


def test_runs_that_are_none(adabldm: Adabldm, my_run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--data", data, "--out", out, "--count", 1)
    nowhere = tmp_path / "nowhere"
    check_refused(adabldm("generate", nowhere, *options), str(nowhere), "no such run", "adabldm fit", out=out)
    (my_run / "adabldm.json").unlink()
    check_refused(adabldm("generate", my_run, *options), str(my_run), "no finished run", "--resume", out=out)


def test_a_control_branch_of_another_architecture(
    adabldm: Adabldm, my_run: Path, data: Path, base: Path, tmp_path: Path
) -> None:
    config = my_run / "unet" / "config.json"
    shutil.rmtree(my_run / "unet")
    shutil.copytree(write_base(tmp_path / "wide", channels=(24, 32)) / "unet", my_run / "unet")
    assert json.loads(config.read_text(encoding="utf-8"))["block_out_channels"] == [24, 32]
    out = tmp_path / "out"
    options = ("generate", my_run, "--data", data, "--out", out, "--count", 1)
    check_refused(adabldm(*options), str(config), "changed since", out=out)
    card = json.loads((my_run / "adabldm.json").read_text(encoding="utf-8"))
    del card["files"]  # as of a version that knew no digests
    (my_run / "adabldm.json").write_text(json.dumps(card), encoding="utf-8")
    check_refused(adabldm(*options), str(my_run), "control branch", "block_out_channels", "matching", out=out)


def test_a_damaged_checkpoint(adabldm: Adabldm, my_run: Path, data: Path, base: Path) -> None:
    path = cut_in_half(my_run / "checkpoints" / "domain.safetensors")
    result = adabldm("fit", data, "--out", my_run, "--base", base, *FIT, "--resume")
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith(f"adabldm: {path}: ")
    assert [word for word in ("damaged", "delete it") if word not in result.err] == []
    path.unlink()
    assert adabldm("fit", data, "--out", my_run, "--base", base, *FIT, "--resume").code == 0


def test_a_checkpoint_of_another_architecture(adabldm: Adabldm, my_run: Path, data: Path, base: Path) -> None:
    path = my_run / "checkpoints" / "domain.safetensors"
    shutil.copy(my_run / "checkpoints" / "control.safetensors", path)
    weights = contents(my_run / "unet")
    result = adabldm("fit", data, "--out", my_run, "--base", base, *FIT, "--resume")
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith(f"adabldm: {path}: ")
    assert [word for word in ("another architecture", "another --out") if word not in result.err] == []
    assert contents(my_run / "unet") == weights


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"])
def test_a_damaged_base(adabldm: Adabldm, data: Path, base: Path, tmp_path: Path, name: str) -> None:
    own, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(base, own)
    part = cut_in_half(own / name).parent
    result = adabldm("fit", data, "--out", out, "--base", own, *FIT)
    check_refused(result, str(part), "damaged", "copy it again", out=out)


def test_a_base_that_lacks_a_part_or_does_not_fit_together(
    adabldm: Adabldm, data: Path, base: Path, tmp_path: Path
) -> None:
    own, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(base, own)
    shutil.rmtree(own / "vae")
    check_refused(adabldm("fit", data, "--out", out, "--base", own, *FIT), str(own), "lacks vae", out=out)
    shutil.copytree(base / "vae", own / "vae")
    config = own / "text_encoder" / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**values, "hidden_size": 32}), encoding="utf-8")
    result = adabldm("fit", data, "--out", out, "--base", own, *FIT)
    assert (result.code, out.exists()) == (2, False)
    assert str(own) in result.err


def test_an_empty_folder_is_a_fine_place(adabldm: Adabldm, run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert adabldm("generate", run, "--data", data, "--out", out, "--count", 1, "--batch-size", 1).code == 0
    with Image.open(next(out.glob("train/s*/*.png"))) as image:
        assert image.size == (128, 96)
