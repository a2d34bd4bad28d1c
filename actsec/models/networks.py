"""The reference networks as torch modules, and how their weights start."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from actsec.activations import Activation, activation
from actsec.errors import BadOption, ModelError
from actsec.models import CNN, MLP, Init, Options

# Glorot & Bengio assume unit slope at zero; the sigmoids' slopes there, 1/4 and 1/6, are made up for.
_GLOROT = {"tanh": 1.0, "hardtanh": 1.0, "identity": 1.0, "sigmoid": 4.0, "hardsigmoid": 6.0}


def build(options: Options, input_shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """The network of ``options``; see ``actsec.models.build``."""
    if classes < 2:
        raise BadOption(f"a classifier of {classes} classes", "Give at least 2.")
    if not input_shape or min(input_shape) < 1:
        raise ModelError(f"an input of shape {input_shape} holds nothing", "Give the shape of one example.")
    kind = activation(options.activation)
    # Only the CPU generator is forked and seeded: torch.manual_seed would also reseed every accelerator.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if isinstance(options, MLP):
            model: nn.Module = _mlp(options, kind, input_shape, classes)
        else:
            channels, height, width = _image(input_shape, type(options).__name__.lower())
            if isinstance(options, CNN):
                model = _cnn(options, kind, (channels, height, width), classes)
            else:
                model = ResNet(kind, channels, options.width, classes)
        _initialise(model, options.init, kind)
    return model


def _image(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ModelError(f"{name} takes images (channels, height, width), the data has {shape}", "Use reference:mlp.")
    return shape[0], shape[1], shape[2]


def _mlp(options: MLP, kind: Activation, shape: tuple[int, ...], classes: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = math.prod(shape)
    for width in options.width:
        layers += [nn.Linear(inputs, width), kind.module()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def _cnn(options: CNN, kind: Activation, shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    channels, height, width = shape
    first, second = options.channels
    stride = 2 if min(height, width) >= 16 else 1
    high, wide = (math.ceil(math.ceil(side / stride) / 2) for side in (height, width))
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, stride=stride, padding=1),
        kind.module(),
        nn.Conv2d(first, second, 3, stride=2, padding=1),
        kind.module(),
        nn.Flatten(),
        nn.Linear(second * high * wide, options.hidden),
        kind.module(),
        nn.Linear(options.hidden, classes),
    )


class ResNet(nn.Module):
    """The CIFAR ResNet of depth 20 with any activation."""

    def __init__(self, kind: Activation, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.act = kind.module()
        stages = [(width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)]
        blocks: list[nn.Module] = []
        for inputs, outputs, stride in stages:
            blocks.append(Block(kind, inputs, outputs, stride))
            blocks += [Block(kind, outputs, outputs, 1) for _ in range(2)]
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.blocks(self.act(self.norm(self.conv(x))))
        logits: Tensor = self.linear(h.mean((2, 3)))
        return logits


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters."""

    def __init__(self, kind: Activation, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.act1 = kind.module()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.act2 = kind.module()
        self.stride, self.pad = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        if self.pad:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        out: Tensor = self.act2(h + x)
        return out


def _initialise(model: nn.Module, init: Init, kind: Activation) -> None:
    """Set the weights of every convolution and linear layer; biases to zero. "torch" leaves torch's own.

    He et al. (2015) keep the second moment of a relu network: standard deviation gain / sqrt(fan_in). Glorot & Bengio
    (2010) suit activations that are linear around zero; "auto" divides by their slope there. No activation follows the
    logits, so they start by Glorot.
    """
    if init == "torch":
        return
    glorot = init == "glorot" or (init == "auto" and kind.name in _GLOROT)
    gain = _GLOROT.get(kind.name, 1.0) if init == "auto" else 1.0
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        if layer is layers[-1]:
            nn.init.xavier_uniform_(layer.weight)
        elif glorot:
            nn.init.xavier_uniform_(layer.weight, gain=gain)
        else:
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=_gain(kind) / math.sqrt(fan_in))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _gain(kind: Activation) -> float:
    """sqrt(2 / (1 + slope^2)) for the leaky family, 1 for selu (Klambauer et al. 2017), sqrt(2) otherwise."""
    if kind.name == "selu":
        return 1.0
    slope = getattr(kind.options, "slope", getattr(kind.options, "init", 0.0))
    return math.sqrt(2 / (1 + slope**2))
