"""Check a data set of any layout: every image and mask is decoded, and everything that is wrong is said in one go."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from adabldm.core.depth import Deep, LevelCounter, Levels
from adabldm.core.errors import EmptyMaskError, InputError, as_text, is_text
from adabldm.core.events import Listener, Task, Workload, beforehand, ignore
from adabldm.core.images import Mask, Picture, channel_extremes
from adabldm.core.mask_files import MASK_TOLERANCE, is_frame, looks_inverted
from adabldm.core.names import LONGEST_NAME, check_defect_name
from adabldm.core.opening import read_orientation
from adabldm.core.prompts import readable
from adabldm.core.samples import GOOD, DataSet, Defect, MaskFile, Sample
from adabldm.core.windows import bounding_box
from adabldm.data.content import SampleDigest
from adabldm.data.decisions import DECISIONS, rejected_indices
from adabldm.data.folds import hold_out, one_sided, too_few
from adabldm.data.formats import Listing, ReadOptions, data_sets_inside, find_reader, note_on_layout
from adabldm.data.formats.numbered import ClassMask
from adabldm.data.formats.reading import SPLITS, some
from adabldm.data.generated import MANIFEST, read_records
from adabldm.data.inverted import PICTURES, Usual
from adabldm.data.regions import attach_regions

READ = "read"
"""Name of the task of reading."""
SMALLEST_SIDE = 16
"""Images with a shorter side (px) cannot be used."""
INVERTED_SHARE = 0.5
"""A mask that covers more of its image than this may be inverted."""


@dataclass(frozen=True)
class Row:
    """What a split holds of one type; ranges are (smallest, largest), `None` where nothing could be read.

    Attributes:
        split: "train" or "test".
        defect: defect type, or "good".
        images: number of image files.
        heights: range of heights in px.
        widths: range of widths in px.
        masks: number of readable masks.
        areas: range of mask areas in px.
        modes: "grey", "colour", or both.
        instances: number of defects of this type: annotated ones, or connected parts of mask files.
        pixels: number of defect pixels of this type.
    """

    split: str
    defect: str
    images: int
    heights: tuple[int, int] | None
    widths: tuple[int, int] | None
    masks: int
    areas: tuple[int, int] | None
    modes: tuple[str, ...]
    instances: int = 0
    pixels: int = 0


@dataclass(frozen=True)
class Inspection:
    """The outcome of `check_data_set`.

    Attributes:
        data_set: the sound samples; remarks for the user stand in its `notes`.
        rows: a row per (split, defect type), train first, good first.
        problems: one sentence each; empty when the data set can be used.
    """

    data_set: DataSet
    rows: tuple[Row, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Read:
    """One decoded mask.

    Attributes:
        defect: that it belongs to.
        area: in px.
        instances: number of its defects.
        inverted: whether it seems to be black on white.
        doubtful: whether it covers more of its image, or of its border, than defects do.
    """

    defect: Defect
    area: int
    instances: int
    inverted: bool
    doubtful: bool


@dataclass(frozen=True, slots=True)
class _Finding:
    """One decoded sample; `size` is (height, width) in px, `empty` are defects left out for their empty masks.

    `content` is the digest of all that was read of it.
    """

    sample: Sample
    problems: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    grey: bool = False
    masks: tuple[_Read, ...] = ()
    empty: tuple[Defect, ...] = ()
    content: bytes | None = None

    @property
    def skipped(self) -> bool:
        """Whether the sample is left out, because no defect of it has any pixel."""
        return bool(self.empty) and len(self.empty) == len(self.sample.defects)

    @property
    def sound(self) -> Sample:
        """The sample without the defects that are left out, with the digest of its content."""
        kept = tuple(defect for defect in self.sample.defects if defect not in self.empty)
        return replace(self.sample, defects=kept, content=self.content)


def open_data_set(root: Path, options: ReadOptions | None = None, listen: Listener = ignore) -> DataSet:
    """Read and check a data set.

    Args:
        root: folder of the data set.
        options: how it is read and what it must have.
        listen: is told how many images were read, before the command's own tasks begin.

    Raises:
        InputError: with all problems of the data set, one sentence each.
    """
    inspection = check_data_set(root, options, beforehand(listen))
    if inspection.problems:
        raise InputError(inspection.problems)
    return inspection.data_set


def check_data_set(root: Path, options: ReadOptions | None = None, listen: Listener = ignore) -> Inspection:
    """Decode every image and mask of a data set and list what was found; a bad data set is reported, not raised.

    Args:
        root: folder of the data set.
        options: how it is read and what it must have.
        listen: is told how many images were read.

    Raises:
        InputError: there is no reader for the layout that `options` ask for.
    """
    root, options = Path(root), options or ReadOptions()
    name = _object_name(root) if options.object_name is None else options.object_name.strip()
    problems = _bad_arguments(root, name, options)
    if not root.is_dir():
        return Inspection(DataSet(root, name, ()), (), tuple(problems))
    if options.mask_threshold is not None and not 0 <= options.mask_threshold <= 254:
        options = replace(options, mask_threshold=0)  # already reported; the masks are not to be blamed for it
    inside = data_sets_inside(root) if options.layout is None else []
    if inside:
        problems.append(f"{root}: holds several data sets ({some(inside)}), expected one; give one of these folders.")
        return Inspection(DataSet(root, name, ()), (), tuple(problems))
    reader = find_reader(root, options.layout)
    listing = reader.list_samples(root, options)
    odd = note_on_layout(root, reader.name, asked=options.layout is not None)
    listing.notes = [*([] if odd is None else [odd]), *listing.notes]
    _leave_out_odd_names(listing)
    _leave_out_rejected(root, listing)
    listing.samples = attach_regions(listing.samples, options.roi, listing, options.types)
    problems += _unusable_types(root, listing.samples)
    samples = listing.samples
    if options.fold is not None or options.split == "train":
        samples = _used_in_training(samples)
    if options.fold is not None:
        divided = hold_out(samples, options.fold)
        samples = [sample for sample in divided if sample.split == "train" or options.split != "train"]
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:
        counters = {split: LevelCounter() for split in SPLITS}
        examine = partial(_examine, skip_empty=options.skip_empty, counters=counters)
        findings = _counted(pool.map(examine, samples), len(samples), listen)
        types = _inverted_types(findings)
        turned = _inverted_ones(findings, types)
        if turned:
            findings = list(pool.map(lambda finding: _turned(finding, turned, examine), findings))
            listing.notes += _notes_on_turned(types, turned)
    if options.fold is not None:
        problems += _unfit_for_folds(root, divided, findings, options.fold)
    problems += [*listing.problems, *(problem for finding in findings for problem in finding.problems)]
    listing.notes += _notes_on_pixels(findings, options.min_size)
    _check_any_defect(root, findings, options, problems, listing)
    sound = [finding.sound for finding in findings if not finding.problems and not finding.skipped]
    empty = DataSet(root, name, (), format=reader.name)
    data_set = _divide(empty, sound, options.shots, listing, borrows=options.fold is None)
    levels = counters["train"].levels() or counters["test"].levels()
    if levels is not None:
        data_set = data_set.shown_with(levels)
        listing.notes.append(_note_on_levels(levels))
    notes = tuple(map(as_text, listing.notes))
    return Inspection(replace(data_set, notes=notes), _rows(findings), tuple(map(as_text, problems)))


def _counted(findings: Iterable[_Finding], total: int, listen: Listener) -> list[_Finding]:
    """All findings; their number is told as they come."""
    work = Workload([Task(READ, total, "img")], listen)
    work.begin(READ)
    found = []
    for finding in findings:
        found.append(finding)
        work.advance(READ)
    return found


def _unusable_types(root: Path, samples: list[Sample]) -> list[str]:
    """A problem for each defect type that cannot name a folder."""
    problems = []
    for name in sorted({name for sample in samples for name in sample.types}):
        try:
            check_defect_name(name)
        except InputError as error:
            problems += [f"{root}: {problem}" for problem in error.problems]
    return problems


def _object_name(root: Path) -> str:
    name = root.name if root.name not in {"", ".."} else root.resolve().name
    return readable(name) or "object"


def _bad_arguments(root: Path, name: str, options: ReadOptions) -> list[str]:
    problems = []
    if not root.exists():
        problems.append(f"{root}: no such folder; check the path.")
    elif not root.is_dir():
        problems.append(f"{root}: a file, expected the folder of a data set; give the folder.")
    if not name:
        problems.append(
            "object name: empty, expected words such as 'metal nut'; leave it out to use the folder's name."
        )
    if not name.isprintable() or len(name) > LONGEST_NAME:
        problems.append(
            f"object name {name[:80]!r}: too long, or with characters that cannot be printed; give it with --object."
        )
    threshold = options.mask_threshold
    if threshold is not None and not 0 <= threshold <= 254:
        problems.append(f"mask threshold: {threshold}, expected a grey level from 0 to 254; 127 is usual.")
    if options.shots is not None and options.shots < 1:
        problems.append(f"shots: {options.shots}, expected at least 1; leave it out to use every image.")
    return problems


def _leave_out_rejected(root: Path, listing: Listing) -> None:
    """Leave out the images of a generated folder that somebody rejected."""
    try:
        rejected = rejected_indices(root) if (root / MANIFEST).is_file() else set[int]()
        records = read_records(root) if rejected else {}
    except InputError as error:
        listing.problems += error.problems
        return
    away = {root / records[index].image for index in rejected & records.keys()}
    count = len(listing.samples)
    listing.samples = [sample for sample in listing.samples if sample.image not in away]
    if len(listing.samples) < count:
        listing.notes.append(f"{root}: {count - len(listing.samples)} generated images were left out, for they were "
                             f"rejected ({DECISIONS}).")  # fmt: skip


def _leave_out_odd_names(listing: Listing) -> None:
    """Report files whose names cannot be written into records."""
    for sample in listing.samples:
        if not is_text(sample.image):
            listing.problems.append(f"{sample.image}: its name is not written in UTF-8; rename it.")
    listing.samples = [sample for sample in listing.samples if is_text(sample.image)]


def _used_in_training(samples: list[Sample]) -> list[Sample]:
    few_shot = {name for sample in samples if sample.split == "train" for name in sample.types}
    return [
        sample
        for sample in samples
        if sample.split == "train" or (sample.types and not few_shot.intersection(sample.types))
    ]


def _unfit_for_folds(root: Path, divided: list[Sample], findings: list[_Finding], fold: str) -> list[str]:
    """Why a data set cannot be divided into folds; images that are not read in this one count as listed."""
    read = {finding.sample.image: finding.sound for finding in findings}
    return too_few(divided, fold, root) or one_sided(
        divided, [read.get(sample.image, sample) for sample in divided], fold, root
    )


def _check_any_defect(
    root: Path, findings: list[_Finding], options: ReadOptions, problems: list[str], listing: Listing
) -> None:
    if not all(finding.skipped for finding in findings if finding.sample.defects):
        return
    text = f"{root}: no defect images"
    if options.require_defects:
        problems.append(f"{text}, expected about ten of each type with their masks; add some.")
    elif not listing.problems:  # which may be why
        listing.notes.append(f"{text}; only procedural masks can be used.")


def _note_on_levels(levels: Levels) -> str:
    return (
        f"Images of more than 8 bits: level {levels.low} is shown to the model as black and {levels.high} as white, "
        "nearly the darkest and the brightest of the data set; results keep the depth of their sources."
    )


def _examine(sample: Sample, *, skip_empty: bool, counters: Mapping[str, LevelCounter]) -> _Finding:
    """Decode a sample's image and masks; the levels of images of more than 8 bits are counted by split."""
    problems: list[str] = []
    deep: Deep | None = None
    size, grey, masks, empty, picture = None, False, list[_Read](), list[Defect](), None
    content: SampleDigest | None = None
    try:
        picture = sample.picture()
        content = SampleDigest(sample.image)
        size, grey, deep = picture.size, picture.grey, picture.deep
        if min(size) < SMALLEST_SIDE:
            problems.append(
                f"{sample.image}: {_by(size)} px (height x width), expected at least {SMALLEST_SIDE} px a side; "
                "replace or remove it."
            )
    except InputError as error:
        problems += error.problems
    defective = np.zeros(size or (0, 0), np.bool_)
    for defect in sample.defects:
        try:
            mask = defect.mask.read()
            if content is not None:
                content.add(defect.type, mask)
            parts = _count_parts(mask) if _may_hold_several(defect) else 1
            area = int(np.count_nonzero(mask))
            doubtful = bool(area > INVERTED_SHARE * mask.size or is_frame(mask))
            masks.append(_Read(defect, area, parts, doubtful and looks_inverted(mask), doubtful))
            if picture is not None:
                problems += _mismatches(sample, picture, defect, mask)
                if deep is not None and mask.shape == size:
                    defective |= mask
        except InputError as error:
            if skip_empty and isinstance(error, EmptyMaskError):
                empty.append(defect)
            else:
                problems += error.problems
    if deep is not None:
        counters[sample.split].add(deep, defective)
    digest = None if content is None else content.digest()
    return _Finding(sample, tuple(problems), size, grey, tuple(masks), tuple(empty), digest)


def _mismatches(sample: Sample, picture: Picture, defect: Defect, mask: Mask) -> list[str]:
    """What shows that a mask does not belong on its picture."""
    place, name = _mask_place(defect), sample.image.name
    if mask.shape != picture.size:
        return [
            f"{place}: {_by(mask.shape)} px (height x width), expected {_by(picture.size)} px as its image {name}; "
            "export the mask at the image's size."
        ]
    problems = []
    if mask.all():
        problems.append(
            f"{place}: the mask covers the whole image, expected the defect in white on black; draw it or remove the "
            "pair."
        )
    if isinstance(defect.mask, MaskFile):
        same_size = picture.size[0] == picture.size[1] or picture.orientation < 5
        turned = same_size and picture.orientation != 1  # the mask's own orientation costs decoding it
        if turned and picture.orientation != read_orientation(defect.mask.path):
            problems.append(_which_way_up(sample, picture, place))
        if _shows(picture, mask):
            problems.append(f"{sample.image}: looks like the mask {place} itself, expected a picture; move it away.")
    return problems


def _shows(picture: Picture, mask: Mask) -> bool:
    """Whether a picture is the mask: black and white in the same places."""
    for step in (8, 1):  # most pictures are told from masks by a few of their pixels
        brightest, darkest = channel_extremes(picture.pixels[::step, ::step])
        extreme = (brightest <= MASK_TOLERANCE) | (darkest >= 255 - MASK_TOLERANCE)
        if np.count_nonzero(extreme) <= 0.98 * extreme.size:
            return False
    return bool(np.mean((brightest > 127) == mask) > 0.98)


def _which_way_up(sample: Sample, picture: Picture, place: str) -> str:
    return (
        f"{sample.image}: is shown turned, for its EXIF data say so (orientation {picture.orientation}), and its mask "
        f"{place} says nothing of that, so that it may lie the other way; save the picture as it is shown, without "
        "that entry."
    )


def _inverted_types(findings: list[_Finding]) -> set[str]:
    """Types all of whose mask files look inverted: a single mask with white corners may show a large defect."""
    verdicts: dict[str, list[bool]] = {}
    for finding in findings:
        for mask in finding.masks:
            verdicts.setdefault(mask.defect.type, []).append(
                isinstance(mask.defect.mask, MaskFile) and not mask.defect.mask.inverted and mask.inverted
            )
    return {name for name, found in verdicts.items() if len(found) > 1 and all(found)}


def _inverted_ones(findings: list[_Finding], types: set[str]) -> set[Defect]:
    """Defects whose mask files are inverted: all of some types, and others that their pictures show to be so."""
    turned = {mask.defect for finding in findings for mask in finding.masks
              if mask.defect.type in types and isinstance(mask.defect.mask, MaskFile)}  # fmt: skip
    doubtful = [
        (finding.sample, mask.defect)
        for finding in findings
        for mask in finding.masks
        if mask.inverted and mask.defect not in turned and isinstance(mask.defect.mask, MaskFile)
        if not finding.problems and not mask.defect.mask.inverted
    ]
    good = [finding.sample for finding in findings if not finding.sample.defects and not finding.problems]
    if not doubtful or not good:
        return turned
    usual = Usual(sample.picture().pixels for sample in good[:: -(-len(good) // PICTURES)])
    return turned | {defect for sample, defect in doubtful if usual.turns(sample.picture().pixels, defect.mask.read())}


def _turned(finding: _Finding, turned: set[Defect], examine: Callable[[Sample], _Finding]) -> _Finding:
    """The sample examined again with these masks turned."""
    if turned.isdisjoint(finding.sample.defects):
        return finding
    defects = tuple(
        replace(defect, mask=replace(defect.mask, inverted=True))
        if defect in turned and isinstance(defect.mask, MaskFile)
        else defect
        for defect in finding.sample.defects
    )
    return examine(replace(finding.sample, defects=defects))


def _notes_on_turned(types: set[str], turned: set[Defect]) -> list[str]:
    alone = sorted(_mask_place(defect) for defect in turned if defect.type not in types)
    return [
        f"The masks of {name} are black on white and were turned: every one of them, and there are several, is white "
        "on most of its image, on three corners and on three quarters of its border, with black left in it."
        for name in sorted(types)
    ] + [
        f"{place}: black on white and was turned: its border is white, and beside defect-free pictures it is its black "
        "part that is unusual."
        for place in alone
    ]


def _may_hold_several(defect: Defect) -> bool:
    """Whether a mask shows all defects of its type, instead of an annotated one."""
    return isinstance(defect.mask, MaskFile) or (isinstance(defect.mask, ClassMask) and defect.mask.box is None)


def _count_parts(mask: Mask) -> int:
    top, left, bottom, right = bounding_box(mask)
    return int(cv2.connectedComponents(mask[top:bottom, left:right].astype(np.uint8))[0]) - 1


def _mask_place(defect: Defect) -> str:
    """Where a mask stands, for a message."""
    return str(defect.mask.path) if isinstance(defect.mask, MaskFile) else defect.mask.name


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in size)


def _notes_on_pixels(findings: list[_Finding], min_size: int | None) -> list[str]:
    notes = _notes_on_doubtful_masks(findings)
    for finding in findings:
        for defect in finding.empty:
            left = "left out" if finding.skipped else f"a {readable(defect.type)} in it is left out"
            notes.append(f"{finding.sample.image}: {left}, for its mask {_mask_place(defect)} is empty.")
    small = sum(finding.size is not None and min(finding.size) < (min_size or 0) for finding in findings)
    if small:
        notes.append(f"{small} images have a shorter side under {min_size} px; their windows are padded.")
    return notes


def _notes_on_doubtful_masks(findings: list[_Finding]) -> list[str]:
    """One note for each type, on masks that may be inverted."""
    doubtful: dict[str, list[str]] = {}
    for finding in findings:
        for mask in finding.masks:
            if finding.size is not None and mask.doubtful:
                share = mask.area / (finding.size[0] * finding.size[1])
                doubtful.setdefault(mask.defect.type, []).append(f"{_mask_place(mask.defect)}: covers {share:.0%}")
    return [
        f"{first} of its image{f', and {len(more)} more of {name} as much' if more else ''}; check that "
        f"{'they are' if more else 'it is'} not inverted (defect pixels are white)."
        for name, (first, *more) in sorted(doubtful.items())
    ]


def _divide(empty: DataSet, samples: list[Sample], shots: int | None, listing: Listing, *, borrows: bool) -> DataSet:
    """Sort the sound samples; if it `borrows`, a type without training images has its test images there."""
    defective = [sample for sample in samples if sample.defects]
    trained = {name for sample in defective if sample.split == "train" for name in sample.types}
    borrowed = sorted({name for sample in defective for name in sample.types} - trained) if borrows else []
    train = [sample for sample in defective if sample.split == "train" or set(sample.types) & set(borrowed)]
    test = [sample for sample in defective if sample.split == "test" and not set(sample.types) & set(borrowed)]
    if borrowed:
        listing.notes.append(
            f"The examples of {', '.join(borrowed)} come from the test split, for the training split has none; they "
            "cannot serve as test images too: move about ten of each type to the training split to keep the rest for "
            "evaluation."
        )
    good = [sample for sample in samples if not sample.defects]
    return replace(
        empty,
        good=tuple(sample for sample in good if sample.split == "train"),
        defective=_first_of_each_type(train, shots),
        test_good=tuple(sample for sample in good if sample.split == "test"),
        test_defective=tuple(test),
    )


def _first_of_each_type(samples: list[Sample], shots: int | None) -> tuple[Sample, ...]:
    """The samples without those that would be more than `shots` images of one of their types.

    A type whose images all show another type too, of which there are enough, keeps its first image all the same.
    """
    if shots is None:
        return tuple(samples)
    counts: Counter[str] = Counter()
    kept: set[int] = set()

    def keep(place: int) -> None:
        kept.add(place)
        counts.update(samples[place].types)

    for place, sample in enumerate(samples):
        if all(counts[name] < shots for name in sample.types):
            keep(place)
    for place, sample in enumerate(samples):
        if not all(counts[name] for name in sample.types):
            keep(place)
    return tuple(samples[place] for place in sorted(kept))


def _rows(findings: list[_Finding]) -> tuple[Row, ...]:
    groups: dict[tuple[str, str], list[_Finding]] = {}
    for finding in findings:
        for name in finding.sample.types or (GOOD,):
            groups.setdefault((finding.sample.split, name), []).append(finding)
    # Train before test, good before the defects.
    order = sorted(groups, key=lambda key: (SPLITS.index(key[0]), key[1] != GOOD, key[1]))
    return tuple(_row(split, defect, groups[split, defect]) for split, defect in order)


def _row(split: str, defect: str, findings: list[_Finding]) -> Row:
    sizes = [finding.size for finding in findings if finding.size is not None]
    masks = [mask for finding in findings for mask in finding.masks if mask.defect.type == defect]
    return Row(
        split,
        defect,
        images=len(findings),
        heights=_range([height for height, _ in sizes]),
        widths=_range([width for _, width in sizes]),
        masks=len(masks),
        areas=_range([mask.area for mask in masks]),
        modes=tuple(sorted({"grey" if finding.grey else "colour" for finding in findings if finding.size})),
        instances=sum(mask.instances for mask in masks),
        pixels=sum(mask.area for mask in masks),
    )


def _range(values: list[int]) -> tuple[int, int] | None:
    return (min(values), max(values)) if values else None
