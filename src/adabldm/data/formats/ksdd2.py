"""KolektorSDD2: NAME.png and NAME_GT.png in train and test; an empty mask means a defect-free image."""

from __future__ import annotations

from pathlib import Path

from adabldm.core.errors import EmptyMaskError, InputError
from adabldm.core.mask_files import read_mask
from adabldm.core.samples import Defect, MaskFile, MissingMask, Sample
from adabldm.data.formats.annotations import require_good
from adabldm.data.formats.reading import SPLITS, Listing, ReadOptions, image_files

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
            for image in [path for path in files if not path.stem.endswith(ENDING)]:
                mask = masks.pop(image.stem, None)
                listing.samples.append(_sample(image, mask, split, options))
            if masks:
                listing.notes.append(f"{folder}: {len(masks)} masks without an image were left out.")
        require_good(root, listing, options, "with an empty mask")
        return listing


def _sample(image: Path, mask: Path | None, split: str, options: ReadOptions) -> Sample:
    if mask is None:
        problem = f"{image}: no mask, expected {image.stem}{ENDING}.png beside it; add it or remove the image."
        return Sample(image, (Defect(DEFECT, MissingMask(image, problem)),), split)
    try:
        read_mask(mask, threshold=options.mask_threshold)
    except EmptyMaskError:
        return Sample(image, (), split)
    except InputError:
        pass  # reported when the mask is checked
    return Sample(image, (Defect(DEFECT, MaskFile(mask, options.mask_threshold)),), split)
