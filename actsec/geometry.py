"""Distances and balls: size, project, steepest step, random start, and the placing of a candidate.

All functions take tensors whose first dimensions are rows (n, ...) or rows and candidates (n, k, ...), and the number
of those leading dimensions where it matters. Sizes are exact: differences of float32 inputs are taken in float64. Every
row is computed as if it were alone, so that a result does not depend on the batch.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import ThreatError
from actsec.types import SLACK, Cases, Norm, Rules


def size(delta: Tensor, norm: Norm, lead: int = 1) -> Tensor:
    """The norm of each row, float64. l0 counts pixels of images (channels, height, width) and features of vectors."""
    if norm == "l0":
        changed = delta != 0
        if delta.dim() - lead == 3:
            changed = changed.any(lead)
        return changed.flatten(lead).sum(-1).double() if changed.dim() > lead else changed.double()
    flat = delta.flatten(lead).double() if delta.dim() > lead else delta.unsqueeze(-1).double()
    if norm == "linf":
        # Exact whatever the order; NaN stays NaN.
        return torch.maximum(flat.amax(-1), -flat.amin(-1))
    return row_sum(flat.square()).sqrt() if norm == "l2" else row_sum(flat.abs())


def distance(x: Tensor, clean: Tensor, norm: Norm, rules: Rules | None = None) -> Tensor:
    """The exact norm (n,) float64 of x - clean, both (n, *shape) float32: a float32 difference would round.

    Under rules l0 counts features as they do: a one-hot group is one.
    """
    if norm == "l0":
        return size(x != clean, norm) if rules is None else rules.changed(x, clean)
    # Promoted on the fly: one float64 copy, and the difference written into it.
    return size(x.double().sub_(clean), norm)


def reached(x: Tensor, cases: Cases) -> Tensor:
    """The size (n,) float64 of candidates (n, *shape) in the cases' norm.

    Exact; where the box already says what lies in an L-inf ball, to one rounding of float32, at a third of the cost.
    """
    if not cases.tight:
        return distance(x, cases.x, cases.norm, cases.rules)
    return (x - cases.x).abs_().flatten(1).amax(1).double()


def row_sum(values: Tensor) -> Tensor:
    """values summed over the last dimension. A lone long row would be summed by several threads in another order."""
    if values.shape[:-1].numel() == 1:
        return torch.stack([values, values]).sum(-1)[0]
    return values.sum(-1)


def bounded(cases: Cases, attack: str) -> None:
    """Raise ThreatError unless every row has a finite budget: ``attack`` looks inside a ball."""
    if not bool(torch.isfinite(cases.eps).all()):
        raise ThreatError(f"{attack} needs a budget, and {cases.norm} was given none", f"Give one: {cases.norm}:EPS.")


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
    flat = finite_rows(gradient).flatten(1)
    if norm == "linf":
        step = flat.sign()
    elif norm == "l2":
        # Scaled by the largest entry first, so that tiny gradients do not underflow when squared.
        tiny = torch.finfo(flat.dtype).tiny
        scaled = flat / flat.abs().amax(1, keepdim=True).clamp_min(tiny)
        step = scaled / row_sum(scaled.square())[:, None].sqrt().clamp_min(tiny)
    elif norm == "l1":
        top = flat.abs().argmax(1, keepdim=True)
        step = torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign())
    else:
        one = torch.ones(len(flat), dtype=torch.float64, device=flat.device)
        step = _keep_largest(flat.reshape(gradient.shape), one).flatten(1).sign()
    return step.reshape(gradient.shape)


def finite_rows(gradient: Tensor) -> Tensor:
    """The gradient with rows that hold a NaN or an infinity set to zero: they point nowhere."""
    # One reading: a sum of numbers is not finite when one of them is not.
    if bool(torch.isfinite(gradient.sum())):
        return gradient
    good = torch.isfinite(gradient).flatten(1).all(1)
    return torch.where(spread(good, gradient), gradient, torch.zeros_like(gradient))


def free(gradient: Tensor, x: Tensor, cases: Cases) -> Tensor:
    """The gradient with the coordinates set to zero that would only leave the box from x (both (n, *shape))."""
    out = ((x >= cases.high) & (gradient > 0)) | ((x <= cases.low) & (gradient < 0))
    return torch.where(out, torch.zeros_like(gradient), gradient)


def farthest(cases: Cases, gradient: Tensor) -> Tensor:
    """The admissible input (n, *shape) that a linear function of this gradient is largest at, in linf, l2 and l1.

    linf: x + eps * sign(gradient), clipped to the box. l2: the budget that clipped coordinates cannot use goes to the
    others. l1: coordinates are filled to the box by falling gradient. A row whose gradient is 0 stays at x.
    """
    gradient = finite_rows(gradient)
    if cases.norm == "linf":
        return place(cases, gradient.sign() * spread(cases.eps, gradient).to(gradient.dtype))
    room = torch.where(gradient > 0, cases.high - cases.x, cases.x - cases.low).flatten(1).double()
    flat = gradient.flatten(1).double()
    if cases.norm == "l2":
        length = _clip_scaled(steepest(free(gradient, cases.x, cases), "l2").flatten(1).double(), room, cases.eps)
        return place(cases, length.reshape(gradient.shape).to(gradient.dtype))
    order = flat.abs().argsort(dim=1, descending=True, stable=True)
    used = torch.where(flat != 0, room, torch.zeros_like(room)).gather(1, order)
    left = (cases.eps[:, None] - (used.cumsum(1) - used)).clamp_min(0)
    filled = torch.zeros_like(room).scatter(1, order, torch.minimum(used, left))
    return place(cases, (filled * flat.sign()).reshape(gradient.shape).to(gradient.dtype))


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
    """The admissible input nearest to x + delta, in ball and box at once (l1: in the ball, then in the box).

    delta is (n, *shape) or (n, k, *shape). Adding to x in float32 can overshoot the ball by half a unit in the last
    place; where that exceeds SLACK the candidate is rounded towards x instead. Where neither ball nor SLACK binds the
    result is exactly (x + delta) clipped to the box.
    """
    rows = cases.repeated(delta.shape[1]) if delta.dim() == cases.x.dim() + 1 else cases
    moved = delta.reshape(rows.x.shape)
    if rows.tight:
        return boxed(rows, rows.x + moved).reshape(delta.shape)
    if cases.norm != "l2":
        moved = project(moved, cases.norm, rows.eps)
    placed = boxed(rows, rows.x + moved)
    if cases.norm == "linf":
        over = (placed.double() - rows.x).abs_() > spread(rows.eps, placed) * (1 + SLACK)
        placed = torch.where(over, torch.nextafter(placed, rows.x), placed)
    elif cases.norm != "l0":
        over = distance(placed, rows.x, cases.norm) > rows.eps * (1 + SLACK)
        if bool(over.any()):
            placed = placed.index_copy(0, over.nonzero().flatten(), _pulled(rows.rows(over), moved[over], placed[over]))
    return placed.reshape(delta.shape)


def nearest(cases: Cases, x: Tensor) -> Tensor:
    """The admissible input nearest to x (n, *shape)."""
    return boxed(cases, x) if cases.tight else place(cases, x - cases.x)


def tightened(cases: Cases) -> Cases:
    """The cases with the box cut to the ball: an L-inf ball is a box. Other norms and endless budgets stay as they are.

    Each end is x +- eps in float32; where that rounds beyond SLACK, the next number towards x.
    """
    if cases.tight or cases.norm != "linf" or not bool(torch.isfinite(cases.eps).all()):
        return cases
    x, reach = cases.x.double(), spread(cases.eps, cases.x)
    ends = []
    for near in (cases.x - reach.to(cases.x.dtype), cases.x + reach.to(cases.x.dtype)):
        over = (near.double() - x).abs() > reach * (1 + SLACK)
        ends.append(boxed(cases, torch.where(over, torch.nextafter(near, cases.x), near)))
    return replace(cases, low=ends[0], high=ends[1], tight=True)


def _pulled(cases: Cases, delta: Tensor, placed: Tensor) -> Tensor:
    """Candidates outside the l2 or l1 ball brought into it, in float64, and rounded to float32 towards x."""
    x, eps = cases.x.flatten(1).double(), cases.eps
    if cases.norm == "l2":
        v = delta.flatten(1).double()
        low, high = (e.flatten(1) if isinstance(e, Tensor) else e for e in (cases.low, cases.high))
        room = torch.where(v > 0, high - x, x - low).clamp_min(0)
        exact = _clip_scaled(v, room, eps)
    else:
        exact = placed.flatten(1).double() - x
        exact = exact * (eps / size(exact, "l1")).clamp_max(1)[:, None]
    rounded = (x + exact).to(placed.dtype)
    # Rounding towards x shortens every coordinate, so the exact size is never exceeded in any norm.
    too_far = (rounded.double() - x).abs() > exact.abs()
    rounded = torch.where(too_far, torch.nextafter(rounded, cases.x.flatten(1)), rounded)
    return boxed(cases, rounded.reshape(placed.shape))


def _clip_scaled(v: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """v (n, d) scaled per row so that, cut to +-room, its l2 size is eps (or all that the room gives): float64.

    The KKT point of the projection onto ball and box. Cut coordinates keep their room and the others share what is
    left, which can only cut more of them; so the loop ends, after a few rounds in practice, and then moves no row.
    """
    magnitude = v.abs()
    cut = magnitude <= 0
    while True:
        inner = torch.where(cut, torch.zeros_like(v), magnitude)
        spent = row_sum(torch.where(cut & (magnitude > 0), room, torch.zeros_like(v)).square())
        left = (eps.square() - spent).clamp_min(0).sqrt() / row_sum(inner.square()).sqrt().clamp_min(1e-300)
        scaled = inner * left[:, None]
        more = cut | (scaled > room)
        if bool((more == cut).all()):
            return v.sign() * torch.where(cut & (magnitude > 0), room, scaled)
        cut = more


def boxed(cases: Cases, x: Tensor) -> Tensor:
    """x (n, *shape), each coordinate brought into the box."""
    if isinstance(cases.low, float) and isinstance(cases.high, float):
        return x.clamp(cases.low, cases.high)
    low, high = (torch.as_tensor(end, dtype=x.dtype, device=x.device) for end in (cases.low, cases.high))
    return torch.minimum(torch.maximum(x, low), high)


def inside(x: Tensor, cases: Cases, size_of_x: Tensor) -> Tensor:
    """Whether candidates (n, k, *shape) of the given sizes (n, k) lie in box and ball and keep the rules.

    NaN never does.
    """
    low, high = (end[:, None] if isinstance(end, Tensor) else end for end in (cases.low, cases.high))
    # How far the worst coordinate is out. A maximum of floats carries NaN along, and takes a third of all()'s time.
    out = torch.maximum(low - x, x - high).flatten(2)
    boxed_in = out.amax(-1) <= 0 if out.shape[-1] else torch.ones_like(size_of_x, dtype=torch.bool)
    kept = boxed_in & (size_of_x <= cases.eps[:, None] * (1 + SLACK))
    if cases.rules is not None:
        kept = kept & cases.rules.kept(x.flatten(0, 1)).reshape(kept.shape)
    return kept


def reach(cases: Cases) -> tuple[float, float]:
    """The least and the greatest value that any coordinate of any row may have."""
    return float(torch.as_tensor(cases.low).min()), float(torch.as_tensor(cases.high).max())


def widest(cases: Cases) -> Tensor:
    """The L2 size (n,) that nothing in the box exceeds."""
    return size(torch.maximum((cases.high - cases.x).abs(), (cases.x - cases.low).abs()), "l2")


def gridded(cases: Cases, x: Tensor, grid: int) -> Tensor:
    """x (n, *shape) as it is when saved as whole numbers 0 to ``grid`` over the box, eps enforced again.

    Every value goes to its nearest level; in a row that this takes out of the ball, to the next level towards the clean
    input. The range of the data is that of the box: a mask closes it at some values, never at all of them.
    """
    low, high = reach(cases)
    level = (x.double() - low) / (high - low) * grid
    clean = (cases.x.double() - low) / (high - low) * grid
    nearest, toward = level.round(), torch.where(level > clean, level.floor(), level.ceil())
    saved = ((low + (high - low) * (nearest / grid)).to(x.dtype), (low + (high - low) * (toward / grid)).to(x.dtype))
    fits = distance(saved[0], cases.x, cases.norm) <= cases.eps * (1 + SLACK)
    return torch.where(spread(fits, x), *saved)


def _project_l1(delta: Tensor, eps: Tensor) -> Tensor:
    flat = delta.flatten(1).double()
    magnitude, _ = flat.abs().sort(dim=1, descending=True)
    count = torch.arange(1, flat.shape[1] + 1, device=flat.device, dtype=torch.float64)
    excess = (magnitude.cumsum(1) - eps[:, None]) / count
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
