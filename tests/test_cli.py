"""The command line as a whole: help, exit codes, what goes to which stream and `inspect`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import COMMAND, DEADLINE, Adabldm
from fabricate import save

from adabldm import __version__
from adabldm.app.command import Command, parse
from adabldm.core.settings import InspectSettings


def test_the_help_names_every_command_in_order(adabldm: Adabldm) -> None:
    result = adabldm("--help")
    assert (result.code, result.err) == (0, "")
    names = [words[0] for line in result.out.splitlines() if line.startswith("│ ") and (words := line[2:22].split())]
    assert names[:10] == [
        "demo", "inspect", "fit", "generate", "curate", "export", "reproduce", "evaluate", "bench", "train-base"
    ]  # fmt: skip
    assert {"--version", "--install-completion"} <= set(names)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["COMMAND: missing, expected one of demo, inspect, fit"]),
        (("paint",), ["paint", "demo, inspect, fit"]),
        (("fit", "data"), ["--out: missing"]),
        (("fit", "--out", "run"), ["DATA: missing"]),
        (("fit", "data", "more", "--out", "run"), ["more: unexpected", "adabldm fit --help"]),
        (
            ("fit", "--data", "parts", "--out", "run"),
            ["--data: no option", "takes DATA by its place", "`adabldm fit parts/"],
        ),
        (("inspect", "--data=parts"), ["--data: no option", "takes DATA by its place"]),
        (("fit", "data", "--out"), ["--out"]),
        (("fit", "data", "--out", "run", "--batchsize", 4), ["--batchsize", "--batch-size"]),
        (("generate", "run", "--data", "d", "--out", "o"), ["--count: missing"]),
        (("generate", "run", "--data", "d", "--out", "o", "--count", "many"), ["--count: many was given"]),
        (
            ("generate", "run", "--data", "d", "--out", "o", "--count", 1, "--placement", "above"),
            ["--placement: above was given, expected one of auto, "],
        ),
        (
            ("generate", "run", "--data", "d", "--out", "o", "--count", 1, "--limits.max-seam", "high"),
            ["--limits.max-seam: high was given, expected a number"],
        ),
    ],
)
def test_wrong_arguments_leave_with_2_and_name_the_argument(
    adabldm: Adabldm, arguments: tuple[object, ...], words: list[str]
) -> None:
    result = adabldm(*arguments)
    assert (result.code, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert line.startswith("adabldm: ")
    assert [word for word in words if word not in line] == []


def test_all_wrong_options_are_told_at_once(adabldm: Adabldm) -> None:
    result = adabldm("fit", "data", "--count", 0)
    assert (result.code, len(result.err.splitlines())) == (2, 1)  # an unknown option comes first
    result = adabldm("fit", "data", "--out", "run", "--batch-size", 0, "--domain", "all", "--mask-threshold", 300)
    assert [line.split(": ")[1] for line in result.err.splitlines()] == ["--mask-threshold", "--domain", "--batch-size"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_options_and_choices(tmp_path: Path, shell: str) -> None:
    script = tmp_path / "completion"
    call = [*COMMAND, "--install-completion", "--shell", shell, "--output", str(script)]
    subprocess.run(call, check=True, capture_output=True, timeout=DEADLINE, env={**os.environ, "HOME": str(tmp_path)})
    text = script.read_text(encoding="utf-8")
    assert [word for word in ("train-base", "batch-size", "grabcut", "install-completion") if word not in text] == []


def test_as_a_process_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, f"adabldm {__version__}")
    missing = tmp_path / "missing"
    done = subprocess.run(
        [*COMMAND, "inspect", str(missing)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [f"adabldm: {missing}: no such folder, expected a data set; check the path."]


def test_inspect_shows_what_there_is(adabldm: Adabldm, data: Path) -> None:
    result = adabldm("inspect", data)
    assert result.code == 0
    rows = [line.split() for line in result.out.splitlines()]
    assert ["train", "good", "6", "96", "x", "128", "colour", "-", "-"] in rows
    assert ["train", "scratch", "3"] in [row[:3] for row in rows]
    assert "woven cloth" in result.out
    assert "No problems found." in result.out


def test_inspect_prints_json_and_nothing_else(adabldm: Adabldm, data: Path) -> None:
    result = adabldm("inspect", data, "--json", "--object", "linen", "--quiet")
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
    result = adabldm("inspect", tmp_path / "set", "--quiet", *options)
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


@pytest.mark.parametrize(
    ("arguments", "both"),
    [(("--help",), False), (("inspect", "DATA", "--json", "--quiet"), False), (("inspect", "nowhere"), True)],
)
def test_a_reader_that_leaves_ends_a_command_quietly(data: Path, arguments: tuple[str, ...], *, both: bool) -> None:
    """As Unix tools end when the next command of a pipe has seen enough."""
    words = [str(data) if word == "DATA" else word for word in arguments]
    read, write = os.pipe()
    os.close(read)
    errors = write if both else subprocess.PIPE
    done = subprocess.run([*COMMAND, *words], stdout=write, stderr=errors, text=True, timeout=DEADLINE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, None if both else "")


def test_an_interrupt_is_no_reader_that_left() -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt("domain: stopped after step 3 of 9")

    command = Command(InspectSettings, interrupted, "Be interrupted.")
    with pytest.raises(KeyboardInterrupt, match="step 3 of 9"):
        parse(["interrupted", "parts"], (command,), "Help.")
