"""Reference architectures, built with any activation of the catalogue: ``cnn(activation=leaky_relu(slope=0.1))``.

A specification is a small dataclass of options; it builds a network, it is none. Importing this imports no torch.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Annotated, Literal

from actsec import spec as notation
from actsec.activations import activation
from actsec.errors import BadOption, unknown
from actsec.spec import Spec

if TYPE_CHECKING:
    from torch import nn

LAYERS = 1000
"""Hidden layers of a reference network."""
PARAMETERS = 1 << 28
"""Weights of a reference network, checked before any is allocated: 1 GiB in float32."""

Init = Literal["auto", "he", "glorot", "lecun", "orthogonal", "torch"]
Norm = Literal["batch", "layer"] | None
_INIT = (
    "initial weights: he, glorot, lecun, orthogonal, torch (its own), or auto: glorot for tanh, sigmoid, identity; he "
    "for the others"
)
_ACTIVATION = "any activation of the catalogue, with its options"
_NORM = "normalisation before every activation: none, batch, or layer (over all units of an example)"
_DROPOUT = "share of the units dropped in training after every hidden linear layer's activation"


@dataclasses.dataclass(frozen=True, slots=True)
class MLP:
    """A fully connected network on the flattened input: linear, norm, activation, dropout in every hidden layer.

    With ``residual`` a hidden layer with as many inputs as outputs adds its input to its output (He et al. 2016).
    """

    activation: Annotated[Spec, _ACTIVATION] = Spec("relu")  # noqa: RUF009  # a Spec is immutable
    width: Annotated[tuple[int, ...], "units of each hidden layer"] = (128, 128, 64)
    depth: Annotated[int | None, "hidden layers: widths are left out, or the last one repeated; none: as listed"] = None
    norm: Annotated[Norm, _NORM] = None
    residual: Annotated[bool, "add a hidden layer's input to its output where they are equally wide"] = False
    dropout: Annotated[float, _DROPOUT] = 0.0
    init: Annotated[Init, _INIT] = "auto"

    def __post_init__(self) -> None:
        if not self.width or min(self.width) < 1:
            raise BadOption(f"mlp(width={list(self.width)}) has no units in a layer", "Give widths such as [128, 64].")
        if self.depth is not None and self.depth < 1:
            raise BadOption(f"mlp(depth={self.depth}) has no hidden layer", "Give 1 or more.")
        if max(self.depth or 0, len(self.width)) > LAYERS:
            asked = f"depth={self.depth}" if self.depth else f"{len(self.width)} widths"
            raise BadOption(f"mlp: {asked}, the limit is {LAYERS:,} hidden layers", "Give fewer.")
        _check_dropout("mlp", self.dropout)

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of each of the hidden layers, ``depth`` of them."""
        if self.depth is None:
            return self.width
        return (*self.width, *self.width[-1:] * self.depth)[: self.depth]


@dataclasses.dataclass(frozen=True, slots=True)
class CNN:
    """Two 3x3 convolutions, one hidden linear layer, the logits; an activation after each but the last.

    The second convolution has stride 2; so has the first when both sides of the image are 16 or more. Made for 8x8
    digits (38,282 parameters) and 28x28 images (105,866 parameters with one channel).
    """

    activation: Annotated[Spec, _ACTIVATION] = Spec("relu")  # noqa: RUF009  # a Spec is immutable
    channels: Annotated[tuple[int, ...], "output channels of the two convolutions"] = (16, 32)
    hidden: Annotated[int, "units of the hidden linear layer"] = 64
    norm: Annotated[Norm, _NORM] = None
    dropout: Annotated[float, _DROPOUT] = 0.0
    init: Annotated[Init, _INIT] = "auto"

    def __post_init__(self) -> None:
        if len(self.channels) != 2 or min(self.channels) < 1 or self.hidden < 1:
            raise BadOption(
                f"cnn(channels={list(self.channels)}, hidden={self.hidden}) is not a network",
                "Give two numbers of channels, such as [16, 32], and at least 1 hidden unit.",
            )
        _check_dropout("cnn", self.dropout)


@dataclasses.dataclass(frozen=True, slots=True)
class ResNet20:
    """The CIFAR ResNet of He et al. (2015, section 4.2) of depth 20: 3 stages of 3 blocks, 19 activation calls.

    A norm after every convolution (convolutions have biases where there is none); shortcuts without parameters
    (subsample, pad channels with zeros). ``residual=false`` is their plain network of 20 layers.
    """

    activation: Annotated[Spec, _ACTIVATION] = Spec("relu")  # noqa: RUF009  # a Spec is immutable
    width: Annotated[int, "channels of the first stage, doubled at the second and third"] = 16
    norm: Annotated[Norm, _NORM] = "batch"
    residual: Annotated[bool, "shortcuts around every block"] = True
    init: Annotated[Init, _INIT] = "auto"

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise BadOption(f"resnet20(width={self.width}) cannot be padded evenly", "Give an even number such as 16.")


def _check_dropout(name: str, share: float) -> None:
    if not 0 <= share < 1:
        raise BadOption(f"{name}(dropout={share}) is not a share of the units", "Give 0 or a share below 1.")


Options = MLP | CNN | ResNet20
_MODELS: dict[str, type[Options]] = {"mlp": MLP, "cnn": CNN, "resnet20": ResNet20}


def names() -> tuple[str, ...]:
    """Every reference architecture's name, sorted."""
    return tuple(sorted(_MODELS))


def options(spec: Spec | str) -> Options:
    """The checked options of ``cnn(activation=gelu)``; a leading ``reference:`` is allowed.

    Raises UnknownName for an architecture, option or activation nobody knows, BadOption or SpecError otherwise.
    """
    wanted = _plain(spec)
    if wanted.name not in _MODELS:
        raise unknown("reference model", wanted.name, _MODELS)
    made = notation.build(_MODELS[wanted.name], wanted, "reference model")
    activation(made.activation)
    return made


def canonical(spec: Spec | str) -> Spec:
    """The same spec with every option written out, the activation's too: what a job's hash takes."""
    made = options(spec)
    written = dataclasses.replace(made, activation=activation(made.activation).spec)
    return notation.full(written, _plain(spec).name)


def build(spec: Spec | str, input_shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """A new, untrained network in train mode: inputs (n, *input_shape) float32, logits (n, classes).

    Every activation call has a module of its own, so a learnable activation has a parameter per call. The weights are a
    function of all four arguments; the global random state is left as it was. Raises what ``options`` raises, and
    ModelError when the architecture cannot take the input shape.
    """
    made = options(spec)
    _check_size(made, spec, tuple(input_shape), classes)
    from actsec.models import networks

    return networks.build(made, tuple(input_shape), classes, seed)


def weights(made: Options, input_shape: tuple[int, ...], classes: int) -> int:
    """How many weights the linear and convolutional layers of a network have, without building it; biases left out."""
    pieces = activation(made.activation).pieces
    if isinstance(made, MLP):
        sides = (math.prod(input_shape), *made.widths, classes)
        layers = [a * b for a, b in itertools.pairwise(sides)]
        return pieces * sum(layers[:-1]) + layers[-1]
    channels, *image = input_shape
    if isinstance(made, CNN):
        first, second = made.channels
        stride = 2 if min(image) >= 16 else 1
        places = math.prod(math.ceil(math.ceil(side / stride) / 2) for side in image)
        convolutions = 9 * channels * first + 9 * first * second
        return pieces * (convolutions + second * places * made.hidden) + made.hidden * classes
    stages = made.width**2 * 9 * (6 + (2 + 4 * 5) + (8 + 16 * 5))
    return pieces * (9 * channels * made.width + stages) + 4 * made.width * classes


def _check_size(made: Options, spec: Spec | str, input_shape: tuple[int, ...], classes: int) -> None:
    if len(input_shape) != 3 and not isinstance(made, MLP):
        return  # refused for its shape when it is built
    if (count := weights(made, input_shape, classes)) > PARAMETERS:
        raise BadOption(
            f"{spec} has {count:,} weights for inputs of shape {input_shape}, the limit is {PARAMETERS:,}",
            "Give smaller widths or channels, or an architecture of your own: nets.py:make.",
        )


def _plain(spec: Spec | str) -> Spec:
    wanted = notation.parse(spec) if isinstance(spec, str) else spec
    return Spec(wanted.name.removeprefix("reference:"), wanted.options)
