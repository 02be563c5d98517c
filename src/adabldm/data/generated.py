"""The folder of generated images: a kill at any moment loses nothing finished, and a rerun goes on.

It holds `test/<defect>/NNNNNN.png`, `ground_truth/<defect>/NNNNNN_mask.png`, `settings.json`, `manifest.jsonl`
(a line per image) and `rejected.jsonl` (a line per rejected attempt, when there are any).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from adabldm.data.claim import claim
from adabldm.errors import InputError, OutputError
from adabldm.images import Mask, Pixels, atomic_file, write_mask, write_png
from adabldm.sample import GOOD

Record = dict[str, Any]

REQUIRED_KEYS = (
    "index",
    "source",
    "defect",
    "object",
    "prompt",
    "seed",
    "preset",
    "adapt",
    "background_psnr",
    "seam",
    "edit_strength",
    "model",
)
"""Keys that the caller gives; `image` and `mask` are added by `GeneratedFolder.add`."""


def check_defect_name(name: str) -> None:
    """Refuse a defect type that cannot name a folder of its own.

    Raises:
        InputError: the name is empty, hidden, "good", or holds a path separator.
    """
    if not name or name == GOOD or name.startswith(".") or any(letter in name for letter in "/\\\0"):
        raise InputError(
            f"defect type {name!r}: cannot name a folder, expected a word such as 'scratch' (not empty, not {GOOD!r}, "
            "no leading dot, no slash); rename it."
        )


def read_manifest(root: Path) -> dict[int, Record]:
    """Finished records by index, in index order; reads only.

    Left out are lines that cannot be read (torn by a kill) and records whose image or mask is missing.
    """
    path = root / "manifest.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    records = {record["index"]: record for record in map(_parse, lines) if record and _files_exist(root, record)}
    return dict(sorted(records.items()))


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    usable = isinstance(record, dict) and isinstance(record.get("index"), int) and {"image", "mask"} <= record.keys()
    return record if usable else None


def _files_exist(root: Path, record: Record) -> bool:
    return all((root / str(record[key])).is_file() for key in ("image", "mask"))


class GeneratedFolder:
    """Write generated images so that the run can be interrupted and resumed.

    Args:
        root: the folder; `open` creates it.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._manifest = self.root / "manifest.jsonl"
        self._rejected = self.root / "rejected.jsonl"
        self._lock = threading.Lock()

    def open(self, settings: dict[str, Any]) -> None:
        """Start a run, or go on with one of the same settings; what a kill left half-written is removed.

        Args:
            settings: JSON values that decide the pixels. How many images are asked for is not among them.

        Raises:
            InputError: the folder was made by other settings, or holds something else.
            OutputError: the folder cannot be written.
        """
        claim(self.root, json.loads(_dump(settings)), "generate")
        self.finished()

    def finished(self) -> dict[int, Record]:
        """Finished records by index, in index order; a manifest torn by a kill is repaired."""
        records = read_manifest(self.root)
        content = self._manifest.read_bytes() if self._manifest.exists() else b""
        if content.count(b"\n") != len(records) or not (content or b"\n").endswith(b"\n"):
            self._write_lines(self._manifest, records.values())
        return records

    def add(self, index: int, pixels: Pixels, mask: Mask, record: Record, *, grey: bool = False) -> Record:
        """Write image and mask, then the manifest's line, so that a line always stands for whole files.

        Args:
            index: number of the sample, from 0.
            pixels: uint8 RGB, HxWx3.
            mask: bool, HxW.
            record: JSON values with at least `REQUIRED_KEYS`; attempts that were thrown away may stand under
                "rejected" as a list of objects, from which `finish` makes `rejected.jsonl`.
            grey: write a single channel.

        Returns:
            The record as it was written, with `image` and `mask` relative to the folder.

        Raises:
            InputError: the record lacks a key or is no JSON, or the sizes differ; nothing was written.
            OutputError: full disk or missing permission; the manifest holds no line for this image.
        """
        missing = [key for key in REQUIRED_KEYS if key not in record]
        if missing or record["index"] != index:
            raise InputError(f"record of image {index}: lacks {', '.join(missing) or 'its own index'}; add it.")
        if pixels.shape[:2] != mask.shape:
            raise InputError(f"image {index}: {pixels.shape[:2]} px but its mask {mask.shape}; give equal sizes.")
        check_defect_name(record["defect"])
        image_name = f"test/{record['defect']}/{index:06d}.png"
        mask_name = f"ground_truth/{record['defect']}/{index:06d}_mask.png"
        written = {"image": image_name, "mask": mask_name, **record}
        line = _dump(written)
        write_png(self.root / image_name, pixels, grey=grey)
        write_mask(self.root / mask_name, mask)
        with self._lock:
            self._append(line)
        return written

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
            raise OutputError(
                f"{self._manifest}: could not be written ({error.strerror or error}); free some space, then run the "
                "same command again: it goes on where it stopped."
            ) from error

    def finish(self) -> None:
        """Write manifest and rejections in index order: the same bytes however often the run was interrupted."""
        records = self.finished()
        self._write_lines(self._manifest, records.values())
        rejected = [{"index": index, **entry} for index in records for entry in records[index].get("rejected", [])]
        if rejected:
            self._write_lines(self._rejected, rejected)
        else:
            self._rejected.unlink(missing_ok=True)

    @staticmethod
    def _write_lines(path: Path, records: Iterable[Record]) -> None:
        with atomic_file(path) as file:
            file.write("".join(f"{_dump(record)}\n" for record in records).encode())


def _dump(record: Record) -> str:
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{list(record)}: cannot be written as JSON ({error}); give finite, plain values.") from error
