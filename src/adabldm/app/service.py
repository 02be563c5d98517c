"""The commands that serve edits and pages, a part of the table of commands."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from adabldm.app.command import Command
from adabldm.app.options import CommandSettings
from adabldm.core.errors import InputError
from adabldm.core.settings import ServeSettings

if TYPE_CHECKING:
    from adabldm.core.events import Listener


def _serve(settings: ServeSettings, surface: CommandSettings, listen: Listener) -> None:
    require_service_packages("serve")
    from adabldm.service.server import serve

    serve(settings)


def require_service_packages(command: str) -> None:
    """Refuse a command whose packages are not installed."""
    needed = {
        "fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client",
        "python_multipart": "python-multipart",
    }  # fmt: skip
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        raise InputError(f"{command} needs {', '.join(missing)}; install them: pip install 'adabldm[studio]'.")


SERVICE_COMMANDS = (
    Command(ServeSettings, _serve, "Serve edits and jobs over HTTP, for other programs.",
            "adabldm serve", "adabldm serve --port 8000 --root /data/inspection --run runs/parts",
            "adabldm serve --host 0.0.0.0 --token correct-horse-battery"),
)  # fmt: skip
