"""The MVTec AD layout.

`train/good`, `test/good`, `test/<defect>`, `train/<defect>` (few-shot images) and
`ground_truth/<defect>/<stem>_mask.png` (or `<stem>.png`, or a folder `<stem>` with a mask for each instance, as in
MVTec LOCO AD), whose masks serve both splits.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from adabldm.core.samples import GOOD, Defect, MaskFile, Sample
from adabldm.data.formats.reading import (
    SPLITS,
    Listing,
    ReadOptions,
    entries,
    image_files,
    masks_beside,
    missing_mask,
    stem_of,
)

NAME = "mvtec"


class MVTecReader:
    """Reads the MVTec AD layout."""

    name = NAME
    good = GOOD
    """Name of the folders with defect-free images."""

    def detects(self, root: Path) -> bool:
        """Whether the folder has defect-free images in `train/good`, or defect images with a `ground_truth` folder."""
        return (root / "train" / self.good).is_dir() or (root / "ground_truth").is_dir()

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        """List the images with their masks; see `Reader`."""
        listing = Listing()
        _list_good(root, self.good, listing, options)
        parents = [root / part for part in (*SPLITS, "ground_truth")]
        folders = [path for parent in parents for path in entries(parent, listing) if path.is_dir()]
        for defect in sorted({path.name for path in folders} - {self.good}):
            _list_defect(root, defect, listing, options)
        return listing


def _list_good(root: Path, good: str, listing: Listing, options: ReadOptions) -> None:
    for split in SPLITS:
        folder = root / split / good
        images = image_files(folder, listing)
        masks = masks_beside(images)
        if masks:
            listing.notes.append(f"{folder}: left out {len(masks)} masks of defect-free images ({min(masks).name}).")
            images = [path for path in images if path not in masks]
        _report_same_stems(images, listing)
        listing.samples += [Sample(path, split=split) for path in images]
        if split == "train" and not images and options.require_good:
            state = "empty" if folder.is_dir() else "missing"
            listing.problems.append(f"{folder}: {state}, expected defect-free images; put them there.")


def _list_defect(root: Path, defect: str, listing: Listing, options: ReadOptions) -> None:
    """List the images of one defect type with their masks."""
    images = {split: image_files(root / split / defect, listing) for split in SPLITS}
    beside = {path: base for paths in images.values() for path, base in masks_beside(paths).items()}
    images = {split: [path for path in paths if path not in beside] for split, paths in images.items()}
    of_image = {base: path for path, base in beside.items()}
    mask_folder = root / "ground_truth" / defect
    masks, folders = _masks_of(mask_folder, listing)
    if not any(images.values()):
        if masks or folders:
            listing.notes.append(
                f"{mask_folder}: left out {len(masks) + len(folders)} masks without an image in train/{defect} or "
                f"test/{defect}."
            )
        else:
            listing.notes.append(f"{root}: the folders named {defect} hold no images and were left out.")
        return
    for paths in (*images.values(), masks):
        _report_same_stems(paths, listing)
    _report_shared_stems(images, listing)
    by_stem = {stem_of(path): path for path in reversed(masks)}
    used: set[Path] = set()
    for split, path in [(key, path) for key in SPLITS for path in images[key]]:
        if stem_of(path) in folders:
            masks_here = folders.pop(stem_of(path))
            several = tuple(Defect(defect, MaskFile(one, options.mask_threshold)) for one in masks_here)
            listing.samples.append(Sample(path, several, split))
            continue
        found = [by_stem[stem] for stem in (f"{stem_of(path)}_mask", stem_of(path)) if stem in by_stem]
        if path in of_image and not found:
            found = [of_image.pop(path)]
        used.update(found)
        if len(found) > 1:
            listing.problems.append(f"{path}: two masks, {found[0].name} and {found[1].name}; remove the wrong one.")
        place = f"ground_truth/{defect}/{path.stem}_mask.png"
        mask = MaskFile(found[0], options.mask_threshold) if found else missing_mask(path, place, root)
        listing.samples.append(Sample(path, (Defect(defect, mask),), split))
    if of_image:
        names = ", ".join(sorted(path.name for path in of_image.values())[:3])
        listing.notes.append(
            f"{root}: left out {len(of_image)} masks that lie beside images of {defect} ({names}), for {mask_folder} "
            "holds masks of these images."
        )
    used_stems = {stem_of(path) for path in used}
    spare = [path.name for path in masks if stem_of(path) not in used_stems] + list(folders)
    if spare:
        listing.notes.append(
            f"{mask_folder}: left out {len(spare)} masks without an image in train/{defect} or test/{defect} "
            f"({', '.join(spare[:3])}{', …' if len(spare) > 3 else ''})."
        )


def _masks_of(folder: Path, listing: Listing) -> tuple[list[Path], dict[str, list[Path]]]:
    """Mask files, and those in a folder of their image's name (MVTec LOCO AD), where each file is one instance."""
    inner = {path: image_files(path, listing) for path in entries(folder, listing) if path.is_dir()}
    folders = {unicodedata.normalize("NFC", path.name): masks for path, masks in inner.items() if masks}
    return image_files(folder, Listing() if folders else listing), folders


def _report_same_stems(paths: Iterable[Path], listing: Listing) -> None:
    first: dict[str, Path] = {}
    for path in paths:
        other = first.setdefault(stem_of(path), path)
        if other is not path:
            listing.problems.append(
                f"{path}: has the same name as {other.name} but for its suffix, so that image and mask cannot be "
                "paired; rename or remove one."
            )


def _report_shared_stems(images: dict[str, list[Path]], listing: Listing) -> None:
    train = {stem_of(path): path for path in images["train"]}
    listing.problems += [
        f"{path}: has the same name as {train[stem_of(path)]}, so that both would share one mask (and one image may be "
        "trained and tested on); rename or remove one."
        for path in images["test"]
        if stem_of(path) in train
    ]
