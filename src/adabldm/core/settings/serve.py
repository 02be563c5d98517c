"""Settings of `serve`, and of one edit that is asked of a service."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import model_validator

from adabldm.core.settings.base import Settings
from adabldm.core.settings.common import DATA, DEFECTS, EDIT, MACHINE, Dtype, MachineSettings, WindowMode, setting
from adabldm.core.settings.edit import PRESETS, EditPreset
from adabldm.core.settings.presets import edit_preset
from adabldm.core.settings.problems import field_error, shown


class ServeSettings(MachineSettings):
    """Where `serve` listens, what it may touch, and how much it takes at once."""

    host: str = setting(
        "Address to listen on; any other than this machine's own demands a token.", MACHINE, "127.0.0.1"
    )
    port: int = setting("Port to listen on; 0 takes a free one.", MACHINE, 7860, ge=0, le=65535)
    token: str | None = setting(
        "Word that clients must send; made and printed if left out on an address that others reach.",
        MACHINE,
        None,
    )
    allow_host: tuple[str, ...] = setting(
        "Name under which clients reach this machine, beside its own (repeatable).", MACHINE, ()
    )
    root: tuple[Path, ...] = setting(
        "Folder that may be read and written; the working folder if left out (repeatable).", DATA, ()
    )
    run: tuple[str, ...] = setting(
        "Run that is offered beside those that ship and those in the folders (repeatable).", DATA, ()
    )
    jobs: Path | None = setting("SQLite file of the jobs; in the first folder if left out.", DATA, None)
    workers: int | None = setting(
        "Edits that are computed side by side; if left out, one for each core with small models, else one.",
        MACHINE,
        None,
        ge=1,
        le=256,
    )
    batch_size: int = setting(
        "Edits that go through the networks at once; with more than 1, the last bits of a picture change.",
        MACHINE,
        1,
        ge=1,
        le=64,
    )
    dtype: Dtype = setting(
        "Precision of the networks; auto is bfloat16 where the machine is quicker in it. The last digits of a picture "
        "are others than in float32.",
        MACHINE,
        "auto",
    )
    queue: int = setting("Edits that may wait; more are turned away for the moment.", MACHINE, 64, ge=1)
    max_upload: float = setting("Largest upload in megabytes.", DATA, 64.0, ge=1)
    max_megapixels: float = setting("Largest uploaded picture in millions of pixels.", DATA, 100.0, ge=1)


class EditSettings(Settings):
    """One edit of one picture."""

    run: str = setting("Run that edits; `GET /v1/runs` lists them.", DATA, min_length=1)
    defect: str | None = setting("Defect type of the run.", DEFECTS, None, min_length=1, max_length=200)
    prompt: str | None = setting("Prompt instead of that of the defect type.", DEFECTS, None, min_length=1)
    seed: int = setting("Seed of all random draws.", DEFECTS, 0)
    example: bool = setting(
        "Begin from a real defect of that type, drawn from the data set that the run was fitted to.", DEFECTS, False
    )
    preset: str | EditPreset = setting("Preset of the edit, or a whole one.", EDIT, "fast")
    set: tuple[str, ...] = setting("Change of the preset, such as look.strengths=0.8,1.2 (repeatable).", EDIT, ())
    adapt: str | None = setting("Decoder adaptation instead of the preset's.", EDIT, None)
    guidance: float | None = setting("Guidance scale instead of the preset's.", EDIT, None)
    window: WindowMode = setting("Edit a window around the defect, or the whole picture.", EDIT, "auto")

    @model_validator(mode="after")
    def _says_what(self) -> Self:
        if self.defect is None and self.prompt is None:
            raise field_error("defect", "missing, expected a defect type of the run, or a prompt; give one of them")
        if self.example and self.defect is None:
            raise field_error("example", "true was given, but no defect type; give the type whose example is wanted")
        if isinstance(self.preset, str) and self.preset not in PRESETS:  # the path of a file would be read here
            known = ", ".join(PRESETS)
            raise field_error("preset", f"{shown(self.preset)} was given, expected one of {known}, or a whole preset")
        return self

    def edit_preset(self) -> EditPreset:
        """The preset with its changes.

        Raises:
            SettingsError: unknown preset or value.
        """
        return edit_preset(self.preset, self.set, adapt=self.adapt, guidance=self.guidance)
