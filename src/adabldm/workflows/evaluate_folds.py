"""Cross-validation of an evaluation: every share of the training images is held out once, and a run fitted to the rest.

Choices are made by it: the test images of the data set are not opened.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from adabldm.core.errors import InputError
from adabldm.core.events import Event, Listener, Progress
from adabldm.core.images import atomic_file
from adabldm.core.records import EvaluationReport, Reading, write_record
from adabldm.core.samples import DataSet
from adabldm.core.settings import EvaluateSettings, FitSettings
from adabldm.data.claim import claim
from adabldm.data.content import content_digest
from adabldm.data.formats import ReadOptions
from adabldm.data.generated import read_kept
from adabldm.data.inspection import open_data_set
from adabldm.evaluation.checks import check_origins, tested_samples, trained_samples
from adabldm.evaluation.conditions import parse_conditions, read_synthetic
from adabldm.evaluation.figures import over_folds
from adabldm.report.evaluation import SAME_SCENES, format_markdown, write_report
from adabldm.workflows.fit import fit

OWN = frozenset({"folds", "fit", "base"})
"""Settings that the evaluation of a single fold does without."""
SHEETS = {
    "conditions.png": SAME_SCENES[0].lower() + SAME_SCENES[1:],
    "detections.png": "held-out images and their maps",
}
SHARE_OF_FIT = 0.5
"""Rough share of a fit in the work of a fold that has one; only the bar depends on it."""

Evaluate = Callable[[EvaluateSettings, Listener], EvaluationReport]


def evaluate_folds(settings: EvaluateSettings, listen: Listener, evaluate: Evaluate) -> EvaluationReport:
    """Evaluate every fold, each with a fit of its own, and average; a rerun goes on after what is finished.

    Args:
        settings: with the number of folds. The folder `out` gets `fold-N` with the evaluation of each fold, `run-N`
            with its run if a condition needs one, and `evaluation.json`, `evaluation.md` and `index.html` for all.
        listen: is told notes and the progress of the whole command.
        evaluate: evaluates a single fold.

    Returns:
        Means over the folds, with the sample standard deviation of the folds' means.

    Raises:
        InputError: as `evaluate` and `fit`; or, before the first fit, a type has fewer images than there are folds, or
            lacks images on one side of some fold, or a folder to compare may show what is held out.
        OutputError: full disk; what is finished stays.
    """
    folds = settings.folds or 0
    fitted = any(one.kind == "adabldm" for one in parse_conditions(settings.condition))
    data_set = _first_fold(settings, listen)
    _check_folders(settings, data_set, listen)
    with claim(settings.out, _decisive(settings, data_set), "evaluate") as held:
        listen, began = held.watched(listen), time.monotonic()
        reports = []
        for number in range(1, folds + 1):
            own = _of_fold(settings, number, fitted)
            share = SHARE_OF_FIT if fitted else 0.0
            if fitted:
                part = ((number - 1) / folds, share / folds)
                fit(_fit_settings(settings, own), _part(listen, f"fold {number}", part, began))
            part = ((number - 1 + share) / folds, (1 - share) / folds)
            reports.append(evaluate(own, _part(listen, f"fold {number}", part, began)))
        report = over_folds(reports)
        _write(settings.out, report, folds)
    return report


def _first_fold(settings: EvaluateSettings, listen: Listener) -> DataSet:
    """The data set as divided in the first fold; reading it refuses a type that any fold has on one side only."""
    reading = Reading.of(_of_fold(settings, 1, fitted=False))
    options = ReadOptions.of(reading, skip_empty=True, require_defects=True, roi=settings.roi)
    return open_data_set(settings.data, options, listen)


def _check_folders(settings: EvaluateSettings, data_set: DataSet, listen: Listener) -> None:
    """Refuse folders whose images may be made from training images, each of which is held out in some fold."""
    for one in parse_conditions(settings.condition):
        if one.folder is None:
            continue
        way_out = "compare it by --fold, in a fold that it was made for"
        if not read_kept(one.folder):
            raise InputError(
                f"{one.folder}: has no manifest that says from which images it was made, and every training image is "
                f"held out in one of the folds; {way_out}."
            )
        images = read_synthetic(
            one.folder, data_set.root, settings.count, Reading.of(settings), data_set.levels, listen
        )
        check_origins(one.folder, images, data_set, [*trained_samples(data_set), *tested_samples(data_set)], way_out)


def _decisive(settings: EvaluateSettings, data_set: DataSet) -> dict[str, object]:
    """JSON values that decide the folds and their fits; each fold's folder says the rest."""
    fit_settings = _fit_settings(settings, _of_fold(settings, 1, fitted=True))
    return {
        "data": str(settings.data.resolve()),
        "content": content_digest([*trained_samples(data_set), *tested_samples(data_set)]),
        "folds": settings.folds,
        "base": fit_settings.base_name(),
        "fit": fit_settings.fit_preset().plain(),
        **Reading.of(settings).decisive(),
    }


def _of_fold(settings: EvaluateSettings, number: int, fitted: bool) -> EvaluateSettings:
    """The evaluation of a single fold."""
    values = {name: getattr(settings, name) for name in EvaluateSettings.model_fields if name not in OWN}
    own = {"fold": f"{number}/{settings.folds}", "out": settings.out / f"fold-{number}"}
    run = {"run": str(settings.out / f"run-{number}")} if fitted else {}
    return EvaluateSettings.create({**values, **own, **run})


def _fit_settings(settings: EvaluateSettings, own: EvaluateSettings) -> FitSettings:
    """The fit of a single fold, from its evaluation's settings; an interrupted one is resumed."""
    out = Path(own.run or "")
    return FitSettings.create(
        {
            "data": own.data,
            "out": out,
            "shots": own.shots,
            "roi": own.roi,
            "foreground": own.foreground,
            "device": own.device,
            "preset": settings.fit,
            "base": settings.base,
            "seed": own.seed,
            "resume": (out / "fit.json").exists(),
            **Reading.of(own).given(),
        }
    )


def _part(listen: Listener, name: str, part: tuple[float, float], began: float) -> Listener:
    """A listener for a command inside this one: its progress is told as a part of the whole.

    Args:
        listen: the listener of the whole command.
        name: of the part, which is put before its tasks.
        part: where it begins, and its size, as shares of the whole.
        began: monotonic time at which the whole command began.
    """
    first, size = part

    def tell(event: Event) -> None:
        if isinstance(event, Progress):
            done = first + size * event.fraction
            left = (time.monotonic() - began) * (1 - done) / done if done > 0 else None
            event = replace(event, task=f"{name}: {event.task}", fraction=done, seconds_left=left)
        listen(event)

    return tell


def _write(out: Path, report: EvaluationReport, folds: int) -> None:
    """`evaluation.json`, `evaluation.md` and `index.html`, which shows the pictures of every fold."""
    write_record(out / "evaluation.json", report)
    with atomic_file(out / "evaluation.md") as file:
        file.write(format_markdown(report).encode())
    places = {
        f"Fold {number}: {title}": f"fold-{number}/{name}"
        for number in range(1, folds + 1)
        for name, title in SHEETS.items()
    }
    write_report(
        out / "index.html", report, {title: place for title, place in places.items() if (out / place).is_file()}
    )
