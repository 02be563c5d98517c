"""Weights in 8 bits: what is read back, what is refused, and the base that ships in this form."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from adabldm.core.errors import InputError
from adabldm.models.clean_latents import TRIMAP_AND_LATENTS, conditioning_of
from adabldm.models.eight_bit import FILE, SCALE, load_eight_bit, save_eight_bit
from adabldm.models.store import load_general, shipped


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-6, 2), st.integers(1, 9), st.integers(1, 9))
def test_weights_come_back_within_half_a_level(tmp_path_factory, seed, magnitude, rows, columns):
    folder = tmp_path_factory.mktemp("bits")
    generator = torch.Generator().manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(columns, rows, 3), nn.Linear(columns, rows), nn.GroupNorm(1, rows))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 10.0**magnitude)
        module[0].weight[0] = 0.0  # a row of zeros has no scale
    before = {name: values.clone() for name, values in module.state_dict().items()}
    save_eight_bit(module, folder)
    load_eight_bit(module, folder)
    for name, values in module.state_dict().items():
        if values.ndim < 2:
            np.testing.assert_array_equal(values, before[name].half().float())
            continue
        for row, own in zip(values.flatten(1), before[name].flatten(1), strict=True):
            largest = float(own.abs().max())
            assert float((row - own).abs().max()) <= largest / 254 * 1.001
            assert float(row.abs().max()) == pytest.approx(largest, rel=1e-6)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    save_eight_bit(nn.Linear(3, 2), tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("weight" + SCALE), "scale is missing"),
        (lambda w: w.update({"bias" + SCALE: torch.ones(2)}), "scale is missing or superfluous"),
        (lambda w: w.update({"weight" + SCALE: torch.ones(3)}), "another shape"),
        (lambda w: w.pop("bias"), "bias"),
        (lambda w: w.update(stranger=torch.ones(1)), "stranger"),
    ],
)
def test_files_of_another_form_are_refused(stored, change, words):
    weights = load_file(stored / FILE)
    change(weights)
    save_file(weights, stored / FILE)
    with pytest.raises(ValueError, match=words):
        load_eight_bit(nn.Linear(3, 2), stored)


def test_the_general_base_ships_with_its_branch():
    components = load_general("general")
    assert conditioning_of(components) == TRIMAP_AND_LATENTS
    assert all(values.dtype == torch.float32 for values in components.unet.state_dict().values())


def test_a_damaged_file_is_one_sentence(tmp_path):
    shutil.copytree(shipped("general"), tmp_path / "base")
    path = tmp_path / "base" / "controlnet" / FILE
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a loadable controlnet"):
        load_general(str(tmp_path / "base"))
