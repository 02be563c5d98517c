"""The command that opens the studio, a part of the table of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adabldm.app.command import Command
from adabldm.app.options import CommandSettings
from adabldm.app.service import require_service_packages
from adabldm.core.settings import StudioSettings

if TYPE_CHECKING:
    from adabldm.core.events import Listener


def _studio(settings: StudioSettings, surface: CommandSettings, listen: Listener) -> None:
    require_service_packages("studio")
    from adabldm.studio.run import studio

    studio(settings)


STUDIO_COMMANDS = (
    Command(StudioSettings, _studio, "Open pages in the browser to paint defects, review, fit and evaluate.",
            "adabldm studio", "adabldm studio --run runs/parts --data parts/ --folder more"),
)  # fmt: skip
