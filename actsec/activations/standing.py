"""A model some of whose activation calls are answered by modules of ours: what swaps and noise at sites are made of."""

from __future__ import annotations

import abc
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.utils import checkpoint

from actsec.activations.calls import Activating
from actsec.activations.following import Follower, Stands, following, key_of
from actsec.activations.listing import find, find_in_training
from actsec.errors import ModelError, unknown


@dataclasses.dataclass(frozen=True, slots=True)
class Chosen:
    """The calls at which modules are to stand, among all that were found."""

    names: tuple[str, ...]
    parts: frozenset[str]  # the calls that make up those of them that are written by hand
    seen: frozenset[str]  # every call there is, parts and all


class Standing(Stands, abc.ABC):
    """A model with a module at some of its activation calls; a subclass says in ``answer`` what such a call gives.

    State-dict keys: the original's under ``model.``, and each module's own under ``stands.<site>.`` with the site's
    dots written as slashes: ``stands.layer1/0/relu:2.weight``. It pickles, copies, trains and loads as any module does.
    ``seen`` holds every call that was found, so that a call nobody looked at is an error, not a guess; ``parts`` those
    that make up a call written by hand at which a module stands: nobody computes them.
    """

    def __init__(self, model: nn.Module, stands: Mapping[str, nn.Module], calls: Chosen) -> None:
        super().__init__()
        self.model = model
        self.stands = nn.ModuleDict({key_of(name): stand for name, stand in stands.items()})
        self.seen, self.parts = calls.seen, calls.parts

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        stander = _Stander(self)
        with following(stander):
            result = self.model(*args, **kwargs)
        if stander.skipped:
            raise ModelError(
                f"{min(stander.skipped)!r} was part of an activation written by hand, and is so no more",
                "Give an example that takes the same way through the model.",
            )
        return result

    @abc.abstractmethod
    def answer(self, stand: nn.Module, call: Activating) -> Tensor:
        """What a call gives at which ``stand`` stands, from ``call.source()`` alone: its parts were not computed."""

    def resting_as(self, model: nn.Module) -> None:
        """Put this module and its stands in the train or eval mode of ``model``; its own copy has it already."""
        for module in (self, self.stands, *(each for stand in self.stands.values() for each in stand.modules())):
            module.training = model.training


class _Stander(Follower):
    def __init__(self, standing: Standing) -> None:
        super().__init__(standing.model)
        self.standing = standing
        self.skipped: set[str] = set()  # parts that were not computed, until the whole is

    def on_site(self, name: str, call: Activating) -> Tensor:
        if _recomputed():
            raise ModelError(
                f"the activation {name!r} runs inside torch.utils.checkpoint, which runs it once more during backward",
                "Switch checkpointing off (memory_efficient=False in torchvision's densenet).",
            )
        self.skipped.difference_update(call.parts)
        if name in self.standing.parts:
            self.skipped.add(name)
            given = next(tensor for tensor in (*call.reads, call.z) if tensor.shape == call.z.shape)
            return given.view_as(given) if call.target is None else call.target
        key = key_of(name)
        if key in self.standing.stands:
            return call.give(self.standing.answer(self.standing.stands[key], call))
        if name not in self.standing.seen:
            raise ModelError(
                f"the model called the activation {name!r}, which was not called when its activations were looked for",
                "Give an example that takes the same way through the model.",
            )
        return call.as_asked()


def _recomputed() -> bool:
    """Whether backward will make this call once more, when nothing stands there."""
    frame = sys._getframe()  # noqa: SLF001  # the only sign that both kinds of checkpoint leave
    while frame.f_back is not None and frame.f_code is not Standing.forward.__code__:
        if frame.f_code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back
    return False


def chosen(model: nn.Module, example: Tensor, only: str | Sequence[str] | None = None) -> Chosen:
    """The active calls whose names match one of the globs; all of them without.

    example (n, ...) is one valid batch, run in eval mode on the model and in train mode on a copy. Active calls leave
    out gates, the output and what never sees the input. Raises UnknownName for a glob that matches none, ModelError for
    a model without any.
    """
    found, training = find(model, example), find_in_training(model, example)
    known = {site.name for site in found.sites}
    active = [*found.active, *(site for site in training.active if site.name not in known)]
    if not active:
        raise ModelError(
            "the model has no activation call that something could stand for",
            "List its calls with actsec.activations.find(model, example).",
        )
    globs = [only] if isinstance(only, str) else ["*"] if only is None else list(only)
    for glob in globs:
        if not any(fnmatchcase(site.name, glob) for site in active):
            raise unknown("activation site", glob, [site.name for site in active])
    picked = [site for site in active if any(fnmatchcase(site.name, glob) for glob in globs)]
    return Chosen(
        names=tuple(site.name for site in picked),
        parts=frozenset(part for site in picked for part in site.parts),
        seen=found.seen | training.seen,
    )
