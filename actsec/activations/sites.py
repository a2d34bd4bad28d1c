"""Activation sites: finding every call of an activation that a model makes.

A site is one call, not a module: ResNet-18 has 9 ReLU modules and 17 calls, Inception-v3 has 94 calls and no module.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from actsec.activations.calls import Options
from actsec.activations.catalogue import Activation, activation
from actsec.activations.finding import Finder, Found, Unresolved
from actsec.activations.following import following
from actsec.errors import ModelError
from actsec.spec import Spec

Role = Literal["activation", "gate", "output"]
"""A gate multiplies another feature map (squeeze-and-excitation's sigmoid); an output is what the model returns."""


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
    role: Role

    @property
    def activation(self) -> Activation:
        """The catalogue's entry with this call's options; a prelu's learned slopes stay in the model."""
        return activation(Spec(self.kind, self.options))


@dataclasses.dataclass(frozen=True, slots=True)
class Sites:
    """What ``find`` saw. ``fused`` names attention modules whose fast path would hide sites and move the output."""

    sites: tuple[Site, ...]
    unresolved: tuple[Unresolved, ...]
    fused: tuple[str, ...]

    @property
    def active(self) -> tuple[Site, ...]:
        """The sites that count: hidden activations that see the input; no gates, outputs or constants."""
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
    with resting(model):
        return _find(model, example)


def find_in_training(model: nn.Module, example: Tensor) -> Sites:
    """Every activation call in train mode, found on a copy: auxiliary heads are called in train mode alone.

    None where the model cannot run in train mode on such a batch.
    """
    clone = copy.deepcopy(model)
    # batch norm refuses one value a channel, so the batch has at least two examples
    batch = torch.cat([example, example]) if len(example) == 1 else example
    with resting(clone):
        clone.train()
        try:
            return _find(clone, batch)
        except ModelError:
            return Sites((), (), ())


def _find(model: nn.Module, example: Tensor) -> Sites:
    first = _pass(model, example)
    constant = {place for place, found in enumerate(first.found) if not found.depends}
    if constant and example.device.type != "meta":
        # numpy and custom autograd functions hide where a tensor comes from: believe it only if another input agrees
        second = _pass(model, _another(example))
        pairs = zip(first.found, second.found, strict=False)
        same = [a.name == b.name and a.z is not None and b.z is not None and torch.equal(a.z, b.z) for a, b in pairs]
        constant = {place for place in constant if place < len(same) and same[place]}
    attention = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
    return Sites(
        sites=tuple(_site(found, i, len(example), i in constant) for i, found in enumerate(first.found)),
        unresolved=tuple(first.unresolved),
        fused=tuple(name for name, module in model.named_modules() if isinstance(module, attention)),
    )


def _pass(model: nn.Module, example: Tensor) -> Finder:
    finder = Finder(model, example)
    devices = [example.device] if example.device.type == "cuda" else []
    try:
        with following(finder), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            finder.end(model(example))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"the model fails on an example of shape {tuple(example.shape)}: {error}",
            "Give one batch that the model accepts.",
        ) from error
    return finder


def _another(example: Tensor) -> Tensor:
    """A different input of the same shape, inside the same range."""
    moved = example.roll(1, -1)
    if not example.is_floating_point():
        return moved
    other = (moved + example.amin()) / 2
    return example + 0.5 if torch.equal(other, example) else other  # a blank: no shift of it differs


def _site(found: Found, index: int, rows: int, constant: bool) -> Site:
    first = found.shape[0] if found.shape else 0
    if constant or not first or first % rows:
        shape = found.shape
    else:
        # windows and patches may stand in the batch dimension: they are units of the same example
        shape = found.shape[1:] if first == rows else (first // rows, *found.shape[1:])
    role: Role = "gate" if found.gate else "output" if found.returned and not found.consumed else "activation"
    return Site(found.name, index, found.kind, found.options, found.functional, shape, constant, role)


@contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's train flag is put back."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, flag in flags:
            module.training = flag
