"""Following facts through one forward pass: what depends on the input, what gates, what is the model's output."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from actsec.activations import calls
from actsec.activations.calls import Activating, Options
from actsec.activations.following import Follower

# calls that read a tensor's form only, so that their result does not depend on its values
_FORM = {"size", "dim", "numel", "stride", "__len__", "is_floating_point", "zeros_like", "ones_like", "full_like"}
_FORM |= {"empty_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"}
# calls that hand the same values on, so that a gate is still a gate and an output still the output
_HANDING_ON = {"view", "reshape", "unsqueeze", "squeeze", "expand", "expand_as", "view_as", "permute", "transpose"}
_HANDING_ON |= {
    "__get__",
    "contiguous",
    "flatten",
    "unflatten",
    "to",
    "type_as",
    "float",
    "half",
    "clone",
    "__getitem__",
}
_QUOTIENT = {"div", "true_divide", "__truediv__", "div_", "__itruediv__"}
_PRODUCT = {"mul", "multiply", "__mul__", "__rmul__", "mul_", "__imul__"}
_GATES = {"sigmoid", "hardsigmoid"}


T = TypeVar("T")


@dataclasses.dataclass(slots=True)
class Found:
    """One activation call as the pass showed it."""

    name: str
    kind: str
    options: Options
    functional: bool
    shape: tuple[int, ...]
    depends: bool  # on the input
    z: Tensor | None  # kept where it seems not to depend, to be compared with another input's
    gate: bool = False
    consumed: bool = False  # something is computed from its output
    returned: bool = False  # its output is among what the model returns


@dataclasses.dataclass(frozen=True, slots=True)
class Unresolved:
    """A call that acts as an activation but cannot be watched or replaced as one."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Origin:
    """A tensor that holds a site's output, handed on or divided by a number."""

    place: int
    gating: bool  # multiplied onto another tensor it makes the site a gate
    z: weakref.ref[Tensor]


class _Marks(Generic[T]):
    """Facts about tensors, kept by identity for as long as the tensor lives."""

    def __init__(self) -> None:
        self._marks: dict[int, tuple[weakref.ref[Tensor], T]] = {}

    def set(self, tensor: Tensor, mark: T) -> None:
        self._marks[id(tensor)] = (weakref.ref(tensor), mark)

    def get(self, tensor: Tensor) -> T | None:
        known = self._marks.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None


class Finder(Follower):
    """Lists the activation calls of one forward pass, with what becomes of their outputs."""

    def __init__(self, root: nn.Module, example: Tensor) -> None:
        super().__init__(root)
        self.found: list[Found] = []
        self.unresolved: list[Unresolved] = []
        self._depends: _Marks[bool] = _Marks()
        self._origins: _Marks[_Origin] = _Marks()
        self._depends.set(example, True)

    def on_site(self, name: str, call: Activating) -> Tensor:
        self._consume([call.z])
        depends = bool(self._depends.get(call.z))
        kept = None if depends else call.z.clone()
        origin = _Origin(len(self.found), call.kind in _GATES, weakref.ref(call.z))
        self.found.append(
            Found(name, call.kind, call.options, self.functional, tuple(call.z.shape), depends, kept),
        )
        result = super().on_site(name, call)
        if depends:
            self._depends.set(result, True)
        self._origins.set(result, origin)
        return result

    def on_other(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = calls.name_of(func)
        inputs = list(tensors((args, kwargs)))
        depends = name not in _FORM and any(self._depends.get(tensor) for tensor in inputs)
        reason = calls.disguised(func, args, kwargs) if depends else None
        if reason:
            self.unresolved.append(Unresolved(self.path, reason))
        if name in _PRODUCT:
            self._gate(inputs)
        if name not in _FORM and name not in _HANDING_ON:
            self._consume(inputs)
        origin = self._origins.get(inputs[0]) if inputs else None
        result = func(*args, **kwargs)
        outputs = list(tensors(result))
        if depends:
            target = calls.overwritten(func, args, kwargs)
            for tensor in outputs if target is None else [*outputs, target]:
                self._depends.set(tensor, True)
        if origin is not None and len(outputs) == 1:
            if name in _HANDING_ON:
                self._origins.set(outputs[0], origin)
            elif name in _QUOTIENT and len(inputs) == 1:
                # a hard sigmoid written by hand is relu6(z + 3) / 6
                divided = origin.gating or self.found[origin.place].kind == "relu6"
                self._origins.set(outputs[0], dataclasses.replace(origin, gating=divided))
        return result

    def end(self, output: Any) -> None:
        """The pass is over and the model returned ``output``."""
        for tensor in tensors(output):
            origin = self._origins.get(tensor)
            if origin is not None:
                self.found[origin.place].returned = True

    def _consume(self, inputs: list[Tensor]) -> None:
        for origin in map(self._origins.get, inputs):
            if origin is not None:
                self.found[origin.place].consumed = True

    def _gate(self, factors: list[Tensor]) -> None:
        """A sigmoid that multiplies another tensor which depends on the input is a gate, not an activation."""
        if len(factors) != 2:
            return
        for gate, other in (factors, factors[::-1]):
            origin = self._origins.get(gate)
            if origin is None or not origin.gating or not self._depends.get(other):
                continue
            found = self.found[origin.place]
            found.gate = True
            if origin.z() is other:
                self.unresolved.append(Unresolved(found.name, f"z * {found.kind}(z): a SiLU written by hand"))


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dicts, and in the fields of a dataclass."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name))
