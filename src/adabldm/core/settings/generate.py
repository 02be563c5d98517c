"""Settings of `generate` and `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import model_validator

from adabldm.core.settings.base import Settings
from adabldm.core.settings.common import (
    DATA,
    DEFECTS,
    EDIT,
    MACHINE,
    MOST_IMAGES,
    DataSettings,
    Dtype,
    ExportFormat,
    ExportOptions,
    ForegroundSettings,
    Good,
    Limits,
    MachineSettings,
    Masks,
    Placement,
    RaySettings,
    Recipe,
    RegionSettings,
    Split,
    WindowMode,
    setting,
)  # fmt: skip
from adabldm.core.settings.edit import EditPreset
from adabldm.core.settings.presets import edit_preset
from adabldm.core.settings.problems import field_error
from adabldm.core.settings.variation import VariationSettings

MOST_SHARDS = 100_000
"""Largest number of parts that a production is divided into."""


def parse_shard(text: str) -> tuple[int, int]:
    """(number from 1, number of parts) of a shard such as "3/8".

    Raises:
        ValueError: it is not of that form, as a problem of the field `shard`.
    """
    first, slash, second = text.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second) <= MOST_SHARDS):
        expected = f"expected the form 3/8, with a number from 1 to the number of parts (at most {MOST_SHARDS})"
        raise field_error("shard", f"{text!r} was given, {expected}; correct it")
    return int(first), int(second)


class GenerateSettings(
    DataSettings, RegionSettings, ForegroundSettings, VariationSettings, ExportOptions, RaySettings, MachineSettings
):
    """What `generate` makes, and how."""

    fitted_elsewhere: ClassVar[bool] = True
    run: str = setting("Folder of a fit, or a run that ships: surface, magnetic-tile, hazelnut.", DATA, positional=True)
    data: Path = setting("Defect-free images to edit, and the real masks.", DATA)
    shots: int | None = setting(
        "Largest number of defect images of a type that are used, as in the fit.", DATA, None, ge=1
    )
    onto: Path | None = setting(
        "Pictures with defects that are edited instead of defect-free ones, and keep theirs: a folder of generated "
        "images, or a data set.",
        DATA,
        None,
    )
    out: Path = setting("Folder of the new data set.", DATA)
    split: Split | None = setting(
        "Where the defect images stand: train/<defect>, or test/<defect> as anomalib's MVTecAD module reads them; "
        "train in a new folder if left out.",
        DATA,
        None,
    )
    good: Good = setting(
        "Defect-free images in train/good: hard links to the sources (copies on another disk), copies, or none.",
        DATA,
        "link",
    )
    export: ExportFormat | None = setting(
        "Format in which the finished images are exported too, as `adabldm export --to` does.", DATA, None
    )
    export_out: Path | None = setting("Folder of the exported data set.", DATA, None)
    count: int = setting("Images in all; those that are there already count.", DEFECTS, ge=1, le=MOST_IMAGES)
    defect: tuple[str, ...] = setting(
        "Defect type to make; all types of the run, taking turns, if left out (repeatable).", DEFECTS, ()
    )
    replace_rejected: bool = setting(
        "Make a new image, of the same defect type, for each one that was rejected by `curate` or deleted.",
        DEFECTS,
        False,
    )
    restore_deleted: bool = setting("Make images again whose files were deleted.", DEFECTS, False)
    prompt: str | None = setting("Prompt instead of '{object}, a {object} with a {defect}'.", DEFECTS, None)
    masks: Masks = setting("Target masks: the real ones, varied, or drawn by a procedure.", DEFECTS, "bank")
    recipes: dict[str, tuple[Recipe, ...]] = setting(
        'Shapes of procedural masks by defect type, such as {"crack": [{"kind": "scratch"}]}.', DEFECTS, {}
    )
    placement: Placement = setting(
        "Where a defect is placed on the object: like-real, where it looks as around the real one, or anywhere; auto "
        "decides by the data, for the presets paper and released for anywhere.",
        DEFECTS,
        "auto",
    )
    seed: int = setting("Seed of all random draws.", DEFECTS, 0)
    preset: str | EditPreset = setting(
        "Preset of the edits: fast, paper, released, or a file that holds one.", EDIT, "fast"
    )
    set: tuple[str, ...] = setting(
        "Change of the preset, such as look.strengths=0.8,1.2 or look=none (repeatable).", EDIT, ()
    )
    adapt: str | None = setting(
        "Decoder adaptation instead of the preset's: residual, texture, poisson, finetune, ridge or none.", EDIT, None
    )
    guidance: float | None = setting("Guidance scale instead of the preset's.", EDIT, None)
    window: WindowMode = setting("Edit a window around the defect, or the whole image.", EDIT, "auto")
    best_of: int = setting(
        "Candidates that are made at each place; the one nearest to the real defects of its type is kept.",
        EDIT,
        1,
        ge=1,
    )
    shrink_mask: bool = setting("Refine the saved masks to the pixels that really changed.", EDIT, False)
    limits: Limits = setting("Limits below which a result is rejected and tried again.", EDIT, Limits())
    batch_size: int | None = setting(
        "Images edited at once; the preset's usual number if left out.", MACHINE, None, ge=1
    )
    dtype: Dtype = setting(
        "Precision of the networks; auto is bfloat16 on GPUs and on processors that compute in it.", MACHINE, "auto"
    )
    workers: int = setting(
        "Processes that edit, each with the model in memory; they change no byte.", MACHINE, 1, ge=1, le=256
    )
    threads: int | None = setting(
        "Threads that read, find places for the defects and write; as many as the processor has cores, from two to "
        "eight, if left out.",
        MACHINE,
        None,
        ge=1,
        le=256,
    )
    shard: str | None = setting(
        "Part of the images to make, such as 3/8 for the third of eight; `adabldm merge` joins the parts.",
        MACHINE,
        None,
    )
    remarks: tuple[str, ...] = setting("Sentence for the head of the page (repeatable).", DATA, (), exclude=True)

    @model_validator(mode="after")
    def _export_has_a_folder(self) -> Self:
        if self.export is not None and self.export_out is None:
            raise field_error("export_out", "missing, expected the folder of the exported data set; give it")
        if self.export is None and self.export_out is not None:
            raise field_error(
                "export", f"missing, expected a format for {str(self.export_out)!r} such as coco; give it"
            )
        return self

    @model_validator(mode="after")
    def _export_options_belong_to_an_export(self) -> Self:
        for name, info in ExportOptions.model_fields.items():
            if self.export is None and getattr(self, name) != info.default:
                message = "given, but nothing is exported; give --export and --export-out, or leave it out"
                raise field_error(info.alias or name, message)
        return self

    @model_validator(mode="after")
    def _shard_is_a_part(self) -> Self:
        if self.shard is not None:
            parse_shard(self.shard)
            if self.replace_rejected:
                message = "a part does not know what was rejected in others; merge the parts, then give it alone"
                raise field_error("replace_rejected", message)
        return self

    def edit_preset(self) -> EditPreset:
        """The preset with its changes.

        Raises:
            SettingsError: unknown preset or value.
        """
        return edit_preset(self.preset, self.set, adapt=self.adapt, guidance=self.guidance)


class ReproduceSettings(MachineSettings):
    """Which image `reproduce` makes again, and where everything is now; what is left out is where it was."""

    folder: Path = setting("Folder of generated images.", DATA, positional=True)
    index: int = setting("Number of the image.", DATA, positional=True, ge=0)
    run: str | None = setting("Folder of the run, if it was moved.", DATA, None)
    data: Path | None = setting("Data set, if it was moved.", DATA, None)
    onto: Path | None = setting("Pictures with defects that were edited, if they were moved.", DATA, None)
    foreground_folder: Path | None = setting("Ready object masks, if they were moved.", DATA, None)
    roi: tuple[str, ...] = setting("Regions, all of them, if one was moved, as of generate (repeatable).", DATA, ())
    out: Path | None = setting(
        "Folder for the image, its mask and its record; if left out, they are compared and not written.", DATA, None
    )


class DemoSettings(Settings):
    """What `demo` makes."""

    out: Path = setting("Folder of the sources and of the results.", DATA, Path("adabldm-demo"))
    count: int = setting("Images in all.", DEFECTS, 20, ge=1, le=MOST_IMAGES)
    seed: int = setting("Seed of all random draws.", DEFECTS, 0)
