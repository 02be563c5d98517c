"""The pictures that training shows every so often, from fixed seeds, so that they can be compared.

They leave the networks as they found them, so that a training does not depend on how often it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adabldm.core.appearance import evenly
from adabldm.core.images import Pixels, resize_pixels
from adabldm.core.lettering import PAPER, text_strip
from adabldm.core.prompts import EMPTY, defect_prompt
from adabldm.core.records import RunCard
from adabldm.core.seeding import torch_generator
from adabldm.core.settings.common import Limits
from adabldm.core.settings.presets import edit_preset
from adabldm.core.tensors import to_pixels
from adabldm.core.windows import crop, window_around
from adabldm.editing.cut import full_window
from adabldm.editing.editor import Edited, EditJob, Editor
from adabldm.masks.placement import PlacementError
from adabldm.models.components import Components, decode_latents, vae_factor
from adabldm.models.conditioning import encode_prompts
from adabldm.models.denoiser import Denoiser
from adabldm.production.learnt import RealChanges
from adabldm.production.scenes import SceneMaker
from adabldm.selection.rules import Candidate, first_rejection
from adabldm.training.examples import TrainingImages
from adabldm.training.loop import Preview

SHOWN = 8
"""Defects that a preview of the control stage draws."""
JUDGED = 16
"""Defects that it draws where their share that is believable can end the stage."""
SCALE = 1.5
"""Guidance scale of the previews: the smallest that a fit tries at its end. Higher ones exaggerate."""
REAL_SHOWN = 8
"""Real windows of a type that previews show in turn."""


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


@dataclass(frozen=True)
class RealWindows:
    """Windows of the training images, shown beside what is drawn.

    Attributes:
        good: of defect-free images, uint8 RxRx3.
        defects: of real defects, by type.
    """

    good: Sequence[Pixels]
    defects: Mapping[str, Sequence[Pixels]]

    @classmethod
    def of(cls, images: TrainingImages, resolution: int) -> RealWindows:
        """Some windows of each kind at the model's resolution."""
        size = (resolution, resolution)
        whole = [one.pixels for one in evenly(images.good, REAL_SHOWN)]
        good = [resize_pixels(crop(pixels, full_window(pixels.shape[:2])), size) for pixels in whole]
        defects = {
            name: [
                resize_pixels(crop(view.pixels, window_around(view.mask)), size)
                for view in evenly(views, REAL_SHOWN)
                if view.mask is not None
            ]
            for name, views in images.defects.items()
        }
        return cls(good, defects)

    def show(self, defect: str | None, number: int) -> Pixels | None:
        """The `number`-th window of a type, or of good images; from the first again behind the last."""
        found = self.good if defect is None else self.defects.get(defect, ())
        return found[number % len(found)] if found else None


def labelled(text: str, cells: Sequence[Pixels], real: Pixels) -> Pixels:
    """A column of cells below their caption, with the real window below them: all RxRx3."""
    return np.vstack([_strip(text, cells[0].shape[1]), *cells, real])


def _strip(text: str, side: int) -> Pixels:
    """A line of text of a column's width."""
    return text_strip(text, side, max(12, side // 8))


def base_preview(components: Components, prompts: Sequence[str], real: Sequence[Pixels | None] | None = None) -> Pixels:
    """One window for each of P prompts, drawn from pure noise, side by side.

    Args:
        components: the networks.
        prompts: P texts.
        real: a real window for each prompt, to be shown below, uint8 RxRx3.

    Returns:
        uint8 Rx(P·R)x3; with `real` higher by captions and real windows.
    """
    config: Any = components.unet.config
    side = config["sample_size"] * vae_factor(components.vae)
    generators = [torch_generator("preview", index) for index in range(len(prompts))]
    with in_evaluation_mode(components):
        images = draw_pictures(components, prompts, (side, side), generators, steps=12, guidance=2.0)
    if real is None:
        return np.hstack([to_pixels(image) for image in images])
    below = [_blank(side) if one is None else resize_pixels(one, (side, side)) for one in real]
    drawn = [[to_pixels(image)] for image in images]
    return np.hstack([labelled(*column) for column in zip(prompts, drawn, below, strict=True)])


def _blank(side: int) -> Pixels:
    return np.full((side, side, 3), PAPER, np.uint8)


def control_preview(
    components: Components,
    card: RunCard,
    maker: SceneMaker,
    count: int = SHOWN,
    real: RealWindows | None = None,
    changes: RealChanges | None = None,
) -> Preview:
    """Edited windows: sources above masks above results, types taking turns; always the same scenes and noise.

    Each column has its type above it, below its result what the filter says, and then a real defect of the type. The
    scenes are new ones: a mask of the bank at another place of a defect-free image.

    Defects are drawn from noise, so that the picture shows what the control branch has learnt and nothing else.

    A defect that fits on none of the sources is left out: a fit does not need the place, only `generate` does.

    Args:
        components: the networks.
        card: of the run.
        maker: draws the scenes.
        count: number of columns.
        real: real defects to be shown.
        changes: what the real defects change, with which the filter compares; it is not asked if left out.
    """
    jobs: list[tuple[str, int, EditJob]] = []
    for index in range(count):
        defect = card.defects[index % len(card.defects)]
        try:
            scene = maker.draw(defect, 0, index, 0)
        except PlacementError:
            continue
        prompt, number = defect_prompt(card.object_name, defect), index // len(card.defects)
        jobs.append((defect, number, scene.job(prompt, torch_generator("preview", index))))
    size = (card.resolution, card.resolution)
    columns: list[Pixels] = [] if jobs else [np.zeros((3 * size[0], size[1], 3), np.uint8)]
    verdicts: list[str | None] = []
    preset = edit_preset("fast", ["look=none"], guidance=SCALE)
    with in_evaluation_mode(components):
        editor = Editor(components, card.resolution)
        for defect, number, job in jobs:
            (edited,) = editor.edit([job], preset)  # one at a time: training has filled the memory
            mask = np.repeat(crop(job.mask, edited.window)[..., None], 3, axis=2).astype(np.uint8) * 255
            cells = [crop(job.pixels, edited.window), mask, crop(edited.pixels, edited.window)]
            shown = [resize_pixels(cell, size) for cell in cells]
            if changes is not None:
                verdicts.append(_rejection(job, edited, defect, changes))
                shown.append(_strip(verdicts[-1] or "accepted", card.resolution))
            if real is None:
                columns.append(np.vstack(shown))
            else:
                below = real.show(defect, number)
                columns.append(labelled(defect, shown, _blank(card.resolution) if below is None else below))
    return Preview(np.hstack(columns), verdicts.count(None) / len(verdicts) if verdicts else None)


def _rejection(job: EditJob, edited: Edited, defect: str, changes: RealChanges) -> str | None:
    """Why the filter rejects a drawn defect, without the numbers; `None` if it does not."""
    candidate = Candidate(edited.pixels, job.pixels, job.mask, edited.scores, defect, changes.of(defect))
    reason = first_rejection(candidate, Limits())
    return None if reason is None else reason.partition(":")[0]


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
