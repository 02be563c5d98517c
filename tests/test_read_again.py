"""What we write is read by anomalib, Ultralytics and supervision; optional, because they need torchvision."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import GENERATE, manifest, run_command
from test_docs import blocks

from adabldm.core.mask_files import read_mask

READERS = os.environ.get("ADABLDM_READERS") or None
if READERS is not None and shutil.which(READERS) is None:
    pytest.exit(
        f"ADABLDM_READERS={READERS}: no program, expected the Python of an environment with anomalib, ultralytics and "
        "supervision; correct or unset it.",
        returncode=2,
    )
pytestmark = pytest.mark.skipif(
    READERS is None,
    reason="ADABLDM_READERS is not set: the Python of an environment with anomalib, ultralytics and supervision",
)


def read(reader: str, root: Path) -> Any:
    command = [str(READERS), str(Path(__file__).with_name("read_again.py")), reader, str(root)]
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    variables["YOLO_CONFIG_DIR"] = str(root.parent)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables, cwd=root.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def check_anomalib(found: dict[str, Any], names: set[str], behind: str = "_mask") -> None:
    assert (found["train"] > 0, found["normal_only"]) == (True, True)
    assert {image for image, _ in found["pairs"]} == names
    assert [mask for _, mask in found["pairs"]] == [f"{image}{behind}" for image, _ in found["pairs"]]
    assert found["mask_shape"] == [96, 128]
    assert found["mask_pixels"] > 0


def test_anomalib_reads_the_folder_as_it_lies(generated: Path) -> None:
    check_anomalib(read("folder", generated), {f"{index:06d}" for index in range(6)})


def test_anomalib_reads_a_folder_for_tests_as_it_lies(run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"
    assert run_command("generate", run, "--data", data, "--out", out, *GENERATE, "--split", "test") == 0
    for reader in ("mvtec_ad", "folder"):
        check_anomalib(read(reader, out), {f"{index:06d}" for index in range(6)})


@pytest.mark.parametrize("split", ["train", "test"])
def test_anomalib_reads_images_with_several_defects(run: Path, data: Path, tmp_path: Path, split: str) -> None:
    out = tmp_path / "made"
    options = ("--count", 6, "--batch-size", 3, "--per-image", "1-3", "--mix", "--quiet", "--split", split)
    assert run_command("generate", run, "--data", data, "--out", out, *options) == 0
    records = manifest(out)
    assert {"combined", "scratch"} <= {line["defect"] for line in records}
    pixels = sum(int(read_mask(out / line["mask"]).sum()) for line in records)
    for reader in ("folder", "mvtec_ad") if split == "test" else ("folder",):
        found = read(reader, out)
        check_anomalib(found, {f"{index:06d}" for index in range(6)})
        assert found["all_mask_pixels"] == pixels


def test_anomalib_takes_the_documented_calls(generated: Path, run: Path, data: Path, tmp_path: Path) -> None:
    """The blocks of the documentation, on a folder `more` as it lies: as usual, then made for tests."""
    page = Path(__file__).parents[1] / "docs" / "how-to" / "export.md"
    as_usual, for_tests = (text for _, text in blocks(page, "python"))
    shutil.copytree(generated, tmp_path / "usual" / "more")
    made = tmp_path / "tests" / "more"
    assert run_command("generate", run, "--data", data, "--out", made, *GENERATE, "--split", "test") == 0
    for folder, text in ((tmp_path / "usual", as_usual), (made.parent, for_tests)):
        asked = (
            "data.prepare_data()\ndata.setup()\nprint(len(data.train_data.samples), data.test_data.samples.mask_path)"
        )
        command = [str(READERS), "-c", f"{text}\n{asked}"]
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables, cwd=folder)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.splitlines()[-1].strip()
        assert "_mask.png" in done.stdout


def test_anomalib_refuses_defects_in_train(generated: Path) -> None:
    """As the documentation says; should it learn to read them, the documentation can say that."""
    command = [str(READERS), str(Path(__file__).with_name("read_again.py")), "mvtec_ad", str(generated)]
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables, cwd=generated.parent)
    assert done.returncode != 0
    assert "make_mvtec_ad_dataset" in done.stderr


@pytest.mark.parametrize("validation", [0, 0.3])
def test_anomalib_reads_an_export(generated: Path, data: Path, tmp_path: Path, validation: float) -> None:
    out = tmp_path / "out"
    options = ("--with", data, "--validation", validation, "--quiet")
    assert run_command("export", generated, "--to", "anomalib", "--out", out, *options) == 0
    category = out / "woven_cloth"
    names = {path.stem for path in category.glob("test/*/*.png") if path.parent.name != "good"}
    check_anomalib(read("mvtec_ad", category), names, behind="")


def test_ultralytics_checks_an_export(generated: Path, tmp_path: Path) -> None:
    out = tmp_path / "yolo"
    assert run_command("export", generated, "--to", "yolo-seg", "--out", out, "--validation", 0.3, "--quiet") == 0
    found = read("ultralytics", out)
    assert found["names"] == {"0": "scratch", "1": "spot"}
    lines = [len(path.read_text().splitlines()) for path in out.glob("labels/*/*.txt")]
    assert found["train"]["images"] + found["val"]["images"] == len(lines) == 6
    assert found["train"]["polygons"] + found["val"]["polygons"] == sum(lines)


def test_supervision_reads_an_export(generated: Path, tmp_path: Path) -> None:
    """Of run lengths, that is: it draws the outlines of polygons too, which makes thin defects fatter."""
    out = tmp_path / "coco"
    assert run_command("export", generated, "--to", "coco", "--out", out, "--segmentation", "rle", "--quiet") == 0
    found = read("supervision", out)
    masks = {Path(line["image"]).stem: int(read_mask(generated / line["mask"]).sum()) for line in manifest(generated)}
    assert found["images"] == 6
    assert found["pixels"] == masks
