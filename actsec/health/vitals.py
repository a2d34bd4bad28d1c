"""What a checkup records beside the health of sites: units, pre-activations, gradients, causes. No torch.

Everything is bounded: a site takes the same room whether it has ten units or a million.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LIVE = ("never", *(f"{10 * i} to {10 * i + 10} %" for i in range(10)), "always")
"""What ``Units.live`` counts: units that live on none of the images, on some by tenths, on all."""
CauseName = Literal[
    "dead from birth",
    "initialisation",
    "bias shift",
    "learning rate",
    "outliers in the training data",
    "learning rate or training data",
    "sites before",
    "scale of the inputs",
    "cannot tell",
]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why units are gone, decided by rule, and what was measured that decided it. ``cannot tell`` says why not."""

    of: Literal["dead", "saturated"]
    name: CauseName
    evidence: str
    mend: str


@dataclass(frozen=True, slots=True)
class Units:
    """The units of one activation call over the images looked at.

    live: how many units live on so many of the images (see LIVE), where to live is to be neither dead nor in a
    saturated or numerically zero tail; None for a kind that has no such region. counts: the pre-activations of at most
    4096 units in equal bins from low to high, what lies beyond in the first and last; marks: where the activation
    bends or saturates. mean, std and quantiles (5, 50 and 95 %) are of the pre-activation, the quantiles from the bins;
    None where it is not finite. gone and born are the shares of units that live on none of the first images: of this
    model, and of the same model with fresh weights (mean over draws; None: not measured).
    """

    site: str
    kind: str
    count: int
    live: tuple[int, ...] | None
    low: float
    high: float
    counts: tuple[int, ...]
    marks: tuple[float, ...]
    mean: float | None
    std: float | None
    quantiles: tuple[float, float, float] | None
    gone: float | None = None
    born: float | None = None
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with weights, in the order of the first call: the norm of the loss's gradient by them, median.

    not_finite: in how many batches it is NaN or infinite; then there is no median.
    """

    name: str
    gradient_norm: float | None
    not_finite: int = 0


@dataclass(frozen=True, slots=True)
class LayerFlow:
    """The norm of the loss's gradient by one layer's weights: trained, and with fresh weights (median, least, most).

    not_finite and fresh_not_finite: in how many batches, and in how many draws, it is NaN or infinite.
    """

    name: str
    trained: float | None
    fresh: float | None
    fresh_low: float | None
    fresh_high: float | None
    not_finite: int = 0
    fresh_not_finite: int = 0


@dataclass(frozen=True, slots=True)
class Flow:
    """Gradients by layer. trained and fresh are G, first layer over last; reason says why fresh weights are missing."""

    layers: tuple[LayerFlow, ...]
    trained: float | None
    fresh: float | None
    fresh_low: float | None
    fresh_high: float | None
    draws: int
    reason: str


@dataclass(frozen=True, slots=True)
class Spread:
    """Quantiles over images: 5, 25, 50, 75 and 95 %."""

    q05: float
    q25: float
    median: float
    q75: float
    q95: float


@dataclass(frozen=True, slots=True)
class InputGradients:
    """Gradients by the input on n images; reason says why there are none.

    zero_cross_entropy, zero_margin: how many images have a gradient of exactly 0 in float32. norm: its L2 norm for the
    cross-entropy. bend: |L(x+d) - L(x) - g.d| over the larger of |L(x+d) - L(x)| and |g.d|, 0 where the loss is linear
    over a random step d of at most ``reach`` a number; flat images, where both are below what float32 rounds, are left
    out. turn: the cosine between the gradients at x and at x + d, where neither is 0. not_finite images, where the loss
    or a gradient at either end is NaN or infinite, are in none of norm, bend, turn and flat, which are of the others.
    """

    n: int
    reach: float
    reason: str = ""
    zero_cross_entropy: int | None = None
    zero_margin: int | None = None
    norm: Spread | None = None
    bend: Spread | None = None
    turn: Spread | None = None
    flat: int = 0
    not_finite: int = 0


@dataclass(frozen=True, slots=True)
class Outliers:
    """Rows of a split that lie ``factor`` or more times as far from the median row as half of the rows do.

    worst is that factor of the furthest row. Where half of the rows are the median row: see unit_evidence.outliers.
    """

    n: int
    found: int
    worst: float
    factor: float


@dataclass(frozen=True, slots=True)
class Vitals:
    """All of it, and what it cost in forwards and backwards of one image."""

    units: tuple[Units, ...]
    flow: Flow
    inputs: InputGradients
    train: Outliers | None
    test: Outliers
    forwards: int
    backwards: int
