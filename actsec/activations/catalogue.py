"""The catalogue of activations: names, formulas and options. No torch until a module or a property is asked for.

An activation's options are the fields of its dataclass, so that ``leaky_relu(slope=0.1)`` is read, checked and printed
by the one notation of ``actsec.spec``. Unknown names and options raise; nothing falls back to another activation.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from actsec import spec as notation
from actsec.errors import BadOption, unknown
from actsec.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from actsec.activations.properties import Properties


@dataclasses.dataclass(frozen=True, slots=True)
class Plain:
    """No options."""


@dataclasses.dataclass(frozen=True, slots=True)
class LeakyReLU:
    """Options of leaky_relu."""

    slope: Annotated[float, "factor of negative pre-activations"] = 0.01

    def __post_init__(self) -> None:
        _require(math.isfinite(self.slope), "leaky_relu(slope=...)", self.slope, "a finite number such as 0.01")


@dataclasses.dataclass(frozen=True, slots=True)
class PReLU:
    """Options of prelu."""

    init: Annotated[float, "factor of negative pre-activations before training"] = 0.25

    def __post_init__(self) -> None:
        _require(math.isfinite(self.init), "prelu(init=...)", self.init, "a finite number such as 0.25")


@dataclasses.dataclass(frozen=True, slots=True)
class ELU:
    """Options of elu."""

    alpha: Annotated[float, "depth of the negative plateau"] = 1.0

    def __post_init__(self) -> None:
        _require(0 < self.alpha < math.inf, "elu(alpha=...)", self.alpha, "a positive number such as 1.0")


@dataclasses.dataclass(frozen=True, slots=True)
class CELU:
    """Options of celu."""

    alpha: Annotated[float, "depth of the negative plateau"] = 1.0

    def __post_init__(self) -> None:
        _require(0 < self.alpha < math.inf, "celu(alpha=...)", self.alpha, "a positive number such as 1.0")


@dataclasses.dataclass(frozen=True, slots=True)
class GELU:
    """Options of gelu."""

    approximate: Annotated[Literal["none", "tanh"], "the exact formula, or its tanh approximation"] = "none"


@dataclasses.dataclass(frozen=True, slots=True)
class Softplus:
    """Options of softplus."""

    beta: Annotated[float, "sharpness: the limit of large beta is relu"] = 1.0

    def __post_init__(self) -> None:
        _require(0 < self.beta < math.inf, "softplus(beta=...)", self.beta, "a positive number such as 1.0")


@dataclasses.dataclass(frozen=True, slots=True)
class HardTanh:
    """Options of hardtanh."""

    lower: Annotated[float, "lowest output"] = -1.0
    upper: Annotated[float, "highest output"] = 1.0

    def __post_init__(self) -> None:
        _require(self.lower < self.upper, "hardtanh(lower=...)", self.lower, f"a number below upper={self.upper}")


@dataclasses.dataclass(frozen=True, slots=True)
class KWTA:
    """Options of kwta."""

    fraction: Annotated[float, "share of the units of one call that stay on, per example"] = 0.1

    def __post_init__(self) -> None:
        _require(0 < self.fraction <= 1, "kwta(fraction=...)", self.fraction, "a share above 0 and at most 1")


def _require(holds: bool, option: str, value: float, wanted: str) -> None:
    if not holds:
        raise BadOption(f"{option}: {value} is not {wanted}", f"Give {wanted}.")


_CATALOGUE: dict[str, tuple[type, str]] = {
    "relu": (Plain, "max(0, z)"),
    "leaky_relu": (LeakyReLU, "z if z > 0 else slope * z"),
    "prelu": (PReLU, "z if z > 0 else a * z, with a learned, one a call"),
    "elu": (ELU, "z if z > 0 else alpha * (exp(z) - 1)"),
    "celu": (CELU, "z if z > 0 else alpha * (exp(z / alpha) - 1)"),
    "selu": (Plain, "1.0507 * (z if z > 0 else 1.6733 * (exp(z) - 1))"),
    "gelu": (GELU, "z * Phi(z), Phi the standard normal distribution function"),
    "silu": (Plain, "z * sigmoid(z)"),
    "mish": (Plain, "z * tanh(log(1 + exp(z)))"),
    "hardswish": (Plain, "z * min(max(z + 3, 0), 6) / 6"),
    "tanh": (Plain, "tanh(z)"),
    "hardtanh": (HardTanh, "min(max(z, lower), upper)"),
    "sigmoid": (Plain, "1 / (1 + exp(-z))"),
    "hardsigmoid": (Plain, "min(max(z + 3, 0), 6) / 6"),
    "softplus": (Softplus, "log(1 + exp(beta * z)) / beta"),
    "relu6": (Plain, "min(max(0, z), 6)"),
    "identity": (Plain, "z"),
    "kwta": (KWTA, "z if z is among the largest fraction of the call's units, else 0"),
}


def names() -> tuple[str, ...]:
    """Every activation's name, sorted."""
    return tuple(sorted(_CATALOGUE))


def formula(name: str) -> str:
    """The formula of ``name`` as text, z being the pre-activation. Raises UnknownName."""
    return _entry(name)[1]


@dataclasses.dataclass(frozen=True, slots=True)
class Activation:
    """One activation with its options, such as ``leaky_relu(slope=0.1)``."""

    name: str
    options: Any

    @property
    def formula(self) -> str:
        """The formula as text, z being the pre-activation."""
        return _entry(self.name)[1]

    @property
    def spec(self) -> Spec:
        """Name and every option, the notation that ``activation`` reads back."""
        return notation.full(self.options, self.name)

    @property
    def learnable(self) -> bool:
        """Whether it has a parameter that training changes."""
        return self.name == "prelu"

    @property
    def elementwise(self) -> bool:
        """Whether a unit's output depends on its own pre-activation only."""
        return self.name != "kwta"

    @property
    def properties(self) -> Properties:
        """What it is like, computed in float64 and kept: range, slopes, whether it can die, where it saturates."""
        from actsec.activations.properties import properties

        return properties(self)

    def module(self) -> nn.Module:
        """A new module that computes it; a learnable one has a parameter of its own."""
        from actsec.activations.functions import module

        return module(self)

    def __call__(self, z: Tensor) -> Tensor:
        """f(z), any shape, floating point; prelu with its slope at ``init``."""
        from actsec.activations.functions import evaluate

        return evaluate(self, z)

    def derivative(self, z: Tensor) -> Tensor:
        """f'(z) by autograd, same shape as z, off z's graph; at a kink, torch's choice (relu: 0 at 0)."""
        from actsec.activations.properties import derivative

        return derivative(self, z)

    def saturated(self, z: Tensor) -> Tensor:
        """Where |f'(z)| < 0.05 max |f'|, as booleans of z's shape."""
        from actsec.activations.properties import saturated

        return saturated(self, z)


def activation(wanted: Spec | str | Activation) -> Activation:
    """The activation of a spec or its text. Raises UnknownName, BadOption or SpecError; never falls back."""
    if isinstance(wanted, Activation):
        return wanted
    spec = notation.parse(wanted) if isinstance(wanted, str) else wanted
    return Activation(spec.name, notation.build(_entry(spec.name)[0], spec, "activation"))


def make(wanted: Spec | str | Activation) -> nn.Module:
    """A new module of a spec or its text: ``make("leaky_relu(slope=0.1)")``."""
    return activation(wanted).module()


def _entry(name: str) -> tuple[type, str]:
    if name not in _CATALOGUE:
        raise unknown("activation", name, _CATALOGUE)
    return _CATALOGUE[name]
