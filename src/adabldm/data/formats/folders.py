"""Plain folders: good images, bad ones and their masks, found by the folders' names (OK, NG, MASK and the like)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from adabldm.core.samples import Defect, MaskFile, MissingMask, Sample
from adabldm.data.formats.annotations import folder_split, require_good
from adabldm.data.formats.reading import (
    MASK_ENDING,
    MASK_NAMES,
    SPLITS,
    Listing,
    ReadOptions,
    entries,
    image_files,
    masks_beside,
    missing_mask,
    stem_of,
)

NAME = "folders"
GOOD_NAMES = frozenset({"ok", "good", "normal", "pass", "passed", "io", "healthy", "clean", "defect-free"})
BAD_NAMES = frozenset(
    {"ng", "bad", "defect", "defects", "defective", "anomaly", "anomalies", "abnormal", "fail", "nok"}
)
TRANSPARENT = frozenset({"train", "test", "val", "valid", "images", "image", "img"})


class FoldersReader:
    """Reads folders called as in a factory; every folder that is neither good nor masks is a defect type.

    A folder such as NG that holds folders instead of images has one for each type. Folders can be named by the options.
    """

    name = NAME

    def detects(self, root: Path) -> bool:
        """Whether there is a folder of good images under one of the usual names."""
        good, _, _ = _sort(root, Listing())
        return bool(good)

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        """List the images with their masks; see `Reader`."""
        good, bad, masks = _sort(root, Listing())
        listing = Listing()
        given = [
            _given(root, names, option, listing)
            for option, names in (
                ("--good-folder", options.good_folder),
                ("--bad-folder", options.bad_folder),
                ("--mask-folder", options.mask_folder),
            )
        ]
        named = {path for paths in given for path in paths}
        good, bad, masks = (
            own or [path for path in found if not _within(path, named)]
            for own, found in zip(given, (good, bad, masks), strict=True)
        )
        found = list_folders(root, options, good=good, bad=bad, masks=masks)
        found.problems[:0] = listing.problems
        return found


def _given(root: Path, names: Sequence[str], option: str, listing: Listing) -> list[Path]:
    """Folders that the user named, relative to the data set; those of masks may have one for each type."""
    paths = [root / name for name in names]
    listing.problems += [
        f"{option} {path.relative_to(root)}: no such folder in {root}, expected one; check the name."
        for path in paths
        if not path.is_dir()
    ]
    there = [path for path in paths if path.is_dir()]
    inner = [one for path in there for one in entries(path, listing) if one.is_dir()]
    return [*there, *inner] if option == "--mask-folder" else there


def _within(path: Path, folders: set[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


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
        elif name in BAD_NAMES and not _images(path):
            bad += [inner for inner in entries(path, listing) if inner.is_dir()]
        else:
            bad.append(path)
    return good, bad, masks


def list_folders(
    root: Path, options: ReadOptions, *, good: Sequence[Path], bad: Sequence[Path], masks: Sequence[Path]
) -> Listing:
    """List folders whose role is known; a mask has its image's name, with or without an ending such as `_mask`."""
    listing = Listing()
    for folder in good:
        images = image_files(folder, listing)
        beside = masks_beside(images)
        if beside:
            listing.notes.append(f"{folder}: left out {len(beside)} masks of defect-free images ({min(beside).name}).")
        listing.samples += [Sample(path, (), folder_split(path, root)) for path in images if path not in beside]
    found = _by_key(path for folder in masks for path in _images(folder))
    used: dict[Path, Path] = {}
    for folder in bad:
        images = image_files(folder, listing)
        beside = masks_beside(images)
        near = _by_key(beside)
        for image in sorted(set(images) - beside.keys()):
            mask = _mask_of(image, found, near, root)
            if mask is not None and used.setdefault(mask, image) != image:
                listing.problems.append(
                    f"{mask}: would be the mask of two images of one name, {used[mask]} and {image}; rename one of "
                    "them, or put the masks into folders of the types' names, in the folder of their split."
                )
            source = _missing(image, masks, root) if mask is None else MaskFile(mask, options.mask_threshold)
            sample = Sample(image, (Defect(folder.name.lower(), source),), folder_split(image, root))
            listing.samples.append(sample)
    spare = sorted({path for paths in found.values() for path in paths} - used.keys())
    if spare:
        listing.notes.append(f"{spare[0].parent}: {len(spare)} masks without an image were left out ({spare[0].name}).")
    require_good(root, listing, options, "in a folder named OK, good or normal")
    return listing


def _images(folder: Path) -> list[Path]:
    return image_files(folder, Listing())


def _by_key(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Masks by their images' stems: their own ones, and those without an ending such as `_mask`."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        stem = stem_of(path)
        for key in dict.fromkeys((stem, MASK_ENDING.sub("", stem))):
            found[key].append(path)
    return found


def _mask_of(
    image: Path, masks: Mapping[str, Sequence[Path]], beside: Mapping[str, Sequence[Path]], root: Path
) -> Path | None:
    """The mask of an image's name, never one of another split.

    One in a folder of the image's type goes before others, and of these the one whose folder is nearest.
    """
    key, split = stem_of(image), _named_split(image, root)
    same = [*masks.get(key, ()), *beside.get(key, ())]
    same = [path for path in same if split is None or _named_split(path, root) in {split, None}]

    def order(path: Path) -> tuple[bool, bool, int]:
        shared = sum(one == other for one, other in zip(path.parts, image.parts, strict=False))
        return path.parent.name.lower() != image.parent.name.lower(), path.parent == image.parent, -shared

    return min(same, key=order, default=None)


def _named_split(path: Path, root: Path) -> str | None:
    """The split whose name one of the folders has, if any."""
    test = folder_split(path, root) == "test"
    named = test or "train" in {part.lower() for part in path.relative_to(root).parts[:-1]}
    return SPLITS[test] if named else None


def _missing(image: Path, masks: Sequence[Path], root: Path) -> MissingMask:
    place = f"{masks[0]}/{image.stem}.png" if masks else f"{image.stem}.png in a folder named mask"
    return missing_mask(image, place, root)
