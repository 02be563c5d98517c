"""The editor: pictures with target masks in, edited pictures with their scores out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from adabldm.core.changes import Interval
from adabldm.core.images import Mask, Pixels, resize_pixels
from adabldm.core.prompts import EMPTY
from adabldm.core.recent import Recent
from adabldm.core.records import Calibration
from adabldm.core.scores import Scores, defect_fidelity, score
from adabldm.core.settings.common import WindowMode
from adabldm.core.settings.edit import EditPreset, Look
from adabldm.core.stages import stage
from adabldm.core.tensors import to_device, to_pixels, to_tensor
from adabldm.core.windows import Window
from adabldm.editing.adaptation import Decoding, adapt, texture_ratio
from adabldm.editing.blending import latent_mask
from adabldm.editing.cut import Cut, ModelWindow, cut_window, for_model
from adabldm.editing.guidance import Conditions, guided_prediction
from adabldm.editing.look import AREA, breadth, compose, draw_look, settled
from adabldm.editing.loop import Codec, EditBatch, StepCallback, edit
from adabldm.editing.putback import as_grey, expose, feather, is_grey, put_back, unexpose, window_resolution
from adabldm.editing.samplers import make_schedule
from adabldm.editing.signals import Signals, WatchedDenoiser
from adabldm.editing.source import Source
from adabldm.editing.stage_plan import make_steps
from adabldm.masks.trimap import make_trimap
from adabldm.models.clean_latents import reads_latents
from adabldm.models.components import (
    Components,
    channels_last,
    decode_latents,
    encode_images,
    to_channels_last,
    vae_factor,
)
from adabldm.models.conditioning import TextConditioning, encode_prompts, join
from adabldm.models.quiet import quiet_libraries

MOST_PROMPTS = 256
"""Prompts that an editor remembers."""
MOST_SOURCES = 16
"""Windows that an editor remembers, as the autoencoder sees them."""


@dataclass(frozen=True)
class EditJob:
    """One picture to edit.

    Attributes:
        pixels: the source, uint8 RGB HxWx3.
        foreground: object pixels, bool HxW.
        mask: target mask, bool HxW, not empty.
        prompt: text such as "hazelnut, a hazelnut with a hole".
        generator: source of all random draws.
        exposure: brightness of the real defect's surroundings over that of the mask's surroundings; presets with
            `put_back.match_exposure` edit the window at the real defect's exposure.
        defect: defect type, read where defects are rendered; networks read the prompt alone.
        reference: the real defect whose mask is used, laid over the source so that it lies in `mask`, uint8 HxWx3;
            presets with a `look` begin from it and keep its fine detail. `None` without one.
        strengths: range of the factor of its contrast, instead of that of the preset's look.
        usual: ranges of the factors of its contrast and of its change of brightness that suit it, for presets whose
            look leaves them out; it stays as it is without them.
    """

    pixels: Pixels
    foreground: Mask
    mask: Mask
    prompt: str
    generator: torch.Generator
    exposure: float = 1.0
    reference: Pixels | None = None
    strengths: Interval | None = None
    defect: str = ""
    usual: tuple[Interval, Interval] | None = None


@dataclass(frozen=True)
class Edited:
    """One edited picture.

    Attributes:
        pixels: the result, uint8 RGB HxWx3; equal channels where the source's are equal.
        window: the square that was edited; everything outside is the source's, bit for bit.
        resolution: side of the window at the model, in px.
        scores: measures of the result.
        defect_fidelity: adapted against unadapted decoding inside the mask, in dB, at the model's resolution.
        strength: factor of the real defect's contrast (`Look.strengths`); 1 without one.
        tone: factor of its mean change of brightness (`Look.tones`); 1 without one.
    """

    pixels: Pixels
    window: Window
    resolution: int
    scores: Scores
    defect_fidelity: float
    strength: float = 1.0
    tone: float = 1.0

    def figures(self) -> dict[str, Any]:
        """Fields of an image's record that the edit decides."""
        return {
            **{key: round(float(value), 4) for key, value in vars(self.scores).items()},
            "defect_fidelity": round(self.defect_fidelity, 4),
            "strength": round(self.strength, 4),
            "tone": round(self.tone, 4),
            "resolution": self.resolution,
            "window": (self.window.top, self.window.left, self.window.side),
        }


@dataclass(frozen=True)
class Prepared:
    """A job whose window is ready for the model.

    Attributes:
        job: the picture.
        cut: its window.
        start: first denoising step; 0 begins from pure noise, later ones from the real defect.
        gain: exposure of the edit over the picture's.
        look: (strength, tone) of the real defect.
        begun: the window with the real defect laid in, SxSx3; the source's without one.
        seen: the same at the model's resolution.
        exposed: its pixels at the edit's exposure, RxRx3.
    """

    job: EditJob
    cut: Cut
    start: int
    gain: float
    look: tuple[float, float]
    begun: Pixels
    seen: ModelWindow
    exposed: Pixels

    @property
    def resolution(self) -> int:
        """Side of the window at the model, in px."""
        return len(self.seen.mask)

    def good(self) -> Pixels:
        """The source's pixels as `exposed` would be without the real defect, RxRx3."""
        size = (self.resolution, self.resolution)
        return expose(resize_pixels(self.cut.pixels, size), self.gain)


@dataclass(frozen=True)
class Guides:
    """What the networks read beside the latents, and what takes note of their values.

    Attributes:
        trimaps: B1HW.
        signals: of this batch alone, because several threads may edit.
        clean: scaled latents of the good pictures, BCHW; `None` where the control branch reads the trimap alone.
    """

    trimaps: Tensor
    signals: Signals
    clean: Tensor | None = None


class Editor:
    """Edits pictures with one set of networks; every prompt is encoded once.

    Networks that others use too are left as they were: an edit brings them to a faster memory format and back.

    Args:
        components: the networks, with a control branch; frozen, in evaluation mode.
        resolution: side of a window at the model, in px.
        calibration: how the networks draw the run's real defects (`RunCard.calibration`).
    """

    def __init__(self, components: Components, resolution: int, calibration: Calibration | None = None) -> None:
        self.components, self.resolution, self.calibration = components, resolution, calibration or Calibration()
        self._schedule = make_schedule(components.scheduler)
        self._prompts: Recent[tuple[str, torch.device, torch.dtype], TextConditioning] = Recent(MOST_PROMPTS)
        self._sources: Recent[tuple[bytes, int, torch.device, torch.dtype], Source] = Recent(MOST_SOURCES)
        self._settled = False

    def to(self, device: torch.device, dtype: torch.dtype) -> Editor:
        """Move networks that nobody else uses to where they stay, in the memory format of edits.

        Several threads may edit with it afterwards: an edit changes nothing in the networks.
        """
        with quiet_libraries():
            for module in self.components.modules().values():
                module.to(device, dtype)
        to_channels_last(self._convolutional)
        self._settled = True
        return self

    @property
    def _convolutional(self) -> list[nn.Module]:
        components = self.components
        assert components.controlnet is not None, "an edit needs a control branch"
        return [components.vae, components.unet, components.controlnet]

    @torch.no_grad()
    def edit(
        self,
        jobs: Sequence[EditJob],
        preset: EditPreset,
        *,
        window: WindowMode = "auto",
        on_step: StepCallback | None = None,
        fill: int = 1,
    ) -> list[Edited]:
        """Edit a batch at once; every job draws from its own generator.

        Args:
            jobs: pictures of any sizes.
            preset: how they are edited.
            window: "auto" edits a window around the defect, "full" the whole picture.
            on_step: called after every denoising step of windows that are edited together, which are those of one
                resolution and one first step; returns the latents to go on with.
            fill: fill what is edited together up to this number, so that the last bit of a convolution does not depend
                on how many other pictures there are.

        Raises:
            ModelError: the networks gave values that are not finite, or far too large.
        """
        preset = settled(preset, self.calibration)
        with nullcontext() if self._settled else channels_last(self._convolutional):
            with stage("prepare"):
                prepared = [prepare(job, preset, self.resolution, window) for job in jobs]
            groups: dict[tuple[int, int], list[int]] = {}
            for index, one in enumerate(prepared):
                groups.setdefault((one.resolution, one.start), []).append(index)
            edited: dict[int, Edited] = {}
            for _, picks in sorted(groups.items()):
                windows = filled([prepared[index] for index in picks], fill)
                results = self._edit_windows(windows, preset, on_step)
                edited.update(zip(picks, results[: len(picks)], strict=True))
        return [edited[index] for index in range(len(jobs))]

    def _edit_windows(
        self, windows: Sequence[Prepared], preset: EditPreset, on_step: StepCallback | None
    ) -> list[Edited]:
        """Edit windows of one resolution, all from the same first step."""
        with stage("prepare"):
            image = self._batch([to_tensor(one.exposed) for one in windows])
            mask = self._batch([torch.from_numpy(one.seen.mask)[None] for one in windows])
            shapes = [make_trimap(one.seen.foreground, one.seen.mask) for one in windows]
            trimaps = self._batch([torch.from_numpy(shape)[None] for shape in shapes])
        source = self._source(windows, image)
        batch = EditBatch(
            image,
            mask,
            source.latents,
            latent_mask(mask, vae_factor(self.components.vae), how=preset.plan.latent_mask, grow=preset.plan.grow),
            [one.job.generator for one in windows],
        )
        signals = Signals()
        guides = Guides(trimaps, signals, self._clean(windows, batch))
        latents = self._diffuse(windows, batch, guides, preset, on_step)
        signals.see("latents of the sources", batch.background)
        signals.see("latents of the edit", latents)
        signals.check()
        look = preset.look if windows[0].start else None
        with stage("adapt"):
            decoding = Decoding(
                self.components.vae,
                latents,
                image,
                mask,
                None if look is None else torch.full_like(mask[:, :, :1, :1], look.detail or 0.0),
                0.0 if look is None else look.fidelity,
                source,
            )
            adapted, unadapted = adapt(preset.adaptation, decoding)
        signals.see("decoded pixels", adapted, unadapted)
        signals.check()
        kept = [1.0] * len(windows)
        if look is None:
            kept = texture_ratio(adapted.float(), image, mask).flatten().tolist()
        with stage("put_back"):
            fetched = torch.stack([adapted, unadapted]).float().cpu()  # one copy from a GPU, not one for each picture
            decoded = [(to_pixels(own), to_pixels(plain)) for own, plain in zip(*fetched, strict=True)]
        return [finish(one, *both, share, preset) for one, both, share in zip(windows, decoded, kept, strict=True)]

    def _clean(self, windows: Sequence[Prepared], batch: EditBatch) -> Tensor | None:
        """Latents of the good pictures, if the control branch reads them: those of the edit, or of what it hides."""
        if not reads_latents(self.components):
            return None
        if all(one.begun is one.cut.pixels for one in windows):
            return batch.background
        good = self._batch([to_tensor(one.good()) for one in windows])
        return encode_images(self.components.vae, good)

    def _diffuse(
        self,
        windows: Sequence[Prepared],
        batch: EditBatch,
        guides: Guides,
        preset: EditPreset,
        on_step: StepCallback | None,
    ) -> Tensor:
        """z*, the latents of the edited windows."""
        vae, dtype = self.components.vae, batch.image.dtype
        prompts = join([self._prompt(one.job.prompt) for one in windows]).to(dtype)
        conditions = Conditions(prompts, self._prompt(EMPTY).to(dtype), guides.trimaps, guides.clean)
        steps = make_steps(preset.plan, preset.guidance, len(self._schedule.alphas_cumprod))
        denoiser = WatchedDenoiser(self.components, guides.signals, remember=self._settled)
        return edit(
            guided_prediction(denoiser, conditions, preset.guidance),
            Codec(lambda images: encode_images(vae, images), lambda latents: decode_latents(vae, latents)),
            batch,
            steps[windows[0].start :],
            self._schedule,
            preset.plan,
            on_step,
        )

    def _prompt(self, prompt: str) -> TextConditioning:
        """One prompt, encoded by itself, so that it is the same in every batch."""
        weights = next(self.components.text_encoder.parameters())
        key = (prompt, weights.device, weights.dtype)
        return self._prompts.get(key, lambda: encode_prompts(self.components, [prompt]))

    def _source(self, windows: Sequence[Prepared], image: Tensor) -> Source:
        """The windows' pictures in the autoencoder; that of a single one is kept for its next variants."""
        if not self._settled or len(windows) > 1:
            return Source(self.components.vae, image)
        pixels = windows[0].exposed
        key = (hashlib.sha256(pixels.tobytes()).digest(), len(pixels), image.device, image.dtype)
        return self._sources.get(key, lambda: Source(self.components.vae, image))

    def _batch(self, values: Sequence[Tensor]) -> Tensor:
        return to_device(torch.stack(list(values)), self.components.device, self.components.unet.dtype)


def filled(windows: Sequence[Prepared], count: int) -> list[Prepared]:
    """The windows, and copies of the first one up to `count`; a copy has the same random stream."""
    first, copies = windows[0], []
    for _ in range(count - len(windows)):
        generator = torch.Generator("cpu")
        generator.set_state(first.job.generator.get_state())
        copies.append(replace(first, job=replace(first.job, generator=generator)))
    return [*windows, *copies]


def prepare(job: EditJob, preset: EditPreset, resolution: int, window: WindowMode) -> Prepared:
    """Cut a job's window, lay the real defect into it and bring it to the model's resolution and exposure.

    Args:
        job: the picture.
        preset: how it is edited, `settled`.
        resolution: side of a window at the model, in px.
        window: see `Editor.edit`.
    """
    cut = cut_window(job.pixels, job.foreground, job.mask, job.reference, full=window == "full")
    gain = job.exposure if preset.put_back.match_exposure else 1.0
    start, look, begun = 0, (1.0, 1.0), cut.pixels
    finest = max(resolution, preset.put_back.finest)
    if preset.look is not None and cut.reference is not None:
        start = first_step(cut, preset.look)
        look = draw_look(preset.look, job.generator, job.strengths, job.usual)
        begun = cut.reflected(compose(cut.pixels, cut.reference, cut.mask, gain, *look, side=cut.side))
        finest = resolution  # the real defect brings its detail
    seen = for_model(begun, cut.foreground, cut.mask, window_resolution(cut.mask, resolution, finest))
    return Prepared(job, cut, start, gain, look, begun, seen, expose(seen.pixels, gain))


def first_step(cut: Cut, look: Look) -> int:
    """The denoising step at which the edit of a real defect begins, by a `settled` look."""
    assert look.start is not None
    assert look.area_start is not None
    is_area = breadth(cut.mask, cut.side) >= AREA
    return max(look.start, look.area_start) if is_area else look.start


def finish(one: Prepared, adapted: Pixels, unadapted: Pixels, kept: float, preset: EditPreset) -> Edited:
    """Put an edited window back into its picture and score it.

    Args:
        one: the window before the edit.
        adapted: the window after it, RxRx3.
        unadapted: the same, decoded without adaptation.
        kept: share of the source's fine detail that the defect keeps, in [0, 1].
        preset: how it was edited.
    """
    job, cut = one.job, one.cut
    inside = cut.window.slices(cut.size)[0]
    with stage("put_back"):
        edited = unexpose(adapted, one.exposed, one.seen.pixels, one.gain)
        part = cut.inside(put_back(one.begun, edited, cut.mask, texture=kept))
        scale = max(1.0, cut.window.side / one.resolution)
        part = feather(part, cut.inside(cut.pixels), cut.inside(cut.mask), scale, preset.put_back.feather)
        result = job.pixels.copy()
        result[inside] = as_grey(part) if is_grey(job.pixels) else part
    with stage("score"):
        fidelity = defect_fidelity(adapted, unadapted, one.seen.mask)
        scores = score(result, job.pixels, job.mask, inside)
    return Edited(result, cut.window, one.resolution, scores, fidelity, *one.look)
