"""The MVTec AD layout.

`train/good`, `test/good`, `test/<defect>`, `train/<defect>` (few-shot images) and
`ground_truth/<defect>/<stem>_mask.png` (or `<stem>.png`), whose masks serve both splits.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from adabldm.core.samples import GOOD, Defect, MaskFile, MissingMask, Sample
from adabldm.data.formats.reading import SPLITS, Listing, ReadOptions, entries, image_files

NAME = "mvtec"


class MVTecReader:
    """Reads the MVTec AD layout."""

    name = NAME

    def detects(self, root: Path) -> bool:
        """Whether the folder has defect-free images in `train/good`, or defect images with a `ground_truth` folder."""
        return (root / "train" / GOOD).is_dir() or (root / "ground_truth").is_dir()

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        """List the images with their masks; see `Reader`."""
        listing = Listing()
        _list_good(root, listing, options)
        parents = [root / part for part in (*SPLITS, "ground_truth")]
        folders = [path for parent in parents for path in entries(parent, listing) if path.is_dir()]
        for defect in sorted({path.name for path in folders} - {GOOD}):
            _list_defect(root, defect, listing, options)
        return listing


def _list_good(root: Path, listing: Listing, options: ReadOptions) -> None:
    for split in SPLITS:
        folder = root / split / GOOD
        images = image_files(folder, listing)
        _report_same_stems(images, listing)
        listing.samples += [Sample(path, split=split) for path in images]
        if split == "train" and not images and options.require_good:
            state = "empty" if folder.is_dir() else "missing"
            listing.problems.append(f"{folder}: {state}, expected defect-free images; put them there.")


def _list_defect(root: Path, defect: str, listing: Listing, options: ReadOptions) -> None:
    """List the images of one defect type with their masks."""
    images = {split: image_files(root / split / defect, listing) for split in SPLITS}
    mask_folder = root / "ground_truth" / defect
    masks = image_files(mask_folder, listing)
    if not any(images.values()):
        if masks:
            listing.problems.append(
                f"{mask_folder}: {len(masks)} masks without an image, expected images of the same names in "
                f"train/{defect} or test/{defect}; add the images or remove the folder."
            )
        else:
            listing.notes.append(f"{root}: the folders named {defect} hold no images and were left out.")
        return
    for paths in (*images.values(), masks):
        _report_same_stems(paths, listing)
    _report_shared_stems(images, listing)
    by_stem = {_stem(path): path for path in reversed(masks)}
    used: set[Path] = set()
    for split, path in [(key, path) for key in SPLITS for path in images[key]]:
        found = [by_stem[stem] for stem in (f"{_stem(path)}_mask", _stem(path)) if stem in by_stem]
        used.update(found)
        if len(found) > 1:
            listing.problems.append(f"{path}: two masks, {found[0].name} and {found[1].name}; remove the wrong one.")
        mask = MaskFile(found[0], options.mask_threshold) if found else _missing(path, defect)
        listing.samples.append(Sample(path, (Defect(defect, mask),), split))
    used_stems = {_stem(path) for path in used}
    listing.problems += [
        f"{path}: a mask without an image, expected {path.stem.removesuffix('_mask')} in train/{defect} or "
        f"test/{defect}; add the image or remove the mask."
        for path in masks
        if _stem(path) not in used_stems
    ]


def _missing(image: Path, defect: str) -> MissingMask:
    return MissingMask(
        image,
        f"{image}: no mask, expected ground_truth/{defect}/{image.stem}_mask.png; draw it or remove the image.",
    )


def _stem(path: Path) -> str:
    # File systems disagree about composed and decomposed letters: an "ö" may differ between image and mask.
    return unicodedata.normalize("NFC", path.stem)


def _report_same_stems(paths: Iterable[Path], listing: Listing) -> None:
    first: dict[str, Path] = {}
    for path in paths:
        other = first.setdefault(_stem(path), path)
        if other is not path:
            listing.problems.append(
                f"{path}: has the same name as {other.name} but for its suffix, so that image and mask cannot be "
                "paired; rename or remove one."
            )


def _report_shared_stems(images: dict[str, list[Path]], listing: Listing) -> None:
    train = {_stem(path): path for path in images["train"]}
    listing.problems += [
        f"{path}: has the same name as {train[_stem(path)]}, so that both would share one mask (and one image may be "
        "trained and tested on); rename or remove one."
        for path in images["test"]
        if _stem(path) in train
    ]
