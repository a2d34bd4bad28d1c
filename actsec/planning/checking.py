"""What is added to a plan so that its numbers can be believed: checks, and attacks that know the defense."""

from __future__ import annotations

import dataclasses
from typing import Any

from actsec import registry
from actsec.errors import PlanError, ThreatError, unknown
from actsec.planning.budgets import BUDGETS, SHORT, Budget, Images
from actsec.planning.jobs import EXPERIMENTS, VARIANT, VariantPlan, headline_threats, rows_tested, variants
from actsec.planning.plan import CHECKED, Plan, Trial
from actsec.planning.trials import checks, default_trials
from actsec.running import second_opinion
from actsec.spec import Spec, parse, show
from actsec.types import Threat

OWN_SHORT = "carlini_wagner(steps=200)"
"""For models of the user: on 22 images of a ResNet-20 its median is 0.0545, SHORT's 0.123, minimal_l2's 0.0500."""


def filled(trial: Trial, plan: Plan, samples: int, budget: Budget, images: Images) -> Trial:
    """A trial the user named, with its threat, sample size and role."""
    attack = registry.build("attacks", trial.attack)
    roles, width, rows = attack.roles, images.width, images.rows
    name = parse(trial.attack).name
    if not trial.threat:
        if (goal := getattr(attack, "goal", "misclassify")) != "misclassify":
            threat = f"linf:{show(plan.eps)}:{goal}"
        elif "minimal" in roles or getattr(attack, "sizes", None):
            threat = attack.norms[0]
        elif "linf" in attack.norms:
            threat = f"linf:{show(plan.eps)}"
        else:
            threat = "l0:1" if "l0" in attack.norms else f"{attack.norms[0]}:{show(plan.eps)}"
        trial = dataclasses.replace(trial, threat=threat)
    threat_read = Threat.parse(trial.threat)
    if threat_read.norm not in attack.norms:
        raise ThreatError(
            f"{name} works in {', '.join(attack.norms)}, not in {threat_read.norm}", "Give it a threat of its own norm."
        )
    if ("minimal" in roles) != (threat_read.eps is None) and "any_eps" not in roles:
        raise ThreatError(
            f"{name} at {trial.threat}: "
            + ("it looks for the smallest change and takes no eps" if "minimal" in roles else "it needs an eps"),
            f"Write {threat_read.norm}." if "minimal" in roles else f"Write {threat_read.norm}:0.1, for example.",
        )
    if threat_read.norm == "linf" and (threat_read.eps or 0) > width and trial.role != "unbounded":
        problem = f"eps {show(threat_read.eps)} is larger than the range of inputs, {width:g}"
        raise ThreatError(problem, "Give it in input units, such as 8/255 of [0, 1].")
    size = trial.samples or samples
    if trial.samples == 0 and ("minimal" in roles or name == "one_pixel"):
        size = min(samples, budget.minimal if "minimal" in roles else budget.pixels)
    guessed = "minimal" if threat_read.eps is None else "noise" if "noise" in roles else "attack"
    guessed = _guessed(guessed, threat_read)
    if "transfer" in roles:
        guessed, trial = "transfer", _from_base(trial, attack, plan)
    role = trial.role or guessed
    return dataclasses.replace(trial, attack=str(parse(trial.attack)), samples=min(size, rows), role=role)


def _guessed(role: str, threat: Threat) -> str:
    """The role of a trial that has none: goals that are no misclassification have roles of their own."""
    if threat.aim:
        return "miscalibrate_noise" if role == "noise" else "miscalibrate"
    return "kill" if threat.region and role == "attack" else role


def _from_base(trial: Trial, attack: Any, plan: Plan) -> Trial:
    """Examples of the first model are for every other one, not for itself."""
    names = [model.name for model in variants(plan)]
    if attack.source.startswith(VARIANT):
        first = attack.source.removeprefix(VARIANT)
        if first not in names:
            raise unknown("variant", first, names)
        others = [name for name in names if name != first]
    elif attack.source == "base":
        first, *others = names
    else:
        return trial
    chosen = tuple(name for name in trial.variants if name != first) if trial.variants else tuple(others)
    if not chosen:
        raise PlanError(
            f"{trial.attack} is to propose to {first} what was found on it",
            "Name another model, transfer(source='nets.py:twin', weights=...) or 'variant:NAME', or add a defense.",
        )
    return dataclasses.replace(trial, variants=chosen)


def with_checks(
    trials: tuple[Trial, ...], plan: Plan, samples: int, budget: Budget, images: Images
) -> tuple[Trial, ...]:
    """The user's trials and the checks their numbers must pass; all of the budget's when none are named."""
    eps = plan.eps or 0.1
    if not trials:
        if not plan.reference and budget.carlini_wagner == SHORT:
            budget = dataclasses.replace(budget, carlini_wagner=OWN_SHORT)
        trials = default_trials(eps, samples, budget, images, variants(plan))
        trials = tuple(filled(trial, plan, samples, budget, images) for trial in trials)
        return (*trials, *adaptive(trials, plan))
    headline = Threat("linf", eps)
    trials = tuple(_as_check(trial, checks(headline, trial.samples, budget, images)) for trial in trials)
    # A check reads what was tried at the headline threat; only the unbounded attack lies elsewhere.
    # What is for some models alone checks no other.
    roles = {t.role for t in trials if not t.variants and (t.role in EXPERIMENTS or Threat.parse(t.threat) == headline)}
    most = max((t.samples for t in trials if Threat.parse(t.threat) == headline), default=samples)
    missing = [trial for trial in checks(headline, most, budget, images) if trial.role not in roles]
    for threat in headline_threats(plan.having(attacks=trials)):
        missing += _elsewhere(threat, (*trials, *missing), budget, images) if threat != headline else []
    noisy = {trial.threat for trial in trials if trial.role == "kill_noise"}
    kills = sorted((trial for trial in trials if trial.role == "kill"), key=lambda trial: trial.samples)
    for kill in {trial.threat: trial for trial in kills}.values():  # of several at a threat, the most rows
        if kill.threat not in noisy:
            missing += [
                Trial(f"noise(draws={budget.draws})", kill.threat, kill.samples, "kill_noise"),
                Trial(f"pgd(steps={budget.steps})", kill.threat, kill.samples, "kill_pgd"),
            ]
    noisy = {trial.threat for trial in trials if trial.role == "miscalibrate_noise"}
    for moved in {trial.threat: trial for trial in trials if trial.role == "miscalibrate"}.values():
        if moved.threat not in noisy:
            noise = f"noise(draws={budget.draws})"
            missing.append(Trial(noise, moved.threat, moved.samples, "miscalibrate_noise", moved.variants))
    every = (*trials, *(filled(trial, plan, samples, budget, images) for trial in missing))
    for trial in every:
        attacked = min(most, images.rows) if Threat.parse(trial.threat) == headline else _attacked(trial, every)
        if trial.role in CHECKED and trial.samples < attacked:
            raise PlanError(
                f"{trial.attack} is to check {trial.threat} on {trial.samples} images of {attacked}",
                f"Give it samples = {attacked}: images that a check never saw would count as robust.",
            )
    return (*every, *adaptive(every, plan))


def _attacked(trial: Trial, every: tuple[Trial, ...]) -> int:
    """Images of the largest attack at a trial's threat on some model that the trial is for; 0 without an eps."""
    at = Threat.parse(trial.threat)
    if at.eps is None or at.goal != "misclassify":
        return 0
    here = (
        t for t in every if Threat.parse(t.threat) == at and t.role not in EXPERIMENTS | {"noise", second_opinion.ROLE}
    )
    own = set(trial.variants)
    return max((t.samples for t in here if not own or not t.variants or own & set(t.variants)), default=0)


def _elsewhere(threat: Threat, trials: tuple[Trial, ...], budget: Budget, images: Images) -> list[Trial]:
    """The checks that are missing beside the attacks at another threat than the first, for the models they are for."""
    here = [t for t in trials if Threat.parse(t.threat) == threat]
    attacks = [t for t in here if t.role not in EXPERIMENTS | {"noise", second_opinion.ROLE}]
    if not attacks:
        return []
    names = () if any(not t.variants for t in attacks) else tuple(dict.fromkeys(v for t in attacks for v in t.variants))
    whole = str(images.whole("l2" if threat.norm == "l2" else "linf"))
    most = max(t.samples for t in attacks)
    beside = (*here, *(t for t in trials if t.role == "unbounded" and t.threat == whole and t.samples >= most))
    known = {t.role for t in beside if not t.variants or (names and set(names) <= set(t.variants))}
    missing = (t for t in checks(threat, most, budget, images) if t.role not in known)
    return [dataclasses.replace(t, variants=() if t.role == "unbounded" else names) for t in missing]


def adaptive(trials: tuple[Trial, ...], plan: Plan) -> tuple[Trial, ...]:
    """The attacks that each variant's defenses say it must face, at every threat it faces, unless they are there."""
    known, wanted = plan.having(attacks=trials), dict[tuple[str, str], list[str]]()
    for variant in variants(plan):
        for threat in headline_threats(known):
            if not rows_tested(known, variant.name, threat):
                continue
            for attack in faced(variant, threat, plan.budget):
                at = (t for t in trials if Threat.parse(t.threat) == threat and _full(t) == _full(Trial(attack)))
                if not any(not t.variants or variant.name in t.variants for t in at):
                    wanted.setdefault((attack, str(threat)), []).append(variant.name)
    return tuple(
        Trial(attack, at, max(rows_tested(known, name, Threat.parse(at)) for name in names), "adaptive", tuple(names))
        for (attack, at), names in wanted.items()
    )


def faced(variant: VariantPlan, threat: Threat, budget: str) -> tuple[str, ...]:
    """The attacks that a variant's defenses name and that work under a threat, as long as the budget's if not said."""
    named = (text for spec in variant.defenses for text in registry.build("defenses", spec).adaptive)
    found = (_within(parse(text), BUDGETS[budget]) for text in named)
    return tuple(dict.fromkeys(str(spec) for spec in found if _works(spec, threat)))


def _within(spec: Spec, budget: Budget) -> Spec:
    """An attack whose length nobody wrote takes the budget's."""
    own = {"pgd": ("steps", budget.steps), "square": ("queries", budget.queries), "noise": ("draws", budget.draws)}
    option, value = own.get(spec.name, ("", 0))
    return spec.having(**{option: value}) if option and spec.get(option) is None else spec


def _works(spec: Spec, threat: Threat) -> bool:
    """Whether an attack can run under a threat."""
    attack = registry.build("attacks", spec)
    fits = ("minimal" in attack.roles) == (threat.eps is None) or "any_eps" in attack.roles
    # What searches by score for the smallest change does so in L2 alone.
    endless = threat.eps is None and "gradient_free" in attack.roles and threat.norm != "l2"
    return threat.goal == "misclassify" and threat.norm in attack.norms and fits and not endless


def _as_check(trial: Trial, known: tuple[Trial, ...]) -> Trial:
    """A trial without a role of its own takes the role of the check it equals: it is not run under two names."""
    same = (c for c in known if c.threat == trial.threat and _full(c) == _full(trial))
    role = next((c.role for c in same), trial.role)
    return dataclasses.replace(trial, role=role) if trial.role == "attack" else trial


def _full(trial: Trial) -> Spec:
    return registry.canonical("attacks", trial.attack)
