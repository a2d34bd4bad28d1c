"""The model and images of a plan, for a study of forced units."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from actsec.describing import echo_eps
from actsec.errors import BadOption, PlanError
from actsec.hardening import making
from actsec.hardening.chains import threads
from actsec.planning.plan import Plan
from actsec.running import checkup, preparing, scene
from actsec.running.progress import Tell
from actsec.search.oracle import bounded
from actsec.study.forcing import Network, Settings, run
from actsec.types import Norm, Target

IMAGES = 64


@dataclass(frozen=True, slots=True)
class Subject:
    """What is studied: targets with their seeds, images and labels, and what data, eps and classes are called."""

    networks: tuple[tuple[Target, int], ...]
    x: Tensor
    y: Tensor
    eps: float
    data: str
    echo: str
    classes: tuple[str, ...]
    threads: int
    notes: tuple[str, ...]

    def run(self, settings: Settings, tell: Tell) -> tuple[Network, ...]:
        """The study, on as many threads as the plan says."""
        with threads(self.threads):
            return run(self.networks, self.x, self.y, settings, tell)


def subject(plan: Plan, norm: Norm, seeds: int, tell: Tell) -> Subject:
    """Load what a plan names: a network a seed where it is trained first, the same model for each where it is not.

    Raises what reading models and data raises, PlanError for tables, BadOption for an L2 study without an eps.
    """
    if seeds < 1:
        raise BadOption(f"--seeds {seeds}", "Give 1 or more.")
    if norm == "l2" and plan.eps is None:
        raise BadOption("--norm l2 without --eps: no size is usual there", "Give --eps, such as --eps 1.")
    wanted = plan.having(samples=IMAGES) if plan.samples is None else plan
    loaded = preparing.resolved(scene.load(checkup.whole(wanted)))
    if loaded.test.table is not None:
        raise PlanError(
            f"{plan.data} is a table, whose columns have rules of their own", "Use actsec attack dead_relu."
        )
    resolved, notes = loaded.plan, loaded.notes
    made: list[tuple[Target, int]] = []
    for seed in range(resolved.seed, resolved.seed + seeds):
        if made and not resolved.reference:
            made.append((made[0][0], seed))
            continue
        target, more = making.base_of(dataclasses.replace(loaded, plan=resolved.having(seed=seed)), tell)
        made.append((bounded(target, torch.from_numpy(loaded.test.x[:1]).to(target.device), resolved.memory), seed))
        notes = (*notes, *more)
    first = made[0][0]
    rows = min(resolved.samples or IMAGES, len(loaded.test))
    x, y = (torch.from_numpy(part[:rows]).to(first.device) for part in (loaded.test.x, loaded.test.y))
    eps = float(resolved.eps or 0.0)
    return Subject(
        networks=tuple(made),
        x=x,
        y=y,
        eps=eps,
        data=loaded.test.name,
        echo=echo_eps(eps, first, norm),
        classes=loaded.test.classes,
        threads=resolved.threads,
        notes=tuple(dict.fromkeys(notes)),
    )
