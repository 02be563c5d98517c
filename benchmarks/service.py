"""How quick the service is, and whether its memory stays flat.

    python benchmarks/service.py [--run magnetic-tile] [--defect crack] [--single 30] [--clients 8] [--seconds 30]
    python benchmarks/service.py --memory 2000 --small

A server is started on this machine with the command line, and asked over HTTP for edits of a 512² picture, each with
another seed: by one user, by one user who wants four variants at once, and by several clients without a pause, each
with a picture of its own. With `--new-pictures` every edit of the clients has another picture, so that nothing which
the service keeps of an earlier one helps. The mask is an ellipse of 80 x 40 px. Wall time is printed with the
processor's seconds that the server spent on an edit: these depend less on what else the machine does, and the number of
cores over them is what idle cores give. The last lines compare the figures with the goals for two idle cores. With
`--example`, edits begin from a real defect, as they usually do in `generate`; else from noise. The networks compute
in bfloat16 where the machine is quicker in it, but with `--dtype float32`.

With `--memory`, edits are asked for by four clients, each with another picture, mask and seed, and the server's memory
is printed after every tenth of them. `--small` takes pictures of 128², a model of some thousand random weights and
two steps, so that 2,000 edits take minutes: what is kept of an edit and should not be does not depend on the size of
the networks.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
import torch
from PIL import Image

from adabldm.models import tiny
from adabldm.models.components import Components, new_controlnet
from adabldm.pipeline import AdaBLDMPipeline

SIDE, SMALL = 512, 128
"""Sides of the pictures, in px."""
VARIANTS = 4
PATIENCE = 600.0
"""Seconds for an answer."""
WARM = 4
"""Edits that are not measured."""
MOST_EACH = 40
"""Pictures of a client with `--new-pictures`, after which it begins again with its first one."""
FEW_STEPS = ["look=none", "plan.steps=2", "plan.latent_stage=1,2", "plan.image_stage=1,2", "guidance.steps=0,1"]
"""Changes of the preset with the small model."""
Values = dict[str, str | list[str]]
GOALS = {
    "one user, median (s)": 1.0,
    "one user, 95th percentile (s)": 1.5,
    "four variants, median (s)": 2.5,
    "edits per second of all clients": 3.0,
}
"""What two idle cores are to reach: at most so many seconds, at least so many edits."""


def as_png(pixels: np.ndarray) -> bytes:
    """The file of a picture."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def pictures(example: bool, number: int = 0, side: int = SIDE) -> dict[str, bytes]:
    """A picture of a plain surface, another one for each number, a mask, and, if asked for, a real defect."""
    rng = np.random.default_rng(number)
    surface = cv2.GaussianBlur(rng.integers(60, 200, (side, side), dtype=np.uint8), (0, 0), 2)
    mask = np.zeros((side, side), np.uint8)
    cv2.ellipse(mask, (side // 2, side // 2), (40, 20), 30, 0, 360, 255, -1)
    files = {"image": as_png(surface), "mask": as_png(mask)}
    if example:
        dark = np.where(mask > 0, surface // 2, surface).astype(np.uint8)
        files |= {"reference_image": as_png(dark), "reference_mask": as_png(mask)}
    return files


@contextmanager
def server(folder: Path, *options: str) -> Iterator[tuple[str, psutil.Process]]:
    """(address, process) of `adabldm serve`."""
    command = [sys.executable, "-m", "adabldm", "serve", "--port", "0", "--root", str(folder), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            yield process.stderr.readline().split()[2].rstrip(";"), psutil.Process(process.pid)
        finally:
            process.terminate()


class Asker:
    """Asks for edits; several threads may use one.

    Args:
        url: of the service.
        values: settings of every edit.
        files: pictures that are edited, with their masks.
    """

    def __init__(self, url: str, values: Values, files: Sequence[dict[str, bytes]]) -> None:
        self.client, self.values, self.files = httpx.Client(base_url=url, timeout=PATIENCE), values, files

    def ask(self, seed: int, picture: int = 0) -> float:
        """Seconds of an edit of one of the pictures.

        Raises:
            HTTPStatusError: it was refused.
        """
        began = time.monotonic()
        files = self.files[picture % len(self.files)]
        answer = self.client.post("/v1/edits", files=files, data={**self.values, "seed": str(seed)})
        answer.raise_for_status()
        return time.monotonic() - began


def cpu_seconds(process: psutil.Process) -> float:
    """Seconds that a process has computed."""
    times = process.cpu_times()
    return float(times.user + times.system)


def percentile(values: list[float], share: float) -> float:
    """The value below which a share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure_speed(asker: Asker, process: psutil.Process, options: argparse.Namespace) -> None:
    """Print the seconds of one user, of four variants, the rate of several clients, and what that is of the goals."""
    found = {**one_user(asker, process, options.single), **variants(asker, max(3, options.single // 6))}
    found |= several(asker, process, options)
    for name, goal in GOALS.items():
        reached = found[name] >= goal if "per second" in name else found[name] <= goal
        print(f"{name:<34}{found[name]:6.2f}   goal {goal:.1f}: {'reached' if reached else 'missed'}")


def one_user(asker: Asker, process: psutil.Process, count: int) -> dict[str, float]:
    """Edits one after the other."""
    before = cpu_seconds(process)
    took = [asker.ask(seed) for seed in range(count)]
    each = (cpu_seconds(process) - before) / len(took)
    median, late = statistics.median(took), percentile(took, 0.95)
    print(
        f"one user: median {median:.2f} s, 95th percentile {late:.2f} s, processor {each:.2f} s an edit "
        f"({count} edits)",
        flush=True,
    )
    return {"one user, median (s)": median, "one user, 95th percentile (s)": late}


def variants(asker: Asker, times: int) -> dict[str, float]:
    """Four edits at once, again and again."""
    took = []
    with ThreadPoolExecutor(VARIANTS) as four:
        for turn in range(times):
            began = time.monotonic()
            list(four.map(asker.ask, range(turn * VARIANTS, (turn + 1) * VARIANTS)))
            took.append(time.monotonic() - began)
    median = statistics.median(took)
    print(f"four variants: median {median:.2f} s, longest {max(took):.2f} s ({times} times)", flush=True)
    return {"four variants, median (s)": median}


def several(asker: Asker, process: psutil.Process, options: argparse.Namespace) -> dict[str, float]:
    """Clients that ask without a pause."""
    clients, began = options.clients, time.monotonic()

    def busy(client: int) -> list[float]:
        took = []
        while time.monotonic() < began + options.seconds:
            picture = client + clients * len(took) if options.new_pictures else client
            took.append(asker.ask(1000 * client + len(took), picture))
        return took

    before = cpu_seconds(process)
    with ThreadPoolExecutor(clients) as many:
        took = [one for own in many.map(busy, range(clients)) for one in own]
    rate = len(took) / (time.monotonic() - began)
    each, cores = (cpu_seconds(process) - before) / len(took), len(os.sched_getaffinity(0))
    print(
        f"{clients} clients: {rate:.2f} edits/s, median {statistics.median(took):.2f} s, 95th percentile "
        f"{percentile(took, 0.95):.2f} s, processor {each:.2f} s an edit, so that {cores} idle cores give "
        f"{cores / each:.1f} edits/s ({len(took)} edits, no error)",
        flush=True,
    )
    return {"edits per second of all clients": rate}


def measure_memory(asker: Asker, process: psutil.Process, count: int) -> None:
    """Print the server's memory after every tenth of the edits, and how it changed over the last nine."""
    rows = []
    began = time.monotonic()
    with ThreadPoolExecutor(4) as four:
        for tenth in range(10):
            seeds = range(count * tenth // 10, count * (tenth + 1) // 10)
            list(four.map(asker.ask, seeds, seeds))
            rows.append(process.memory_info().rss / 2**20)
            seconds = time.monotonic() - began
            print(f"after {seeds.stop} edits: {rows[-1]:.0f} MB, {process.num_threads()} threads, {seconds:.0f} s")
    print(f"from {count // 10} to {count} edits: {rows[-1] - rows[0]:+.1f} MB, at most {max(rows):.0f} MB")


def small_run(folder: Path) -> tuple[str, str]:
    """(run, defect type) of a model of some thousand random weights for windows of 32 px."""
    words = tiny.tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = Components(
            tiny.autoencoder(channels=8),
            tiny.text_encoder(words, width=32),
            words,
            tiny.unet((16, 16, 16), text_width=32),
            tiny.scheduler(),
        )
        parts.controlnet = new_controlnet(parts)
    networks: dict[str, Any] = vars(parts)
    pipeline = AdaBLDMPipeline(**networks, object_name="plate", defects=("spot",), resolution=32)
    pipeline.save_pretrained(folder)
    return str(folder), "spot"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="magnetic-tile")
    parser.add_argument("--defect", default="crack")
    parser.add_argument("--single", type=int, default=30, help="edits of one user")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the clients")
    parser.add_argument("--memory", type=int, default=0, help="edits that the memory is measured over")
    parser.add_argument("--small", action="store_true", help="measure with a small model")
    parser.add_argument("--example", action="store_true", help="begin from a real defect")
    parser.add_argument("--new-pictures", action="store_true", help="another picture for every edit of the clients")
    parser.add_argument("--batch-size", default="1")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--workers", default=str(len(os.sched_getaffinity(0))))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, defect = small_run(Path(folder) / "small") if options.small else (options.run, options.defect)
        values: Values = {"run": Path(run).name, "defect": defect, "set": FEW_STEPS if options.small else []}
        chosen = ("--batch-size", options.batch_size, "--workers", options.workers, "--dtype", options.dtype)
        with server(Path(folder), *chosen) as (url, process):
            many = options.clients * (MOST_EACH if options.memory or options.new_pictures else 1)
            side = SMALL if options.small else SIDE
            asker = Asker(url, values, [pictures(options.example, number, side) for number in range(many)])
            for seed in range(WARM):
                asker.ask(seed)
            if options.memory:
                measure_memory(asker, process, options.memory)
            else:
                measure_speed(asker, process, options)


if __name__ == "__main__":
    main()
