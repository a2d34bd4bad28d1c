"""Confidence far outside the box, along rays."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from actsec.draws import Draws
from actsec.search.oracle import frozen
from actsec.types import Target, pad_zero, read_head

Array = NDArray[Any]

ALPHAS = (1.0, 10.0, 100.0, 1e4, 1e6)
RAYS = 32
_UNIQUE = 1e-5
"""One logit outgrows the others when it gains more on them than this share of the largest: above float32's rounding."""


@dataclass(frozen=True, slots=True)
class Rays:
    """Confidence along alpha * u for noise images u, far outside the box.

    confidence (0 where a detector abstains), label (rays, alphas); limit (rays,): the class whose logit rises fastest
    out there, towards which a piecewise-linear network tends, -1 where none does alone or the detector abstains: then
    the confidence stays below 1. precision is float64, or float32 where the model cannot be run in float64: logits are
    then rounded to 1e-7 of their size, which blurs a limit but not its class.
    """

    confidence: Array
    label: Array
    limit: Array
    precision: str


def far(target: Target, seed: int = 0) -> Rays:
    """Confidence along RAYS noise images u of the box, at alpha * u for ALPHAS, on a float64 copy of the model.

    limit comes from the rise f(2 alpha u) - f(alpha u) at the largest alpha: of a piecewise-linear model whose last
    pieces lie nearer it is alpha times the Jacobian applied to u, alpha V u of theorem 3.1. A stochastic target draws
    the same numbers at every alpha. Cost: 6 * RAYS forwards in float64.
    """
    low, high = target.bounds
    row = torch.arange(RAYS, device=target.device)
    u = low + (high - low) * Draws(seed, "nonsense/far").uniform(row, 0, tuple(target.shape)).double()
    exact, precision = _precise(target, u, seed)
    with frozen(exact.model):
        logits = [_logits(exact, alpha * u, precision, seed) for alpha in (*ALPHAS, 2 * ALPHAS[-1])]
    with frozen(target.model):
        refused = torch.stack([_refused(target, alpha * u) for alpha in ALPHAS], 1)
    rise = logits[-1] - logits[-2]
    two = rise.topk(2, 1).values
    alone = two[:, 0] - two[:, 1] > _UNIQUE * logits[-1].abs().amax(1)
    stacked = torch.stack(logits[:-1], 1)
    label = target.decide(stacked)
    confidence = torch.softmax(stacked, -1).gather(-1, label[..., None])[..., 0]
    limit = torch.where(alone & torch.isfinite(rise).all(1) & ~refused[:, -1], rise.argmax(1), -1)
    confidence = torch.where(torch.isfinite(stacked).all(-1) & ~refused, confidence, 0.0)
    return Rays(confidence.cpu().numpy(), label.cpu().numpy(), limit.cpu().numpy(), precision)


def _precise(target: Target, u: Tensor, seed: int) -> tuple[Target, str]:
    """The target on a float64 copy of its model; the target itself where that cannot be made or run."""
    try:
        made = target.having(model=copy.deepcopy(target.model).double())
        with frozen(made.model):
            _logits(made, u[:1], "float64", seed)
    except Exception:  # noqa: BLE001  # a stranger's model may hold float32 constants, or refuse to be copied
        return target, "float32"
    return made, "float64"


def _logits(target: Target, x: Tensor, precision: str, seed: int) -> Tensor:
    """The model's own logits (n, classes) as float64, without the rounding to float32 of Target.logits."""
    x = x.to(torch.float64 if precision == "float64" else torch.float32)
    torch.manual_seed(seed)  # only a stochastic target draws; the caller has frozen the generator

    def asked(piece: Tensor) -> Tensor:
        normal = target.normalization(piece) if target.normalization else piece.clone()
        return read_head(target.model(normal), target.output).double()

    with torch.no_grad():
        z = torch.cat([asked(piece) for piece in torch.split(x, target.batch)])
    return pad_zero(z.reshape(-1, 1)) if z.dim() == 1 or z.shape[1] == 1 else z


def _refused(target: Target, x: Tensor) -> Tensor:
    """Whether the target's detector abstains on inputs (n, *shape): (n,) bool."""
    if target.rejects is None:
        return torch.zeros(len(x), dtype=torch.bool, device=x.device)
    with torch.no_grad():
        scores = [target.rejection(piece) for piece in torch.split(x.float(), target.batch)]
    return ~(torch.cat([score for score in scores if score is not None]) <= 0)
