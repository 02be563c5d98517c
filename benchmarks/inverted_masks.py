"""How often a single inverted mask is told from a large defect, on a data set of yours.

    python benchmarks/inverted_masks.py DATA [DATA ...]

Every real mask that leaves the border free is inverted and judged. Large defects are fabricated on defect-free
pictures:
everything but an island is darkened, with noise or without; the mask is white but for the island. Of those, none may be
turned.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from adabldm.core.images import Mask, Pixels
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import open_data_set
from adabldm.data.inverted import PICTURES, Usual

LARGE = 80
"""Pictures of which a large defect is fabricated in two strengths."""


def _large(pixels: Pixels, rng: np.random.Generator) -> Iterator[tuple[Pixels, Mask]]:
    height, width = pixels.shape[:2]
    (y, x), (tall, wide) = rng.uniform(0.33, 0.67, 2), rng.uniform(0.08, 0.17, 2)
    rows, columns = np.ogrid[:height, :width]
    outside = ((rows / height - y) / tall) ** 2 + ((columns / width - x) / wide) ** 2 >= 1
    for factor, noise in ((0.7, 10.0), (0.85, 0.0)):
        defect = np.clip(pixels * factor + noise * rng.normal(size=(height, width, 1)), 0, 255).astype(np.uint8)
        yield np.where(outside[..., None], defect, pixels), outside


def main() -> None:
    """Print a line for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    for root in parser.parse_args().data:
        data_set = open_data_set(root, ReadOptions(split="train"))
        chosen = data_set.good[:: -(-len(data_set.good) // PICTURES)]  # as in a check
        usual = Usual(sample.picture().pixels for sample in chosen)
        good = [sample.picture().pixels for sample in data_set.good[:: -(-len(data_set.good) // LARGE)]]
        pairs = [(sample.picture().pixels, sample.mask()) for sample in data_set.defective]
        inner = [
            (pixels, mask)
            for pixels, mask in pairs
            if mask is not None and not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
        ]
        turned = sum(usual.turns(pixels, ~mask) for pixels, mask in inner)
        rng = np.random.default_rng(0)
        large = [pair for pixels in good for pair in _large(pixels, rng)]
        wrong = sum(usual.turns(pixels, mask) for pixels, mask in large)
        print(f"{root.name}: {turned} of {len(inner)} inverted masks turned, {wrong} of {len(large)} large defects")


if __name__ == "__main__":
    main()
