"""Time left, from how long jobs of each kind took per unit of estimated work."""

from __future__ import annotations

import time

from actsec import registry
from actsec.planning import costs
from actsec.running.preparing import Prepared
from actsec.spec import parse_chain
from actsec.types import Job

FORETELLS = 0.02
"""The share of the work that must be done before the time left is told."""


class Clock:
    """Time left, from how long jobs of each kind took per unit of estimated work."""

    def __init__(self, prepared: Prepared, waiting: list[Job]) -> None:
        self.work = {job.id: estimate(prepared, job) for job in waiting}
        self.left_by_kind: dict[str, float] = {}
        for job in waiting:
            self.left_by_kind[job.kind] = self.left_by_kind.get(job.kind, 0.0) + self.work[job.id]
        self.all_work = sum(self.left_by_kind.values())
        self.began = time.monotonic()

    def finished(self, job: Job) -> None:
        self.left_by_kind[job.kind] -= self.work[job.id]

    def left(self) -> float | None:
        remaining = sum(self.left_by_kind.values())
        done = self.all_work - remaining
        # The first jobs are over in no time and are not made of passes: what they took says little of the others.
        enough = done > 0 and (done >= FORETELLS * self.all_work or remaining == 0)
        return (time.monotonic() - self.began) * remaining / done if enough else None


def estimate(prepared: Prepared, job: Job) -> float:
    """Rough work of a job in passes of one image, for the time left: at most, since attacks settle earlier.

    Trainings are counted as their price says (see pricing), on a toy and once in a process.
    """
    from actsec.planning import pricing
    from actsec.planning.budgets import REPEATS
    from actsec.spec import parse
    from actsec.training.recipe import Recipe

    data = prepared.scene.splits
    trained = len(data.train) if data.train is not None else 0
    if job.kind == "defend":
        chain = parse_chain(str(job.recipe["chain"]))
        return 1000.0 + sum(pricing.price(spec, trained) or 0 for spec in chain if trained)
    if job.kind not in ("attack", "craft"):
        return {
            "base": 3.0 * Recipe().epochs * trained if prepared.plan.reference else 100.0,
            "clean": 1.0 * len(data.test),
            "corrupt": 1.0 * len(job.recipe.get("corruptions", ())) * len(data.test),
            "nonsense": 1500.0,
            "fool": 10_000.0,
            "certify": 20.0 * float(job.recipe.get("n", 0)) * len(job.recipe.get("radii", ())),
            "bracket": 1500.0,
            "probe": 4000.0 + 5.0 * len(data.test),
        }[job.kind]
    attack = registry.build("attacks", parse(str(job.recipe["attack"])))
    first, last = job.recipe["rows"]
    randomised = any(name in job.variant for name in ("noisy_inference", "smoothing"))
    draws = REPEATS[prepared.plan.budget] if randomised else 1
    return float((last - first) * costs.attack_passes(attack, prepared.facts.shape) * draws)
