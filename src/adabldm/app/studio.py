"""The command that opens the studio, a part of the table of commands."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
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


def studio_command(demo: Path) -> str:
    """The command that opens the studio on the pictures of a demo."""
    from adabldm.workflows.demo import RUN

    called = Path(sys.argv[0])
    name = str(called) if called.name == "adabldm" and shutil.which("adabldm") is None else "adabldm"
    places = ("--data", str(demo / "data"), "--folder", str(demo / "images"))
    return shlex.join([name, "studio", "--run", RUN, *places])


STUDIO_COMMANDS = (
    Command(StudioSettings, _studio, "Open pages in the browser to paint defects, review, fit and evaluate.",
            "adabldm studio", "adabldm studio --run runs/parts --data parts/ --folder more"),
)  # fmt: skip
