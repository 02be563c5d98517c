"""Draw defects on given surfaces with the general base: the control branch sees the clean picture and the mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from adabldm.images import Mask, Pixels, to_pixels, to_tensor, write_png
from adabldm.models.components import Components, decode_latents, encode_images, encode_prompts
from adabldm.models.conditioning import condition
from adabldm.models.store import load_general
from adabldm.prompts import EMPTY
from adabldm.seeding import torch_generator
from adabldm.training.rendering.render import DEFECTS, Rendered, is_grey
from adabldm.training.surface_windows import read_pool, unseen_defect
from adabldm.workflows.devices import pick_device

STEPS = 14
GUIDANCE = 1.8


@torch.no_grad()
def draw_defects(
    components: Components,
    clean: Sequence[Pixels],
    masks: Sequence[Mask],
    prompts: Sequence[str],
    generators: Sequence[torch.Generator],
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> list[Pixels]:
    """Pictures with a defect of each prompt in each mask, drawn from noise by DDIM.

    Args:
        components: With a control branch.
        clean: B pictures of the surface, uint8 RxRx3 of the model's resolution.
        masks: bool RxR, where the defect lies.
        prompts: B texts.
        generators: One random generator a picture.
        steps: DDIM steps.
        guidance: w of classifier-free guidance against the empty prompt (arXiv 2207.12598).

    Returns:
        uint8 RxRx3 each: the source outside a soft mask; grey if the source is grey.
    """
    device, count = components.device, len(prompts)
    images = torch.stack([to_tensor(pixels) for pixels in clean]).to(device)
    surface = encode_images(components.vae, images)
    trimaps = torch.from_numpy(np.stack(masks))[:, None].float().to(device) * 0.5 + 0.5
    shown = condition(components, trimaps, surface)
    drawn = [torch.randn(surface.shape[1:], generator=generator) for generator in generators]
    latents = torch.stack(drawn).to(device)
    scheduler = type(components.scheduler).from_config(components.scheduler.config)
    scheduler.set_timesteps(steps)
    embeddings = encode_prompts(components, [EMPTY] * count + list(prompts))
    unet: Any = components.unet
    branch: Any = components.controlnet
    for timestep in scheduler.timesteps:
        empty = embeddings[:count]
        down, mid = branch(latents, timestep, encoder_hidden_states=empty, controlnet_cond=shown, return_dict=False)
        velocity: Tensor = unet(
            torch.cat([latents, latents]),
            timestep,
            encoder_hidden_states=embeddings,
            down_block_additional_residuals=[torch.cat([part, part]) for part in down],
            mid_block_additional_residual=torch.cat([mid, mid]),
        ).sample
        unguided, guided = velocity.chunk(2)
        latents = scheduler.step(unguided + guidance * (guided - unguided), timestep, latents, eta=0.0).prev_sample
    # The change that the autoencoder itself makes to the surface is taken out again.
    decoded, repeated = decode_latents(components.vae, latents), decode_latents(components.vae, surface)
    return [
        put_back(pixels, mask, to_pixels(result), to_pixels(own))
        for pixels, mask, result, own in zip(clean, masks, decoded, repeated, strict=True)
    ]


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
    """Columns of source, mask, the model's drawing and the renderer's: uint8 (4·R)x(N·R)x3, always the same noise."""
    training = {name: module.training for name, module in components.modules().items()}
    for module in components.modules().values():
        module.eval()
    columns = []
    for index, example in enumerate(examples):
        generators = [torch_generator("surface comparison", index)]
        (drawn,) = draw_defects(
            components, [example.clean], [example.mask], [example.caption], generators, guidance=guidance
        )
        mask = np.repeat(example.mask[..., None], 3, axis=-1).astype(np.uint8) * 255
        columns.append(np.vstack([example.clean, mask, drawn, example.pixels]))
    for name, module in components.modules().items():
        module.train(training[name])
    return np.hstack(columns)


def surface_sheet(
    materials: Path,
    folders: Sequence[Path],
    out: Path,
    *,
    model: str | None = None,
    count: int = 6,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Write a contact sheet of `count` pictures of each of the ten types.

    Without a model: a row a type, with surface, result and mask of each rendered example of the training surfaces.
    With one: four rows for each `count`, with source, mask, the model's drawing and the renderer's on unseen surfaces.

    Raises:
        InputError: a folder is missing, or the model cannot be loaded.
    """
    pool = read_pool(materials, folders)
    if model is not None:
        components = load_general(model)
        for module in components.modules().values():
            module.to(pick_device(device))
        kinds = len(DEFECTS)
        examples = [unseen_defect(pool, index, 128) for index in range(count * kinds)]
        write_png(out, np.vstack([comparison(components, examples[row * kinds :][:kinds]) for row in range(count)]))
        return
    rows = []
    for row, defect in enumerate(DEFECTS):
        cells: list[Pixels] = []
        for index in range(count):
            example = pool.training.example(seed, row + len(DEFECTS) * index, 128)
            assert example.defect == defect
            mask = np.repeat(example.mask[..., None], 3, axis=-1).astype(np.uint8) * 255
            cells += [example.clean, example.pixels, mask]
        rows.append(np.hstack([np.pad(cell, ((1, 1), (1, 1), (0, 0)), constant_values=255) for cell in cells]))
    write_png(out, np.vstack(rows))
