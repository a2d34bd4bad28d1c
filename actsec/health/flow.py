"""How gradients flow: by the weights of every layer, trained and fresh, and by the input, image by image."""

from __future__ import annotations

import contextlib
import statistics as middle
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

from actsec.draws import Draws
from actsec.hardening.exporting import Logits
from actsec.health.vitals import Flow, InputGradients, Layer, LayerFlow, Spread
from actsec.search.oracle import frozen
from actsec.types import Target

REACH = 0.02
"""The most a number of the input moves when it is asked whether the loss is straight, as a share of the box."""
ROUNDED = 1e-6
"""Differences of a loss below this, times the loss or 1, are what float32 rounds."""
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
BATCH, MOST = 32, 10
"""Rows of a batch whose gradient by the weights is taken, and the most batches."""
Gradients = tuple[tuple[Layer, ...], float | None]
"""The norms of every layer, and G."""


def flow(trained: Gradients, fresh: Sequence[Gradients], reason: str) -> Flow:
    """Norms by layer and G of the trained model beside those of fresh ones: median, least and most over draws."""
    layers = []
    for at, layer in enumerate(trained[0]):
        drawn = [norm for norms, _ in fresh if at < len(norms) and (norm := norms[at].gradient_norm) is not None]
        broken = sum(bool(norms[at].not_finite) for norms, _ in fresh if at < len(norms))
        layers.append(LayerFlow(layer.name, layer.gradient_norm, *_ends(drawn), layer.not_finite, broken))
    ratios = [ratio for _, ratio in fresh if ratio is not None]
    return Flow(tuple(layers), trained[1], *_ends(ratios), len(fresh), reason)


def gradients(target: Target, x: Tensor, y: Tensor) -> Gradients:
    """The gradient of the mean cross-entropy by each layer's weights, and G, on x (n, *shape), y (n,), in eval mode.

    Layers are modules with a parameter of two dimensions or more, in the order of their first call. Norms are L2, the
    median over batches; a layer with a norm that is not finite in some batch has none, and says in how many. G is None
    where the first or the last has none. One forward and one backward of at most 320 rows.
    """
    asked = Logits(target)
    with frozen(target.model), torch.no_grad(), _calls(asked) as called:
        asked(x[:2])
    names = {module: name for name, module in asked.named_modules()}
    found = [(names[m], [n for n, p in m.named_parameters(recurse=False) if p.dim() > 1]) for m in called if m in names]
    wanted = [(name, f"{name}.{weight}") for name, weights in found for weight in weights]
    norms: list[list[float | None]] = []
    with frozen(target.model), torch.enable_grad():
        own = dict(asked.named_parameters())
        for piece, labels in list(zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True))[:MOST]:
            leaves = {key: own[key].detach().clone().requires_grad_(True) for _, key in wanted if key in own}
            sums: list[Tensor | None] = [None] * len(leaves)
            # the gradient of a batch is the sum over its pieces, of which a large network holds few rows at once
            rows = max(1, min(BATCH, target.batch))
            for few, own_labels in zip(torch.split(piece, rows), torch.split(labels, rows), strict=True):
                logits = target.decision_logits(functional_call(asked, leaves, (few,)))
                loss = F.cross_entropy(logits, own_labels) * (len(few) / len(piece))
                if not loss.requires_grad or not leaves:
                    return (), None
                taken = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
                sums = [_sum(old, new) for old, new in zip(sums, taken, strict=True)]
            norms.append([None if g is None else float(g.double().norm()) for g in sums])
        kept = [name for name, key in wanted if key in own]
    # a weight that no path reaches has none in any batch; one whose gradient overflows has, and then G is no number
    columns = [[norm for row in norms if (norm := row[i]) is not None] for i in range(len(kept))]
    layers = tuple(
        Layer(name.removeprefix("model."), _median(column), sum(not _finite(norm) for norm in column))
        for name, column in zip(kept, columns, strict=True)
    )
    reached = [at for at, column in enumerate(columns) if column]
    if len(reached) < 2 or layers[reached[0]].not_finite or layers[reached[-1]].not_finite:
        return layers, None
    pairs = [(row[reached[0]], row[reached[-1]]) for row in norms]
    return layers, _median([a / b for a, b in pairs if a is not None and b])


def _sum(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    return new if old is None else old if new is None else old + new


def input_gradients(target: Target, x: Tensor, y: Tensor, seed: int = 0, batch: int = 64) -> InputGradients:
    """Gradients of the cross-entropy and of the margin by x (n, *shape), labels y (n,); see vitals.InputGradients.

    Two forwards and three backwards a row. The model is left as it was.
    """
    low, high = target.bounds
    reach = REACH * (high - low)
    zeros, margins, norms, bends, turns, flat, broken = 0, 0, [], [], [], 0, 0
    batch = min(batch, target.batch)
    with frozen(target.model), torch.enable_grad():
        for start in range(0, len(x), batch):
            piece, labels = x[start : start + batch], y[start : start + batch]
            rows = torch.arange(start, start + len(piece), device=x.device)
            step = reach * (2 * Draws(seed, "straight").uniform(rows, 0, tuple(x.shape[1:])) - 1)
            moved = (piece + step).clamp(low, high)
            here = _gradients(target, piece, labels, margin=True)
            if here is None:
                return InputGradients(len(x), reach, reason="no gradient reaches the input")
            there = _gradients(target, moved, labels, margin=False)
            assert there is not None  # noqa: S101  # the same model answered a moment ago
            loss, slope, margin = here
            zeros += int((slope.abs().amax(1) == 0).sum())
            margins += int((margin.abs().amax(1) == 0).sum())
            whole = torch.cat([slope, margin, there[1], loss[:, None], there[0][:, None]], 1)
            good = torch.isfinite(whole).all(1)
            broken += int((~good).sum())
            norms.append(slope[good].double().norm(dim=1))
            rise = (there[0] - loss).double()
            straight = (slope.double() * (moved - piece).flatten(1).double()).sum(1)
            size = torch.maximum(rise.abs(), straight.abs())
            seen = good & (size > ROUNDED * loss.double().clamp(min=1))
            flat += int((good & ~seen).sum())
            bends.append(((rise - straight).abs() / size)[seen])
            lengths = slope.double().norm(dim=1) * there[1].double().norm(dim=1)
            turns.append(((slope.double() * there[1].double()).sum(1) / lengths)[good & (lengths > 0)])
    return InputGradients(
        n=len(x),
        reach=reach,
        zero_cross_entropy=zeros,
        zero_margin=margins,
        norm=_spread(torch.cat(norms)),
        bend=_spread(torch.cat(bends)),
        turn=_spread(torch.cat(turns)),
        flat=flat,
        not_finite=broken,
    )


def _gradients(target: Target, x: Tensor, y: Tensor, *, margin: bool) -> tuple[Tensor, Tensor, Tensor] | None:
    """The cross-entropy (m,), and its gradient and the margin's (m, d); None where no path leads to the input."""
    torch.manual_seed(0)  # for a model that draws: the same draws at both ends of a step
    leaf = x.detach().clone().requires_grad_(True)
    logits = target.decision_logits(target.logits(leaf))
    loss = F.cross_entropy(logits, y, reduction="none")
    if not loss.requires_grad:
        return None
    slope = _slope(loss, leaf, again=margin)
    if not margin:
        return loss.detach(), slope, slope
    own = logits.gather(1, y[:, None]).squeeze(1)
    best = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return loss.detach(), slope, _slope(own - best, leaf, again=False)


def _slope(value: Tensor, leaf: Tensor, *, again: bool) -> Tensor:
    (found,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True, retain_graph=again)
    return torch.zeros_like(leaf).flatten(1) if found is None else found.flatten(1)


def _spread(values: Tensor) -> Spread | None:
    kept = values[torch.isfinite(values)]
    if not len(kept):
        return None
    return Spread(*(float(q) for q in torch.quantile(kept.cpu(), torch.tensor(_SHARES, dtype=kept.dtype))))


def _ends(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    return (middle.median(values), min(values), max(values)) if values else (None, None, None)


@contextlib.contextmanager
def _calls(root: nn.Module) -> Iterator[list[nn.Module]]:
    """The modules inside ``root`` that are called in this block, in the order of their first call."""
    inside, called = set(root.modules()), dict[nn.Module, None]()

    def note(module: nn.Module, _inputs: Any) -> None:
        if module in inside:
            called.setdefault(module)

    order: list[nn.Module] = []
    handle = register_module_forward_pre_hook(note)
    try:
        yield order
    finally:
        handle.remove()
        order += called


def _median(values: Sequence[float]) -> float | None:
    """None where there is none, or one that is not a finite number."""
    usable = bool(values) and all(map(_finite, values))
    return middle.median(values) if usable else None


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")  # noqa: PLR0124  # NaN differs from itself
