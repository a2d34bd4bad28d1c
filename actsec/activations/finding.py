"""Following facts through one forward pass: what depends on the input, what gates, what is the model's output."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from actsec.activations import calls
from actsec.activations.byhand import outside
from actsec.activations.calls import Activating, Entry, Options
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
_GATES = {"sigmoid", "hardsigmoid"}
_BOUNDED = {"sigmoid", "hardsigmoid", "tanh"}
_SOFTMAX = {"softmax", "_softmax", "scaled_dot_product_attention", "softmin", "gumbel_softmax"}
_SOFTMAX |= {"multi_head_attention_forward", "_native_multi_head_attention"}


T = TypeVar("T")


@dataclasses.dataclass(slots=True)
class Found:
    """One activation call as the pass showed it."""

    name: str
    block: str  # the qualified name of the module whose forward makes the call
    kind: str
    options: Options
    functional: bool
    shape: tuple[int, ...]
    depends: bool  # on the input
    z: Tensor | None  # kept where it seems not to depend, to be compared with another input's
    gate: bool = False
    parts: tuple[str, ...] = ()  # the calls it is made of, where it is written by hand
    absorbed: bool = False  # it is itself such a part
    uses: int = 0  # calls that compute something from its output
    returned: bool = False  # its output is among what the model returns


@dataclasses.dataclass(frozen=True, slots=True)
class Unresolved:
    """A call that acts as an activation but cannot be watched or replaced as one."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Origin:
    """A tensor that holds a site's output, handed on or divided by a number."""

    found: Found
    gating: bool  # multiplied onto another tensor it makes the site a gate


class _Marks(Generic[T]):
    """Facts about tensors, kept by identity for as long as the tensor lives."""

    def __init__(self) -> None:
        self._marks: dict[int, tuple[weakref.ref[Tensor], T]] = {}

    def set(self, tensor: Tensor, mark: T) -> None:
        self._marks[id(tensor)] = (weakref.ref(tensor), mark)

    def __bool__(self) -> bool:
        return bool(self._marks)

    def get(self, tensor: Tensor) -> T | None:
        known = self._marks.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None


class Finder(Follower):
    """Lists the activation calls of one forward pass, with what becomes of their outputs."""

    def __init__(self, root: nn.Module, *given: Tensor) -> None:
        super().__init__(root)
        self.found: list[Found] = []
        self.unresolved: list[Unresolved] = []
        self._depends: _Marks[bool] = _Marks()
        self._origins: _Marks[_Origin] = _Marks()
        self._products: list[Found] = []
        self.softmaxes: list[str] = []
        for tensor in given:
            self._depends.set(tensor, True)

    def on_site(self, name: str, call: Activating) -> Tensor:
        self._consume(call.reads or (call.z,))
        depends = bool(self._depends.get(call.z))
        kept = None if depends else call.z.clone()
        functional, shape = self.functional or bool(call.reads), tuple(call.z.shape)
        found = Found(name, self.block, call.kind, call.options, functional, shape, depends, kept, parts=call.parts)
        for part in self.found if call.parts else ():
            part.absorbed = part.absorbed or part.name in call.parts
        if call.notes:
            self.unresolved = [item for item in self.unresolved if not any(item is note for note in call.notes)]
        self.found.append(found)
        result = super().on_site(name, call)
        if depends:
            self._depends.set(result, True)
        self._origins.set(result, _Origin(found, call.kind in _GATES))
        return result

    def on_other(self, entry: Entry, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs = among(args, kwargs)
        depends = entry.name not in _FORM and any(map(self._depends.get, inputs))
        if depends:
            self._note(entry, args, kwargs)
        if entry.product:
            self._gate(inputs)
        origin = self._origin(entry, inputs) if inputs and self._origins else None
        result = func(*args, **kwargs)
        if depends:
            self._spread(result, calls.overwritten(entry, args, kwargs))
        if origin is not None and isinstance(result, Tensor):
            self._origins.set(result, origin)
        return result

    def end(self, output: Any) -> None:
        """The pass is over and the model returned ``output``."""
        for tensor in tensors(output):
            origin = self._origins.get(tensor)
            if origin is not None:
                origin.found.returned = True
        self._judge_parts()
        for name, module in self.scripted.items():
            self.unresolved.append(Unresolved(name, f"a scripted module ({type(module).__name__}): not watchable"))

    @property
    def block(self) -> str:
        """The module whose forward makes the running call: around an activation module, the one that calls it."""
        return self.path if self.functional or len(self.stack) < 2 else self.stack[-2][0]

    def _spread(self, result: Any, target: Tensor | None) -> None:
        """What was computed depends on the input."""
        if target is not None:
            self._depends.set(target, True)
        for tensor in (result,) if isinstance(result, Tensor) else tensors(result):
            self._depends.set(tensor, True)

    def _origin(self, entry: Entry, inputs: list[Tensor]) -> _Origin | None:
        """The site whose output a call hands on or divides by a number; any other call consumes it."""
        if entry.name in _HANDING_ON:
            return self._origins.get(inputs[0])
        if entry.name not in _FORM:
            self._consume(inputs)
        return self._origins.get(inputs[0]) if entry.name in _QUOTIENT and len(inputs) == 1 else None

    def _note(self, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Write down softmaxes, and calls that look like activations."""
        if entry.name in _SOFTMAX:
            self.softmaxes.append(self.path)
        reason = None
        if entry.outside is not None or entry.suspect:
            reason = calls.disguised(entry, args, kwargs)
        if reason is None and entry.arithmetic and self.step is not None and (what := outside(self.step)):
            reason = f"{what}: written by hand, not in the catalogue"
        if reason:
            self.unresolved.append(Unresolved(self.path, reason))
            if self.step is not None and entry.arithmetic:
                self.step.note = self.unresolved[-1]

    def _judge_parts(self) -> None:
        """What is written by hand and cannot be replaced as one is unresolved, and no part of it is a site."""
        by_name = {found.name: found for found in self.found}
        for found in self.found:
            shared = [by_name[part] for part in found.parts if by_name[part].uses > 1 or by_name[part].returned]
            if shared and not found.absorbed:
                found.absorbed = True
                why = f"its {shared[0].kind} is used elsewhere too"
                self.unresolved.append(Unresolved(found.name, f"{found.kind} written by hand, but {why}"))
        for found in self._products:
            if not found.absorbed:
                found.absorbed = True
                reason = f"z times a function of {found.kind}(z), written by hand: not in the catalogue"
                self.unresolved.append(Unresolved(found.name, reason))

    def _consume(self, inputs: Iterable[Tensor]) -> None:
        for tensor in inputs:
            origin = self._origins.get(tensor)
            if origin is not None:
                origin.found.uses += 1

    def _gate(self, factors: list[Tensor]) -> None:
        """A sigmoid that multiplies another tensor which depends on the input is a gate, not an activation."""
        if len(factors) != 2:
            return
        for gate, other in (factors, factors[::-1]):
            origin = self._origins.get(gate)
            if origin is not None and origin.gating and self._depends.get(other):
                origin.found.gate = True
        self._own_product(factors)

    def _own_product(self, factors: list[Tensor]) -> None:
        """z times a sigmoid or tanh of the same z may be an activation that the catalogue does not hold."""
        steps = [self.forms.get(factor) for factor in factors]
        if None in steps or self.step is None:
            return
        named = [
            {part.site for part in step.within() if part.does}
            if any(part.does and part.does[0] in _BOUNDED for part in step.within())
            else set()
            for step in steps
            if step
        ]
        if bool(named[0]) != bool(named[1]):
            inside = named[0] | named[1]
            self._products += [found for found in self.found if found.name in inside]


_PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, torch.Size})


def among(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that a call is given: ``tensors`` without its generators, for every torch call comes here."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, Tensor):
            found.append(value)
        elif type(value) not in _PLAIN and not (type(value) is tuple and value and type(value[0]) is int):
            found.extend(tensors(value))
    return found


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
