"""Look at a data set before anything is trained on it: counts, sizes, masks, and every problem."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from adabldm.core.errors import InputError
from adabldm.core.events import Listener, ignore
from adabldm.core.images import write_png
from adabldm.core.records import Reading
from adabldm.core.settings import InspectSettings
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import Inspection, Row, check_data_set
from adabldm.masks.over_edge import notes_on_outlines
from adabldm.report.mask_sheet import mask_sheet

HEADER = ("split", "type", "images", "height x width", "mode", "masks", "mask area (px)")


def inspect(settings: InspectSettings, listen: Listener = ignore) -> Inspection:
    """Check a data set; a bad one is reported, not raised.

    Args:
        settings: what is looked at.
        listen: is told how many images were read.

    Raises:
        InputError: there is no such folder.
        OutputError: the sheet of `show` cannot be written.
    """
    if settings.data.is_file():
        raise InputError(f"{settings.data}: a file, expected the folder of a data set; give the folder.")
    if not settings.data.is_dir():
        raise InputError(f"{settings.data}: no such folder, expected a data set; check the path.")
    options = ReadOptions.of(Reading.of(settings), object_name=settings.object, shots=settings.shots, roi=settings.roi)
    inspection = check_data_set(settings.data, options, listen)
    data_set = inspection.data_set
    if not inspection.problems:
        data_set = replace(data_set, notes=(*data_set.notes, *notes_on_outlines(data_set)))
        inspection = replace(inspection, data_set=data_set)
    if settings.show is not None:
        write_png(settings.show, mask_sheet(data_set))
    return inspection


def format_table(inspection: Inspection) -> str:
    """An aligned plain-text table, then the notes, then the problems."""
    data_set = inspection.data_set
    lines = [f"{data_set.root}: {data_set.object_name}, read as {data_set.format}", ""]
    cells = [HEADER, *map(_cells, inspection.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells if inspection.rows else []:
        lines.append("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    for title, texts in (("Notes", inspection.data_set.notes), ("Problems", inspection.problems)):
        if texts:
            lines += ["", f"{title}:", *(f"- {text}" for text in texts)]
    return "\n".join([*lines, *([] if inspection.problems else ["", "No problems found."])]) + "\n"


def to_json(inspection: Inspection) -> dict[str, Any]:
    """The same as plain values: root, object, rows, notes, problems."""
    return {
        "root": str(inspection.data_set.root),
        "format": inspection.data_set.format,
        "object": inspection.data_set.object_name,
        "rows": [asdict(row) for row in inspection.rows],
        "notes": list(inspection.data_set.notes),
        "problems": list(inspection.problems),
    }


def _cells(row: Row) -> tuple[str, ...]:
    size = f"{_span(row.heights)} x {_span(row.widths)}" if row.heights else "-"
    modes = ", ".join(row.modes) or "-"
    return row.split, row.defect, str(row.images), size, modes, str(row.masks or "-"), _span(row.areas)


def _span(values: tuple[int, int] | None) -> str:
    if values is None:
        return "-"
    return str(values[0]) if values[0] == values[1] else f"{values[0]}-{values[1]}"
