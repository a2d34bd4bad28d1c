"""What randomised smoothing certifies of a variant, beside what an attack left of the same images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec.planning.jobs import certificate_jobs
from actsec.planning.plan import Facts, Plan
from actsec.result import Certificate, CertifiedRadius
from actsec.verdict.gathering import Gathered
from actsec.verdict.statistics import share, share_of

Array = NDArray[Any]


def certified(g: Gathered, plan: Plan, facts: Facts, y: Array) -> Certificate | None:
    """The certificate of a smoothed variant; None where there is none to make, or a part of it is missing."""
    shards = [outcome for outcome in g.certified if outcome is not None]
    if not shards or len(shards) < len(g.certified):
        return None
    if reason := next((str(o.numbers["not_applicable"]) for o in shards if "not_applicable" in o.numbers), ""):
        return Certificate(reason)
    told = certificate_jobs(plan, facts, g.variant)[0].recipe
    label, radius, held = (np.concatenate([o.arrays[key] for o in shards]) for key in ("label", "radius", "held"))
    right = label == y[: len(label)]
    return Certificate(
        reason="",
        n=len(label),
        std=float(shards[0].numbers["std"]),
        votes=int(shards[0].numbers["votes"]),
        n0=int(told["n0"]),
        draws=int(told["n"]),
        alpha=float(told["alpha"]),
        attack=str(told["attack"]),
        clean=share_of(right),
        abstained=share_of(label < 0),
        median_radius=float(np.median(np.where(right, radius, 0.0))),
        radii=tuple(_at(float(eps), right & (radius > eps), held[:, i]) for i, eps in enumerate(told["radii"])),
    )


def _at(eps: float, sure: Array, held: Array) -> CertifiedRadius:
    left = share(int(held.sum()), len(held))
    return CertifiedRadius(eps, share_of(sure), left, int(np.sum(sure & ~held)))
