"""A faster, checked stand-in of a target for the search. The verdict is never its own: see ``drive(judge=...)``.

What is done follows from the model's structure and the hardware, never from a clock, so that two runs of a plan on one
machine use the same stand-in. Each step is made on a copy, and kept when that copy agrees with the original on a sample
and gives a row the same bits in calls of different sizes.

    batch norm folded    into the convolution or linear layer before it, where torch.fx can follow the model
    bfloat16             only when asked, and where the hardware computes in it
    channels_last        where 2-d convolutions do enough work to repay the changed layout
    compiled             only when asked
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from actsec.errors import ActsecError, BadOption
from actsec.losses import Margin
from actsec.search import folding
from actsec.search.oracle import PAD, Oracle, frozen
from actsec.types import Cases, Goal, Target

SAMPLE = PAD
"""Rows looked at: one call holds them all without padding."""

PASSES = 10_000
"""Image passes (a backward is two) from which on a search repays its stand-in: making one costs about 1,000 of them,
and it was measured to save a tenth to a third of the search."""

CONVOLVED = 4_000_000
"""Multiply-adds of 2-d convolutions per image from which on channels_last was measured to gain on a CPU; below it the
changes of layout cost what they save. docs/decisions/0008-lowering.md has the networks."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a stand-in compares with the original on ``rows`` sample rows.

    labels is the share of equal decisions; logits the largest difference of a logit and scale the original's largest
    absolute logit; gradient the least cosine, over the rows, of the margin's gradients (1 where both are zero).
    """

    rows: int
    labels: float
    logits: float
    scale: float
    gradient: float

    def holds(self, labels: float, logits: float, gradient: float) -> bool:
        """Whether it is at least this good; logits is relative to scale."""
        return self.labels >= labels and self.logits <= logits * self.scale and self.gradient >= gradient

    def __str__(self) -> str:
        return (
            f"{self.labels:.1%} of {self.rows} labels equal, logits up to {self.logits:.1e} of {self.scale:.3g} apart, "
            f"least gradient cosine {self.gradient:.4f}"
        )


EXACT = (1.0, 1e-4, 0.999)
"""The least (labels, logits, gradient) of a float32 step: only the order of additions changes."""

ROUNDED = (0.9, 0.1, 0.7)
"""The same for bfloat16, whose numbers have 8 bits: a step along its gradient keeps at least 0.7 of the ascent."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A target for the search. ``what`` was done to its model; ``left_out`` was tried and dropped, with the reason.

    Where ``what`` is empty there is no stand-in: target is the original itself, and needs no judge.
    """

    target: Target
    what: tuple[str, ...]
    left_out: tuple[str, ...]
    agreement: Agreement


class _Dropped(ActsecError):
    """A step that cannot be made on this model; ``problem`` says why."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """Decision logits (n, classes), the margin's gradient (n, *shape), and whether both hold in a larger call."""

    logits: Tensor
    gradient: Tensor
    steady: bool


Step = Callable[[Target], str | None]
"""Changes the model of a target, itself a copy, in place; says what it did, None for what does not concern it."""


def worth(goal: Goal, passes: int) -> bool:
    """Whether a search of so many image passes, a backward counting as two, should use a stand-in.

    A goal that reads activations does not: what it counts, units at or below 0, a rounding can flip.
    """
    return not goal.watches and passes >= PASSES


def lower(target: Target, sample: Tensor, *, dtype: torch.dtype = torch.float32, compile: bool = False) -> Lowered:
    """The stand-in of ``target``, checked on the first 32 rows of ``sample`` (n, *shape), input units.

    dtype bfloat16 loses perturbations below 2^-9 of a pixel's value: searches for the smallest change stay in float32.
    compile calls torch.compile, which takes minutes: for runs of hours, not for attacks that read activations. What
    this model, this hardware or the agreement forbids is left out and named. The target is untouched. Use one sample
    for all parts of a run, or the parts may differ. Costs 96 forwards and backwards for the original and for each step.

    Stochastic targets, and those whose logits or gradients are not finite on the sample, have no stand-in. Raises
    BadOption for any other dtype and for an empty sample.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        raise BadOption(f"a stand-in in {dtype}", "Use torch.float32 or torch.bfloat16.")
    if not len(sample):
        raise BadOption("the sample is empty", "Give inputs on which the stand-in is compared, best 32.")
    x = sample[:SAMPLE].detach()
    lowered = Lowered(target, (), (), Agreement(len(x), 1.0, 0.0, 1.0, 1.0))
    if target.stochastic:
        return _without(lowered, "stand-in", "the target draws at random")
    try:
        own = _look(target, x)
    except _Dropped as reason:
        return _without(lowered, "stand-in", reason.problem)
    steps: dict[str, Step] = {"batch norm": _fold}
    if dtype == torch.bfloat16:
        steps["bfloat16"] = _round
    steps["channels_last"] = functools.partial(_channels_last, x=x)
    if compile:
        steps["compiled"] = _compile
    for name, step in steps.items():
        lowered = _tried(lowered, name, step, own, x)
    return lowered


def _without(lowered: Lowered, name: str, reason: str) -> Lowered:
    return Lowered(lowered.target, lowered.what, (*lowered.left_out, f"{name}: {reason}"), lowered.agreement)


def _tried(so_far: Lowered, name: str, step: Step, own: _Seen, x: Tensor) -> Lowered:
    """The stand-in with one step more, or as it was, with the reason."""
    try:
        made = so_far.target.having(model=_copied(so_far.target.model))
        words = step(made)
        if words is None:
            return so_far
        seen = _look(made, x, own.logits.argmax(1))
        agreement = _agreement(own, seen)
    except _Dropped as reason:
        return _without(so_far, name, reason.problem)
    if own.steady and not seen.steady:
        return _without(so_far, name, "a row's numbers would depend on the size of its call")
    if not agreement.holds(*(ROUNDED if _is_rounded(made.model) else EXACT)):
        return _without(so_far, name, str(agreement))
    return Lowered(made, (*so_far.what, words), so_far.left_out, agreement)


def _copied(model: nn.Module) -> nn.Module:
    try:
        twin = copy.deepcopy(model).eval().requires_grad_(False)
    except Exception as error:  # whatever a model's own copying raises
        raise _Dropped(f"the model cannot be copied: {_said(error)}") from error
    for parameter in twin.parameters():
        parameter.grad = None
    return twin


def _look(target: Target, x: Tensor, label: Tensor | None = None) -> _Seen:
    """What a target says of x (n <= SAMPLE, *shape), and of the same rows in a call of twice as many."""
    n = len(x)
    many = torch.cat([x] * math.ceil(2 * SAMPLE / n))[: 2 * SAMPLE]
    try:
        with frozen(target.model):
            # Of a network too large for so many rows, in the calls that it is asked in.
            oracle = Oracle(target, len(many) if target.batch >= PAD else target.batch)
            y = oracle.observe(x).logits.argmax(1) if label is None else label
            few, _, gradient = oracle.differentiate(x, _cases(target, x, y), Margin(), watches=False)
            y = torch.cat([y] * math.ceil(2 * SAMPLE / n))[: 2 * SAMPLE]
            more, _, again = oracle.differentiate(many, _cases(target, many, y), Margin(), watches=False)
    except Exception as error:  # a layer raises whatever it likes
        raise _Dropped(f"the model failed: {_said(error)}") from error
    if not bool(torch.isfinite(few.logits).all() and torch.isfinite(gradient).all()):
        raise _Dropped("logits or gradients are not finite on the sample")
    steady = torch.equal(few.logits, more.logits[:n]) and torch.equal(gradient, again[:n])
    return _Seen(few.logits, gradient, steady)


def _cases(target: Target, x: Tensor, y: Tensor) -> Cases:
    eps = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    return Cases(torch.arange(len(x), device=x.device), x, y, torch.full_like(y, -1), eps, "linf", *target.bounds)


def _agreement(own: _Seen, seen: _Seen) -> Agreement:
    if seen.logits.shape != own.logits.shape:
        raise _Dropped(f"logits of shape {tuple(seen.logits.shape)} instead of {tuple(own.logits.shape)}")
    a, b = own.gradient.flatten(1).double(), seen.gradient.flatten(1).double()
    lengths = a.norm(dim=1) * b.norm(dim=1)
    cosine = torch.where(lengths > 0, (a * b).sum(1) / lengths.clamp_min(1e-300), torch.zeros_like(lengths))
    cosine = torch.where((a == 0).all(1) & (b == 0).all(1), torch.ones_like(cosine), cosine)
    return Agreement(
        rows=len(a),
        labels=float((own.logits.argmax(1) == seen.logits.argmax(1)).double().mean()),
        logits=float((own.logits - seen.logits).abs().max()),
        scale=float(own.logits.abs().max()),
        gradient=float(cosine.min()),
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _fold(target: Target) -> str | None:
    try:
        folded = folding.fold(target.model)
    except Exception as error:  # data-dependent control flow and all else that torch.fx cannot follow
        raise _Dropped(f"torch.fx cannot follow the model: {_said(error)}") from error
    if folded == 0:
        raise _Dropped("none follows a convolution or linear layer directly")
    return f"batch norm folded ({folded})" if folded else None


def _round(target: Target) -> str | None:
    """Parameters, buffers and the input in bfloat16; Target.logits gives float32 back."""
    if not has_bfloat16(target.device):
        raise _Dropped(f"this {target.device.type} does not compute in it")
    target.model.to(torch.bfloat16).register_forward_pre_hook(_as_bfloat16)
    return "bfloat16"


def _as_bfloat16(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].to(torch.bfloat16), *args[1:])


def _is_rounded(model: nn.Module) -> bool:
    return any(hook is _as_bfloat16 for hook in model._forward_pre_hooks.values())  # noqa: SLF001  # torch has no getter


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private names, and the only ones there are; a torch without them is taken not to have it.
    asks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device.type == "cpu" and any(bool(ask()) for ask in asks if ask is not None)


def _channels_last(target: Target, x: Tensor) -> str | None:
    """Channels last in memory. The input needs no change: a convolution follows its weight's layout."""
    model = target.model
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return None
    if target.device.type != "cpu" and not _is_rounded(model):
        raise _Dropped(f"in float32 it is no gain known on {target.device.type}")
    work, values, weights = _convolved(target, x[:2])
    if work < CONVOLVED:
        raise _Dropped(f"2-d convolutions do {work:,} multiply-adds an image, it repays from {CONVOLVED:,} on")
    if PAD * values < weights:
        # Weights are reordered once a call, and here they outweigh what is convolved.
        raise _Dropped(f"2-d convolutions have {weights:,} weights and give only {values:,} values an image")
    model.to(memory_format=torch.channels_last)
    return "channels_last"


def _convolved(target: Target, x: Tensor) -> tuple[int, int, int]:
    """Of the 2-d convolutions: multiply-adds and values given for one row of x, and weights."""
    layers = [module for module in target.model.modules() if isinstance(module, nn.Conv2d)]
    work = values = 0

    def add(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal work, values
        work += output[0].numel() * layer.get_parameter("weight")[0].numel()
        values += output[0].numel()

    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        with frozen(target.model):
            Oracle(target).observe(x)
    except Exception as error:  # as in _look
        raise _Dropped(f"the model failed: {_said(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return work, values, sum(layer.weight.numel() for layer in layers)


def _compile(target: Target) -> str | None:
    """One graph for all sizes of a call: compiled size by size, a result would depend on which size came first."""
    try:
        target.model.compile(dynamic=True)
    except Exception as error:  # no compiler, no support on this platform
        raise _Dropped(_said(error)) from error
    return "compiled"
