"""One HTML page for a folder of results: no script, nothing from the network, prints well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from adabldm.core.images import atomic_file


@dataclass(frozen=True)
class PageImage:
    """One result on a page. Files are POSIX paths relative to the page, or `data:image/…` URIs.

    Attributes:
        name: identifies it on the page: letters, digits and hyphens, which are shown as spaces.
        image: the result.
        mask: its mask.
        defect: defect type; the page is grouped by it.
        prompt: what was asked for.
        source: the image before the edit.
        outlined: the result with the mask's outline, shown while the result is pointed at or focused.
        scores: by name, as it is to be shown.
    """

    name: str
    image: str
    mask: str
    defect: str
    prompt: str
    source: str | None = None
    outlined: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


def write_page(
    path: Path,
    *,
    title: str,
    intro: Sequence[str],
    images: Sequence[PageImage],
    facts: Mapping[str, str],
    sheet: str | None = None,
    style: str | None = None,
    reload: int | None = None,
) -> None:
    """Write a page of results, whole or not at all.

    Args:
        path: the HTML file.
        title: heading.
        intro: paragraphs of plain text.
        images: grouped by defect type, types and images in the order given.
        facts: rows of the table at the top.
        sheet: a contact sheet to link to, a path relative to the page.
        style: a further style sheet, a path relative to the page.
        reload: seconds after which browsers read the page again, while it changes.

    Raises:
        OutputError: the page cannot be written.
    """
    groups: dict[str, list[PageImage]] = {}
    for image in images:
        groups.setdefault(image.defect, []).append(image)
    template = html_environment().get_template("page.html.j2")
    text = template.render(
        title=title, intro=intro, groups=groups, facts=facts, sheet=sheet, style=style, reload=reload
    )
    with atomic_file(path) as file:
        file.write(text.encode())


def html_environment() -> jinja2.Environment:
    """Templates of this room: undefined names are errors, everything is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("adabldm", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {"link": _link, "figure": lambda value: f"{value:.3g}"}
    environment.filters.update(filters)
    return environment


def _link(path: str) -> str:
    """A relative path as an URL; a data URI as it is."""
    return path if path.startswith("data:image/") else quote(path)
