"""The pictures that training shows every so often: fixed seeds, so that progress shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from adabldm.images import Pixels, to_pixels
from adabldm.models.components import Components, decode_latents, encode_prompts
from adabldm.seeding import torch_generator


@torch.no_grad()
def base_preview(components: Components, prompts: Sequence[str], steps: int = 12, guidance: float = 2.0) -> Pixels:
    """One window for each prompt, drawn from pure noise: Bx3RxR side by side."""
    config: Any = components.unet.config
    side = config["sample_size"]
    shape = (config["in_channels"], side, side)
    generators = [torch_generator("preview", index) for index in range(len(prompts))]
    latents = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(components.device)
    scheduler = type(components.scheduler).from_config(components.scheduler.config)
    scheduler.set_timesteps(steps)
    embeddings = torch.cat([encode_prompts(components, [""] * len(prompts)), encode_prompts(components, prompts)])
    for timestep in scheduler.timesteps:
        both = components.unet(torch.cat([latents, latents]), timestep, encoder_hidden_states=embeddings).sample
        empty, full = both.chunk(2)
        latents = scheduler.step(empty + guidance * (full - empty), timestep, latents, eta=0.0).prev_sample
    images = decode_latents(components.vae, latents)
    return np.hstack([to_pixels(image) for image in images])
