"""What an activation is like, computed from its function in float64 and never quoted."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import torch
from torch import Tensor

from actsec.activations.catalogue import Activation

SATURATION = 0.05
"""A unit is saturated where |f'(z)| is below this share of the largest |f'|."""

_FINE = 32.0  # the middle of the grid, where every kink and extremum of the catalogue lies
_STEP = 2.0**-12  # a power of two, so that 0, -3 and 6 are grid points exactly
_FAR = 1e6


@dataclasses.dataclass(frozen=True, slots=True)
class Properties:
    """Computed properties of one activation; ``lower`` and ``upper`` are infimum and supremum of its output.

    For k-winners-take-all, whose units compete, the curve is one unit's output while the others stand at the quantiles
    of a standard normal; it jumps, so its Lipschitz constant is infinite. For maxout it is the output by one of its
    pieces while the others stand at 0. For step, slopes are the straight-through estimate, which is what training and
    attacks see; ``lipschitz`` and ``curvature`` are infinite, since the function jumps.
    """

    lower: float
    upper: float
    argmin: float | None  # the z of the lowest output, where that is attained inside the grid
    max_slope: float  # the largest |f'(z)|
    lipschitz: float
    curvature: float  # the largest |f''(z)|; infinite at a kink
    mean_output: float  # E f(Z) for a standard normal Z
    monotone: bool
    zero_centred: bool  # |mean_output| < 1e-3: symmetric inputs leave no offset for the next layer
    bounded: bool
    can_die: bool  # output and derivative are exactly 0 on a half-line z <= dead_below
    dead_below: float | None
    saturates: bool  # |f'| tends to 0 at both ends
    saturated_below: float | None  # |f'(z)| < 0.05 max |f'| for every z below
    saturated_above: float | None  # ... and for every z above
    estimated_slope: bool  # the slopes are an estimate in place of the function's own, which are 0


def derivative(activation: Activation, z: Tensor) -> Tensor:
    """f'(z) elementwise by autograd; for k-winners-take-all, of each unit with the winners as they are."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = z.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(activation(leaf).sum(), leaf)
    return slope


def saturated(activation: Activation, z: Tensor) -> Tensor:
    """Where |f'(z)| < 0.05 max |f'|, as booleans of z's shape."""
    return derivative(activation, z).abs() < SATURATION * activation.properties.max_slope


@cache
def properties(activation: Activation) -> Properties:
    """Compute the properties on a grid: step 2^-12 inside [-32, 32], logarithmic to 1e6 on both sides."""
    z = _grid()
    f, slope = curve(activation, z)
    lower, upper = -_limit(z, -f), _limit(z, f)
    low_at = int(f.argmin())
    max_slope = float(slope.abs().max())
    jump = bool(((f[1:] - f[:-1]).abs() > 2 * max_slope * (z[1:] - z[:-1]) + 1e-9).any())
    fine = z.abs() <= _FINE
    mean = float((f[fine] * torch.exp(-(z[fine] ** 2) / 2)).sum() * _STEP / math.sqrt(2 * math.pi))
    dead = _dead_below(z[fine], f[fine], slope[fine]) if activation.elementwise else None
    quiet = slope.abs() < SATURATION * max_slope
    below, above = _leading(z, quiet), _leading(-z.flip(0), quiet.flip(0))
    return Properties(
        lower=lower,
        upper=upper,
        argmin=float(z[low_at]) if 0 < low_at < len(z) - 1 and f[low_at] < min(f[0], f[-1]) else None,
        max_slope=max_slope,
        lipschitz=math.inf if jump else max_slope,
        curvature=math.inf if jump else _curvature(slope[fine]),
        mean_output=mean,
        monotone=bool((f[1:] - f[:-1] >= -1e-12 * (1 + f[1:].abs())).all()),
        zero_centred=abs(mean) < 1e-3,
        bounded=math.isfinite(lower) and math.isfinite(upper),
        can_die=dead is not None,
        dead_below=dead,
        saturates=float(torch.maximum(slope[0].abs(), slope[-1].abs())) < 1e-6 * max_slope,
        saturated_below=below,
        saturated_above=None if above is None else -above,
        estimated_slope=activation.name == "step",
    )


def _grid() -> Tensor:
    middle = torch.arange(-int(_FINE / _STEP), int(_FINE / _STEP) + 1, dtype=torch.float64) * _STEP
    tail = torch.logspace(math.log10(_FINE), math.log10(_FAR), 2001, dtype=torch.float64)[1:]
    return torch.cat([-tail.flip(0), middle, tail])


def curve(activation: Activation, z: Tensor) -> tuple[Tensor, Tensor]:
    """f and f' of one unit along the grid."""
    if activation.elementwise:
        return activation(z), derivative(activation, z)
    if activation.pieces > 1:
        rows = torch.nn.functional.pad(z[:, None], (0, activation.pieces - 1))
    else:
        others = 99  # few enough that the grid times the crowd stays small
        crowd = torch.special.ndtri(torch.arange(1, others + 1, dtype=torch.float64) / (others + 1))
        rows = torch.cat([z[:, None], crowd.expand(len(z), others)], dim=1)
    return activation(rows)[:, 0], derivative(activation, rows)[:, 0]


def _curvature(slope: Tensor) -> float:
    """The largest |f''| by differences of f'; infinite where they grow as the step shrinks, as at a kink.

    Not by autograd, which does not know the second derivative of every activation.
    """
    near, far = (float((slope[by:] - slope[:-by]).abs().max()) / (by * _STEP) for by in (1, 4))
    return math.inf if near > 2 * far else near


def _limit(z: Tensor, f: Tensor) -> float:
    """The supremum: the grid's largest value, or infinity where the output still grows at an end of the grid."""
    for end, before in ((len(z) - 1, int((z <= _FAR / 10).sum()) - 1), (0, int((z < -_FAR / 10).sum()))):
        if f[end] - f[before] > 0.5 * f[end].abs() > 0:
            return math.inf
    return float(f.max())


def _dead_below(z: Tensor, f: Tensor, slope: Tensor) -> float | None:
    """The end of the half-line on which output and slope are exactly 0, if the function leaves it by a kink.

    A smooth tail that rounds to 0 (the tanh form of GELU below -7) leaves it by a slope of rounding size instead.
    """
    edge = _leading(z, (f == 0) & (slope == 0))
    if edge is None:
        return None
    after = slope[z > edge]
    return edge if len(after) and float(after[0].abs()) > 1e-6 else None


def _leading(z: Tensor, holds: Tensor) -> float | None:
    """The last z of the run of True at the start, if there is one that does not fill the grid."""
    run = int(holds.long().cumprod(0).sum())
    return float(z[run - 1]) if 0 < run < len(z) else None
