"""Finished outcomes put together: the shards of a trial in row order, and what they say example by example.

Everything a report claims is derived from here, so a changed outcome changes every number that rests on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec.errors import StoreError
from actsec.planning.jobs import (
    VariantPlan,
    bracket_jobs,
    certificate_jobs,
    corruption_jobs,
    jobs,
    model_jobs,
    nonsense_jobs,
    single_job,
    trial_jobs,
    variants,
)
from actsec.planning.plan import Facts, Plan, Trial
from actsec.running.store import Store
from actsec.types import SLACK, Job, Outcome, Threat
from actsec.verdict.calibration import decided, softmax

Array = NDArray[Any]
NORMS_KEPT = ("linf", "l2", "l0")
ALREADY_WRONG, FOUND = 0, 1
UNREAD = {"attack": ("x",), "craft": ("x",), "base": ("weights",), "defend": ("weights",)}
"""Arrays that no number of a report needs all of, by kind of job: examples and weights would fill memory."""
KEPT = 256 << 20
"""Bytes up to which the logits of all attacked examples stay in memory; beyond, each trial's are read when needed."""


@dataclass(frozen=True)
class Tried:
    """A trial on a variant: its arrays over all finished shards, or why there are none."""

    trial: Trial
    arrays: dict[str, Array]
    numbers: tuple[dict[str, Any], ...]
    error: str | None
    missing: bool
    stochastic: bool = False
    jobs: tuple[Job, ...] = ()
    bracketed: Outcome | None = None
    """Of an attack on units, beside certificates and on other models; None where that was not done."""

    def attacked(self, row: int, store: Store) -> Array:
        """The example (*shape) that the attack left of a row: read when asked for, since all of them fill memory."""
        job = next(job for job in self.jobs if job.recipe["rows"][0] <= row < job.recipe["rows"][1])
        outcome = store.get(job.id)
        if outcome is None:
            raise StoreError(f"the outcome of {job.label} ({job.id}) is gone", f"actsec resume {store.root}")
        return np.asarray(outcome.arrays["x"][row - job.recipe["rows"][0]])

    @property
    def threat(self) -> Threat:
        return Threat.parse(self.trial.threat)

    @property
    def usable(self) -> bool:
        """Whether every shard finished and left verdicts."""
        return not self.missing and self.error is None and bool(self.arrays)

    @property
    def reason(self) -> str | None:
        """Why the attack does not apply to the model, if it does not."""
        return next((str(n["not_applicable"]) for n in self.numbers if "not_applicable" in n), None)

    @cached_property
    def wrong(self) -> Array:
        """Share of judgements that were wrong (n,) on the example this attack left: 0 or 1 unless stochastic."""
        if self.stochastic:
            return np.asarray(self.arrays["wrong"])
        held = np.isin(self.arrays["status"], (ALREADY_WRONG, FOUND))
        return np.where(held, self.arrays["wrong"], 0.0)

    def smallest(self, norm: str) -> Array:
        """Least size (n,) in ``norm`` of any misclassifying candidate of this attack; infinity for none."""
        if norm not in NORMS_KEPT:
            return np.full(len(self.arrays["status"]), np.inf)
        return self.arrays["smallest"][:, NORMS_KEPT.index(norm)]


@dataclass(frozen=True)
class Gathered:
    """Everything finished about one variant. clean_wrong (rows,) is over the test data in sampling order.

    nonsense and fooled hold what actsec.nonsense measured, on the same inputs for every variant: confidence (n,)
    float64, the probability of the decided class, and kind (n,) int64, an index into numbers["kinds"], among others.
    """

    variant: VariantPlan
    clean: Outcome | None
    probe: Outcome | None
    fit: Outcome | None
    tried: tuple[Tried, ...]
    errors: tuple[str, ...]
    confined: bool = False
    corrupted: tuple[Outcome | None, ...] = ()
    nonsense: Outcome | None = None
    fooled: Outcome | None = None
    certified: tuple[Outcome | None, ...] = ()

    @cached_property
    def clean_wrong(self) -> Array:
        """Share of wrong decisions (rows,) on untouched inputs."""
        return self.clean.arrays["test_wrong"].astype(np.float64) if self.clean else np.zeros(0)

    @property
    def stochastic(self) -> bool:
        return bool(self.fit and self.fit.numbers.get("stochastic"))

    @property
    def threshold(self) -> float | None:
        """The variant's own decision threshold: a defense may have moved it."""
        return self.fit.numbers.get("threshold") if self.fit else None

    def under(self, threat: Threat) -> tuple[Tried, ...]:
        """The usable trials at exactly this threat."""
        return tuple(t for t in self.tried if t.usable and t.threat == threat)

    def wrong_under(self, threat: Threat, n: int, trials: Iterable[Tried] | None = None) -> Array:
        """Per example (n,): the share of wrong judgements at the worst candidate that satisfies the threat.

        Untouched errors count. A candidate of any trial counts when it fits inside the threat's ball; for a stochastic
        target only the examples judged by mean accuracy at this very threat count. Under another goal than to
        misclassify: where some candidate reached it.
        """
        if threat.goal != "misclassify":
            return self._reached(threat, n, self.tried if trials is None else trials)
        worst = self.clean_wrong[:n].copy()
        for tried in self.tried if trials is None else trials:
            if not tried.usable or (self.stochastic and tried.threat.goal != "misclassify"):
                continue
            rows = min(n, len(tried.arrays["status"]))
            if tried.threat == threat:
                worst[:rows] = np.maximum(worst[:rows], tried.wrong[:rows])
            if not self.stochastic:
                limit = np.inf if threat.eps is None else threat.eps * (1 + SLACK)
                fits = tried.smallest(threat.norm)[:rows] <= limit
                fits &= np.isfinite(tried.smallest(threat.norm)[:rows])
                worst[:rows] = np.maximum(worst[:rows], fits)
        return worst

    def counted(self, threat: Threat, n: int) -> Array:
        """Examples (n,) bool with something to reach under a threat: those of the wanted class have not."""
        found = np.ones(n, dtype=bool)
        for tried in self.under(threat):
            rows = min(n, len(tried.arrays["status"]))
            if "counted" in tried.arrays:
                found[:rows] &= tried.arrays["counted"][:rows]
        return found

    def _reached(self, threat: Threat, n: int, trials: Iterable[Tried]) -> Array:
        """Per example (n,), 0 or 1: whether a candidate inside the ball reached the goal of the threat."""
        limit = np.inf if threat.eps is None else threat.eps * (1 + SLACK)
        there = np.zeros(n)
        for tried in trials:
            if not tried.usable or tried.threat.norm != threat.norm or tried.threat.region is not None:
                continue
            rows = min(n, len(tried.arrays["status"]))
            if tried.threat == threat:
                got = np.isin(tried.arrays["status"][:rows], (ALREADY_WRONG, FOUND))
            elif self.stochastic:
                continue
            else:
                got = (tried.arrays["status"][:rows] == FOUND) & (tried.arrays["size"][:rows] <= limit)
                got &= self._there(threat, tried, rows)
            there[:rows] = np.maximum(there[:rows], got)
        return np.where(self.counted(threat, n), there, 0.0)

    def _there(self, threat: Threat, tried: Tried, rows: int) -> Array:
        """Whether what an attack with another goal left (rows,) reaches this one."""
        probability = softmax(tried.arrays["logits"][:rows])
        label = decided(probability, self.threshold)
        if threat.confidence is not None:
            sure = probability[np.arange(rows), label] >= threat.confidence
            return np.asarray(sure & (tried.wrong[:rows] > 0.5))
        if threat.target is not None:
            return np.asarray(label == threat.target)
        clean = self.clean.arrays["test_logits"][:rows] if self.clean else np.zeros((rows, 1))
        least = 1 - decided(softmax(clean), self.threshold) if clean.shape[1] == 2 else clean.argmin(1)
        return np.asarray(label == least)

    def distance(self, norm: str, n: int, trials: Iterable[Tried]) -> Array:
        """Smallest misclassifying change (n,) any of the trials found; 0 where the untouched input is wrong."""
        least = np.where(self.clean_wrong[:n] > 0.5, 0.0, np.inf)
        for tried in trials:
            rows = min(n, len(tried.arrays["status"]))
            least[:rows] = np.minimum(least[:rows], tried.smallest(norm)[:rows])
        return least


def compared(base: Gathered, other: Gathered) -> tuple[tuple[Tried, ...], tuple[Tried, ...]]:
    """The trials of two variants that a comparison rests on: of the base those the other faced too, of the other all.

    What the base alone has faced, a second opinion or a cascade that is not run on models that draw, would flatter the
    other.
    """
    faced = {(t.trial.attack, t.trial.threat) for t in other.tried if t.usable}
    return tuple(t for t in base.tried if (t.trial.attack, t.trial.threat) in faced), other.tried


def gather(plan: Plan, facts: Facts, store: Store) -> tuple[Gathered, ...]:
    """Read every finished outcome of a run, variant by variant: all but the examples and the weights."""
    every = variants(plan)
    logits = sum(trial.samples * (len(trial.variants) or len(every)) for trial in plan.attacks) * len(facts.classes) * 4
    unread = UNREAD if logits <= KEPT else {**UNREAD, "attack": ("x", "logits")}
    found = {job.id: store.get(job.id, unread.get(job.kind, ())) for job in jobs(plan, facts)}
    return tuple(_variant(plan, facts, variant, found, store) for variant in every)


class Columns(dict[str, Array]):
    """Arrays over all the shards of a trial. What is not among them is read when asked for, and not kept."""

    def __init__(self, known: Mapping[str, Array], jobs: Sequence[Job], store: Store) -> None:
        super().__init__(known)
        self.jobs, self.store = jobs, store

    def __missing__(self, key: str) -> Array:
        parts = []
        for job in self.jobs:
            outcome = self.store.get(job.id, ("x",))
            if outcome is None or key not in outcome.arrays:
                raise KeyError(key)
            parts.append(outcome.arrays[key])
        return np.concatenate(parts)


def _variant(
    plan: Plan, facts: Facts, variant: VariantPlan, found: dict[str, Outcome | None], store: Store
) -> Gathered:
    models = [found[job.id] for job in model_jobs(plan, facts, variant)]
    clean, probe = (found[single_job(kind, plan, facts, variant).id] for kind in ("clean", "probe"))
    stochastic = bool(models[-1] and models[-1].numbers.get("stochastic"))
    tried = tuple(
        dataclasses.replace(
            _tried(trial, shards, [found[job.id] for job in shards], store, stochastic=stochastic),
            bracketed=next((_whole(found[job.id]) for job in bracket_jobs(plan, facts, variant, trial)), None),
        )
        for trial in plan.attacks
        if (shards := trial_jobs(plan, facts, variant, trial))
    )
    errors = [o.error for o in (*models, clean, probe) if o is not None and o.error]
    errors += [t.error for t in tried if t.error]
    corrupted = tuple(found[job.id] for job in corruption_jobs(plan, facts, variant))
    errors += [o.error for o in corrupted if o is not None and o.error]
    beside = [found[job.id] for job in nonsense_jobs(plan, facts, variant)]
    errors += [o.error for o in beside if o is not None and o.error]
    held = [found[job.id] for trial in plan.attacks for job in bracket_jobs(plan, facts, variant, trial)]
    errors += [o.error for o in held if o is not None and o.error]
    certified = tuple(found[job.id] for job in certificate_jobs(plan, facts, variant))
    errors += [o.error for o in certified if o is not None and o.error]
    seen = (*map(_whole, beside), None, None)
    whole = (_whole(clean), _whole(probe), _whole(models[-1]))
    return Gathered(
        variant,
        *whole,
        tried,
        tuple(dict.fromkeys(errors)),
        facts.confined,
        tuple(map(_whole, corrupted)),
        nonsense=seen[0],
        fooled=seen[1],
        certified=tuple(map(_whole, certified)),
    )


def _whole(outcome: Outcome | None) -> Outcome | None:
    return None if outcome is None or outcome.error else outcome


def _tried(
    trial: Trial, jobs: Sequence[Job], shards: Sequence[Outcome | None], store: Store, *, stochastic: bool
) -> Tried:
    error = next((o.error for o in shards if o is not None and o.error), None)
    missing = any(o is None for o in shards) or not shards
    whole = [o for o in shards if o is not None and o.error is None]
    arrays: dict[str, Array] = {}
    if not missing and error is None and all(o.arrays for o in whole):
        # A trace follows a few rows of each shard; those of the first are shown.
        known = {
            key: first if key == "trace" else np.concatenate([o.arrays[key] for o in whole])
            for key, first in whole[0].arrays.items()
        }
        arrays = Columns(known, jobs, store)
    return Tried(trial, arrays, tuple(dict(o.numbers) for o in whole), error, missing, stochastic, tuple(jobs))
