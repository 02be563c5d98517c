"""Formats in which data sets are exported: one writer each.

A new format is one file with a `Writer`, one line in `WRITERS`, and its name in `ExportFormat` of the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from adabldm.core.settings.export import ExportFormat
from adabldm.data.exports.coco import CocoWriter
from adabldm.data.exports.huggingface import HuggingFaceWriter
from adabldm.data.exports.items import ExportPlan, Writer
from adabldm.data.exports.labelme import LabelMeWriter
from adabldm.data.exports.mvtec import AnomalibWriter, MvtecWriter
from adabldm.data.exports.voc import VocWriter
from adabldm.data.exports.yolo import YoloWriter

WRITERS: Mapping[ExportFormat, Callable[[ExportPlan], Writer]] = {
    "coco": CocoWriter,
    "yolo-seg": YoloWriter,
    "labelme": LabelMeWriter,
    "voc": VocWriter,
    "mvtec": MvtecWriter,
    "anomalib": AnomalibWriter,
    "huggingface": HuggingFaceWriter,
}

__all__ = ["WRITERS", "ExportPlan", "Writer"]
