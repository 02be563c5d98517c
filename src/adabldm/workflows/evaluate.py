"""Do the images make a detector better? Conditions, detectors and measures side by side, on real test images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from adabldm.core.cluster import joined
from adabldm.core.errors import InputError
from adabldm.core.events import (
    Event,
    ImageFinished,
    Listener,
    Note,
    Progress,
    Task,
    Workload,
    guarded,
    ignore,
    without_repeats,
)
from adabldm.core.images import atomic_file, read_picture, write_png
from adabldm.core.processes import check_guarded
from adabldm.core.records import CellRecord, EvaluationReport, ImagesRecord, Reading, RunCard, write_record
from adabldm.core.records.evaluation import ComparisonSettings
from adabldm.core.samples import DataSet
from adabldm.core.settings import EvaluateSettings, FieldProblem, GenerateSettings, SettingsError
from adabldm.core.settings.variation import VariationSettings
from adabldm.data.claim import claim
from adabldm.data.content import content_digest, content_marks, split_marks
from adabldm.data.formats import ReadOptions
from adabldm.data.generated import read_manifest
from adabldm.data.inspection import open_data_set
from adabldm.data.regions import decisive_regions
from adabldm.data.remote import at_hand
from adabldm.evaluation.cells import Cell, CellProgress, Comparison, rows, shown_tests, train_cells
from adabldm.evaluation.checks import (
    check_no_test_image,
    check_origins,
    check_splits,
    listed,
    read_real_images,
    tested_samples,
    trained_samples,
)
from adabldm.evaluation.conditions import (
    REAL,
    BaselinePlan,
    Condition,
    file_name,
    parse_conditions,
    read_synthetic,
    write_baseline,
)
from adabldm.evaluation.detectors.registry import DETECTORS, make_detector
from adabldm.evaluation.figures import image_figures, manifest_scores, over_seeds
from adabldm.evaluation.labelled import Labelled
from adabldm.evaluation.on_ray import train_on_ray
from adabldm.models.backbone import Backbone, load_backbone
from adabldm.models.devices import pick_device
from adabldm.models.store import digest, load_run
from adabldm.production.familiar import difference_of, remark_on
from adabldm.production.plan import training_options
from adabldm.production.scenes import SceneMaker, SceneOptions
from adabldm.report.evaluation import (
    SAME_SCENES,
    conditions_sheet,
    detections_sheet,
    format_markdown,
    shown_scenes,
    write_report,
)
from adabldm.training.sources import foreground_method
from adabldm.workflows.evaluate_folds import evaluate_folds
from adabldm.workflows.generate import generate

DIGESTS = "digests"
"""Folder of the digests of each condition's images, by which it is seen that they changed."""
MEASURE = "measure images"
"""Name of the task of the image measures."""
IMAGE_SECONDS = 1.0
"""Rough seconds of making one image or of measuring it; only the ratio to a detector's step matters."""


@dataclass(frozen=True)
class Inputs:
    """What is compared, checked before anything is written.

    Attributes:
        settings: as given.
        conditions: what is added to the real images.
        data_set: the real images.
        maker: draws the scenes of baselines.
        device: where detectors are trained.
        model: digest of the run's weights; "none" without a run.
        reading: how the real images are read: as the settings say, else as in the run's fit.
        content: digest of the real images and their masks.
        card: of the run, if there is one.
        given: digests of the images of folders that are compared, by condition.
        edited: the real images as `generate` reads them for the conditions of the run, if there are any: once for all.
    """

    settings: EvaluateSettings
    conditions: list[Condition]
    data_set: DataSet
    maker: SceneMaker
    device: torch.device
    model: str
    reading: Reading
    content: str
    card: RunCard | None = None
    edited: DataSet | None = None
    given: Mapping[str, str] = field(default_factory=dict)

    def decisive(self) -> dict[str, Any]:
        """JSON values that decide the results; more conditions, detectors and seeds go into the same folder."""
        settings = self.settings
        return {
            "data": str(settings.data.resolve()),
            "images": listed(self.data_set),
            "content": self.content,
            "model": self.model,
            "foreground": self.maker.method,
            **self.reading.decisive(),
            "networks": settings.networks,
            "count": settings.count,
            "budget": settings.budget,
            "detector_steps": settings.detector_steps,
            "seed": settings.seed,
            **({} if settings.placement == "anywhere" else {"placement": settings.placement}),
            **decisive_regions(settings.roi),
            **settings.decisive_variation(),
            **({} if settings.shots is None else {"shots": settings.shots}),
        }

    def folder(self, condition: Condition) -> Path:
        """Folder of a condition's images."""
        return condition.folder or self.settings.out / "images" / condition.file_name

    @property
    def synthetic(self) -> list[Condition]:
        """The conditions that add images."""
        return [one for one in self.conditions if one.kind != REAL]

    @property
    def made(self) -> list[Condition]:
        """The conditions whose images are made here."""
        return [one for one in self.conditions if one.kind in {"baseline", "adabldm"}]


def evaluate(settings: EvaluateSettings, listen: Listener = ignore) -> EvaluationReport:
    """Train every detector on every condition and test it on real images; a rerun goes on after the last finished cell.

    More workers share the processor's threads; a convolution may round differently with another number of threads, and
    then another network comes out.

    Args:
        settings: what is compared. The folder `out` gets synthetic images, cells, `evaluation.json`, `evaluation.md`
            and `index.html`; more conditions, detectors or seeds may follow into the same folder.
        listen: is told notes, the progress of the whole command and every image that is on the disk.

    Returns:
        What `evaluation.json` holds; measures in percent.

    Raises:
        InputError: settings or data that cannot be used, before anything is made; `out` was made with other settings.
        OutputError: full disk; what is finished stays.
    """
    check_guarded("evaluate")
    listen = without_repeats(guarded(listen))
    settings = settings.changed(data=at_hand(settings.data, listen))
    if settings.folds is not None:
        return evaluate_folds(settings, listen, evaluate)
    inputs = _check(settings, listen)
    found = None if inputs.card is None else difference_of(inputs.card, inputs.data_set)
    backbone = load_backbone()
    cells, comparison = _cells(settings), _comparison(inputs)
    again = bool(_changed(inputs, inputs.given)) or not all(inputs.folder(one).is_dir() for one in inputs.made)
    left = again or any(not comparison.path(cell.name).exists() for cell in cells)
    with (
        nullcontext() if settings.ray is None or not left else joined(settings.ray),
        claim(settings.out, inputs.decisive(), "evaluate") as held,
    ):
        listen = held.watched(listen)
        _forget_changed(inputs, inputs.given, listen)
        remarks = () if inputs.card is None else remark_on(found, inputs.card, inputs.data_set)
        for note in (*inputs.data_set.notes, *remarks):
            listen(Note(note))
        progress = CellProgress(comparison, cells)
        work = Workload([*_image_tasks(inputs, comparison), *progress.tasks()], listen)
        _make_images(inputs, listen, work)
        comparison = replace(comparison, synthetic=_read_images(inputs))
        made = {one.name: comparison.synthetic[one.name] for one in inputs.made}
        _forget_changed(inputs, {name: _images_digest(images) for name, images in made.items()}, listen)
        _measure_images(inputs, comparison, backbone, work)
        if settings.ray is None:
            train_cells(comparison, cells, work, progress, settings.workers)
        else:
            missing = [cell for cell in cells if not comparison.path(cell.name).exists()]
            for cell in train_on_ray(comparison, missing, settings.ray, settings.ray_cores, listen) if missing else ():
                progress.finished(work, cell)
        report = _report(comparison, settings).model_copy(update={"difference": found})
        _write(comparison, report)
    return report


def _comparison(inputs: Inputs) -> Comparison:
    """What all cells have in common, still without synthetic images."""
    settings = inputs.settings
    return Comparison(
        out=settings.out,
        types=inputs.data_set.types,
        budget=settings.budget,
        steps=settings.detector_steps,
        networks=settings.networks,
        device=inputs.device,
        real=read_real_images(inputs.data_set),
        synthetic={},
    )


def _cells(settings: EvaluateSettings) -> list[Cell]:
    return [
        Cell(detector, condition, seed)
        for seed in range(settings.seeds)
        for detector in settings.detector
        for condition in rows(detector, settings.condition)
    ]


# Checks


def _check(settings: EvaluateSettings, listen: Listener) -> Inputs:
    """Refuse what cannot be used before anything is made."""
    conditions = parse_conditions(settings.condition)
    needing = [one.name for one in conditions if one.kind == "adabldm"]
    if needing and settings.run is None:
        message = f"none was given, expected the run that makes the images of {needing[0]}; add it"
        raise SettingsError([FieldProblem("run", message)])
    device = pick_device(settings.device)
    components, card = (None, None) if settings.run is None else load_run(settings.run)
    reading = Reading.of(settings, None if card is None else card.reading)
    options = ReadOptions.of(reading, shots=settings.shots, skip_empty=True, require_defects=True, roi=settings.roi)
    data_set = open_data_set(settings.data, options, listen)
    check_splits(data_set)
    if card is not None:
        _check_fold(card, settings)
        _check_types(card, str(settings.run), data_set.types)
        _check_unseen(card, str(settings.run), data_set, listen)
        if card.levels is not None and data_set.levels is not None:
            data_set = data_set.shown_with(card.levels)
    given: dict[str, str] = {}
    for one in conditions:
        if one.folder is not None:
            images = read_synthetic(one.folder, data_set.root, settings.count, reading, data_set.levels, listen)
            check_no_test_image(images, data_set, str(one.folder))
            way_out = f"make it by generate with --fold {settings.fold}" if settings.fold else "leave these out"
            check_origins(one.folder, images, data_set, tested_samples(data_set), way_out)
            given[one.name] = _images_digest(images)
    for name in settings.detector:
        make_detector(name, settings.budget, device, steps=settings.detector_steps)
    settings.check_types(data_set.types)
    maker = SceneMaker(
        data_set,
        foreground_method(data_set, settings.foreground),
        SceneOptions(placement=settings.placement, vary=settings),
    )
    content = content_digest([*trained_samples(data_set), *tested_samples(data_set)])
    model = "none" if components is None else digest(components)
    edited = None
    if needing:  # `generate` would refuse training images without a defect, which are left out above
        edited = open_data_set(settings.data, training_options(reading, settings.shots, settings.roi), listen)
    inputs = Inputs(settings, conditions, data_set, maker, device, model, reading, content, card, edited, given)
    _check_scenes(inputs)
    return inputs


def _images_digest(images: Sequence[Labelled]) -> str:
    """Twelve hex digits of SHA-256 over the pixels and masks of images, in their order."""
    total = hashlib.sha256()
    for one in images:
        total.update(f"{one.pixels.shape}".encode() + one.pixels.tobytes())
        for mark in one.marks:
            total.update(f"{mark.type}".encode() + mark.mask.tobytes())
    return total.hexdigest()[:12]


def _digest_file(inputs: Inputs, condition: str) -> Path:
    return inputs.settings.out / DIGESTS / f"{file_name(condition)}.sha256"


def _known_digest(inputs: Inputs, condition: str) -> str | None:
    """The digest of the images that a condition's figures came from; `None` if an earlier version made them."""
    path = _digest_file(inputs, condition)
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def _changed(inputs: Inputs, digests: Mapping[str, str]) -> list[str]:
    """Conditions whose figures came from other images; what an earlier version made says nothing and stays."""
    return [condition for condition, own in digests.items() if _known_digest(inputs, condition) not in {None, own}]


def _forget_changed(inputs: Inputs, digests: Mapping[str, str], listen: Listener) -> None:
    """Remove the cells of conditions whose images changed, then keep the digests of all."""
    for condition in _changed(inputs, digests):
        listen(Note(f"{condition}: other images than before; its figures are made again"))
        trained = rf"(?:{'|'.join(DETECTORS)})-{re.escape(file_name(condition))}-\d+"
        own = re.compile(rf"{trained}|{re.escape(images_cell(condition))}")
        for path in (inputs.settings.out / "cells").glob("*.json"):
            if own.fullmatch(path.stem):
                path.unlink(missing_ok=True)
    for condition, digest_now in digests.items():
        if _known_digest(inputs, condition) != digest_now:
            with atomic_file(_digest_file(inputs, condition)) as file:
                file.write(f"{digest_now}\n".encode())


def _check_fold(card: RunCard, settings: EvaluateSettings) -> None:
    """Refuse a run that has seen what a fold holds out."""
    if settings.fold is not None and card.method == "diffusion" and card.reading.fold != settings.fold:
        raise InputError(
            f"{settings.run}: fitted without --fold {settings.fold}, so that it has seen images which are held out; "
            "fit one with that option, or give --folds, which does."
        )


def _check_unseen(card: RunCard, run: str, data_set: DataSet, listen: Listener) -> None:
    """Refuse a run that was fitted on images of the test, and tell of defects that it alone has seen."""
    good, defects = split_marks(card.seen_good), split_marks(card.seen_defects)
    tested = tested_samples(data_set)
    known = [one for one, mark in zip(tested, content_marks(tested), strict=True) if mark in good | defects]
    if known:
        raise InputError(
            f"{run}: was fitted on {len(known)} of the {len(tested)} images of the test, such as {known[0].image}; fit "
            "one to the training images alone, or in a cross-validation with the same --fold."
        )
    more = defects - set(content_marks(trained_samples(data_set)))
    if 0 < len(more) < len(defects):  # else it was fitted on the same images, or on others altogether
        listen(
            Note(
                f"{run} was fitted on {len(more)} images with defects that the detectors and the other conditions are "
                "not given, which favours its images; fit one with the same images and --shots."
            )
        )


def _check_types(card: RunCard, run: str, types: Sequence[str]) -> None:
    unknown = [defect for defect in types if defect not in card.defects]
    if unknown:
        raise InputError(
            f"{run}: knows {', '.join(card.defects)}, but the data set has {', '.join(unknown)} too; fit a run to "
            "this data set."
        )


def _check_scenes(inputs: Inputs) -> None:
    """Refuse masks that fit nowhere."""
    settings = inputs.settings
    if inputs.made:
        for index, defect in enumerate(inputs.data_set.types[: settings.count]):
            inputs.maker.draw(defect, settings.seed, index, 0)


# Images


def _image_tasks(inputs: Inputs, comparison: Comparison) -> list[Task]:
    """The tasks of making and measuring images; what was finished earlier counts as done."""
    count = inputs.settings.count
    tasks = [
        Task(_making(one), count, "img", IMAGE_SECONDS, len(read_manifest(inputs.folder(one)).keys() & range(count)))
        for one in inputs.made
    ]
    measured = sum(comparison.path(images_cell(one.name)).exists() for one in inputs.synthetic)
    return [*tasks, Task(MEASURE, len(inputs.synthetic), "condition", IMAGE_SECONDS * count, measured)]


def _making(condition: Condition) -> str:
    return f"make {condition.name}"


def _make_images(inputs: Inputs, listen: Listener, work: Workload) -> None:
    """Make the missing images of all conditions."""
    settings = inputs.settings
    for one in inputs.made:
        task, out = _making(one), inputs.folder(one)
        work.begin(task)
        if one.kind == "baseline":
            plan = BaselinePlan(one.name, inputs.data_set.types, settings.count, settings.seed, out, settings.shots)
            write_baseline(plan, inputs.maker, listen, partial(work.advance, task))
        else:
            generate(_generate_settings(inputs, one, out), _within(listen, work, task), inputs.edited)
        work.finish(task)


def _generate_settings(inputs: Inputs, condition: Condition, out: Path) -> GenerateSettings:
    settings = inputs.settings
    return GenerateSettings.create(
        {
            "run": settings.run,
            "data": settings.data,
            "out": out,
            "good": "none",
            "count": settings.count,
            "defect": inputs.data_set.types,
            "preset": condition.preset,
            "seed": settings.seed,
            "device": settings.device,
            "dtype": settings.dtype,
            "ray": settings.ray,
            "ray_cores": settings.ray_cores,
            "foreground": inputs.maker.method,
            "placement": settings.placement,
            "roi": settings.roi,
            "shots": settings.shots,
            "restore_deleted": True,
            **{name: getattr(settings, name) for name in VariationSettings.model_fields},
            **inputs.reading.given(),
        }
    )


def _within(listen: Listener, work: Workload, task: str) -> Listener:
    """A listener for a command inside this one: its images are the progress of a task of the whole."""

    def tell(event: Event) -> None:
        if not isinstance(event, Progress):
            listen(event)
        if isinstance(event, ImageFinished):
            work.advance(task)

    return tell


def _read_images(inputs: Inputs) -> dict[str, list[Labelled]]:
    settings, levels = inputs.settings, inputs.data_set.levels
    return {
        one.name: read_synthetic(inputs.folder(one), settings.data, settings.count, inputs.reading, levels)
        for one in inputs.synthetic
    }


def _measure_images(inputs: Inputs, comparison: Comparison, backbone: Backbone, work: Workload) -> None:
    """Measure the images of every condition, if that was not done."""
    work.begin(MEASURE)
    for one in inputs.synthetic:
        name = images_cell(one.name)
        if comparison.path(name).exists():
            continue
        scores = manifest_scores(inputs.folder(one), inputs.settings.count)
        images = comparison.synthetic[one.name]
        figures = image_figures(images, comparison.real, backbone, comparison.types, scores)
        comparison.make(name, partial(ImagesRecord, figures=figures))
        work.advance(MEASURE)


def images_cell(condition: str) -> str:
    """Name of the cell with the figures of a condition's images."""
    return f"images-{file_name(condition)}"


# Report


def _report(comparison: Comparison, settings: EvaluateSettings) -> EvaluationReport:
    """Everything that is finished, with mean and standard deviation over the seeds."""

    def cells(detector: str, condition: str) -> list[CellRecord]:
        found = [Cell(detector, condition, seed) for seed in range(settings.seeds)]
        return [comparison.read(cell.name, CellRecord) for cell in found]

    return EvaluationReport(
        data=str(settings.data),
        test_images=len(comparison.real.test),
        types=comparison.types,
        settings=ComparisonSettings(
            conditions=settings.condition,
            detectors=settings.detector,
            seeds=settings.seeds,
            networks=settings.networks,
            count=settings.count,
            budget=settings.budget,
            detector_steps=settings.detector_steps,
            seed=settings.seed,
        ),
        images={
            name: comparison.read(images_cell(name), ImagesRecord).figures
            for name in settings.condition
            if name != REAL
        },
        detectors={
            detector: {name: over_seeds(cells(detector, name)) for name in rows(detector, settings.condition)}
            for detector in settings.detector
        },
    )


def _write(comparison: Comparison, report: EvaluationReport) -> None:
    """`evaluation.json`, `evaluation.md`, the two sheets (the second of the first detector) and `index.html`."""
    out, tested = comparison.out, comparison.real.test
    write_record(out / "evaluation.json", report)
    with atomic_file(out / "evaluation.md") as file:
        file.write(format_markdown(report).encode())
    sheets = {}
    if comparison.synthetic:
        shown = shown_scenes(comparison.synthetic)
        chosen = {name: [images[scene] for scene in shown] for name, images in comparison.synthetic.items()}
        write_png(out / "conditions.png", conditions_sheet(chosen))
        sheets[SAME_SCENES] = "conditions.png"
    for detector in report.settings.detectors[:1]:
        picks = shown_tests(tested)
        columns = {
            name: [
                read_picture(out / "maps" / Cell(detector, name, 0).name / f"{index:05d}.png").pixels for index in picks
            ]
            for name in rows(detector, report.settings.conditions)
        }
        write_png(out / "detections.png", detections_sheet([tested[index] for index in picks], columns))
        sheets[f"Real test images and the maps of {detector} after training on each condition"] = "detections.png"
    write_report(out / "index.html", report, sheets)
