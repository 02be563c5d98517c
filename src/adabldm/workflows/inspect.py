"""Look at a data set before anything is trained on it: counts, sizes, masks, and every problem."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from adabldm.data.folder import Inspection, Row, check_folder

HEADER = ("split", "type", "images", "height x width", "mode", "masks", "mask area (px)")


def inspect(
    root: Path,
    *,
    object_name: str | None = None,
    mask_threshold: int | None = None,
    shots: int | None = None,
    skip_empty: bool = False,
    min_size: int | None = None,
) -> Inspection:
    """Check a data set; see `adabldm.data.folder.check_folder`. A bad folder is reported, not raised."""
    return check_folder(
        root,
        object_name=object_name,
        mask_threshold=mask_threshold,
        shots=shots,
        skip_empty=skip_empty,
        min_size=min_size,
    )


def format_table(inspection: Inspection) -> str:
    """An aligned plain-text table, then the notes, then the problems."""
    lines = [f"{inspection.data_set.root}: {inspection.data_set.object_name}", ""]
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
