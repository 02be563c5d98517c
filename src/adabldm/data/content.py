"""Digests of what data consist of: a folder that moved is the same, and one that changed is another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from adabldm.core.errors import InputError
from adabldm.core.images import Mask
from adabldm.core.samples import Sample

MARK = 12
"""Hex digits by which one image is known again: among a million images, two are alike with a chance of 1 in 500."""


def content_digest(samples: Sequence[Sample]) -> str:
    """Twelve hex digits of SHA-256 over the files of images and the pixels of their masks, with the defects' types.

    Files are read only for samples whose content the check of the data set has not noted.

    Raises:
        InputError: a file cannot be read.
    """
    return _joined(_contents(samples))


def content_marks(samples: Sequence[Sample]) -> list[str]:
    """The first `MARK` hex digits of the digest of each sample alone; raises as `content_digest`."""
    return [content.hex()[:MARK] for content in _contents(samples)]


def split_marks(joined: str | None) -> set[str]:
    """The marks that stand one after the other in a text, as in `RunCard.seen_good`; none without a text."""
    return {joined[start : start + MARK] for start in range(0, len(joined), MARK)} if joined else set()


def _contents(samples: Sequence[Sample]) -> list[bytes]:
    def one(sample: Sample) -> bytes:
        if sample.content is not None:
            return sample.content
        total = SampleDigest(sample.image)
        for defect in sample.defects:
            total.add(defect.type, defect.mask.read())
        return total.digest()

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, samples))


class SampleDigest:
    """SHA-256 over an image's file and then over its masks, one after the other.

    Raises:
        InputError: the file cannot be read.
    """

    def __init__(self, image: Path) -> None:
        self._total = hashlib.sha256(file_digest(image))

    def add(self, defect: str, mask: Mask) -> None:
        """Go on with the mask of a defect of a type, bool HxW."""
        self._total.update(f"{defect}\0{mask.shape}".encode())
        self._total.update(packed(mask))

    def digest(self) -> bytes:
        """Of all so far."""
        return self._total.digest()


def packed(mask: Mask) -> bytes:
    """`numpy.packbits` of a mask, bool HxW; only the rows between its first and its last pixel are packed."""
    width, rows = mask.shape[1], np.flatnonzero(mask.any(axis=1))
    length = -(-mask.size // 8)
    if not rows.size:
        return bytes(length)
    first, end = int(rows[0]) * width // 8, -(-(int(rows[-1]) + 1) * width // 8)
    return bytes(first) + np.packbits(mask.reshape(-1)[8 * first : 8 * end]).tobytes() + bytes(length - end)


def folder_digest(folder: Path) -> str:
    """The same over the names and bytes of a folder's files; raises as `content_digest`."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return _joined(path.name.encode() + file_digest(path) for path in files)


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file's bytes; raises as `content_digest`."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check its permissions.") from error


def _joined(digests: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for digest in digests:
        total.update(digest)
    return total.hexdigest()[:12]
