"""Tables and pictures of an evaluation: Markdown, two sheets and an HTML page. Images are uint8 RGB, HxWx3."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adabldm.evaluation.labelled import Labelled
from adabldm.images import Pixels, atomic_file, resize_pixels
from adabldm.report.markdown import table_lines
from adabldm.report.page import html_environment
from adabldm.report.pictures import beside, blank, fitted_size, letterbox, outline, text_strip
from adabldm.windows import crop, window_around

MEASURES = {
    "auroc": "pixel AUROC",
    "ap": "pixel AP",
    "pro": "PRO",
    "iap": "IAP",
    "iap90": "IAP90",
    "f1": "max F1",
    "image_auroc": "image AUROC",
}
CELL, GAP, LABEL, LINE = 128, 6, 150, 22


@dataclass(frozen=True)
class Cell:
    """One entry of a table; `best` of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a sentence about it."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[Cell]]


def tables(report: Mapping[str, Any]) -> list[Table]:
    """The tables of an evaluation (see `workflows.evaluate.evaluate` for its form): detectors, images, types."""
    return [*_detector_tables(report), *_image_tables(report), *_type_tables(report)]


def _detector_tables(report: Mapping[str, Any]) -> Iterator[Table]:
    for detector, conditions in report["detectors"].items():
        values = {name: [types["mean"][key] for key in MEASURES] for name, types in conditions.items()}
        note = f"Mean over {len(report['types'])} defect types ({', '.join(report['types'])})."
        yield Table(
            f"{detector}: real test images",
            note,
            ["condition", *MEASURES.values()],
            _ranked(values, [max] * len(MEASURES)),
        )


def _type_tables(report: Mapping[str, Any]) -> Iterator[Table]:
    for detector, conditions in report["detectors"].items():
        for key in ("ap", "iap90"):
            values = {name: [types[defect][key] for defect in report["types"]] for name, types in conditions.items()}
            best = [max] * len(report["types"])
            yield Table(
                f"{detector}: {MEASURES[key]} by defect type",
                "",
                ["condition", *report["types"]],
                _ranked(values, best),
            )


def _ranked(
    values: Mapping[str, Sequence[Mapping[str, float]]], choose: Sequence[Callable[..., float]]
) -> list[list[Cell]]:
    best = [pick(row[column]["mean"] for row in values.values()) for column, pick in enumerate(choose)]
    return [
        [
            Cell(name),
            *(
                Cell(f"{own['mean']:.1f} ± {own['std']:.1f}", own["mean"] == top and len(values) > 1)
                for own, top in zip(row, best, strict=True)
            ),
        ]
        for name, row in values.items()
    ]


def _image_tables(report: Mapping[str, Any]) -> Iterator[Table]:
    if not report["images"]:
        return
    backbone = next(iter(report["images"].values()))["all"]["backbone"]
    columns: dict[str, Callable[[Any], str]] = {
        f"KID ({backbone})": lambda cell: _figure(cell["all"]["kid"], 4, cell["all"]["kid_std"]),
        f"Fréchet distance ({backbone})": lambda cell: _figure(cell["all"]["frechet"], 2),
        f"diversity ({backbone})": lambda cell: _figure(cell["all"]["diversity"], 3),
        "nearest few-shot": lambda cell: _figure(cell["all"]["nearest_few_shot"], 3),
        "background PSNR (dB)": lambda cell: _figure(cell["scores"]["background_psnr"], 1),
        "seam": lambda cell: _figure(cell["scores"]["seam"], 2),
        "defect fidelity (dB)": lambda cell: _figure(cell["scores"]["defect_fidelity"], 1),
        "edit strength": lambda cell: _figure(cell["scores"]["edit_strength"], 1),
        "mask IoU": lambda cell: _figure(cell["mask"]["iou"], 2),
        "mask precision": lambda cell: _figure(cell["mask"]["precision"], 2),
        "mask recall": lambda cell: _figure(cell["mask"]["recall"], 2),
    }
    rows = [[Cell(name), *(Cell(show(cell)) for show in columns.values())] for name, cell in report["images"].items()]
    real = next(iter(report["images"].values()))["all"]
    note = (
        "Windows around the defects, synthetic against real test images; a lower KID and Fréchet distance are better. "
        f"Real test windows themselves: diversity {_figure(real['diversity_real'], 3)}, nearest few-shot "
        f"{_figure(real['nearest_few_shot_real'], 3)}; a nearest few-shot distance far below it is memorisation. Mask: "
        "agreement of the saved mask with the pixels that changed. A dash: not known for these images."
    )
    yield Table("Image measures", note, ["condition", *columns], rows)


def _figure(value: float | None, digits: int, spread: float | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def format_markdown(report: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    settings = report["settings"]
    lines = [
        f"# Evaluation on {report['data']}",
        "",
        f"{report['test_images']} real test images; {settings['count']} synthetic images a condition; seeds: "
        f"{settings['seeds']}; networks averaged for each: {settings['networks']}; budget: {settings['budget']}.",
    ]
    for table in tables(report):
        lines += ["", f"## {table.title}", "", *([table.note, ""] if table.note else [])]
        rows = ([f"**{cell.text}**" if cell.best else cell.text for cell in row] for row in table.rows)
        lines += table_lines(table.columns, rows)
    return "\n".join(lines) + "\n"


def conditions_sheet(images: Mapping[str, Sequence[Labelled]]) -> Pixels:
    """A row a condition, a column a scene: windows around the defects; the first row outlines the first one's masks."""
    first = next(iter(images.values()))
    rows = [_row("mask", [_window(one, outlined=True) for one in first])]
    rows += [_row(name, [_window(one) for one in own]) for name, own in images.items()]
    return np.vstack(rows)


def _window(one: Labelled, *, outlined: bool = False) -> Pixels:
    assert one.mask is not None
    pixels = outline(one.pixels, one.mask) if outlined else one.pixels
    return resize_pixels(crop(pixels, window_around(one.mask)), (CELL, CELL))


def detections_sheet(images: Sequence[Labelled], maps: Mapping[str, Sequence[Pixels]]) -> Pixels:
    """A column a test image: the image, its true mask, then each condition's map of it."""
    masks = [np.repeat(one.mask[..., None], 3, axis=2).astype(np.uint8) * 255 for one in images if one.mask is not None]
    rows = [_row("image", [_fitted(one.pixels) for one in images]), _row("truth", [_fitted(mask) for mask in masks])]
    rows += [_row(name, [_fitted(map_) for map_ in own]) for name, own in maps.items()]
    return np.vstack(rows)


def _fitted(pixels: Pixels) -> Pixels:
    return letterbox(resize_pixels(pixels, fitted_size((pixels.shape[0], pixels.shape[1]), CELL)), CELL)


def _row(label: str, cells: Sequence[Pixels]) -> Pixels:
    name = blank(CELL, LABEL)
    name[:LINE] = text_strip(label, LABEL, LINE)
    row = beside([name, *cells], GAP)
    return np.vstack([row, blank(GAP, row.shape[1])])


def write_report(path: Path, report: Mapping[str, Any], sheets: Mapping[str, str]) -> None:
    """The HTML page: tables, then sheets (title to path, relative to the page).

    Raises:
        OutputError: the page cannot be written.
    """
    template = html_environment().get_template("evaluation.html.j2")
    text = template.render(
        title=f"Evaluation on {report['data']}",
        seeds=report["settings"]["seeds"],
        networks=report["settings"]["networks"],
        tables=tables(report),
        sheets=sheets,
    )
    with atomic_file(path) as file:
        file.write(text.encode())
