"""Direct questions to the model: its gradients, its randomness, and the health of its activation calls.

Numbers are JSON: finite floats, ints, bools, strings, None where a number does not exist. The model is left as it was.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actsec import geometry
from actsec.draws import Draws
from actsec.losses import CrossEntropy, Margin, margin
from actsec.running.leaking import kept_by_call
from actsec.search.oracle import Oracle, frozen, rejected
from actsec.search.referee import cases_of
from actsec.types import Cases, Norm, Observed, Target

PASSES = 5
ALONE = 8
DIRECTIONS = 16
SLOPE_STEP = 1e-3
"""Half the central difference: each input moves by this share of the box's width, up or down.

At 1e-2 the curvature of an honest ResNet-20 brings the cosine down to 0.82; at 1e-3 it is 0.99."""
NEARBY = 0.02
NEIGHBOURS = 8


def probe(target: Target, x: Tensor, y: Tensor, eps: float | None, norm: Norm, seed: int = 0) -> dict[str, Any]:
    """Probe the model on x (n, *shape), y (n,). Costs about 50 forwards and 4 backwards a row.

    Gradients are judged on the correctly classified rows (all rows when none is): the others need no attack. Keys:

    n, gradient_rows               rows probed, and rows whose gradients were judged
    non_finite_outputs             share of rows with a logit that is not finite
    output_spread                  largest range of a logit over the rows, relative to the largest logit; 0 is constant
    classes_decided, classes_present
    looks_like_probabilities       outputs in [0, 1] that sum to 1
    repeatable, repeat_difference  five passes: largest L2 distance of normalised logits from the first pass
    company_difference             the same of company_rows rows alone and among others; None for a stochastic target
    broken_graph                   "" or why no gradient reaches the input
    detector_gradient              whether a gradient of the detector's score reaches the input; None without a detector
    autograd_inside                calls of autograd within one forward pass
    kept_by_call                   bytes more of tensors that the model holds after each call with two rows, see leaking
    zero_cross_entropy_gradients, zero_margin_gradients, non_finite_gradients     shares, exact in float32
    gradient_norms                 5, 25, 50, 75, 95 % quantiles of the margin gradient's dual norm
    slope_cosine, slope_rows       median over rows: autograd's slopes against central differences
    gradient_cosine                median cosine of the gradients at x and at x + U(-2 %, 2 %) of the box
    unstable_predictions           mean relative change of the margin in the ball of radius eps / 2, capped at 1
                                   (Pintor et al. 2022, indicator "unstable predictions"); None without an eps
    """
    with frozen(target.model):
        oracle = Oracle(target, seed=seed, name="probe")
        torch.manual_seed(seed)
        numbers = _outputs(target, oracle, x, y)
        numbers["company_difference"] = None if target.stochastic else _company(oracle, x[:ALONE])
        numbers["company_rows"] = min(len(x), ALONE)
        numbers["broken_graph"] = broken_graph(target, x[:2])
        numbers["detector_gradient"] = None if target.rejects is None else detector_gradient(target, x[:ALONE])
        numbers["autograd_inside"] = autograd_inside(target, x[:2])
        numbers["kept_by_call"] = kept_by_call(target, x[:2])
        keep = oracle.observe(x).logits.argmax(1) == y
        rows = torch.nonzero(keep | ~keep.any()).flatten()
        cases = cases_of(target, x[rows], y[rows], norm, eps, rows)
        if not numbers["broken_graph"]:
            numbers |= _gradients(oracle, cases, Draws(seed, "probe"))
        numbers["unstable_predictions"] = _instability(oracle, cases, Draws(seed, "probe/nearby")) if eps else None
    return numbers


def detector_gradient(target: Target, x: Tensor) -> bool:
    """Whether an attack can follow the detector's score: its gradient in x (n, *shape) is finite and nowhere all 0."""
    leaf = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        score = target.rejection(leaf)
    if score is None or not score.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(score.sum(), leaf, allow_unused=True)
    if gradient is None or not bool(torch.isfinite(gradient).all()):
        return False
    return bool((gradient != 0).flatten(1).any(1).all())


def broken_graph(target: Target, x: Tensor) -> str:
    """Why no gradient of the logits with respect to x (n, *shape) exists; empty when one does."""
    leaf = x.detach().clone().requires_grad_(True)
    try:
        logits = target.logits(leaf)
        if not logits.requires_grad:
            return "the output is cut off from the input (no_grad, detach or numpy inside the model)"
        (gradient,) = torch.autograd.grad(logits.sum(), leaf, allow_unused=True)
    except Exception as error:  # noqa: BLE001  # whatever the model's own backward raises is the answer
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return "" if gradient is not None else "the output does not depend on the input by any differentiable path"


def autograd_inside(target: Target, x: Tensor) -> int:
    """How many times the model calls autograd within one forward of x (n, *shape): it optimises something itself.

    Python's profiler sees the calls, under whatever name the model imported them; those of other threads it does not.
    """
    engine = {torch.autograd.grad.__code__, torch.autograd.backward.__code__}
    calls = 0

    def seen(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code in engine

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        with torch.no_grad():
            target.logits(x)
            target.rejection(x)
    finally:
        sys.setprofile(before)
    return calls


def _outputs(target: Target, oracle: Oracle, x: Tensor, y: Tensor) -> dict[str, Any]:
    first = oracle.observe(x)
    raw = first.logits
    finite = torch.isfinite(raw).all(1)
    good = raw[finite].double()
    difference = max(_moved(first, oracle.observe(x)) for _ in range(PASSES - 1))
    spread = (good.amax(0) - good.amin(0)).max() / good.abs().max().clamp_min(1e-30) if len(good) else torch.zeros(())
    with torch.inference_mode():
        undecided = target.logits(x)
    return {
        "n": len(x),
        "non_finite_outputs": float((~finite).float().mean()),
        "output_spread": float(spread),
        "classes_decided": len(set(raw.argmax(1).tolist())),
        "classes_present": len(set(y.tolist())),
        "looks_like_probabilities": _probabilities(undecided),
        "repeatable": difference <= 1e-4,
        "repeat_difference": min(difference, 1e30),
    }


def _company(oracle: Oracle, x: Tensor) -> float:
    """How far the logits of a row among others are from those it gets alone, relative to their length: the largest."""
    alone = [oracle.observe(x[i : i + 1]) for i in range(len(x))]
    rejections = [one.rejection for one in alone if one.rejection is not None]
    joined = Observed(torch.cat([one.logits for one in alone]), (), torch.cat(rejections) if rejections else None)
    return min(_moved(oracle.observe(x), joined), 1e30)


def _moved(one: Observed, other: Observed) -> float:
    """The largest distance of the rows' logits from one answer to another, relative to their length.

    Of rows with finite logits. A detector that rejects a row once and accepts it the other time counts as 1.
    """
    finite = torch.isfinite(one.logits).all(1)
    if not bool(finite.any()):
        return 0.0
    length = one.logits[finite].double().norm(dim=1).clamp_min(1e-12)
    moved = (other.logits[finite].double() - one.logits[finite].double()).norm(dim=1) / length
    flipped = float((rejected(one) != rejected(other)).any()) if one.rejection is not None else 0.0
    return max(float(moved.nan_to_num(torch.inf).max()), flipped)


def _probabilities(z: Tensor) -> bool:
    within = bool(((z >= 0) & (z <= 1)).all())
    sums = bool(((z.sum(1) - 1).abs() < 1e-4).all())
    one_output = z.shape[1] == 2 and bool((z[:, 0] == 0).all())
    return within and (sums or one_output)


def _gradients(oracle: Oracle, cases: Cases, draws: Draws) -> dict[str, Any]:
    _, _, blunt = oracle.differentiate(cases.x, cases, CrossEntropy(), watches=False)
    _, _, sharp = oracle.differentiate(cases.x, cases, Margin(), watches=False)
    finite = torch.isfinite(blunt.flatten(1)).all(1) & torch.isfinite(sharp.flatten(1)).all(1)
    norms = geometry.size(sharp[finite], geometry.dual(cases.norm))
    width = float(cases.high) - float(cases.low)
    shift = (2 * draws.uniform(cases.id, 0, tuple(cases.x.shape[1:]), 1) - 1) * NEARBY * width
    _, _, beside = oracle.differentiate(geometry.boxed(cases, cases.x + shift), cases, Margin(), watches=False)
    measured, predicted = _slopes(oracle, cases, sharp, draws, SLOPE_STEP * width)
    cosines = _cosine(measured, predicted)
    return {
        "gradient_rows": len(cases),
        "non_finite_gradients": float((~finite).float().mean()),
        "zero_cross_entropy_gradients": _zero(blunt),
        "zero_margin_gradients": _zero(sharp),
        "gradient_norms": _quantiles(norms),
        "slope_cosine": _median(cosines),
        "slope_rows": int(torch.isfinite(cosines).sum()),
        "gradient_cosine": _median(_cosine(sharp.flatten(1), beside.flatten(1))),
    }


def _slopes(oracle: Oracle, cases: Cases, gradient: Tensor, draws: Draws, h: float) -> tuple[Tensor, Tensor]:
    """The margin's slopes (n, DIRECTIONS), by central differences and by the gradient. Directions are random signs."""
    measured, predicted = [], []
    for step in range(DIRECTIONS):
        direction = draws.sign(cases.id, step, tuple(cases.x.shape[1:]))
        up = margin(oracle.observe(cases.x + h * direction).logits, cases).double()
        down = margin(oracle.observe(cases.x - h * direction).logits, cases).double()
        measured.append((up - down) / (2 * h))
        predicted.append((gradient.double() * direction).flatten(1).sum(1))
    return torch.stack(measured, 1), torch.stack(predicted, 1)


def _instability(oracle: Oracle, cases: Cases, draws: Draws) -> float:
    here = margin(oracle.observe(cases.x).logits, cases).double()
    changes = []
    for step in range(NEIGHBOURS):
        near = cases.x + geometry.random_start(cases, draws, step) / 2
        there = margin(oracle.observe(geometry.boxed(cases, near)).logits, cases).double()
        changes.append(((there - here).abs() / here.abs().clamp_min(1e-12)).nan_to_num(1.0).clamp_max(1.0))
    return float(torch.stack(changes).mean())


def _zero(gradient: Tensor) -> float:
    return float((gradient.flatten(1) == 0).all(1).float().mean())


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Row cosines (n,): 0 where one side alone is zero, NaN (no statement) where both are."""
    a, b = a.double(), b.double()
    lengths = a.norm(dim=1) * b.norm(dim=1)
    both = (a == 0).all(1) & (b == 0).all(1)
    value = torch.where(lengths > 0, (a * b).sum(1) / lengths.clamp_min(1e-300), torch.zeros_like(lengths))
    return torch.where(both, torch.full_like(value, torch.nan), value)


def _median(values: Tensor) -> float | None:
    good = values[torch.isfinite(values)]
    return float(np.median(good.cpu().numpy())) if len(good) else None


def _quantiles(values: Tensor) -> list[float] | None:
    if not len(values):
        return None
    return [float(q) for q in np.quantile(values.cpu().numpy(), [0.05, 0.25, 0.5, 0.75, 0.95])]
