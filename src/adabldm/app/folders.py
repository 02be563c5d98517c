"""The commands that work on a folder of generated images, a part of the table of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adabldm.app.command import Command
from adabldm.app.options import CommandSettings
from adabldm.app.output import show, tell
from adabldm.core.settings import CurateSettings, ExportSettings, ReproduceSettings

if TYPE_CHECKING:
    from adabldm.core.events import Listener


def _reproduce(settings: ReproduceSettings, surface: CommandSettings, listen: Listener) -> None:
    from adabldm.workflows.reproduce import reproduce

    show(reproduce(settings, listen))


def _curate(settings: CurateSettings, surface: CommandSettings, listen: Listener) -> None:
    from adabldm.workflows.curate import curate, format_summary

    show(format_summary(curate(settings, listen)))


def _export(settings: ExportSettings, surface: CommandSettings, listen: Listener) -> None:
    from adabldm.workflows.export import export

    summary = export(settings, listen)
    counts = ", ".join(f"{number} {split}" for split, number in summary.images.items())
    tell(f"{counts} images, {summary.instances} defects")
    show(summary.out.resolve())


FOLDER_COMMANDS = (
    Command(CurateSettings, _curate, "Decide which images are used; without decisions, count them.",
            "adabldm curate more --reject 12,40 --keep 7 --note blurred", "adabldm curate more --max-seam 3",
            "adabldm curate more --duplicates list --data parts/"),
    Command(ExportSettings, _export, "Write the images as a data set that trainers read, such as COCO.",
            "adabldm export more --to coco --out coco --with parts/ --validation 0.2"),
    Command(ReproduceSettings, _reproduce, "Make one image again from its record, and compare it byte by byte.",
            "adabldm reproduce more 12", "adabldm reproduce more 12 --data moved/parts --out again"),
)  # fmt: skip
