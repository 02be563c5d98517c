"""Whether a run is used on what it was fitted on: it draws what it knows, whatever it is given."""

from __future__ import annotations

from adabldm.core.appearance import COMPARED, MOST_DIFFERENCE, describe, difference, evenly
from adabldm.core.records import RunCard
from adabldm.core.samples import DataSet


def difference_of(card: RunCard, data_set: DataSet) -> float | None:
    """How much farther the defect-free images of a data set are from those of a fit than these from each other.

    Args:
        card: of the run.
        data_set: what the run is used on.

    Returns:
        See `adabldm.core.appearance.difference`; `None` too for cards that do not describe their images.
    """
    if card.appearance is None:
        return None
    given = [describe(sample.picture().pixels) for sample in evenly(data_set.good, COMPARED)]
    return difference(card.appearance, given)


def remark_on(found: float | None, card: RunCard, data_set: DataSet) -> tuple[str, ...]:
    """A remark if images show something else than those of the fit; none otherwise."""
    if found is None or found <= MOST_DIFFERENCE:
        return ()
    return (
        f"the defect-free images in {data_set.root} look unlike those that the run was fitted on ({card.object_name}): "
        f"they differ {found:.1f} times as much from these as these do from each other, up to {MOST_DIFFERENCE} is "
        "usual. The run draws defects as it knows them; fit a run to these images.",
    )
