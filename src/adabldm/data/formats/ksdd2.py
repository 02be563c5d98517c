"""KolektorSDD2: NAME.png and NAME_GT.png in train and test; an empty mask means a defect-free image."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from adabldm.core.errors import InputError
from adabldm.core.opening import open_header
from adabldm.core.samples import Defect, MaskFile, Sample
from adabldm.data.formats.annotations import require_good
from adabldm.data.formats.reading import SPLITS, Listing, ReadOptions, image_files, missing_mask

NAME = "ksdd2"
ENDING = "_GT"
DEFECT = "defect"


class KSDD2Reader:
    """Reads train and test, or one folder, of KolektorSDD2."""

    name = NAME

    def detects(self, root: Path) -> bool:
        """Whether there is a mask whose name ends in _GT beside an image."""
        folders = [root, *(root / split for split in SPLITS)]
        return any(folder.is_dir() and any(folder.glob(f"*{ENDING}.png")) for folder in folders)

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        """List the images with their masks; see `Reader`."""
        listing = Listing()
        places = [(split, root / split) for split in SPLITS if (root / split).is_dir()]
        for split, folder in places or [("train", root)]:
            files = image_files(folder, listing)
            masks = {path.stem.removesuffix(ENDING): path for path in files if path.stem.endswith(ENDING)}
            pairs = [(path, masks.pop(path.stem, None)) for path in files if not path.stem.endswith(ENDING)]
            with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:
                listing.samples += pool.map(partial(_sample, split=split, root=root, options=options), pairs)
            if masks:
                listing.notes.append(f"{folder}: {len(masks)} masks without an image were left out.")
        require_good(root, listing, options, "with an empty mask")
        return listing


def _sample(pair: tuple[Path, Path | None], split: str, root: Path, options: ReadOptions) -> Sample:
    image, mask = pair
    if mask is None:
        missing = missing_mask(image, f"{image.stem}{ENDING}.png beside it", root)
        return Sample(image, (Defect(DEFECT, missing),), split)
    if _is_black(mask):
        return Sample(image, (), split)
    return Sample(image, (Defect(DEFECT, MaskFile(mask, options.mask_threshold)),), split)


def _is_black(mask: Path) -> bool:
    """Whether a mask has no defect; one that cannot be read is reported when it is checked."""
    try:
        with open_header(mask) as image:
            return image.convert("L").getextrema() == (0, 0)
    except InputError:
        return False
