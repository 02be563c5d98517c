"""Read a data set in the MVTec AD folder layout and say everything that is wrong with it in one go.

Layout: `train/good`, `test/good`, `test/<defect>`, `train/<defect>` (few-shot images) and
`ground_truth/<defect>/<stem>_mask.png` (or `<stem>.png`), whose masks serve both splits.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from adabldm.errors import EmptyMaskError, InputError
from adabldm.images import is_image_file, read_mask, read_picture
from adabldm.sample import GOOD, DataSet, Sample

SPLITS = ("train", "test")
SMALLEST_SIDE = 16
"""Images with a shorter side (px) cannot be used."""
JUNK = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "__macosx"})
"""Lower-case names that operating systems leave behind; they are ignored without a word, as hidden files are."""
INVERTED_SHARE = 0.9
"""A mask that covers more of its image than this is probably inverted."""


@dataclass(frozen=True)
class Row:
    """What one folder of images holds; ranges are (smallest, largest), `None` where nothing could be read.

    Attributes:
        split: "train" or "test".
        defect: defect type, or "good".
        images: number of image files.
        heights: range of heights in px.
        widths: range of widths in px.
        masks: number of readable masks.
        areas: range of mask areas in px.
        modes: "grey", "colour", or both.
    """

    split: str
    defect: str
    images: int
    heights: tuple[int, int] | None
    widths: tuple[int, int] | None
    masks: int
    areas: tuple[int, int] | None
    modes: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """The outcome of `check_folder`.

    Attributes:
        data_set: the sound samples; remarks for the user stand in its `notes`.
        rows: a row per (split, defect type), train first, good first.
        problems: one sentence each; empty when the folder can be used.
    """

    data_set: DataSet
    rows: tuple[Row, ...]
    problems: tuple[str, ...]


@dataclass
class _Remarks:
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Finding:
    """One decoded sample; `size` is (height, width) in px, `area` the mask's in px, `skipped` left out on purpose."""

    sample: Sample
    problems: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    grey: bool = False
    area: int | None = None
    skipped: bool = False


def open_data_set(
    root: Path,
    *,
    object_name: str | None = None,
    mask_threshold: int | None = None,
    shots: int | None = None,
    skip_empty: bool = False,
    require_good: bool = True,
    require_defects: bool = False,
    min_size: int | None = None,
    split: str | None = None,
) -> DataSet:
    """Read and check a data set; the arguments are those of `check_folder`.

    Raises:
        InputError: with all problems of the folder, one sentence each.
    """
    inspection = check_folder(
        root,
        object_name=object_name,
        mask_threshold=mask_threshold,
        shots=shots,
        skip_empty=skip_empty,
        require_good=require_good,
        require_defects=require_defects,
        min_size=min_size,
        split=split,
    )
    if inspection.problems:
        raise InputError(inspection.problems)
    return inspection.data_set


def check_folder(
    root: Path,
    *,
    object_name: str | None = None,
    mask_threshold: int | None = None,
    shots: int | None = None,
    skip_empty: bool = False,
    require_good: bool = True,
    require_defects: bool = False,
    min_size: int | None = None,
    split: str | None = None,
) -> Inspection:
    """Decode every image and mask of a data set and list what was found; never raises for a bad folder.

    Args:
        root: folder in the MVTec AD layout.
        object_name: what the images show; the folder's name with spaces for `_` and `-` if `None`.
        mask_threshold: grey level in 0…254 above which a mask pixel is defect; `None` refuses non-binary masks.
        shots: use only the first so many few-shot images of each type, by name; `None` uses all.
        skip_empty: leave out defect images whose mask is empty, with a note, instead of calling it a problem.
        require_good: count it as a problem when there is no defect-free image for training.
        require_defects: count it as a problem when there is no defect image.
        min_size: note how many images have a shorter side than this (px).
        split: "train" looks at what `fit` and `generate` use only: defect types with images in `train/<defect>` then
            leave `test/<defect>` unread, and so is `test/good`.
    """
    root = Path(root)
    name = _object_name(root) if object_name is None else object_name.strip()
    remarks = _Remarks(_bad_arguments(root, name, mask_threshold, shots))
    if not root.is_dir():
        return Inspection(DataSet(root, name, (), {}), (), tuple(remarks.problems))
    if mask_threshold is not None and not 0 <= mask_threshold <= 254:
        mask_threshold = 0  # already reported; the masks shall not be blamed for it
    samples = _list_samples(root, remarks, require_good=require_good)
    if split == "train":
        samples = _used_in_training(samples)
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:
        findings = list(pool.map(partial(_examine, mask_threshold=mask_threshold, skip_empty=skip_empty), samples))
    remarks.problems += [problem for finding in findings for problem in finding.problems]
    remarks.notes += _notes_on_pixels(findings, min_size)
    if all(finding.skipped for finding in findings if finding.sample.defect):
        text = f"{root}: no defect images in train/<defect> or test/<defect>"
        if require_defects:
            remarks.problems.append(f"{text}; add about ten of each type, with masks in ground_truth/<defect>.")
        else:
            remarks.notes.append(f"{text}; only procedural masks can be used.")
    sound = [finding.sample for finding in findings if not finding.problems and not finding.skipped]
    data_set = _divide(DataSet(root, name, (), {}), sound, shots, remarks.notes)
    return Inspection(replace(data_set, notes=tuple(remarks.notes)), _rows(findings), tuple(remarks.problems))


def _used_in_training(samples: list[Sample]) -> list[Sample]:
    few_shot = {sample.defect for sample in samples if sample.split == "train"}
    return [sample for sample in samples if sample.split == "train" or sample.defect not in few_shot]


def _object_name(root: Path) -> str:
    name = root.name if root.name not in {"", ".."} else root.resolve().name
    return " ".join(name.replace("_", " ").replace("-", " ").split()) or "object"


def _bad_arguments(root: Path, name: str, mask_threshold: int | None, shots: int | None) -> list[str]:
    problems = []
    if not root.exists():
        problems.append(f"{root}: no such folder; check the path.")
    elif not root.is_dir():
        problems.append(f"{root}: a file, expected a folder with train/good in it; give the folder.")
    if not name:
        problems.append(
            "object name: empty, expected words such as 'metal nut'; leave it out to use the folder's name."
        )
    if mask_threshold is not None and not 0 <= mask_threshold <= 254:
        problems.append(f"mask threshold: {mask_threshold}, expected a grey level from 0 to 254; 127 is usual.")
    if shots is not None and shots < 1:
        problems.append(f"shots: {shots}, expected at least 1; leave it out to use every image.")
    return problems


def _entries(folder: Path, remarks: _Remarks) -> list[Path]:
    """Visible entries by name; none where the folder is missing."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else []
    except OSError as error:
        remarks.problems.append(f"{folder}: the folder cannot be read ({error.strerror}); check its permissions.")
        return []
    return [path for path in entries if not path.name.startswith(".") and path.name.lower() not in JUNK]


def _image_files(folder: Path, remarks: _Remarks) -> list[Path]:
    """Image files of a folder by name; the rest is mentioned in a note."""
    entries = _entries(folder, remarks)
    images = [path for path in entries if is_image_file(path) and not path.is_dir()]
    others = [path.name for path in entries if path not in set(images)]
    if others:
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        remarks.notes.append(f"{folder}: left out what is no image file ({shown}).")
    return images


def _list_samples(root: Path, remarks: _Remarks, *, require_good: bool) -> list[Sample]:
    samples = []
    for split in SPLITS:
        images = _image_files(root / split / GOOD, remarks)
        _report_same_stems(images, remarks)
        samples += [Sample(path, split=split) for path in images]
        if split == "train" and not images and require_good:
            remarks.problems.append(
                f"{root / split / GOOD}: {'empty' if (root / split / GOOD).is_dir() else 'missing'}, expected "
                "defect-free images; put them there."
            )
    folders = [path for part in (*SPLITS, "ground_truth") for path in _entries(root / part, remarks) if path.is_dir()]
    for defect in sorted({path.name for path in folders} - {GOOD}):
        samples += _list_defect(root, defect, remarks)
    return samples


def _list_defect(root: Path, defect: str, remarks: _Remarks) -> list[Sample]:
    """Samples of one defect type; a missing mask stays `None` and is reported when the sample is examined."""
    images = {split: _image_files(root / split / defect, remarks) for split in SPLITS}
    mask_folder = root / "ground_truth" / defect
    masks = _image_files(mask_folder, remarks)
    if not any(images.values()):
        if masks:
            remarks.problems.append(
                f"{mask_folder}: {len(masks)} masks without an image, expected images of the same names in "
                f"train/{defect} or test/{defect}; add the images or remove the folder."
            )
        else:
            remarks.notes.append(f"{root}: the folders named {defect} hold no images and were left out.")
        return []
    for paths in (*images.values(), masks):
        _report_same_stems(paths, remarks)
    _report_shared_stems(images, remarks)
    by_stem = {_stem(path): path for path in reversed(masks)}
    samples, used = [], set()
    for split, path in [(key, path) for key in SPLITS for path in images[key]]:
        found = [by_stem[stem] for stem in (f"{_stem(path)}_mask", _stem(path)) if stem in by_stem]
        used.update(found)
        if len(found) > 1:
            remarks.problems.append(f"{path}: two masks, {found[0].name} and {found[1].name}; remove the wrong one.")
        samples.append(Sample(path, defect, found[0] if found else None, split))
    used_stems = {_stem(path) for path in used}
    remarks.problems += [
        f"{path}: a mask without an image, expected {path.stem.removesuffix('_mask')} in train/{defect} or "
        f"test/{defect}; add the image or remove the mask."
        for path in masks
        if _stem(path) not in used_stems
    ]
    return samples


def _stem(path: Path) -> str:
    # File systems disagree about composed and decomposed letters: an "ö" may differ between image and mask.
    return unicodedata.normalize("NFC", path.stem)


def _report_same_stems(paths: Iterable[Path], remarks: _Remarks) -> None:
    first: dict[str, Path] = {}
    for path in paths:
        other = first.setdefault(_stem(path), path)
        if other is not path:
            remarks.problems.append(
                f"{path}: has the same name as {other.name} but for its suffix, so that image and mask cannot be "
                "paired; rename or remove one."
            )


def _report_shared_stems(images: dict[str, list[Path]], remarks: _Remarks) -> None:
    train = {_stem(path): path for path in images["train"]}
    remarks.problems += [
        f"{path}: has the same name as {train[_stem(path)]}, so that both would share one mask (and one image may be "
        "trained and tested on); rename or remove one."
        for path in images["test"]
        if _stem(path) in train
    ]


def _examine(sample: Sample, *, mask_threshold: int | None, skip_empty: bool) -> _Finding:
    """Decode a sample's image and mask."""
    problems: list[str] = []
    size, grey, area, skipped = None, False, None, False
    try:
        picture = read_picture(sample.image)
        size, grey = picture.size, picture.grey
        if min(size) < SMALLEST_SIDE:
            problems.append(
                f"{sample.image}: {_by(size)} px (height x width), expected at least {SMALLEST_SIDE} px a side; "
                "replace or remove it."
            )
    except InputError as error:
        problems += error.problems
    if sample.defect is not None and sample.mask is None:
        problems.append(
            f"{sample.image}: no mask, expected ground_truth/{sample.defect}/{sample.image.stem}_mask.png; "
            "draw it or remove the image."
        )
    if sample.mask is not None:
        try:
            mask = read_mask(sample.mask, threshold=mask_threshold)
            area = int(mask.sum())
            if size is not None and mask.shape != size:
                problems.append(
                    f"{sample.mask}: {_by(mask.shape)} px (height x width), expected {_by(size)} px as its image "
                    f"{sample.image.name}; export the mask at the image's size."
                )
        except InputError as error:
            skipped = skip_empty and isinstance(error, EmptyMaskError)
            problems += () if skipped else error.problems
    return _Finding(sample, tuple(problems), size, grey, area, skipped)


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in size)


def _notes_on_pixels(findings: list[_Finding], min_size: int | None) -> list[str]:
    notes = [
        f"{finding.sample.mask}: covers {finding.area / (finding.size[0] * finding.size[1]):.0%} of its image; "
        "check that it is not inverted (defect pixels are white)."
        for finding in findings
        if finding.size and finding.area and finding.area > INVERTED_SHARE * finding.size[0] * finding.size[1]
    ]
    notes += [
        f"{finding.sample.image}: left out, for its mask {finding.sample.mask} is empty."
        for finding in findings
        if finding.skipped
    ]
    small = sum(finding.size is not None and min(finding.size) < (min_size or 0) for finding in findings)
    if small:
        notes.append(f"{small} images have a shorter side under {min_size} px; their windows are padded.")
    return notes


def _divide(empty: DataSet, samples: list[Sample], shots: int | None, notes: list[str]) -> DataSet:
    """Sort the sound samples into the parts of a data set."""

    def of(split: str, defect: str | None) -> tuple[Sample, ...]:
        return tuple(sample for sample in samples if sample.split == split and sample.defect == defect)

    defects: dict[str, tuple[Sample, ...]] = {}
    test_defects: dict[str, tuple[Sample, ...]] = {}
    borrowed = []
    for defect in sorted({sample.defect for sample in samples if sample.defect is not None}):
        train, test = of("train", defect), of("test", defect)
        defects[defect] = (train or test)[:shots]
        if train and test:
            test_defects[defect] = test
        elif test:
            borrowed.append(defect)
    if borrowed:
        notes.append(
            f"The few-shot images of {', '.join(borrowed)} come from test/, for there are none in train/; they cannot "
            "serve as test images too: move about ten of each to train/<defect> to keep the rest for evaluation."
        )
    return replace(
        empty, good=of("train", None), defects=defects, test_good=of("test", None), test_defects=test_defects
    )


def _rows(findings: list[_Finding]) -> tuple[Row, ...]:
    groups: dict[tuple[str, str], list[_Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.sample.split, finding.sample.defect or GOOD), []).append(finding)
    # Train before test, good before the defects.
    order = sorted(groups, key=lambda key: (SPLITS.index(key[0]), key[1] != GOOD, key[1]))
    return tuple(_row(split, defect, groups[split, defect]) for split, defect in order)


def _row(split: str, defect: str, findings: list[_Finding]) -> Row:
    sizes = [finding.size for finding in findings if finding.size is not None]
    areas = [finding.area for finding in findings if finding.area is not None]
    return Row(
        split,
        defect,
        images=len(findings),
        heights=_range([height for height, _ in sizes]),
        widths=_range([width for _, width in sizes]),
        masks=len(areas),
        areas=_range(areas),
        modes=tuple(sorted({"grey" if finding.grey else "colour" for finding in findings if finding.size})),
    )


def _range(values: list[int]) -> tuple[int, int] | None:
    return (min(values), max(values)) if values else None
