from __future__ import annotations

import copy
from functools import singledispatch
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from components import assert_same_weights, ellipse, make_pipeline, make_vae, weights
from torch import Tensor

from adabldm.core.settings.base import Settings
from adabldm.core.settings.edit import ADAPTATIONS, Adaptation, Finetune, Poisson, Residual, Ridge, Texture
from adabldm.editing import adaptation
from adabldm.editing.adaptation import (
    Decoding,
    adapt,
    affordable,
    finetune,
    membrane,
    poisson,
    texture,
    texture_ratio,
)
from adabldm.editing.blending import soft_mask
from adabldm.editing.source import Source
from adabldm.models.components import decode_latents, encode_images, vae_factor

KINDS = ["tiny", "kl"]
SIDE = 24


def settings_of(method: str) -> Adaptation:
    """Its usual settings; fine-tuning is short."""
    short: Any = {"steps": 3, "learning_rate": 1e-3} if method == "finetune" else {}
    settings: Any = ADAPTATIONS[method].create(short)
    return settings


def adapted_by(method: str, vae: Any, *tensors: Tensor, **more: Any) -> tuple[Tensor, Tensor]:
    return adapt(settings_of(method), Decoding(vae, *tensors, **more))


class Identity(torch.nn.Module):
    """An autoencoder whose latents are the pictures."""

    config: ClassVar[dict[str, float]] = {"scaling_factor": 1.0}

    def decode(self, latents: Tensor) -> Any:
        return SimpleNamespace(sample=latents)


def decoding_of(image: Tensor, mask: Tensor, decoded: Tensor, restored: Tensor) -> Decoding:
    """What an adaptation is given where D(z*) and D(E(x_OK)) are these."""
    vae = Identity()
    source = Source(vae, image)
    source._restored = restored
    return Decoding(vae, decoded, image, mask, source=source)


@torch.no_grad()
def scene(vae: Any, count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """(z*, x_OK, M): latents that differ from the background's everywhere, most inside the mask."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(count, 3, SIDE, SIDE, generator=generator) * 1.6 - 0.8
    masks = [ellipse((SIDE, SIDE), (10 + 5 * index, 14), (5, 7)) for index in range(count)]
    mask = torch.from_numpy(np.stack(masks))[:, None].float()
    latents = encode_images(vae, image)
    latents = latents + 0.1 * torch.randn(latents.shape, generator=generator)
    small = torch.nn.functional.max_pool2d(mask, vae_factor(vae))
    return latents + small * torch.randn(latents.shape, generator=generator), image, mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ADAPTATIONS)
@pytest.mark.parametrize("trainable", [False, True])
def test_the_shared_autoencoder_is_never_changed(kind: str, method: str, trainable: bool) -> None:
    vae = make_vae(kind)
    vae.requires_grad_(trainable)
    next(vae.parameters()).requires_grad_(not trainable)
    latents, image, mask = scene(vae)
    given = [value.clone() for value in (latents, image, mask)]
    before, flags, modes = (
        weights(vae),
        [p.requires_grad for p in vae.parameters()],
        [m.training for m in vae.modules()],
    )
    hooks = [len(module._forward_pre_hooks) for module in vae.modules()]
    adapted, unadapted = adapted_by(method, vae, latents, image, mask)
    assert_same_weights(before, weights(vae))
    assert [parameter.requires_grad for parameter in vae.parameters()] == flags
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert [module.training for module in vae.modules()] == modes
    assert [len(module._forward_pre_hooks) for module in vae.modules()] == hooks
    assert not adapted.requires_grad
    assert adapted.shape == unadapted.shape == image.shape
    assert torch.isfinite(adapted).all()
    for value, original in zip((latents, image, mask), given, strict=True):
        assert torch.equal(value, original)


@pytest.mark.parametrize("kind", KINDS)
def test_all_methods_start_from_the_same_decoding(kind: str) -> None:
    vae = make_vae(kind)
    latents, image, mask = scene(vae)
    with torch.no_grad():
        plain = decode_latents(vae, latents)
    results = {method: adapted_by(method, vae, latents, image, mask) for method in ADAPTATIONS}
    assert sorted(results) == ["finetune", "none", "poisson", "residual", "ridge", "texture"]
    for method, (adapted, unadapted) in results.items():
        assert torch.equal(unadapted, plain), method
        assert torch.equal(adapted, plain) == (method == "none"), method
        outside = 1 - mask
        error = ((adapted - image) * outside).pow(2).sum()
        worse = ((plain - image) * outside).pow(2).sum()
        assert error < worse or method == "none", f"{method} brings the background no nearer to the source"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ADAPTATIONS)
def test_a_sample_does_not_depend_on_its_batch(kind: str, method: str) -> None:
    vae = make_vae(kind)
    latents, image, mask = scene(vae, 2)
    together = adapted_by(method, vae, latents, image, mask)[0]
    for index in range(2):
        one = slice(index, index + 1)
        alone = adapted_by(method, vae, latents[one], image[one], mask[one])[0]
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=2e-4)


# residual, texture and poisson


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["residual", "texture", "poisson"])
def test_latents_of_the_background_save_the_encoding_and_change_nothing(
    kind: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = make_vae(kind)
    latents, image, mask = scene(vae)
    source = Source(vae, image)
    assert torch.equal(source.latents, encode_images(vae, image))
    expected = adapted_by(method, vae, latents, image, mask)[0]
    monkeypatch.setattr(vae, "encode", None)
    assert torch.equal(adapted_by(method, vae, latents, image, mask, source=source)[0], expected)


@pytest.mark.parametrize("adaptation", ["residual", "texture", "poisson"])
def test_the_pipeline_does_not_encode_the_source_again_to_adapt(
    adaptation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make_pipeline()
    encode, calls = pipeline.vae.encode, []
    monkeypatch.setattr(pipeline.vae, "encode", lambda images: calls.append(len(images)) or encode(images))
    picture = np.random.default_rng(0).integers(60, 190, (40, 40, 3), dtype=np.uint8)
    shape = ellipse((40, 40), (20, 20), (5, 6))
    counts = {}
    for method in ("none", adaptation):
        calls.clear()
        pipeline(picture, mask=shape, defect="blob", adapt=method)
        counts[method] = len(calls)
    assert counts[adaptation] == counts["none"] > 0


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_residual_is_the_formula(kind: str) -> None:
    vae = make_vae(kind)
    latents, image, mask = scene(vae)
    decoded, restored = decode_latents(vae, latents), decode_latents(vae, encode_images(vae, image))
    expected = decoded + (image - restored) * (1 - soft_mask(mask))
    adapted = adapted_by("residual", vae, latents, image, mask)[0]
    torch.testing.assert_close(adapted, expected, rtol=0, atol=1e-6)
    inside = mask.bool().expand_as(image)
    assert torch.equal(adapted[inside], decoded[inside]), "the defect is untouched"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["residual", "texture", "poisson"])
@torch.no_grad()
def test_without_an_edit_the_source_comes_back(kind: str, method: str) -> None:
    vae = make_vae(kind)
    _, image, mask = scene(vae)
    adapted = adapted_by(method, vae, encode_images(vae, image), image, mask)[0]
    outside = (soft_mask(mask) == 0).expand_as(image)
    torch.testing.assert_close(adapted[outside], image[outside], rtol=0, atol=1e-5)
    if method != "residual":
        torch.testing.assert_close(adapted, image, rtol=0, atol=1e-5)


@torch.no_grad()
def test_texture_keeps_the_share_of_fine_detail_that_the_edit_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    grain = torch.randn(1, 3, 32, 32, generator=generator) * 0.2
    mask = torch.ones(1, 1, 32, 32)
    for share in (0.0, 0.3, 1.0):
        ratio = texture_ratio(0.5 + share * grain, grain, mask)
        assert ratio.shape == (1, 1, 1, 1)
        assert float(ratio) == pytest.approx(share, abs=1e-3)
    assert float(texture_ratio(3 * grain, grain, mask)) == 1.0
    assert torch.isfinite(texture_ratio(grain, torch.zeros_like(grain), mask)).all(), "a flat source"
    vae = make_vae("tiny")
    latents, image, mask = scene(vae)
    decoded, restored = decode_latents(vae, latents), decode_latents(vae, encode_images(vae, image))
    kept = torch.tensor([_fine(decoded[i], mask[i]) / _fine(restored[i], mask[i]) for i in range(2)]).clamp(0, 1)
    expected = decoded + (image - restored) * (1 - soft_mask(mask) * (1 - kept.view(-1, 1, 1, 1)))
    found = adapted_by("texture", vae, latents, image, mask)[0]
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("fidelity", [0.0, 10.0, 25.0, 40.0])
def test_no_more_detail_comes_back_than_the_fidelity_asks_for(fidelity: float) -> None:
    """Against the signal-to-noise ratio of each picture by itself; white is 1 and black -1."""
    generator = torch.Generator().manual_seed(0)
    restored, mask = torch.zeros(3, 3, 16, 16), torch.zeros(3, 1, 16, 16)
    mask[:, :, 4:9, 3:12] = 1
    loudness = torch.tensor([0.01, 0.1, 0.6]).view(-1, 1, 1, 1)
    image = loudness * torch.randn(3, 3, 16, 16, generator=generator)
    shares = affordable(torch.full((3, 1, 1, 1), 0.8), image, mask, restored, fidelity)
    for share, own, inside in zip(shares.flatten().tolist(), image, mask, strict=True):
        noise = own[:, inside[0] > 0].double().numpy()
        full = 10 * np.log10(4 / np.mean((0.8 * noise) ** 2))
        ratio = 10 * np.log10(4 / np.mean((share * noise) ** 2))
        assert ratio == pytest.approx(max(full, fidelity), abs=1e-3)
        assert share <= 0.8 + 1e-6
    one = affordable(torch.ones(1, 1, 1, 1), restored[:1], mask[:1], restored[:1], fidelity)
    assert one.item() == 1.0  # nothing is lost


def _fine(image: Tensor, mask: Tensor) -> float:
    """Root of the summed squares of pixels less the mean of the 5x5 around them, inside the mask."""
    values = np.pad(image.double().numpy(), ((0, 0), (2, 2), (2, 2)), mode="edge")
    total = 0.0
    for row, column in np.argwhere(mask[0].numpy() > 0):
        block = values[:, row : row + 5, column : column + 5]
        total += float(((block[:, 2, 2] - block.mean(axis=(1, 2))) ** 2).sum())
    return float(np.sqrt(total))


def slow_membrane(values: Tensor, region: Tensor, reach: float) -> Tensor:
    """One equation for each pixel of the region, written down by its neighbours and solved densely in float64."""
    result = torch.zeros_like(values, dtype=torch.float64)
    height, width = values.shape[-2:]
    for sample in range(len(values)):
        places = [(int(y), int(x)) for y, x in np.argwhere(region[sample, 0].numpy() > 0)]
        number = {place: index for index, place in enumerate(places)}
        matrix, right = np.zeros((len(places), len(places))), np.zeros((len(places), values.shape[1]))
        for (y, x), row in number.items():
            matrix[row, row] += 1 / reach**2
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if not (0 <= near[0] < height and 0 <= near[1] < width):
                    continue
                matrix[row, row] += 1
                if near in number:
                    matrix[row, number[near]] -= 1
                else:
                    right[row] += values[sample, :, near[0], near[1]].double().numpy()
        if places:
            rows, columns = zip(*places, strict=True)
            result[sample][:, rows, columns] = torch.from_numpy(np.linalg.solve(matrix, right).T)
    return result


@pytest.mark.parametrize("reach", [1.0, 3.0, 8.0])
def test_membrane_solves_the_screened_poisson_equation(reach: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 3, SIDE, SIDE, generator=generator)
    region = torch.zeros(4, 1, SIDE, SIDE)
    region[0, 0] = torch.from_numpy(ellipse((SIDE, SIDE), (10, 14), (7, 5)))
    region[1, 0, :9, 4:20] = 1  # at the image's border
    region[2, 0, 3:5, 2:22] = region[2, 0, 12:20, 15:24] = 1  # two parts
    found = membrane(values, region, reach)
    torch.testing.assert_close(found.double(), slow_membrane(values, region, reach), rtol=0, atol=2e-3)
    assert not found[:3][region[:3].expand(-1, 3, -1, -1) == 0].any()
    assert not found[3].any(), "an empty region"
    assert not membrane(values, torch.ones_like(region), reach).any(), "no border at all"
    garbage = torch.where(region > 0, 1e6, values)
    assert torch.equal(membrane(garbage, region, reach), found), "values inside the region are not read"
    halves = membrane(values.half(), region, reach)
    assert halves.dtype == torch.float16
    torch.testing.assert_close(halves.float(), found, rtol=0, atol=5e-3)


@pytest.mark.parametrize("grow", [0, 1, 2])
def test_poisson_keeps_the_source_around_the_mask_and_has_no_step_at_its_border(grow: int) -> None:
    """A smooth change that leaks over the mask: a cut at the border would be a step, the membrane leaves none."""
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    distance = ((rows - 24) ** 2 + (columns - 24) ** 2).sqrt()
    image = (0.2 * torch.sin(columns / 5))[None, None].expand(1, 3, -1, -1)
    restored = image + 0.05
    change = -0.8 * torch.sigmoid((14 - distance) / 3)
    decoded = restored + change
    mask = (distance <= 12).float()[None, None]
    decoding = decoding_of(image, mask, decoded, restored)
    plain = texture(Texture(), decoding)
    found = poisson(Poisson(grow=grow, reach=3.0), decoding)
    region = torch.nn.functional.max_pool2d(mask, 2 * grow + 1, stride=1, padding=grow)
    outside = (region == 0).expand_as(image)
    assert torch.equal(found[outside], image[outside])
    expected = plain + slow_membrane(restored - decoded, region, 3.0)
    torch.testing.assert_close(found[~outside].double(), expected[~outside], rtol=0, atol=2e-3)

    def step(result: Tensor) -> float:
        crossing = (region.diff(dim=-1) != 0).expand(-1, 3, -1, -1)
        return float(((result - image).diff(dim=-1).abs())[crossing].mean())

    cut = torch.where(region > 0, plain, image)
    assert step(found) < 0.4 * step(cut)
    centre = (slice(None), slice(None), 24, 24)
    untouched = plain[centre]
    torch.testing.assert_close(found[centre], untouched, rtol=0, atol=0.06)


# finetune


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_finetune_is_adamw_on_the_loss_of_the_paper(kind: str, reduction: Any) -> None:
    """Three steps on a copy of the decoder, with the loss added up pixel by pixel by index, outside and inside."""
    vae = make_vae(kind)
    latents, image, mask = scene(vae, 1)
    chosen = Finetune(steps=3, learning_rate=1e-3, outside=2.0, inside=70.0, reduction=reduction)
    result, losses = finetune(chosen, vae, latents, image, mask)
    assert len(losses) == 4
    own = copy.deepcopy(vae)
    parts = [own.decoder] + ([own.post_quant_conv] if kind == "kl" else [])
    optimizer = torch.optim.AdamW([p for part in parts for p in part.parameters()], lr=1e-3)
    with torch.no_grad():
        first = decode_latents(own, latents)
    inside = mask[0, 0] == 1
    for step in range(4):
        decoded = decode_latents(own, latents)
        outer = ((decoded - image)[0][:, ~inside] ** 2).sum()
        inner = ((decoded - first)[0][:, inside] ** 2).sum()
        loss = 2.0 * outer + 70.0 * inner
        if reduction == "mean":
            loss = loss / (3 * SIDE * SIDE)
        assert losses[step] == pytest.approx(float(loss.detach()), rel=2e-3), step
        assert step > 0 or float(inner.detach()) == 0
        if step < 3:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.testing.assert_close(result, decoded.detach(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_finetuning_lowers_the_loss_and_only_moves_the_decoder(kind: str) -> None:
    vae = make_vae(kind)
    latents, image, mask = scene(vae, 1)
    settings = Finetune(steps=12, learning_rate=5e-3, outside=1.0, inside=1.0)
    _, losses = finetune(settings, vae, latents, image, mask)
    assert len(losses) == 13
    assert losses[-1] < 0.8 * losses[0]
    assert finetune(settings, vae, latents, image, mask)[1] == losses, "the same again"
    assert len(finetune(settings.changed(steps=1), vae, latents, image, mask)[1]) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_finetuning_in_half_precision_keeps_its_small_steps(kind: str) -> None:
    """Weights in bfloat16 would not move at the published rate: 1e-4 is below their resolution."""
    vae = make_vae(kind)
    latents, image, mask = scene(vae, 1)
    settings = Finetune(steps=10, learning_rate=1e-4, outside=1.0, inside=1.0)
    single, expected = finetune(settings, vae, latents, image, mask)
    half, losses = finetune(settings, vae.bfloat16(), *(part.bfloat16() for part in (latents, image, mask)))
    assert half.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in vae.parameters()} == {torch.bfloat16}
    gained = losses[0] - losses[-1]
    assert gained == pytest.approx(expected[0] - expected[-1], rel=0.15)
    assert float((half.float() - single).abs().mean()) < 0.02


def test_more_weight_inside_keeps_the_defect() -> None:
    vae = make_vae("tiny")
    latents, image, mask = scene(vae, 1)
    moved = []
    for inside in (0.0, 100.0):
        settings = Finetune(steps=12, learning_rate=5e-3, inside=inside)
        adapted, plain = adapt(settings, Decoding(vae, latents, image, mask))
        moved.append(float(((adapted - plain) * mask).pow(2).sum()))
    assert moved[1] < 0.5 * moved[0]


# ridge


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_ridge_is_least_squares_over_the_patches_of_the_last_convolution(kind: str) -> None:
    """A design matrix made patch by patch, damping as extra rows, and numpy's lstsq, in float64."""
    vae = make_vae(kind)
    latents, image, mask = scene(vae, 2)
    conv = vae.decoder.layers[-1] if kind == "tiny" else vae.decoder.conv_out
    scale = 2.0 if kind == "tiny" else 1.0
    seen: list[Tensor] = []
    handle = conv.register_forward_hook(lambda _, arguments, output: seen.extend([arguments[0], output]))
    decoded = decode_latents(vae, latents)
    handle.remove()
    inputs, outputs = seen
    assert conv.kernel_size == (3, 3)
    offset = -1.0 if kind == "tiny" else 0.0
    torch.testing.assert_close(scale * outputs + offset, decoded, rtol=0, atol=1e-6)
    found = adapted_by("ridge", vae, latents, image, mask)[0]
    for sample in range(2):
        padded = np.pad(inputs[sample].double().numpy(), ((0, 0), (1, 1), (1, 1)))
        rows, targets = [], []
        for y in range(SIDE):
            for x in range(SIDE):
                rows.append([*padded[:, y : y + 3, x : x + 3].ravel(), 1.0])
                goal = decoded if mask[sample, 0, y, x] == 1 else image
                targets.append((goal - decoded)[sample, :, y, x].double().numpy() / scale)
        design, wanted = np.array(rows), np.array(targets)
        damping = Ridge().damping * (design**2).sum(axis=0).mean()
        size = design.shape[1]
        stacked = np.vstack([design, np.sqrt(damping) * np.eye(size)])
        change = np.linalg.lstsq(stacked, np.vstack([wanted, np.zeros((size, 3))]), rcond=None)[0]
        expected = decoded[sample].double().numpy() + scale * (design @ change).T.reshape(3, SIDE, SIDE)
        np.testing.assert_allclose(found[sample].numpy(), expected, rtol=0, atol=1e-4)
        assert np.abs(expected - decoded[sample].numpy()).max() > 0.05


def test_ridge_without_weight_inside_fits_the_background_better() -> None:
    vae = make_vae("tiny")
    latents, image, mask = scene(vae)
    errors = []
    for inside in (0.0, 1.0, 100.0):
        adapted = adapt(Ridge(inside=inside), Decoding(vae, latents, image, mask))[0]
        errors.append(float(((adapted - image) * (1 - mask)).square().sum()))
    assert errors == sorted(errors)
    assert errors[0] < 0.99 * errors[2]


# A new method


class Inverted(Settings):
    """Of a test."""


def test_a_new_adaptation_is_a_settings_class_and_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = make_vae("tiny")
    decoding = Decoding(vae, *scene(vae))
    unknown: Any = Inverted()
    with pytest.raises(NotImplementedError, match="Inverted"):
        adapt(unknown, decoding)

    @singledispatch
    def extended(settings: Any, decoding: Decoding) -> Tensor:
        return before(settings, decoding)

    before = adaptation._adapted
    extended.register(Inverted, lambda settings, decoding: -decoding.decoded)
    monkeypatch.setattr(adaptation, "_adapted", extended)
    adapted, plain = adapt(unknown, decoding)
    assert torch.equal(adapted, -plain)
    assert torch.equal(adapt(Residual(), decoding)[1], plain)


# The autoencoder


def test_factors_of_the_autoencoders() -> None:
    for kind in KINDS:
        vae = make_vae(kind)
        image = torch.zeros(1, 3, SIDE, SIDE)
        assert encode_images(vae, image).shape[-1] * vae_factor(vae) == SIDE


@torch.no_grad()
def test_scaling_and_shift_are_undone_by_the_decoder() -> None:
    vae = make_vae("kl")
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    scaled = encode_images(vae, image)
    raw = vae.encode(image).latent_dist.mode()
    torch.testing.assert_close(scaled, (raw - 0.1) * 0.7)
    torch.testing.assert_close(decode_latents(vae, scaled), vae.decode(raw).sample, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shares_of_texture_in_half_precision_are_those_in_single(dtype: torch.dtype) -> None:
    """Also under masks of so many pixels that their number is beyond half precision."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 320, 320, generator=generator) * 2 - 1
    restored, mask = image * 0.7, torch.zeros(1, 1, 320, 320)
    mask[:, :, 5:305, 5:305] = 1
    halves = [one.to(dtype) for one in (image, mask, restored)]
    kept = torch.ones(1, 1, 1, 1)
    exact = affordable(kept, image, mask, restored, 26.0)
    found = affordable(kept.to(dtype), *halves, 26.0)
    assert found.dtype == dtype
    assert torch.allclose(found.float(), exact, rtol=0.02)
    ratio = texture_ratio(0.5 * halves[0], halves[0], halves[1])
    assert ratio.dtype == dtype
    assert torch.allclose(ratio.float(), texture_ratio(0.5 * image, image, mask), rtol=0.02)
