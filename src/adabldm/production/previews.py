"""The pictures that training shows every so often, from fixed seeds, so that they can be compared.

They leave the networks as they found them, so that a training does not depend on how often it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adabldm.core.images import Pixels, resize_pixels
from adabldm.core.prompts import EMPTY, defect_prompt
from adabldm.core.records import RunCard
from adabldm.core.seeding import torch_generator
from adabldm.core.settings.presets import edit_preset
from adabldm.core.tensors import to_pixels
from adabldm.core.windows import crop
from adabldm.editing.editor import EditJob, Editor
from adabldm.masks.placement import PlacementError
from adabldm.models.components import Components, decode_latents, vae_factor
from adabldm.models.conditioning import encode_prompts
from adabldm.models.denoiser import Denoiser
from adabldm.production.scenes import SceneMaker


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
        generators: one for each picture.
        steps: number of DDIM steps.
        guidance: guidance scale w.
    """
    config: Any = components.unet.config
    factor = vae_factor(components.vae)
    shape = (config["in_channels"], size[0] // factor, size[1] // factor)
    latents = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(components.device)
    scheduler = type(components.scheduler).from_config(components.scheduler.config)
    scheduler.set_timesteps(steps)
    conditioning = encode_prompts(components, [EMPTY] * len(prompts) + list(prompts))
    denoiser = Denoiser(components)
    for timestep in scheduler.timesteps:
        both = denoiser.predict(torch.cat([latents, latents]), timestep, conditioning)
        empty, full = both.chunk(2)
        latents = scheduler.step(empty + guidance * (full - empty), timestep, latents, eta=0.0).prev_sample
    return decode_latents(components.vae, latents)


def base_preview(components: Components, prompts: Sequence[str]) -> Pixels:
    """One window for each of P prompts, drawn from pure noise, side by side: uint8 Rx(P·R)x3."""
    config: Any = components.unet.config
    side = config["sample_size"] * vae_factor(components.vae)
    generators = [torch_generator("preview", index) for index in range(len(prompts))]
    with in_evaluation_mode(components):
        images = draw_pictures(components, prompts, (side, side), generators, steps=12, guidance=2.0)
    return np.hstack([to_pixels(image) for image in images])


def control_preview(components: Components, card: RunCard, maker: SceneMaker, count: int = 8) -> Pixels:
    """Edited windows: sources above masks above results, types taking turns; always the same scenes and noise.

    Defects are drawn from noise, so that the picture shows what the control branch has learnt and nothing else.

    A defect that fits on none of the sources is left out: a fit does not need the place, only `generate` does.
    """
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
    preset = edit_preset("fast", ["look=none"])
    with in_evaluation_mode(components):
        editor = Editor(components, card.resolution)
        for job in jobs:
            (edited,) = editor.edit([job], preset)  # one at a time: training has filled the memory
            mask = np.repeat(crop(job.mask, edited.window)[..., None], 3, axis=2).astype(np.uint8) * 255
            cells = [crop(job.pixels, edited.window), mask, crop(edited.pixels, edited.window)]
            columns.append(np.vstack([resize_pixels(cell, size) for cell in cells]))
    return np.hstack(columns)


@contextmanager
def in_evaluation_mode(components: Components) -> Iterator[None]:
    """All networks in evaluation mode; afterwards each of their modules is in the mode that it was in."""
    networks = components.modules().values()
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
