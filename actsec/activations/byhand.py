"""Activations written out by hand: elementwise arithmetic on one tensor that computes a function of the catalogue.

``x * sigmoid(x)`` is three names and one function. Which function an expression computes is decided by computing it: it
is run in float64 on a grid, and so are the catalogue's functions.
"""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from actsec.activations.calls import Activating, Entry, Options, look, overwritten
from actsec.activations.catalogue import Activation, activation
from actsec.errors import BadOption
from actsec.spec import Spec

_LARGEST = 32  # calls of one expression; what is longer starts a new one
_CLOSE = 1e-5  # authors round their constants: 0.7978845608, 1.702
_UNREAD = object()


@dataclasses.dataclass(slots=True, eq=False)
class Step:
    """A tensor made elementwise of one other: the call that made it, with steps in place of tensors."""

    func: Callable[..., Any] | None  # None: the tensor that the expression starts from
    args: tuple[Any, ...]
    named: dict[str, Any]
    key: Any  # what is computed, as nested tuples: equal keys compute the same function
    size: int  # calls
    curved: bool  # holds a call that is not linear
    root: Step | None = None  # None: itself
    tensor: weakref.ref[Tensor] | None = None
    version: int = -1
    site: str | None = None  # the activation call that it is, and which
    does: tuple[str, Options] | None = None
    note: Any = None  # what a finder has to say of this call alone
    held: Tensor | None = None  # what a comparison compared, which nothing else may hold any more

    def parents(self) -> Iterator[Step]:
        return (value for value in (*self.args, *self.named.values()) if isinstance(value, Step))

    def within(self) -> Iterator[Step]:
        """This step and all that it is made of, each kind of value once, the starting tensor last."""
        seen: dict[Any, Step] = {}
        todo = [self]
        while todo:
            step = todo.pop()
            if step.key not in seen:
                seen[step.key] = step
                todo.extend(step.parents())
        return iter(sorted(seen.values(), key=lambda step: -step.size))

    def value(self) -> Tensor | None:
        """The tensor, if it lives and holds what it held."""
        tensor = None if self.tensor is None else self.tensor()
        return tensor if tensor is not None and _version(tensor) == self.version else None


class Forms:
    """The expressions of one forward pass, by the tensors that hold them."""

    def __init__(self) -> None:
        self._steps: dict[int, Step] = {}

    def clear(self) -> None:
        self._steps = {}

    def get(self, tensor: Tensor) -> Step | None:
        step = self._steps.get(id(tensor))
        if step is None or step.tensor is None or step.tensor() is not tensor:
            return None
        if step.version != _version(tensor):
            del self._steps[id(tensor)]
            return None
        return step

    def step(self, entry: Entry, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Step | None:
        """The step that a call would make; None when it is not arithmetic on one tensor."""
        if not self._steps and len(args) == 2 and args[0] is not args[1] and not named:
            one, other = args  # most often two feature maps are added
            if isinstance(one, Tensor) and isinstance(other, Tensor) and not constant(one) and not constant(other):
                return None
        if "out" in named:
            return None
        given = [*args, *named.values()]
        fresh = {id(v): v for v in given if isinstance(v, Tensor) and not constant(v) and self.get(v) is None}
        if len(fresh) > 1:
            return None
        read = [self._read(value) for value in given]
        steps = [value for value in read if isinstance(value, Step)]
        if not steps or len({id(step.root or step) for step in steps}) > 1:
            return None
        shapes = [v.shape for v in given if isinstance(v, Tensor) and not constant(v)]  # an exporter's have no hash
        size = 1 + sum(step.size for step in steps)
        if any(shape != shapes[0] for shape in shapes) or size > _LARGEST or any(value is _UNREAD for value in read):
            return None
        keys = tuple(value.key if isinstance(value, Step) else _plain(value) for value in read)
        moving = (value for value in given if isinstance(value, Tensor) and not constant(value))
        compared = next(moving, None) if entry.compares else None
        curved = entry.curved or any(step.curved for step in steps) or (len(steps) > 1 and entry.product)
        return Step(
            func,
            tuple(read[: len(args)]),
            dict(zip(named, read[len(args) :], strict=True)),
            (entry.name, tuple(named), *keys),
            size,
            curved,
            steps[0].root or steps[0],
            held=compared,
        )

    def lose(self, target: Tensor) -> None:
        """``target`` is about to be overwritten."""
        if not self._steps:
            return
        step = self._steps.pop(id(target), None)
        if step is not None:
            step.tensor = None

    def keep(self, result: Any, step: Step) -> None:
        """``result`` is what the step's call returned."""
        if isinstance(result, Tensor):
            step.tensor, step.version = weakref.ref(result), _version(result)
            self._steps[id(result)] = step

    def _read(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            known = self.get(value)
            if known is not None:
                return known
            if constant(value):
                return value if type(value) in (Tensor, nn.Parameter) and value.device.type != "meta" else _UNREAD
            start = Step(None, (), {}, "z", 0, False)
            self.keep(value, start)
            return start
        simple = value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device))
        return value if simple else _UNREAD


def read(step: Step, entry: Entry, func: Callable[..., Any], args: Any, named: dict[str, Any]) -> Activating | None:
    """The activation that the expression ending in this call computes, or None."""
    if not step.curved:
        return None
    found = _function(step)
    if found is None:
        return None
    kind, options, key = found
    if kind in ("silu", "swish") and _learned(step):
        kind, options = "pswish", ()
    inside = [part for part in step.within() if part is not step]
    at = next(part for part in inside if part.key == key)
    z = at.value()
    if z is None or not z.is_floating_point():
        return None
    if step.size - at.size == 1 and entry.limits:
        return None  # a bare clamp may as well be a limit
    parts = [part for part in inside if part.site is not None and part.size > at.size]
    if any(part.does == (kind, options) for part in parts) and len(parts) == 1:
        return None  # an activation times 1
    return Activating(
        kind,
        options,
        z,
        overwritten(entry, args, named),
        as_asked=lambda: func(*args, **named),
        compute=lambda p: _run(step, key, p),
        reads=tuple(v for v in (*args, *named.values()) if isinstance(v, Tensor)),
        parts=tuple(part.site for part in parts if part.site is not None),
        notes=tuple(part.note for part in inside if part.note is not None and part.size > at.size),
    )


def outside(step: Step) -> str | None:
    """What an expression computes that acts as an activation and is not in the catalogue; None where nothing is known.

    What its parts are already said to be is not said again of the whole.
    """
    if not step.curved or any(part.note is not None for part in step.within()):
        return None
    if step.key not in _OUTSIDE:
        if len(_OUTSIDE) > 4096:
            _OUTSIDE.clear()
        _OUTSIDE[step.key] = _named(step)
    return _OUTSIDE[step.key]


_OUTSIDE: dict[Any, str | None] = {}
_FUNCTIONS: dict[Any, tuple[str, Options, Any] | None] = {}


def _function(step: Step) -> tuple[str, Options, Any] | None:
    """Kind, options, and the key of the step that is its pre-activation; computed once for each way of writing."""
    if step.key not in _FUNCTIONS:
        if len(_FUNCTIONS) > 4096:
            _FUNCTIONS.clear()
        _FUNCTIONS[step.key] = _identify(step)
    return _FUNCTIONS[step.key]


def _named(step: Step) -> str | None:
    with torch._C.DisableTorchFunction(), _disable_current_modes(), torch.no_grad():  # noqa: SLF001  # torch has no public form
        grid = torch.linspace(-6, 6, 97, dtype=torch.float64, device="cpu")
        for part in reversed([part for part in step.within() if part is not step]):
            try:
                y = _run(step, part.key, grid)
            except Exception:  # noqa: BLE001, S112  # nosec B112  # as in _identify
                continue
            if isinstance(y, Tensor) and y.shape == grid.shape and y.is_floating_point():
                for name, values in _FORMULAS.items():
                    if bool((y.double() - values(grid)).abs().max() < _CLOSE):
                        return name
                if (jump := _jump(y.double())) is not None:
                    return f"a step between {grid[jump]:.3g} and {grid[jump + 1]:.3g}, whose gradient is 0"
    return None


_FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "softsign, z / (1 + |z|)": lambda z: z / (1 + z.abs()),
    "sign, whose gradient is 0": torch.sign,
    "log-sigmoid": lambda z: -torch.log1p(torch.exp(-z)),
    "tanh shrinkage, z - tanh(z)": lambda z: z - torch.tanh(z),
}


def _jump(y: Tensor) -> int | None:
    """Where y (n,) changes, if it takes two values alone and changes once."""
    changes = (y[1:] != y[:-1]).nonzero().flatten().tolist()
    return changes[0] if len(changes) == 1 and bool(torch.isfinite(y).all()) else None


def _identify(step: Step) -> tuple[str, Options, Any] | None:
    starts = [part for part in step.within() if part is not step]
    # neither our own mode's neighbours nor an exporter's see the trial
    with torch._C.DisableTorchFunction(), _disable_current_modes(), torch.no_grad():  # noqa: SLF001  # torch has no public form
        grid = torch.linspace(-6, 6, 97, dtype=torch.float64, device="cpu")
        for at in reversed(starts):  # from the tensor that it all starts from
            try:
                y = _run(step, at.key, grid)
            except Exception:  # noqa: BLE001, S112  # nosec B112  # a call that will not run on the grid computes nothing we know
                continue
            if not isinstance(y, Tensor) or y.shape != grid.shape or not y.is_floating_point():
                continue
            y = y.double()
            close = _CLOSE * min(1.0, float(y.max() - y.min()))  # what hardly moves is near many functions
            for kind, options in _candidates(y):
                apart = (y - _values(kind, options, grid)).abs()
                # what a step is at 0 itself is everyone's own choice
                near = bool(torch.where((grid == 0) & (kind == "step"), 0.0, apart).max() < close)
                if near and _far_too(step, at.key, activation(Spec(kind, options))):
                    return kind, options, at.key
    return None


def _far_too(step: Step, start: Any, known: Activation) -> bool:
    """Whether the functions agree beyond the grid as well: clamps at 20 are common, and part of no activation."""
    z = torch.tensor([-80.0, -40, -20, -12, -8, 8, 12, 20, 40, 80], dtype=torch.float64, device="cpu")
    return bool(((_run(step, start, z) - known(z)).abs() < _CLOSE * z.abs()).all())


def _run(step: Step, start: Any, p: Tensor) -> Tensor:
    """The expression with ``p`` for the step of key ``start``. LookupError: not all goes through it."""
    known: dict[Any, Any] = {start: p}

    def value(of: Any) -> Any:
        if not isinstance(of, Step):
            return of.to(p.device) if isinstance(of, Tensor) else of
        if of.key not in known:
            if of.func is None:
                raise LookupError(start)
            args = [value(arg) for arg in of.args]
            named = {key: value(arg) for key, arg in of.named.items() if key != "inplace"}
            if look(of.func).overwrites and isinstance(args[0], Tensor):
                args[0] = args[0].clone()
            known[of.key] = of.func(*args, **named)
        return known[of.key]

    result: Tensor = value(step)
    return result


_FIXED: tuple[tuple[str, Options], ...] = (
    *((kind, ()) for kind in ("relu", "relu6", "silu", "mish", "hardswish", "tanh", "sigmoid", "hardsigmoid", "selu")),
    ("gelu", (("approximate", "none"),)),
    ("gelu", (("approximate", "tanh"),)),
)


def _candidates(y: Tensor) -> Iterator[tuple[str, Options]]:
    """What a function with these values on the grid could be, its options read off single values."""
    yield from _FIXED
    at = {v: float(y[48 + 8 * v]) for v in (-1, 0, 1)}
    low, high = float(y.min()), float(y.max())
    if 0 < at[1] < 1:
        yield "swish", (("beta", _short(math.log(at[1] / (1 - at[1])))),)
    if -1 < at[-1] < 0:
        yield "leaky_relu", (("slope", _short(-at[-1])),)
    if at[-1] < 0:
        yield "elu", (("alpha", _short(at[-1] / math.expm1(-1))),)
    if at[0] > 0:
        yield "softplus", (("beta", _short(math.log(2) / at[0])),)
    if low == 0 and high == 1 and bool(((y == 0) | (y == 1))[torch.arange(97) != 48].all()):
        yield "step", ()
    if -6 < low < high < 6:
        yield "hardtanh", (("lower", _short(low)), ("upper", _short(high)))


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _values(kind: str, options: Options, grid: Tensor) -> Tensor:
    if not options:
        return _fixed(kind, grid)
    try:
        return activation(Spec(kind, options))(grid)
    except BadOption:  # what was read off single values is no option: the expression is another function
        return torch.full_like(grid, torch.nan)


@cache
def _on_grid(kind: str) -> Tensor:
    return activation(Spec(kind, ()))(torch.linspace(-6, 6, 97, dtype=torch.float64, device="cpu"))


def _fixed(kind: str, grid: Tensor) -> Tensor:
    known = _on_grid(kind)
    return known if known.shape == grid.shape else torch.full_like(grid, torch.nan)


def _learned(step: Step) -> bool:
    given = (value for part in step.within() for value in (*part.args, *part.named.values()))
    return any(isinstance(value, nn.Parameter) for value in given)


def _plain(value: Any) -> Any:
    """A constant as part of a key: 1, 1.0 and True are told apart."""
    if isinstance(value, Tensor):
        return ("tensor", str(value.dtype), value.item())
    return (type(value).__name__, str(value))


def constant(value: Tensor) -> bool:
    """Whether a tensor is one number: in an expression it is a constant, or learned when it is a parameter."""
    return value.dim() == 0 or (isinstance(value, nn.Parameter) and value.numel() == 1)


def _version(tensor: Tensor) -> int:
    """How often it has been overwritten; tensors of inference mode do not know."""
    return -1 if tensor.is_inference() else tensor._version  # noqa: SLF001  # torch has no public form
