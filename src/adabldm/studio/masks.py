"""Masks that are painted in the room Data: saved where the data set's layout expects them, so that a fit uses them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, write_error, write_png
from adabldm.core.names import check_defect_name
from adabldm.core.samples import MaskFile, Sample
from adabldm.data.formats import btad, folders, ksdd2, mvtec, reading, visa
from adabldm.studio.library import Listed

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


def save_mask(found: Listed, sample: Sample, defect: str, mask: Mask) -> Saved:
    """Save the mask of a picture as a real one.

    The picture's own mask, or one that belongs to no picture, is replaced, and kept in a hidden folder. A picture that
    counts as good is moved to the folder of the defect type, under a new name if another picture or its mask has its
    own there.

    Args:
        found: the data set, as it is now.
        sample: the picture, as the layout's reader lists it.
        defect: type of the defect.
        mask: bool HxW, of the picture's size, not empty.

    Raises:
        InputError: the layout keeps no mask files, the type does not fit it, or another picture has the same mask.
        OutputError: full disk or missing permission.
    """
    check_defect_name(defect)
    if found.layout not in PLACES:
        raise InputError(
            f"{sample.image.name}: the layout {found.layout} keeps its outlines in annotation files, which the studio "
            "does not rewrite; correct it in the tool that it was annotated with."
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
        image, target = sample.image, own[0].path
        _check_unshared(found, sample, target)
    else:
        image, target = _place(found, sample, defect)
    written = target.with_suffix(".png")
    kept = [_keep(found.root, path) for path in dict.fromkeys((target, written)) if path.exists()]
    write_png(written, mask.astype("uint8") * 255)
    if written != target:
        target.unlink()
    if image != sample.image:
        _move(sample.image, image)
    return Saved(image, written, moved=image != sample.image, replaced=kept[0] if kept else None)


def _check_unshared(found: Listed, sample: Sample, target: Path) -> None:
    """Refuse to write a mask that another picture has, too."""
    for other in found.samples.values():
        files = [one.mask.path for one in other.defects if isinstance(one.mask, MaskFile)]
        if other.image != sample.image and target in files:
            raise _same_name(sample, other)


def _same_name(sample: Sample, other: Sample) -> InputError:
    return InputError(
        f"{sample.image.name}: {other.image} has the same name, so that both would share one mask; rename the picture "
        "first."
    )


def _place(found: Listed, sample: Sample, defect: str) -> tuple[Path, Path]:
    """(image, mask) of a picture without a mask; a picture that moves gets a name that nothing else has there."""
    image, target = PLACES[found.layout](found.root, sample, defect)
    others = [one for one in found.samples.values() if one.image != sample.image]
    rivals = [one for one in others if _competes(found.layout, one, image, defect)]
    if image == sample.image:
        for other in rivals:
            if reading.stem_of(other.image) == reading.stem_of(image):
                raise _same_name(sample, other)
        return image, target
    there = [path for folder in {image.parent, target.parent} for path in _inside(folder) if path != target]
    taken = {key for path in (*there, *(one.image for one in rivals)) for key in _keys(path)}
    stem, ending, number = image.stem, target.name.removeprefix(image.stem), 0
    while _keys(image) & taken:
        number += 1
        image = image.with_name(f"{stem}_{number}{image.suffix}")
    return image, target.with_name(f"{image.stem}{ending}")


def _competes(layout: str, other: Sample, image: Path, defect: str) -> bool:
    """Whether a mask of another picture's name could be taken for that of a picture at `image`."""
    if layout in {mvtec.NAME, btad.NAME}:
        return defect in other.types
    return other.image.parent == image.parent if layout == ksdd2.NAME else bool(other.defects)


def _inside(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


def _keys(path: Path) -> set[str]:
    """Names of the pictures that a file can belong to."""
    return {reading.stem_of(path), reading.MASK_ENDING.sub("", reading.stem_of(path))}


def _keep(root: Path, path: Path) -> Path:
    """Keep a copy of a mask that is about to be replaced."""
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
    return kept


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
