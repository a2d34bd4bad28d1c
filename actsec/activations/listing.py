"""Activation sites: finding every call of an activation that a model makes.

A site is one call, not a module: ResNet-18 has 9 ReLU modules and 17 calls, Inception-v3 has 94 calls and no module.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from actsec.activations.calls import Options
from actsec.activations.catalogue import Activation, activation
from actsec.activations.finding import Finder, Found, Unresolved
from actsec.activations.following import following
from actsec.errors import ModelError
from actsec.spec import Spec

if TYPE_CHECKING:
    from actsec.types import Target

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
    block: str  # the qualified name of the module whose forward makes the call; "" is the model itself
    shape: tuple[int, ...]  # of the pre-activation of one example
    constant: bool  # the pre-activation does not depend on the model's input
    role: Role
    parts: tuple[str, ...] = ()  # the calls that make it up where it is written by hand: z * sigmoid(z) is one site

    @property
    def module(self) -> str | None:
        """The qualified name of the activation module, None for a functional call."""
        stem, mark, turn = self.name.rpartition(":")
        return None if self.functional else stem if mark and turn.isdigit() else self.name

    @property
    def activation(self) -> Activation:
        """The catalogue's entry with this call's options; a prelu's learned slopes stay in the model."""
        return activation(Spec(self.kind, self.options))


@dataclasses.dataclass(frozen=True, slots=True)
class Sites:
    """What ``find`` saw. ``fused`` names attention modules whose fast path would hide sites and move the output.

    ``softmaxes`` names the modules that call a softmax on what depends on the input, once a call: attention weights, or
    the output's probabilities. They mix units rather than act on each, and are left alone as gates are.
    """

    sites: tuple[Site, ...]
    unresolved: tuple[Unresolved, ...]
    fused: tuple[str, ...]
    softmaxes: tuple[str, ...] = ()
    seen: frozenset[str] = frozenset()  # the name of every call met, parts and all

    @property
    def active(self) -> tuple[Site, ...]:
        """The sites that count: hidden activations that see the input; no gates, outputs or constants."""
        return tuple(site for site in self.sites if site.role == "activation" and not site.constant)

    @property
    def gates(self) -> tuple[Site, ...]:
        """Sigmoids and hard sigmoids that multiply another feature map."""
        return tuple(site for site in self.sites if site.role == "gate")

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def __str__(self) -> str:
        """A table: one line a site, then what is unresolved."""
        rows = [("name", "kind", "shape", "call", "block", "role")]
        for site in self.sites:
            kind = str(Spec(site.kind, site.options))
            how = "by hand" if site.parts else "functional" if site.functional else "module"
            role = "constant" if site.constant else site.role
            rows.append((site.name, kind, "x".join(map(str, site.shape)), how, site.block or "(model)", role))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([*lines, *(f"unresolved {item.name or '(model)'}: {item.reason}" for item in self.unresolved)])


def sites(target: Target) -> Sites:
    """Every activation call of a target's model, in call order; see ``find``, which it costs.

    The inputs are two of uniform noise inside the target's bounds, the same each time.
    """
    low, high = target.bounds
    noise = torch.rand(2, *target.shape, generator=torch.Generator().manual_seed(0))
    example = (low + (high - low) * noise).to(target.device)
    return find(target.model, target.normalization(example) if target.normalization else example)


def find(model: nn.Module, example: Tensor) -> Sites:
    """Every activation call of one forward pass in eval mode. ``example`` (n, ...) is one valid input batch.

    Costs one forward, and a second one when some site seems not to depend on the input. The model, its flags and the
    global random state are left as they are. An activation written out by hand is one site of its real kind, or it is
    unresolved; so are clamps at 0, which may be limits as well as ReLUs, scripted children and fused recurrent kernels.
    Raises ModelError when the pass fails, and for compiled and scripted models.
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
    # numpy and custom autograd functions hide where a tensor comes from: believe it only if another input agrees
    doubted = example.device.type != "meta" and any(not found.depends for found in first.found)
    return listed(first, _pass(model, _another(example)) if doubted else None, len(example))


def listed(first: Finder, second: Finder | None, rows: int) -> Sites:
    """What one pass of ``rows`` inputs showed; a second one, of other inputs, has a say in what is constant."""
    constant = {place for place, found in enumerate(first.found) if not found.depends}
    if second is not None:
        pairs = zip(first.found, second.found, strict=False)
        same = [a.name == b.name and _equal(a.z, b.z) for a, b in pairs]
        constant = {place for place in constant if place < len(same) and same[place]}
    attention = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
    kept = [(found, place in constant) for place, found in enumerate(first.found) if not found.absorbed]
    return Sites(
        sites=tuple(_site(found, index, rows, fixed) for index, (found, fixed) in enumerate(kept)),
        unresolved=tuple(first.unresolved),
        fused=tuple(name for module, name in first.names.items() if isinstance(module, attention)),
        softmaxes=tuple(first.softmaxes),
        seen=frozenset(found.name for found in first.found),
    )


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors hold the same values; a NaN equals itself."""
    if one is None or other is None or one.shape != other.shape:
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _pass(model: nn.Module, example: Tensor) -> Finder:
    finder = Finder(model, example)
    try:
        with following(finder), seeded(example.device):
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
    role: Role = "gate" if found.gate else "output" if found.returned and not found.uses else "activation"
    return Site(
        found.name, index, found.kind, found.options, found.functional, found.block, shape, constant, role, found.parts
    )


@contextmanager
def seeded(device: torch.device) -> Iterator[None]:
    """Random draws from seed 0, and the global state as it was afterwards."""
    if device.type != "cpu":
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            yield
        return
    before = torch.default_generator.get_state()  # torch.manual_seed costs as much as a small forward
    torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


@contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's train flag is put back."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        if any(flag for _, flag in flags):
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, flag in flags:
            if module.training != flag:
                module.training = flag
