"""The command line as a whole: help, exit codes, what goes to which stream, `inspect` and `bench`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import COMMAND, DEADLINE, Adabldm
from fabricate import save, write_data_set
from PIL import Image

from adabldm import __version__

COMMANDS = ("demo", "inspect", "fit", "generate", "evaluate", "bench", "train-base")
BENCH_KEYS = {"preset", "seconds_per_image", "peak_memory_mb", "background_psnr", "seam", "defect_fidelity"}
BENCH_MORE = {"tflop_per_image", "operations_ratio", "time_ratio", "stages"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(adabldm: Adabldm, command: str) -> None:
    result = adabldm(command, "--help")
    assert result.code == 0
    assert result.out.startswith(f"usage: adabldm {command}")
    assert result.err == ""


def test_the_help_names_every_command(adabldm: Adabldm) -> None:
    result = adabldm("--help")
    assert result.code == 0
    named = {line.split()[0] for line in result.out.splitlines() if line.startswith("    ") and line.strip()}
    assert named >= set(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "COMMAND"),
        (("paint",), "paint"),
        (("fit", "data"), "--out"),
        (("generate", "run", "--data", "d", "--out", "o"), "--count"),
        (("generate", "run", "--data", "d", "--out", "o", "--count", "many"), "--count"),
        (("generate", "run", "--data", "d", "--out", "o", "--count", "1", "--placement", "above"), "above"),
    ],
)
def test_wrong_arguments_leave_with_2_and_name_the_argument(
    adabldm: Adabldm, arguments: tuple[str, ...], words: str
) -> None:
    result = adabldm(*arguments)
    assert result.code == 2
    assert words in result.err.splitlines()[-1]
    assert result.out == ""


def test_as_a_process_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, f"adabldm {__version__}")
    missing = tmp_path / "missing"
    done = subprocess.run(
        [*COMMAND, "fit", str(missing), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [f"adabldm: {missing}: no such folder; check the path."]
    assert not (tmp_path / "run").exists()


def test_inspect_shows_what_there_is(adabldm: Adabldm, data: Path) -> None:
    result = adabldm("inspect", data)
    assert result.code == 0
    rows = [line.split() for line in result.out.splitlines()]
    assert ["train", "good", "6", "96", "x", "128", "colour", "-", "-"] in rows
    assert ["train", "scratch", "3"] in [row[:3] for row in rows]
    assert "woven cloth" in result.out
    assert "No problems found." in result.out


def test_inspect_prints_json_and_nothing_else(adabldm: Adabldm, data: Path) -> None:
    result = adabldm("inspect", data, "--json", "--object", "linen")
    found = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    assert (found["root"], found["object"], found["problems"]) == (str(data), "linen", [])
    counts = {(row["split"], row["defect"]): (row["images"], row["masks"]) for row in found["rows"]}
    assert counts == {("train", "good"): (6, 0), ("train", "scratch"): (3, 3), ("train", "spot"): (3, 3)}


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_inspect_reports_problems_and_leaves_with_2(adabldm: Adabldm, tmp_path: Path, options: tuple[str, ...]) -> None:
    good = save(tmp_path / "set" / "train" / "good" / "0.png", np.full((40, 40, 3), 90, np.uint8))
    bad = good.with_name("1.png")
    bad.write_bytes(good.read_bytes()[:60])
    result = adabldm("inspect", tmp_path / "set", *options)
    assert result.code == 2
    assert str(bad) in result.out
    assert len(result.err.splitlines()) == 1
    assert f"{tmp_path / 'set'}: a problem" in result.err
    if options:
        assert len(json.loads(result.out)["problems"]) == 1


def test_inspect_of_a_missing_folder(adabldm: Adabldm, tmp_path: Path) -> None:
    result = adabldm("inspect", tmp_path / "nowhere")
    assert (result.code, result.out) == (2, "")
    assert str(tmp_path / "nowhere") in result.err


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
    assert "Seconds an image:\n\n| preset | prepare | text |" in result.out


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
        (("--count", "0"), ["--count 0", "at least 1"]),
        (("--preset", "slow"), ["--preset slow", "fast", "paper", "released"]),
        (("--adapt", "magic"), ["--adapt magic", "residual"]),
        (("--dtype", "int8"), ["--dtype int8", "float32", "bfloat16"]),
        (("--kid", "--count", "9"), ["--kid", "--count 9", "at least 10"]),
        (("--profile", "."), ["--profile .", "is a folder"]),
    ],
)
def test_bench_refuses(adabldm: Adabldm, run: Path, data: Path, options: tuple[str, ...], words: list[str]) -> None:
    result = adabldm("bench", run, "--data", data, *options)
    assert (result.code, result.out) == (2, "")
    assert [word for word in words if word not in result.err] == []
