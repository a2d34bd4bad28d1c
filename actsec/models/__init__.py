"""Reference architectures, built with any activation of the catalogue: ``cnn(activation=leaky_relu(slope=0.1))``.

A specification is a small dataclass of options; it builds a network, it is none. Importing this imports no torch.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

from actsec import spec as notation
from actsec.activations import activation
from actsec.errors import BadOption, unknown
from actsec.spec import Spec

if TYPE_CHECKING:
    from torch import nn

Init = Literal["auto", "he", "glorot", "torch"]
_INIT = "initial weights: he, glorot, torch (its own), or auto: glorot for tanh, sigmoid, identity; he for the others"
_ACTIVATION = "any activation of the catalogue, with its options"


@dataclasses.dataclass(frozen=True, slots=True)
class MLP:
    """A fully connected network on the flattened input, an activation after every hidden layer."""

    activation: Annotated[Spec, _ACTIVATION] = Spec("relu")  # noqa: RUF009  # a Spec is immutable
    width: Annotated[tuple[int, ...], "units of each hidden layer"] = (128, 128, 64)
    init: Annotated[Init, _INIT] = "auto"

    def __post_init__(self) -> None:
        if not self.width or min(self.width) < 1:
            raise BadOption(f"mlp(width={list(self.width)}) has no units in a layer", "Give widths such as [128, 64].")


@dataclasses.dataclass(frozen=True, slots=True)
class CNN:
    """Two 3x3 convolutions, one hidden linear layer, the logits; an activation after each but the last.

    The second convolution has stride 2; so has the first when both sides of the image are 16 or more. Made for 8x8
    digits (38,282 parameters) and 28x28 images (105,866 parameters with one channel).
    """

    activation: Annotated[Spec, _ACTIVATION] = Spec("relu")  # noqa: RUF009  # a Spec is immutable
    channels: Annotated[tuple[int, ...], "output channels of the two convolutions"] = (16, 32)
    hidden: Annotated[int, "units of the hidden linear layer"] = 64
    init: Annotated[Init, _INIT] = "auto"

    def __post_init__(self) -> None:
        if len(self.channels) != 2 or min(self.channels) < 1 or self.hidden < 1:
            raise BadOption(
                f"cnn(channels={list(self.channels)}, hidden={self.hidden}) is not a network",
                "Give two numbers of channels, such as [16, 32], and at least 1 hidden unit.",
            )


@dataclasses.dataclass(frozen=True, slots=True)
class ResNet20:
    """The CIFAR ResNet of He et al. (2015, section 4.2) of depth 20: 3 stages of 3 blocks, 19 activation calls.

    Batch normalisation after every convolution; shortcuts without parameters (subsample, pad channels with zeros).
    """

    activation: Annotated[Spec, _ACTIVATION] = Spec("relu")  # noqa: RUF009  # a Spec is immutable
    width: Annotated[int, "channels of the first stage, doubled at the second and third"] = 16
    init: Annotated[Init, _INIT] = "auto"

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise BadOption(f"resnet20(width={self.width}) cannot be padded evenly", "Give an even number such as 16.")


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
    from actsec.models import networks

    return networks.build(made, tuple(input_shape), classes, seed)


def _plain(spec: Spec | str) -> Spec:
    wanted = notation.parse(spec) if isinstance(spec, str) else spec
    return Spec(wanted.name.removeprefix("reference:"), wanted.options)
