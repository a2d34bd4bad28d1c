"""How a network is wired, seen in one forward pass: which layer reads which activation, and what stands at the output.

Conservative: what passes through a call that is not known to keep values in their place loses its origin, so a lint
built on an origin is silent rather than wrong.
"""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from actsec.activations import Sites, activation, find
from actsec.activations.calls import Activating, Entry
from actsec.activations.following import Follower, following
from actsec.health.architecture import Architecture, Origin, Placed, Thing, Weights
from actsec.search.oracle import frozen
from actsec.spec import Spec
from actsec.types import Target, read_head

ROWS = 32
_LAYERS = {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
_FORM = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "contiguous", "to"}
_FORM |= {"float", "clone", "detach", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "view_as"}
_AVERAGES = {"avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "mean"}
_MAXIMA = {"max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d"}
_NORMS = {"batch_norm": True, "layer_norm": False, "group_norm": False, "instance_norm": False, "rms_norm": False}
_FACTORS = {"mul", "div", "true_divide", "truediv", "rmul", "multiply"}
_STEPS = {"sign", "heaviside", "round", "floor", "ceil", "trunc"}


def wiring(target: Target, x: Tensor, *, fresh: bool, classes: int | None = None) -> Architecture:
    """The architecture of a target, shown by x (n, *shape) in input units, of which 32 rows at most are used.

    ``fresh``: its weights are untrained; ``classes``: of the labels, the target's own if None. The model is left as it
    was. Raises ModelError when it cannot be followed. Cost: two or three forwards.
    """
    some = x[:ROWS]
    asked = some if target.normalization is None else target.normalization(some)
    devices = [some.device] if some.device.type == "cuda" else []
    with frozen(target.model):
        found = find(target.model, asked)
        seen = _Wiring(target.model)
        with following(seen), torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            answer = read_head(target.model(asked), target.output)
    end = seen.settle(found, seen.origin(answer))
    known = {site.name: site for site in found}
    active = {site.name for site in found.active}
    sites = tuple(
        Placed(name, known[name].activation, name in active and not _is(end, at), slope, learned, origin)
        for at, (name, slope, learned, origin) in enumerate(seen.sites)
    )
    return Architecture(
        layers=tuple(seen.layers),
        sites=sites,
        flats=tuple(seen.flats),
        output=end,
        output_name=_last(end, seen),
        outputs=answer.shape[1] if answer.dim() > 1 else 1,
        classes=len(target.classes) if classes is None else classes,
        fresh=fresh,
        unresolved=tuple(f"{item.name or 'the model'}: {item.reason}" for item in found.unresolved),
    )


def _is(end: Origin | None, at: int) -> bool:
    return end is not None and end.thing == "site" and end.at == at


def _last(end: Origin | None, seen: _Wiring) -> str:
    if end is None:
        return ""
    if end.thing == "layer":
        return seen.layers[end.at].name
    return seen.sites[end.at][0] if end.thing == "site" else seen.flats[end.at]


class _Wiring(Follower):
    """Keeps, for every tensor of the pass, the layer or activation it comes from."""

    def __init__(self, root: torch.nn.Module) -> None:
        super().__init__(root)
        self.layers: list[Weights] = []
        self.sites: list[tuple[str, float | None, str | None, Origin | None]] = []
        self.flats: list[str] = []
        self.parameters = {id(p): name for name, p in root.named_parameters()}
        self.asked: tuple[Any, ...] = ()
        # not held: a pass would keep every tensor; a freed one's id is told from its successor's by the reference
        self.marks: dict[int, tuple[weakref.ref[Tensor], Origin]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.asked = args
        return super().__torch_function__(func, types, args, kwargs)

    def origin(self, tensor: Tensor) -> Origin | None:
        """Where a tensor comes from; None when that is not known."""
        known = self.marks.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def mark(self, tensor: Any, origin: Origin | None) -> None:
        if isinstance(tensor, Tensor):
            self.marks.pop(id(tensor), None)
            if origin is not None:
                self.marks[id(tensor)] = (weakref.ref(tensor), origin)

    def settle(self, found: Sites, end: Origin | None) -> Origin | None:
        """Keep the calls that are sites, numbered anew, and give ``end`` as it is then.

        Parts of an activation written by hand are no sites, and what one of them alone made has no known origin.
        """
        listed = {site.name for site in found}
        kept = [at for at, (name, *_) in enumerate(self.sites) if name in listed]
        if [self.sites[at][0] for at in kept] != [site.name for site in found]:
            # it calls differently from pass to pass: nothing is said of what reads what
            kept, end = [], None
            self.layers = [dataclasses.replace(layer, origin=None) for layer in self.layers]
        turn = {at: place for place, at in enumerate(kept)}

        def moved(origin: Origin | None) -> Origin | None:
            if origin is None or origin.thing != "site":
                return origin
            return dataclasses.replace(origin, at=turn[origin.at]) if origin.at in turn else None

        self.sites = [(*self.sites[at][:3], moved(self.sites[at][3])) for at in kept]
        self.layers = [dataclasses.replace(layer, origin=moved(layer.origin)) for layer in self.layers]
        return moved(end)

    def on_site(self, name: str, call: Activating) -> Tensor:
        before, weight = self.origin(call.z), self.asked[1] if len(self.asked) > 1 else None
        slope = _slope(call)
        learned = self.parameters.get(id(weight)) if call.kind in ("prelu", "pswish") else None
        result = super().on_site(name, call)
        self.sites.append((name, slope, learned, before))
        # the identity bends nothing: what follows still reads the layer before it
        self.mark(result, before if call.kind == "identity" else Origin("site", len(self.sites) - 1))
        return result

    def on_other(self, entry: Entry, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = entry.name.strip("_")
        first = args[0] if args else kwargs.get("input")
        before = self.origin(first) if isinstance(first, Tensor) else None
        tensors = sum(isinstance(value, Tensor) for value in (*args, *kwargs.values()))
        result = func(*args, **kwargs)
        if name in _LAYERS and isinstance(first, Tensor):
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            self.layers.append(self.layer(name, weight, first, result, before))
            self.mark(result, Origin("layer", len(self.layers) - 1))
        elif name == "softmax" or name in _STEPS:
            self.flats.append(f"{self.path or 'the model'}: {name}")
            thing: Thing = "softmax" if name == "softmax" else "step"
            self.mark(result, Origin(thing, len(self.flats) - 1))
        else:
            self.mark(result, _through(name, before, tensors))
        return result

    def layer(self, kind: str, weight: Tensor, x: Tensor, result: Tensor, before: Origin | None) -> Weights:
        at = -1 if kind == "linear" else 1
        inputs, outputs = x.shape[at], result.shape[at]
        window = math.prod(weight.shape[2:])
        groups = 1 if kind == "linear" or "transpose" in kind else max(inputs // weight.shape[1], 1)
        fan_in = inputs // groups * window
        gain = math.sqrt(fan_in * float(weight.detach().double().square().mean()))
        return Weights(self.path or kind, inputs, outputs, window, groups, gain, before)


def _through(name: str, before: Origin | None, tensors: int) -> Origin | None:
    """What a call leaves of the origin of its first argument."""
    if before is None or name in _FORM:
        return before
    if name in _AVERAGES:
        return dataclasses.replace(before, scaled=True)
    if name in _NORMS:
        return dataclasses.replace(before, normed=True, affine=before.affine and _NORMS[name])
    if name in _MAXIMA:
        return dataclasses.replace(before, affine=False)
    if name in _FACTORS and tensors == 1:
        return dataclasses.replace(before, scaled=True)
    return None


def _slope(call: Activating) -> float | None:
    """The root mean square of f' on the pre-activations of a call."""
    z = call.z.detach().cpu().double()
    if not z.numel() or call.kind in ("prelu", "pswish", "maxout"):
        return None
    made = activation(Spec(call.kind, call.options))
    return math.sqrt(float(made.derivative(z).square().mean()))
