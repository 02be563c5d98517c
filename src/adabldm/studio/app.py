"""The studio's application: the service with the pages of the rooms."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from adabldm.core.settings import StudioSettings
from adabldm.service.api import Service
from adabldm.studio.dataset import data_page, data_router
from adabldm.studio.evaluations import evaluate_page, evaluate_router
from adabldm.studio.keeping import Keeper
from adabldm.studio.library import Library
from adabldm.studio.making import making_page, making_router
from adabldm.studio.pages import STATIC, Room, pages_router
from adabldm.studio.paint import paint_page, paint_router
from adabldm.studio.painting import Painter
from adabldm.studio.review import review_page, review_router
from adabldm.studio.state import Studio
from adabldm.studio.workspace import Workspace


def add_pages(app: FastAPI, service: Service, settings: StudioSettings) -> Studio:
    """Add the rooms to the service's application.

    Args:
        app: the application.
        service: engine, jobs and folders.
        settings: what is chosen at first.
    """
    workspace = Workspace(
        service.roots,
        service.runs,
        work=service.roots.resolve(settings.work.expanduser().absolute()),
        run=None if not settings.run else Path(settings.run[0]).name,
        data=settings.data,
        folder=settings.folder,
    )
    library = Library(workspace)
    painter = Painter(library, service.engine)
    studio = Studio(workspace, library, painter, Keeper(workspace), service.jobs, service.limits, service.decoding)
    rooms = [
        Room("paint", "Paint", lambda: paint_page(studio)),
        Room("review", "Review", lambda: review_page(studio)),
        Room("data", "Data", lambda: data_page(studio)),
        Room("make", "Fit and generate", lambda: making_page(studio)),
        Room("evaluate", "Evaluate", lambda: evaluate_page(studio)),
    ]
    app.include_router(pages_router(rooms))
    for router in (paint_router, review_router, data_router, making_router, evaluate_router):
        app.include_router(router(studio))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return studio
