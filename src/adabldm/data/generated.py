"""The folder of generated images: a kill at any moment loses nothing finished, and a rerun goes on.

It is a data set in the layout of MVTec AD: `train/<defect>/NNNNNN.png` (or `test/<defect>`),
`ground_truth/<defect>/NNNNNN_mask.png` with one mask for each image and nothing else, and `train/good`. Beside it are
`settings.json`, `manifest.jsonl` (an `ImageRecord` a line) and `rejected.jsonl` (a line per rejected attempt, when
there are any). Images with several defects have their labels in `instances/<defect>/NNNNNN_labels.tif`; reports are in
`reports/`. No other PNG file may lie in the folder, because anomalib counts it as an image.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, atomic_file, image_bytes, label_values, mask_values, write_error
from adabldm.core.names import check_defect_name
from adabldm.core.opening import is_file
from adabldm.core.records import ImageRecord
from adabldm.core.records.files import read_json
from adabldm.core.samples import Defect, LabelledMask, MaskFile
from adabldm.core.settings.common import Split
from adabldm.data.claim import ASIDE, SETTINGS, Held, claim
from adabldm.data.decisions import rejected_indices

MANIFEST, REJECTED = "manifest.jsonl", "rejected.jsonl"
INSTANCES = "instances"
"""Folder of the images of labels."""
LABELS_SUFFIX = ".tif"
"""Of the images of labels: programs that count every PNG file of a folder leave them alone."""
SUFFIX = ".png"
"""Of the generated images: it decides their file format."""
REPORTS = "reports"
OLD_REPORTS = ("contact_sheet.png", "index.html")
"""Reports that former versions wrote beside the manifest."""
WAY_OUT = "remove the line, its image is made again"


@dataclass(frozen=True)
class _Manifest:
    """What a manifest holds.

    Attributes:
        records: usable records by index.
        notes: remarks, one sentence each.
        intact: whether the file's lines are exactly the records that stay in it.
        discarded: records of images that were deleted, or rejected and lost their mask; they stay in the file.
        incomplete: records of other images that lost their mask; they stay in the file until the image is made again.
    """

    records: dict[int, ImageRecord]
    notes: tuple[str, ...] = ()
    intact: bool = True
    discarded: dict[int, ImageRecord] = field(default_factory=dict)
    incomplete: dict[int, ImageRecord] = field(default_factory=dict)

    def every(self) -> dict[int, ImageRecord]:
        """All records by index, in index order."""
        return dict(sorted({**self.incomplete, **self.discarded, **self.records}.items()))

    def lines(self) -> list[str]:
        """The file's lines, in index order."""
        return [record.line() for record in self.every().values()]


def read_manifest(root: Path) -> dict[int, ImageRecord]:
    """Finished records by index, in index order; reads only.

    A last line that was torn by a kill is left out, as are records whose image or mask is missing.

    Raises:
        InputError: another line is not a usable record, or names a file outside the folder.
    """
    return _read(root).records


def _read(root: Path) -> _Manifest:
    path = root / MANIFEST
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check its permissions.") from error
    notes = []
    *lines, last = content.split(b"\n")
    if last and _is_json(last):  # whole but for its end
        lines.append(last)
    elif last:
        notes.append(f"{path}: the last line was torn by an interruption and is left out; its image is made again.")
    found = _parse_lines(root, lines)
    records = {record.index: record for record in found if _files_exist(root, record)}
    absent = {record.index: record for record in found if record.index not in records}
    rejected = rejected_indices(root) if absent else set[int]()  # not made again, so that their lines stay
    discarded = {
        index: record for index, record in absent.items() if index in rejected or not is_file(root / record.image)
    }
    incomplete = {index: record for index, record in absent.items() if index not in discarded}
    if incomplete:
        names = [record.image for record in incomplete.values()]
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        notes.append(
            f"{path}: {len(names)} images without their mask do not count ({shown}); those asked for are made again."
        )
    intact = not last and len(found) == len(lines)
    return _Manifest(dict(sorted(records.items())), tuple(notes), intact, discarded, incomplete)


def read_kept(root: Path) -> dict[int, ImageRecord]:
    """Finished records that were not rejected in `decisions.jsonl`, by index, in index order; reads only.

    Raises:
        InputError: as `read_manifest`, or a decision that cannot be read.
    """
    rejected = rejected_indices(root)
    return {index: record for index, record in read_manifest(root).items() if index not in rejected}


def read_some(root: Path, indices: Collection[int]) -> dict[int, ImageRecord]:
    """The records of some images, whose files are not looked at; the others are not held in memory.

    Raises:
        InputError: one of them has no usable record.
    """
    found = _looked_up(root, indices)
    missing = sorted(set(indices) - found.keys())
    if missing:
        problem = f"no record of image {missing[0]}; run generate again, it makes what is missing."
        raise InputError(f"{root / MANIFEST}: {problem}")
    return found


def read_finished(root: Path, index: int) -> ImageRecord | None:
    """The record of one image; `None` without it, or without one of its files. Other lines are not looked at.

    Raises:
        InputError: the line cannot be used, or names a file outside the folder.
    """
    found = _looked_up(root, (index,)).get(index)
    return found if found is not None and _files_exist(root, found) else None


def _looked_up(root: Path, indices: Collection[int]) -> dict[int, ImageRecord]:
    """The records of some images, as far as there are any; other lines are neither checked nor held in memory."""
    path, found = root / MANIFEST, dict[int, ImageRecord]()
    written = [str(index).encode() for index in indices]
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                index = _index_in(line) if any(one in line for one in written) else None
                if index is not None and index in indices:
                    found[index] = _parse(line, f"{path}, line {number}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check its permissions.") from error
    return found


def read_deleted(root: Path) -> set[int]:
    """Numbers of the images that have a record, but whose file was deleted; raises as `read_manifest`."""
    manifest = _read(root)
    return manifest.discarded.keys() - manifest.records.keys()


def read_records(root: Path) -> dict[int, ImageRecord]:
    """All records by index, also of images that were deleted or lost their mask; raises as `read_manifest`."""
    return _read(root).every()


def made_from(root: Path, what: Literal["data", "onto"] = "data") -> Path | None:
    """The data set from which the images of a generated folder were made, as its settings file names it, if it does.

    Args:
        root: the folder.
        what: "data" for the data set, "onto" for the pictures with defects that were edited.
    """
    place = (_stored_settings(root).get(ASIDE) or {}).get(what)
    return Path(place) if isinstance(place, str) else None


def defects_of(root: Path, record: ImageRecord) -> tuple[Defect, ...]:
    """The defects of an image with their masks.

    Args:
        root: the generated folder.
        record: of the image.
    """
    if record.labels is None:
        return (Defect(record.defect, MaskFile(root / record.mask)),)
    return tuple(Defect(one.defect, LabelledMask(root / record.labels, one.label)) for one in record.instances)


def _is_json(line: bytes) -> bool:
    try:
        read_json(line)
    except ValueError:
        return False
    return True


def _index_in(line: bytes) -> int | None:
    """The number of the image that a line tells of, if it is a whole line that tells of one."""
    try:
        values = read_json(line)
    except ValueError:
        return None
    index = values.get("index") if isinstance(values, dict) else None
    return index if isinstance(index, int) else None


def _parse_lines(root: Path, lines: Sequence[bytes]) -> list[ImageRecord]:
    """The records of a manifest's lines; a line that stands there twice counts once.

    Raises:
        InputError: a line that cannot be used, two that contradict each other, or a file outside the folder.
    """
    found: dict[int, tuple[int, ImageRecord]] = {}
    files: dict[str, int] = {}
    inside = _Inside(root)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{root / MANIFEST}, line {number}"
        record = _parse(line, where)
        first, other = found.get(record.index, (number, record))
        if other != record:
            raise InputError(f"{where}: index {record.index} stands in line {first} too, with other values; {WAY_OUT}.")
        found[record.index] = first, record
        for name in _files(record):
            if files.setdefault(name, record.index) != record.index:
                raise InputError(f"{where}: {name} belongs to image {files[name]} already; {WAY_OUT}.")
            if not inside(name):
                raise InputError(f"{where}: {name} is a link that leads out of the folder; {WAY_OUT}.")
    return [record for _, record in found.values()]


def _parse(line: bytes, where: str) -> ImageRecord:
    try:
        values = read_json(line)
    except ValueError as error:
        raise InputError(f"{where}: not a line of JSON ({error}); {WAY_OUT}.") from error
    if isinstance(values, dict):
        values.setdefault("schema", 0)
    record = ImageRecord.parse(values, where, WAY_OUT)
    for name in _files(record):
        if not _stays_inside(name) or "\\" in name:
            raise InputError(f"{where}: {name!r}, expected the path of a file inside the folder; {WAY_OUT}.")
        number = re.fullmatch(r"(\d+)(_mask|_labels)?", PurePosixPath(name).stem, re.ASCII)
        if number is not None and int(number[1]) != record.index:
            raise InputError(f"{where}: index {record.index}, but its file is {name}; {WAY_OUT}.")
    for source in (record.source, record.reference, record.base, *(one.reference for one in record.instances)):
        if source is not None and not _stays_inside(source):
            raise InputError(f"{where}: {source!r}, expected the path of a file inside the data set; {WAY_OUT}.")
    try:
        check_defect_name(record.defect)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return record


def _stays_inside(name: str) -> bool:
    """Whether a name is the path of a file below the folder that it belongs to."""
    place = PurePosixPath(name)
    return not (place.is_absolute() or ".." in place.parts or not place.parts or "\0" in name)


class _Inside:
    """Tells whether a file of a folder lies in it, also where it is reached by links."""

    def __init__(self, root: Path) -> None:
        self._root, self._folders = root, dict[str, Path]()
        self._real = root.resolve()

    def __call__(self, name: str) -> bool:
        folder, _, file = name.rpartition("/")
        try:
            if folder not in self._folders:
                self._folders[folder] = (self._root / folder).resolve()
            path = self._folders[folder] / file
            return (path.resolve() if path.is_symlink() else path).is_relative_to(self._real)
        except (OSError, RuntimeError):  # a name that is too long, or links in a circle: there is no such file
            return True


def _stored_settings(root: Path) -> dict[str, Any]:
    """What stands in the folder's settings file; an unusable one is refused when the folder is claimed."""
    try:
        values = read_json((root / SETTINGS).read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _split_of(root: Path) -> Split | None:
    """Where a folder's images stand; former versions wrote them to `test` without saying so."""
    stored = _stored_settings(root)
    if not stored:
        return None
    return "train" if stored.get("split") == "train" else "test"


def _files(record: ImageRecord) -> list[str]:
    """Paths of an image's files, relative to the folder: image, mask and, if there is one, image of labels."""
    return [name for name in (record.image, record.mask, record.labels) if name is not None]


def _files_exist(root: Path, record: ImageRecord) -> bool:
    return all(is_file(root / name) for name in _files(record))


class GeneratedFolder:
    """Write generated images so that the run can be interrupted and resumed.

    Args:
        root: the folder; `open` creates it.
        split: where images stand: "train" or "test"; if left out, as the folder has them, and "train" in a new one.
    """

    def __init__(self, root: Path, split: Split | None = None) -> None:
        self.root = Path(root)
        self.split: Split = split or _split_of(self.root) or "train"
        self._manifest = self.root / MANIFEST
        self._rejected = self.root / REJECTED
        self._lock = threading.Lock()
        self._held: Held | None = None
        self.notes: tuple[str, ...] = ()
        """Remarks on what `open` found, one sentence each."""

    @contextmanager
    def open(
        self, settings: Mapping[str, Any], command: str = "generate", made_with: Mapping[str, Any] | None = None
    ) -> Iterator[None]:
        """Hold the folder while it is written; go on with one of the same settings.

        Args:
            settings: JSON values that decide the pixels. How many images are asked for is not among them.
            command: name of the command that makes it.
            made_with: JSON values that are written beside them and decide nothing, such as where the data lay.

        Raises:
            InputError: the folder was made with other settings, holds something else, or another process works in it.
            OutputError: the folder cannot be written.
        """
        with claim(self.root, {**settings, "split": self.split}, command, aside=made_with) as held:
            self._held = held
            self.notes = self._repaired().notes
            yield

    def finished(self) -> dict[int, ImageRecord]:
        """Finished records by index, in index order; a manifest torn by a kill is repaired."""
        return self._repaired().records

    def _repaired(self) -> _Manifest:
        """What the manifest holds; a torn one is written anew."""
        manifest = _read(self.root)
        if not manifest.intact:
            self._write_lines(self._manifest, manifest.lines())
        return manifest

    def release(self, indices: Collection[int]) -> None:
        """Prepare for making images again: remove the lines, and what is left of the files, of unfinished ones.

        Args:
            indices: of images that are about to be made; finished ones among them are left alone.

        Raises:
            OutputError: full disk, missing permission, or a folder that vanished.
        """
        manifest = _read(self.root)
        unfinished = {**manifest.incomplete, **manifest.discarded}
        given_up = {index: record for index, record in unfinished.items() if index in indices}
        if not given_up:
            return
        self._check_held()
        stay = [record.line() for index, record in manifest.every().items() if index not in given_up]
        self._write_lines(self._manifest, stay)
        for name in (name for record in given_up.values() for name in _files(record)):
            try:
                (self.root / name).unlink(missing_ok=True)
            except OSError as error:
                raise write_error(self.root / name, error) from error

    def paths(self, index: int, defect: str) -> tuple[str, str]:
        """(image, mask) of an image, POSIX paths relative to the folder."""
        return f"{self.split}/{defect}/{index:06d}{SUFFIX}", f"ground_truth/{defect}/{index:06d}_mask.png"

    @staticmethod
    def labels_path(index: int, defect: str) -> str:
        """Image of labels of an image with several defects, a POSIX path relative to the folder."""
        return f"{INSTANCES}/{defect}/{index:06d}_labels{LABELS_SUFFIX}"

    def add(
        self,
        record: ImageRecord,
        pixels: NDArray[np.uint8] | NDArray[np.uint16],
        mask: Mask,
        labels: NDArray[np.int32] | None = None,
    ) -> ImageRecord:
        """Write image and mask, then the manifest's line, so that a line always stands for whole files.

        Args:
            record: of the image; its paths are set here.
            pixels: uint8 HxWx3 or HxW, or uint16 HxW (`Picture.as_file`).
            mask: bool HxW.
            labels: 0, or the number of the defect, HxW; `None` for a record that lists no instances.

        Returns:
            The record as it was written.

        Raises:
            InputError: the record cannot be written, or the sizes differ; nothing was written.
            OutputError: full disk, missing permission, or a folder that vanished; the manifest holds no line for this
                image.
        """
        if pixels.shape[:2] != mask.shape:
            raise InputError(
                f"image {record.index}: {pixels.shape[:2]} px but its mask {mask.shape}; give equal sizes."
            )
        own_labels = None if labels is None else image_bytes(label_values(labels), LABELS_SUFFIX)
        return self.add_files(record, image_bytes(pixels, SUFFIX), image_bytes(mask_values(mask)), own_labels)

    def add_files(self, record: ImageRecord, pixels: bytes, mask: bytes, labels: bytes | None = None) -> ImageRecord:
        """The same with the contents of the files."""
        check_defect_name(record.defect)
        image, own_mask = self.paths(record.index, record.defect)
        own_labels = None if labels is None else self.labels_path(record.index, record.defect)
        written = record.model_copy(update={"image": image, "mask": own_mask, "labels": own_labels})
        line = written.line()
        self._check_held()
        for name, content in ((image, pixels), (own_mask, mask), (own_labels, labels)):
            if name is not None and content is not None:
                with atomic_file(self.root / name) as file:
                    file.write(content)
        self._check_held()
        with self._lock:
            self._append(line)
        return written

    def adopt(self, records: Iterable[ImageRecord]) -> None:
        """Add the lines of images whose files have been put into the folder by other means, or were deleted.

        Raises:
            OutputError: full disk, missing permission, or a folder that vanished.
        """
        known = read_records(self.root)
        added = [record for record in records if record.index not in known]
        self._check_held()
        self._write_lines(self._manifest, [*_read(self.root).lines(), *(record.line() for record in added)])

    def _check_held(self) -> None:
        if self._held is not None:
            self._held.check()

    def _append(self, line: str) -> None:
        start = self._manifest.stat().st_size if self._manifest.exists() else 0
        try:
            with self._manifest.open("ab") as file:
                file.write(line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):  # take back the part that was written; if even that fails, `open` repairs it
                os.truncate(self._manifest, start)
            raise write_error(self._manifest, error) from error

    def finish(self) -> None:
        """Write manifest and rejections in index order: the same bytes however often the run was interrupted."""
        manifest = _read(self.root)
        self._write_lines(self._manifest, manifest.lines())
        rejected = [
            json.dumps({"schema": record.version, "index": index, **entry.plain()}, ensure_ascii=False)
            for index, record in manifest.records.items()
            for entry in record.rejected
        ]
        if rejected:
            self._write_lines(self._rejected, rejected)
        else:
            self._rejected.unlink(missing_ok=True)

    def remove_old_reports(self) -> None:
        """Remove the reports that a former version left beside the manifest, where they count as images."""
        if "split" not in _stored_settings(self.root):
            for name in OLD_REPORTS:
                with suppress(OSError):
                    (self.root / name).unlink(missing_ok=True)

    @staticmethod
    def _write_lines(path: Path, lines: Iterable[str]) -> None:
        with atomic_file(path) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
