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

    approximate: Annotated[Literal["none", "tanh"] | None, "the exact formula, or its tanh approximation"] = "none"

    def __post_init__(self) -> None:
        if self.approximate is None:  # the notation reads the word none so
            object.__setattr__(self, "approximate", "none")


@dataclasses.dataclass(frozen=True, slots=True)
class Swish:
    """Options of swish."""

    beta: Annotated[float, "sharpness: 1 is silu, the limit of large beta is relu"] = 1.0

    def __post_init__(self) -> None:
        _require(0 < self.beta < math.inf, "swish(beta=...)", self.beta, "a positive number such as 1.0")


@dataclasses.dataclass(frozen=True, slots=True)
class PSwish:
    """Options of pswish."""

    init: Annotated[float, "sharpness before training"] = 1.0

    def __post_init__(self) -> None:
        _require(0 < self.init < math.inf, "pswish(init=...)", self.init, "a positive number such as 1.0")


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """Options of step."""

    window: Annotated[float, "the straight-through gradient is 1 where |z| is at most this, else 0"] = 1.0

    def __post_init__(self) -> None:
        _require(0 < self.window < math.inf, "step(window=...)", self.window, "a positive number such as 1.0")


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


@dataclasses.dataclass(frozen=True, slots=True)
class Maxout:
    """Options of maxout."""

    pieces: Annotated[int, "pre-activations of one output: neighbouring channels"] = 2

    def __post_init__(self) -> None:
        _require(self.pieces >= 2, "maxout(pieces=...)", self.pieces, "a whole number of at least 2")


def _require(holds: bool, option: str, value: float, wanted: str) -> None:
    if not holds:
        raise BadOption(f"{option}: {value} is not {wanted}", f"Give {wanted}.")


# Each formula and derivative, up to a semicolon, is an expression that a test evaluates beside the function.
_CATALOGUE: dict[str, tuple[type, str, str]] = {
    "relu": (Plain, "max(0, z)", "1 if z > 0 else 0"),
    "leaky_relu": (LeakyReLU, "z if z > 0 else slope * z", "1 if z > 0 else slope"),
    "prelu": (PReLU, "z if z > 0 else a * z; a is learned, one a call", "1 if z > 0 else a"),
    "elu": (ELU, "z if z > 0 else alpha * (exp(z) - 1)", "1 if z > 0 else alpha * exp(z)"),
    "celu": (CELU, "z if z > 0 else alpha * (exp(z / alpha) - 1)", "1 if z > 0 else exp(z / alpha)"),
    "selu": (
        Plain,
        "1.0507009873554805 * (z if z > 0 else 1.6732632423543772 * (exp(z) - 1))",
        "1.0507009873554805 * (1 if z > 0 else 1.6732632423543772 * exp(z))",
    ),
    "gelu": (
        GELU,
        "z * Phi(z); Phi is the standard normal distribution function",
        "Phi(z) + z * phi(z); phi is the standard normal density",
    ),
    "silu": (Plain, "z * sigmoid(z)", "sigmoid(z) * (1 + z * (1 - sigmoid(z)))"),
    "swish": (Swish, "z * sigmoid(beta * z)", "sigmoid(beta * z) * (1 + beta * z * (1 - sigmoid(beta * z)))"),
    "pswish": (
        PSwish,
        "z * sigmoid(b * z); b is learned, one a call",
        "sigmoid(b * z) * (1 + b * z * (1 - sigmoid(b * z)))",
    ),
    "mish": (
        Plain,
        "z * tanh(log(1 + exp(z)))",
        "tanh(log(1 + exp(z))) + z * sigmoid(z) * (1 - tanh(log(1 + exp(z)))**2)",
    ),
    "hardswish": (
        Plain,
        "z * min(max(z + 3, 0), 6) / 6",
        "0 if z < -3 else z / 3 + 1 / 2 if z < 3 else 1",
    ),
    "tanh": (Plain, "tanh(z)", "1 - tanh(z)**2"),
    "hardtanh": (HardTanh, "min(max(z, lower), upper)", "1 if lower < z < upper else 0"),
    "sigmoid": (Plain, "1 / (1 + exp(-z))", "sigmoid(z) * (1 - sigmoid(z))"),
    "hardsigmoid": (Plain, "min(max(z + 3, 0), 6) / 6", "1 / 6 if -3 < z < 3 else 0"),
    "softplus": (Softplus, "log(1 + exp(beta * z)) / beta", "sigmoid(beta * z)"),
    "relu6": (Plain, "min(max(0, z), 6)", "1 if 0 < z < 6 else 0"),
    "step": (
        Step,
        "1 if z >= 0 else 0",
        "1 if abs(z) <= window else 0; a straight-through estimate: the slope itself is 0",
    ),
    "identity": (Plain, "z", "1"),
    "kwta": (
        KWTA,
        "z if z is among the largest fraction of the call's units, else 0",
        "1 for the winners, 0 for the rest",
    ),
    "maxout": (
        Maxout,
        "the largest of each group of so many neighbouring channels",
        "1 for the largest of its group, 0 for the rest",
    ),
}
_GELU_TANH = (
    "z / 2 * (1 + tanh(u)); u = sqrt(2 / pi) * (z + 0.044715 * z**3)",
    "(1 + tanh(u)) / 2 + z / 2 * (1 - tanh(u)**2) * sqrt(2 / pi) * (1 + 0.134145 * z**2); u as above",
)


# a learnable activation: what it is with its parameter held, and the option that holds it
_FIXED = {"prelu": ("leaky_relu", "slope"), "pswish": ("swish", "beta")}


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
        return _GELU_TANH[0] if self._tanh_form else _entry(self.name)[1]

    @property
    def slope(self) -> str:
        """The derivative's formula as text; at a kink, ``derivative`` says what torch answers."""
        return _GELU_TANH[1] if self._tanh_form else _entry(self.name)[2]

    @property
    def _tanh_form(self) -> bool:
        return self.name == "gelu" and self.options.approximate == "tanh"

    @property
    def spec(self) -> Spec:
        """Name and every option, the notation that ``activation`` reads back."""
        return notation.full(self.options, self.name)

    @property
    def learnable(self) -> bool:
        """Whether it has a parameter that training changes."""
        return self.name in _FIXED

    @property
    def fixed(self) -> Activation:
        """The same function with nothing to learn: prelu(init=0.1) as leaky_relu(slope=0.1); others are themselves."""
        if self.name not in _FIXED:
            return self
        name, option = _FIXED[self.name]
        return activation(Spec(name, ((option, self.options.init),)))

    @property
    def elementwise(self) -> bool:
        """Whether a unit's output depends on its own pre-activation only."""
        return self.name not in ("kwta", "maxout")

    @property
    def pieces(self) -> int:
        """Pre-activations of one output: 1 for every activation but maxout, whose output is smaller than its input."""
        return getattr(self.options, "pieces", 1)

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
        """f(z), any shape, floating point; learnable ones at ``init``. maxout makes one output of each group."""
        from actsec.activations.functions import evaluate

        return evaluate(self, z)

    def derivative(self, z: Tensor) -> Tensor:
        """f'(z) by autograd, same shape as z, off z's graph; at a kink, torch's choice (relu: 0 at 0).

        For step it is the straight-through estimate, as everywhere that autograd is asked.
        """
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


def _entry(name: str) -> tuple[type, str, str]:
    if name not in _CATALOGUE:
        raise unknown("activation", name, _CATALOGUE)
    return _CATALOGUE[name]
