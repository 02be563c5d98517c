"""`adabldm bench` through the command line: what it prints, and what bad input gets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Adabldm
from fabricate import write_data_set
from PIL import Image

from adabldm.core.events import Event, Progress
from adabldm.core.settings import BenchSettings
from adabldm.workflows.bench import bench

BENCH_KEYS = {"preset", "seconds_per_image", "peak_memory_mb", "background_psnr", "seam", "defect_fidelity"}
BENCH_MORE = {"tflop_per_image", "operations_ratio", "time_ratio", "stages"}


def test_bench_prints_json_and_nothing_else(adabldm: Adabldm, run: Path, data: Path, tmp_path: Path) -> None:
    sheet, trace = tmp_path / "sheet.png", tmp_path / "trace.json"
    options = ("--count", 1, "--preset", "fast", "--json", "--sheet", sheet, "--profile", trace)
    result = adabldm("bench", run, "--data", data, *options)
    assert result.code == 0
    found = json.loads(result.out)
    assert result.out.startswith("{")
    assert [row["preset"] for row in found["presets"]] == ["fast"]
    row = found["presets"][0]
    assert row.keys() >= BENCH_KEYS | BENCH_MORE
    assert all(row[key] > 0 for key in BENCH_KEYS - {"preset"})
    assert row["tflop_per_image"] > 0
    assert (row["time_ratio"], row["operations_ratio"]) == (1.0, 1.0)
    assert all(row["stages"][key] > 0 for key in ("control", "unet", "adapt", "put_back", "score"))
    assert found["dtype"] == "float32"
    assert not {"kid", "matmul_share"} & row.keys()
    assert sheet.stat().st_size > 0
    names = {event.get("name") for event in json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]}
    assert {"adabldm.unet", "adabldm.adapt"} <= names


def test_bench_prints_a_table(adabldm: Adabldm, run: Path, data: Path) -> None:
    options = ("--count", 1, "--preset", "fast", "--adapt", "none", "--dtype", "bfloat16")
    result = adabldm("bench", run, "--data", data, *options)
    assert result.code == 0
    assert "dtype bfloat16" in result.out
    assert "| fast | none |" in result.out
    assert "Seconds an image:\n\n| preset | prepare |" in result.out


def test_bench_compares_with_real_defects(adabldm: Adabldm, run: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics")
    tested = write_data_set(tmp_path / "cloth", good=2, defects={"spot": 2, "scratch": 3}, test=True)
    empty = sorted((tested / "ground_truth" / "scratch").glob("*.png"))[-1]
    Image.fromarray(np.zeros_like(np.asarray(Image.open(empty)))).save(empty)  # left out
    for folder, real in ((data, "6 train images"), (tested, "4 test images")):
        options = ("--count", 10, "--preset", "fast", "--adapt", "none", "--kid", "--json")
        result = adabldm("bench", run, "--data", folder, *options)
        assert result.code == 0, result.err
        found = json.loads(result.out)
        assert (found["kid_backbone"], found["kid_real"]) == ("EfficientNet-Lite0", real)
        assert all(isinstance(found["presets"][0][key], float) for key in ("kid", "kid_std"))


def test_bench_needs_real_defects_to_compare_with(adabldm: Adabldm, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics")
    good = write_data_set(tmp_path / "cloth", good=2, defects={})
    result = adabldm("bench", run, "--data", good, "--count", 10, "--preset", "fast", "--kid")
    assert (result.code, result.out) == (2, "")
    assert "--kid: " in result.err
    assert "0 real images of scratch, spot, expected at least 2" in result.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--count", "0"), ["--count: 0", "from 1 to"]),
        (("--preset", "slow"), ["--preset: 'slow'", "fast", "paper", "released"]),
        (("--adapt", "magic"), ["--adapt: 'magic'", "residual"]),
        (("--dtype", "int8"), ["--dtype: int8", "float32", "bfloat16"]),
        (("--kid", "--count", "9"), ["--count: 9", "at least 10"]),
        (("--profile", "."), ["--profile: .", "is a folder"]),
    ],
)
def test_bench_refuses(adabldm: Adabldm, run: Path, data: Path, options: tuple[str, ...], words: list[str]) -> None:
    result = adabldm("bench", run, "--data", data, *options)
    assert (result.code, result.out) == (2, "")
    assert [word for word in words if word not in result.err] == []


def test_the_demos_own_pictures_are_edited_if_no_data_is_given(adabldm: Adabldm) -> None:
    result = adabldm("bench", "--count", 1, "--preset", "fast", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert (found["run"], found["images"], found["schema"]) == ("magnetic-tile", 1, 1)
    assert [row["preset"] for row in found["presets"]] == ["fast"]


def test_presets_are_changed_by_name(adabldm: Adabldm, run: Path, data: Path) -> None:
    options = ("--count", 1, "--preset", "fast", "--set", "adaptation.method=residual", "--json")
    result = adabldm("bench", run, "--data", data, *options)
    assert result.code == 0, result.err
    (row,) = json.loads(result.out)["presets"]
    assert (row["preset"], row["adapt"], row["batch_size"]) == ("fast adaptation.method=residual", "residual", 8)


def test_the_progress_is_that_of_all_presets(run: Path, data: Path) -> None:
    heard: list[Event] = []
    settings = BenchSettings(run=str(run), data=data, preset=("fast", "fast"), adapt="none", count=2)
    found = bench(settings, heard.append)
    assert [row["preset"] for row in found["presets"]] == ["fast"] * 2
    fractions = [event.fraction for event in heard if isinstance(event, Progress)]
    assert fractions[0] < 0.5
    assert fractions[-1] == 1
