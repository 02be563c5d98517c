"""The studio's application: the service's interface and the pages."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from adabldm.studio.dataset import data_page, data_router
from adabldm.studio.keeping import Keeper
from adabldm.studio.library import Library
from adabldm.studio.pages import STATIC, Room, pages_router
from adabldm.studio.paint import paint_page, paint_router
from adabldm.studio.painting import Engine, Painter
from adabldm.studio.review import review_page, review_router
from adabldm.studio.state import Studio
from adabldm.studio.workspace import Workspace


def add_studio(app: FastAPI, workspace: Workspace, engine: Engine) -> Studio:
    """Add the pages to an application."""
    library = Library(workspace)
    studio = Studio(workspace, library, Painter(library, engine), Keeper(workspace))
    rooms = [
        Room("paint", "Paint", lambda: paint_page(studio)),
        Room("review", "Review", lambda: review_page(studio)),
        Room("data", "Data", lambda: data_page(studio)),
    ]
    app.include_router(pages_router(rooms))
    app.include_router(paint_router(studio))
    app.include_router(review_router(studio))
    app.include_router(data_router(studio))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return studio
