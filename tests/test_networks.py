"""What prompts become, the one call of UNet and control branch, and how networks are placed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from components import awaken, make_components, make_editor
from hypothesis import given, settings
from hypothesis import strategies as st

from adabldm.core.errors import InputError
from adabldm.core.precision import computes_half
from adabldm.core.settings import SettingsError
from adabldm.models.components import channels_last, to_channels_last
from adabldm.models.conditioning import TextConditioning, check_prompts, encode_prompts, join
from adabldm.models.denoiser import ControlFeatures, Denoiser
from adabldm.models.devices import edit_dtype, pick_device, pick_dtype

CPU = torch.device("cpu")

# Prompts


@torch.no_grad()
@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.sampled_from(["", "tile, a tile with a crack", "żółty größe 欠陥 🙂", "spot"]), min_size=1, max_size=9)
)
def test_a_prompt_has_the_same_embedding_in_every_batch(prompts: list[str]) -> None:
    components = make_components(control=False)
    together = encode_prompts(components, prompts).embeddings
    assert together.shape == (len(prompts), components.tokenizer.model_max_length, 16)
    for prompt, own in zip(prompts, together, strict=True):
        alone = encode_prompts(components, [prompt]).embeddings[0]
        torch.testing.assert_close(alone, own, rtol=1e-4, atol=1e-5)  # a sum's last bit may depend on the batch


@torch.no_grad()
def test_different_prompts_have_different_embeddings() -> None:
    first, second = encode_prompts(make_components(control=False), ["a crack", ""]).embeddings
    assert (first - second).abs().max() > 1e-2


def test_long_prompts_are_refused_with_their_length_and_nothing_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    components = make_components(control=False)
    monkeypatch.setattr(components.text_encoder, "forward", None)
    for refuse in (check_prompts, encode_prompts):
        with pytest.raises(InputError, match="has 502 tokens, but the text encoder reads at most 48; shorten it"):
            refuse(components, ["tile", " ".join(["scratch"] * 500)])
    check_prompts(components, ["tile"])


def test_prompts_are_picked_joined_and_repeated_in_order() -> None:
    values = torch.arange(6.0).view(3, 2, 1)
    conditioning = TextConditioning(values)
    assert len(conditioning) == 3
    for indices in ([2, 0, 2], torch.tensor([2, 0, 2])):
        assert torch.equal(conditioning.pick(indices).embeddings, values[[2, 0, 2]])
    assert torch.equal(join([conditioning, conditioning.pick([1])]).embeddings, values[[0, 1, 2, 1]])
    assert torch.equal(conditioning.repeat(2).embeddings, values[[0, 1, 2, 0, 1, 2]])
    assert conditioning.to(torch.bfloat16).embeddings.dtype == torch.bfloat16


# The denoiser


def inputs(components: Any) -> tuple[torch.Tensor, torch.Tensor, TextConditioning, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    trimaps = torch.randint(0, 3, (2, 1, 32, 32), generator=generator).float() / 2
    return latents, torch.tensor([700, 20]), encode_prompts(components, ["a hole", ""]), trimaps


@torch.no_grad()
def test_the_denoiser_is_the_unet_with_the_features_of_the_control_branch() -> None:
    components = make_components()
    unet, branch = components.unet, components.controlnet
    assert branch is not None
    latents, timesteps, prompts, trimaps = inputs(components)
    denoiser, empty = Denoiser(components), prompts.pick([1, 1])
    down, mid = branch(
        latents, timesteps, encoder_hidden_states=empty.embeddings, controlnet_cond=trimaps, return_dict=False
    )
    features = denoiser.control(latents, timesteps, empty, trimaps)
    assert all(torch.equal(one, other) for one, other in zip([*features.down, features.mid], [*down, mid], strict=True))
    text = prompts.embeddings
    expected = unet(
        latents,
        timesteps,
        encoder_hidden_states=text,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample
    assert torch.equal(denoiser.predict(latents, timesteps, prompts, features), expected)
    alone = denoiser.predict(latents, timesteps, prompts)
    assert torch.equal(alone, unet(latents, timesteps, encoder_hidden_states=text).sample)
    assert (alone - expected).abs().max() > 1e-2


def test_gradients_flow_through_the_denoiser_to_what_is_trained() -> None:
    components = make_components()
    branch = components.controlnet
    assert branch is not None
    branch.requires_grad_(True)
    latents, timesteps, prompts, trimaps = inputs(components)
    denoiser = Denoiser(components)
    features = denoiser.control(latents, timesteps, prompts.pick([1, 1]), trimaps)
    denoiser.predict(latents, timesteps, prompts, features).square().mean().backward()
    assert all(parameter.grad is not None for parameter in branch.parameters())
    assert all(parameter.grad is None for parameter in components.unet.parameters())


def test_features_are_repeated_batch_by_batch() -> None:
    features = ControlFeatures((torch.arange(2.0), torch.arange(3.0)), torch.arange(1.0))
    twice = features.repeat(2)
    assert [part.tolist() for part in twice.down] == [[0, 1, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert twice.mid.tolist() == [0, 0]


# Where networks are


def strides(components: Any) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.{key}": parameter.stride()
        for name, module in components.modules().items()
        for key, parameter in module.named_parameters()
    }


def test_networks_get_their_memory_format_back_with_their_values_and_gradients() -> None:
    components = make_components()
    branch: Any = components.controlnet
    branch.requires_grad_(True)
    weight = branch.conv_in.weight
    weight.grad = torch.randn_like(weight)
    before, values, grad = strides(components), weight.detach().clone(), weight.grad.clone()
    with channels_last([branch]):
        assert weight is branch.conv_in.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(weight, values)
    assert strides(components) == before
    assert weight.grad.stride() == weight.stride()
    assert torch.equal(weight, values)
    assert torch.equal(weight.grad, grad)


def test_networks_that_were_placed_for_edits_stay_so() -> None:
    components = make_components()
    to_channels_last([components.unet])
    before = strides(components)
    with pytest.raises(RuntimeError, match="on the way"), channels_last([components.unet, components.vae]):
        raise RuntimeError("on the way")
    assert strides(components) == before


def test_an_editor_moves_its_networks_for_good() -> None:
    editor = make_editor()
    assert editor.to(CPU, torch.bfloat16) is editor
    assert {p.dtype for module in editor.components.modules().values() for p in module.parameters()} == {torch.bfloat16}
    weight = editor.components.unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_a_new_control_branch_listens_to_the_trimap_and_is_silent() -> None:
    components: Any = make_components(awake=False)
    latents, timesteps, prompts, trimaps = inputs(components)
    embedding = components.controlnet.controlnet_cond_embedding
    assert (embedding(trimaps) - embedding(1 - trimaps)).abs().mean() > 1e-2
    features = Denoiser(components).control(latents, timesteps, prompts, trimaps)
    assert not any(part.any() for part in [*features.down, features.mid])
    awaken(components.controlnet)


# Devices and precision


def test_devices_and_precisions_that_are_not_there_are_refused_by_field() -> None:
    assert pick_device("cpu") == CPU
    for call, field in (
        (lambda: pick_device("cuda:77"), "device"),
        (lambda: pick_device("abacus"), "device"),
        (lambda: pick_dtype("float8"), "dtype"),
        (lambda: edit_dtype("float8", CPU, finetunes=False), "dtype"),
    ):
        with pytest.raises(SettingsError) as caught:
            call()
        assert [one.field for one in caught.value.fields] == [field]


def test_presets_that_fine_tune_stay_in_single_precision() -> None:
    assert edit_dtype("auto", CPU, finetunes=True) == edit_dtype("auto", torch.device("cuda"), finetunes=True)
    assert edit_dtype("auto", torch.device("cuda"), finetunes=True) == torch.float32
    assert edit_dtype("auto", torch.device("cuda"), finetunes=False) == torch.bfloat16
    assert edit_dtype("auto", CPU, finetunes=False) == (torch.bfloat16 if computes_half(CPU) else torch.float32)
    assert edit_dtype("float16", CPU, finetunes=True) == torch.float16
