"""Several processes train one model: the losses of one process, checkpoints for any number, one sentence for a kill."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from conftest import Adabldm, run_command

from adabldm.core.precision import computes_half

SMALL = ("--domain-steps", "4", "--control-steps", "16", "--examples", "8", "--batch-size", "3", "--quiet")
"""Uneven: a process has two examples of each batch, the other one."""
AGREE = 3e-3 if computes_half(torch.device("cpu")) else 1e-5
"""Losses agree to this: a processor with AMX computes in bfloat16, whose rounding depends on the size of a batch."""
EVERY = ("--checkpoint-every", "1000", "--preview-every", "1000")


def losses(log: Path) -> list[float]:
    """The loss of every step, from the running means of an event log."""
    found: dict[str, list[float]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if "loss" in event.get("figures", {}):
            found.setdefault(event["task"], []).append(event["figures"]["loss"])
    return [
        mean * (number + 1) - before * number
        for means in found.values()
        for number, (mean, before) in enumerate(zip(means, [0.0, *means], strict=False))
    ]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> Path:
    """A fit in two processes, with its events beside it."""
    out = tmp_path_factory.mktemp("together") / "run"
    log = out.with_suffix(".jsonl")
    options = ("fit", data, "--out", out, "--base", base, *SMALL, *EVERY, "--device", "cpu", "--gpus", 2)
    assert run_command(*options, "--log-file", log) == 0
    return out


def test_losses_are_those_of_one_process_and_either_goes_on_with_the_other(
    adabldm: Adabldm, together: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "run", tmp_path / "run.jsonl"
    options = ("fit", data, "--base", base, *EVERY, "--device", "cpu")
    assert adabldm(*options, *SMALL, "--out", out, "--log-file", log).code == 0
    alone, shared = losses(log), losses(together.with_suffix(".jsonl"))
    assert len(alone) == len(shared) == 20
    assert shared == pytest.approx(alone, abs=AGREE)
    more = [*SMALL[:3], "18", *SMALL[4:], "--resume"]
    further = [tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"]
    assert adabldm(*options, *more, "--out", together, "--log-file", further[0]).code == 0
    assert adabldm(*options, *more, "--out", out, "--log-file", further[1], "--gpus", 2).code == 0
    assert len(losses(further[0])) == len(losses(further[1])) == 2
    assert losses(further[1]) == pytest.approx(losses(further[0]), abs=AGREE)


def test_all_processes_end_early_together(adabldm: Adabldm, base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("fit", data, "--out", out, "--base", base, "--device", "cpu", "--gpus", 2, "--preview-every", 1)
    small = ("--domain-steps", 1, "--examples", 4, "--batch-size", 2, "--patience", 2)
    assert adabldm(*options, *small, "--control-steps", 3).code == 0
    (out / "previews" / "control.json").write_text('{"1": 0.75, "2": 0.5, "3": 0.5}')  # what better networks draw
    more = adabldm(*options, *small, "--control-steps", 5, "--resume")
    assert more.code == 0, more.err
    assert more.err.count("control: ended after step 3 of 5") == 1
    assert json.loads((out / "adabldm.json").read_text())["steps"] == {"domain": 1, "control": 3}


def launched(*arguments: object) -> list[str]:
    """`accelerate launch -m adabldm ARGUMENTS` with two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    team = ("--multi_gpu", "--num_processes", 2, "--num_machines", 1, "--main_process_port", port)
    usual = ("--mixed_precision", "no", "--dynamo_backend", "no")
    command = (sys.executable, "-m", "accelerate.commands.launch", *team, *usual, "-m", "adabldm")
    return list(map(str, [*command, *arguments]))


def test_accelerate_launch_makes_the_same_fit(together: Path, base: Path, data: Path, tmp_path: Path) -> None:
    """`--gpus 2` stands for it; the bytes of the run are the same."""
    out, log = tmp_path / "run", tmp_path / "run.jsonl"
    options = ("fit", data, "--out", out, "--base", base, *SMALL, *EVERY, "--device", "cpu", "--log-file", log)
    done = subprocess.run(launched(*options), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(out)]  # one process speaks
    assert len(losses(log)) == 20
    assert losses(log) == losses(together.with_suffix(".jsonl"))
    names = ("unet", "controlnet")
    mine, theirs = (
        [path.read_bytes() for name in names for path in sorted((folder / name).glob("*.safetensors"))]
        for folder in (out, together)
    )
    assert mine == theirs


def test_accelerate_ends_all_with_one_sentence_when_a_process_is_killed(base: Path, data: Path, tmp_path: Path) -> None:
    log = tmp_path / "events"
    options = ("fit", data, "--out", tmp_path / "run", "--base", base, *SMALL[:3], "5000", *SMALL[4:])
    command = launched(*options, "--device", "cpu", "--log-file", log)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (log.exists() and '"control"' in log.read_text(encoding="utf-8")):
            time.sleep(0.05)
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 2
        os.kill(workers[1].pid, signal.SIGKILL)
        said = process.stderr.read() if process.stderr else ""
    assert process.returncode != 0
    assert len([line for line in said.splitlines() if line.startswith("adabldm: ")]) == 1, said
    assert not any(one.is_running() for one in workers)


def test_a_killed_process_ends_all_with_one_sentence(base: Path, data: Path, tmp_path: Path) -> None:
    options = ("--base", base, *SMALL[:3], "5000", *SMALL[4:], "--device", "cpu", "--gpus", "2")
    log = tmp_path / "events"
    command = [sys.executable, "-m", "adabldm", "fit", data, "--out", tmp_path / "run", *options, "--log-file", log]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (log.exists() and '"control"' in log.read_text(encoding="utf-8")):
            time.sleep(0.05)
        own = psutil.Process(process.pid).children()
        workers = [one for one in own if "spawn_main" in " ".join(one.cmdline())]
        assert len(workers) == 2
        os.kill(workers[1].pid, signal.SIGKILL)
        said = process.stderr.read() if process.stderr else ""
    assert process.returncode == 2
    assert said.count("adabldm: a process of the fit was killed") == 1
    assert "Traceback" not in said
    assert not any(one.is_running() for one in workers)


def test_bad_input_is_said_once(adabldm: Adabldm, base: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    result = adabldm("fit", empty, "--out", tmp_path / "x", "--base", base, "--device", "cpu", "--gpus", 2)
    assert result.code == 2
    lines = result.err.splitlines()
    assert len(lines) == len(set(lines)) == 2  # two problems, each once
    assert str(empty) in result.err
    assert "--gpus: 7 was given" in adabldm("fit", empty, "--out", tmp_path / "x", "--device", "cuda", "--gpus", 7).err
