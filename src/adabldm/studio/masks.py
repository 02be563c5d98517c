"""Masks that are painted in the room Data: saved where the data set's layout expects them, so that a fit uses them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, write_error, write_png
from adabldm.core.names import check_defect_name
from adabldm.core.samples import MaskFile, Sample
from adabldm.data.formats import btad, folders, ksdd2, mvtec, reading, visa

REPLACED = ".adabldm-replaced"
"""Hidden folder of a data set in which masks that were replaced are kept."""


@dataclass(frozen=True)
class Saved:
    """Where a mask was written.

    Attributes:
        image: the picture, which may have moved.
        mask: the mask's file.
        moved: whether the picture was moved to the folder of its defect type.
        replaced: where the mask that was there before is kept.
    """

    image: Path
    mask: Path
    moved: bool = False
    replaced: Path | None = None


def save_mask(root: Path, layout: str, sample: Sample, defect: str, mask: Mask) -> Saved:
    """Save the mask of a picture as a real one.

    A mask that is there already is replaced, and kept in a hidden folder. A picture that counts as good is moved to the
    folder of the defect type.

    Args:
        root: the data set.
        layout: its name.
        sample: the picture, as the layout's reader lists it.
        defect: type of the defect.
        mask: bool HxW, of the picture's size, not empty.

    Raises:
        InputError: the layout keeps no mask files, or the type does not fit it.
        OutputError: full disk or missing permission.
    """
    check_defect_name(defect)
    place = PLACES.get(layout)
    if place is None:
        raise InputError(
            f"{sample.image.name}: the layout {layout} keeps its outlines in annotation files, which the studio does "
            "not rewrite; correct it in the tool that it was annotated with."
        )
    own = [one.mask for one in sample.defects if one.type == defect]
    if len(own) > 1:
        raise InputError(
            f"{sample.image.name}: it has {len(own)} masks of {defect}, one for each defect; correct these files."
        )
    if sample.defects and not own:
        known = ", ".join(sample.types)
        raise InputError(f"{sample.image.name}: it lies in the folder of {known}; choose that type, or move the file.")
    if own and isinstance(own[0], MaskFile):
        return _replace(root, sample, own[0].path, mask)
    image, target = place(root, sample, defect)
    if image != sample.image and image.exists():
        raise InputError(f"{image}: there is a file of that name already; rename {sample.image.name} first.")
    if target.exists():
        return _replace(root, sample, target, mask)
    write_png(target, mask.astype("uint8") * 255)
    if image != sample.image:
        _move(sample.image, image)
    return Saved(image, target, moved=image != sample.image)


def _replace(root: Path, sample: Sample, path: Path, mask: Mask) -> Saved:
    """Write a new mask for the one at `path`, which is kept."""
    kept = root / REPLACED / path.relative_to(root)
    number = 0
    while kept.exists():
        number += 1
        kept = kept.with_name(f"{path.stem}.{number}{path.suffix}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, kept)
    except OSError as error:
        raise write_error(kept, error) from error
    target = path.with_suffix(".png")
    write_png(target, mask.astype("uint8") * 255)
    if target != path:
        path.unlink()
    return Saved(sample.image, target, replaced=kept)


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
    except OSError as error:
        raise write_error(target, error) from error


def _mvtec(root: Path, sample: Sample, defect: str) -> tuple[Path, Path]:
    """(image, mask) of a picture with a defect in MVTec AD's layout, and in BTAD's."""
    image = sample.image if sample.defects else sample.image.parent.parent / defect / sample.image.name
    return image, root / "ground_truth" / defect / f"{image.stem}_mask.png"


def _folders(root: Path, sample: Sample, defect: str) -> tuple[Path, Path]:
    """The same in plain folders: masks lie in a folder of their type in the first folder of masks, or in a new one."""
    image = sample.image if sample.defects else sample.image.parent.parent / defect / sample.image.name
    there = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name.lower() in reading.MASK_NAMES]
    masks = there[0] if there else root / "masks"
    inner = masks / image.parent.name
    return image, (inner if inner.is_dir() or not there else masks) / f"{image.stem}.png"


def _ksdd2(root: Path, sample: Sample, defect: str) -> tuple[Path, Path]:
    if defect != ksdd2.DEFECT:
        raise InputError(f"defect type {defect!r}: this layout knows one type, {ksdd2.DEFECT}; choose it.")
    return sample.image, sample.image.with_name(f"{sample.image.stem}{ksdd2.ENDING}.png")


def _visa(root: Path, sample: Sample, defect: str) -> tuple[Path, Path]:
    data = root / "Data"
    if defect != "anomaly":
        raise InputError(f"defect type {defect!r}: this layout knows one type, anomaly; choose it.")
    return data / "Images/Anomaly" / sample.image.name, data / "Masks/Anomaly" / f"{sample.image.stem}.png"


PLACES: dict[str, Callable[[Path, Sample, str], tuple[Path, Path]]] = {
    mvtec.NAME: _mvtec,
    btad.NAME: _mvtec,
    folders.NAME: _folders,
    ksdd2.NAME: _ksdd2,
    visa.NAME: _visa,
}
"""Where image and mask go, by layout."""
