"""VisA: Data/Images/Normal, Data/Images/Anomaly and Data/Masks/Anomaly, whose masks hold numbers of defect classes.

VisA's own division into training and test stands in split_csv/1cls.csv, beside the folders of the objects.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from adabldm.data.formats.annotations import require_good
from adabldm.data.formats.folders import list_folders
from adabldm.data.formats.reading import SPLITS, Listing, ReadOptions

NAME = "visa"
TABLE = "split_csv/1cls.csv"
COLUMNS = ("object", "split", "image")


class VisAReader:
    """Reads one object of VisA; without the table of splits all images count as training images."""

    name = NAME

    def detects(self, root: Path) -> bool:
        """Whether there is a folder Data/Images/Normal."""
        return (root / "Data/Images/Normal").is_dir()

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        """List the images with their masks; see `Reader`."""
        data = root / "Data"
        listing = list_folders(
            data,
            replace(options, require_good=False),
            good=[data / "Images/Normal"],
            bad=[data / "Images/Anomaly"],
            masks=[data / "Masks/Anomaly"],
        )
        table = next((path for path in (root / TABLE, root.resolve().parent / TABLE) if path.is_file()), None)
        if table is not None:
            _apply(_read_table(table, root, listing), root, listing)
        require_good(root, listing, options, "in Data/Images/Normal")
        return listing


@dataclass
class _Table:
    """Splits by image, relative to the object's folder."""

    path: Path
    splits: dict[PurePosixPath, str] = field(default_factory=dict)
    lines: dict[PurePosixPath, int] = field(default_factory=dict)


def _read_table(path: Path, root: Path, listing: Listing) -> _Table:
    """The rows of the table that belong to an object; what is wrong with it is reported."""
    table = _Table(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        listing.problems.append(f"{path}: cannot be read as UTF-8 text ({error}); restore or remove it.")
        return table
    reader = csv.DictReader(text.splitlines())
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
    if missing:
        listing.problems.append(f"{path}: line 1 lacks the columns {', '.join(missing)}; restore or remove the file.")
        return table
    rows = [(number, row) for number, row in enumerate(reader, 2)]
    objects = {str(row["object"]) for _, row in rows}
    name = next(iter(objects)) if len(objects) == 1 else root.resolve().name
    for number, row in rows:
        image, split = str(row["image"] or "").replace("\\", "/"), str(row["split"] or "").strip()
        inside = PurePosixPath(*PurePosixPath(image).parts[1:])
        if row["object"] != name:
            continue
        if split not in SPLITS:
            listing.problems.append(f"{path}: line {number}: split {split!r}, expected train or test; correct it.")
        elif table.splits.get(inside, split) != split:
            listing.problems.append(
                f"{path}: line {number}: {image} is for {split}, but for {table.splits[inside]} in line "
                f"{table.lines[inside]}; remove one of the two."
            )
        else:
            table.splits[inside], table.lines[inside] = split, number
    return table


def _apply(table: _Table, root: Path, listing: Listing) -> None:
    """Divide the samples as the table says; what one side lacks is mentioned."""
    if not table.splits:
        listing.notes.append(f"{table.path}: has no rows of {root.name}; all images count as training images.")
        return
    places = {PurePosixPath(sample.image.relative_to(root).as_posix()): sample for sample in listing.samples}
    listing.samples = [
        replace(sample, split=table.splits[place]) for place, sample in places.items() if place in table.splits
    ]
    unlisted, absent = sorted(places.keys() - table.splits), sorted(table.splits.keys() - places)
    if unlisted:
        listing.notes.append(
            f"{root}: {len(unlisted)} images that {table.path.name} does not list were left out ({unlisted[0]})."
        )
    if absent:
        listing.notes.append(f"{table.path}: lists {len(absent)} images that are not there ({absent[0]}).")
