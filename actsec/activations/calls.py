"""Which torch calls are activations, and what they would compute out of place.

A function is known by its name, since torch gives the same one many doors: ``F.relu``, ``torch.relu``,
``Tensor.relu_``, ``aten.relu.default``. All of them reach a TorchFunctionMode under the same name, give or take ``_``
and the overload.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Options = tuple[tuple[str, float | str], ...]

# name of the torch function -> (kind, ((torch's parameter, the catalogue's option, torch's default), ...))
_KNOWN: dict[str, tuple[str, tuple[tuple[str, str, float | str], ...]]] = {
    "relu": ("relu", ()),
    "relu6": ("relu6", ()),
    "leaky_relu": ("leaky_relu", (("negative_slope", "slope", 0.01),)),
    "prelu": ("prelu", ()),
    "elu": ("elu", (("alpha", "alpha", 1.0),)),
    "celu": ("celu", (("alpha", "alpha", 1.0),)),
    "selu": ("selu", ()),
    "gelu": ("gelu", (("approximate", "approximate", "none"),)),
    "silu": ("silu", ()),
    "mish": ("mish", ()),
    "hardswish": ("hardswish", ()),
    "tanh": ("tanh", ()),
    "hardtanh": ("hardtanh", (("min_val", "lower", -1.0), ("max_val", "upper", 1.0))),
    "sigmoid": ("sigmoid", ()),
    "special_expit": ("sigmoid", ()),
    "hardsigmoid": ("hardsigmoid", ()),
    "softplus": ("softplus", (("beta", "beta", 1.0),)),
    "swish": ("swish", (("beta", "beta", 1.0),)),
    "pswish": ("pswish", ()),
    "step": ("step", (("window", "window", 1.0),)),
    "kwta": ("kwta", (("fraction", "fraction", 0.1),)),
    "maxout": ("maxout", (("pieces", "pieces", 2),)),
    "identity": ("identity", ()),
}

_OUTSIDE = {
    "rrelu": "randomized leaky ReLU",
    "log_sigmoid": "log-sigmoid",
    "softsign": "softsign",
    "softshrink": "soft shrinkage",
    "hardshrink": "hard shrinkage",
    "tanhshrink": "tanh shrinkage",
    "heaviside": "a step, whose gradient torch does not know",
    "glu": "gated linear unit",
    "lstm": "an LSTM's gates, fused in one call",
    "gru": "a GRU's gates, fused in one call",
    "rnn_tanh": "an RNN's tanh, fused in one call",
    "rnn_relu": "an RNN's ReLU, fused in one call",
    "lstm_cell": "an LSTM cell's gates, fused in one call",
    "gru_cell": "a GRU cell's gates, fused in one call",
    "rnn_tanh_cell": "an RNN cell's tanh, fused in one call",
    "rnn_relu_cell": "an RNN cell's ReLU, fused in one call",
    "_transformer_encoder_layer_fwd": "a transformer layer, fused in one call",
}

_IN_PLACE_OPERATORS = {
    f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or")
}


# elementwise calls of which activations are written out by hand; True: not linear
_ARITHMETIC: dict[str, bool] = {
    **dict.fromkeys(("add", "sub", "mul", "multiply", "div", "true_divide", "divide", "neg", "rsub"), False),
    **dict.fromkeys(("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__"), False),
    **dict.fromkeys(("__iadd__", "__isub__", "__imul__", "__itruediv__", "__neg__", "subtract", "negative"), False),
    **dict.fromkeys(("to", "float", "double", "half", "type", "type_as", "clone", "zeros_like", "ones_like"), False),
    **dict.fromkeys(("pow", "__pow__", "square", "sqrt", "abs", "reciprocal", "__rtruediv__", "__rdiv__"), True),
    **dict.fromkeys(("exp", "expm1", "log", "log1p", "erf", "special_erf", "logaddexp", "relu", "erfc"), True),
    **dict.fromkeys(("gt", "ge", "lt", "le", "__gt__", "__ge__", "__lt__", "__le__", "where", "masked_fill"), True),
    **dict.fromkeys(("greater", "greater_equal", "less", "less_equal"), True),
    **dict.fromkeys(("maximum", "minimum", "fmax", "fmin", "clamp", "clip", "clamp_min", "clamp_max"), True),
    **dict.fromkeys(("sign", "sgn"), True),
}
_COMPARES = {"gt", "ge", "lt", "le", "greater", "greater_equal", "less", "less_equal"}
_PRODUCT = {"mul", "multiply", "__mul__", "__rmul__", "mul_", "__imul__"}


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What a torch function's name says of it, looked up once a function."""

    name: str
    known: tuple[str, tuple[tuple[str, str, float | str], ...]] | None  # an activation: its kind and parameters
    outside: str | None  # an activation that the catalogue does not hold: what it is
    overwrites: bool  # it changes its first argument
    arithmetic: bool
    curved: bool
    product: bool
    suspect: bool  # with some arguments it is a ReLU
    limits: bool  # it keeps values inside a range
    compares: bool  # it gives true or false for each number


@functools.lru_cache(maxsize=4096)
def look(func: Callable[..., Any]) -> Entry:
    """What is known of a torch function."""
    name = name_of(func)
    in_place = name.endswith("_") and not name.endswith("__")
    stem = name[:-1] if in_place else name
    known = _KNOWN.get(stem)
    return Entry(
        name,
        known,
        _OUTSIDE.get(name) or _OUTSIDE.get(stem),
        in_place or name in _IN_PLACE_OPERATORS or name == "__setitem__",
        known is not None or stem in _ARITHMETIC,
        known is not None or _ARITHMETIC.get(stem, False),
        name in _PRODUCT,
        name.strip("_") in _SUSPECT,
        stem in _LIMITS,
        stem.strip("_") in _COMPARES,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Activating:
    """One call of an activation as it was asked for."""

    kind: str
    options: Options
    z: Tensor  # the pre-activation; overwritten by the call where ``target`` is it
    target: Tensor | None  # what the call overwrites with its result: z (in place), ``out=``, or nothing
    as_asked: Callable[[], Tensor]  # the call itself
    compute: Callable[[Tensor], Tensor]  # the same function, out of place
    reads: tuple[Tensor, ...] = ()  # what the call itself is given, where that is not z: a product written by hand
    parts: tuple[str, ...] = ()  # the calls of which a function written by hand is made
    notes: tuple[Any, ...] = ()  # what a finder had to say of them

    def source(self) -> Tensor:
        """The pre-activation as a tensor that the call will not overwrite, on the way from input to output."""
        return self.z if self.target is None else self.z.clone()

    def give(self, result: Tensor) -> Tensor:
        """What the caller gets back. A call in place still overwrites its input: others may hold that tensor."""
        if self.target is None:
            return result
        self.target.copy_(result)
        return self.target


def name_of(func: Callable[..., Any]) -> str:
    """The name of a torch function without the overload of an aten operator: ``relu_`` for ``aten.relu_.default``."""
    name: str = getattr(func, "__name__", "")
    return name if name.startswith("__") else name.partition(".")[0]


def recognise(
    entry: Entry, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Activating | None:
    """The activation that a torch call computes, or None."""
    if entry.known is None:
        return None
    z = args[0] if args else kwargs.get("input", kwargs.get("self"))
    if not isinstance(z, Tensor):
        return None
    kind, parameters = entry.known
    options: Options = ()
    if parameters:
        given = dict(zip((p[0] for p in parameters), args[1:], strict=False)) | kwargs
        options = tuple((ours, given.get(theirs, default)) for theirs, ours, default in parameters)
        if kind == "hardtanh" and [float(value) for _, value in options] == [0.0, 6.0]:
            kind, options = "relu6", ()
    in_place = entry.overwrites
    target = z if in_place or kwargs.get("inplace", False) else kwargs.get("out")

    def as_asked() -> Tensor:
        return func(*args, **kwargs)  # type: ignore[no-any-return]  # torch's own functions carry no types here

    def compute(p: Tensor) -> Tensor:
        named = {key: value for key, value in kwargs.items() if key not in ("input", "self", "inplace", "out")}
        return func(p.clone() if in_place else p, *args[1:], **named)  # type: ignore[no-any-return]  # as above

    return Activating(kind, options, z, target, as_asked, compute)


def overwritten(entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The tensor whose values a torch call changes, or None."""
    if entry.overwrites or kwargs.get("inplace", False):
        target = args[0] if args else kwargs.get("input", kwargs.get("self"))
    elif kwargs:
        target = kwargs.get("out")
    else:
        return None
    return target if isinstance(target, Tensor) else None


def disguised(entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Why a call looks like an activation that cannot be watched or replaced as one; None when it does not."""
    if entry.outside is not None:
        return f"{entry.outside}: {'not watchable' if 'fused' in entry.outside else 'not in the catalogue'}"
    if not entry.suspect:
        return None
    name = entry.name.strip("_")
    first = args[0] if args else kwargs.get("input")
    if not isinstance(first, Tensor) or not first.is_floating_point():
        return None
    second = args[1] if len(args) > 1 else None
    if name == "threshold":
        bar, value = (kwargs.get(key, default) for key, default in (("threshold", second), ("value", _third(args))))
        hidden, what = _zero(bar) and _zero(value), "threshold at 0"
    elif name == "setitem":
        hidden, what = _zero(_third(args)) and _negative(first, second), "negative values set to 0"
    elif name in ("clamp", "clip", "clamp_min"):
        hidden, what = _zero(kwargs.get("min", second)), f"{name} at exactly 0"
    else:
        other = kwargs.get("other", second)
        tensors = isinstance(other, Tensor) and other.is_floating_point()
        hidden, what = tensors and (_zero(other) or _zero(first)), f"{name} with 0"
    return f"{what}: a ReLU in disguise" if hidden else None


_LIMITS = {"clamp", "clip", "clamp_min", "clamp_max", "maximum", "minimum", "fmax", "fmin"}
_SUSPECT = {"threshold", "clamp", "clip", "clamp_min", "maximum", "fmax", "max", "setitem"}


def _third(args: tuple[Any, ...]) -> Any:
    return args[2] if len(args) > 2 else None


def _negative(z: Tensor, mask: Any) -> bool:
    """Whether a mask is where z is below 0."""
    alike = isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == z.shape
    return alike and z.device.type != "meta" and any(torch.equal(mask, where) for where in (z < 0, z <= 0))


def _zero(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.device.type != "meta" and value.numel() > 0 and not bool(torch.any(value))
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0
