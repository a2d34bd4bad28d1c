"""The same architecture with weights drawn anew: what a model was like before it learned anything.

Every layer's own ``reset_parameters`` draws them, which is torch's default and not necessarily what the model's author
chose. Batch norms take their statistics from inputs, since a fresh one knows none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from actsec.search.oracle import frozen
from actsec.types import Target


def why_not(model: nn.Module) -> str:
    """Why a model's weights cannot be drawn anew: the module that has parameters and no way to; "" where they can."""
    for name, module in model.named_modules():
        if _reset(module) is None and next(module.parameters(recurse=False), None) is not None:
            return f"{name or 'the model'} ({type(module).__name__}) has parameters and no reset_parameters"
    if next(model.parameters(), None) is None:
        return "the model has no parameters"
    return ""


def fresh(target: Target, x: Tensor, seed: int) -> Target:
    """A copy of the target with weights drawn anew, keyed by the seed, and batch norms that have seen x (n, *shape).

    The given target is left as it is. Costs one forward of x where there are batch norms. Call it only where
    ``why_not`` is empty: what has no ``reset_parameters`` would keep its trained weights.
    """
    model = copy.deepcopy(target.model)
    devices = sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=str)
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for module in model.modules():
            if (reset := _reset(module)) is not None:
                reset()
    made = target.having(model=model)
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    kept = [norm for norm in norms if norm.track_running_stats]
    if kept:
        learned = _statistics(made, kept, x)
        for norm, momentum, (mean, variance) in learned:
            norm.momentum = momentum
            if norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(variance)
    return made


def _statistics(
    target: Target, norms: list[BatchNorm], x: Tensor
) -> list[tuple[BatchNorm, float | None, tuple[Tensor, Tensor]]]:
    """Each norm with its momentum and the statistics of x. Found in train mode of the norms alone, no dropout."""
    momenta = [norm.momentum for norm in norms]
    found = []
    with frozen(target.model), torch.no_grad():
        for norm in norms:
            norm.momentum = None  # a plain average
            norm.reset_running_stats()
            norm.train()
        for piece in torch.split(x, 64):
            if len(piece) > 1:
                target.logits(piece)
        for norm, momentum in zip(norms, momenta, strict=True):
            mean, variance = norm.running_mean, norm.running_var
            if mean is not None and variance is not None:
                found.append((norm, momentum, (mean.clone(), variance.clone())))
    return found


def _reset(module: nn.Module) -> Callable[[], None] | None:
    found = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
    return found if callable(found) else None
