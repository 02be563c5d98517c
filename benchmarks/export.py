"""Seconds that an export takes, for each format.

    python benchmarks/export.py [--count 2000] [--side 1024] [--copy] [--to coco --to voc]

The generated folder is fabricated: a few different pictures and masks, each under many names as hard links, so that
preparing it takes no time. Every mask is read as in a real export. The peak memory is that of the process so far.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import get_args

import cv2
import numpy as np

from adabldm.core.images import write_image, write_mask
from adabldm.core.records import ImageRecord
from adabldm.core.settings import ExportSettings
from adabldm.core.settings.export import ExportFormat
from adabldm.data.generated import MANIFEST, GeneratedFolder
from adabldm.workflows.export import export

DIFFERENT = 8
"""Pictures and masks that differ."""


def fabricate(root: Path, count: int, side: int) -> None:
    """A generated folder of so many square images."""
    rng, paths = np.random.default_rng(0), GeneratedFolder(root).paths
    lines = []
    for index in range(count):
        image, mask = (root / name for name in paths(index, "scratch"))
        if index < DIFFERENT:
            write_image(image, rng.integers(100, 140, (side, side, 3), dtype=np.uint8))
            drawn = np.zeros((side, side), np.uint8)
            ends = rng.integers(0, side, (2, 2)).tolist()
            cv2.line(drawn, ends[0], ends[1], 1, 3)
            write_mask(mask, drawn > 0)
        else:
            for target, source in zip((image, mask), paths(index % DIFFERENT, "scratch"), strict=True):
                os.link(root / source, target)
        record = ImageRecord(
            image=image.relative_to(root).as_posix(), mask=mask.relative_to(root).as_posix(), index=index,
            source=f"train/good/{index % 500:04d}.png", defect="scratch", object="part", prompt="", seed=0,
            preset="fast", adapt="none", seam=1.5, model="none",
        )  # fmt: skip
        lines.append(record.line() + "\n")
    (root / MANIFEST).write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Print a line for each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--copy", action="store_true")
    parser.add_argument("--to", action="append", choices=get_args(ExportFormat))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        fabricate(root, arguments.count, arguments.side)
        for name in arguments.to or get_args(ExportFormat):
            values = {"folder": root, "to": name, "out": Path(folder) / name, "copy": arguments.copy}
            began, used = time.monotonic(), time.process_time()
            export(ExportSettings.create({**values, "validation": 0.2}))
            seconds, busy = time.monotonic() - began, time.process_time() - used
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            spent = f"{seconds:.1f} s, {busy / arguments.count * 1000:.1f} ms of a core for an image"
            print(f"{name}: {arguments.count} images, {spent}, peak memory {peak:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
