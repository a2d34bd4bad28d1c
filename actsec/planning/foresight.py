"""What an audit will cost: every attack is tried on a few images, and its passes and seconds follow from those.

How many questions an attack asks of an image rests on the model: most stop at their first success. So nothing short of
asking tells. An image costs the same passes whatever it shares a call with, so that the mean over the first images of
the sample is the mean over all but for the luck of the draw. Seconds follow from how long a question takes of few
images and of many: calls are filled up to 32 rows, and more of them cost less each.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actsec import registry
from actsec.errors import PlanError
from actsec.hardening.chains import threads
from actsec.planning import costs
from actsec.planning.budgets import REPEATS
from actsec.planning.jobs import VariantPlan, model_jobs, trial_jobs, variants
from actsec.planning.plan import Plan, Trial
from actsec.running import clock, restoring, scene, tasks
from actsec.running.preparing import Prepared
from actsec.running.store import Store
from actsec.search.oracle import PAD
from actsec.search.referee import attack_target, cases_of
from actsec.types import Target

IMAGES = 16
STEPS = 3
"""Of the attack that times a question."""
BESIDE = ("clean", "probe", "corrupt", "nonsense", "fool", "certify")
"""Jobs beside the attacks, whose passes are estimated without trying them."""


@dataclass(frozen=True, slots=True)
class Line:
    """A trial over all the models it is for: passes of one image, a backward counting as two; seconds of one core.

    spread is one standard error of passes, from the differences between the images that were tried.
    """

    trial: Trial
    models: int
    passes: float
    seconds: float
    spread: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the attacks and the measurements beside them will cost; training of defenses is not counted.

    passes are those of attacks, at_most what they would be if nothing stopped early; seconds are of one core, beside
    those of measurements that are no attacks.
    """

    lines: tuple[Line, ...]
    at_most: int
    beside: float

    @property
    def passes(self) -> float:
        return sum(line.passes for line in self.lines)

    @property
    def seconds(self) -> float:
        """Of attacks, on one core."""
        return sum(line.seconds for line in self.lines)

    @property
    def spread(self) -> float:
        """Two standard errors as a share of passes; trials meet the same images, so that their errors add up."""
        return 2 * sum(line.spread for line in self.lines) / max(self.passes, 1)

    def said(self, workers: int) -> str:
        """In one sentence."""
        whole = self.seconds + self.beside
        return (
            f"attacks: about {self.passes:,.0f} passes of one image (within {self.spread:.0%}; {self.at_most:,} if "
            f"nothing stopped early), {costs.words(self.seconds)} of one core; all but training: {costs.words(whole)}, "
            f"with {workers} workers about {costs.words(whole / workers)}"
        )


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of a question with a gradient about m rows: call + row * m, m at least pad; ready to prepare a model."""

    call: float
    row: float
    ready: float
    pad: int = PAD

    def question(self, rows: NDArray[np.float64]) -> float:
        """Of questions about so many rows each."""
        return float(np.sum(self.call + self.row * np.maximum(rows, self.pad)))


def forecast(prepared: Prepared, images: int = IMAGES) -> Forecast:
    """Try every attack of the plan on the first images, on the first model: the others are taken to cost the same.

    Costs a tenth of a quick audit of one model and more, of longer ones a share. Raises PlanError for models that are
    trained in the run: until they are there is nothing to try; and for a trial that fails, what it says.
    """
    plan, loaded = prepared.plan, prepared.scene
    if plan.reference:
        raise PlanError(f"{plan.model} is trained in the run", "What attacks on it cost shows when it is trained.")
    first = variants(plan)[0]
    with tempfile.TemporaryDirectory(prefix="actsec-") as folder, threads(plan.threads):
        store = Store.create(folder, plan, prepared.facts)
        *_, base = model_jobs(plan, prepared.facts, first)
        _done(tasks.run(base, store.root, loaded))
        began = time.process_time()
        target = restoring.ready(loaded, store, base, base.id)
        pace = _pace(loaded, target, time.process_time() - began)
        lines = tuple(_line(prepared, store, trial, pace, images) for trial in plan.attacks)
    beside = sum(clock.estimate(prepared, job) for job in prepared.jobs if job.kind in BESIDE)
    asked = (job for job in prepared.jobs if job.kind in ("attack", "craft"))
    return Forecast(lines, round(sum(clock.estimate(prepared, job) for job in asked)), beside * pace.row / 3)


def _done(error: str | None) -> None:
    if error is not None:
        raise PlanError(f"the attacks cannot be tried: {error}", "Run the audit: it says what it can and cannot do.")


def _pace(loaded: scene.Scene, target: Target, ready: float) -> Pace:
    """From an attack that nothing stops, on as few rows as a call has (32 at most) and on as many as a job has."""
    pad = min(PAD, target.batch)
    many = max(min(loaded.plan.shard, target.batch, len(loaded.test)), pad)
    few = _seconds(loaded, target, pad)
    if many < 2 * pad:
        return Pace(0.0, few / pad, ready, pad)
    row = max((_seconds(loaded, target, many) - few) / (many - pad), 0.0)
    return Pace(max(few - row * pad, 0.0), row, ready, pad)


def _seconds(loaded: scene.Scene, target: Target, rows: int) -> float:
    """Of one question with a gradient about so many rows; the first images again where there are fewer."""
    at = np.arange(rows) % len(loaded.test)
    x, y = torch.from_numpy(loaded.test.x[at]).to(target.device), torch.from_numpy(loaded.test.y[at]).to(target.device)
    cases = cases_of(target, x, y, "linf", (target.bounds[1] - target.bounds[0]) * 1e-6)
    best = math.inf
    for _ in range(2):  # the first warms up
        began = time.process_time()
        attack_target(registry.build("attacks", f"pgd(steps={STEPS})"), target, cases, settle=False)
        best = min(best, time.process_time() - began)
    return best / (STEPS + 1)


def _line(prepared: Prepared, store: Store, trial: Trial, pace: Pace, images: int) -> Line:
    plan, every = prepared.plan, variants(prepared.plan)
    faced = [v for v in every if not trial.variants or v.name in trial.variants]
    times = sum(REPEATS[plan.budget] if _draws(v) else 1 for v in faced)
    rows = min(trial.samples, images)
    tried = _tried(prepared, store, replace(trial, samples=rows))
    if tried is None:
        # For other models than the first: as much as it may cost.
        most = costs.attack_passes(registry.build("attacks", trial.attack), prepared.facts.shape) * trial.samples
        return Line(trial, len(faced), most * times, most * times * pace.row / 3, 0.0)
    arrays, seconds = tried
    passes = (arrays["forwards"] + 2 * arrays["backwards"]).astype(np.float64)
    error = passes.std(ddof=1) / math.sqrt(rows) * math.sqrt(max(1 - rows / trial.samples, 0)) if rows > 1 else 0.0
    whole = sum(
        _of_shard(arrays, seconds, pace, min(plan.shard, trial.samples - start))
        for start in range(0, trial.samples, plan.shard)
    )
    scale = trial.samples * times
    return Line(trial, len(faced), float(passes.mean()) * scale, whole * times, float(error) * scale)


def _of_shard(arrays: dict[str, Any], seconds: float, pace: Pace, size: int) -> float:
    """Seconds of a job of so many rows, from what one of a few rows took."""
    forwards = np.maximum(arrays["forwards"].astype(np.float64), 1)
    questions = max(arrays["trace"].shape[1], 1) if "trace" in arrays else float(forwards.max())
    each = max(round(float(forwards.max()) / questions), 1)
    asked = np.ceil(forwards / each)
    live = (asked[None, :] > np.arange(int(asked.max()))[:, None]).sum(1).astype(np.float64)
    few, many = pace.question(live * each), pace.question(live * each * size / len(forwards))
    return pace.ready + max(seconds - pace.ready, 0.0) * many / few


def _tried(prepared: Prepared, store: Store, trial: Trial) -> tuple[dict[str, Any], float] | None:
    """What an attack left of the first rows, and the seconds it took; None where it is not for the first model."""
    plan, loaded = prepared.plan, prepared.scene
    small: Plan = plan.having(attacks=(trial,), shard=max(trial.samples, 1))
    first: VariantPlan = variants(plan)[0]
    made = trial_jobs(small, prepared.facts, first, trial)
    if not made or any(need != model_jobs(plan, prepared.facts, first)[-1].id for need in made[0].needs):
        return None
    began = time.process_time()
    _done(tasks.run(made[0], store.root, loaded))
    seconds = time.process_time() - began
    outcome = store.get(made[0].id, ("x",))
    if outcome is None or "forwards" not in outcome.arrays:
        return None
    return dict(outcome.arrays), seconds


def _draws(variant: VariantPlan) -> bool:
    return any(getattr(registry.find("defenses", spec.name), "randomises", False) for spec in variant.defenses)
