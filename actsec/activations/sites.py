"""Activation sites: finding every call of an activation that a model makes.

A site is one call, not a module: ResNet-18 has 9 ReLU modules and 17 calls, Inception-v3 has 94 calls and no module.
"""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from actsec.activations import calls
from actsec.activations.calls import Activating, Options
from actsec.activations.following import Follower, following
from actsec.errors import ModelError

Role = Literal["activation", "gate"]


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """One activation call of a model's forward pass."""

    name: str  # "layer1.0.relu", and "layer1.0.relu:2" for the second call there
    index: int  # its place in call order
    kind: str  # the catalogue's name
    options: Options
    functional: bool  # called by a module that is not itself an activation
    shape: tuple[int, ...]  # of the pre-activation of one example
    constant: bool  # the pre-activation does not depend on the model's input
    role: Role  # a gate multiplies another feature map: squeeze-and-excitation's sigmoid


@dataclasses.dataclass(frozen=True, slots=True)
class Unresolved:
    """A call that acts as an activation but cannot be watched or replaced as one."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Sites:
    """What ``find`` saw. ``fused`` names attention modules whose fast path would hide sites and move the output."""

    sites: tuple[Site, ...]
    unresolved: tuple[Unresolved, ...]
    fused: tuple[str, ...]

    @property
    def active(self) -> tuple[Site, ...]:
        """The sites that count: activations that see the input, not gates and not constants."""
        return tuple(site for site in self.sites if site.role == "activation" and not site.constant)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)


def find(model: nn.Module, example: Tensor) -> Sites:
    """Every activation call of one forward pass in eval mode. ``example`` (n, ...) is one valid input batch.

    Costs one forward, and a second one when some site seems not to depend on the input. The model, its flags and the
    global random state are left as they are. Raises ModelError when the pass fails.
    """
    with _resting(model, example):
        return _find(model, example)


def find_in_training(model: nn.Module, example: Tensor) -> Sites:
    """Every activation call in train mode, found on a copy: auxiliary heads are called in train mode alone."""
    clone = copy.deepcopy(model)
    with _resting(clone, example):
        clone.train()
        # batch norm refuses one value a channel, so the batch has at least two examples
        return _find(clone, torch.cat([example, example]) if len(example) == 1 else example)


def _find(model: nn.Module, example: Tensor) -> Sites:
    finder = _pass(model, example)
    constant = {place for place, found in enumerate(finder.found) if not found.tainted}
    if constant and example.device.type != "meta":
        # numpy and custom autograd functions hide where a tensor comes from: believe it only if another input agrees
        other = _pass(model, example.flip(0).roll(1, -1) * 0.5 if example.is_floating_point() else example.roll(1, -1))
        same = [a.name == b.name and _equal(a.z, b.z) for a, b in zip(finder.found, other.found, strict=False)]
        constant = {place for place in constant if place < len(same) and same[place]}
    sites = tuple(found.site(place, len(example), place in constant) for place, found in enumerate(finder.found))
    attention = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
    fused = tuple(name for name, module in model.named_modules() if isinstance(module, attention))
    return Sites(sites, tuple(finder.unresolved), fused)


def _pass(model: nn.Module, example: Tensor) -> _Finder:
    finder = _Finder(model, example)
    try:
        with following(finder), torch.random.fork_rng(devices=_devices(example)):
            torch.manual_seed(0)
            model(example)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"the model fails on an example of shape {tuple(example.shape)}: {error}",
            "Give one batch that the model accepts.",
        ) from error
    return finder


@dataclasses.dataclass(slots=True)
class _Found:
    name: str
    kind: str
    options: Options
    functional: bool
    shape: tuple[int, ...]
    tainted: bool
    z: Tensor | None
    gate: bool = False

    def site(self, index: int, rows: int, constant: bool) -> Site:
        first = self.shape[0] if self.shape else 0
        whole = constant or not first or first % rows
        each = self.shape if whole else self.shape[1:] if first == rows else (first // rows, *self.shape[1:])
        role: Role = "gate" if self.gate else "activation"
        return Site(self.name, index, self.kind, self.options, self.functional, each, constant, role)


class _Marks:
    """Facts about tensors, kept by identity for as long as the tensor lives."""

    def __init__(self) -> None:
        self._marks: dict[int, tuple[weakref.ref[Tensor], Any]] = {}

    def set(self, tensor: Tensor, mark: Any) -> None:
        self._marks[id(tensor)] = (weakref.ref(tensor), mark)

    def get(self, tensor: Tensor) -> Any:
        reference, mark = self._marks.get(id(tensor), (None, None))
        return mark if reference is not None and reference() is tensor else None


# calls that read a tensor's form only, so that their result does not depend on its values
_FORM = {"size", "dim", "numel", "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"}
_FORM |= {"new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "stride", "__len__", "is_floating_point"}
# calls through which a gate is still a gate
_RESHAPING = {"view", "reshape", "unsqueeze", "squeeze", "expand", "expand_as", "view_as", "permute", "transpose"}
_RESHAPING |= {"contiguous", "flatten", "unflatten", "to", "type_as", "float", "half", "clone", "__getitem__"}
_SCALING = {"div", "true_divide", "__truediv__", "div_", "__itruediv__"}
_PRODUCT = {"mul", "multiply", "__mul__", "__rmul__", "mul_", "__imul__"}
_GATES = {"sigmoid", "hardsigmoid"}


class _Finder(Follower):
    """Lists sites and follows two facts through the pass: what depends on the input, and what is a gate's output."""

    def __init__(self, root: nn.Module, example: Tensor) -> None:
        super().__init__(root)
        self.found: list[_Found] = []
        self.unresolved: list[Unresolved] = []
        self.tainted, self.gates = _Marks(), _Marks()
        self.tainted.set(example, True)

    def on_site(self, name: str, call: Activating) -> Tensor:
        tainted = bool(self.tainted.get(call.z))
        kept = None if tainted else call.z.clone()
        result = super().on_site(name, call)
        self.found.append(
            _Found(name, call.kind, call.options, self.functional, tuple(call.z.shape), tainted, kept)
        )
        if tainted:
            self.tainted.set(result, True)
        if call.kind in _GATES or call.kind == "relu6":
            # a hand-written hard sigmoid is relu6(z + 3) / 6: a gate once it is divided
            self.gates.set(result, (len(self.found) - 1, call.kind in _GATES, weakref.ref(call.z)))
        return result

    def on_other(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = calls.name_of(func)
        inputs = list(_tensors((args, kwargs)))
        tainted = name not in _FORM and any(self.tainted.get(tensor) for tensor in inputs)
        reason = calls.disguised(func, args, kwargs) if tainted else None
        if reason:
            self.unresolved.append(Unresolved(self.path, reason))
        self._follow_gates(name, inputs, args)
        result = func(*args, **kwargs)
        outputs = list(_tensors(result))
        if tainted:
            target = calls.overwritten(func, args, kwargs)
            for tensor in outputs if target is None else [*outputs, target]:
                self.tainted.set(tensor, True)
        marks = [mark for mark in map(self.gates.get, inputs) if mark]
        if len(marks) == 1 and len(outputs) == 1:
            place, ready, z = marks[0]
            if name in _RESHAPING:
                self.gates.set(outputs[0], (place, ready, z))
            elif name in _SCALING and len(inputs) == 1:
                self.gates.set(outputs[0], (place, True, z))
        return result

    def _follow_gates(self, name: str, inputs: list[Tensor], args: tuple[Any, ...]) -> None:
        """A sigmoid whose output multiplies another tensor that depends on the input is a gate."""
        if name not in _PRODUCT or len(inputs) != 2:
            return
        for gate, other in (inputs, inputs[::-1]):
            mark = self.gates.get(gate)
            if mark and mark[1] and self.tainted.get(other):
                place, _, z = mark
                self.found[place].gate = True
                if z() is other:
                    found = self.found[place]
                    self.unresolved.append(Unresolved(found.name, f"z * {found.kind}(z): a SiLU written by hand"))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        for item in value:
            yield from _tensors(item)


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape and torch.equal(a, b)


def _devices(example: Tensor) -> list[torch.device]:
    return [example.device] if example.device.type == "cuda" else []


@contextmanager
def _resting(model: nn.Module, example: Tensor) -> Iterator[None]:
    """Eval mode without gradients; every module's train flag is put back."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, flag in flags:
            module.training = flag
