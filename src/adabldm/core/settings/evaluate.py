"""Settings of `evaluate`, `bench` and `inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from adabldm.core.settings.common import (
    DATA,
    DEFECTS,
    EDIT,
    MACHINE,
    MOST_IMAGES,
    TRAINING,
    DataSettings,
    Dtype,
    MachineSettings,
    RaySettings,
    RegionSettings,
    setting,
)  # fmt: skip
from adabldm.core.settings.fit import FitPreset
from adabldm.core.settings.problems import field_error
from adabldm.core.settings.variation import VariationSettings

Budget = Literal["images", "quick", "full"]
ALL_CONDITIONS = ("real", "copy-paste", "nsa", "perlin", "adabldm:fast", "adabldm:paper", "adabldm:released")
BUDGETS: Mapping[str, Mapping[str, Any]] = {
    "images": {
        "condition": ("copy-paste", "nsa", "perlin", "adabldm:fast"), "detector": (), "seeds": 1, "networks": 1,
        "count": 200,
    },
    "quick": {
        "condition": ("real", "copy-paste", "adabldm:fast"), "detector": ("unet",), "seeds": 1, "networks": 1,
        "count": 100,
    },
    "full": {
        "condition": ALL_CONDITIONS, "detector": ("unet", "destseg", "patchcore"), "seeds": 3, "networks": 1,
        "count": 200,
    },
}  # fmt: skip
"""Values that a budget gives to what is left out."""


class EvaluateSettings(DataSettings, RegionSettings, VariationSettings, RaySettings, MachineSettings):
    """What `evaluate` compares, and how; what is left out is the budget's."""

    data: Path = setting("Real images, training and test split.", DATA)
    out: Path = setting("Folder of the results.", DATA)
    run: str | None = setting("Folder of a fit, or a run that ships; for the conditions adabldm:PRESET.", DATA, None)
    shots: int | None = setting(
        "Largest number of real defect images of a type that are used, as in the fit.", DATA, None, ge=1
    )
    folds: int | None = setting(
        "Cross-validation instead of a test: each of so many shares of the training images is held out in turn, a run "
        "is fitted to the rest, and the real test images are not opened.",
        DATA,
        None,
        ge=2,
        le=100,
    )
    foreground: Literal["auto", "grabcut", "texture"] = setting("How the object is found.", DATA, "auto")
    condition: tuple[str, ...] = setting(
        "Condition to compare: real, copy-paste, nsa, perlin, rendered, adabldm:PRESET or folder:PATH (repeatable).",
        DEFECTS,
        (),
    )
    count: int = setting("Synthetic images of each condition.", DEFECTS, 200, ge=1, le=MOST_IMAGES)
    seed: int = setting("Seed of the synthetic images.", DEFECTS, 0)
    placement: Literal["anywhere", "like-real", "inside", "overlap", "real"] = setting(
        "Where defects are placed in all conditions, as of generate.", DEFECTS, "anywhere"
    )
    budget: Budget = setting(
        "Values of what is left out: images trains no detector and measures the images alone, quick has 3 conditions, "
        "the U-Net and 1 seed, full has everything.",
        TRAINING,
        "full",
    )
    detector: tuple[str, ...] = setting("Detector to train: unet, destseg or patchcore (repeatable).", TRAINING, ())
    detector_steps: int | None = setting("Optimiser steps of the trained detectors.", TRAINING, None, ge=1)
    seeds: int = setting("Trainings of each detector.", TRAINING, 3, ge=1)
    fit: str | FitPreset = setting(
        "Preset of the fits of a cross-validation: quick, standard, published, or a file that holds one.",
        TRAINING,
        "quick",
    )
    base: str | None = setting("Base of these fits, as of fit.", TRAINING, None)
    networks: int = setting("Networks of each training, whose maps are averaged.", TRAINING, 1, ge=1)
    dtype: Dtype = setting("Precision of the edits.", MACHINE, "auto")
    workers: int = setting(
        "Detectors trained at once; without a GPU, as many as there are cores are fastest.", MACHINE, 1, ge=1
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_the_budget(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = {key: value for key, value in values.items() if value is not None and value not in ((), [])}
        return {**BUDGETS.get(str(given.get("budget", "full")), {}), **given}

    @model_validator(mode="after")
    def _folds_have_their_own_runs(self) -> Self:
        if self.folds is None:
            for name in ("fit", "base"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise field_error(name, "given without --folds, whose fits it is for; add that or leave this out")
        elif self.run is not None:
            message = "given beside --folds, but it may have seen what they hold out, so that each has a fit of its own"
            raise field_error("run", f"{message}; leave it out")
        elif self.fold is not None:
            raise field_error("fold", "given beside --folds, which takes one after the other; leave one of them out")
        return self

    @model_validator(mode="after")
    def _detectors_differ(self) -> Self:
        if len(set(self.detector)) != len(self.detector):
            raise field_error(
                "detector", f"{', '.join(self.detector)} was given, expected each one once; leave one out"
            )
        return self


class BenchSettings(MachineSettings):
    """What `bench` measures."""

    run: str = setting("Folder of a fit, or a run that ships.", DATA, "magnetic-tile", positional=True)
    data: Path | None = setting("Sources and real masks; the demo's own pictures if left out.", DATA, None)
    preset: tuple[str, ...] = setting(
        "Preset to measure, as of generate (repeatable).", EDIT, ("fast", "paper", "released")
    )
    set: tuple[str, ...] = setting("Change of every preset, as of generate (repeatable).", EDIT, ())
    adapt: str | None = setting("Decoder adaptation of all presets.", EDIT, None)
    count: int = setting("Images of each preset.", DEFECTS, 8, ge=1, le=MOST_IMAGES)
    seed: int = setting("Seed of all random draws.", DEFECTS, 0)
    kid: bool = setting("Compare with real defects; needs adabldm[evaluate].", EDIT, False)
    sheet: Path | None = setting("PNG file for the results side by side.", DATA, None)
    profile: Path | None = setting("File for a Chrome trace of the first preset's batch.", MACHINE, None)
    dtype: Literal["float32", "bfloat16", "float16"] = setting("Precision of the networks.", MACHINE, "float32")


class InspectSettings(DataSettings, RegionSettings):
    """What `inspect` looks at."""

    data: Path = setting("Folder of the data set.", DATA, positional=True)
    object: str | None = setting("What the images show; the folder's name if left out.", DATA, None)
    shots: int | None = setting("Largest number of defect images of a type that are used.", DATA, None, ge=1)
    show: Path | None = setting("PNG file for a sheet with every mask drawn on its picture.", DATA, None)
