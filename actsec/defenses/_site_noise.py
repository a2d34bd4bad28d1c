"""Noise on the outputs of activation calls, site by site."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from actsec.activations.calls import Activating
from actsec.activations.following import Follower, Stands, following, key_of
from actsec.activations.listing import find, find_in_training
from actsec.errors import ModelError, unknown

TINY = 1e-12


class Jitter(nn.Module):
    """y -> y + alpha * s * n with n ~ N(0, 1), s the standard deviation of each row's own values of y (m, *units).

    s stays on the graph and belongs to the row alone, so that no row depends on its batch. alpha is a parameter where
    it is learned, and otherwise a constant outside the state.
    """

    alpha: Tensor

    def __init__(self, alpha: float, *, learned: bool) -> None:
        super().__init__()
        if learned:
            self.alpha = nn.Parameter(torch.tensor(alpha))
        else:
            self.register_buffer("alpha", torch.tensor(alpha), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        spread = (y.flatten(1).var(1, unbiased=False) + TINY).sqrt()
        return y + self.alpha * spread.view(-1, *(1,) * (y.dim() - 1)) * torch.randn_like(y)


class Jittered(Stands):
    """A model with noise added to the output of some of its activation calls, in train and eval mode alike.

    ``stands`` holds the noise of each site; ``seen`` every site that was found, so that a call nobody looked at is an
    error. Draws come from torch's global random state.
    """

    def __init__(self, model: nn.Module, noises: Mapping[str, nn.Module], seen: frozenset[str]) -> None:
        super().__init__()
        self.model = model
        self.stands = nn.ModuleDict({key_of(name): noise for name, noise in noises.items()})
        self.seen = seen

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with following(_Adder(self)):
            return self.model(*args, **kwargs)


def jittered(model: nn.Module, example: Tensor, sites: str | Sequence[str], alpha: float, *, learned: bool) -> Jittered:
    """A deep copy of the model with noise at the activation calls whose names match a glob; the original is left alone.

    example (n, ...) is one valid batch, run to find the calls, in eval mode and in train mode. Gates, the output and
    calls that never see the input get none. Raises UnknownName for a glob that matches no call, ModelError for a model
    without any.
    """
    found, training = find(model, example), find_in_training(model, example)
    known = {site.name for site in found.sites}
    later = [site for site in training.sites if site.name not in known]
    active = [site.name for site in (*found.active, *(site for site in later if site in training.active))]
    if not active:
        raise ModelError("the model has no activation call that noise could follow", "Use noisy_inference(at=input).")
    globs = [sites] if isinstance(sites, str) else list(sites)
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in active):
            raise unknown("activation site", glob, active)
    picked = [name for name in active if any(fnmatchcase(name, glob) for glob in globs)]
    noises = {name: Jitter(alpha, learned=learned).to(example.device) for name in picked}
    made = Jittered(copy.deepcopy(model), noises, found.seen | training.seen)
    for module in (made, made.stands, *noises.values()):
        module.training = model.training
    return made


def alphas(model: nn.Module) -> dict[str, float]:
    """The scale of the noise at each site of a jittered model."""
    noises = {key: noise for key, noise in model.named_modules() if isinstance(noise, Jitter)}
    return {key.removeprefix("stands.").replace("/", "."): float(noise.alpha.detach()) for key, noise in noises.items()}


class _Adder(Follower):
    def __init__(self, jittered: Jittered) -> None:
        super().__init__(jittered.model)
        self.jittered = jittered

    def on_site(self, name: str, call: Activating) -> Tensor:
        if _recomputed():
            raise ModelError(
                f"the activation {name!r} runs inside torch.utils.checkpoint, which runs it once more during backward",
                "Switch checkpointing off (memory_efficient=False in torchvision's densenet).",
            )
        key = key_of(name)
        if key in self.jittered.stands:
            noisy: Tensor = self.jittered.stands[key](call.compute(call.source()))
            return call.give(noisy)
        if name not in self.jittered.seen:
            raise ModelError(
                f"the model called the activation {name!r}, which was not called when the noise was put in",
                "Put it in with inputs that take the same way through the model.",
            )
        return call.as_asked()


def _recomputed() -> bool:
    """Whether backward will make this call once more, without the noise."""
    frame = sys._getframe()  # noqa: SLF001  # the only sign that both kinds of checkpoint leave
    while frame.f_back is not None and frame.f_code is not Jittered.forward.__code__:
        if frame.f_code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back
    return False
