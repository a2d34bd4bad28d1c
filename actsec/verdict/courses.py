"""How an attack went on: medians over the rows it followed, question by question, small enough for a report."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec.result import Course

POINTS = 100
"""Points of a course, at most."""


def course(trace: NDArray[Any]) -> Course | None:
    """The medians of a trace (rows, questions, 3): loss, best score, best size; None when nothing was iterated.

    A row that ended keeps its last best. A size counts only from the first success on; where the median row has none,
    there is None. Rows that were never asked about are left out.
    """
    rows = trace[~np.isnan(trace[:, :, 1]).all(1)] if trace.size else trace
    if not len(rows) or rows.shape[1] < 3:  # a single step goes nowhere
        return None
    score, size = _held(rows[:, :, 1]), _held(rows[:, :, 2])
    size = np.where(score > 0, size, np.inf)
    at = np.unique(np.linspace(0, rows.shape[1] - 1, POINTS).round().astype(int))
    middle = [_finite(np.median(values[:, at], axis=0)) for values in (score, size)]
    return Course(len(rows), tuple(int(i) + 1 for i in at), middle[0], middle[1])


def _held(values: NDArray[Any]) -> NDArray[Any]:
    """Each row with its last number in the place of every NaN after it; minus infinity before the first."""
    known = np.where(np.isnan(values), -1, np.arange(values.shape[1]))
    last = np.maximum.accumulate(known, axis=1)
    taken = np.take_along_axis(values, np.maximum(last, 0), axis=1)
    return np.where(last < 0, -np.inf, taken)


def _finite(values: NDArray[Any]) -> tuple[float | None, ...]:
    return tuple(float(v) if np.isfinite(v) else None for v in values)
