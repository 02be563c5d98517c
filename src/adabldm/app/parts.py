"""The command that joins what several machines made, a part of the table of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adabldm.app.command import Command
from adabldm.app.options import CommandSettings
from adabldm.app.output import show, tell
from adabldm.core.settings import MergeSettings

if TYPE_CHECKING:
    from adabldm.core.events import Listener


def _merge(settings: MergeSettings, surface: CommandSettings, listen: Listener) -> None:
    from adabldm.workflows.merge import merge

    summary = merge(settings, listen)
    tell(f"{summary.images} images, {len(summary.missing)} missing")
    show(summary.folder.resolve())


PART_COMMANDS = (
    Command(MergeSettings, _merge, "Join the parts that `generate --shard` made on several machines.",
            "adabldm merge part-1 part-2 part-3 --out more"),
)  # fmt: skip
