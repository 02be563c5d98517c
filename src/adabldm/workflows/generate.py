"""Generate a data set of defect images with their masks; a rerun goes on where it stopped, with the same bytes."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adabldm.core.errors import InputError, OutputError
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
    to_all,
)
from adabldm.core.processes import check_guarded
from adabldm.core.samples import DataSet
from adabldm.core.settings import ExportSettings, GenerateSettings
from adabldm.core.settings.common import ExportOptions
from adabldm.data.decisions import rejected_indices
from adabldm.data.generated import MANIFEST, GeneratedFolder, read_deleted, read_manifest
from adabldm.data.good import FOLDER, place_good
from adabldm.data.remote import at_hand, uploaded
from adabldm.production.familiar import difference_of, remark_on
from adabldm.production.on_ray import produce_on_ray
from adabldm.production.plan import Batch, ProductionPlan, Supplies, check_scenes, plan_production
from adabldm.production.processes import produce_in_processes
from adabldm.production.produce import Producer, usual_threads
from adabldm.production.results import Encoded, Produced
from adabldm.production.sink import WRITERS, Sink
from adabldm.report.generated import GeneratedReport, LiveReport
from adabldm.workflows.export import TASK as EXPORT
from adabldm.workflows.export import check_place, export, read_real

TASK = "generate"
EXPORT_COST = 0.05
"""Seconds of an export over those of an edit, for the time left."""


@dataclass(frozen=True)
class GenerateSummary:
    """What a run of `generate` did.

    Attributes:
        folder: of the images.
        made: number of images that were made now.
        found: number of images that were there before.
        retried: number of attempts that were rejected and tried again.
        unaccepted: number of images that were kept although every attempt was rejected; their records say so.
        seconds: spent on the images that were made now.
        sheet: path of the contact sheet; `None` if all images are rejected.
        page: path of the HTML page.
        difference: how much farther the defect-free images are from those of the fit than these from each other, above
            1.5 for something else; `None` where the run does not tell.
    """

    folder: Path
    made: int
    found: int
    retried: int
    unaccepted: int
    seconds: float
    sheet: Path | None
    page: Path
    difference: float | None = None


def generate(settings: GenerateSettings, listen: Listener = ignore, data_set: DataSet | None = None) -> GenerateSummary:
    """Edit defects into defect-free images and write them as a data set with a manifest.

    Image i depends on (seed, i) and the settings alone: not on interruptions, order or the number of workers.

    Args:
        settings: what is made, and how.
        listen: is told notes, the progress and every image that is on the disk; its errors do not end the work.
        data_set: of the settings, if it was read already, with `training_options`.

    Raises:
        InputError: run, data or settings that cannot be used, or a folder that was made by other settings; before
            anything is written.
        OutputError: full disk, or files that vanished; what is finished stays, a rerun goes on.
    """
    check_guarded("generate")
    data, onto, real = (at_hand(one, listen) for one in (settings.data, settings.onto, settings.real))
    with uploaded(settings.out, guarded(listen), MANIFEST) as (out, tell):
        summary = _generate(settings.changed(data=data, onto=onto, real=real, out=out), tell, data_set)
    return summary


def _generate(settings: GenerateSettings, listen: Listener, data_set: DataSet | None) -> GenerateSummary:
    """The same with local folders."""
    plan, supplies = plan_production(settings, listen, data_set)
    check_scenes(plan, supplies.maker)
    _check_export(plan)
    real = _exported_with(plan, supplies, listen)
    found = difference_of(supplies.card, supplies.maker.data_set)
    remarks = remark_on(found, supplies.card, supplies.maker.data_set)
    folder = GeneratedFolder(settings.out, settings.split)
    with folder.open(plan.decisive(), made_with=plan.made_with()):
        finished = folder.finished()
        copied = place_good(folder.root, supplies.maker.data_set, settings.good)
        own = [note for one in (supplies.maker.data_set, real) if one is not None for note in one.notes]
        for note in dict.fromkeys((*folder.notes, *own, *remarks, *_notes(plan, supplies, copied=copied))):
            listen(Note(note))
        decided = rejected_indices(folder.root)
        deleted = _deleted(settings) - decided  # the files of rejected images may have been set aside
        rejected = decided | deleted
        if deleted and not settings.replace_rejected:
            listen(Note(_on_deleted(deleted)))
        wanted = plan.wanted(rejected)
        folder.release(wanted)
        merged = 0 if real is None else len(real.good) + len(real.defective)
        exports = [] if settings.export is None else [Task(EXPORT, len(wanted) + merged, "img", EXPORT_COST)]
        work = Workload([Task(TASK, len(wanted), "img"), *exports], listen)
        report = _report(folder.root, plan, supplies, remarks)
        began = time.monotonic()
        work.begin(TASK, done=len(finished.keys() & wanted))
        live = LiveReport(report, finished.values(), len(wanted | finished.keys()))
        batches = plan.batches(finished, rejected)
        with Sink(folder, _with_progress(to_all([listen, live]), work), threads=_writers(settings)) as sink:
            for produced in _produce(plan, supplies, batches, listen):
                sink.put(produced)
        seconds = time.monotonic() - began
        folder.finish()
        _check_all_there(folder, wanted)
        report.write(folder.finished().values())
        folder.remove_old_reports()
    _export(plan, real, listen, work)
    made = sink.made
    if made["fewer"]:
        listen(Note(f"{made['fewer']} images hold fewer defects than were drawn for them: no place was left."))
    return GenerateSummary(
        folder.root, made["images"], len(finished), made["retried"], made["unaccepted"], seconds,
        report.sheet if report.sheet.exists() else None, report.page, found,
    )  # fmt: skip


def _writers(settings: GenerateSettings) -> int:
    """Threads that write."""
    encoded, threads = settings.ray is not None or settings.workers > 1, settings.threads or usual_threads()
    return max(threads, WRITERS) if encoded else min(threads, WRITERS)


def _check_export(plan: ProductionPlan) -> None:
    """Refuse, before anything is made, a place for the export that could not be used afterwards."""
    settings = plan.settings
    if settings.export_out is None:
        return
    others = [one for one in (settings.out, settings.data, settings.real) if one is not None]
    check_place(settings.export_out, others, "--export-out")
    away = rejected_indices(settings.out) | _deleted(settings)
    missing = plan.wanted(away) - read_manifest(settings.out).keys()
    if missing and settings.export_out.is_dir() and any(settings.export_out.iterdir()):
        raise InputError(
            f"{settings.export_out}: not empty, but {len(missing)} images are still to be made and exported; choose "
            "another --export-out."
        )


def _exported_with(plan: ProductionPlan, supplies: Supplies, listen: Listener) -> DataSet | None:
    """The data set that is merged into the export; it is read before anything is made."""
    settings = plan.settings
    if settings.real is None:
        return None
    if settings.shots is None and settings.real.resolve() == settings.data.resolve():
        return supplies.maker.data_set
    return read_real(settings.real, plan.reading, listen)


def _export(plan: ProductionPlan, real: DataSet | None, listen: Listener, work: Workload) -> None:
    """Export the images, if that was asked for, as a part of the whole command's work."""
    settings = plan.settings
    if settings.export is None:
        return

    def tell(event: Event) -> None:
        if not isinstance(event, Progress):
            listen(event)
        elif event.done > work.tasks[EXPORT].done:
            work.advance(EXPORT, event.done - work.tasks[EXPORT].done)

    options = {name: getattr(settings, name) for name in ExportOptions.model_fields}
    reading = {} if real is None else plan.reading.given()
    values = {"folder": settings.out, "to": settings.export, "out": settings.export_out, **options, **reading}
    work.begin(EXPORT, done=0)
    export(ExportSettings.create(values), tell, real=real)
    if work.tasks[EXPORT].left:  # as many images were there before
        work.finish(EXPORT)


def _report(root: Path, plan: ProductionPlan, supplies: Supplies, remarks: Sequence[str]) -> GeneratedReport:
    """Contact sheet and page of the folder."""
    return GeneratedReport(
        root,
        supplies.maker.data_set.root,
        title=f"{plan.object_name}: generated defect images",
        intro=[
            *plan.settings.remarks,
            *remarks,
            f"Preset {plan.preset.name}, decoder adaptation {plan.preset.adaptation.method}, "
            f"seed {plan.settings.seed}, model {plan.model}.",
        ],
        foregrounds=lambda record: supplies.maker.foreground(record.source, record.base),
        source_of=supplies.maker.source_of,
    )


def _produce(
    plan: ProductionPlan, supplies: Supplies, batches: Sequence[Batch], listen: Listener
) -> Iterator[Produced] | Iterator[Encoded]:
    """Make batches in this process, in several, or on a cluster."""
    if plan.settings.ray is not None and batches:
        return produce_on_ray(plan, batches, listen)
    workers = min(plan.settings.workers, len(batches))
    if workers < 2:
        return Producer(plan, supplies).produce(batches)
    return produce_in_processes(plan, batches, workers)


def _check_all_there(folder: GeneratedFolder, wanted: Collection[int]) -> None:
    """Refuse to end well when images were removed while others were made."""
    missing = sorted(set(wanted) - folder.finished().keys() - rejected_indices(folder.root))
    if missing:
        raise OutputError(
            f"{folder.root}: {len(missing)} images vanished while others were made, the first is number {missing[0]}; "
            "run the same command again with --restore-deleted, it makes them again."
        )


def _with_progress(listen: Listener, work: Workload) -> Listener:
    def tell(event: Event) -> None:
        listen(event)
        if isinstance(event, ImageFinished):
            work.advance(TASK)

    return tell


def _deleted(settings: GenerateSettings) -> set[int]:
    """Numbers of the images that stay away because their files were deleted."""
    return set() if settings.restore_deleted else read_deleted(settings.out)


def _on_deleted(indices: Collection[int]) -> str:
    shown = ", ".join(map(str, sorted(indices)[:8])) + (", …" if len(indices) > 8 else "")
    return (
        f"{len(indices)} images were deleted ({shown}) and stay away; --replace-rejected makes new ones instead, "
        "--restore-deleted makes them again."
    )


def _notes(plan: ProductionPlan, supplies: Supplies, *, copied: bool) -> Iterator[str]:
    """What the user may not expect."""
    settings, banks = plan.settings, supplies.maker.banks
    if copied:
        yield (
            f"{settings.out / FOLDER}: the defect-free images are copies, because no links to {settings.data} are "
            "possible there; --good none leaves them out of a new folder."
        )
    missing = [defect for defect in plan.types if defect not in banks]
    if settings.masks == "bank" and missing:
        yield f"no real masks of {', '.join(missing)} in {settings.data}; procedural ones are used."
    fitted = supplies.card.settings.get("shots")
    if fitted is not None and settings.shots != fitted:
        yield f"the run was fitted with --shots {fitted}; give it here too, so that no other real defect is used."
    if settings.contrast and plan.preset.look is None:
        yield f"--contrast changes nothing: preset {plan.preset.name} draws defects from noise."
    look, guided = plan.preset.look, plan.preset.guidance.steps or (0, plan.preset.plan.steps)
    if settings.guidance is not None and banks and look is not None and guided[1] <= (look.start or 0):
        yield (
            f"--guidance changes nothing where an edit begins from a real defect: preset {plan.preset.name} begins at "
            f"step {look.start}, after its guided steps; add --set look=none to begin from noise."
        )
