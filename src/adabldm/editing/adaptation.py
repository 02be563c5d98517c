"""Online decoder adaptation: decode z* so that the background is the source's (AdaBLDM; docs/method.md, section 5).

Every method works on a batch and never changes the shared autoencoder. A new method is a settings class in
`core.settings.edit` and a function here that is registered for it.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adabldm.core.precision import mixed
from adabldm.core.settings.base import Settings
from adabldm.core.settings.edit import Adaptation, Finetune, NoAdaptation, Poisson, Residual, Ridge, Texture
from adabldm.editing.blending import dilate, soft_mask
from adabldm.editing.source import Source
from adabldm.models.components import decode_latents


@dataclass(frozen=True)
class Decoding:
    """Edited latents that are to be decoded.

    Attributes:
        vae: the shared autoencoder.
        latents: z*, BCHW, scaled.
        image: x_OK, BCHW in [-1, 1].
        mask: M, B1HW in {0, 1}.
        kept: share of the picture's lost fine texture that the defect gets back, B111 in [0, 1]; as much as the edit
            kept of the coarse texture if left out.
        fidelity: least defect fidelity in dB; `kept` is lessened as far as it asks for (`affordable`).
        source: x_OK in the autoencoder, where the caller has it already.
        decoded: x* = D(z*), BCHW.
    """

    vae: nn.Module
    latents: Tensor
    image: Tensor
    mask: Tensor
    kept: Tensor | None = None
    fidelity: float = 0.0
    source: Source | None = None
    decoded: Tensor = field(init=False)

    def __post_init__(self) -> None:
        with torch.no_grad():
            object.__setattr__(self, "decoded", decode_latents(self.vae, self.latents))
        if self.source is None:
            object.__setattr__(self, "source", Source(self.vae, self.image))

    @property
    def restored(self) -> Tensor:
        """D(E(x_OK)): what the autoencoder keeps of the source, BCHW."""
        assert self.source is not None
        return self.source.restored

    @property
    def share(self) -> Tensor:
        """Share of the lost fine texture that the defect gets back, B111 in [0, 1]."""
        if self.kept is None:
            return texture_ratio(self.decoded, self.restored, self.mask)
        return affordable(self.kept, self.image, self.mask, self.restored, self.fidelity)


def adapt(adaptation: Adaptation, decoding: Decoding) -> tuple[Tensor, Tensor]:
    """Decode edited latents.

    Returns:
        (adapted, unadapted) pictures, BCHW, not clipped; the second is D(z*).
    """
    return _adapted(adaptation, decoding), decoding.decoded


@singledispatch
def _adapted(adaptation: Settings, decoding: Decoding) -> Tensor:
    """The adapted pictures, BCHW; one function is registered for each settings class."""
    del decoding
    raise NotImplementedError(f"no adaptation is registered for {type(adaptation).__name__}")


@_adapted.register
def no_adaptation(settings: NoAdaptation, decoding: Decoding) -> Tensor:
    """x* = D(z*), as it is."""
    del settings
    return decoding.decoded


@_adapted.register
def residual(settings: Residual, decoding: Decoding) -> Tensor:
    """Add back what the autoencoder loses of the source: x* + (x_OK − D(E(x_OK))) · (1 − soft mask)."""
    del settings
    return decoding.decoded + (decoding.image - decoding.restored) * (1 - soft_mask(decoding.mask))


@_adapted.register(Texture)
def texture(settings: Texture | Poisson, decoding: Decoding) -> Tensor:
    """`residual`, and inside the mask the share of the lost fine texture that the defect keeps.

    By default as much as the edit kept of the coarse texture (`texture_ratio`): a brighter patch keeps the grain of the
    surface, a hole does not.
    """
    del settings
    lost = decoding.image - decoding.restored
    return decoding.decoded + lost * (1 - soft_mask(decoding.mask) * (1 - decoding.share))


@_adapted.register
def poisson(settings: Poisson, decoding: Decoding) -> Tensor:
    """`texture` inside the grown mask and x_OK itself outside, joined in the gradient domain.

    The decoder spreads the defect beyond its mask: D(z*) − D(E(x_OK)) is not zero there. That change is taken away
    outside the grown mask, and inside it by a membrane that begins with the same values at the border and falls off
    with `settings.reach`: no step at the border, and the defect further inside keeps its tones (screened Poisson
    blending, Bhat et al., ECCV 2008; without the screen, Pérez et al., SIGGRAPH 2003, the whole defect takes over the
    background's tone).
    """
    region = dilate(decoding.mask, settings.grow)
    correction = membrane(decoding.restored - decoding.decoded, region, settings.reach)
    return torch.where(region > 0, texture(settings, decoding) + correction, decoding.image)


@_adapted.register
def finetuned(settings: Finetune, decoding: Decoding) -> Tensor:
    """Every picture decoded by its own fine-tuned copy of the decoder."""
    ones = [slice(index, index + 1) for index in range(len(decoding.latents))]
    return torch.cat(
        [
            finetune(settings, decoding.vae, decoding.latents[one], decoding.image[one], decoding.mask[one])[0]
            for one in ones
        ]
    )


@_adapted.register
@torch.no_grad()
def ridge(settings: Ridge, decoding: Decoding) -> Tensor:
    """Solve the decoder's last convolution in closed form: ridge regression on its unfolded inputs.

    The targets are x_OK outside M and x* inside, as in `finetune`; the change of the weights is damped.
    """
    vae, mask, decoded = decoding.vae, decoding.mask, decoding.decoded
    conv, scale = _last_convolution(vae)
    inputs: list[Tensor] = []
    thread = threading.get_ident()

    def note(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if threading.get_ident() == thread:  # others may decode with the same network meanwhile
            inputs.append(arguments[0])

    handle = conv.register_forward_pre_hook(note)
    try:
        decode_latents(vae, decoding.latents)
    finally:
        handle.remove()
    kernel: Any = conv.kernel_size
    columns = F.unfold(inputs[0].double(), kernel, padding=conv.padding, stride=conv.stride)  # type: ignore[arg-type]
    columns = torch.cat([columns, torch.ones_like(columns[:, :1])], dim=1)
    wanted = (decoding.image - decoded).double() * (1 - mask.double()) / scale
    weight = 1 + (settings.inside - 1) * mask.double().flatten(1)[:, None]
    normal = (columns * weight) @ columns.transpose(1, 2)
    damping = settings.damping * normal.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    right = (columns * weight) @ wanted.flatten(2).transpose(1, 2)
    change = torch.linalg.solve(normal + damping * torch.eye(normal.shape[-1], device=normal.device), right)
    difference: Tensor = (change.transpose(1, 2) @ columns).to(decoded.dtype).view_as(decoded)
    return decoded + scale * difference


def affordable(kept: Tensor, image: Tensor, mask: Tensor, restored: Tensor, fidelity: float) -> Tensor:
    """The share `kept` (B111) of the lost texture, or the smaller one whose signal-to-noise ratio is `fidelity` dB.

    What the autoencoder loses of a loud defect, as ink on a pale shell, can be more than all that the edit changed.
    """
    inside, pixels = mask.float(), (image - restored).float()  # sums over a mask are beyond half precision
    lost = (pixels.pow(2) * inside).sum((1, 2, 3)) / (inside.sum((1, 2, 3)) * image.shape[1]).clamp_min(1)
    most = 2 * 10 ** (-fidelity / 20) / lost.sqrt().clamp_min(1e-6)  # 2: from black to white
    return torch.minimum(kept, most.view(-1, 1, 1, 1).to(kept.dtype))


def texture_ratio(edited: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """High-pass deviation of `edited` over that of `source` inside the mask, B111 in [0, 1]."""
    inside = mask.float()  # sums over a mask are beyond half precision

    def deviation(images: Tensor) -> Tensor:
        images = images.float()
        padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
        fine = images - F.avg_pool2d(padded, 5, stride=1)
        return ((fine.pow(2) * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp_min(1)).sqrt()

    ratio = (deviation(edited) / deviation(source).clamp_min(1e-4)).clamp(0, 1)
    return ratio.view(-1, 1, 1, 1).to(edited.dtype)


def membrane(values: Tensor, region: Tensor, reach: float) -> Tensor:
    """Continue `values` into a region: Δu = u / reach² inside, u = values at its border (screened Poisson equation).

    Conjugate gradients on the five-point Laplacian, every sample and channel on its own; nothing flows through the
    image's border. The number of steps is fixed, so that nothing waits for the device: with the condition number
    κ = 1 + 8·reach², 12·reach + 4 steps leave an error below a thousandth of the values.

    Args:
        values: BCHW; read outside the region only.
        region: B1HW in {0, 1}.
        reach: in pixels, above 0.

    Returns:
        BCHW, in the dtype of `values`: u inside, 0 outside.
    """
    inside, known = region.float(), values.float() * (1 - region.float())
    diagonal = _neighbours(torch.ones_like(inside)) + 1 / reach**2
    solution = torch.zeros_like(known)
    left = inside * _neighbours(known)
    direction, power = left, left.square().sum((2, 3), keepdim=True)
    for _ in range(round(12 * reach) + 4):
        image = inside * (diagonal * direction - _neighbours(direction))
        step = power / (direction * image).sum((2, 3), keepdim=True).clamp_min(1e-20)
        solution, left = solution + step * direction, left - step * image
        before, power = power, left.square().sum((2, 3), keepdim=True)
        direction = left + power / before.clamp_min(1e-20) * direction
    return solution.to(values.dtype)


def _neighbours(values: Tensor) -> Tensor:
    """The sum of the four neighbours of every pixel, those beyond the border counting as 0."""
    padded = F.pad(values, (1, 1, 1, 1))
    vertical = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]
    return vertical + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]


def finetune(
    settings: Finetune, vae: nn.Module, latents: Tensor, image: Tensor, mask: Tensor
) -> tuple[Tensor, list[float]]:
    """Fine-tune a copy of the decoder on one image with AdamW and decode with it.

    Minimises `outside` · Σ (D(z*) − x_OK)² outside M + `inside` · Σ (D(z*) − x*)² inside M, x* the first decoding.
    With latents in half precision, autocast computes in bfloat16; the weights and the losses stay in single precision,
    because the optimiser's steps are smaller than bfloat16 can tell apart.

    Returns:
        (1CHW, the loss before every step and after the last).
    """
    own: Any = copy.deepcopy(vae).float().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    own.requires_grad_(False)
    trained = [own.decoder, *([own.post_quant_conv] if getattr(own, "post_quant_conv", None) is not None else [])]
    parameters = [parameter for module in trained for parameter in module.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate)
    dtype = latents.dtype
    latents, image, mask = latents.detach().float(), image.float(), mask.detach().float()

    def decode() -> Tensor:
        with mixed(latents.device, enabled=dtype != torch.float32):
            return decode_latents(own, latents).float()

    with torch.no_grad():
        first = decode()

    def loss() -> Tensor:
        decoded = decode()
        outside, inside = (decoded - image).pow(2) * (1 - mask), (decoded - first).pow(2) * mask
        total = settings.outside * outside + settings.inside * inside
        return total.sum() if settings.reduction == "sum" else total.mean()

    losses = []
    with torch.enable_grad():
        for _ in range(settings.steps):
            value = loss()
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(value.detach()))
    with torch.no_grad():
        losses.append(float(loss()))
        return decode_latents(own, latents).to(dtype), losses


def _last_convolution(vae: Any) -> tuple[nn.Conv2d, float]:
    """The decoder's last convolution, and the factor that is applied to its output."""
    if hasattr(vae.decoder, "conv_out"):
        return vae.decoder.conv_out, 1.0
    return vae.decoder.layers[-1], 2.0  # that of the small autoencoder
