"""Distances and balls: size, project, steepest step, random start, and the placing of a candidate.

All functions take tensors whose first dimensions are rows (n, ...) or rows and candidates (n, k, ...), and the number
of those leading dimensions where it matters. Sizes are exact: differences of float32 inputs are taken in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.types import Cases, Norm

SLACK = 1e-6
"""A candidate is inside the ball when its size is at most eps * (1 + SLACK): float32 rounding, nothing more."""


def size(delta: Tensor, norm: Norm, lead: int = 1) -> Tensor:
    """The norm of each row, float64. l0 counts pixels of images (channels, height, width) and features of vectors."""
    flat = delta.flatten(lead).double() if delta.dim() > lead else delta.unsqueeze(-1).double()
    if norm == "linf":
        return flat.abs().amax(-1)
    if norm == "l2":
        return flat.square().sum(-1).sqrt()
    if norm == "l1":
        return flat.abs().sum(-1)
    changed = delta != 0
    if delta.dim() - lead == 3:
        changed = changed.any(lead)
    return changed.flatten(lead).sum(-1).double()


def spread(per_row: Tensor, like: Tensor) -> Tensor:
    """A per-row value (n,) or (n, k), shaped to broadcast over ``like`` (n, ..., *shape)."""
    return per_row.reshape(per_row.shape + (1,) * (like.dim() - per_row.dim()))


def project(delta: Tensor, norm: Norm, eps: Tensor) -> Tensor:
    """The nearest point of the ball of radius eps (n,) to each row of delta (n, *shape); rows inside are unchanged.

    linf clips, l2 rescales, l1 soft-thresholds (Duchi et al. 2008), l0 keeps the eps largest pixels.
    """
    if norm == "linf":
        limit = spread(eps, delta).to(delta.dtype)
        return torch.maximum(torch.minimum(delta, limit), -limit)
    if norm == "l2":
        length = size(delta, "l2")
        factor = torch.where(length > eps, eps / length.clamp_min(1e-300), torch.ones_like(length))
        return delta * spread(factor, delta).to(delta.dtype)
    if norm == "l1":
        return _project_l1(delta, eps)
    return _keep_largest(delta, eps)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The direction of unit size that a linear function of this gradient (n, *shape) rises fastest in.

    linf: the sign (0 where the gradient is 0); l2: the normalised gradient; l1 and l0: the largest coordinate or pixel.
    Rows whose gradient is zero or not finite give zero.
    """
    flat = gradient.flatten(1)
    good = torch.isfinite(flat).all(1)
    flat = torch.where(good[:, None], flat, torch.zeros_like(flat))
    if norm == "linf":
        step = flat.sign()
    elif norm == "l2":
        # Scaled by the largest entry first, so that tiny gradients do not underflow when squared.
        scaled = flat / flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
        step = scaled / scaled.square().sum(1, keepdim=True).sqrt().clamp_min(torch.finfo(flat.dtype).tiny)
    elif norm == "l1":
        top = flat.abs().argmax(1, keepdim=True)
        step = torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign())
    else:
        step = _keep_largest(gradient, torch.ones_like(good, dtype=torch.float64)).flatten(1).sign()
    return step.reshape(gradient.shape)


def dual(norm: Norm) -> Norm:
    """The norm that measures how fast a linear function can rise per unit of ``norm``."""
    duals: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf", "l0": "linf"}
    return duals[norm]


def random_start(cases: Cases, draws: Draws, step: Tensor | int, stream: int = 0) -> Tensor:
    """A random point (n, *shape) of the ball: uniform in linf and l2, on a random pixel or coordinate in l0 and l1."""
    shape = tuple(cases.x.shape[1:])
    eps = spread(cases.eps, cases.x).to(cases.x.dtype)
    if cases.norm == "linf":
        return (2 * draws.uniform(cases.id, step, shape, stream) - 1) * eps
    if cases.norm == "l2":
        direction = steepest(draws.normal(cases.id, step, shape, stream), "l2")
        radius = draws.uniform(cases.id, step, (1,), stream + 1).flatten() ** (1 / max(direction[0].numel(), 1))
        return direction * spread(radius, direction) * eps
    sign = draws.sign(cases.id, step, shape, stream)
    noise = sign * (1 + draws.uniform(cases.id, step, shape, stream + 1))
    if cases.norm == "l1":
        return steepest(noise, "l1") * eps
    return _keep_largest(noise, cases.eps) * (cases.high - cases.low)


def place(cases: Cases, delta: Tensor) -> Tensor:
    """The admissible input nearest to x + delta: in the ball, then in the box, exact to float32 rounding.

    delta is (n, *shape) or (n, k, *shape). Adding eps to x in float32 can overshoot the ball by half a unit in the last
    place; where that exceeds SLACK the candidate is moved one representable number back.
    """
    flat_cases = cases.repeated(delta.shape[1]) if delta.dim() == cases.x.dim() + 1 else cases
    rows = delta.reshape(flat_cases.x.shape)
    finite = bool(torch.isfinite(cases.eps).all())
    if finite:
        rows = project(rows, cases.norm, flat_cases.eps)
    placed = (flat_cases.x + rows).clamp(cases.low, cases.high)
    if finite and cases.norm == "linf":
        over = (placed.double() - flat_cases.x.double()).abs() > spread(flat_cases.eps, placed) * (1 + SLACK)
        placed = torch.where(over, torch.nextafter(placed, flat_cases.x), placed)
    elif finite and cases.norm in ("l2", "l1"):
        length = size(placed - flat_cases.x, cases.norm)
        shrink = torch.where(length > flat_cases.eps * (1 + SLACK / 2), flat_cases.eps / length - SLACK, 1.0)
        if bool((shrink < 1).any()):
            factor = spread(shrink, placed).to(placed.dtype)
            pulled = flat_cases.x + (placed - flat_cases.x) * factor
            placed = torch.where(factor < 1, pulled.clamp(cases.low, cases.high), placed)
    return placed.reshape(delta.shape)


def inside(x: Tensor, cases: Cases, size_of_x: Tensor) -> Tensor:
    """Whether candidates (n, k, *shape) of the given sizes (n, k) lie in the box and the ball; NaN never does."""
    flat = x.flatten(2)
    in_box = (flat >= cases.low).all(-1) & (flat <= cases.high).all(-1)
    return in_box & (size_of_x <= cases.eps[:, None] * (1 + SLACK))


def _project_l1(delta: Tensor, eps: Tensor) -> Tensor:
    flat = delta.flatten(1).double()
    magnitude, _ = flat.abs().sort(dim=1, descending=True)
    count = torch.arange(1, flat.shape[1] + 1, device=flat.device, dtype=torch.float64)
    excess = (magnitude.cumsum(1) - eps[:, None].double()) / count
    active = (magnitude > excess).sum(1, keepdim=True).clamp_min(1)
    threshold = excess.gather(1, active - 1).clamp_min(0)
    return (flat.sign() * (flat.abs() - threshold).clamp_min(0)).to(delta.dtype).reshape(delta.shape)


def _keep_largest(delta: Tensor, count: Tensor) -> Tensor:
    """delta with all but the ``count`` (n,) largest pixels (features) of each row set to zero."""
    image = delta.dim() == 4
    weight = delta.square().sum(1).flatten(1) if image else delta.abs().flatten(1)
    rank = weight.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    keep = rank < count[:, None]
    mask = keep.reshape(delta.shape[0], 1, *delta.shape[2:]) if image else keep.reshape(delta.shape)
    return torch.where(mask, delta, torch.zeros_like(delta))
