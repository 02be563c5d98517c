"""Draw defects on given surfaces with the general base: the control branch sees the clean picture and the mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, Pixels
from adabldm.core.prompts import EMPTY
from adabldm.core.seeding import torch_generator
from adabldm.core.tensors import to_pixels, to_tensor
from adabldm.models.components import Components, decode_latents, encode_images
from adabldm.models.conditioning import TextConditioning, encode_prompts
from adabldm.models.denoiser import Denoiser
from adabldm.production.previews import in_evaluation_mode
from adabldm.rendering.render import Rendered, is_grey

STEPS = 14
GUIDANCE = 1.8
STRENGTH = 0.45
"""Share of the steps that is run from a rendered defect: its place and kind are kept, its look is drawn anew."""


@dataclass(frozen=True)
class Drawing:
    """One defect to draw.

    Attributes:
        clean: The surface, uint8 RxRx3 of the model's resolution.
        mask: bool RxR, where the defect lies.
        prompt: Text.
        begin: Picture to begin from, uint8 RxRx3, such as a rendered defect; None begins from noise.
    """

    clean: Pixels
    mask: Mask
    prompt: str
    begin: Pixels | None = None


def _stacked(components: Components, pictures: Sequence[Pixels]) -> Tensor:
    return encode_images(components.vae, torch.stack([to_tensor(pixels) for pixels in pictures]).to(components.device))


@torch.no_grad()
def draw_defects(
    components: Components,
    drawings: Sequence[Drawing],
    generators: Sequence[torch.Generator],
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    strength: float = STRENGTH,
) -> list[Pixels]:
    """Pictures with a defect in each mask by DDIM, from noise or from a noised picture (SDEdit, arXiv 2108.01073).

    Args:
        components: With a control branch.
        drawings: What is drawn.
        generators: One random generator a drawing.
        steps: DDIM steps from pure noise.
        guidance: w of classifier-free guidance against the empty prompt (arXiv 2207.12598).
        strength: Share of the steps that is run where drawings begin from pictures (all of them or none).

    Returns:
        uint8 RxRx3 each: the source outside a soft mask; grey if the source is grey.

    Raises:
        InputError: some of the drawings begin from pictures and some do not.
    """
    begins = [drawing.begin for drawing in drawings if drawing.begin is not None]
    if len(begins) not in {0, len(drawings)}:
        raise InputError(
            f"{len(begins)} of {len(drawings)} drawings begin from a picture; give all of them one or none."
        )
    device, count = components.device, len(drawings)
    surface = _stacked(components, [drawing.clean for drawing in drawings])
    masks = torch.from_numpy(np.stack([drawing.mask for drawing in drawings]))[:, None].float().to(device)
    trimaps = 0.5 + 0.5 * masks
    noise = torch.stack([torch.randn(surface.shape[1:], generator=generator) for generator in generators]).to(device)
    scheduler = type(components.scheduler).from_config(components.scheduler.config)
    scheduler.set_timesteps(steps)
    timesteps, latents = scheduler.timesteps, noise
    if begins:
        timesteps = timesteps[min(steps - 1, round((1 - strength) * steps)) :]
        latents = scheduler.add_noise(_stacked(components, begins), noise, timesteps[:1].expand(count))
    conditioning = encode_prompts(components, [EMPTY] * count + [drawing.prompt for drawing in drawings])
    for timestep in timesteps:
        velocity = _guided(components, latents, timestep, conditioning, (trimaps, surface), guidance)
        latents = scheduler.step(velocity, timestep, latents, eta=0.0).prev_sample
    # The change that the autoencoder itself makes to the surface is taken out again.
    decoded, repeated = decode_latents(components.vae, latents), decode_latents(components.vae, surface)
    return [
        put_back(drawing.clean, drawing.mask, to_pixels(result), to_pixels(own))
        for drawing, result, own in zip(drawings, decoded, repeated, strict=True)
    ]


def _guided(
    components: Components,
    latents: Tensor,
    timestep: Tensor,
    conditioning: TextConditioning,
    shown: tuple[Tensor, Tensor],
    guidance: float,
) -> Tensor:
    """The velocity with guidance; the control branch reads `shown` and the empty prompt, once for both halves."""
    denoiser = Denoiser(components)
    empty = TextConditioning(conditioning.embeddings[: len(latents)])
    features = denoiser.control(latents, timestep, empty, *shown)
    velocity = denoiser.predict(torch.cat([latents, latents]), timestep, conditioning, features.repeat(2))
    unguided, guided = velocity.chunk(2)
    return unguided + guidance * (guided - unguided)


def put_back(clean: Pixels, mask: Mask, drawn: Pixels, repeated: Pixels) -> Pixels:
    """The source outside the mask, the drawn picture inside, with an edge of two pixels between.

    Args:
        clean: uint8 HxWx3, the source.
        mask: bool HxW.
        drawn: uint8 HxWx3, the decoded result.
        repeated: uint8 HxWx3, the source through the autoencoder; where it equals `drawn`, the source is kept.
    """
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float32)
    soft = np.maximum(cv2.GaussianBlur(grown, (0, 0), 1.0) * grown, mask)[..., None]
    change = drawn.astype(np.float32) - repeated.astype(np.float32)
    if is_grey(clean):
        change = np.repeat(change.mean(-1, keepdims=True), 3, axis=-1)
    return np.asarray(np.clip(np.rint(clean + soft * change), 0, 255), dtype=np.uint8)


def comparison(components: Components, examples: Sequence[Rendered], *, guidance: float = GUIDANCE) -> Pixels:
    """Columns of source, mask, the model's drawing from noise, its drawing from the rendered defect, and that defect.

    Returns:
        uint8 (5·R)x(N·R)x3, always from the same noise.
    """
    columns = []
    with in_evaluation_mode(components):
        for index, example in enumerate(examples):
            rows = [example.clean, np.repeat(example.mask[..., None], 3, axis=-1).astype(np.uint8) * 255]
            for begin in (None, example.pixels):
                drawing = Drawing(example.clean, example.mask, example.caption, begin)
                generator = torch_generator("surface comparison", index)
                rows += draw_defects(components, [drawing], [generator], guidance=guidance)
            columns.append(np.vstack([*rows, example.pixels]))
    return np.hstack(columns)
