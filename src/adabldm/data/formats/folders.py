"""Plain folders: good images, bad ones and their masks, found by the folders' names (OK, NG, MASK and the like)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from adabldm.core.samples import Defect, MaskFile, MissingMask, Sample
from adabldm.data.formats.annotations import folder_split, require_good
from adabldm.data.formats.mvtec import MASK_ENDING
from adabldm.data.formats.reading import Listing, ReadOptions, entries, image_files

NAME = "folders"
GOOD_NAMES = frozenset({"ok", "good", "normal", "pass", "passed", "io", "healthy", "clean", "defect-free"})
MASK_NAMES = frozenset({"mask", "masks", "gt", "ground_truth", "groundtruth", "label", "labels", "annotation", "truth"})
TRANSPARENT = frozenset({"train", "test", "val", "valid", "images", "image", "img"})


class FoldersReader:
    """Reads folders called as in a factory; every folder that is neither good nor masks is a defect type."""

    name = NAME

    def detects(self, root: Path) -> bool:
        """Whether there is a folder of good images under one of the usual names."""
        good, _, _ = _sort(root, Listing())
        return bool(good)

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        """List the images with their masks; see `Reader`."""
        good, bad, masks = _sort(root, Listing())
        return list_folders(root, options, good=good, bad=bad, masks=masks)


def _sort(folder: Path, listing: Listing) -> tuple[list[Path], list[Path], list[Path]]:
    """Folders of good images, of bad ones and of masks; the masks' folders may have one for each type."""
    good: list[Path] = []
    bad: list[Path] = []
    masks: list[Path] = []
    for path in entries(folder, listing):
        if not path.is_dir():
            continue
        name = path.name.lower()
        if name in GOOD_NAMES:
            good.append(path)
        elif name in MASK_NAMES:
            masks += [path, *(inner for inner in entries(path, listing) if inner.is_dir())]
        elif name in TRANSPARENT:
            for found, more in zip((good, bad, masks), _sort(path, listing), strict=True):
                found.extend(more)
        else:
            bad.append(path)
    return good, bad, masks


def list_folders(
    root: Path, options: ReadOptions, *, good: Sequence[Path], bad: Sequence[Path], masks: Sequence[Path]
) -> Listing:
    """List folders whose role is known; a mask has its image's name, with or without an ending such as `_mask`."""
    listing = Listing()
    for folder in good:
        listing.samples += [Sample(path, (), folder_split(path, root)) for path in image_files(folder, listing)]
    found = [path for folder in masks for path in _images(folder)]
    used: set[Path] = set()
    for folder in bad:
        images = image_files(folder, listing)
        beside = [path for path in images if MASK_ENDING.search(path.stem) and len(images) > 1]
        for image in [path for path in images if path not in beside]:
            mask = _mask_of(image, [*found, *beside])
            used.update(() if mask is None else (mask,))
            source = _missing(image, masks) if mask is None else MaskFile(mask, options.mask_threshold)
            sample = Sample(image, (Defect(folder.name.lower(), source),), folder_split(image, root))
            listing.samples.append(sample)
    spare = [path for path in found if path not in used]
    if spare:
        listing.notes.append(f"{spare[0].parent}: {len(spare)} masks without an image were left out ({spare[0].name}).")
    require_good(root, listing, options, "in a folder named OK, good or normal")
    return listing


def _images(folder: Path) -> list[Path]:
    return image_files(folder, Listing())


def _key(path: Path) -> str:
    return unicodedata.normalize("NFC", path.stem)


def _mask_of(image: Path, masks: Sequence[Path]) -> Path | None:
    """The mask of an image's name; one in a folder of its type goes before others."""
    same = [path for path in masks if image.stem == path.stem or _key(image) == MASK_ENDING.sub("", _key(path))]
    same.sort(key=lambda path: path.parent.name.lower() != image.parent.name.lower())
    return same[0] if same else None


def _missing(image: Path, masks: Sequence[Path]) -> MissingMask:
    place = f"{masks[0]}/{image.stem}.png" if masks else f"{image.stem}.png in a folder named mask"
    return MissingMask(image, f"{image}: no mask, expected {place}; draw it or remove the image.")
