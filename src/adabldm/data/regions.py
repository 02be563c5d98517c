"""Where defects may be: masks for all images or for each, and outlines in annotation files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from adabldm.core.errors import InputError
from adabldm.core.images import is_image_file
from adabldm.core.mask_files import read_mask
from adabldm.core.samples import Defect, MaskFile, Sample
from adabldm.data.content import file_digest
from adabldm.data.formats.annotations import image_size
from adabldm.data.formats.reading import Listing

SAME_FORM = 0.02
"""Height over width of a mask for all images may differ by this share from theirs."""


@dataclass(frozen=True)
class _Given:
    """A value of `roi`: defect type, "" for all, and image file or folder of such."""

    defect: str
    path: Path


def attach_regions(
    samples: list[Sample], given: Sequence[str], listing: Listing, types: Sequence[str] = ()
) -> list[Sample]:
    """The samples with the regions where their defects may be.

    Args:
        samples: with the regions that annotation files outline.
        given: values of `roi`: PATH or TYPE=PATH.
        listing: gets problems and notes.
        types: defect types that may be named although no sample has them.
    """
    known = sorted({*types, *(name for sample in samples for name in sample.types)})
    for value, one in zip(given, map(_parse, given), strict=True):
        if not value.rpartition("=")[2].strip():
            listing.problems.append(f"--roi {value!r}: no path, expected a mask image or a folder of masks; give it.")
        elif one.defect and one.defect not in known:
            listing.problems.append(
                f"--roi {one.defect}={one.path}: no such defect type, expected one of {', '.join(known) or 'none'}."
            )
        elif one.path.is_dir():
            samples = _attach_folder(samples, one, listing)
        elif one.path.is_file():
            samples = _attach_file(samples, one, listing)
        else:
            listing.problems.append(f"--roi {one.path}: no such file or folder; check the path.")
    if not given:
        samples = _spread(samples, listing)
    covered: dict[str, int] = {}
    for sample in samples:
        for name in {region.type for region in sample.regions}:
            covered[name] = covered.get(name, 0) + 1
    for name, count in sorted(covered.items()):
        whose = f"defects of type {name}" if name else "defects"
        rest = "" if count == len(samples) else "; none is put into the others"
        listing.notes.append(f"Regions say where {whose} may be on {count} of {len(samples)} images{rest}.")
    return samples


def decisive_regions(given: Sequence[str]) -> dict[str, Any]:
    """JSON values of what decides where defects may be: as it was given, and a digest of the masks; none without any.

    Raises:
        InputError: a mask cannot be read.
    """
    total = hashlib.sha256()
    for one in map(_parse, given):
        files = sorted(path for path in one.path.rglob("*") if is_image_file(path)) or [one.path]
        for path in files:
            total.update(f"{one.defect}\0{path.relative_to(one.path).as_posix()}\0".encode() + file_digest(path))
    return {"roi": list(given), "regions": total.hexdigest()[:12]} if given else {}


def whole_paths(given: Sequence[str]) -> list[str]:
    """The same values with paths that hold in every working folder."""
    return [f"{one.defect}{'=' if one.defect else ''}{one.path.resolve()}" for one in map(_parse, given)]


def _parse(value: str) -> _Given:
    name, separator, rest = value.partition("=")
    return _Given(name, Path(rest)) if separator and not Path(value).exists() else _Given("", Path(value))


def _attach_file(samples: list[Sample], one: _Given, listing: Listing) -> list[Sample]:
    """One mask for all images; it is scaled to theirs."""
    try:
        height, width = read_mask(one.path).shape
    except InputError as error:
        listing.problems += error.problems
        return samples
    sizes = {sample.image: image_size(sample.image) for sample in samples}
    odd = [path for path, size in sizes.items() if size is not None and not _same_form((height, width), size)]
    if odd:
        shown = " x ".join(map(str, sizes[odd[0]] or ()))
        listing.problems.append(
            f"--roi {one.path}: {height} x {width} px (height x width), but of the {len(samples)} images {len(odd)} "
            f"have another form, such as {odd[0].name} ({shown}); give a folder with a mask for each image."
        )
        return samples
    region = Defect(one.defect, MaskFile(one.path))
    return [replace(sample, regions=(*sample.regions, region)) for sample in samples]


def _same_form(mask: tuple[int, int], image: tuple[int, int]) -> bool:
    return abs(mask[0] * image[1] / (mask[1] * image[0]) - 1) <= SAME_FORM


def _attach_folder(samples: list[Sample], one: _Given, listing: Listing) -> list[Sample]:
    """A mask for each defect-free training image, by its name; other images may have one."""
    masks = {path.stem: path for path in sorted(one.path.rglob("*")) if is_image_file(path)}
    missing, result = [], []
    for sample in samples:
        stems = (sample.image.stem, f"{sample.image.stem}_mask", f"{sample.image.stem}_roi")
        found = next((masks[stem] for stem in stems if stem in masks), None)
        if found is None:
            missing += [sample.image.name] if not sample.defects and sample.split == "train" else []
            result.append(sample)
            continue
        try:
            mask, image = read_mask(found).shape, image_size(sample.image)
        except InputError as error:
            listing.problems += error.problems
            continue
        if image is not None and mask != image:
            listing.problems.append(
                f"{found}: {mask[0]} x {mask[1]} px (height x width), expected {image[0]} x {image[1]} px as "
                f"{sample.image.name}; make them equal."
            )
        result.append(replace(sample, regions=(*sample.regions, Defect(one.defect, MaskFile(found)))))
    if missing:
        listing.problems.append(
            f"--roi {one.path}: no mask for {len(missing)} defect-free images, such as {missing[0]}; add "
            f"{Path(missing[0]).stem}.png, or give one mask for all."
        )
    return result


def _spread(samples: list[Sample], listing: Listing) -> list[Sample]:
    """A region that is outlined in a single image counts for all images of its size."""
    size_of = lru_cache(maxsize=None)(image_size)
    for name in sorted({region.type for sample in samples for region in sample.regions}):
        outlined = [sample for sample in samples if any(region.type == name for region in sample.regions)]
        if len(outlined) > 1:
            continue
        (only,) = outlined
        size = size_of(only.image)
        alike = {sample.image for sample in samples if sample is not only and size_of(sample.image) == size}
        regions = tuple(region for region in only.regions if region.type == name)
        samples = [
            replace(sample, regions=(*sample.regions, *regions)) if sample.image in alike else sample
            for sample in samples
        ]
        listing.notes.append(f"The region in {only.image.name} counts for all {len(alike) + 1} images of its size.")
    return samples
