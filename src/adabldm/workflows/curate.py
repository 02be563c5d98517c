"""Decide which generated images are used: by their numbers or by rules on their scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adabldm.core.errors import InputError
from adabldm.core.events import Listener, Note, ignore
from adabldm.core.records import Decision, ImageRecord
from adabldm.core.settings import CurateSettings
from adabldm.data.decisions import append_decisions, read_decisions
from adabldm.data.generated import MANIFEST, REPORTS, read_manifest
from adabldm.report.generated import PAGE_NAME, write_decisions


@dataclass(frozen=True)
class CurateSummary:
    """What is decided on a folder's images.

    Attributes:
        folder: of the images.
        images: number of images with files.
        rejected: numbers of the rejected images, also of those whose files were deleted.
        kept: numbers of the images that were kept on purpose.
        added: decisions that were written now.
    """

    folder: Path
    images: int
    rejected: tuple[int, ...]
    kept: tuple[int, ...]
    added: tuple[Decision, ...]


def curate(settings: CurateSettings, listen: Listener = ignore) -> CurateSummary:
    """Write decisions beside the manifest, which stays as it is; without any, count those that there are.

    An image that is named is decided on whatever was decided before. Rules leave alone what a person decided, now or
    before, and images that lack the score.

    Args:
        settings: folder and decisions.
        listen: is told how many images a rule could not judge.

    Raises:
        InputError: no generated folder, or images that are not in it; nothing was written.
        OutputError: full disk or missing permission.
    """
    root = settings.folder
    if not (root / MANIFEST).is_file():
        raise InputError(f"{root}: no {MANIFEST} in it, expected a folder of generated images; check the path.")
    records, before = read_manifest(root), read_decisions(root)
    known = records.keys() | before.keys()
    unknown = [
        f"--{name}: there is no image {index} in {root}; see the numbers in its {MANIFEST}."
        for name, indices in (("reject", settings.reject), ("keep", settings.keep))
        for index in sorted(set(indices) - known)
    ]
    if unknown:
        raise InputError(unknown)
    named = [
        Decision(index=index, decision=decision, note=settings.note)
        for decision, indices in (("reject", settings.reject), ("keep", settings.keep))
        for index in sorted(set(indices))
    ]
    decided = {**before, **{one.index: one for one in named}}
    by_rule = list(_by_rules(settings, records, decided))
    for field in ("seam", "contrast"):
        lacking = sum(getattr(record, field) is None for record in records.values())
        if lacking and getattr(settings, "max_seam" if field == "seam" else "min_contrast") is not None:
            listen(Note(f"{root}: {lacking} images have no {field}; the rule leaves them as they are."))
    append_decisions(root, [*named, *by_rule])
    if (root / REPORTS / PAGE_NAME).exists():
        write_decisions(root)
    final = {**decided, **{one.index: one for one in by_rule}}
    numbers = {
        word: tuple(sorted(i for i, one in final.items() if one.decision == word)) for word in ("reject", "keep")
    }
    return CurateSummary(root, len(records), numbers["reject"], numbers["keep"], (*named, *by_rule))


def _by_rules(
    settings: CurateSettings, records: dict[int, ImageRecord], decided: dict[int, Decision]
) -> Iterator[Decision]:
    for index, record in records.items():
        earlier = decided.get(index)
        if earlier is not None and (earlier.rule is None or earlier.decision == "reject"):
            continue
        rule = _missed(settings, record)
        if rule is not None:
            yield Decision(index=index, decision="reject", note=settings.note, rule=rule)


def _missed(settings: CurateSettings, record: ImageRecord) -> str | None:
    """The rule that an image misses, in words."""
    seam = max(_each(record, "seam"), default=None)
    if settings.max_seam is not None and seam is not None and seam > settings.max_seam:
        return f"seam {seam:g} is above {settings.max_seam:g}"
    low, contrast = settings.min_contrast, min(_each(record, "contrast"), default=None)
    if low is not None and contrast is not None and contrast < low:
        return f"contrast {contrast:g} is below {low:g}"
    return None


def _each(record: ImageRecord, score: str) -> list[float]:
    """A score of each defect of an image, as far as it is known; of the image itself where it lists no defects."""
    values = [getattr(one, score) for one in record.instances or (record,)]
    return [value for value in values if value is not None]


def format_summary(summary: CurateSummary) -> str:
    """Counts and numbers as plain text."""

    def shown(numbers: tuple[int, ...]) -> str:
        return f"{len(numbers)}{': ' + ', '.join(map(str, numbers)) if numbers else ''}"

    return "\n".join(
        [
            f"{summary.folder}: {summary.images} images",
            f"rejected  {shown(summary.rejected)}",
            f"kept      {shown(summary.kept)}",
            f"new decisions: {len(summary.added)}",
        ]
    )
