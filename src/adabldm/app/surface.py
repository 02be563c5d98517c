"""The commands of the general base, a part of the table of commands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from adabldm.app.command import Command
from adabldm.app.options import CommandSettings
from adabldm.app.output import show
from adabldm.core.settings import SurfaceFiguresSettings, SurfaceSheetSettings, TrainSurfaceSettings

if TYPE_CHECKING:
    from adabldm.core.events import Listener


def _train_surface(settings: TrainSurfaceSettings, surface: CommandSettings, listen: Listener) -> None:
    from adabldm.workflows.surface import train_surface

    show(train_surface(settings, listen))


def _surface_figures(settings: SurfaceFiguresSettings, surface: CommandSettings, listen: Listener) -> None:
    from adabldm.workflows.surface import surface_figures

    show(json.dumps(surface_figures(settings, listen), indent=2))


def _surface_sheet(settings: SurfaceSheetSettings, surface: CommandSettings, listen: Listener) -> None:
    from adabldm.workflows.surface import surface_sheet

    show(surface_sheet(settings, listen))


SURFACE_COMMANDS = (
    Command(TrainSurfaceSettings, _train_surface, "Train the general base on rendered defects; again to resume it.",
            "adabldm train-surface materials/ tiles/train/good/ --out general"),
    Command(SurfaceFiguresSettings, _surface_figures, "Measure a base's autoencoder on unseen surfaces (JSON).",
            "adabldm surface-figures general materials/ tiles/train/good/"),
    Command(SurfaceSheetSettings, _surface_sheet, "Draw rendered defects of every type, or what a base makes of them.",
            "adabldm surface-sheet materials/ --out sheet.png"),
)  # fmt: skip
