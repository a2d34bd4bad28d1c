"""Watching activation calls: their pre-activations, on the autograd graph, while the model runs as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from actsec.activations import calls
from actsec.activations.calls import Activating, Entry, Options
from actsec.activations.catalogue import Activation, activation
from actsec.activations.following import Follower, following
from actsec.activations.listing import Sites, resting
from actsec.spec import Spec


@dataclasses.dataclass(slots=True)
class Call:
    """One activation call of the last forward pass.

    ``pre`` is the true pre-activation and ``post`` the output (None when not kept). Both lie on the way from the input
    to the model's output: a loss on either is differentiable in the input, and the output in either.
    """

    name: str
    kind: str
    options: Options
    pre: Tensor
    post: Tensor | None

    @property
    def activation(self) -> Activation:
        """The catalogue's entry with this call's options; a prelu's learned slopes stay in the model."""
        return activation(Spec(self.kind, self.options))


Reader = Callable[[Call], None]


class Recorder(Follower):
    """What ``watch`` yields: ``calls`` in call order, refilled by every forward pass of the watched model."""

    def __init__(self, root: nn.Module, only: frozenset[str] | None, post: bool, read: Reader | None) -> None:
        super().__init__(root)
        self.calls: list[Call] = []
        self.met: set[str] = set()  # every call of the last pass by name, kept or not
        self._only, self._post, self._reader = only, post, read
        self._kept: dict[int, list[tuple[Call, str]]] = {}

    def begin(self) -> None:
        super().begin()
        self.calls, self.met = [], set()
        self._kept = {}

    def on_site(self, name: str, call: Activating) -> Tensor:
        self.met.add(name)
        if call.parts:
            self.calls = [record for record in self.calls if record.name not in call.parts]
        if call.target is not None and self._kept:
            self._save(call.target)
        if self._only is not None and name not in self._only:
            return call.as_asked()
        if self._reader is not None and not self._post:
            self._reader(Call(name, call.kind, call.options, call.z, None))
            return call.as_asked()
        pre = call.source()
        post = call.as_asked() if call.target is None else call.compute(pre)
        record = Call(name, call.kind, call.options, pre, post if self._post else None)
        if self._reader is not None:
            self._reader(record)
            return call.give(post)
        self.calls.append(record)
        self._keep(record, "pre", pre)
        if self._post:
            self._keep(record, "post", post)
        return call.give(post)

    def on_other(self, entry: Entry, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if entry.overwrites or kwargs:
            target = calls.overwritten(entry, args, kwargs)
            if target is not None:
                self._save(target)
        return func(*args, **kwargs)

    def _keep(self, record: Call, field: str, tensor: Tensor) -> None:
        if tensor.device.type != "meta":
            self._kept.setdefault(tensor.untyped_storage().data_ptr(), []).append((record, field))

    def _save(self, target: Tensor) -> None:
        """Copy what was recorded before the model overwrites it."""
        for record, field in self._kept.pop(target.untyped_storage().data_ptr(), ()):
            setattr(record, field, getattr(record, field).clone())


@contextmanager
def watch(
    model: nn.Module, only: Iterable[str] | None = None, post: bool = True, read: Reader | None = None
) -> Iterator[Recorder]:
    """Record every activation call of ``model`` while the block lasts; ``calls`` starts afresh with each forward pass.

    The output is bit-equal to an unwatched pass (with torch's fused attention off: see ``Sites.fused``). ``only`` keeps
    the named sites alone, ``post=False`` drops their outputs; both save memory. In-place activations are computed out
    of place and copied back, so that ``pre`` is what they read. A recorded tensor that the model later overwrites is
    copied first; that copy has the right values but the model's output no longer depends on it.

    ``read`` is shown each call as it is made, and nothing is kept: the cheapest way to count. It must keep no tensor,
    for the model may overwrite it, and is shown the parts of an activation written by hand before the whole; ``only``
    with the names that ``find`` gives leaves them out.

    Failure modes: calls in other threads, compiled or scripted modules (ModelError; scripted children are skipped), and
    the recomputation of ``torch.utils.checkpoint`` during backward are not seen.
    """
    recorder = Recorder(model, None if only is None else frozenset(only), post, read)
    with following(recorder):
        yield recorder


def dead_counts(model: nn.Module, x: Tensor, found: Sites, batch: int = 128) -> dict[str, Tensor | None]:
    """On how many of the inputs x (n, ...) each unit was dead: a tensor of ``Site.shape`` a site, float64.

    ``found`` is what ``find`` saw. A unit is dead at or below the catalogue's ``dead_below``: z <= 0 for relu, z <= -3
    for hardswish. Left out are sites that cannot die, constants, gates and the output. None for a site that had a value
    which is not finite: a NaN is neither dead nor alive. One forward a row in eval mode, and nothing kept of it.
    """
    bars = {site.name: (site, site.activation.properties) for site in found.active}
    wanted = {name: (site, p.dead_below) for name, (site, p) in bars.items() if p.can_die and p.dead_below is not None}
    counts: dict[str, Tensor | None] = {
        name: torch.zeros(site.shape, dtype=torch.float64, device=x.device) for name, (site, _) in wanted.items()
    }

    def read(call: Call) -> None:
        site, below = wanted[call.name]
        z, sums = call.pre, counts[call.name]
        if sums is None:
            return
        if not bool(torch.isfinite(z.sum(dtype=torch.float32))) and not bool(torch.isfinite(z).all()):
            counts[call.name] = None
            return
        z = z.reshape(-1, *site.shape)
        # written as numbers and summed by a product: three times faster on the CPU than booleans
        dead = torch.le(z, below, out=torch.empty_like(z, dtype=torch.float32)).flatten(1)
        sums += (dead.T @ dead.new_ones(len(dead))).reshape(site.shape)

    with resting(model), watch(model, only=wanted, post=False, read=read):
        for piece in torch.split(x, batch):
            model(piece)
    return counts
