"""How far a result holds elsewhere: rounding differs between machines, libraries and numbers of threads."""

from __future__ import annotations

import math

import numpy as np

from actsec.verdict.gathering import Gathered

TOLERANCE = 1e-4
"""Margins below this share of an image's largest logit are taken to be rounding's to decide.

Logits of trained networks with one thread and with two differed by less than a hundredth of it (docs/running.md)."""


def rounding(g: Gathered) -> str:
    """The tolerance in a sentence, with how many untouched images lie within it; empty where nothing was measured."""
    if g.clean is None:
        return ""
    logits = g.clean.arrays["test_logits"].astype(np.float64)
    logits = logits[np.isfinite(logits).all(1)]
    if not len(logits):
        return ""
    if g.threshold is not None and logits.shape[1] == 2:
        margin = np.abs(logits[:, 1] - logits[:, 0] - math.log(g.threshold / (1 - g.threshold)))
    else:
        least, most = np.sort(logits, 1)[:, -2:].T
        margin = most - least
    near = int((margin <= TOLERANCE * np.abs(logits).max(1)).sum())
    return (
        "The same seed gives the same bytes wherever jobs run on machines of one kind, with the threads of the plan. "
        f"Elsewhere the last bits differ: {near} of {len(logits)} untouched images of {g.variant.name} lie so near to "
        f"a boundary (a margin of {TOLERANCE:g} of the largest logit) that they may be decided otherwise, and attacks "
        "may end on other examples."
    )
