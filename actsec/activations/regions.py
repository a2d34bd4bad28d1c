"""Where a unit gives nothing: the half-lines of its pre-activation on which it is dead, saturated or numerically zero.

Computed from the function itself, never quoted:

    dead        output and derivative exactly 0 (relu below 0, hardswish below -3)
    saturated   |f'| below 0.05 of its largest, at both ends (tanh, sigmoid, hardtanh)
    zero_tail   output and derivative at most NEGLIGIBLE, but not exactly 0 by definition (gelu, silu, mish, softplus)

An activation belongs to one region at most. Leaky activations, prelu, elu and selu, whose ends still pass a signal or
stand at another value than 0, belong to none, and so do learned ones (pswish), whose parameters a call does not tell.
"""

from __future__ import annotations

from functools import cache

from actsec.activations.calls import Options
from actsec.activations.catalogue import activation
from actsec.activations.properties import _grid, _leading, curve
from actsec.spec import Spec
from actsec.types import Ends

NEGLIGIBLE = 1e-3
"""A tail is numerically zero where |f| and |f'| are at most this: gelu below about -4, silu below about -9."""
_LEARNED = ("prelu", "pswish")


@cache
def regions(kind: str, options: Options) -> tuple[Ends, ...]:
    """The region of an activation, its end below and its end above (None: none); empty for one without a region."""
    known = activation(Spec(kind, options))
    if not known.elementwise or kind in _LEARNED:
        return ()
    alike = known.properties
    if alike.estimated_slope:
        return ()
    if alike.can_die:
        return (("dead", alike.dead_below, None),)
    if alike.saturates and alike.bounded:
        return (("saturated", alike.saturated_below, alike.saturated_above),)
    z = _grid()
    f, slope = curve(known, z)
    edge = _leading(z, (f.abs() <= NEGLIGIBLE) & (slope.abs() <= NEGLIGIBLE))
    return () if edge is None else (("zero_tail", edge, None),)


@cache
def tails(kind: str, options: Options) -> tuple[float | None, float | None]:
    """Where the saturated tails begin, below and above; a dead half-line is no saturation but death."""
    known = activation(Spec(kind, options))
    if not known.elementwise:
        return None, None
    alike = known.properties
    below = None if alike.can_die and alike.dead_below == alike.saturated_below else alike.saturated_below
    return below, alike.saturated_above
