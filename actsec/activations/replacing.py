"""Replacing activation calls: a deep copy of the model whose chosen calls compute another activation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from actsec.activations.calls import Activating
from actsec.activations.catalogue import Activation, activation
from actsec.activations.following import Follower, Stands, following, key_of
from actsec.activations.sites import find, find_in_training
from actsec.errors import ModelError, unknown
from actsec.spec import Spec


class Swapped(Stands):
    """A model with some of its activation calls replaced.

    State-dict keys: the original's under ``model.``, and each learnable replacement's own under ``stands.<site>.`` with
    the site's dots written as slashes: ``stands.layer1/0/relu:2.weight``. It pickles, copies, trains and loads as any
    module does. ``seen`` holds every site that was found, so that a call nobody looked at is an error, not a guess.
    """

    def __init__(self, model: nn.Module, stands: dict[str, nn.Module], seen: frozenset[str]) -> None:
        super().__init__()
        self.model = model
        self.stands = nn.ModuleDict({key_of(name): stand for name, stand in stands.items()})
        self.seen = seen

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with following(_Replacer(self)):
            return self.model(*args, **kwargs)


class _Replacer(Follower):
    def __init__(self, swapped: Swapped) -> None:
        super().__init__(swapped.model)
        self.swapped = swapped

    def on_site(self, name: str, call: Activating) -> Tensor:
        key = key_of(name)
        if key in self.swapped.stands:
            result: Tensor = self.swapped.stands[key](call.source())
            return call.give(result)
        if name not in self.swapped.seen:
            raise ModelError(
                f"the model called the activation {name!r}, which was not called when its activations were replaced",
                "Replace them with an example that takes the same way through the model.",
            )
        return call.give(call.compute(call.source()))


def replace(
    model: nn.Module,
    to: Spec | str | Activation,
    only: str | Sequence[str] | None = None,
    *,
    example: Tensor,
) -> Swapped:
    """A deep copy of ``model`` whose activation calls compute ``to``; the original is left as it is.

    Every call counts on its own: a module called twice is two sites, and a learnable ``to`` has a parameter per site.
    Left alone are gates, sites that never see the input, and with ``only`` (a glob such as ``layer1.*``, or several)
    every site whose name matches none. ``example`` (n, ...) is one valid batch, run to find the sites: in eval mode on
    the model and in train mode on a copy, so that auxiliary heads are replaced as well. relu by relu is bit-equal.

    Raises UnknownName when a glob matches no site, ModelError when there is nothing to replace.
    """
    wanted = activation(to)
    found = find(model, example)
    training = find_in_training(model, example)
    known = {site.name for site in found.sites}
    active = [*found.active, *(site for site in training.active if site.name not in known)]
    globs = ["*"] if only is None else [only] if isinstance(only, str) else list(only)
    for glob in globs:
        if only is not None and not any(fnmatchcase(site.name, glob) for site in active):
            raise unknown("activation site", glob, [site.name for site in active])
    chosen = [site for site in active if any(fnmatchcase(site.name, glob) for glob in globs)]
    if not chosen:
        raise ModelError(
            "the model has no activation call that can be replaced",
            "List its calls with actsec.activations.find(model, example).",
        )
    clone = copy.deepcopy(model)
    like = example if example.is_floating_point() else next(model.parameters(), torch.empty(0))
    stands = {site.name: wanted.module().to(device=like.device, dtype=like.dtype) for site in chosen}
    for stand in stands.values():
        stand.train(model.training)
    swapped = Swapped(clone, stands, frozenset(known | {site.name for site in training.sites}))
    swapped.training = model.training
    return swapped
