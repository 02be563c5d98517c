"""Read generated and real defects and show them to a frozen network, so that they can be compared."""

from __future__ import annotations

from collections.abc import Sequence

from adabldm.core.events import Listener, Task, Workload
from adabldm.core.images import read_picture
from adabldm.core.records import ImageRecord, Reading
from adabldm.core.samples import Instance, picture_reader
from adabldm.core.settings import CurateSettings
from adabldm.data.formats import ReadOptions
from adabldm.data.generated import defects_of
from adabldm.data.inspection import open_data_set
from adabldm.models.backbone import load_backbone
from adabldm.selection.likeness import Look
from adabldm.selection.nearest import describe

TASK = "look"


def look_at(
    settings: CurateSettings, records: Sequence[ImageRecord], listen: Listener
) -> tuple[list[Look], list[Look]]:
    """Generated and real defects as a frozen network sees them; real ones of the data set, if one is given.

    Raises:
        InputError: the network's weights are not installed, the data set cannot be used, or a file cannot be read.
    """
    instances: list[tuple[str, Instance]] = []
    if settings.data is not None:
        data_set = open_data_set(
            settings.data,
            ReadOptions.of(Reading.of(settings), split="train", require_good=False, require_defects=True),
            listen,
        )
        instances = [(data_set.relative(one.sample), one) for many in data_set.instances.values() for one in many]
    backbone = load_backbone()
    work = Workload([Task(TASK, len(records) + len(instances), "img")], listen)
    work.begin(TASK)
    real, picture = [], picture_reader()
    for name, one in instances:
        features = describe(backbone, picture(one.sample).pixels, one.defect.mask.read())
        real.append(Look(name, one.defect.type, features))
        work.advance(TASK)
    made = []
    for record in records:
        pixels = read_picture(settings.folder / record.image, record.levels).pixels
        details = record.instances or (record,)
        for defect, detail in zip(defects_of(settings.folder, record), details, strict=True):
            features = describe(backbone, pixels, defect.mask.read())
            made.append(Look(record.index, defect.type, features, detail.reference))
        work.advance(TASK)
    return made, real
