"""Seconds and memory that reading and checking a data set of annotated images takes.

    python benchmarks/reading.py [--count 10000] [--side 1000] [--suffix .jpg] [--layout coco --layout mvtec]

The data set is fabricated in a temporary folder: `DIFFERENT` pictures and masks, each under many names as hard links,
so that it needs little space. After the first round these files are in the memory of the operating system: what is
measured is decoding and checking, not the disk. Every file is decoded under each of its names, as in a real check. The
memory is the peak of the process; it is printed after a tenth of the images too, to show whether it grows with them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from adabldm.core.images import Pixels
from adabldm.data.inspection import check_data_set

DIFFERENT = 48
"""Pictures that differ."""
GOOD_SHARE = 10
"""One of so many images is defect-free."""
Polygon = list[list[float]]


def _picture(rng: np.random.Generator, side: int) -> tuple[Pixels, list[Polygon]]:
    """A surface with noise and shading, and the outlines of its three defects."""
    coarse = cv2.resize(rng.uniform(90, 160, (8, 8, 3)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    pixels = np.clip(coarse + rng.normal(0, 4, (side, side, 1)), 0, 255).astype(np.uint8)
    outlines = []
    for _ in range(3):
        centre, radius = rng.uniform(0.2, 0.8, 2) * side, rng.uniform(0.01, 0.06) * side
        angles = np.sort(rng.uniform(0, 2 * np.pi, 24))
        corners = centre + radius * rng.uniform(0.6, 1.0, (24, 1)) * np.stack([np.cos(angles), np.sin(angles)], 1)
        outlines.append(corners.round(1).tolist())
        cv2.fillPoly(pixels, [np.rint(corners).astype(np.int32)], (40, 30, 30))
    return pixels, outlines


class Fabricated:
    """The different files, and data sets of links to them.

    Args:
        folder: an empty one.
        side: of the images in px.
        suffix: format of the images.
    """

    def __init__(self, folder: Path, side: int, suffix: str) -> None:
        self.folder, self.side, self.suffix = folder, side, suffix
        self.outlines: list[list[Polygon]] = []
        rng = np.random.default_rng(0)
        for number in range(DIFFERENT):
            pixels, outlines = _picture(rng, side)
            cv2.imwrite(str(folder / f"{number}{suffix}"), pixels)
            mask = np.zeros((side, side), np.uint8)
            cv2.fillPoly(mask, [np.rint(np.array(one)).astype(np.int32) for one in outlines], 255)
            cv2.imwrite(str(folder / f"{number}_mask.png"), mask)
            self.outlines.append(outlines)

    def _link(self, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(self.folder / name, target)

    def coco(self, root: Path, count: int) -> None:
        """One file of annotations."""
        images, annotations = [], []
        for index in range(count):
            number, name = index % DIFFERENT, f"{index:06d}{self.suffix}"
            self._link(f"{number}{self.suffix}", root / "images" / name)
            images.append({"id": index, "file_name": name, "height": self.side, "width": self.side})
            for outline in self.outlines[number] if index % GOOD_SHARE else []:
                flat = [value for corner in outline for value in corner]
                annotations.append(
                    {"id": len(annotations), "image_id": index, "category_id": 1, "segmentation": [flat]}
                )
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "pit"}]}
        (root / "annotations.json").write_text(json.dumps(content))

    def labelme(self, root: Path, count: int) -> None:
        """A file of annotations beside each image."""
        for index in range(count):
            number, name = index % DIFFERENT, f"{index:06d}{self.suffix}"
            self._link(f"{number}{self.suffix}", root / name)
            shapes = [{"label": "pit", "points": one, "shape_type": "polygon"} for one in self.outlines[number]]
            content = {"shapes": shapes, "imagePath": name, "imageHeight": self.side, "imageWidth": self.side}
            if index % GOOD_SHARE:
                (root / f"{index:06d}.json").write_text(json.dumps(content))

    def mvtec(self, root: Path, count: int) -> None:
        """A mask file for each defect image."""
        for index in range(count):
            number, split = index % DIFFERENT, "train/pit" if index % GOOD_SHARE else "train/good"
            self._link(f"{number}{self.suffix}", root / split / f"{index:06d}{self.suffix}")
            if index % GOOD_SHARE:
                self._link(f"{number}_mask.png", root / "ground_truth/pit" / f"{index:06d}_mask.png")


def _measure(layout: str, write: Callable[[Path, int], None], root: Path, count: int) -> None:
    write(root, count)
    used, began = time.process_time(), time.monotonic()
    found = check_data_set(root)
    seconds, busy = time.monotonic() - began, time.process_time() - used
    assert not found.problems, found.problems[0]
    masks = sum(row.masks for row in found.rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    spent = f"{seconds:.1f} s, {busy:.1f} s of a core, {busy / count * 1000:.1f} ms of a core for an image"
    print(f"{layout}: {count} images, {masks} masks: {spent}, {peak:.0f} MB", flush=True)


def main() -> None:
    """Print two lines for each layout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=1000)
    parser.add_argument("--suffix", choices=(".jpg", ".png"), default=".jpg")
    parser.add_argument("--layout", action="append", choices=("coco", "labelme", "mvtec"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "files").mkdir()
        made = Fabricated(Path(folder) / "files", arguments.side, arguments.suffix)
        writers = {"coco": made.coco, "labelme": made.labelme, "mvtec": made.mvtec}
        for layout in arguments.layout or writers:
            for count in (arguments.count // 10, arguments.count):
                _measure(layout, writers[layout], Path(folder) / f"{layout}-{count}", count)


if __name__ == "__main__":
    main()
