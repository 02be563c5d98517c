"""Online decoder adaptation: decode z* so that the background is the source's (AdaBLDM; DESIGN sections 1 and 2.2).

Every method works on a batch and never changes the shared VAE.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.nn import functional as F

from adabldm.editing.blending import soft_mask
from adabldm.editing.presets import Finetuning
from adabldm.models.components import decode_latents, encode_images

RIDGE_INSIDE = 1.0
RIDGE_DAMPING = 1e-3


def adapt(
    method: str, vae: nn.Module, latents: Tensor, image: Tensor, mask: Tensor, finetuning: Finetuning | None = None
) -> tuple[Tensor, Tensor]:
    """Decode the edited latents.

    Args:
        method: one of `presets.ADAPTATIONS`.
        vae: the shared autoencoder, unchanged afterwards.
        latents: z*, BCHW, scaled.
        image: x_OK, BCHW in [-1, 1].
        mask: M, B1HW in {0, 1}.
        finetuning: for the method `finetune`.

    Returns:
        (adapted, unadapted) pictures, BCHW, not clipped; the second is D(z*).
    """
    with torch.no_grad():
        decoded = decode_latents(vae, latents)
    if method == "finetune":
        settings = finetuning or Finetuning()
        single = [
            finetune(vae, latents[i : i + 1], image[i : i + 1], mask[i : i + 1], settings)[0]
            for i in range(len(latents))
        ]
        return torch.cat(single), decoded
    return _METHODS[method](vae, latents, image, mask, decoded), decoded


def _none(vae: nn.Module, latents: Tensor, image: Tensor, mask: Tensor, decoded: Tensor) -> Tensor:
    del vae, latents, image, mask
    return decoded


@torch.no_grad()
def residual(vae: nn.Module, latents: Tensor, image: Tensor, mask: Tensor, decoded: Tensor) -> Tensor:
    """Add back what the autoencoder loses of the source: x* + (x_OK − D(E(x_OK))) · (1 − soft mask)."""
    del latents
    lost = image - decode_latents(vae, encode_images(vae, image))
    return decoded + lost * (1 - soft_mask(mask))


@torch.no_grad()
def texture(vae: nn.Module, latents: Tensor, image: Tensor, mask: Tensor, decoded: Tensor) -> Tensor:
    """`residual`, and inside the mask as much of the lost fine texture as the edit kept of the coarse one.

    The share is the ratio of the high-pass deviation of D(z*) to that of D(E(x_OK)) inside the mask, at most 1: a
    brighter patch keeps the grain of the surface, a hole does not.
    """
    del latents
    restored = decode_latents(vae, encode_images(vae, image))
    kept = texture_ratio(decoded, restored, mask)
    return decoded + (image - restored) * (1 - soft_mask(mask) * (1 - kept))


def texture_ratio(edited: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """High-pass deviation of `edited` over that of `source` inside the mask, B111 in [0, 1]."""

    def deviation(images: Tensor) -> Tensor:
        padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
        fine = images - F.avg_pool2d(padded, 5, stride=1)
        return ((fine.pow(2) * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp_min(1)).sqrt()

    return (deviation(edited) / deviation(source).clamp_min(1e-4)).clamp(0, 1).view(-1, 1, 1, 1)


def finetune(
    vae: nn.Module, latents: Tensor, image: Tensor, mask: Tensor, settings: Finetuning
) -> tuple[Tensor, list[float]]:
    """Fine-tune a copy of the decoder on one image with AdamW and decode with it.

    Minimises `outside` · Σ (D(z*) − x_OK)² outside M + `inside` · Σ (D(z*) − x*)² inside M, x* the first decoding.

    Returns:
        (1CHW, the loss before every step and after the last).
    """
    own: Any = copy.deepcopy(vae)
    own.requires_grad_(False)
    trained = [own.decoder, *([own.post_quant_conv] if getattr(own, "post_quant_conv", None) is not None else [])]
    parameters = [parameter for module in trained for parameter in module.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate)
    latents, mask = latents.detach(), mask.detach()
    with torch.no_grad():
        first = decode_latents(own, latents)

    def loss() -> Tensor:
        decoded = decode_latents(own, latents)
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
        return decode_latents(own, latents), losses


@torch.no_grad()
def ridge(vae: nn.Module, latents: Tensor, image: Tensor, mask: Tensor, decoded: Tensor) -> Tensor:
    """Solve the decoder's last convolution in closed form: ridge regression on its unfolded inputs.

    The targets are x_OK outside M and x* inside, as in `finetune`; the change of the weights is damped.
    """
    conv, scale = _last_convolution(vae)
    inputs: list[Tensor] = []
    handle = conv.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        decode_latents(vae, latents)
    finally:
        handle.remove()
    kernel: Any = conv.kernel_size
    columns = F.unfold(inputs[0].double(), kernel, padding=conv.padding, stride=conv.stride)  # type: ignore[arg-type]
    columns = torch.cat([columns, torch.ones_like(columns[:, :1])], dim=1)
    wanted = (image - decoded).double() * (1 - mask.double()) / scale
    weight = 1 + (RIDGE_INSIDE - 1) * mask.double().flatten(1)[:, None]
    normal = (columns * weight) @ columns.transpose(1, 2)
    damping = RIDGE_DAMPING * normal.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    right = (columns * weight) @ wanted.flatten(2).transpose(1, 2)
    change = torch.linalg.solve(normal + damping * torch.eye(normal.shape[-1], device=normal.device), right)
    difference: Tensor = (change.transpose(1, 2) @ columns).to(decoded.dtype).view_as(decoded)
    return decoded + scale * difference


def _last_convolution(vae: Any) -> tuple[nn.Conv2d, float]:
    """The decoder's last convolution, and the factor that is applied to its output."""
    if isinstance(vae, AutoencoderTiny):
        return vae.decoder.layers[-1], 2.0
    return vae.decoder.conv_out, 1.0


_METHODS: dict[str, Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "none": _none,
    "residual": residual,
    "texture": texture,
    "ridge": ridge,
}
