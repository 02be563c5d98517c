"""LoRA files are merged into a base when it is loaded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from torch import nn

from adabldm.core.errors import InputError
from adabldm.models.components import Components
from adabldm.models.quiet import quiet_libraries

FIRST_FACTOR = re.compile(r"(lora_down|lora_A|lora_linear_layer\.down|lora\.down)\.weight$")
"""End of the names of the first factors of updates."""
OF_TEXT = ("lora_te", "text_encoder")
"""Beginnings of the names of updates of the text encoder."""


def parse_lora(text: str) -> tuple[Path, float]:
    """Path and weight of a LoRA given as FILE or FILE=WEIGHT.

    Raises:
        InputError: it is no file, or the weight no number.
    """
    name, _, number = text.rpartition("=") if "=" in text and not Path(text).exists() else (text, "", "1")
    try:
        weight = float(number)
    except ValueError as error:
        raise InputError(f"--lora {text}: expected FILE or FILE=WEIGHT, such as style.safetensors=0.8.") from error
    path = Path(name).expanduser()
    if path.suffix != ".safetensors" or not path.is_file():
        raise InputError(f"--lora {text}: {path} is no .safetensors file; check the path.")
    return path, weight


def lora_digest(text: str) -> str:
    """What decides the result of merging a LoRA: its content and its weight."""
    path, weight = parse_lora(text)
    with path.open("rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}={weight:g}"


def merge_loras(components: Components, loras: Sequence[str]) -> None:
    """Add the low-rank updates of files to the weights of UNet and text encoder.

    Args:
        components: of a base; changed in place.
        loras: FILE or FILE=WEIGHT, in the forms that diffusers reads.

    Raises:
        InputError: a file that is no LoRA, or one for another base.
    """
    if not loras:
        return
    from diffusers import StableDiffusionPipeline  # brings much that is not needed elsewhere

    for text in loras:
        path, weight = parse_lora(text)
        try:
            with quiet_libraries():
                pipeline = StableDiffusionPipeline(
                    vae=components.vae,
                    text_encoder=components.text_encoder,
                    tokenizer=components.tokenizer,
                    unet=components.unet,
                    scheduler=components.scheduler,
                    safety_checker=None,
                    feature_extractor=None,
                    requires_safety_checker=False,
                )
                pipeline.load_lora_weights(str(path.parent), weight_name=path.name, local_files_only=True)
                if not pipeline.get_active_adapters():
                    raise ValueError("it holds no low-rank updates")
                _check_all_used(path, components.unet)
                pipeline.fuse_lora(lora_scale=weight, safe_fusing=True)
                pipeline.unload_lora_weights()
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(
                f"--lora {path}: no LoRA for this base ({reason}); use one that was made for it."
            ) from error


def _check_all_used(path: Path, unet: nn.Module) -> None:
    """Every update of the UNet has found its layer: diffusers leaves the others out without a word.

    Raises:
        ValueError: the base lacks layers.
    """
    with safe_open(path, "pt") as file:
        names = [key for key in file.keys() if FIRST_FACTOR.search(key)]  # noqa: SIM118
    held = sum(not name.startswith(OF_TEXT) for name in names)
    used = sum(bool(getattr(module, "lora_A", ())) for module in unet.modules())
    if used < held:
        raise ValueError(f"{held - used} of its {held} updates of the UNet belong to no layer of it")
