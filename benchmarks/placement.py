"""The share of places that are possible, for each placement policy and defect type.

    python benchmarks/placement.py [--data DEEPPCB] [--count 40] [--sheet places.png]

Two data sets whose places follow a known rule:

boards: DeepPCB in COCO form, from the folder that ADABLDM_DATA names. The rule follows from what the types mean and
    from the copper in and around a mask: a pinhole lies in copper, spurious copper on the board; a mouse bite takes
    copper off at an edge, a spur adds some; an open cuts a track, a short joins two. The share of real defects of the
    test split that the rule calls possible stands beside it.
edges: fabricated bright plates on a dark table, chipped at their edges and nowhere else. A place is possible if the
    chip lies on the plate and reaches its edge.

Places are drawn on the training images alone; nothing was tuned on the test split.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from adabldm.core.images import Mask, Pixels, write_image, write_mask, write_png
from adabldm.core.seeding import numpy_rng
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import open_data_set
from adabldm.production.scenes import SceneMaker, SceneOptions
from adabldm.report.pictures import beside, outline

POLICIES = ("anywhere", "like-real")
SHOWN = 6
Rule = Callable[[str, Pixels, Mask], bool]
"""Whether a defect of a type can be in a defect-free picture where a mask is."""


def _parts(mask: Mask) -> int:
    """Connected parts of at least 3 px."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return sum(int(stats[index, cv2.CC_STAT_AREA]) >= 3 for index in range(1, count))


def possible_on_board(defect: str, pixels: Pixels, mask: Mask) -> bool:
    """The rule of the boards; copper is dark."""
    copper = pixels[..., 0] < 128
    inner = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    ring = (cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0) & ~inner
    inside, around = float(copper[mask].mean()), float(copper[ring].mean())
    tracks, gaps = _parts(ring & copper), _parts(ring & ~copper)
    return {
        "pinhole": inside >= 0.9 and around >= 0.9,
        "copper": inside <= 0.1 and around <= 0.1,
        "mousebite": inside >= 0.6 and 0.05 <= around <= 0.95,
        "spur": inside <= 0.4 and 0.03 <= around <= 0.9,
        "open": inside >= 0.6 and tracks >= 2 and gaps >= 2,
        "short": inside <= 0.4 and tracks >= 2 and gaps >= 2,
    }[defect]


def possible_on_plate(defect: str, pixels: Pixels, mask: Mask) -> bool:
    """The rule of the plates: nearly all of the chip on the plate, and its edge within 3 px."""
    del defect
    plate = cv2.GaussianBlur(pixels[..., 0], (0, 0), 2.0) > 105
    near = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    return bool(plate[mask].mean() >= 0.6 and (~plate[near]).mean() >= 0.05)


def fabricate_plates(root: Path, good: int = 16, chipped: int = 10) -> Path:
    """Plates on a table, in the MVTec AD layout; returns `root`."""
    for index in range(good + chipped):
        rng = numpy_rng("plates", index)
        size = (240, 320)
        pixels = rng.normal(60, 9, size)
        box = cv2.RotatedRect(
            (160 + rng.uniform(-30, 30), 120 + rng.uniform(-20, 20)), (rng.uniform(120, 170), rng.uniform(80, 120)),
            rng.uniform(0, 180),
        )  # fmt: skip
        corners = box.points().round().astype(np.int32)
        plate = cv2.fillPoly(np.zeros(size, np.uint8), [corners], 1)
        pixels = np.where(plate > 0, rng.normal(150, 9, size), pixels)
        if index >= good:
            edge = np.argwhere(cv2.morphologyEx(plate, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0)
            y, x = edge[int(rng.integers(len(edge)))]
            chip = cv2.circle(np.zeros(size, np.uint8), (int(x), int(y)), int(rng.integers(6, 11)), 1, cv2.FILLED)
            mask = (chip > 0) & (plate > 0)
            pixels = np.where(mask, rng.normal(85, 9, size), pixels)
            write_mask(root / "ground_truth" / "chip" / f"{index:03d}_mask.png", mask)
        folder = root / "train" / ("chip" if index >= good else "good")
        grey = cv2.GaussianBlur(np.clip(pixels, 0, 255).astype(np.uint8), (0, 0), 0.8)
        write_image(folder / f"{index:03d}.png", grey)
    return root


def measure(root: Path, rule: Rule, count: int) -> list[Pixels]:
    """Print a line for each type and policy; returns rows of examples."""
    data_set = open_data_set(root, ReadOptions(split="train"))
    shares: dict[str, list[bool]] = {policy: [] for policy in POLICIES}
    rows = []
    auto = SceneMaker(data_set, "texture", SceneOptions(may_follow=True))
    for defect in data_set.types:
        for policy in POLICIES:
            maker = SceneMaker(data_set, "texture", SceneOptions(placement=policy))  # type: ignore[arg-type]
            start = time.process_time()
            scenes = [maker.draw(defect, 0, index, 0) for index in range(count)]
            seconds = (time.process_time() - start) / count
            found = [rule(defect, scene.picture.pixels, scene.mask) for scene in scenes]
            shares[policy] += found
            chosen = "like-real" if auto.follows(defect) else "anywhere"
            print(
                f"{root.name:14} {defect:10} {policy:10} possible {np.mean(found):4.0%}   {seconds:.2f} s an image   "
                f"told apart {auto.told_apart(defect):.2f}, so auto is {chosen}",
                flush=True,
            )
            shown = [outline(scene.picture.pixels, scene.mask) for scene in scenes[:SHOWN]]
            rows.append(beside([cv2.resize(one, (480, 480 * one.shape[0] // one.shape[1])) for one in shown], 6))
    for policy, every in shares.items():
        print(f"{root.name:14} {'all types':10} {policy:10} possible {np.mean(every):4.0%}")
    return rows


def check_rule(root: Path) -> None:
    """Print which share of the real test defects the rule of the boards calls possible."""
    verdicts = []
    for sample in open_data_set(root).test_defective:
        mask, pixels = sample.mask(), sample.picture().pixels
        assert mask is not None
        healed = np.where(mask[..., None], np.where(pixels < 128, 255, 0), pixels).astype(np.uint8)  # black and white
        verdicts += [possible_on_board(one.type, healed, one.mask.read()) for one in sample.defects]
    print(f"{root.name:14} the rule calls {np.mean(verdicts):.0%} of {len(verdicts)} real test defects possible")


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--count", type=int, default=40, help="places of each type and policy")
    parser.add_argument("--sheet", type=Path, help="PNG file for examples: a row for each type and policy")
    arguments = parser.parse_args()
    own = os.environ.get("ADABLDM_DATA")
    boards = arguments.data or (Path(own) / "deeppcb_coco" if own else None)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(fabricate_plates(Path(folder) / "edges"), possible_on_plate, arguments.count)]
    if boards is None:
        print("boards: left out; set ADABLDM_DATA to the folder that holds deeppcb_coco, or give --data")
    else:
        check_rule(boards)
        rows.append(measure(boards, possible_on_board, arguments.count))
    if arguments.sheet is not None:
        sheets = [np.vstack(group) for group in rows]
        width = max(sheet.shape[1] for sheet in sheets)
        wide = [np.pad(sheet, ((0, 6), (0, width - sheet.shape[1]), (0, 0)), constant_values=255) for sheet in sheets]
        write_png(arguments.sheet, np.vstack(wide))


if __name__ == "__main__":
    main()
