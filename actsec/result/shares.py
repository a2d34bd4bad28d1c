"""Shares, intervals, and how a model does on what nobody attacked."""

from __future__ import annotations

from dataclasses import dataclass


def saved_as(grid: int | None) -> str:
    """How data of so many steps between the ends of its box is saved, for people."""
    return {255: "8-bit images", 65535: "16-bit images"}.get(grid or 0, f"whole numbers from 0 to {grid}")


@dataclass(frozen=True, slots=True)
class Share:
    """k of n, with the 95 % Wilson interval (Clopper-Pearson at k = 0 or n)."""

    k: int
    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval of a number that is no share."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ClassShare:
    """Accuracy on one class."""

    name: str
    share: Share


@dataclass(frozen=True, slots=True)
class Clean:
    """Untouched inputs."""

    accuracy: Share
    balanced: float
    per_class: tuple[ClassShare, ...]
    worst_class: str
    missed: Share | None = None
    """The miss rate: the share of the plan's positive class that is called something else."""
    rejected: Share | None = None
    """Inputs that the model's detector refuses, which count as not correct; None without a detector."""


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of a reliability diagram."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidence against correctness. condition is ``clean`` or the attack that made the inputs.

    ece: top-label, equal-width bins [low, high), L1; null: what a perfectly calibrated model would show at this n.
    """

    condition: str
    n: int
    bins: int
    ece: float
    null_mean: float
    null_p95: float
    mce: float
    brier: float
    nll: float
    mean_confidence: float
    confidence_when_wrong: float | None
    wrong_above_90: Share
    reliability: tuple[Bin, ...]
    ece_low: float | None = None
    ece_high: float | None = None
    """The 95 % bootstrap interval of ece."""
    brier_interval: Interval | None = None
    nll_interval: Interval | None = None
    confidence_when_wrong_interval: Interval | None = None
    """Percentiles of the same bootstrap; of confidence_when_wrong None where few resamples hold a wrong answer."""


@dataclass(frozen=True, slots=True)
class Corrupted:
    """Accuracy on images corrupted by chance, not by an adversary. setting is the physical parameter in words."""

    kind: str
    severity: int
    setting: str
    accuracy: Share


@dataclass(frozen=True, slots=True)
class Corruptions:
    """What corruptions do to one model, beside clean accuracy on the same images. Never part of a worst case."""

    n: int
    clean: Share
    rows: tuple[Corrupted, ...]
