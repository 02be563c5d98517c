"""Settings of `fit` and `train-base`, and the presets of a fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from adabldm.core.settings.base import PresetName, Settings
from adabldm.core.settings.common import (
    DATA,
    DEFECTS,
    MACHINE,
    TRAINING,
    DataSettings,
    ForegroundSettings,
    MachineSettings,
    Masks,
    Recipe,
    RegionSettings,
    setting,
)
from adabldm.core.settings.presets import change_preset, find_preset
from adabldm.core.settings.problems import FieldProblem, SettingsError, field_error
from adabldm.core.settings.variation import Rules, VariationSettings

DomainMode = Literal["auto", "full", "lora", "none"]


class LoopSettings(Settings):
    """How long and how fast a stage trains."""

    steps: int = Field(ge=0, description="Optimiser steps in all.")
    batch_size: int = Field(ge=1, le=65_536, description="Examples of a step.")
    learning_rate: float = Field(gt=0, le=1, description="Peak learning rate of AdamW.")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="Schedule of the learning rate: linear warm-up, then a cosine down to 2 %; or constant."
    )
    warmup: int = Field(100, ge=0, description="Steps of warm-up of the cosine schedule.")
    ema: float = Field(
        0.999, ge=0, lt=1, description="Decay of the moving average of the weights; 0 keeps the last ones."
    )
    weight_decay: float = Field(0.01, ge=0, le=1e3, description="Weight decay of AdamW.")
    checkpoint_every: int = Field(200, ge=1, description="Steps between checkpoints.")
    preview_every: int = Field(500, ge=1, description="Steps between preview pictures.")
    patience: int | None = Field(
        None,
        ge=1,
        description="The stage ends early after so many previews without a larger share of believable defects; never "
        "if left out.",
    )
    seed: int = Field(0, description="Seed of all random draws.")

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """`patience` only where there is one, so that fits of earlier versions can be resumed."""
        values: dict[str, Any] = handler(self)
        return values if self.patience is not None else {k: v for k, v in values.items() if k != "patience"}


class Mixture(Settings):
    """What training windows show."""

    real: float = Field(0.45, ge=0, le=1, description="Share of windows with a real defect.")
    pasted: float = Field(0.3, ge=0, le=1, description="Share with a pasted defect; the rest is defect-free.")
    soft: bool = Field(True, description="Pasted defects take over the brightness of the place; else pasted hard.")
    flips: bool = Field(True, description="Mirror windows at random.")


class OwnBranch(Settings):
    """How a fit goes on from the control branch that its base brings."""

    unet: bool = Field(True, description="The UNet learns together with the control branch.")
    crops: float = Field(
        0.5, ge=0, le=1, description="Share of steps on crops of half the side around defects, four times as many."
    )


class FitPreset(Settings):
    """How a run is fitted."""

    name: PresetName = Field(description="Name of the preset in the run's card.")
    domain: LoopSettings = Field(description="Domain stage: the UNet learns the object and its defects from captions.")
    control: LoopSettings = Field(
        description="Control stage: the control branch learns the trimap, the UNet is frozen."
    )
    examples: int = Field(ge=1, le=10_000_000, description="Windows that are cut and encoded once.")
    mixture: Mixture = Mixture()
    mask_weight: float = Field(
        1.0, gt=0, le=1e6, description="Weight of the loss inside the defect in the control stage."
    )
    domain_mode: DomainMode = Field(
        "auto",
        description="What the domain stage trains: the whole UNet, low-rank updates of its attention, or nothing; "
        '"auto" is "full" for small UNets and "lora" for large ones.',
    )
    lora_rank: int = Field(16, ge=1, le=1024, description="Rank of the low-rank updates.")
    resolution: int = Field(0, ge=0, le=8192, description="Side of the windows in px; 0 takes the base's own.")
    own_branch: OwnBranch | None = Field(
        None,
        description="How the control stage goes on from the base's own control branch; left out for bases without one.",
    )

    @model_validator(mode="after")
    def _control_is_trained(self) -> Self:
        if self.control.steps < 1:
            raise field_error("control.steps", "0 was given, expected at least 1")
        if 0 < self.resolution < 32:
            raise field_error("resolution", f"{self.resolution} was given, expected 0 or at least 32 px")
        return self

    def plain(self) -> dict[str, Any]:
        """JSON values; `own_branch` only where there is one, so that those of other fits are as they were."""
        values = super().plain()
        return values if self.own_branch is not None else {k: v for k, v in values.items() if k != "own_branch"}


FIT_PRESETS: dict[str, FitPreset] = {
    # Two CPU cores or a small GPU: below half an hour with the tiny base.
    "quick": FitPreset(
        name="quick",
        domain=LoopSettings(steps=400, batch_size=8, learning_rate=3e-4, warmup=30, ema=0.99),
        control=LoopSettings(steps=900, batch_size=8, learning_rate=6e-4, warmup=50, ema=0.995, preview_every=300),
        examples=1500,
        mixture=Mixture(real=0.5, pasted=0.35),
        mask_weight=3.0,
    ),
    "standard": FitPreset(
        name="standard",
        domain=LoopSettings(steps=2000, batch_size=8, learning_rate=2e-4, ema=0.998),
        control=LoopSettings(steps=4000, batch_size=8, learning_rate=6e-4, warmup=50, ema=0.998),
        examples=5000,
        mixture=Mixture(real=0.5, pasted=0.35),
        mask_weight=3.0,
    ),
    # The published training: control branch only, lr 1e-5, 20,000 hard-pasted composites, batch 4, 10 epochs, 256².
    "published": FitPreset(
        name="published",
        domain=LoopSettings(steps=0, batch_size=4, learning_rate=1e-5, schedule="constant", ema=0.0),
        control=LoopSettings(
            steps=50_000, batch_size=4, learning_rate=1e-5, schedule="constant", ema=0.0,
            checkpoint_every=1000, preview_every=2500,
        ),
        examples=20_000,
        mixture=Mixture(real=0.0, pasted=1.0, soft=False, flips=False),
        domain_mode="none",
        resolution=256,
    ),
}  # fmt: skip

OWN_BRANCH_PRESETS: dict[str, FitPreset] = {
    "quick": FIT_PRESETS["quick"].changed(
        domain=FIT_PRESETS["quick"].domain.changed(steps=0),
        control=LoopSettings(steps=240, batch_size=8, learning_rate=2e-4, warmup=30, ema=0.99, preview_every=60),
        examples=400,
        own_branch=OwnBranch(),
    ),
    "standard": FIT_PRESETS["standard"].changed(
        domain=FIT_PRESETS["standard"].domain.changed(steps=0),
        control=LoopSettings(steps=3000, batch_size=8, learning_rate=2e-4, ema=0.998, preview_every=250, patience=3),
        examples=3000,
        own_branch=OwnBranch(),
    ),
    "published": FIT_PRESETS["published"].changed(own_branch=OwnBranch(unet=False, crops=0.0)),
}
"""The presets as bases with a control branch of their own are fitted: the branch and the UNet learn together."""

RENAMED = {
    "paper": "is an edit preset; the fit that follows the paper is now called published; write that instead",
}
"""What to say of names that presets of a fit had in earlier versions."""


class FitSettings(DataSettings, RegionSettings, ForegroundSettings, MachineSettings):
    """What `fit` trains, and how."""

    data: Path = setting("Folder of the data set; its training split is used.", DATA, positional=True)
    out: Path = setting("Folder of the run.", DATA)
    object: str | None = setting("What the images show; the folder's name if left out.", DATA, None)
    shots: int | None = setting("Largest number of defect images of a type that are used.", DATA, None, ge=1)
    base: str | None = setting(
        "Base to fit: general (any surface), tiny, a diffusers folder, a .safetensors file of Stable Diffusion 1.x or "
        "2.x, or a hub id (owner/name, hf://owner/name@REVISION). If left out: general; with --preset published, tiny.",
        TRAINING,
        None,
    )
    lora: tuple[str, ...] = setting(
        "LoRA file that is merged into the base: FILE, or FILE=WEIGHT (repeatable).", TRAINING, ()
    )
    prediction: Literal["epsilon", "v_prediction"] | None = setting(
        "What a single file of Stable Diffusion 2.x predicts: epsilon (for 512 px) or v_prediction (for 768 px).",
        TRAINING,
        None,
    )
    preset: str | FitPreset = setting(
        "Preset of the fit: quick, standard, published, or a file that holds one.", TRAINING, "quick"
    )
    set: tuple[str, ...] = setting(
        "Change of the preset, such as control.learning_rate=1e-4 (repeatable).", TRAINING, ()
    )
    defect: tuple[str, ...] = setting(
        "Defect type beside those of the data set, to be drawn if masks is procedural (repeatable).", DEFECTS, ()
    )
    masks: Masks = setting(
        "Masks of the training windows: bank has the real ones only; with procedural, types without any example are "
        "drawn by a procedure too.",
        DEFECTS,
        "bank",
    )
    recipes: dict[str, tuple[Recipe, ...]] = setting(
        'Shapes of types without any example, such as {"crack": [{"kind": "scratch"}]}.', DEFECTS, {}
    )
    size: Rules = setting(
        "Longest extent of drawn defects, such as 20-60px, or 5-20% of the object's shorter side; that of the recipe "
        "if left out. By type: crack=20-60px (repeatable).",
        DEFECTS,
        (),
    )
    resume: bool = setting(
        "Go on with an earlier fit of the same settings; its stages may have more steps or patience than before.",
        TRAINING,
        False,
    )
    finish: bool = setting(
        "Write the run of an interrupted fit with what its checkpoints have, without more training.", TRAINING, False
    )
    domain: DomainMode | None = setting("What the domain stage trains, instead of the preset's.", TRAINING, None)
    domain_steps: int | None = setting("Steps of the domain stage.", TRAINING, None, ge=0)
    control_steps: int | None = setting("Steps of the control stage.", TRAINING, None, ge=1)
    patience: int | None = setting(
        "Previews of the control stage without a larger share of believable defects after which it ends early.",
        TRAINING,
        None,
        ge=1,
    )
    examples: int | None = setting("Training windows.", TRAINING, None, ge=1)
    resolution: int | None = setting("Side of the windows in px.", TRAINING, None, ge=32)
    batch_size: int | None = setting("Windows of a step.", TRAINING, None, ge=1)
    checkpoint_every: int | None = setting("Steps between checkpoints.", TRAINING, None, ge=1)
    preview_every: int | None = setting("Steps between preview pictures.", TRAINING, None, ge=1)
    seed: int | None = setting("Seed of all random draws.", TRAINING, None)
    gpus: int = setting(
        "GPUs of this machine that train together (with --device cpu, processes); accelerate launch starts them on "
        "several machines.",
        MACHINE,
        1,
        ge=1,
        le=256,
    )
    micro_batch: int | None = setting(
        "Windows that go through the networks at a time: fewer need less memory.", MACHINE, None, ge=1
    )

    @model_validator(mode="after")
    def _drawn_types_make_sense(self) -> Self:
        self.variation().check_types(self.defect)
        unknown = [name for name in self.recipes if name not in self.defect]
        if unknown:
            raise field_error("recipes", f"{unknown[0]} is no type that is named by --defect; name it, or leave it out")
        return self

    def variation(self) -> VariationSettings:
        """How drawn defects vary."""
        return VariationSettings.create({"size": self.size})

    def base_name(self) -> str:
        """The base: the published control branch reads the trimap alone, which that of `general` does not."""
        return self.base or ("tiny" if self.preset == "published" else "general")

    def fit_preset(self, *, own_branch: bool = False) -> FitPreset:
        """The preset with its changes; a domain stage without steps trains nothing.

        Args:
            own_branch: whether the base brings a control branch of its own.

        Raises:
            SettingsError: unknown preset or value.
        """
        named, known = self.preset, OWN_BRANCH_PRESETS if own_branch else FIT_PRESETS
        found = named if isinstance(named, FitPreset) else find_preset(FitPreset, known, named, RENAMED)
        if own_branch and found.own_branch is None:
            found = found.changed(own_branch=OwnBranch())
        chosen = change_preset(found, self.set)
        loop = {key: getattr(self, key) for key in ("batch_size", "seed", "checkpoint_every", "preview_every")}
        chosen = chosen.changed_where_given(
            domain=chosen.domain.changed_where_given(**loop, steps=self.domain_steps),
            control=chosen.control.changed_where_given(**loop, steps=self.control_steps, patience=self.patience),
            examples=self.examples,
            resolution=self.resolution,
            domain_mode=self.domain,
        )
        if chosen.domain.steps > 0:
            return chosen
        if self.domain in {"full", "lora"}:
            problem = (
                f"{self.domain} was given, but the preset has no steps for it; give --domain-steps, or leave it out"
            )
            raise SettingsError([FieldProblem("domain", problem)])
        return chosen.changed(domain_mode="none")


class TrainBaseSettings(MachineSettings):
    """What `train-base` trains, and how."""

    data: tuple[Path, ...] = setting(
        "Folders of data sets; their training splits are used.", DATA, positional=True, min_length=1
    )
    out: Path = setting("Folder of the base.", DATA)
    object: tuple[str, ...] = setting("What each folder shows; the folders' names if left out (repeatable).", DATA, ())
    autoencoder_steps: int | None = setting("Steps of the autoencoder.", TRAINING, None, ge=1)
    diffusion_steps: int | None = setting("Steps of text encoder and UNet.", TRAINING, None, ge=1)
    examples: int | None = setting("Windows for the diffusion.", TRAINING, None, ge=1)
    seed: int = setting("Seed of all random draws.", TRAINING, 0)
