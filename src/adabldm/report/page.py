"""One HTML page for a folder of results: no script, nothing from the network, prints well."""

from __future__ import annotations

import base64
import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
from PIL import Image

from adabldm.core.errors import InputError
from adabldm.core.images import (
    Mask,
    Pixels,
    atomic_file,
    read_mask,
    read_picture,
    resize_mask,
    resize_pixels,
)
from adabldm.core.records import ImageRecord
from adabldm.core.records.image import SCORES
from adabldm.data.generated import REPORTS, read_manifest
from adabldm.masks.trimap import make_trimap
from adabldm.report.pictures import SheetRow, contact_sheet, fitted_size, outline

SHEET_NAME, PAGE_NAME = "contact_sheet.jpg", "index.html"
"""The sheet is no PNG file, because anomalib counts each of these in a folder as an image of a data set."""
SHEET_IMAGES = 24
PAGE_IMAGES = 60
"""Most images on a page, so that it stays small: each holds two thumbnails of some 10 kB."""
OUTLINE_SIDE, SOURCE_SIDE = 384, 192
"""Longer side in pixels of the thumbnails inside the page."""
SHOWN_SCORES = ("background_psnr", "seam", "edit_strength", "visible_change", "contrast", "distance")
FACT_KEYS = ("object", "model", "preset", "adapt")

Foregrounds = Callable[[str], Mask]
"""From a source's path in the manifest to its object's pixels, bool HxW."""


@dataclass(frozen=True)
class PageImage:
    """One result on a page. Files are POSIX paths relative to the page, or `data:image/…` URIs.

    Attributes:
        image: the result.
        mask: its mask.
        defect: defect type; the page is grouped by it.
        prompt: what was asked for.
        source: the image before the edit.
        outlined: the result with the mask's outline, shown while the result is pointed at or focused.
        scores: by name, as it is to be shown.
    """

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
) -> None:
    """Write a page of results, whole or not at all.

    Args:
        path: the HTML file.
        title: heading.
        intro: paragraphs of plain text.
        images: grouped by defect type, types and images in the order given.
        facts: rows of the table at the top.
        sheet: a contact sheet to link to, a path relative to the page.

    Raises:
        OutputError: the page cannot be written.
    """
    groups: dict[str, list[PageImage]] = {}
    for image in images:
        groups.setdefault(image.defect, []).append(image)
    template = html_environment().get_template("page.html.j2")
    text = template.render(title=title, intro=intro, groups=groups, facts=facts, sheet=sheet)
    with atomic_file(path) as file:
        file.write(text.encode())


def report_generated(
    folder: Path,
    sources_root: Path | Sequence[Path],
    *,
    title: str,
    intro: Sequence[str],
    facts: Mapping[str, str] | None = None,
    foregrounds: Foregrounds | None = None,
) -> tuple[Path, Path]:
    """Write contact sheet and page into the folder `reports` of a generated folder, from its manifest.

    The sheet shows `SHEET_IMAGES` at most and the page `PAGE_IMAGES`, evenly over the defect types.

    Args:
        folder: the generated folder.
        sources_root: the folder that the manifest's sources are relative to, or several in which they are looked for.
        title: heading of both.
        intro: paragraphs of plain text.
        facts: rows to add to the page's table, such as the seconds per image.
        foregrounds: gives the sheet's trimaps; without it everything counts as object.

    Returns:
        The paths of the sheet and of the page.

    Raises:
        InputError: nothing was generated there, or a source is missing or of another size.
        OutputError: the folder cannot be written.
    """
    records = list(read_manifest(folder).values())
    if not records:
        raise InputError(f"{folder}: no finished image in manifest.jsonl, expected at least one; run generate first.")
    files = _Files(folder, (sources_root,) if isinstance(sources_root, Path) else tuple(sources_root), foregrounds)
    shown = evenly(records, PAGE_IMAGES)
    sheet, page = folder / REPORTS / SHEET_NAME, folder / REPORTS / PAGE_NAME
    _write_sheet(sheet, contact_sheet(map(files.row, evenly(records, SHEET_IMAGES)), title=title))
    write_page(
        page,
        title=title,
        intro=intro,
        images=[files.page_image(record) for record in shown],
        facts={**_facts(records, len(shown)), **(facts or {})},
        sheet=SHEET_NAME,
    )
    return sheet, page


def _write_sheet(path: Path, pixels: Pixels) -> None:
    with atomic_file(path) as file:
        Image.fromarray(pixels).save(file, format="JPEG", quality=92, subsampling=0)


def evenly(records: Iterable[ImageRecord], limit: int) -> list[ImageRecord]:
    """The first `limit` records when the defect types take turns; sorted by type and index."""
    groups: dict[str, list[ImageRecord]] = {}
    for record in records:
        groups.setdefault(record.defect, []).append(record)
    turns = chain.from_iterable(zip_longest(*groups.values()))
    chosen = [record for record in turns if record is not None][:limit]
    return sorted(chosen, key=lambda record: (record.defect, record.index))


@dataclass(frozen=True)
class _Files:
    """Reads what belongs to a manifest's records."""

    folder: Path
    sources_roots: tuple[Path, ...]
    foregrounds: Foregrounds | None

    def path(self, source: str) -> Path:
        """A source's file, in the first folder that has it."""
        found = [root / source for root in self.sources_roots]
        return next((path for path in found if path.is_file()), found[0])

    def row(self, record: ImageRecord) -> SheetRow:
        mask = read_mask(self.folder / record.mask)
        foreground = self.foregrounds(record.source) if self.foregrounds else np.ones_like(mask)
        return SheetRow(
            source=read_picture(self.path(record.source), record.levels).pixels,
            trimap=make_trimap(foreground, mask),
            result=read_picture(self.folder / record.image, record.levels).pixels,
            mask=mask,
            label=_label(record),
        )

    def page_image(self, record: ImageRecord) -> PageImage:
        return PageImage(
            image=f"../{record.image}",
            mask=f"../{record.mask}",
            defect=record.defect,
            prompt=_prompts(record),
            source=self._source(record),
            outlined=self._outlined(record),
            scores=_scores(record),
        )

    def _source(self, record: ImageRecord) -> str:
        """A link to a source inside the folder, a thumbnail of any other."""
        path = self.path(record.source).resolve()
        if path.is_relative_to(self.folder.resolve()):
            return f"../{path.relative_to(self.folder.resolve()).as_posix()}"
        pixels = read_picture(path, record.levels).pixels
        return _data_uri(_thumbnail(pixels, SOURCE_SIDE))

    def _outlined(self, record: ImageRecord) -> str:
        pixels = _thumbnail(read_picture(self.folder / record.image, record.levels).pixels, OUTLINE_SIDE)
        mask = resize_mask(read_mask(self.folder / record.mask), (pixels.shape[0], pixels.shape[1]))
        return _data_uri(outline(pixels, mask))


def _thumbnail(pixels: Pixels, side: int) -> Pixels:
    """At most `side` pixels long, never enlarged."""
    size = pixels.shape[0], pixels.shape[1]
    return resize_pixels(pixels, fitted_size(size, min(side, max(size))))


def _data_uri(pixels: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _scores(record: ImageRecord) -> dict[str, float]:
    return {SCORES[key]: value for key, value in record.scores.items() if key in SHOWN_SCORES}


def _prompts(record: ImageRecord) -> str:
    """The prompts of all its edits."""
    found = [one.prompt for one in record.instances if one.prompt is not None and one.origin == "made"]
    return "; ".join(dict.fromkeys(found)) or record.prompt


def _label(record: ImageRecord) -> str:
    scores = [f"{name} {value:.3g}" for name, value in _scores(record).items()]
    return " | ".join([", ".join(record.types), Path(record.image).name, *scores])


def _facts(records: Sequence[ImageRecord], shown: int) -> dict[str, str]:
    """What the records have in common, and the middle of their scores."""
    count = str(len(records)) if shown == len(records) else f"{len(records)}, of which {shown} are shown"
    same = {key: ", ".join(sorted({str(getattr(record, key)) for record in records})) for key in FACT_KEYS}
    scores = [_scores(record) for record in records]
    medians = {
        f"median {name}": f"{statistics.median(values):.3g}"
        for name in (SCORES[key] for key in SHOWN_SCORES)
        if (values := [entry[name] for entry in scores if name in entry])
    }
    return {"images": count, **{key: value for key, value in same.items() if value}, **medians}


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
