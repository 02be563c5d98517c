"""How well a run tells its own object from others, by the features of the defect-free images in its card.

    ADABLDM_DATA=DATA python benchmarks/other_object.py [--draws 500]

For every run that ships with its features, and for runs that know as many images of each data set as a small or a usual
fit has, the difference to the images of each data set is printed: the median of many draws of images that were not
fitted on, and the share of draws in which `generate` would say that they show something else. On a run's own object
that is the rate of false alarms.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from adabldm.core.appearance import COMPARED, KEPT, MOST_DIFFERENCE, describe, difference
from adabldm.core.seeding import numpy_rng
from adabldm.data.inspection import check_data_set
from adabldm.models.store import read_card, shipped, shipped_runs

DATA_SETS = ("magnetic_tile", "hazelnut_toy", "ball_screw", "deeppcb_coco")
MOST = 80
"""Images of a split that are described."""
Descriptions = list[tuple[float, ...]]


def read(root: Path) -> tuple[Descriptions, Descriptions]:
    """Descriptions of the defect-free training and test images."""
    data_set = check_data_set(root).data_set
    splits = []
    for samples in (data_set.good, data_set.test_good):
        step = max(1, -(-len(samples) // MOST))
        splits.append([describe(sample.picture().pixels) for sample in samples[::step]])
    return splits[0], splits[1]


def row(known: Descriptions | None, given: dict[str, Descriptions], size: int, draws: int, name: str) -> str:
    """One line of the table; `known` are drawn anew each time if there are more than `size`."""
    cells = []
    for title, images in given.items():
        rng, found = numpy_rng("other object", name, title, size), []
        for _ in range(draws):
            kept = [known[index] for index in rng.permutation(len(known))[:size]] if known else []
            picks = [images[index] for index in rng.permutation(len(images))[: min(COMPARED, len(images) // 2)]]
            found.append(difference(kept, picks) or 0.0)
        alarms = float(np.mean(np.array(found) > MOST_DIFFERENCE))
        cells.append(f"{np.median(found):6.2f} {alarms:6.1%}")
    return f"{name:28} {size:3d} " + " ".join(f"{cell:>16}" for cell in cells)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=500)
    options = parser.parse_args()
    place = os.environ.get("ADABLDM_DATA")
    if not place:
        raise SystemExit("ADABLDM_DATA is not set; set it to the folder that holds " + ", ".join(DATA_SETS))
    data = {name: read(Path(place) / name) for name in DATA_SETS if (Path(place) / name).is_dir()}
    tests = {name: test for name, (_, test) in data.items()}
    print(f"{'run':28} {'img':>3} " + " ".join(f"{name:>16}" for name in tests))
    for name in shipped_runs():
        folder = shipped(name)
        card = None if folder is None else read_card(folder)
        if card is not None and card.appearance:
            print(row(list(card.appearance), tests, len(card.appearance), options.draws, name))
    for size in (8, 12, KEPT):
        for name, (train, _) in data.items():
            print(row(train, tests, size, options.draws, f"a run of {name}"))


if __name__ == "__main__":
    main()
