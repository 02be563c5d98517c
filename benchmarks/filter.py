"""Precision and recall of the filter on pictures that were labelled by eye as believable or not.

    python benchmarks/filter.py [--labels experiments/2026-11-26-filter]

The folder holds `labels.csv`, a picture a line with its label, the reason, and what it changed, and `real.json`, what
the real training defects of each data set change (`adabldm.core.changes`). The pictures are not in the repository,
because no image of a third party is; experiments/2026-11-26-filter.md says how they are made again.

Three limits are chosen on the other data sets for each one: those with the highest mean F1 over these. Precision is the
share of the accepted pictures that are believable, recall the share of the believable ones that are accepted.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adabldm.core.changes import Change, Expected
from adabldm.core.settings.common import Limits

GRID = {
    "min_filled": (0.5, 0.6, 0.7, 0.8, 0.85, 0.9),
    "max_fainter": (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, None),
    "max_softer": (0.5, 1.0, 1.5, 2.0, 2.25, 2.5, None),
}
"""Limits that are tried."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A labelled picture, with the numbers that the limits are for."""

    data: str
    believable: bool
    reason: str
    strange: float
    filled: float
    fainter: float
    softer: float
    scores: dict[str, float]

    def accepted(self, limits: Limits) -> bool:
        """What the rules of `adabldm.selection.rules` say."""
        return (
            self.accepted_by_scores(limits)
            and self.filled >= max(limits.min_changed, limits.min_filled)
            and (limits.max_strange is None or self.strange <= limits.max_strange)
            and (limits.max_fainter is None or self.fainter <= limits.max_fainter)
            and (limits.max_softer is None or self.softer <= limits.max_softer)
        )

    def accepted_by_scores(self, limits: Limits) -> bool:
        """What the rules say that compare with no real defect."""
        return (
            self.scores["visible_change"] >= limits.min_visible
            and self.scores["contrast"] >= limits.min_contrast
            and self.scores["edit_strength"] >= limits.min_edit_strength
            and self.scores["background_psnr"] >= limits.min_background_psnr
        )


def read(folder: Path) -> list[Picture]:
    """The pictures of a folder of labels."""
    real = json.loads((folder / "real.json").read_text(encoding="utf-8"))
    known = {
        (data, defect): Expected([Change.model_validate(one) for one in changes])
        for data, types in real.items()
        for defect, changes in types.items()
    }
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return [_picture(row, known[row["data"], row["defect"]]) for row in csv.DictReader(file)]


def _picture(row: dict[str, str], expected: Expected) -> Picture:
    change = Change.model_validate_json(row["change"])
    names = ("visible_change", "contrast", "edit_strength", "background_psnr")
    return Picture(
        row["data"],
        row["believable"] == "1",
        row["reason"],
        float(row["strange"]),
        change.share,
        expected.fainter(change),
        expected.softer(change),
        {name: float(row[name]) for name in names},
    )


def rates(pictures: Sequence[Picture], accepts: Callable[[Picture], bool]) -> tuple[float, float]:
    """(precision, recall)."""
    accepted = [one for one in pictures if accepts(one)]
    right = sum(one.believable for one in accepted)
    return right / max(1, len(accepted)), right / max(1, sum(one.believable for one in pictures))


def chosen(pictures: Sequence[Picture]) -> Limits:
    """The limits with the highest mean F1 over the data sets; the first of equal ones."""
    names = sorted({one.data for one in pictures})
    groups = [[one for one in pictures if one.data == name] for name in names]

    def quality(limits: Limits) -> float:
        found = [rates(group, lambda one: one.accepted(limits)) for group in groups]
        return sum(2 * precision * recall / max(precision + recall, 1e-9) for precision, recall in found) / len(found)

    tried = [Limits(**dict(zip(GRID, values, strict=True))) for values in itertools.product(*GRID.values())]
    return max(tried, key=quality)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=Path, default=Path("experiments/2026-11-26-filter"))
    pictures = read(parser.parse_args().labels)
    verdicts: dict[str, dict[Picture, bool]] = {"before": {}, "held out": {}, "as it ships": {}}
    usual = Limits()
    print(f"{len(pictures)} pictures, {sum(one.believable for one in pictures)} believable")
    for name in sorted({one.data for one in pictures}):
        own = [one for one in pictures if one.data == name]
        limits = chosen([one for one in pictures if one.data != name])
        print(f"{name}: limits chosen on the others: " + ", ".join(f"{key} {getattr(limits, key)}" for key in GRID))
        verdicts["before"].update({one: one.accepted_by_scores(usual) for one in own})
        verdicts["held out"].update({one: one.accepted(limits) for one in own})
        verdicts["as it ships"].update({one: one.accepted(usual) for one in own})
    columns = "".join(f"{name:>22}" for name in verdicts)
    print(f"\n{'data set':16}{'pictures':>9}{'believable':>11}{columns}")
    for name in [*sorted({one.data for one in pictures}), "all"]:
        own = [one for one in pictures if name in (one.data, "all")]
        cells = [rates(own, known.__getitem__) for known in verdicts.values()]
        shown = "".join(f"{precision:>14.0%}{recall:>8.0%}" for precision, recall in cells)
        print(f"{name:16}{len(own):>9}{sum(one.believable for one in own):>11}{shown}")
    print("\nprecision and recall of the rules before, of limits chosen on the other sets, and of the default limits")
    left = Counter(one.reason for one, kept in verdicts["held out"].items() if kept and not one.believable)
    print("accepted though not believable: " + ", ".join(f"{count} {reason}" for reason, count in left.most_common()))


if __name__ == "__main__":
    main()
