"""The pictures that training shows every so often: fixed seeds, so that progress shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adabldm.editing.presets import get_preset
from adabldm.images import Pixels, resize_pixels, to_pixels
from adabldm.models.components import Components, decode_latents, encode_prompts, vae_factor
from adabldm.models.store import RunCard
from adabldm.pipeline import AdaBLDMPipeline, EditJob
from adabldm.prompts import EMPTY, defect_prompt
from adabldm.seeding import torch_generator
from adabldm.trimap.placement import PlacementError
from adabldm.windows import crop
from adabldm.workflows.sources import SceneMaker


@torch.no_grad()
def draw_pictures(
    components: Components,
    prompts: Sequence[str],
    size: tuple[int, int],
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    guidance: float,
) -> Tensor:
    """One picture for each prompt from pure noise, by the base alone: B3HW, nominally in [-1, 1].

    Args:
        components: the networks; a control branch takes no part.
        prompts: B texts.
        size: (height, width) in pixels.
        generators: one a picture.
        steps: of DDIM.
        guidance: w, see `editing.guidance`.
    """
    config: Any = components.unet.config
    factor = vae_factor(components.vae)
    shape = (config["in_channels"], size[0] // factor, size[1] // factor)
    latents = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(components.device)
    scheduler = type(components.scheduler).from_config(components.scheduler.config)
    scheduler.set_timesteps(steps)
    embeddings = encode_prompts(components, [EMPTY] * len(prompts) + list(prompts))
    for timestep in scheduler.timesteps:
        both = components.unet(torch.cat([latents, latents]), timestep, encoder_hidden_states=embeddings).sample
        empty, full = both.chunk(2)
        latents = scheduler.step(empty + guidance * (full - empty), timestep, latents, eta=0.0).prev_sample
    return decode_latents(components.vae, latents)


def base_preview(components: Components, prompts: Sequence[str]) -> Pixels:
    """One window for each prompt, drawn from pure noise, side by side: uint8 Rx(B·R)x3."""
    config: Any = components.unet.config
    side = config["sample_size"] * vae_factor(components.vae)
    generators = [torch_generator("preview", index) for index in range(len(prompts))]
    images = draw_pictures(components, prompts, (side, side), generators, steps=12, guidance=2.0)
    return np.hstack([to_pixels(image) for image in images])


@torch.no_grad()
def control_preview(components: Components, card: RunCard, maker: SceneMaker, count: int = 8) -> Pixels:
    """Edited windows: sources above masks above results, types taking turns; always the same scenes and noise.

    Defects are drawn from noise, so that the picture shows what the control branch has learnt and nothing else.

    A defect that fits on none of the sources is left out: a fit does not need the place, only `generate` does.
    """
    assert components.controlnet is not None
    training = components.controlnet.training
    wanted = [parameter.requires_grad for parameter in components.controlnet.parameters()]
    pipeline = AdaBLDMPipeline.from_components(components, card)
    jobs: list[EditJob] = []
    for index in range(count):
        defect = card.defects[index % len(card.defects)]
        try:
            scene = maker.draw(defect, 0, index, 0)
        except PlacementError:
            continue
        jobs.append(scene.job(defect_prompt(card.object_name, defect), torch_generator("preview", index)))
    size = (card.resolution, card.resolution)
    columns: list[Pixels] = [] if jobs else [np.zeros((3 * size[0], size[1], 3), np.uint8)]
    preset = get_preset("fast", start=0)
    for job in jobs:
        (edited,) = pipeline.edit([job], preset)  # one at a time: training has filled the memory
        mask = np.repeat(crop(job.mask, edited.window)[..., None], 3, axis=2).astype(np.uint8) * 255
        cells = [crop(job.pixels, edited.window), mask, crop(edited.pixels, edited.window)]
        columns.append(np.vstack([resize_pixels(cell, size) for cell in cells]))
    for parameter, flag in zip(components.controlnet.parameters(), wanted, strict=True):
        parameter.requires_grad_(flag)
    components.controlnet.train(training)
    return np.hstack(columns)
