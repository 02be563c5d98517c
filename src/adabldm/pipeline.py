"""`AdaBLDMPipeline`: what a library user calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from adabldm.editing.adaptation import adapt as adapt_decoder
from adabldm.editing.adaptation import texture_ratio
from adabldm.editing.blending import latent_mask
from adabldm.editing.guidance import guided_prediction, make_schedule
from adabldm.editing.loop import Scene, edit
from adabldm.editing.plan import make_plan
from adabldm.editing.presets import Preset, get_preset
from adabldm.editing.putback import expose, feather, put_back, unexpose, window_inputs, window_resolution
from adabldm.editing.reference import AREA, breadth, compose
from adabldm.errors import InputError
from adabldm.images import Mask, Pixels, eight_bit, to_pixels, to_tensor
from adabldm.models.components import (
    Components,
    decode_latents,
    encode_images,
    encode_prompts,
    vae_factor,
)
from adabldm.models.store import RunCard, load_run, write_card
from adabldm.prompts import EMPTY, defect_prompt
from adabldm.seeding import torch_generator
from adabldm.selection.scores import Scores, defect_fidelity, score
from adabldm.stages import stage
from adabldm.trimap.trimap import check_defect_inside, check_trimap, make_trimap, mask_of
from adabldm.windows import Window, crop, window_around

ImageLike = Image.Image | NDArray[Any]
WindowMode = Literal["auto", "full"]


@dataclass(frozen=True)
class EditJob:
    """One picture to edit.

    Attributes:
        pixels: the source, uint8 HxWx3.
        foreground: object pixels, bool HxW.
        mask: where the defect shall be, bool HxW, not empty.
        prompt: "hazelnut, a hazelnut with a hole".
        generator: everything random is drawn from it.
        exposure: brightness of the real defect's surroundings over that of the mask's surroundings; presets with
            `match_exposure` edit the window at the real defect's exposure.
        reference: the real defect whose mask is used, laid over the source so that it lies in `mask`, uint8 HxWx3;
            presets with `start` begin from it and keep its fine detail. `None`: there is none.
    """

    pixels: Pixels
    foreground: Mask
    mask: Mask
    prompt: str
    generator: torch.Generator
    exposure: float = 1.0
    reference: Pixels | None = None


@dataclass(frozen=True)
class Edited:
    """One edited picture.

    Attributes:
        pixels: the result, uint8 HxWx3.
        window: what was diffused; everything outside is the source's, bit for bit.
        resolution: side of the window at the model, in px.
        scores: background PSNR, seam, edit strength and more.
        defect_fidelity: adapted against unadapted decoding inside the mask, in dB, at the model's resolution.
        strength: of the real defect that was laid in (`Preset.strengths`); 1 if none was.
        tone: of it (`Preset.tones`); 1 if none was.
    """

    pixels: Pixels
    window: Window
    resolution: int
    scores: Scores
    defect_fidelity: float
    strength: float = 1.0
    tone: float = 1.0


@dataclass
class AdaBLDMOutput(BaseOutput):  # type: ignore[misc]
    """What a call returns, lists of equal length.

    Attributes:
        images: the edited pictures, PIL or uint8 HxWx3.
        masks: their defect masks, PIL "L" of 0 and 255 or bool HxW.
        scores: a dict of measures each (`background_psnr`, `seam`, `edit_strength`, …).
    """

    images: list[Any]
    masks: list[Any]
    scores: list[dict[str, float]]


def full_window(size: tuple[int, int]) -> Window:
    """The square that holds a whole image of `size` (height, width); what overhangs is reflected, nothing stretched."""
    side = max(size)
    return Window((size[0] - side) // 2, (size[1] - side) // 2, side)


class AdaBLDMPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Edits defects into defect-free pictures (AdaBLDM, Li et al., arXiv 2402.19330).

    Args:
        vae: autoencoder; never changed by a call.
        text_encoder: of the CLIP kind.
        tokenizer: of the text encoder.
        unet: adapted to the domain.
        scheduler: its config gives noise levels and prediction type.
        controlnet: control branch that reads the trimap.
        object_name: what the pictures show.
        defects: defect types that the control branch knows.
        resolution: side of a window at the model, in px.
    """

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: DDIMScheduler,
        controlnet: ControlNetModel,
        object_name: str = "object",
        defects: Sequence[str] = (),
        resolution: int = 128,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            controlnet=controlnet,
        )
        self.register_to_config(object_name=object_name, defects=list(defects), resolution=resolution)
        self.card = RunCard(object_name, tuple(defects), "", resolution, "auto", "")
        for module in self.parts.modules().values():
            module.requires_grad_(False)
            module.eval()

    @classmethod
    def from_pretrained(cls, run: str | Path, torch_dtype: torch.dtype | None = None, **_: Any) -> AdaBLDMPipeline:
        """Load a run: a folder that `adabldm fit` made, or the name of one that ships ("magnetic-tile").

        Raises:
            InputError: there is no such run, or it is damaged.
        """
        pipeline = cls.from_components(*load_run(run))
        return pipeline.to(torch_dtype) if torch_dtype is not None else pipeline

    @classmethod
    def from_components(cls, components: Components, card: RunCard) -> AdaBLDMPipeline:
        """Networks in hand, with a control branch, and what the run's card says of them; they are frozen."""
        assert components.controlnet is not None
        pipeline = cls(
            **vars(components), object_name=card.object_name, defects=card.defects, resolution=card.resolution
        )
        pipeline.card = card
        return pipeline

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Save as a diffusers folder that `from_pretrained` and `adabldm generate` read."""
        for module in self.parts.modules().values():
            module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # safetensors asks for it
        super().save_pretrained(str(save_directory), safe_serialization=True, **options)
        write_card(Path(save_directory), self.card)

    @property
    def parts(self) -> Components:
        """The networks as `Components`."""
        return Components(self.vae, self.text_encoder, self.tokenizer, self.unet, self.scheduler, self.controlnet)

    def __call__(
        self,
        image: ImageLike | Sequence[ImageLike],
        trimap: ImageLike | Sequence[ImageLike] | None = None,
        mask: ImageLike | Sequence[ImageLike] | None = None,
        prompt: str | Sequence[str] | None = None,
        *,
        defect: str | None = None,
        preset: str | Preset = "fast",
        adapt: str | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        window: WindowMode = "auto",
        output_type: Literal["pil", "np"] = "pil",
    ) -> AdaBLDMOutput:
        """Edit a defect into each picture.

        Args:
            image: PIL or uint8 HxWx3 or HxW, one or several, of any size.
            trimap: a trimap for each, HxW, 0 background, 0.5 object, 1 defect (uint8: 0, 128, 255).
            mask: instead of a trimap, a defect mask for each (non-zero is defect); everything is object then.
            prompt: one for each or for all; made from `defect` if left out.
            defect: a defect type that the run knows.
            preset: "fast", "paper", "released", or a `Preset`.
            adapt: how the decoder is adapted, instead of the preset's way.
            guidance_scale: w, instead of the preset's.
            seed: picture i draws from the stream (seed, i).
            window: "auto" diffuses a window around the defect, "full" the whole picture.
            output_type: "pil" or "np".

        Raises:
            InputError: inputs that do not fit together, a defect outside the object, an unknown defect type, a
                prompt that is too long; before any work is done.
        """
        images = _as_list(image)
        shapes = _as_list(trimap if trimap is not None else mask)
        if trimap is not None and mask is not None:
            raise InputError("trimap and mask: both given, expected one of them; leave one out.")
        if not images:
            raise InputError("image: none given; give at least one picture.")
        if len(shapes) != len(images):
            what = "trimaps" if trimap is not None else "masks"
            raise InputError(f"{len(shapes)} {what} for {len(images)} images; give one for each.")
        prompts = self._prompts(prompt, defect, len(images))
        for name, value, known in (("window", window, ("auto", "full")), ("output_type", output_type, ("pil", "np"))):
            if value not in known:
                raise InputError(f"{name} {value!r}: unknown, expected one of {', '.join(known)}.")
        chosen = get_preset(preset, adapt=adapt, guidance=guidance_scale)
        jobs = []
        for index, (picture, shape, text) in enumerate(zip(images, shapes, prompts, strict=True)):
            pixels = _rgb(picture)
            foreground, defect_mask = _read_shape(shape, is_trimap=trimap is not None, size=pixels.shape[:2])
            jobs.append(EditJob(pixels, foreground, defect_mask, text, torch_generator("edit", seed, index)))
        edited: list[Edited] = []
        for start in range(0, len(jobs), chosen.batch_size):
            edited += self.edit(jobs[start : start + chosen.batch_size], chosen, window=window)
        pictures: list[Any] = [one.pixels for one in edited]
        masks: list[Any] = [job.mask for job in jobs]
        if output_type == "pil":
            pictures = [
                Image.fromarray(pixels if _rgb_wanted(given) else pixels[..., 0])
                for pixels, given in zip(pictures, images, strict=True)
            ]
            masks = [Image.fromarray(one.astype(np.uint8) * 255) for one in masks]
        scores = [{**vars(one.scores), "defect_fidelity": one.defect_fidelity} for one in edited]
        return AdaBLDMOutput(images=pictures, masks=masks, scores=scores)

    def _prompts(self, prompt: str | Sequence[str] | None, defect: str | None, count: int) -> list[str]:
        if prompt is None and defect is None:
            known = ", ".join(self.card.defects) or "none"
            raise InputError(f"neither prompt nor defect given; give a defect type of this run ({known}) or a prompt.")
        if prompt is None:
            assert defect is not None
            self.check_defect(defect)
            prompt = defect_prompt(self.card.object_name, defect)
        prompts = [prompt] * count if isinstance(prompt, str) else list(prompt)
        if len(prompts) != count:
            raise InputError(f"{len(prompts)} prompts for {count} images; give one for each, or one for all.")
        self.check_prompts(prompts)
        return prompts

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse a prompt that is longer than the text encoder reads.

        Raises:
            InputError: with the numbers of tokens.
        """
        with torch.no_grad():
            encode_prompts(self.parts, sorted(set(prompts)))

    def check_defect(self, defect: str) -> None:
        """Refuse a defect type that the control branch was not fitted on.

        Raises:
            InputError: it is unknown; the message says which exist.
        """
        if defect not in self.card.defects:
            known = ", ".join(self.card.defects) or "none"
            raise InputError(f"defect type {defect!r}: unknown to this run, expected one of {known}.")

    @torch.no_grad()
    def edit(self, jobs: Sequence[EditJob], preset: Preset, *, window: WindowMode = "auto") -> list[Edited]:
        """Edit a batch at once; every job draws from its own generator.

        Args:
            jobs: pictures of any sizes.
            preset: how.
            window: see `__call__`.
        """
        resolution = int(self.config["resolution"])
        for module in (self.vae, self.unet, self.controlnet):
            module.to(memory_format=torch.channels_last)  # convolutions are faster so
        with stage("prepare"):
            windows = [full_window(job.mask.shape) if window == "full" else window_around(job.mask) for job in jobs]
            kinds = []  # (resolution, first step)
            for job, own in zip(jobs, windows, strict=True):
                shape = crop(job.mask, own)
                start = _first_step(job, shape, preset)
                finest = resolution if start else max(resolution, preset.finest)  # the real defect brings its detail
                kinds.append((window_resolution(shape, resolution, finest), start))
        edited: dict[int, Edited] = {}
        for side, start in sorted(set(kinds)):  # windows of one resolution and one beginning make one batch
            picks = [index for index, own in enumerate(kinds) if own == (side, start)]
            results = self._edit_windows([jobs[i] for i in picks], [windows[i] for i in picks], side, preset, start)
            edited.update(zip(picks, results, strict=True))
        return [edited[index] for index in range(len(jobs))]

    def _edit_windows(
        self, jobs: Sequence[EditJob], windows: Sequence[Window], resolution: int, preset: Preset, start: int
    ) -> list[Edited]:
        """Edit windows at one resolution, all from the same first step."""
        place: dict[str, Any] = {"device": self.unet.device, "dtype": self.unet.dtype}
        with stage("prepare"):
            gains = [job.exposure if preset.match_exposure else 1.0 for job in jobs]
            looks = [_draw_look(job, preset) if start else (1.0, 1.0) for job in jobs]
            pictures = [
                _begin(job, where, gain, look) if start else job.pixels
                for job, where, gain, look in zip(jobs, windows, gains, looks, strict=True)
            ]
            inputs = [
                window_inputs(picture, job.foreground, job.mask, where, resolution)
                for picture, job, where in zip(pictures, jobs, windows, strict=True)
            ]
            exposed = [expose(pixels, gain) for (pixels, _, _), gain in zip(inputs, gains, strict=True)]
            image = torch.stack([to_tensor(pixels) for pixels in exposed]).to(**place)
            mask = torch.stack([torch.from_numpy(own)[None] for _, _, own in inputs]).to(**place)
            shapes = [torch.from_numpy(make_trimap(foreground, own))[None] for _, foreground, own in inputs]
            trimaps = torch.stack(shapes).to(**place)
        latents, background = self._diffuse(self.parts, jobs, image, mask, trimaps, preset, start)
        with stage("adapt"):
            adapted, unadapted = adapt_decoder(
                preset.adapt,
                self.vae,
                latents,
                image,
                mask,
                preset.finetuning,
                background=background,
                kept=torch.full_like(mask[:, :, :1, :1], preset.detail) if start else None,
                fidelity=preset.fidelity,
            )
        kept = [1.0] * len(jobs)
        if not start:
            kept = texture_ratio(adapted.float(), image.float(), mask.float()).flatten().tolist()
        results = []
        for index, (job, where) in enumerate(zip(jobs, windows, strict=True)):
            native, _, own = inputs[index]
            with stage("put_back"):
                decoded, plain = to_pixels(adapted[index]), to_pixels(unadapted[index])
                edited = unexpose(decoded, exposed[index], native, gains[index])
                pixels = put_back(pictures[index], edited, job.mask, where, texture=kept[index])
                pixels = feather(pixels, job.pixels, job.mask, where, resolution, preset.feather)
                inside = where.slices(job.mask.shape)[0]
                if _is_grey(job.pixels):
                    pixels[inside] = pixels[inside].mean(axis=2, keepdims=True).round()
            with stage("score"):
                fidelity = defect_fidelity(decoded, plain, own)
                scores = score(pixels, job.pixels, job.mask, inside)
            results.append(Edited(pixels, where, resolution, scores, fidelity, *looks[index]))
        return results

    def _diffuse(
        self,
        components: Components,
        jobs: Sequence[EditJob],
        image: Tensor,
        mask: Tensor,
        trimaps: Tensor,
        preset: Preset,
        start: int,
    ) -> tuple[Tensor, Tensor]:
        """(z*, E(x_OK)), from step `start` on."""
        factor = vae_factor(self.vae)
        scene = Scene(
            image,
            mask,
            encode_images(self.vae, image),
            latent_mask(mask, factor, how=preset.latent_mask, grow=preset.grow),
            [job.generator for job in jobs],
        )
        schedule = make_schedule(components)
        plan = make_plan(preset, len(schedule.alphas_cumprod))[start:]
        embeddings = encode_prompts(components, [EMPTY, *(job.prompt for job in jobs)]).to(image.dtype)
        predict = guided_prediction(
            components,
            embeddings[1:],
            embeddings[:1],
            trimaps,
            preset.guidance,
            control_once=preset.control_once,
            guide_trimap=preset.guide_trimap,
            guided_timesteps={step.timestep for step in plan if step.guided},
        )
        latents = edit(
            predict,
            lambda images: encode_images(self.vae, images),
            lambda latents: decode_latents(self.vae, latents),
            scene,
            plan,
            schedule,
            preset,
        )
        return latents, scene.background


def _first_step(job: EditJob, mask: Mask, preset: Preset) -> int:
    """Step at which the edit of a window with this mask begins; 0 is pure noise, later ones use the real defect."""
    if job.reference is None or preset.start == 0:
        return 0
    is_area = breadth(mask, min(job.mask.shape)) >= AREA
    return max(preset.start, preset.area_start) if is_area else preset.start


def _draw_look(job: EditJob, preset: Preset) -> tuple[float, float]:
    """(strength, tone) of the real defect that is laid in, drawn from the preset's ranges."""
    first, second = torch.rand(2, generator=job.generator).tolist()
    faintest, strongest = preset.strengths
    lowest, highest = preset.tones
    return faintest * (strongest / faintest) ** first, lowest + (highest - lowest) * second


def _begin(job: EditJob, window: Window, gain: float, look: tuple[float, float]) -> Pixels:
    """The source with the real defect in its mask."""
    assert job.reference is not None
    (rows, columns), own = window.slices(job.mask.shape)
    image, reference, mask = (crop(array, window) for array in (job.pixels, job.reference, job.mask))
    composed = compose(image, reference, mask, gain, *look, side=min(job.mask.shape))
    picture = job.pixels.copy()
    picture[rows, columns] = composed[own]
    return picture


def _is_grey(pixels: Pixels, rows: int = 64) -> bool:
    """Equal channels; looks at some rows at a time, so that a large coloured picture is told at once."""
    parts = (pixels[start : start + rows] for start in range(0, len(pixels), rows))
    return all((part[..., 0] == part[..., 1]).all() and (part[..., 1] == part[..., 2]).all() for part in parts)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _rgb_wanted(picture: ImageLike) -> bool:
    if isinstance(picture, Image.Image):
        return picture.mode not in {"1", "L", "LA"}
    return picture.ndim == 3


def _rgb(picture: ImageLike) -> Pixels:
    """A PIL image or uint8 array as uint8 HxWx3."""
    if isinstance(picture, Image.Image):
        picture = np.array(eight_bit(picture).convert("RGB"), dtype=np.uint8)
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim not in {2, 3}:
        raise InputError("image: expected a PIL image or a uint8 array HxW or HxWx3; convert it.")
    pixels = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture[..., :3]
    if pixels.shape[2] != 3 or min(pixels.shape[:2]) < 16:
        raise InputError(f"image of shape {picture.shape}: expected HxW or HxWx3 of at least 16 pixels a side.")
    return np.ascontiguousarray(pixels)


def _read_shape(shape: ImageLike, *, is_trimap: bool, size: tuple[int, ...]) -> tuple[Mask, Mask]:
    """(foreground, mask) of a trimap or mask given by the user."""
    values = np.asarray(shape.convert("L") if isinstance(shape, Image.Image) else shape)
    what = "trimap" if is_trimap else "mask"
    if values.shape != tuple(size):
        raise InputError(f"{what} of shape {values.shape} for an image of {size[0]}x{size[1]} px; make them equal.")
    if is_trimap:
        trimap = check_trimap(values)
        mask = mask_of(trimap)
        _check_on_object(trimap > 0, mask)
        return trimap > 0, mask
    mask = values.astype(bool)
    if not mask.any():
        raise InputError("mask: empty, expected at least one defect pixel; draw the defect.")
    foreground = np.ones_like(mask)
    check_defect_inside(foreground, mask)
    return foreground, mask


def _check_on_object(foreground: Mask, mask: Mask) -> None:
    """In a trimap the defect hides what is below it: it lies on the object if the object surrounds it."""
    ring = (cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0) & ~mask
    outside = float((ring & ~foreground).sum()) / max(1, int(ring.sum()))
    if outside > 0.5:
        raise InputError(
            f"trimap: the defect lies outside the object ({outside:.0%} of what surrounds it is background), expected "
            "object (0.5) around it; move the defect or correct the object."
        )
