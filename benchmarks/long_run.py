"""Memory, open files and threads of one long `generate`.

    python benchmarks/long_run.py [--count 20000] [--run magnetic-tile] [--preset fast] [--side 64] [--out FOLDER]

A data set of small fabricated pictures is drawn first. A row is printed each time a twentieth of the images is on the
disk. The last line compares the second half with the first tenth, after which everything has been loaded once, and
gives the most memory that was ever held, also while the reports were written at the end. With `--out` the images stay,
and the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil

from adabldm.core.events import Event, ImageFinished
from adabldm.core.images import write_image, write_mask
from adabldm.core.settings import GenerateSettings
from adabldm.models.store import find_run, read_card
from adabldm.workflows.generate import generate

ROWS = 20


def fabricate(root: Path, side: int, types: tuple[str, ...]) -> None:
    """A data set of 20 defect-free pictures, and two with a dark spot of each type."""
    rng = np.random.default_rng(0)

    def surface() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        grey = cv2.GaussianBlur(rng.normal(130, 25, (side, side)).astype(np.float32), (0, 0), 1.0)
        return np.clip(grey, 0, 255).astype(np.uint8)

    for index in range(20):
        write_image(root / "train" / "good" / f"{index:03d}.png", surface())
    for name in types:
        for index in range(2):
            pixels, drawn = surface(), np.zeros((side, side), np.uint8)
            cv2.circle(drawn, (side // 2, side // 3 + index), side // 8, 1, -1)
            pixels[drawn > 0] //= 3
            write_image(root / "train" / name / f"{index:03d}.png", pixels)
            write_mask(root / "ground_truth" / name / f"{index:03d}_mask.png", drawn > 0)


class Watch:
    """A listener that prints what the process holds."""

    def __init__(self, count: int) -> None:
        self.every, self.done = max(1, count // ROWS), 0
        self.rows: list[tuple[int, float, int, int]] = []
        self._process, self._began = psutil.Process(), time.monotonic()

    def __call__(self, event: Event) -> None:
        """Count a finished image; every so often, measure."""
        if not isinstance(event, ImageFinished):
            return
        self.done += 1
        if self.done % self.every == 0:
            megabytes = self._process.memory_info().rss / 2**20
            self.rows.append((self.done, megabytes, self._process.num_fds(), self._process.num_threads()))
            seconds = time.monotonic() - self._began
            print(f"{self.done:>7} images  {megabytes:7.0f} MB  {self.rows[-1][2]:>4} open files  "
                  f"{self.rows[-1][3]:>3} threads  {seconds:8.0f} s", flush=True)  # fmt: skip

    def verdict(self) -> str:
        """How the second half differs from the first tenth, in one line."""
        start = self.rows[: max(1, len(self.rows) // 10)]
        late = self.rows[len(self.rows) // 2 :]
        first, last = ([max(row[place] for row in rows) for place in (1, 2, 3)] for rows in (start, late))
        return (
            f"from the first tenth to the second half: memory {last[0] - first[0]:+.0f} MB, open files "
            f"{last[1] - first[1]:+d}, threads {last[2] - first[2]:+d}"
        )


def main() -> None:
    """Make the images and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--run", default="magnetic-tile")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if chosen.out is None else chosen.out
        data, types = place / "surface", read_card(find_run(chosen.run)).defects
        if not data.exists():
            fabricate(data, chosen.side, types)
        settings = GenerateSettings.create(
            run=chosen.run, data=data, out=place / "images", count=chosen.count, preset=chosen.preset
        )
        watch = Watch(chosen.count)
        summary = generate(settings, watch)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        seconds = summary.seconds / max(1, summary.made)
        print(f"{summary.made} images made, {seconds:.3f} s each; {watch.verdict()}; at most {peak:.0f} MB")


if __name__ == "__main__":
    main()
