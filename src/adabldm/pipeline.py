"""`AdaBLDMPipeline`: what a library user calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
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
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from adabldm.core.depth import Levels, levels_of
from adabldm.core.errors import InputError
from adabldm.core.images import Mask, Picture, as_picture
from adabldm.core.mask_files import LOSSY, MaskRules, mask_of_array, mask_of_image
from adabldm.core.opening import is_finite
from adabldm.core.prompts import defect_prompt
from adabldm.core.records import RunCard
from adabldm.core.seeding import torch_generator
from adabldm.core.settings.common import WindowMode
from adabldm.core.settings.edit import EditPreset
from adabldm.core.settings.presets import edit_preset
from adabldm.core.settings.problems import SettingsError
from adabldm.editing.editor import Edited, EditJob, Editor
from adabldm.editing.look import brightness_around, lay_over, relative_exposure, turn_onto
from adabldm.editing.loop import StepCallback
from adabldm.editing.rendered import RenderingEditor
from adabldm.editing.stage_plan import Step
from adabldm.masks.trimap import check_defect_inside, check_trimap, mask_of
from adabldm.models.components import Components
from adabldm.models.conditioning import check_prompts
from adabldm.models.quiet import quiet_libraries
from adabldm.models.store import RENDERING, find_run, load_run, read_card, write_card
from adabldm.production.plan import usual_batch_size

ImageLike = Image.Image | NDArray[Any]
Reference = tuple[ImageLike, ImageLike]
"""(image, mask) of a real defect."""
StepEnd = Callable[["AdaBLDMPipeline", int, int, dict[str, Tensor]], dict[str, Tensor]]
"""diffusers' callback: (pipeline, step, timestep, tensors by name) to those that it replaces."""


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


class AdaBLDMPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Edits defects into defect-free pictures (AdaBLDM, Li et al., arXiv 2402.19330).

    A run that renders its defects, as "surface", has no networks: all of them are `None`.

    Args:
        vae: autoencoder; never changed by a call.
        text_encoder: text encoder of the CLIP kind.
        tokenizer: tokenizer of the text encoder.
        unet: UNet, adapted to the domain.
        scheduler: its config gives noise levels and prediction type.
        controlnet: control branch that reads the trimap.
        object_name: what the pictures show.
        defects: defect types that the control branch knows.
        resolution: side of a window at the model, in px.
    """

    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny | None,
        text_encoder: CLIPTextModel | None,
        tokenizer: CLIPTokenizer | None,
        unet: UNet2DConditionModel | None,
        scheduler: DDIMScheduler | None,
        controlnet: ControlNetModel | None,
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
        self.card = RunCard(
            object_name=object_name,
            defects=tuple(defects),
            base="",
            resolution=resolution,
            foreground="auto",
            preset="",
        )
        if unet is not None:
            self.networks.freeze()

    @classmethod
    def from_pretrained(cls, run: str | Path, torch_dtype: torch.dtype | None = None, **_: Any) -> AdaBLDMPipeline:
        """Load a run: a folder that `adabldm fit` made, or the name of one that ships ("magnetic-tile", "surface").

        Raises:
            InputError: there is no such run, or it is damaged.
        """
        card = read_card(find_run(run))
        if card.method == RENDERING:
            return cls._rendering(card)
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

    @classmethod
    def _rendering(cls, card: RunCard) -> AdaBLDMPipeline:
        """A pipeline without networks, for a run that renders its defects."""
        named = {"object_name": card.object_name, "defects": card.defects, "resolution": card.resolution}
        pipeline = cls(None, None, None, None, None, None, **named)  # type: ignore[arg-type]
        pipeline.card = card
        return pipeline

    @property
    def _renders(self) -> bool:
        return self.card.method == RENDERING

    def to(self, *places: Any, **options: Any) -> AdaBLDMPipeline:
        """Move the networks to a device, or to a precision, as diffusers' pipelines do."""
        with quiet_libraries():
            moved: AdaBLDMPipeline = super().to(*places, **options)
        return moved

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Save as a diffusers folder that `from_pretrained` and `adabldm generate` read."""
        if self._renders:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            write_card(Path(save_directory), self.card)
            return
        for module in self.networks.modules().values():
            module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # safetensors asks for it
        super().save_pretrained(str(save_directory), safe_serialization=True, **options)
        self.card = write_card(Path(save_directory), self.card)

    @property
    def networks(self) -> Components:
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
        reference: Reference | Sequence[Reference | None] | None = None,
        preset: str | EditPreset = "fast",
        adapt: str | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        window: WindowMode = "auto",
        batch_size: int | None = None,
        output_type: Literal["pil", "np"] = "pil",
        callback_on_step_end: StepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> AdaBLDMOutput:
        """Edit a defect into each picture.

        Args:
            image: PIL, or uint8 or uint16 HxWx3 or HxW, one or several, of any size. Of more than 8 bits, what the fit
                saw as black and white is it here too; without such a fit, nearly the darkest and brightest level.
            trimap: a trimap for each, HxW, 0 background, 0.5 object, 1 defect (uint8: 0, 128, 255).
            mask: instead of a trimap, a defect mask for each, read as a mask file is; everything is object then.
            prompt: one for each or for all; made from `defect` if left out.
            defect: a defect type that the run knows.
            reference: (image, mask) of a real defect, one for each or for all; `None` for a picture without one. It is
                rotated, flipped and scaled onto the target mask, and presets with a `look`, as `fast`, begin from it.
            preset: "fast", "paper", "released", a file that holds a preset, or an `EditPreset`.
            adapt: method of decoder adaptation, instead of the preset's.
            guidance_scale: guidance scale w, instead of the preset's.
            seed: seed of all random draws; picture i draws from the stream (seed, i).
            window: "auto" edits a window around the defect, "full" the whole picture.
            batch_size: pictures edited at once; the preset's usual number if left out.
            output_type: "pil", in the number of channels and the depth of the given pictures (16-bit colours have 8),
                or "np": uint8 HxWx3, of pictures of more than 8 bits uint16 of their shape.
            callback_on_step_end: called as `callback(pipeline, step, timestep, tensors)` after every denoising step, as
                by diffusers' pipelines; "latents" in the dict that it returns replace those of the edit. Pictures whose
                windows have one resolution and one first step are edited together.
            callback_on_step_end_tensor_inputs: names of the tensors that the callback is given.

        Raises:
            InputError: inputs that do not fit together, a defect outside the object, an unknown defect type, a
                prompt that is too long; before any work is done.
        """
        _check_choice("window", window, ("auto", "full"))
        _check_choice("output_type", output_type, ("pil", "np"))
        _check_kinds(prompt, preset, seed, batch_size, callback_on_step_end)
        chosen = _preset(preset, adapt, guidance_scale)
        on_step = self._on_step(callback_on_step_end, callback_on_step_end_tensor_inputs)
        shapes = {"trimap": trimap, "mask": mask}
        pictures, jobs = self.jobs(image, shapes, prompt, defect=defect, reference=reference, seed=seed)
        editor = RenderingEditor() if self._renders else self._editor()
        size = batch_size or usual_batch_size(chosen)
        edited: list[Edited] = []
        for start in range(0, len(jobs), size):
            edited += editor.edit(jobs[start : start + size], chosen, window=window, on_step=on_step)
        return _output(pictures, jobs, edited, output_type)

    def _editor(self) -> Editor:
        return Editor(self.networks, int(self.config["resolution"]), self.card.calibration)

    def jobs(
        self,
        image: ImageLike | Sequence[ImageLike],
        shapes: Mapping[str, ImageLike | Sequence[ImageLike] | None],
        prompt: str | Sequence[str] | None = None,
        *,
        defect: str | None = None,
        reference: Reference | Sequence[Reference | None] | None = None,
        seed: int = 0,
    ) -> tuple[list[Picture], list[EditJob]]:
        """What a call hands to the editor: the given pictures, and a job for each.

        Args:
            image: as in a call.
            shapes: "trimap" or "mask", as in a call.
            prompt: as in a call.
            defect: as in a call.
            reference: as in a call.
            seed: as in a call.

        Raises:
            InputError: as a call.
        """
        pictures = _shown_alike([_picture(one, "image") for one in _several(image)], self.card.levels)
        given = _shapes(pictures, shapes.get("trimap"), shapes.get("mask"))
        prompts = self._prompts(prompt, defect, len(pictures))
        references = _references(reference, len(pictures), self.card.levels)
        jobs = []
        for index, (picture, shape, text) in enumerate(zip(pictures, given, prompts, strict=True)):
            generator = torch_generator("edit", seed, index)
            job = EditJob(picture.pixels, *shape, text, generator, defect=defect or "")
            jobs.append(_with_reference(job, references[index]))
        return pictures, jobs

    def _prompts(self, prompt: str | Sequence[str] | None, defect: str | None, count: int) -> list[str]:
        known = ", ".join(self.card.defects) or "none"
        if self._renders and prompt is not None:
            raise InputError(f"prompt: this run renders its defects and reads none; give defect, one of {known}.")
        if prompt is None and defect is None:
            raise InputError(f"neither prompt nor defect given; give a defect type of this run ({known}) or a prompt.")
        if prompt is None:
            assert defect is not None
            if defect not in self.card.defects:
                raise InputError(f"defect type {defect!r}: unknown to this run, expected one of {known}.")
            prompt = defect_prompt(self.card.object_name, defect)
        prompts = [prompt] * count if isinstance(prompt, str) else list(prompt)
        if len(prompts) != count:
            raise InputError(f"{len(prompts)} prompts for {count} images; give one for each, or one for all.")
        if not self._renders:
            check_prompts(self.networks, sorted(set(prompts)))
        return prompts

    def _on_step(self, callback: StepEnd | None, names: Sequence[str]) -> StepCallback | None:
        """The callback of diffusers as the editor's."""
        if callback is None:
            return None
        if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
            names = callback.tensor_inputs
        unknown = [name for name in names if name not in self._callback_tensor_inputs]
        if unknown:
            known = ", ".join(self._callback_tensor_inputs)
            raise InputError(f"callback_on_step_end_tensor_inputs {unknown}: unknown, expected some of {known}.")

        def on_step(step: Step, latents: Tensor) -> Tensor:
            given = {"latents": latents} if "latents" in names else {}
            answer = callback(self, step.index, step.timestep, given)
            replaced = answer.get("latents", latents) if isinstance(answer, dict) else answer
            if not isinstance(replaced, Tensor):
                raise InputError(
                    "callback_on_step_end: it returned no dict of tensors; return the one that it was given."
                )
            if replaced.shape != latents.shape:
                shapes = f"{tuple(replaced.shape)}, expected {tuple(latents.shape)}"
                raise InputError(f"callback_on_step_end: it returned latents of shape {shapes}; keep their shape.")
            return replaced.to(latents.device, latents.dtype)

        return on_step


def _preset(preset: str | EditPreset, adapt: str | None, guidance_scale: float | None) -> EditPreset:
    """The preset of a call; problems name the arguments of the call."""
    try:
        return edit_preset(preset, adapt=adapt, guidance=guidance_scale)
    except SettingsError as error:
        names = {"guidance": "guidance_scale"}
        fields = tuple(replace(one, field=names.get(one.field, one.field)) for one in error.fields)
        raise SettingsError(fields) from error


def _check_kinds(prompt: Any, preset: Any, seed: Any, batch_size: Any, callback: Any) -> None:
    """Refuse arguments of another type: Python would notice them in the middle of the work, or not at all."""
    texts = [] if prompt is None else [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(texts, list | tuple | np.ndarray) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"prompt {prompt!r}: expected text, or a list of texts; leave it out and give a defect type.")
    if not isinstance(preset, str | Path | EditPreset):
        raise InputError(f"preset {preset!r}: expected a name such as 'fast', a file, or an EditPreset; leave it out.")
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise InputError(f"seed {seed!r}: expected a whole number; leave it out for 0.")
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, Integral)):
        raise InputError(f"batch_size {batch_size!r}: expected a whole number; leave it out for the usual one.")
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size {batch_size}: expected at least 1; leave it out for the preset's usual one.")
    if callback is not None and not callable(callback) and not hasattr(callback, "tensor_inputs"):
        raise InputError(f"callback_on_step_end {callback!r}: expected a function, or one of diffusers' callbacks.")


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{name} {value!r}: unknown, expected one of {', '.join(known)}.")


def _several(value: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    return list(value) if isinstance(value, (list, tuple)) else [value]  # type: ignore[list-item]


def _picture(given: ImageLike, what: str) -> Picture:
    """A PIL image, or an array of 8 or 16 bits, as a picture."""
    if isinstance(given, Image.Image):
        if not is_finite(given):
            raise InputError(f"{what}: holds pixels that are not finite numbers; replace them.")
        picture = as_picture(given, what)
    elif isinstance(given, np.ndarray) and given.ndim == 3 and given.shape[2] > 4:
        raise InputError(f"{what} of {given.shape[2]} channels: expected one, or red, green and blue; choose them.")
    elif isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.ndim == 3 and given.shape[2] == 4:
        picture = as_picture(Image.fromarray(given), what)
    elif isinstance(given, np.ndarray) and given.dtype == np.uint16 and given.ndim in {2, 3}:
        picture = Picture.from_deep(np.ascontiguousarray(given if given.ndim == 2 else given[..., :3]))
    elif isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.ndim in {2, 3}:
        grey = given.ndim == 2
        pixels = np.repeat(given[..., None], 3, axis=2) if grey else given[..., :3]
        picture = Picture(np.ascontiguousarray(pixels), grey)
    else:
        raise InputError(f"{what}: expected a PIL image, or a uint8 or uint16 array HxW or HxWx3; convert it.")
    if picture.pixels.shape[2] != 3 or min(picture.size) < 16:
        raise InputError(
            f"{what} of shape {picture.pixels.shape}: expected HxW or HxWx3, at least 16 pixels a side; give another."
        )
    return picture


def _shown_alike(pictures: list[Picture], levels: Levels | None) -> list[Picture]:
    """Pictures of more than 8 bits with the same levels as black and white: those of the fit, else their own."""
    deep = [one.deep for one in pictures if one.deep is not None]
    return [one.shown_with(levels or levels_of(*deep)) for one in pictures] if deep else pictures


def _shapes(
    pictures: Sequence[Picture],
    trimap: ImageLike | Sequence[ImageLike] | None,
    mask: ImageLike | Sequence[ImageLike] | None,
) -> list[tuple[Mask, Mask]]:
    """(foreground, target mask) of every picture."""
    if trimap is not None and mask is not None:
        raise InputError("trimap and mask: both given, expected one of them; leave one out.")
    if not pictures:
        raise InputError("image: none given; give at least one picture.")
    what, given = ("trimap", trimap) if trimap is not None else ("mask", mask)
    shapes = [] if given is None else _several(given)
    if len(shapes) != len(pictures):
        raise InputError(f"{len(shapes)} {what}s for {len(pictures)} images; give one for each.")
    read = _read_trimap if trimap is not None else _read_target
    return [read(one, picture) for one, picture in zip(shapes, pictures, strict=True)]


def _check_size(shape: tuple[int, ...], what: str, picture: Picture) -> None:
    if shape != picture.size:
        height, width = picture.size
        raise InputError(f"{what} of shape {shape} for an image of {height}x{width} px; make them equal.")


def _read_trimap(given: ImageLike, picture: Picture) -> tuple[Mask, Mask]:
    values = np.asarray(_grey(given) if isinstance(given, Image.Image) else given)
    _check_size(values.shape, "trimap", picture)
    trimap = check_trimap(values)
    mask = mask_of(trimap)
    _check_not_all(mask, "trimap")
    _check_on_object(trimap > 0, mask)
    return trimap > 0, mask


def _grey(trimap: Image.Image) -> Image.Image:
    """One channel; numbers of more than 8 bits as they are, because Pillow would clip them."""
    if trimap.mode == "F" or trimap.mode.startswith("I"):
        return trimap
    try:
        return trimap.convert("L")
    except ValueError as error:
        raise InputError(f"trimap: an image of mode {trimap.mode} ({error}); convert it to one channel.") from error


def _read_target(given: ImageLike, picture: Picture) -> tuple[Mask, Mask]:
    mask = _read_mask(given, "mask", picture)
    foreground = np.ones_like(mask)
    check_defect_inside(foreground, mask)
    return foreground, mask


def _read_mask(given: ImageLike, what: str, picture: Picture) -> Mask:
    """A mask in any form that a file may have, by the same rules."""
    rules = MaskRules(what, advice=f"compare it with a level, such as {what.split()[0]} > {{}}".format)
    if isinstance(given, Image.Image):
        _check_size((given.height, given.width), what, picture)
        mask = mask_of_image(given, replace(rules, lossy=given.format in LOSSY))
    else:
        values = np.asarray(given)
        _check_size(values.shape[:2], what, picture)
        mask = mask_of_array(values, rules)
    _check_not_all(mask, what)
    return mask


def _check_not_all(mask: Mask, what: str) -> None:
    if mask.all():
        raise InputError(f"{what}: covers the whole image, expected the defect alone (white on black); draw it.")


def _check_on_object(foreground: Mask, mask: Mask) -> None:
    """In a trimap the defect hides what is below it: it lies on the object if the object surrounds it."""
    ring = (cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0) & ~mask
    outside = float((ring & ~foreground).sum()) / max(1, int(ring.sum()))
    if outside > 0.5:
        raise InputError(
            f"trimap: the defect lies outside the object ({outside:.0%} of what surrounds it is background), expected "
            "object (0.5) around it; move the defect or correct the object."
        )


def _references(
    given: Reference | Sequence[Reference | None] | None, count: int, levels: Levels | None
) -> list[tuple[Picture, Mask] | None]:
    """A real defect, or none, for every picture."""
    if given is None:
        return [None] * count
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], (Image.Image, np.ndarray)):
        return [_read_reference(given, levels)] * count
    if not isinstance(given, list | tuple):
        raise InputError("reference: expected (image, mask) of a real defect, or such a pair for each image.")
    if len(given) != count:
        raise InputError(f"{len(given)} references for {count} images; give one for each, or one for all.")
    return [None if one is None else _read_reference(one, levels) for one in given]


def _read_reference(given: Any, levels: Levels | None) -> tuple[Picture, Mask]:
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise InputError("reference: expected (image, mask) of a real defect, or such a pair for each image.")
    (picture,) = _shown_alike([_picture(given[0], "image of the reference")], levels)
    what = "mask of the reference"
    return picture, _read_mask(given[1], what, picture)


def _with_reference(job: EditJob, reference: tuple[Picture, Mask] | None) -> EditJob:
    """The job with a real defect laid over its target mask."""
    if reference is None:
        return job
    picture, mask = reference
    laid = lay_over(picture.pixels, mask, turn_onto(mask, job.mask), job.mask)
    real, own = brightness_around(picture.pixels, mask), brightness_around(job.pixels, job.mask)
    return replace(job, reference=laid, exposure=relative_exposure(real, own))


def _output(
    pictures: Sequence[Picture], jobs: Sequence[EditJob], edited: Sequence[Edited], output_type: str
) -> AdaBLDMOutput:
    files = [picture.as_file(one.pixels) for picture, one in zip(pictures, edited, strict=True)]
    images: list[Any] = [
        one.pixels if picture.deep is None else file for picture, file, one in zip(pictures, files, edited, strict=True)
    ]
    masks: list[Any] = [job.mask for job in jobs]
    if output_type == "pil":
        in_pillow = [file.dtype == np.uint8 or file.ndim == 2 for file in files]  # it has no 16-bit colours
        images = [
            Image.fromarray(file if fits else one.pixels)
            for file, fits, one in zip(files, in_pillow, edited, strict=True)
        ]
        masks = [Image.fromarray(one.astype(np.uint8) * 255) for one in masks]
    scores = [{**vars(one.scores), "defect_fidelity": one.defect_fidelity} for one in edited]
    return AdaBLDMOutput(images=images, masks=masks, scores=scores)
