"""How one picture is edited: stage plan, guidance, look, put-back and adaptation; and the presets that combine them.

`paper` follows the text of AdaBLDM (Li et al., arXiv 2402.19330), `released` what its published code is known to do,
and `fast` is this project's own and the default.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from adabldm.core.settings.base import Pair, PresetName, Range, Settings, Steps
from adabldm.core.settings.problems import field_error


class StagePlan(Settings):
    """Denoising steps and the stage that each belongs to; step ranges are 0-based and half-open."""

    steps: int = Field(ge=1, le=1000, description="Denoising steps from pure noise to the result.")
    latent_stage: Steps = Field(description="Steps before which the latents are blended with the background's.")
    image_stage: Steps = Field(
        description="Steps after which the decoded picture is pasted onto the source and encoded again."
    )
    spacing: Literal["trailing", "leading"] = Field(
        "trailing",
        description='Spacing of the timesteps: "trailing" begins at pure noise (arXiv 2305.08891), "leading" is that '
        "of Stable Diffusion's samplers.",
    )
    renoise: Literal["next", "same"] = Field(
        "next", description="Noise level after pasting: that of the next timestep, or of the same one again."
    )
    latent_mask: Literal["pooled", "nearest"] = Field(
        "pooled",
        description='Mask at latent size: "pooled" is dilated, then max-pooled; "nearest" is sampled, then dilated by '
        "5x5.",
    )
    grow: int = Field(1, ge=0, le=64, description="Latent pixels by which a pooled mask is dilated.")
    blend_background: Literal["noised", "clean"] = Field(
        "noised", description="Background of the latent stage: noised to the timestep, or clean latents."
    )
    paste_source: Literal["predicted", "noisy"] = Field(
        "predicted", description="Latents that the image stage decodes: the predicted clean ones, or the noisy ones."
    )
    final_blend: bool = Field(False, description="Blend once more with the clean background after the last step.")

    @model_validator(mode="after")
    def _stages_within_steps(self) -> StagePlan:
        for name in ("latent_stage", "image_stage"):
            first, end = getattr(self, name)
            if first < 0 or end > self.steps:
                raise field_error(name, f"{first},{end} was given, expected steps within 0 to {self.steps}")
        return self


class Guidance(Settings):
    """Classifier-free guidance (arXiv 2207.12598)."""

    scale: float | None = Field(
        9.0, ge=1, le=50, description='Guidance scale w; 1 means none. From the run if it is "none", as in `fast`.'
    )
    steps: Steps | None = Field(
        None, description="Steps with guidance (arXiv 2404.07724); all steps of the plan if left out."
    )
    control_once: bool = Field(False, description="Run the control branch once for both halves, which read the same.")
    trimap: bool = Field(
        False,
        description="Let the unguided half read the trimap without its defect, so that the defect itself is guided.",
    )


class Look(Settings):
    """The real defect that an edit begins from (SDEdit, arXiv 2108.01073), and how it is varied.

    What is left out follows from the real defects: ranges from what they change in their pictures, first steps and
    detail from how like them the run draws them again (docs/method.md, section 4).
    """

    start: int | None = Field(
        None, ge=1, description="First denoising step of the edit of a spot or line; from the run if left out."
    )
    area_start: int | None = Field(
        None, ge=0, description="The same of an area, if it is later than `start`; from the run if left out."
    )
    strengths: Range | None = Field(
        None,
        description="Range of the factor of a defect's contrast, drawn evenly by its logarithm, within 0.01 to 100. "
        "From the real defects if left out.",
    )
    tones: Range | None = Field(
        None,
        description="Range of the factor of an area's mean change of brightness, within -2 to 2; from the real defects "
        "if left out.",
    )
    detail: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of the fine detail, lost by the autoencoder, that the defect is given back; from the run if "
        "left out.",
    )
    fidelity: float = Field(
        0.0, ge=0, description="Least defect fidelity in dB; less detail is given back below it. 0 means no limit."
    )

    @model_validator(mode="after")
    def _ranges(self) -> Look:
        if self.strengths is not None and (self.strengths[0] < 0.01 or self.strengths[1] > 100):
            low, high = self.strengths
            raise field_error("strengths", f"{low},{high} was given, expected factors from 0.01 to 100")
        if self.tones is not None and (self.tones[0] < -2 or self.tones[1] > 2):
            low, high = self.tones
            raise field_error("tones", f"{low},{high} was given, expected factors from -2 to 2")
        return self


class PutBack(Settings):
    """How a window is brought to the model's resolution and exposure, and put back into its picture."""

    match_exposure: bool = Field(
        False, description="Edit the window at the exposure of the real defect whose mask is used."
    )
    feather: Pair = Field(
        (0.0, 0.0),
        description="Widths in px of the model's resolution over which the change fades out: into the mask, out of it.",
    )
    finest: int = Field(
        0,
        ge=0,
        le=8192,
        description="Highest resolution in px at which a thin defect in a large window is drawn from noise; 0 keeps "
        "the model's.",
    )

    @model_validator(mode="after")
    def _widths(self) -> PutBack:
        if min(self.feather) < 0 or max(self.feather) > 1000:
            inwards, outwards = self.feather
            raise field_error("feather", f"{inwards},{outwards} was given, expected two widths from 0 to 1000 px")
        return self


class Residual(Settings):
    """Add back what the autoencoder loses of the source outside the mask."""

    method: Literal["residual"] = "residual"


class Texture(Settings):
    """`residual`, and inside the mask a share of the lost fine texture."""

    method: Literal["texture"] = "texture"


class Poisson(Settings):
    """`texture` inside the dilated mask, the source outside, joined in the gradient domain (Bhat et al., ECCV 2008)."""

    method: Literal["poisson"] = "poisson"
    grow: int = Field(2, ge=0, le=64, description="Pixels around the mask that may change.")
    reach: float = Field(
        1.5, ge=0.1, le=256, description="Pixels over which the correction falls to 1/e inside the mask."
    )


class Finetune(Settings):
    """Fine-tune a copy of the decoder on the picture: `outside` * L_i + `inside` * L_d (AdaBLDM)."""

    method: Literal["finetune"] = "finetune"
    steps: int = Field(200, ge=1, le=1_000_000, description="Optimiser steps.")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="Learning rate of AdamW.")
    outside: float = Field(
        1.0, ge=0, le=1e6, description="Weight of the squared error against the source outside the mask."
    )
    inside: float = Field(
        100.0, ge=0, le=1e6, description="Weight of the squared error against the first decoding inside."
    )
    reduction: Literal["sum", "mean"] = Field("sum", description="Reduction of the squared errors.")


class Ridge(Settings):
    """Solve the decoder's last convolution in closed form by ridge regression."""

    method: Literal["ridge"] = "ridge"
    inside: float = Field(1.0, ge=0, le=1e6, description="Weight of the pixels inside the mask.")
    damping: float = Field(
        1e-3, ge=1e-9, le=1e6, description="Damping relative to the mean of the normal matrix's diagonal."
    )


class NoAdaptation(Settings):
    """Decode with the shared decoder as it is."""

    method: Literal["none"] = "none"


Adaptation = Annotated[Residual | Texture | Poisson | Finetune | Ridge | NoAdaptation, Field(discriminator="method")]
ADAPTATIONS: dict[str, type[Settings]] = {
    "residual": Residual,
    "texture": Texture,
    "poisson": Poisson,
    "finetune": Finetune,
    "ridge": Ridge,
    "none": NoAdaptation,
}
"""Settings of the ways of online decoder adaptation by method."""


class EditPreset(Settings):
    """How one picture is edited."""

    name: PresetName = Field(description="Name of the preset in records.")
    plan: StagePlan
    guidance: Guidance = Guidance()
    look: Look | None = Field(None, description="Begin from the real defect at hand; from pure noise if left out.")
    put_back: PutBack = PutBack()
    adaptation: Adaptation = Finetune()

    @model_validator(mode="after")
    def _steps_of_the_plan(self) -> EditPreset:
        steps, guided = self.plan.steps, self.guidance.steps
        if guided is not None and (guided[0] < 0 or guided[1] > steps):
            raise field_error(
                "guidance.steps", f"{guided[0]},{guided[1]} was given, expected steps within 0 to {steps}"
            )
        if self.look is not None and steps < 2:
            raise field_error(
                "plan.steps", f"{steps} was given, expected at least 2 with a look, which leaves steps out"
            )
        for name in ("start", "area_start") if self.look is not None else ():
            given = getattr(self.look, name)
            if given is not None and given >= steps:
                raise field_error(f"look.{name}", f"{given} was given, expected a step below the plan's {steps}")
        return self


PRESETS: dict[str, EditPreset] = {
    "fast": EditPreset(
        name="fast",
        plan=StagePlan(steps=6, latent_stage=(1, 6), image_stage=(4, 5), final_blend=True),
        guidance=Guidance(scale=None, steps=(1, 3), trimap=True),
        look=Look(fidelity=26.0),
        put_back=PutBack(match_exposure=True, feather=(4.0, 3.0), finest=256),
        adaptation=Poisson(),
    ),
    "paper": EditPreset(name="paper", plan=StagePlan(steps=85, latent_stage=(50, 80), image_stage=(80, 85))),
    "released": EditPreset(
        name="released",
        plan=StagePlan(
            steps=50,
            latent_stage=(26, 46),
            image_stage=(45, 50),
            renoise="same",
            spacing="leading",
            latent_mask="nearest",
        ),
        adaptation=Finetune(outside=100.0, inside=1.0, reduction="mean"),
    ),
}
