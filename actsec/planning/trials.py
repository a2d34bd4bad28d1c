"""The attacks of an audit that names none, and the checks that go with each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from actsec import registry
from actsec.planning.budgets import Budget, Images, tidy
from actsec.planning.jobs import VARIANT, VariantPlan
from actsec.planning.plan import Trial
from actsec.spec import Spec, show
from actsec.types import Aim, Threat

CURVE = (0.25, 0.5, 1.5, 2.0)
"""The robust-accuracy curve is measured at these multiples of eps, and at eps."""
FEATURE_LEVELS = 33
MOST_GUIDED = 1 << 22
"""The guided one-pixel search keeps every candidate of its grid in mind: at most so many."""


def default_trials(
    eps: float, samples: int, budget: Budget, images: Images, models: Sequence[VariantPlan]
) -> tuple[Trial, ...]:
    """All attacks, each under the threats it works in, and the roles the sanity checks need.

    A model that draws at inference has no curve and no smallest change: whether an input fools it is itself random.
    """
    bases = tuple(model.name for model in models if not model.chain)
    others = tuple(model.name for model in models[1:])
    fixed = tuple(model.name for model in models if not _randomises(model))
    fixed = () if len(fixed) == len(models) else fixed
    at, kill = f"linf:{show(eps)}", f"linf:{show(eps)}:kill"
    few, pixels = min(samples, budget.minimal), min(samples, budget.pixels)
    curve = [tidy(eps * k) for k in CURVE if eps * k <= images.width]
    return (
        *checks(Threat("linf", eps), samples, budget, images),
        Trial("fgsm(loss=margin)", at, samples, "attack"),
        # Nothing settles early on a model that draws, and each draw costs the whole cascade again.
        Trial(budget.cascade, at, samples, "attack", fixed),
        # What stops at its first success on the base fools a third as many of the others.
        *(Trial(f"transfer(attack=pgd(steps={budget.steps}))", at, samples, "transfer", others) for _ in others[:1]),
        *(
            Trial(f"transfer(source={twin!r}, attack=pgd(steps={budget.steps}))", at, samples, "transfer", bases[:1])
            for twin in _twins(models)[:1]
        ),
        *(
            Trial(f"pgd(steps={budget.steps // 2}, loss=margin)", f"linf:{show(e)}", samples, "curve", fixed)
            for e in curve
        ),
        *(Trial(f"noise(draws={budget.draws})", f"linf:{show(e)}", samples, "noise_curve", fixed) for e in curve),
        Trial("minimal_l2", "l2", few, "minimal", fixed),
        *(dataclasses.replace(t, variants=fixed) for t in checks(Threat("l2"), few, budget, images)),
        # The undefended models only: minimal_l2 comes nearer on all of them at a tenth of the cost.
        Trial(budget.carlini_wagner, "l2", min(few, budget.search), "minimal", bases),
        Trial(pixel_attack(images.shape, images.grid, budget.pixel_forwards), "l0:1", pixels, "attack", fixed),
        Trial(f"noise(draws={budget.draws})", "l0:1", pixels, "noise", fixed),
        Trial("dead_relu", kill, few, "kill"),
        Trial(f"noise(draws={budget.draws})", kill, few, "kill_noise"),
        Trial(f"pgd(steps={budget.steps})", kill, few, "kill_pgd"),
        *(trial for aim in budget.aims for trial in _miscalibrating(aim, eps, samples, budget, fixed)),
    )


def _miscalibrating(aim: Aim, eps: float, samples: int, budget: Budget, fixed: tuple[str, ...]) -> tuple[Trial, Trial]:
    """The attack on calibration of an aim, and noise beside it. ECE wants many examples: they face as many as others.

    A model that draws at inference has no label that certainly stays.
    """
    attack = f"miscalibration(steps={budget.steps}, aim={aim})"
    at = f"linf:{show(eps)}:{registry.build('attacks', attack).goal}"
    noise = f"noise(draws={budget.draws})"
    return Trial(attack, at, samples, "miscalibrate", fixed), Trial(noise, at, samples, "miscalibrate_noise", fixed)


def _twins(models: Sequence[VariantPlan]) -> list[str]:
    """Sources of ``transfer`` to the first model: other models of the same task that learned by themselves.

    A chain that trains nothing is the first model over again, with what hides its gradients.
    """
    learned = [m for m in models[1:] if not _randomises(m) and (not m.chain or any(map(_trains, m.chain)))]
    return [f"{VARIANT}{model.name}" for model in learned]


def _trains(spec: Spec) -> bool:
    """Whether a defense goes over the training data: to recalibrate is not to learn."""
    defense = registry.build("defenses", spec)
    return any(getattr(defense, option, 0) for option in ("epochs", "finetune"))


def _randomises(model: VariantPlan) -> bool:
    return any(getattr(registry.find("defenses", spec.name), "randomises", False) for spec in model.defenses)


SEARCHED = 30
"""Rows on which a search by score looks for the smallest change, at least: it costs more than the gradient's."""


def checks(threat: Threat, samples: int, budget: Budget, images: Images) -> tuple[Trial, ...]:
    """The trials that the sanity checks read, at a headline threat. All but the unbounded one count for it too.

    Without an eps, and in l0, they are fewer: what works there.
    """
    at, steps = str(threat), budget.steps
    noise = Trial(f"noise(draws={budget.draws})", at, samples, "noise")
    if threat.goal != "misclassify" or (threat.eps is None and threat.norm != "l2"):
        return ()
    if threat.eps is None:
        searched = min(samples, max(budget.search, SEARCHED))
        return noise, Trial("averaged_differences(steps=30, directions=5)", at, searched, "gradient_free")
    if threat.norm == "l0":
        return (noise,)
    # Square search has no L1; the whole box of the first threat is the whole box in every norm.
    l1 = threat.norm == "l1"
    search = f"averaged_differences(steps={max(budget.queries // 11, 1)}, directions=5)"
    return (
        noise,
        Trial("fgsm", at, samples, "single_step"),
        Trial(f"pgd(steps={steps})", at, samples, "iterative"),
        Trial(f"pgd(steps={2 * steps}, restarts=2)", at, samples, "doubled"),
        Trial(f"pgd(steps={steps}, loss=margin)", at, samples, "margin"),
        Trial(search if l1 else f"square(queries={budget.queries})", at, samples, "gradient_free"),
        Trial(
            f"pgd(steps={2 * steps}, loss=margin)",
            str(images.whole("linf" if l1 else threat.norm)),
            samples,
            "unbounded",
        ),
    )


def pixel_attack(shape: tuple[int, ...], grid: int | None, forwards: int) -> str:
    """The most complete one-pixel search of an image within so many forwards.

    Every pixel at every level of the data's grid, every feature at up to 33 values; else every pixel at every colour
    corner; else a guided search of the corners; for inputs too large for that the paper's differential evolution, with
    as large a population as leaves it 15 generations.
    """
    channels, cells = (shape[0], math.prod(shape[1:])) if len(shape) == 3 else (1, math.prod(shape))
    # Values of a feature between its ends matter, and there are few features.
    finest = grid + 1 if grid is not None else 2 if len(shape) == 3 else min(FEATURE_LEVELS, max(forwards // cells, 2))
    for levels in (finest, 2):
        if levels**channels * cells <= forwards:
            return f"one_pixel(mode=exhaustive, levels={levels})"
    if 2**channels * cells <= MOST_GUIDED:
        return f"one_pixel(levels=2, queries={forwards})"
    population = min(400, forwards // 16)
    return f"one_pixel(mode=paper, population={population}, generations={forwards // population - 1})"
