"""How long a fit takes: presets for time and hardware."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from adabldm.errors import InputError
from adabldm.training.examples import Mixture
from adabldm.training.loop import LoopSettings

DomainMode = Literal["auto", "full", "lora", "none"]


@dataclass(frozen=True)
class FitPreset:
    """The settings of a fit.

    Attributes:
        name: of the preset.
        domain: the domain stage: the UNet learns the object and its defects from captions.
        control: the control stage: the control branch learns the trimap, the UNet is frozen.
        examples: windows that are cut and encoded once.
        mixture: what they show.
        mask_weight: weight of the loss inside the defect in the control stage.
        domain_mode: "full" trains the whole UNet, "lora" low-rank updates of its attention (merged in the end),
            "none" leaves it as the base has it; "auto" is "full" for small UNets and "lora" for large ones.
        lora_rank: of the low-rank updates.
        resolution: side of the windows in px; 0 takes the base's own.
    """

    name: str
    domain: LoopSettings
    control: LoopSettings
    examples: int
    mixture: Mixture
    mask_weight: float = 1.0
    domain_mode: DomainMode = "auto"
    lora_rank: int = 16
    resolution: int = 0


FIT_PRESETS = {
    # Two CPU cores or a small GPU: below half an hour with the tiny base.
    "quick": FitPreset(
        "quick",
        domain=LoopSettings(400, 8, 3e-4, warmup=30, ema=0.99),
        control=LoopSettings(900, 8, 6e-4, warmup=50, ema=0.995, preview_every=300),
        examples=1500,
        mixture=Mixture(real=0.5, pasted=0.35),
        mask_weight=3.0,
    ),
    "standard": FitPreset(
        "standard",
        domain=LoopSettings(2000, 8, 2e-4, ema=0.998),
        control=LoopSettings(4000, 8, 6e-4, warmup=50, ema=0.998),
        examples=5000,
        mixture=Mixture(real=0.5, pasted=0.35),
        mask_weight=3.0,
    ),
    # The published training: control branch only, lr 1e-5, 20,000 hard-pasted composites, batch 4, 10 epochs, 256².
    "paper": FitPreset(
        "paper",
        domain=LoopSettings(0, 4, 1e-5, schedule="constant", ema=0.0),
        control=LoopSettings(50_000, 4, 1e-5, schedule="constant", ema=0.0, checkpoint_every=1000, preview_every=2500),
        examples=20_000,
        mixture=Mixture(real=0.0, pasted=1.0, soft=False, flips=False),
        domain_mode="none",
        resolution=256,
    ),
}


def get_fit_preset(
    name: str, *, domain_steps: int | None = None, control_steps: int | None = None, **changes: Any
) -> FitPreset:
    """A preset by name with some of its values changed; changes of `None` are left out.

    Raises:
        InputError: unknown preset, or a value out of range.
    """
    if name not in FIT_PRESETS:
        raise InputError(f"--preset {name}: unknown, expected one of {', '.join(FIT_PRESETS)}.")
    preset = FIT_PRESETS[name]
    for option, steps in (("--domain-steps", domain_steps), ("--control-steps", control_steps)):
        if steps is not None and steps < (0 if option == "--domain-steps" else 1):
            raise InputError(f"{option} {steps}: expected at least {0 if option == '--domain-steps' else 1}.")
    loop = {
        key: changes.pop(key) for key in ("batch_size", "seed", "checkpoint_every", "preview_every") if key in changes
    }
    loop = {key: value for key, value in loop.items() if value is not None}
    domain = replace(preset.domain, **loop, steps=preset.domain.steps if domain_steps is None else domain_steps)
    control = replace(preset.control, **loop, steps=preset.control.steps if control_steps is None else control_steps)
    given = {key: value for key, value in changes.items() if value is not None}
    for key in ("examples", "resolution"):
        if given.get(key, 64) < (1 if key == "examples" else 32):
            raise InputError(f"--{key} {given[key]}: too small; leave it out to take the preset's.")
    preset = replace(preset, domain=domain, control=control, **given)
    return replace(preset, domain_mode="none") if domain.steps == 0 else preset
