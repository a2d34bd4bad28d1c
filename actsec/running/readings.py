"""Other ways in which its owner may have meant a model: another normalisation, labels one too high or too low."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actsec.errors import ActsecError, DataError, ModelError
from actsec.loading.normalizing import HALF, IMAGENET, normalization, show_normalization
from actsec.types import Normalization, Target
from actsec.verdict.statistics import paired

BETTER, LEVEL = 0.10, 0.01
"""Another reading is clearly better: more than 10 points, and exact McNemar's p below 0.01."""
RAW = "raw units"
BYTES = Normalization((0.0,), (1 / 255,))
"""A model that takes 0-255, given inputs in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One way in which the owner may have meant it: which rows are then correct, and the error that says so."""

    correct: NDArray[np.bool_]
    error: ActsecError


def alternatives(
    target: Target, others: Sequence[str | Normalization | None] | None
) -> list[tuple[str, Normalization | None]]:
    """Normalisations that the owner may have forgotten or given twice. The last one reads 0-255."""
    own = target.normalization
    found: list[Normalization | None]
    if others is not None:
        found = [normalization(other) for other in others]
    else:
        channels = target.shape[0] if len(target.shape) == 3 else 1
        bytewise = [BYTES] if target.bounds == (0.0, 1.0) and len(target.shape) == 3 else []
        found = [None, *([IMAGENET] if channels == 3 else []), *([HALF] if len(target.shape) == 3 else []), *bytewise]
    return [(show_normalization(each), each) for each in found if each != own]


def readings(
    target: Target, decided: NDArray[np.int64], y: NDArray[np.int64], others: Mapping[str, NDArray[np.int64]]
) -> list[Reading]:
    """The owner may have meant one of these: which rows are right then, and what to say. y (n,) are the labels."""
    own, correct = show_normalization(target.normalization), decided == y
    readings = []
    for name, found in others.items():
        other = found == y
        error: ActsecError = ModelError(
            f"clean accuracy is {correct.mean():.1%} with normalisation {own} and {other.mean():.1%} with {name}: "
            "inputs were scaled otherwise when it was trained",
            f"{_option(name, own, len(others))}; "
            f"or --expect-accuracy {correct.mean():.2f} if that is what the model reaches.",
        )
        readings.append(Reading(other, error))
    for shift, word in ((-1, "high"), (1, "low")):
        other = decided == y + shift
        error = DataError(
            f"clean accuracy is {correct.mean():.1%}, and {other.mean():.1%} with every label changed by {shift:+d}: "
            f"labels are one too {word}",
            f"Store labels that count the model's classes from 0 ({_shifted(y, shift, len(target.classes))}).",
        )
        readings.append(Reading(other, error))
    return readings


def _shifted(y: NDArray[np.int64], shift: int, classes: int) -> str:
    """How to write the labels moved by one; they may have been moved in a circle."""
    inside = int(y.min()) + shift >= 0 and int(y.max()) + shift < classes
    text = f"y {'-' if shift < 0 else '+'} 1"
    return text if inside else f"({text}) % {classes}"


def _option(name: str, own: str, tried: int) -> str:
    """How the command line asks for another normalisation."""
    if RAW in (name, own):
        return "Give --raw-units" if name == RAW else "Leave --raw-units out"
    if name == "none":
        return "Give --normalize none: the model seems to normalise by itself"
    best = f", the best of {tried} tried here," if tried > 1 else ""
    return f"Give --normalize {name} if that is its training's{best} or its own MEAN/STD"


def stop_if_better(correct: NDArray[np.bool_], readings: list[Reading]) -> None:
    """Stop for the reading under which most rows are correct, when that is clearly better than what was asked for."""
    best = max(readings, key=lambda reading: int(reading.correct.sum()))
    if best.correct.mean() - correct.mean() > BETTER and (paired(correct, best.correct).p or 0.0) < LEVEL:
        raise best.error
