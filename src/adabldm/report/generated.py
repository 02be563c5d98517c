"""Contact sheet and page of a generated folder. They are written while it is made, and again when it is finished."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from adabldm.core.events import Event, ImageFinished
from adabldm.core.images import Mask, Pixels, atomic_file, read_picture, resize_mask, resize_pixels
from adabldm.core.mask_files import read_mask
from adabldm.core.records import ImageRecord
from adabldm.core.records.image import SCORES
from adabldm.data.decisions import rejected_indices
from adabldm.data.generated import REPORTS, read_some
from adabldm.masks.trimap import make_trimap
from adabldm.report.page import PageImage, write_page
from adabldm.report.pictures import SheetRow, fitted_size, join_strips, outline, sheet_strip
from adabldm.report.tally import SHOWN_SCORES, UNACCEPTED, Tally, evenly

SHEET_NAME, PAGE_NAME, STYLE_NAME = "contact_sheet.jpg", "index.html", "decisions.css"
"""The sheet is no PNG file, because anomalib counts each of these in a folder as an image of a data set."""
SHEET_IMAGES = 24
PAGE_IMAGES = 60
"""Most images on a page, so that it stays small: each holds two thumbnails of some 10 kB."""
OUTLINE_SIDE, SOURCE_SIDE = 384, 192
"""Longer side in pixels of the thumbnails inside the page."""
EVERY = 10.0
"""Least seconds between two versions of the reports while images are made."""
SHARE = 0.05
"""Most of the time that goes into reports while images are made."""

Foregrounds = Callable[[ImageRecord], Mask]
"""From an image's record to the pixels of the object in its source, bool HxW."""
Lookup = Callable[[Collection[int]], Mapping[int, ImageRecord]]
"""From images' numbers to their records."""


@dataclass
class GeneratedReport:
    """Writes contact sheet and page; what was drawn of an image is kept, so that writing again is cheap.

    The sheet shows `SHEET_IMAGES` at most and the page `PAGE_IMAGES`, evenly over the defect types. Rejected images are
    left out.

    Attributes:
        folder: the generated folder.
        sources_root: the folder that the manifest's sources are relative to.
        title: heading of both.
        intro: paragraphs of plain text.
        facts: rows to add to the page's table, such as the seconds per image.
        foregrounds: gives the object of an image's source for the sheet's trimaps; without it everything counts as
            object.
        source_of: gives the file of an image's source, where not all lie in one folder.
    """

    folder: Path
    sources_root: Path
    title: str
    intro: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    foregrounds: Foregrounds | None = None
    source_of: Callable[[ImageRecord], Path] | None = None
    _strips: dict[int, Pixels] = field(default_factory=dict, init=False)
    _images: dict[int, PageImage] = field(default_factory=dict, init=False)

    @property
    def sheet(self) -> Path:
        """Path of the contact sheet."""
        return self.folder / REPORTS / SHEET_NAME

    @property
    def page(self) -> Path:
        """Path of the page."""
        return self.folder / REPORTS / PAGE_NAME

    def write(self, records: Iterable[ImageRecord], *, expected: int | None = None) -> None:
        """Write both; without any image that is not rejected, the page alone, and a former sheet is removed.

        Args:
            records: of all finished images.
            expected: how many images are to be made, while they are.

        Raises:
            InputError: a source is missing or of another size.
            OutputError: the folder cannot be written.
        """
        held = {record.index: record for record in records}
        self.write_counted(Tally(held.values()), lambda indices: {index: held[index] for index in indices}, expected)

    def write_counted(self, tally: Tally, lookup: Lookup, expected: int | None = None) -> None:
        """Write both of images that were counted; the records of the few that are to be drawn are looked up.

        Args:
            tally: of all finished images.
            lookup: gives the records of images that have not been drawn yet.
            expected: how many images are to be made, while they are.

        Raises:
            InputError: a source is missing or of another size.
            OutputError: the folder cannot be written.
        """
        kept = tally.entries(rejected_indices(self.folder))
        shown, rows = evenly(kept, PAGE_IMAGES), evenly(kept, SHEET_IMAGES)
        strips, images = self._strips, self._images
        wanted = {one.index for one in rows} - strips.keys() | {one.index for one in shown} - images.keys()
        records = lookup(wanted) if wanted else {}
        self._strips = {
            index: strips[index] if index in strips else sheet_strip(self._row(records[index]))
            for index in (one.index for one in rows)
        }
        self._images = {
            index: images.get(index) or self._page_image(records[index]) for index in (one.index for one in shown)
        }
        if rows:
            with atomic_file(self.sheet) as file:
                sheet = Image.fromarray(join_strips(list(self._strips.values()), title=self.title))
                encoded = io.BytesIO()  # Pillow's JPEG encoder does not notice that a full disk took half of its bytes
                sheet.save(encoded, format="JPEG", quality=92, subsampling=0)
                file.write(encoded.getvalue())
        else:
            self.sheet.unlink(missing_ok=True)
        write_decisions(self.folder)
        in_work = [] if expected is None else [f"In work: {tally.count} of {expected} images so far."]
        write_page(
            self.page,
            title=self.title,
            intro=[*self.intro, *in_work],
            images=list(self._images.values()),
            facts={**tally.facts(kept, len(shown)), **self.facts},
            sheet=SHEET_NAME if rows else None,
            style=STYLE_NAME,
            reload=None if expected is None else int(EVERY),
        )

    def _row(self, record: ImageRecord) -> SheetRow:
        mask = read_mask(self.folder / record.mask)
        foreground = self.foregrounds(record) if self.foregrounds else np.ones_like(mask)
        return SheetRow(
            source=read_picture(self._source_path(record), record.levels).pixels,
            trimap=make_trimap(foreground, mask),
            result=read_picture(self.folder / record.image, record.levels).pixels,
            mask=mask,
            label=_label(record),
        )

    def _page_image(self, record: ImageRecord) -> PageImage:
        return PageImage(
            name=_name(record.index),
            image=f"../{record.image}",
            mask=f"../{record.mask}",
            defect=record.defect,
            prompt=_prompts(record) + (f" ({UNACCEPTED})" if record.accepted is False else ""),
            source=self._source(record),
            outlined=self._outlined(record),
            scores=_scores(record),
        )

    def _source_path(self, record: ImageRecord) -> Path:
        """A source's file."""
        return self.sources_root / record.source if self.source_of is None else self.source_of(record)

    def _source(self, record: ImageRecord) -> str:
        """A link to a source inside the folder, a thumbnail of any other."""
        path = self._source_path(record).resolve()
        if path.is_relative_to(self.folder.resolve()):
            return f"../{path.relative_to(self.folder.resolve()).as_posix()}"
        pixels = read_picture(path, record.levels).pixels
        return _data_uri(_thumbnail(pixels, SOURCE_SIDE))

    def _outlined(self, record: ImageRecord) -> str:
        pixels = _thumbnail(read_picture(self.folder / record.image, record.levels).pixels, OUTLINE_SIDE)
        mask = resize_mask(read_mask(self.folder / record.mask), (pixels.shape[0], pixels.shape[1]))
        return _data_uri(outline(pixels, mask))


class LiveReport:
    """A listener that writes the reports from time to time while images are made.

    It counts the images and keeps no records, so that its memory hardly grows; those it shows are in the manifest.

    Args:
        report: of the folder.
        finished: records of the images that are there already.
        expected: how many images are to be made in all.
        every: least seconds between two versions; they are further apart where writing takes long.
    """

    def __init__(
        self, report: GeneratedReport, finished: Iterable[ImageRecord], expected: int, *, every: float | None = None
    ) -> None:
        self._report, self._expected = report, expected
        self._tally = Tally(finished)
        self._every = EVERY if every is None else every
        self._next = time.monotonic() + self._every

    def __call__(self, event: Event) -> None:
        """Note an image, and write the reports if it is time."""
        if not isinstance(event, ImageFinished):
            return
        self._tally.add(event.record)
        began = time.monotonic()
        if began < self._next:
            return
        self._report.write_counted(self._tally, lambda some: read_some(self._report.folder, some), self._expected)
        took = time.monotonic() - began
        self._next = began + took + max(self._every, took / SHARE)


def write_decisions(folder: Path) -> None:
    """Write the style that hides rejected images on the page and says how many there are: after each decision.

    Raises:
        OutputError: the folder cannot be written.
    """
    rejected = sorted(rejected_indices(folder))
    lines = []
    if rejected:
        numbers = ", ".join(map(str, rejected[:20])) + (", …" if len(rejected) > 20 else "")
        images = "1 image is" if len(rejected) == 1 else f"{len(rejected)} images are"
        hidden = ",\n".join(f"#{_name(index)}" for index in rejected)
        lines = [
            f'.decisions::before {{ content: "{images} rejected and left out: {numbers}."; }}\n',
            f"{hidden} {{ display: none; }}\n",
        ]
    with atomic_file(folder / REPORTS / STYLE_NAME) as file:
        file.write("".join(['@charset "utf-8";\n', *lines]).encode())


def _name(index: int) -> str:
    """What identifies an image on the page."""
    return f"image-{index}"


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
    marks = [UNACCEPTED] if record.accepted is False else []
    return " | ".join([", ".join(record.types), Path(record.image).name, *marks, *scores])
