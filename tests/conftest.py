"""Offline, one thread, and a base and a run so small that the real command line can be driven many times."""

from __future__ import annotations

import os

# Before torch: sub-processes inherit these, so that their bytes are those of runs in this process.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["DIFFUSERS_VERBOSITY"] = os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from fabricate import write_data_set
from own_process import start

from adabldm.app.cli import main
from adabldm.models import tiny
from adabldm.models.components import Components
from adabldm.models.store import save_components

torch.set_num_threads(1)
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

COMMAND = (sys.executable, "-m", "adabldm")
FIT = ("--domain-steps", "2", "--control-steps", "3", "--examples", "8", "--batch-size", "2", "--quiet")
"""The shortest fit that still has both stages."""
GENERATE = ("--count", "6", "--batch-size", "2", "--quiet")
"""Of the fixture `generated`: three batches."""
DEADLINE = 600
"""Seconds that a sub-process gets on a busy machine."""


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


Adabldm = Callable[..., Result]


def run_command(*arguments: object) -> int:
    """`adabldm ARGUMENTS` in this process."""
    return main([str(argument) for argument in arguments])


@pytest.fixture
def adabldm(capsys: pytest.CaptureFixture[str]) -> Adabldm:
    """Runs the real command line in this process."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = run_command(*arguments)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


def kill_when(happened: Callable[[], bool], *arguments: object) -> None:
    """Start `adabldm ARGUMENTS` as a process of its own and SIGKILL it as soon as `happened` is true."""
    with tempfile.TemporaryDirectory() as place:
        running = start(Path(place), *arguments)
        try:
            end = time.monotonic() + DEADLINE
            while not happened():
                if running.process.exitcode is not None:
                    pytest.fail(f"it ended by itself: {running.text()[-2000:]}")
                assert time.monotonic() < end, "it took too long"
                time.sleep(0.005)
        finally:
            running.process.kill()
        assert running.wait() == -9


def contents(folder: Path, *, without: Iterable[str] = ()) -> dict[str, bytes]:
    """Every file's bytes by its path in the folder; `without` names top folders and files to leave out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in names.items() if name.split("/")[0] not in set(without)}


def cells(folder: Path) -> dict[str, dict[str, Any]]:
    """The finished cells of an evaluation by name, without the seconds that they took."""
    found = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (folder / "cells").glob("*.json")}
    return {
        name: {key: one for key, one in values.items() if not key.endswith("_seconds")}
        for name, values in found.items()
    }


def manifest(folder: Path) -> list[dict[str, Any]]:
    """The lines of `manifest.jsonl`."""
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def _make_visible(vae: AutoencoderTiny) -> None:
    """Scale random weights so that latents differ between images and images between latents: else all is one grey."""
    with torch.no_grad():
        images = (0.4 * torch.randn(4, 3, 8, 8)).clamp(-1, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
        latents = vae.encode(images).latents
        _normalise(vae.encoder.layers[-1], latents, mean=0.0, deviation=1.0)
        pictures = vae.decode(torch.randn(4, 4, 8, 8)).sample.add(1).div(2)  # what the last layer gives
        _normalise(vae.decoder.layers[-1], pictures, mean=0.5, deviation=0.2)


def _normalise(layer: Any, outputs: torch.Tensor, mean: float, deviation: float) -> None:
    gain = deviation / outputs.std((0, 2, 3))
    layer.weight *= gain[:, None, None, None]
    layer.bias.sub_(outputs.mean((0, 2, 3))).mul_(gain).add_(mean)


def write_base(folder: Path, channels: tuple[int, int] = (16, 32), seed: int = 0) -> Path:
    """A base of real classes with random weights, 32 px windows, as `adabldm fit --base` reads it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        words = tiny.tokenizer()
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=channels,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(0, 1, 1),
            num_decoder_blocks=(1, 1, 1),
            latent_channels=4,
            force_upcast=False,
        )
        text_encoder = tiny.text_encoder(words, width=16)
        _make_visible(vae)
    save_components(Components(vae, text_encoder, words, unet, tiny.scheduler()), folder)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return write_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six good images of 96x128 px, three of each defect type "scratch" and "spot". Read only."""
    return write_data_set(tmp_path_factory.mktemp("data") / "woven_cloth")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> Path:
    """What `adabldm fit` made of `data` and `base`. Read only."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert run_command("fit", data, "--out", out, "--base", base, *FIT) == 0
    return out


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory, run: Path, data: Path) -> Path:
    """What `adabldm generate` made of `run` and `data` without any interruption. Read only."""
    out = tmp_path_factory.mktemp("generated") / "images"
    assert run_command("generate", run, "--data", data, "--out", out, *GENERATE) == 0
    return out


class SmallDisk:
    """A file system of its own, so small that it gets full."""

    def __init__(self, place: Path, size: str) -> None:
        self.place = place
        self._mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))

    def grow(self, size: str) -> None:
        self._mount("-o", f"remount,size={size}", str(self.place))

    def release(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.place)], check=True)

    @staticmethod
    def _mount(*arguments: str) -> None:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], SmallDisk]]:
    """Mounts a disk of a given size, such as "96k"; the test is skipped where that needs rights it lacks."""
    disks: list[SmallDisk] = []

    def mount(size: str) -> SmallDisk:
        if sys.platform != "linux" or os.geteuid() != 0:
            pytest.skip("a small disk can only be mounted by root on Linux")
        place = tmp_path / "disk"
        place.mkdir()
        disks.append(SmallDisk(place, size))
        return disks[0]

    yield mount
    for disk in disks:
        disk.release()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say that the pages were not tested, and print what the campaigns counted, also where other processes ran them."""
    skipped = terminalreporter.stats.get("skipped", ())
    if any("studio/test_pages.py" in report.nodeid for report in skipped):
        terminalreporter.write_line(
            "The studio's pages were not tested, because there is no browser: install Chromium."
        )
    reports = [report for found in terminalreporter.stats.values() for report in found if hasattr(report, "nodeid")]
    rows = {value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "campaign"}
    if rows:
        terminalreporter.section("what was tried")
    for what, counts in sorted(map(json.loads, rows)):
        shown = ", ".join(f"{number:,} {name}" for name, number in counts.items())
        terminalreporter.write_line(f"{what:<36}{shown}")
