"""Typed, validated settings of every command; they need no PyTorch."""

from adabldm.core.settings.base import Settings
from adabldm.core.settings.curate import CurateSettings
from adabldm.core.settings.edit import PRESETS, EditPreset
from adabldm.core.settings.evaluate import BenchSettings, EvaluateSettings, InspectSettings
from adabldm.core.settings.export import ExportSettings
from adabldm.core.settings.fit import FIT_PRESETS, FitPreset, FitSettings, TrainBaseSettings
from adabldm.core.settings.generate import DemoSettings, GenerateSettings, ReproduceSettings
from adabldm.core.settings.merge import MergeSettings
from adabldm.core.settings.problems import FieldProblem, SettingsError
from adabldm.core.settings.serve import EditSettings, ServeSettings
from adabldm.core.settings.studio import StudioSettings
from adabldm.core.settings.surface import SurfaceFiguresSettings, SurfaceSheetSettings, TrainSurfaceSettings

__all__ = [
    "FIT_PRESETS", "PRESETS", "BenchSettings", "CurateSettings", "DemoSettings", "EditPreset", "EditSettings",
    "EvaluateSettings", "ExportSettings", "FieldProblem", "FitPreset", "FitSettings", "GenerateSettings",
    "InspectSettings", "MergeSettings", "ReproduceSettings", "ServeSettings", "Settings", "SettingsError",
    "StudioSettings", "SurfaceFiguresSettings", "SurfaceSheetSettings", "TrainBaseSettings", "TrainSurfaceSettings",
]  # fmt: skip
