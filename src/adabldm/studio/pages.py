"""The HTML pages of the rooms, made on the server; what is given to them is escaped, never markup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from fastapi import APIRouter
from fastapi.responses import HTMLResponse, RedirectResponse

from adabldm import __version__

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Of every page: a browser that keeps to them sends nothing to any other host and runs no script but ours."""
STATIC = Path(str(files("adabldm.studio"))) / "static"


@dataclass(frozen=True)
class Room:
    """A page.

    Attributes:
        name: in its address and of its template and script.
        title: in the head of every page.
        given: what the page is delivered with, as JSON values.
    """

    name: str
    title: str
    given: Callable[[], dict[str, Any]]


def environment() -> jinja2.Environment:
    """Templates of the pages: undefined names are errors, everything is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("adabldm", "studio/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def pages_router(rooms: list[Room]) -> APIRouter:
    """The pages of all rooms; the first one stands at the root."""
    router = APIRouter(include_in_schema=False)
    templates = environment()
    titles = [(room.name, room.title) for room in rooms]

    def add(room: Room) -> None:
        @router.get(f"/{room.name}", response_class=HTMLResponse)
        def page() -> HTMLResponse:
            template = templates.get_template(f"{room.name}.html.j2")
            text = template.render(
                rooms=titles, name=room.name, title=room.title, given=room.given(), version=__version__
            )
            return HTMLResponse(text, headers=HEADERS)

    for room in rooms:
        add(room)

    @router.get("/")
    def start() -> RedirectResponse:
        return RedirectResponse(f"/{rooms[0].name}")

    return router
