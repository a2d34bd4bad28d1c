"""The reference networks as torch modules, and how their weights start."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from actsec.activations import Activation, activation
from actsec.errors import BadOption, ModelError
from actsec.models import CNN, MLP, Init, Norm, Options, ResNet20

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
                model = ResNet(options, kind, channels, classes)
        _initialise(model, options.init, kind)
    return model


def _image(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ModelError(f"{name} takes images (channels, height, width), the data has {shape}", "Use reference:mlp.")
    return shape[0], shape[1], shape[2]


def _mlp(options: MLP, kind: Activation, shape: tuple[int, ...], classes: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    inputs, skipped = math.prod(shape), 0
    for width in options.widths:
        wide = width * kind.pieces
        layer = [nn.Linear(inputs, wide), *_norm(options.norm, wide, flat=True), kind.module()]
        layer += _dropout(options.dropout)
        if options.residual and inputs == width:
            layer = [Residual(*layer)]
            skipped += 1
        layers += layer
        inputs = width
    if options.residual and not skipped:
        raise BadOption(
            f"mlp(residual=true): no layer of {[math.prod(shape), *options.widths]} has as many outputs as inputs",
            "Give equal widths, such as mlp(width=[64], depth=5, residual=true).",
        )
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


class Residual(nn.Module):
    """Layers whose input is added to their output."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


def _norm(kind: Norm, channels: int, *, flat: bool = False) -> list[nn.Module]:
    """A norm of channels, with weight and bias each; layer norm of an image takes channels and places together."""
    if kind is None:
        return []
    if kind == "batch":
        return [nn.BatchNorm1d(channels) if flat else nn.BatchNorm2d(channels)]
    return [nn.LayerNorm(channels) if flat else nn.GroupNorm(1, channels)]


def _dropout(share: float) -> list[nn.Module]:
    return [nn.Dropout(share)] if share else []


def _cnn(options: CNN, kind: Activation, shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    channels, height, width = shape
    first, second = options.channels
    stride = 2 if min(height, width) >= 16 else 1
    high, wide = (math.ceil(math.ceil(side / stride) / 2) for side in (height, width))
    more = kind.pieces
    return nn.Sequential(
        nn.Conv2d(channels, first * more, 3, stride=stride, padding=1),
        *_norm(options.norm, first * more),
        kind.module(),
        nn.Conv2d(first, second * more, 3, stride=2, padding=1),
        *_norm(options.norm, second * more),
        kind.module(),
        nn.Flatten(),
        nn.Linear(second * high * wide, options.hidden * more),
        *_norm(options.norm, options.hidden * more, flat=True),
        kind.module(),
        *_dropout(options.dropout),
        nn.Linear(options.hidden, classes),
    )


class ResNet(nn.Module):
    """The CIFAR ResNet of depth 20 with any activation."""

    def __init__(self, options: ResNet20, kind: Activation, channels: int, classes: int) -> None:
        super().__init__()
        width = options.width
        self.conv, self.norm = _convolution(options.norm, channels, width * kind.pieces, 1)
        self.act = kind.module()
        stages = [(width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)]
        blocks: list[nn.Module] = []
        for inputs, outputs, stride in stages:
            blocks.append(Block(options, kind, inputs, outputs, stride))
            blocks += [Block(options, kind, outputs, outputs, 1) for _ in range(2)]
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.blocks(self.act(self.norm(self.conv(x))))
        logits: Tensor = self.linear(h.mean((2, 3)))
        return logits


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters."""

    def __init__(self, options: ResNet20, kind: Activation, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = outputs * kind.pieces
        self.conv1, self.norm1 = _convolution(options.norm, inputs, wide, stride)
        self.act1 = kind.module()
        self.conv2, self.norm2 = _convolution(options.norm, outputs, wide, 1)
        self.act2 = kind.module()
        self.stride, self.pad, self.pieces = stride, (outputs - inputs) // 2, kind.pieces
        self.residual = options.residual

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        if self.residual:
            if self.pad:
                x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
            # maxout takes groups of channels: the shortcut goes to every member of its group
            h = h + (x if self.pieces == 1 else x.repeat_interleave(self.pieces, 1))
        out: Tensor = self.act2(h)
        return out


def _convolution(norm: Norm, inputs: int, outputs: int, stride: int) -> tuple[nn.Conv2d, nn.Module]:
    """A 3x3 convolution, with a bias where no norm brings one, and what normalises it."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=norm is None)
    return convolution, (_norm(norm, outputs) or [nn.Identity()])[0]


def _initialise(model: nn.Module, init: Init, kind: Activation) -> None:
    """Set the weights of every convolution and linear layer; biases to zero. "torch" leaves torch's own.

    He et al. (2015) keep the second moment of a relu network: standard deviation gain / sqrt(fan_in). Glorot & Bengio
    (2010) suit activations that are linear around zero; "auto" divides by their slope there. LeCun et al. (1998) is
    1 / sqrt(fan_in); "orthogonal" (Saxe et al. 2014) has orthonormal rows or columns times He's gain. No activation
    follows the logits, so they start by Glorot.
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
        elif init == "orthogonal":
            nn.init.orthogonal_(layer.weight, gain=_gain(kind))
        else:
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=(1.0 if init == "lecun" else _gain(kind)) / math.sqrt(fan_in))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _gain(kind: Activation) -> float:
    """sqrt(2 / (1 + slope^2)) for the leaky family, 1 for selu (Klambauer et al. 2017), sqrt(2) otherwise."""
    if kind.name == "selu":
        return 1.0
    slope = getattr(kind.options, "slope", getattr(kind.options, "init", 0.0))
    return math.sqrt(2 / (1 + slope**2))
