"""Replacing activation calls: a deep copy of the model whose chosen calls compute another activation."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from actsec.activations.calls import Activating
from actsec.activations.catalogue import Activation, activation
from actsec.activations.finding import tensors
from actsec.activations.following import Follower, Stands, following, is_activation, key_of
from actsec.activations.listing import Site, find, find_in_training, resting, seeded
from actsec.errors import BadOption, ModelError, unknown
from actsec.spec import Spec


class Swapped(Stands):
    """A model with some of its activation calls replaced.

    State-dict keys: the original's under ``model.``, and each learnable replacement's own under ``stands.<site>.`` with
    the site's dots written as slashes: ``stands.layer1/0/relu:2.weight``. It pickles, copies, trains and loads as any
    module does. ``seen`` holds every site that was found, so that a call nobody looked at is an error, not a guess.
    """

    def __init__(
        self, model: nn.Module, stands: dict[str, nn.Module], seen: frozenset[str], parts: frozenset[str] = frozenset()
    ) -> None:
        super().__init__()
        self.model = model
        self.parts = parts  # calls that make up a replaced activation written by hand: nobody computes them
        self.stands = nn.ModuleDict({key_of(name): stand for name, stand in stands.items()})
        self.seen = seen

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        replacer = _Replacer(self)
        with following(replacer):
            result = self.model(*args, **kwargs)
        if replacer.skipped:
            raise ModelError(
                f"{min(replacer.skipped)!r} was part of an activation written by hand, and is so no more",
                "Replace the activations with an example that takes the same way through the model.",
            )
        return result


class _Replacer(Follower):
    def __init__(self, swapped: Swapped) -> None:
        super().__init__(swapped.model)
        self.swapped = swapped
        self.skipped: set[str] = set()

    def on_site(self, name: str, call: Activating) -> Tensor:
        if _recomputed():
            raise ModelError(
                f"the activation {name!r} runs inside torch.utils.checkpoint, which runs it once more during backward",
                "Switch checkpointing off (memory_efficient=False in torchvision's densenet).",
            )
        self.skipped.difference_update(call.parts)
        if name in self.swapped.parts:
            self.skipped.add(name)
            given = next(tensor for tensor in (*call.reads, call.z) if tensor.shape == call.z.shape)
            return given.view_as(given) if call.target is None else call.target
        key = key_of(name)
        if key in self.swapped.stands:
            result: Tensor = self.swapped.stands[key](call.source())
            return call.give(result)
        if name not in self.swapped.seen:
            raise ModelError(
                f"the model called the activation {name!r}, which was not called when its activations were replaced",
                "Replace them with an example that takes the same way through the model.",
            )
        return call.as_asked()


def _recomputed() -> bool:
    """Whether this call will be made once more by backward, when nothing replaces it."""
    frame = sys._getframe()  # noqa: SLF001  # the only sign that both kinds of checkpoint leave
    while frame.f_back is not None and frame.f_code is not Swapped.forward.__code__:
        if frame.f_code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back
    return False


def replace(
    model: nn.Module,
    to: Spec | str | Activation,
    only: str | Sequence[str] | None = None,
    *,
    example: Tensor,
) -> Swapped:
    """A deep copy of ``model`` whose activation calls compute ``to``; the original is left as it is.

    Every call counts on its own: a module called twice is two sites, and a learnable ``to`` has a parameter per site.
    Left alone are gates, the model's output, sites that never see the input, and with ``only`` (a glob such as
    ``layer1.*``, or several) every site whose name matches none. ``example`` (n, ...) is one valid batch, run to find
    the sites: in eval mode on the model and in train mode on a copy, so that auxiliary heads are replaced as well.
    relu by relu is bit-equal.

    Raises UnknownName when a glob matches no site, ModelError when there is nothing to replace, BadOption for maxout,
    whose output is smaller than its input.
    """
    wanted = replaceable(to)
    found, training = find(model, example), find_in_training(model, example)
    known = {site.name for site in found.sites}
    later = [site for site in training.sites if site.name not in known]
    chosen = _chosen([*found.active, *(site for site in later if site in training.active)], only)
    clone = copy.deepcopy(model)
    _compute_out_of_place(clone, example)
    like = next((p for p in model.parameters() if p.is_floating_point()), example)
    stands = {site.name: wanted.module().to(device=like.device, dtype=like.dtype) for site in chosen}
    for stand in stands.values():
        stand.train(model.training)
    parts = frozenset(part for site in chosen for part in site.parts)
    swapped = Swapped(clone, stands, found.seen | training.seen, parts)
    swapped.training = swapped.stands.training = model.training
    return swapped


def replaceable(to: Spec | str | Activation) -> Activation:
    """The activation of a spec that can stand in another's place. Raises BadOption for one that changes the shape."""
    wanted = activation(to)
    if wanted.pieces > 1:
        raise BadOption(
            f"{wanted.name} makes one output of {wanted.pieces} pre-activations, so it fits in no other's place",
            f"Build a network with it: reference:mlp(activation={wanted.name}).",
        )
    return wanted


def _chosen(active: Sequence[Site], only: str | Sequence[str] | None) -> list[Site]:
    if not active:
        raise ModelError(
            "the model has no activation call that can be replaced",
            "List its calls with actsec.activations.find(model, example).",
        )
    if only is None:
        return list(active)
    globs = [only] if isinstance(only, str) else list(only)
    for glob in globs:
        if not any(fnmatchcase(site.name, glob) for site in active):
            raise unknown("activation site", glob, [site.name for site in active])
    return [site for site in active if any(fnmatchcase(site.name, glob) for glob in globs)]


def _compute_out_of_place(model: nn.Module, example: Tensor) -> None:
    """Clear ``inplace`` in our copy's activation modules, which saves a copy a call, unless the output shows it."""
    flagged = [m for m in model.modules() if is_activation(m) and getattr(m, "inplace", False)]
    before = _outputs(model, example)
    for module in flagged:
        setattr(module, "inplace", False)  # noqa: B010  # nn.Module's typing knows no such attribute
    after = _outputs(model, example)
    if len(before) != len(after) or not all(map(torch.equal, before, after)):
        for module in flagged:
            setattr(module, "inplace", True)  # noqa: B010  # as above


def _outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    with resting(model), seeded(example.device):
        return list(tensors(model(example)))
