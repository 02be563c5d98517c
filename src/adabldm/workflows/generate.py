"""Generate a data set of defect images with their masks; a rerun goes on where it stopped, with the same bytes."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from adabldm.core.errors import OutputError
from adabldm.core.events import Event, ImageFinished, Listener, Note, Task, Workload, guarded, ignore, to_all
from adabldm.core.settings import GenerateSettings
from adabldm.data.decisions import rejected_indices
from adabldm.data.generated import GeneratedFolder
from adabldm.data.good import FOLDER, place_good
from adabldm.production.plan import ProductionPlan, Supplies, check_scenes, plan_production
from adabldm.production.produce import Producer
from adabldm.production.sink import Sink
from adabldm.report.generated import GeneratedReport, LiveReport

TASK = "generate"


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
    """

    folder: Path
    made: int
    found: int
    retried: int
    unaccepted: int
    seconds: float
    sheet: Path | None
    page: Path


def generate(settings: GenerateSettings, listen: Listener = ignore) -> GenerateSummary:
    """Edit defects into defect-free images and write them as a data set with a manifest.

    Image i depends on (seed, i) and the settings alone: not on interruptions, order or the number of workers.

    Args:
        settings: what is made, and how.
        listen: is told notes, the progress and every image that is on the disk; its errors do not end the work.

    Raises:
        InputError: run, data or settings that cannot be used, or a folder that was made by other settings; before
            anything is written.
        OutputError: full disk, or files that vanished; what is finished stays, a rerun goes on.
    """
    listen = guarded(listen)
    plan, supplies = plan_production(settings)
    check_scenes(plan, supplies.maker)
    folder = GeneratedFolder(settings.out, settings.split)
    with folder.open(plan.decisive()):
        finished = folder.finished()
        copied = place_good(folder.root, supplies.maker.data_set, settings.good)
        for note in (*folder.notes, *supplies.maker.data_set.notes, *_notes(plan, supplies, copied=copied)):
            listen(Note(note))
        rejected = rejected_indices(folder.root)
        wanted = plan.wanted(rejected)
        work = Workload([Task(TASK, len(wanted), "img")], listen)
        report = _report(folder.root, plan, supplies)
        producer = Producer(plan, supplies)
        began = time.monotonic()
        work.begin(TASK, done=len(finished.keys() & wanted))
        live = LiveReport(report, finished.values(), len(wanted | finished.keys()))
        with Sink(folder, _with_progress(to_all([listen, live]), work), threads=settings.workers) as sink:
            for produced in producer.produce(plan.batches(finished, rejected)):
                sink.put(produced)
        seconds = time.monotonic() - began
        folder.finish()
        _check_all_there(folder, wanted)
        report.write(folder.finished().values())
        folder.remove_old_reports()
    made = sink.made
    return GenerateSummary(
        folder.root, made["images"], len(finished), made["retried"], made["unaccepted"], seconds,
        report.sheet if report.sheet.exists() else None, report.page,
    )  # fmt: skip


def _report(root: Path, plan: ProductionPlan, supplies: Supplies) -> GeneratedReport:
    """Contact sheet and page of the folder."""
    return GeneratedReport(
        root,
        supplies.maker.data_set.root,
        title=f"{plan.object_name}: {plan.settings.count} generated defect images",
        intro=[
            *plan.settings.remarks,
            f"Preset {plan.preset.name}, decoder adaptation {plan.preset.adaptation.method}, "
            f"seed {plan.settings.seed}, model {plan.model}.",
        ],
        foregrounds=supplies.maker.foreground,
    )


def _check_all_there(folder: GeneratedFolder, wanted: Collection[int]) -> None:
    """Refuse to end well when images were removed while others were made."""
    missing = sorted(set(wanted) - folder.finished().keys() - rejected_indices(folder.root))
    if missing:
        raise OutputError(
            f"{folder.root}: {len(missing)} images vanished while others were made, the first is number {missing[0]}; "
            "run the same command again, it makes them again."
        )


def _with_progress(listen: Listener, work: Workload) -> Listener:
    def tell(event: Event) -> None:
        listen(event)
        if isinstance(event, ImageFinished):
            work.advance(TASK)

    return tell


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
    look, guided = plan.preset.look, plan.preset.guidance.steps or (0, plan.preset.plan.steps)
    if settings.guidance is not None and banks and look is not None and guided[1] <= look.start:
        yield (
            f"--guidance changes nothing where an edit begins from a real defect: preset {plan.preset.name} begins at "
            f"step {look.start}, after its guided steps; add --set look=none to begin from noise."
        )
