"""Tables and pictures of an evaluation: Markdown, two sheets and an HTML page. Images are uint8 RGB, HxWx3."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from adabldm.core.images import Pixels, atomic_file, resize_pixels
from adabldm.core.lettering import INK, PAPER, text_strip
from adabldm.core.records import EvaluationReport
from adabldm.core.records.evaluation import MEAN, ImageFigures, Measures, Statistic
from adabldm.core.windows import crop, window_around
from adabldm.evaluation.labelled import Labelled
from adabldm.report.markdown import table_lines
from adabldm.report.page import html_environment
from adabldm.report.pictures import beside, blank, fitted_size, letterbox, outline

MEASURES = {
    "auroc": "pixel AUROC",
    "ap": "pixel AP",
    "pro": "PRO",
    "iap": "IAP",
    "iap90": "IAP90",
    "f1": "max F1",
    "image_auroc": "image AUROC",
}
"""Names of the measures in tables, by field."""
TITLES = {"nsa": "Poisson-blended", "perlin": "Perlin noise"}
"""Conditions whose names are those of a method, in words."""
SAME_SCENES = "The same scenes in every condition, except where an attempt was rejected"
"""Title of what `conditions_sheet` shows."""
SHOWN_SCENES, SEARCHED_SCENES = 8, 32
"""Scenes that the report shows, and among how many of the first ones they are chosen."""
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


def condition_titles(names: Iterable[str]) -> dict[str, str]:
    """What conditions are called in tables and pictures; folders and files of presets by their own name alone.

    Args:
        names: of all conditions of an evaluation, so that two never have the same title.

    Returns:
        Titles by name.
    """
    found = {name: _title(name) for name in names}
    taken = list(found.values())
    return {name: title if taken.count(title) == 1 else name for name, title in found.items()}


def _title(name: str) -> str:
    kind, _, value = name.partition(":")
    if kind == "adabldm":
        return f"AdaBLDM {PurePath(value).stem}"
    if kind == "folder":
        return f"folder {PurePath(value).name}"
    return TITLES.get(name, name)


def tables(report: EvaluationReport) -> list[Table]:
    """The tables of an evaluation: detectors, images, types."""
    return [*_detector_tables(report), *_image_tables(report), *_type_tables(report)]


def _detector_tables(report: EvaluationReport) -> Iterator[Table]:
    note = f"Mean over {len(report.types)} defect types ({', '.join(report.types)})."
    for detector, conditions in report.detectors.items():
        values = {name: [_statistic(own[MEAN], key) for key in MEASURES] for name, own in conditions.items()}
        yield Table(f"{detector}: real test images", note, ["condition", *MEASURES.values()], _ranked(values))


def _type_tables(report: EvaluationReport) -> Iterator[Table]:
    for detector, conditions in report.detectors.items():
        for key in ("ap", "iap90"):
            values = {
                name: [_statistic(own[defect], key) for defect in report.types] for name, own in conditions.items()
            }
            title = f"{detector}: {MEASURES[key]} by defect type"
            yield Table(title, "", ["condition", *report.types], _ranked(values))


def _statistic(measures: Measures[Statistic], key: str) -> Statistic:
    found: Statistic = getattr(measures, key)
    return found


def _ranked(values: Mapping[str, Sequence[Statistic]]) -> list[list[Cell]]:
    """A row a condition; the highest mean of a column is marked."""
    titles = condition_titles(values)
    best = [max(own.mean for own in column) for column in zip(*values.values(), strict=True)]
    return [
        [
            Cell(titles[name]),
            *(
                Cell(
                    _figure(own.mean, 1, own.std if len(own.values) > 1 else None), own.mean == top and len(values) > 1
                )
                for own, top in zip(row, best, strict=True)
            ),
        ]
        for name, row in values.items()
    ]


def _image_tables(report: EvaluationReport) -> Iterator[Table]:
    if not report.images:
        return
    first = next(iter(report.images.values())).together
    columns: dict[str, Callable[[ImageFigures], str]] = {
        f"KID ({first.backbone})": lambda one: _figure(one.together.kid, 4, one.together.kid_std),
        f"Fréchet distance ({first.backbone})": lambda one: _figure(one.together.frechet, 2),
        f"diversity ({first.backbone})": lambda one: _figure(one.together.diversity, 3),
        "nearest few-shot": lambda one: _figure(one.together.nearest_few_shot, 3),
        "background PSNR (dB)": lambda one: _figure(one.scores.background_psnr, 1),
        "seam": lambda one: _figure(one.scores.seam, 2),
        "defect fidelity (dB)": lambda one: _figure(one.scores.defect_fidelity, 1),
        "edit strength": lambda one: _figure(one.scores.edit_strength, 1),
        "met the limits": lambda one: _figure(one.scores.accepted, 2),
        "mask IoU": lambda one: _figure(one.mask.iou, 2),
        "mask precision": lambda one: _figure(one.mask.precision, 2),
        "mask recall": lambda one: _figure(one.mask.recall, 2),
    }
    titles = condition_titles(report.images)
    rows = [
        [Cell(titles[name]), *(Cell(show(one)) for show in columns.values())] for name, one in report.images.items()
    ]
    note = (
        "Windows around the defects, synthetic against real test images; a lower KID and Fréchet distance are better. "
        f"The real test windows themselves have a diversity of {_figure(first.diversity_real, 3)} and a distance of "
        f"{_figure(first.nearest_few_shot_real, 3)} to the nearest few-shot window; a distance far below that means "
        "that training images were copied. Met the limits: share of the images that `generate` accepted; all of them "
        "are counted, and one that was tried again stands at another place than in the other conditions. Mask: "
        "agreement of the saved mask with the pixels that changed. A dash means that the figure is not known."
    )
    yield Table("Image measures", note, ["condition", *columns], rows)


def _figure(value: float | None, digits: int, spread: float | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def format_markdown(report: EvaluationReport) -> str:
    """The tables as Markdown."""
    settings = report.settings
    lines = [
        f"# Evaluation on {report.data}",
        "",
        f"{_tested(report)}; {settings.count} synthetic images of each condition; seeds: {settings.seeds}; networks "
        f"averaged for each: {settings.networks}; budget: {settings.budget}.",
    ]
    for table in tables(report):
        lines += ["", f"## {table.title}", "", *([table.note, ""] if table.note else [])]
        rows = ([f"**{cell.text}**" if cell.best else cell.text for cell in row] for row in table.rows)
        lines += table_lines(table.columns, rows)
    return "\n".join(lines) + "\n"


def _tested(report: EvaluationReport) -> str:
    """What was tested on."""
    folds = report.settings.folds
    if folds is None:
        return f"{report.test_images} real test images"
    return (
        f"Cross-validation: {report.test_images} training images, held out in {folds} folds; figures are means over "
        "the folds ± the standard deviation of their means"
    )


def shown_scenes(images: Mapping[str, Sequence[Labelled]]) -> list[int]:
    """Numbers of the scenes that the report shows: first those whose masks are the same in all conditions.

    Where attempts of one condition were rejected, its defect is at another place than in the others.

    Args:
        images: those of each condition, with masks; their order is that of the scenes.
    """
    conditions = list(images.values())

    def differs(scene: int) -> bool:
        first = conditions[0][scene].mask
        return any(not np.array_equal(own[scene].mask, first) for own in conditions)  # type: ignore[arg-type]

    return sorted(range(min(SEARCHED_SCENES, *map(len, conditions))), key=differs)[:SHOWN_SCENES]


def conditions_sheet(images: Mapping[str, Sequence[Labelled]]) -> Pixels:
    """A row for each condition, a column for each scene: windows around the defects.

    The first row shows the first condition with the outlines of its masks.
    """
    first = next(iter(images.values()))
    rows = [_row("mask", [_window(one, outlined=True) for one in first])]
    titles = condition_titles(images)
    rows += [_row(titles[name], [_window(one) for one in own]) for name, own in images.items()]
    return np.vstack(rows)


def _window(one: Labelled, *, outlined: bool = False) -> Pixels:
    assert one.mask is not None
    pixels = outline(one.pixels, one.mask) if outlined else one.pixels
    return resize_pixels(crop(pixels, window_around(one.mask)), (CELL, CELL))


def detections_sheet(images: Sequence[Labelled], maps: Mapping[str, Sequence[Pixels]]) -> Pixels:
    """A column for each test image: the image, its true mask, then the map of each condition."""
    masks = [np.repeat(one.mask[..., None], 3, axis=2).astype(np.uint8) * 255 for one in images if one.mask is not None]
    rows = [_row("image", [_fitted(one.pixels) for one in images]), _row("truth", [_fitted(mask) for mask in masks])]
    titles = condition_titles(maps)
    rows += [_row(titles[name], [_fitted(map_) for map_ in own]) for name, own in maps.items()]
    return np.vstack(rows)


def recoloured(sheet: Pixels, paper: tuple[int, int, int], ink: tuple[int, int, int]) -> Pixels:
    """One of the two sheets with its labels and gaps in other colours; its pictures stay as they are."""
    rows, columns = np.arange(sheet.shape[0]), np.arange(sheet.shape[1]) - LABEL - GAP
    pictures = ((rows % (CELL + GAP) < CELL)[:, None]) & ((columns >= 0) & (columns % (CELL + GAP) < CELL))
    share = (sheet.mean(axis=2, keepdims=True) - np.mean(INK)) / (np.mean(PAPER) - np.mean(INK))
    drawn = np.array(ink) + share.clip(0, 1) * (np.array(paper) - np.array(ink))
    return np.where(pictures[..., None], sheet, drawn.round().astype(np.uint8))


def _fitted(pixels: Pixels) -> Pixels:
    return letterbox(resize_pixels(pixels, fitted_size((pixels.shape[0], pixels.shape[1]), CELL)), CELL)


def _row(label: str, cells: Sequence[Pixels]) -> Pixels:
    name = blank(CELL, LABEL)
    name[:LINE] = text_strip(label, LABEL, LINE)
    row = beside([name, *cells], GAP)
    return np.vstack([row, blank(GAP, row.shape[1])])


def write_report(path: Path, report: EvaluationReport, sheets: Mapping[str, str]) -> None:
    """Write the HTML page: tables, then sheets (title to path, relative to the page).

    Raises:
        OutputError: the page cannot be written.
    """
    template = html_environment().get_template("evaluation.html.j2")
    text = template.render(
        title=f"Evaluation on {report.data}",
        seeds=report.settings.seeds,
        networks=report.settings.networks,
        folds=report.settings.folds,
        detectors=report.settings.detectors,
        tables=tables(report),
        sheets=sheets,
    )
    with atomic_file(path) as file:
        file.write(text.encode())
