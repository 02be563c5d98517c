"""The command line: a table of commands, each a settings class and the workflow that takes it."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from adabldm.app.command import Command, parse
from adabldm.app.folders import FOLDER_COMMANDS
from adabldm.app.options import CommandSettings, JsonCommandSettings
from adabldm.app.output import READER_LEFT, ReaderLeft, drop_unread, show, tell
from adabldm.app.parts import PART_COMMANDS
from adabldm.app.service import SERVICE_COMMANDS
from adabldm.app.studio import STUDIO_COMMANDS, studio_command
from adabldm.app.surface import SURFACE_COMMANDS
from adabldm.core.errors import AdaBLDMError, InputError
from adabldm.core.settings import (
    BenchSettings,
    DemoSettings,
    EvaluateSettings,
    FitSettings,
    GenerateSettings,
    InspectSettings,
    TrainBaseSettings,
)

if TYPE_CHECKING:
    from adabldm.core.events import Listener
    from adabldm.workflows.generate import GenerateSummary


def _demo(settings: DemoSettings, surface: CommandSettings, listen: Listener) -> None:
    from adabldm.workflows.demo import demo

    _print_summary(demo(settings, listen))
    tell(f"paint and review in the browser: {studio_command(settings.out)}")


def _inspect(settings: InspectSettings, surface: JsonCommandSettings, listen: Listener) -> None:
    from adabldm.workflows import inspect as workflow

    found = workflow.inspect(settings, listen)
    text = json.dumps(workflow.to_json(found), indent=2, ensure_ascii=False)
    show(text if surface.as_json else workflow.format_table(found))
    if found.problems:
        many = f"{len(found.problems)} problems" if len(found.problems) > 1 else "a problem"
        raise InputError(f"{settings.data}: {many}, listed in the report; repair the data set before `adabldm fit`.")


def _fit(settings: FitSettings, surface: CommandSettings, listen: Listener) -> None:
    from adabldm.training.team import leads_here
    from adabldm.workflows.fit import fit

    out = fit(settings, listen)
    if leads_here():
        show(out)


def _generate(settings: GenerateSettings, surface: CommandSettings, listen: Listener) -> None:
    from adabldm.workflows.generate import generate

    _print_summary(generate(settings, listen))


def _evaluate(settings: EvaluateSettings, surface: CommandSettings, listen: Listener) -> None:
    _require_evaluation_packages("evaluate")
    from adabldm.report.evaluation import format_markdown
    from adabldm.workflows.evaluate import evaluate

    report = evaluate(settings, listen)
    tell(format_markdown(report))
    tell(f"page: {settings.out / 'index.html'}")
    show(settings.out.resolve())


def _bench(settings: BenchSettings, surface: JsonCommandSettings, listen: Listener) -> None:
    if settings.kid:
        _require_evaluation_packages("bench --kid")
    from adabldm.workflows.bench import bench, format_table

    result = bench(settings, listen)
    show(json.dumps(result, indent=2) if surface.as_json else format_table(result))


def _train_base(settings: TrainBaseSettings, surface: CommandSettings, listen: Listener) -> None:
    from adabldm.workflows.train_base import train_base

    show(train_base(settings, listen))


def _require_evaluation_packages(command: str) -> None:
    needed = {"monai": "monai", "torchmetrics": "torchmetrics", "sklearn": "scikit-learn"}
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        raise InputError(f"{command} needs {', '.join(missing)}; install them: pip install 'adabldm[evaluate]'.")


def _print_summary(summary: GenerateSummary) -> None:
    each = f", {summary.seconds / summary.made:.2f} s each" if summary.made else ""
    tell(f"{summary.made} images made{each}, {summary.found} were there; {summary.retried} attempts rejected")
    if summary.unaccepted:
        tell(f"missed the limits in every attempt (marked on the page): {summary.unaccepted}")
    tell(f"contact sheet: {summary.sheet}\npage: {summary.page}" if summary.sheet else f"page: {summary.page}")
    show(summary.folder.resolve())


COMMANDS = (
    Command(DemoSettings, _demo, "Draw generic defects on surfaces that ship, offline, to see it work.",
            "adabldm demo", "adabldm demo --out look --count 40 --seed 3"),
    Command(InspectSettings, _inspect, "Show what a data set holds, and every problem in it.",
            "adabldm inspect parts/", "adabldm inspect parts/ --json", surface=JsonCommandSettings),
    Command(FitSettings, _fit, "Fit a run to your images: domain stage, then control stage.",
            "adabldm fit parts/ --out runs/parts",
            "adabldm fit parts/ --out runs/parts --preset standard --resume",
            "adabldm fit parts/ --out runs/parts --set control.learning_rate=1e-4"),
    Command(GenerateSettings, _generate, "Make defect images with masks and a manifest.",
            "adabldm generate runs/parts --data parts/ --out more --count 500",
            "adabldm generate magnetic-tile --data tiles/ --out cracks --count 100 \\",
            "    --defect crack --set look.strengths=0.8,1.2",
            "adabldm generate runs/parts --data parts/ --out more --count 500 \\",
            "    --export coco --export-out coco",
            "adabldm generate --config more.toml --count 1000"),
    *FOLDER_COMMANDS,
    Command(EvaluateSettings, _evaluate, "Find out whether the images make a detector better.",
            "adabldm evaluate --data parts/ --run runs/parts --out proof --budget quick",
            "adabldm evaluate --data parts/ --out proof \\",
            "    --condition real --condition folder:more --detector unet"),
    Command(BenchSettings, _bench, "Measure presets side by side: time, operations, memory and scores.",
            "adabldm bench", "adabldm bench runs/parts --data parts/ --preset fast --count 16 --json",
            surface=JsonCommandSettings),
    Command(TrainBaseSettings, _train_base, "Train a tiny base from nothing, as the shipped one was.",
            "adabldm train-base tiles/ nuts/ --out tiny",
            "adabldm train-base tiles/ nuts/ --out tiny --object tile --object hazelnut"),
    *PART_COMMANDS, *STUDIO_COMMANDS, *SERVICE_COMMANDS, *SURFACE_COMMANDS,
)  # fmt: skip
"""One line for each: its settings, what it calls, a sentence and examples."""
HELP = "Make realistic images of industrial defects, with exact masks, from a few real ones."


def _quieten_libraries() -> None:
    """Keep the libraries' chatter away from the user; a user's own settings win."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("transformers").setLevel(logging.ERROR)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when all is well, 2 for bad input (a sentence for each problem on standard error), 130 when interrupted, 141
        when nobody reads its output any more.
    """
    _quieten_libraries()
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
    except ReaderLeft:
        code = READER_LEFT
    drop_unread()
    return code


def _run(arguments: Sequence[str]) -> int:
    """The same; raises `ReaderLeft`."""
    try:
        parse(arguments, COMMANDS, HELP)
    except AdaBLDMError as error:
        if str(error):  # else another process of a team tells it
            tell("\n".join(f"adabldm: {line}" for line in str(error).splitlines()))
        return 2
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        tell(f"adabldm: {place}{error.strerror or error}; check the path, its permissions and the free space.")
        return 2
    except KeyboardInterrupt as interruption:
        where = f" ({interruption})" if str(interruption) else ""
        ways = "run the same command again to go on (fit: with --resume, or with --finish to write the run as it is)"
        tell(f"adabldm: interrupted{where}; {ways}.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
