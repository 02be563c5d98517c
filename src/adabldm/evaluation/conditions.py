"""The synthetic images of each condition of an evaluation, written as data sets and read back.

All conditions edit the same sources at the same places with the same masks (`perlin` draws its own outlines there), so
that only the appearance differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from shlex import quote
from typing import Literal

import numpy as np

from adabldm.core.depth import Levels
from adabldm.core.errors import InputError
from adabldm.core.events import ImageFinished, Listener, Note, ignore
from adabldm.core.images import Mask, Pixels, read_picture
from adabldm.core.mask_files import read_mask
from adabldm.core.records import ImageRecord, InstanceRecord, Reading
from adabldm.core.records.image import COMBINED
from adabldm.core.scores import Scores, background_psnr, score
from adabldm.core.seeding import numpy_rng
from adabldm.core.settings.base import FieldProblem, SettingsError
from adabldm.core.settings.edit import PRESETS, EditPreset
from adabldm.core.settings.presets import edit_preset
from adabldm.data.decisions import rejected_indices
from adabldm.data.formats import READERS, ReadOptions
from adabldm.data.generated import GeneratedFolder, defects_of, read_kept
from adabldm.data.inspection import open_data_set
from adabldm.evaluation.baselines import BASELINES
from adabldm.evaluation.detectors.common import Advance, unreported
from adabldm.evaluation.labelled import Labelled, Mark
from adabldm.masks.placement import PlacementError
from adabldm.production.plan import defects_in
from adabldm.production.results import label_defects, rounded
from adabldm.production.scenes import Scene, SceneMaker

REAL = "real"
FIELD = "condition"
CLOSE_PSNR = 40.0
"""Background PSNR (dB) that counts as equal to any higher one."""
SAME_PSNR, SAME_PSNR_FURTHER = 1.0, 10.0
"""By how much (dB) it may be below the recorded one, and of pictures that were edited twice or have a smaller mask."""
"""Field of the settings that problems name."""


@dataclass(frozen=True)
class Condition:
    """What is added to the real training images.

    Attributes:
        name: name as the user gave it.
        kind: where the images come from.
        folder: folder of the images, if they are somebody's.
        preset: how the images are edited, if the model makes them.
    """

    name: str
    kind: Literal["real", "baseline", "adabldm", "folder"]
    folder: Path | None = None
    preset: EditPreset | None = None

    @property
    def file_name(self) -> str:
        """The name, fit for a file."""
        return file_name(self.name)


def file_name(condition: str) -> str:
    """A condition's name, fit for a file."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in condition)


def parse_conditions(names: Sequence[str]) -> list[Condition]:
    """Conditions by name, in the order given.

    Raises:
        SettingsError: none, an unknown one, an unknown preset, a folder that is not there, or one named twice.
    """
    if not names:
        raise _problem("none was given, expected at least one, such as real; add it")
    conditions = [_parse(name) for name in names]
    places = [one.name if one.folder is None else one.folder.resolve() for one in conditions]
    files = [one.file_name for one in conditions]
    for one, place in zip(conditions, places, strict=True):
        if places.count(place) > 1 or files.count(one.file_name) > 1:
            raise _problem(f"{one.name} was named twice, expected different ones; leave one out")
    return conditions


def _parse(name: str) -> Condition:
    kind, _, value = name.partition(":")
    if name == REAL:
        return Condition(name, "real")
    if name in BASELINES:
        return Condition(name, "baseline")
    if kind == "adabldm" and value:
        try:
            return Condition(name, "adabldm", preset=edit_preset(value))
        except SettingsError as error:
            raise _problem("; ".join(f"{name}: {one.message}" for one in error.fields)) from error
    if kind == "folder" and value:
        folder = Path(value).expanduser()
        if not folder.is_dir():
            raise _problem(f"{name}: no such folder; check the path")
        return Condition(name, "folder", folder=folder)
    raise _problem(
        f"{name} is unknown, expected {REAL}, {', '.join(BASELINES)}, adabldm:PRESET ({', '.join(PRESETS)} or a file) "
        "or folder:PATH"
    )


def _problem(message: str) -> SettingsError:
    return SettingsError([FieldProblem(FIELD, message)])


@dataclass(frozen=True)
class BaselinePlan:
    """What a baseline makes: scene i is the one that `generate` edits first for image i under the same seed.

    Attributes:
        name: one of `BASELINES`.
        types: defect types, which take turns.
        count: images in all.
        seed: seed of scenes and of the baseline's own draws.
        out: the generated folder.
        shots: largest number of real images of a type that the maker was given.
    """

    name: str
    types: tuple[str, ...]
    count: int
    seed: int
    out: Path
    shots: int | None = None


def write_baseline(
    plan: BaselinePlan, maker: SceneMaker, listen: Listener = ignore, advance: Advance = unreported
) -> Path:
    """Make the images of a baseline; a rerun goes on where it stopped.

    Args:
        plan: what is made.
        maker: draws the scenes.
        listen: is told notes on what was there, and every image that is on the disk.
        advance: is told the images that were made.

    Raises:
        InputError: the folder was made with other settings.
        OutputError: full disk.
    """
    folder = GeneratedFolder(plan.out)
    settings = {
        "condition": plan.name,
        "types": list(plan.types),
        "seed": plan.seed,
        "sources": len(maker.data_set.good),
        **maker.options.vary.decisive_variation(),
        **({} if plan.shots is None else {"shots": plan.shots}),
    }
    with folder.open(settings, "evaluate"):
        finished = folder.finished()
        for note in folder.notes:
            listen(Note(note))
        folder.release(range(plan.count))
        for index in (index for index in range(plan.count) if index not in finished):
            listen(ImageFinished(folder.root, _add(plan, maker, folder, index)))
            advance(1)
        folder.finish()
    return plan.out


def _add(plan: BaselinePlan, maker: SceneMaker, folder: GeneratedFolder, index: int) -> ImageRecord:
    """Make and write one image."""
    made = _put_in(plan, maker, index)
    scene, pixels = made[0].scene, made[-1].pixels
    masks = [one.mask for one in made]
    whole = np.logical_or.reduce(masks)
    labels = None
    instances: tuple[InstanceRecord, ...] = ()
    if any(maker.options.vary.variation(defect).number != (1, 1) for defect in plan.types):
        labels, instances = label_defects(
            None,
            [(one.defect, one.mask, None) for one in made],
            [{"shape": one.scene.shape.source, **rounded(one.scores)} for one in made],
            (whole.shape[0], whole.shape[1]),
        )
    types = sorted({one.defect for one in made})
    record = ImageRecord(
        image="",
        mask="",
        index=index,
        source=scene.path,
        defect=types[0] if len(types) == 1 else COMBINED,
        object=maker.data_set.object_name,
        prompt="",
        seed=plan.seed,
        preset=plan.name,
        adapt="none",
        **rounded(score(pixels, scene.picture.pixels, whole)),
        shape=scene.shape.source if len(made) == 1 else None,
        levels=None if scene.picture.deep is None else scene.picture.levels,
        instances=instances,
        model="none",
    )
    return folder.add(record, scene.picture.as_file(pixels), whole, labels)


@dataclass(frozen=True)
class _Put:
    """A defect that a baseline put into a picture: its type, the picture before and after it, mask and scores."""

    defect: str
    scene: Scene
    pixels: Pixels
    mask: Mask
    scores: Scores


def _put_in(plan: BaselinePlan, maker: SceneMaker, index: int) -> list[_Put]:
    """The defects of one image, one after another, at the places where `generate` puts them first."""
    made: list[_Put] = []
    rng = numpy_rng("baseline", plan.name, plan.seed, index)
    for slot, defect in enumerate(defects_in(maker.options.vary, plan.types, plan.seed, index)):
        if not made:
            scene = maker.draw(defect, plan.seed, index, 0)
        else:
            last = made[-1]
            try:
                canvas = last.scene.canvas.edited(last.pixels, last.scene.mask | last.mask)
                scene = maker.draw_on(canvas, defect, plan.seed, index, 0, slot)
            except PlacementError:  # `generate` leaves it out too
                continue
        pixels, mask = BASELINES[plan.name](scene, maker.data_set, rng)
        taken, closed = scene.canvas.taken, scene.canvas.closed
        if taken is not None and closed is not None:  # Perlin noise draws its own outline
            pixels = np.where((taken | (mask & closed))[..., None], scene.picture.pixels, pixels)
            mask = mask & ~closed
        if mask.any():
            made.append(_Put(defect, scene, pixels, mask, score(pixels, scene.picture.pixels, mask)))
    return made


def read_synthetic(
    folder: Path,
    sources: Path,
    count: int,
    reading: Reading | None = None,
    levels: Levels | None = None,
    listen: Listener = ignore,
) -> list[Labelled]:
    """The first `count` images of a generated folder that were not rejected; without a manifest, evenly over its types.

    Args:
        folder: a generated folder, or any data set with defects.
        sources: the folder that the manifest's sources are relative to; a source that is not there is left out.
        count: images in all.
        reading: how real images are read; masks and boxes of a data set without a manifest are treated alike, and its
            layout is recognised by itself where it is another one.
        levels: of images of more than 8 bits, as the real images are shown; those of the records if `None`.
        listen: is told how many images of a data set without a manifest were read.

    Raises:
        InputError: there are fewer, or files are broken.
    """
    records, reading = list(read_kept(folder).values()), reading or Reading()
    if records:
        _check_count(folder, len(records), count)
        records = [record.model_copy(update={"levels": levels or record.levels}) for record in records[:count]]
        return [_read_record(folder, sources, record, reading.mask_threshold) for record in records]
    same = reading.format is not None and READERS[reading.format].detects(folder)
    alike = Reading(mask_threshold=reading.mask_threshold, boxes=reading.boxes, format=reading.format if same else None)
    options = ReadOptions.of(alike, require_defects=True, require_good=False)
    data_set = open_data_set(folder, options, listen)
    instances = (data_set if levels is None else data_set.shown_with(levels)).instances
    turns = chain.from_iterable(zip_longest(*instances.values()))
    ordered = list(dict.fromkeys(instance.sample for instance in turns if instance is not None))
    _check_count(folder, len(ordered), count)
    return [Labelled.read(sample, synthetic=True) for sample in ordered[:count]]


def _read_record(folder: Path, sources: Path, record: ImageRecord, mask_threshold: int | None) -> Labelled:
    pixels = read_picture(folder / record.image, record.levels).pixels
    mask = read_mask(folder / record.mask, threshold=mask_threshold)
    if mask.shape != pixels.shape[:2]:
        raise InputError(f"{folder / record.mask}: not of its image's size; export the mask at the image's size.")
    marks: tuple[Mark, ...] = (Mark(record.defect, mask),)
    if record.labels is not None:
        marks = tuple(Mark(defect.type, defect.mask.read()) for defect in defects_of(folder, record))
    labelled = Labelled(pixels, marks, synthetic=True)
    return replace(labelled, source=_source((sources, folder), record, pixels, mask))


def _source(roots: Sequence[Path], record: ImageRecord, result: Pixels, mask: Mask) -> Pixels | None:
    """A result's source in the first folder that has it; `None` without one, or if it is another image.

    It is another one if its size differs, or if the result is much farther from it outside the mask than from the
    picture that was edited: data sets of several parts or lines give their pictures the same names.
    """
    found = [root / record.source for root in roots if record.source]
    path = next((one for one in found if one.is_file()), None)
    pixels = None if path is None else read_picture(path, record.levels).pixels
    if pixels is None or pixels.shape != result.shape:
        return None
    known = record.background_psnr
    further = record.base is not None or record.mask_share is not None
    least = -np.inf if known is None else min(known, CLOSE_PSNR) - (SAME_PSNR_FURTHER if further else SAME_PSNR)
    return pixels if background_psnr(result, pixels, mask) >= least else None


def _check_count(folder: Path, found: int, wanted: int) -> None:
    if found < wanted:
        rejected = sorted(rejected_indices(folder))
        shown = ",".join(map(str, rejected[:8])) + (",…" if len(rejected) > 8 else "")
        way = (
            f"take rejections back by `adabldm curate {quote(str(folder))} --keep {shown}`" if rejected else "make more"
        )
        raise InputError(
            f"{folder}: {found} synthetic images, expected {wanted}; {way}, or ask for --count {found} with another "
            "--out."
        )
