"""Typed, versioned records of everything that is written: images, settings, runs and evaluations."""

from adabldm.core.records.bench import BenchReport, BenchRow
from adabldm.core.records.decision import Decision
from adabldm.core.records.evaluation import CellRecord, EvaluationReport, ImagesRecord
from adabldm.core.records.files import SCHEMA, VersionedRecord, read_record, write_record
from adabldm.core.records.image import ImageRecord, InstanceRecord, Making, Rejection
from adabldm.core.records.run import Calibration, FromNoise, Reading, Redrawn, RunCard

__all__ = [
    "SCHEMA", "BenchReport", "BenchRow", "Calibration", "CellRecord", "Decision", "EvaluationReport", "FromNoise",
    "ImageRecord", "ImagesRecord", "InstanceRecord", "Making", "Reading", "Redrawn", "Rejection", "RunCard",
    "VersionedRecord", "read_record", "write_record",
]  # fmt: skip
