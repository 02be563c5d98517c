"""Decide which generated images are used: by their numbers, by rules on their scores, or by what they look like."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adabldm.core.errors import InputError
from adabldm.core.events import Listener, Note, ignore
from adabldm.core.records import Decision, ImageRecord
from adabldm.core.settings import CurateSettings
from adabldm.core.settings.curate import ends
from adabldm.data.aside import bring_back, is_set_aside, set_aside
from adabldm.data.decisions import append_decisions, deciding, read_decisions
from adabldm.data.generated import MANIFEST, REPORTS, read_manifest, read_records
from adabldm.report.generated import PAGE_NAME, write_decisions

if TYPE_CHECKING:  # comparing pictures needs PyTorch, deciding by number does not
    from adabldm.selection.likeness import Duplicate


@dataclass(frozen=True)
class CurateSummary:
    """What is decided on a folder's images.

    Attributes:
        folder: of the images.
        images: number of images with files, also of those whose files are set aside.
        rejected: numbers of the rejected images, also of those whose files were deleted.
        kept: numbers of the images that were kept on purpose.
        added: decisions that were written now.
        duplicates: near-duplicates that were found, if they were looked for.
        moved: number of images whose files were set aside and brought back.
    """

    folder: Path
    images: int
    rejected: tuple[int, ...]
    kept: tuple[int, ...]
    added: tuple[Decision, ...]
    duplicates: tuple[Duplicate, ...] | None = None
    moved: tuple[int, int] = (0, 0)


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
    with deciding(root) if settings.decides else nullcontext():
        return _curate(settings, listen)


def _curate(settings: CurateSettings, listen: Listener) -> CurateSummary:
    root = settings.folder
    records, before = read_manifest(root), read_decisions(root)
    every = read_records(root)
    images = len(records) + sum(is_set_aside(root, every[index]) for index in every.keys() - records.keys())
    reject, keep = _known(settings, every.keys() | before.keys())
    named = [
        Decision(index=index, decision=decision, note=settings.note)
        for decision, indices in (("reject", reject), ("keep", keep))
        for index in indices
    ]
    decided = {**before, **{one.index: one for one in named}}
    by_rule = _by_rules(settings, {index: _missed(settings, record) for index, record in records.items()}, decided)
    by_look, duplicates = _by_look(settings, records, {**decided, **by_rule}, listen)
    by_rule |= by_look
    for field in ("seam", "contrast"):
        lacking = sum(getattr(record, field) is None for record in records.values())
        if lacking and getattr(settings, "max_seam" if field == "seam" else "min_contrast") is not None:
            listen(Note(f"{root}: {lacking} images have no {field}; the rule leaves them as they are."))
    added = append_decisions(root, [*named, *by_rule.values()], yielding=True).written
    final = read_decisions(root)
    rejected = {index for index, one in final.items() if one.decision == "reject"}
    moved = set_aside(root, rejected) if settings.set_aside else (0, bring_back(root, keep))
    if (root / REPORTS / PAGE_NAME).exists():
        write_decisions(root)
    numbers = {
        word: tuple(sorted(i for i, one in final.items() if one.decision == word)) for word in ("reject", "keep")
    }
    return CurateSummary(root, images, numbers["reject"], numbers["keep"], added, duplicates, moved)


def _known(settings: CurateSettings, known: Collection[int]) -> tuple[list[int], list[int]]:
    """Numbers of the images to reject and to keep; raises `InputError` if there are no such images."""
    unknown: list[str] = []

    def numbers(name: str, given: Iterable[int | str]) -> list[int]:
        found: set[int] = set()
        for one in given:
            low, high = ends(one)
            missing = next((index for index in range(low, high + 1) if index not in known), None)
            if missing is None:
                found.update(range(low, high + 1))
            else:  # of a range the first one, for it may be endless
                option = f"--{name}" if low == high else f"--{name} {one}"
                unknown.append(
                    f"{option}: there is no image {missing} in {settings.folder}; see the numbers in its {MANIFEST}."
                )
        return sorted(found)

    reject, keep = numbers("reject", settings.reject), numbers("keep", settings.keep)
    if unknown:
        raise InputError(dict.fromkeys(unknown))
    return reject, keep


def _by_rules(
    settings: CurateSettings, reasons: Mapping[int, str | None], decided: Mapping[int, Decision]
) -> dict[int, Decision]:
    """Rejections of the images that have a reason; what a person decided, or what is rejected already, stays."""
    found = {}
    for index, reason in reasons.items():
        earlier = decided.get(index)
        if reason is not None and (earlier is None or (earlier.rule is not None and earlier.decision == "keep")):
            found[index] = Decision(index=index, decision="reject", note=settings.note, rule=reason)
    return found


def _by_look(
    settings: CurateSettings, records: Mapping[int, ImageRecord], decided: Mapping[int, Decision], listen: Listener
) -> tuple[dict[int, Decision], tuple[Duplicate, ...] | None]:
    """Rejections by the features of a network, and the near-duplicates among the images that are not rejected."""
    if settings.nearest is None and settings.duplicates is None:
        return {}, None
    from adabldm.selection.likeness import near_duplicates, nearest_real
    from adabldm.workflows.look import look_at

    rejected = {index for index, one in decided.items() if one.decision == "reject"}
    made, real = look_at(settings, [one for index, one in records.items() if index not in rejected], listen)
    found: dict[int, Decision] = {}
    if settings.nearest is not None:
        limit = settings.nearest
        far = {
            index: f"distance {value:g} to the nearest real defect is above {limit:g}" if value > limit else None
            for index, value in nearest_real(made, real).items()
        }
        found = _by_rules(settings, far, decided)
        made = [look for look in made if look.name not in found]
    if settings.duplicates is None:
        return found, None
    duplicates = near_duplicates(made, real, settings.duplicate_distance)
    if settings.duplicates == "reject":
        reasons = {one.index: f"near-duplicate of {_told(one.other)}, distance {one.distance:g}" for one in duplicates}
        found |= _by_rules(settings, reasons, decided)
    return found, tuple(duplicates)


def _told(other: int | str) -> str:
    return f"image {other}" if isinstance(other, int) else f"the real defect in {other}"


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

    away, back = summary.moved
    pairs = [
        f"  {one.index} is like {_told(one.other)} (distance {one.distance:g})" for one in summary.duplicates or ()
    ]
    return "\n".join(
        [
            f"{summary.folder}: {summary.images} images",
            f"rejected  {shown(summary.rejected)}",
            f"kept      {shown(summary.kept)}",
            f"new decisions: {len(summary.added)}",
            *([f"files set aside: {away}, brought back: {back}"] if any(summary.moved) else []),
            *([f"near-duplicates: {len(pairs)}", *pairs] if summary.duplicates is not None else []),
        ]
    )
