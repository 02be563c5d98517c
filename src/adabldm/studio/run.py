"""`adabldm studio`: the service with the pages, and a browser that shows them."""

from __future__ import annotations

import sys
import threading
import webbrowser

from adabldm.core.errors import InputError, OutputError
from adabldm.core.settings import StudioSettings
from adabldm.service.api import create_app
from adabldm.service.server import address, ready, run_app
from adabldm.studio.app import add_pages

PATIENCE = 0.5
"""Seconds after which the browser is opened, when the server answers."""


def studio(settings: StudioSettings) -> None:
    """Serve the pages until SIGTERM or Ctrl-C, and open them in the browser.

    Raises:
        InputError: a port, run or folder that cannot be used.
        OutputError: the work folder cannot be written.
    """
    for name in ("data", "folder"):
        place = getattr(settings, name)
        if place is not None and not place.expanduser().is_dir():
            raise InputError(f"--{name} {place}: no such folder; check the path.")
    work = settings.work.expanduser()
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{work}: cannot be created ({error.strerror or error}); choose another --work.") from error
    settings = settings.changed(root=settings.places())
    with ready(settings) as (service, listening):
        app = create_app(settings, service)
        add_pages(app, service, settings)
        place = address(listening)
        shown = place if service.token is None else f"{place}/?token={service.token}"
        print(f"the studio is at {shown}", file=sys.stderr, flush=True)
        if not settings.headless:
            opening = threading.Timer(PATIENCE, webbrowser.open, (shown,))
            opening.daemon = True
            opening.start()
        run_app(app, service, listening)
