"""The jobs a plan comes to, and the hash of what makes each."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from actsec import models, registry
from actsec.errors import UsageError
from actsec.planning.plan import SCHEMA, Facts, Plan, Trial
from actsec.planning.reading import box, with_activation
from actsec.spec import Spec, parse, parse_chain
from actsec.training.recipe import Recipe
from actsec.types import Job, Threat, chain_text

EXPERIMENTS = frozenset(
    {"unbounded", "curve", "noise_curve", "kill", "kill_noise", "kill_pgd", "miscalibrate", "miscalibrate_noise"}
)
"""Roles of trials that belong to no headline threat: they serve a check, a curve or another question."""
CERTIFIED = {"quick": (100, 1_000), "standard": (200, 10_000), "thorough": (500, 100_000)}
"""Images certified in L2 behind randomised smoothing, and noisy copies of each, by budget."""
CERTIFIED_AT = (0.25, 0.5, 1.0, 1.5, 2.0)
"""The radii they are certified and attacked at, in standard deviations of the noise."""
CERTIFIED_SHARD = 25
CERTIFIED_BY: Mapping[str, Any] = {"n0": 100, "alpha": 0.001, "attack": "pgd(steps=20)"}
"""Copies that name the class, the probability of error of a certificate, and the attack beside it."""
VARIANT = "variant:"
"""How ``transfer`` names a model of the plan as its source."""


@dataclass(frozen=True, slots=True)
class VariantPlan:
    """A model of the audit: a base, and the chain of defenses in front of the verdict."""

    name: str
    base: str
    chain: tuple[Spec, ...] = ()
    audited: bool = False
    inside: tuple[Spec, ...] = ()
    """The defenses that the base has in it already, where it is the folder of a hardened model."""

    @property
    def defenses(self) -> tuple[Spec, ...]:
        """Every defense in front of the verdict, in order."""
        return (*self.inside, *self.chain)


_LAST: list[tuple[Plan, tuple[VariantPlan, ...]]] = []
"""The last plan whose models were asked for: every one of its jobs asks, and reading them all each time adds up."""


def variants(plan: Plan) -> tuple[VariantPlan, ...]:
    """The models of a resolved plan: the bases, then each defense on the first, which is the audited model."""
    known = _LAST[0] if _LAST else None
    if known is None or known[0] is not plan:
        known = plan, _variants(plan)
        _LAST[:] = [known]
    return known[1]


def _variants(plan: Plan) -> tuple[VariantPlan, ...]:
    if plan.reference:
        bases = [
            VariantPlan(str(parse(text)), with_activation(plan.model, text), audited=i == 0)
            for i, text in enumerate(plan.activations)
        ]
    else:
        bases = [VariantPlan("model", plan.model, audited=True, inside=_inside(plan))]
    first = bases[0]
    defended = [
        VariantPlan(f"{first.name} | {chain_text(chain)}", first.base, chain, inside=first.inside)
        for chain in (parse_chain(text) for text in plan.defenses or ())
    ]
    return (*bases, *defended)


def _inside(plan: Plan) -> tuple[Spec, ...]:
    """The chain that the recipe of a hardened model names; what is wrong with a recipe is told when it is loaded."""
    for place in (plan.model, plan.weights):
        recipe = Path(place or "").expanduser() / "recipe.toml"
        with suppress(OSError, ValueError, KeyError, UsageError):
            if place and recipe.is_file():
                return parse_chain(str(tomllib.loads(recipe.read_text(encoding="utf-8"))["chain"]))
    return ()


BRACKETED = 40
"""Images on which an attack on units stands beside certificates."""


def jobs(plan: Plan, facts: Facts) -> tuple[Job, ...]:
    """Every job of a resolved plan, dependencies before dependants, each once."""
    made: dict[str, Job] = {}
    for variant in variants(plan):
        prepared = model_jobs(plan, facts, variant)
        single = [single_job(kind, plan, facts, variant) for kind in ("clean", "probe")]
        trials = [trial for trial in plan.attacks if not trial.variants or variant.name in trial.variants]
        sources = [job for trial in trials for job in _from_source(plan, facts, trial)]
        tried = [job for trial in trials for job in trial_jobs(plan, facts, variant, trial)]
        beside = (*corruption_jobs(plan, facts, variant), *nonsense_jobs(plan, facts, variant))
        beside = (*beside, *certificate_jobs(plan, facts, variant))
        for job in (*prepared, *single, *beside, *sources, *tried):
            made.setdefault(job.id, job)
    # last, for they rest on attacks and on models of other variants
    for job in (job for v in variants(plan) for trial in plan.attacks for job in bracket_jobs(plan, facts, v, trial)):
        made.setdefault(job.id, job)
    return tuple(made.values())


def model_jobs(plan: Plan, facts: Facts, variant: VariantPlan) -> tuple[Job, ...]:
    """The jobs that make the variant's weights, the last of which leaves them: the base, then its chain of defenses."""
    recipe: dict[str, Any] = {"seed": plan.seed, "threads": plan.threads, "memory": plan.memory}
    recipe |= {"device": plan.device, "versions": facts.versions}
    if plan.reference:
        # The architecture alone, so that plans share a base whatever else they build.
        recipe |= {"base": str(models.canonical(variant.base)), "train": facts.train}
        recipe |= {"recipe": dataclasses.asdict(Recipe(seed=plan.seed))}
    else:
        recipe |= {"model": facts.model}
    first = variants(plan)[0].name
    base = _job("base", recipe, (), f"prepare {variant.base}", first if variant.chain else variant.name)
    if not variant.chain:
        return (base,)
    recipe = {
        "model": base.id,
        "chain": chain_text([registry.canonical("defenses", spec) for spec in variant.chain]),
        "train": facts.train,
        "calibration": facts.calibration,
        "seed": plan.seed,
    }
    return base, _job("defend", recipe, (base.id,), f"defend {variant.name}", variant.name)


def single_job(kind: Literal["clean", "probe"], plan: Plan, facts: Facts, variant: VariantPlan) -> Job:
    """The job that measures a variant on untouched data (clean), or directly (probe)."""
    model = model_jobs(plan, facts, variant)[-1].id
    recipe: dict[str, Any] = {"model": model, "data": facts.test, "seed": plan.seed, "budget": plan.budget}
    recipe |= {"eps": plan.eps} if kind == "probe" else {"calibration": facts.calibration}
    return _job(kind, recipe, (model,), f"{kind} {variant.name}", variant.name)


def nonsense_jobs(plan: Plan, facts: Facts, variant: VariantPlan) -> tuple[Job, ...]:
    """The jobs that ask how sure a variant is of nonsense, and how little a blank must change to fool it; of images."""
    if len(facts.shape) != 3:
        return ()
    model = model_jobs(plan, facts, variant)[-1].id
    recipe = {"model": model, "data": facts.test, "seed": plan.seed, "budget": plan.budget}
    return tuple(_job(kind, recipe, (model,), f"{kind} {variant.name}", variant.name) for kind in ("nonsense", "fool"))


def corruption_jobs(plan: Plan, facts: Facts, variant: VariantPlan) -> tuple[Job, ...]:
    """The jobs that measure an undefended model on corrupted images, as many as are attacked; a shard of rows each."""
    if variant.chain or not plan.corruptions:
        return ()
    model, most = model_jobs(plan, facts, variant)[-1].id, max((trial.samples for trial in plan.attacks), default=0)
    recipe = {"model": model, "data": facts.test, "corruptions": list(plan.corruptions), "seed": plan.seed}
    recipe |= {"budget": plan.budget}
    shards = ([start, min(start + plan.shard, most)] for start in range(0, most, plan.shard))
    label = f"corruptions of {variant.name}"
    return tuple(_job("corrupt", {**recipe, "rows": rows}, (model,), label, variant.name) for rows in shards)


def certificate_jobs(plan: Plan, facts: Facts, variant: VariantPlan) -> tuple[Job, ...]:
    """The jobs that certify a smoothed variant in L2 and attack it at the same radii; a shard of rows each."""
    smoothed = [s for s in variant.chain if getattr(registry.find("defenses", s.name), "certifies", False)]
    if not smoothed:
        return ()
    images, draws = CERTIFIED[plan.budget]
    most = min(images, max((trial.samples for trial in plan.attacks), default=0))
    std = float(registry.build("defenses", smoothed[-1]).std)
    named = [threat.eps for threat in headline_threats(plan) if threat.norm == "l2" and threat.eps is not None]
    model = model_jobs(plan, facts, variant)[-1].id
    recipe = {"model": model, "data": facts.test, "seed": plan.seed, "n": draws, **CERTIFIED_BY}
    recipe |= {"radii": sorted({*named, *(float(f"{std * k:.9g}") for k in CERTIFIED_AT)})}
    shards = ([start, min(start + CERTIFIED_SHARD, most)] for start in range(0, most, CERTIFIED_SHARD))
    label = f"certify {variant.name}"
    return tuple(_job("certify", {**recipe, "rows": rows}, (model,), label, variant.name) for rows in shards)


def bracket_jobs(plan: Plan, facts: Facts, variant: VariantPlan, trial: Trial) -> tuple[Job, ...]:
    """The job that holds an attack on units of an undefended model beside certificates, on its first images.

    The audited model's inputs are carried to the models with other activations too. None for other trials.
    """
    if variant.chain or trial.role != "kill":
        return ()
    rows = min(trial.samples, BRACKETED)
    attacked = tuple(j.id for j in trial_jobs(plan, facts, variant, trial) if j.recipe["rows"][0] < rows)
    if not attacked:
        return ()
    model = model_jobs(plan, facts, variant)[-1].id
    twins = {v.name: model_jobs(plan, facts, v)[-1].id for v in swapped(plan) if variant.audited}
    recipe: dict[str, Any] = {"model": model, "data": facts.test, "rows": [0, rows]}
    recipe |= {"threat": str(Threat.parse(trial.threat))}
    recipe |= {"attacked": list(attacked), "twins": twins}
    if facts.mask is not None:
        recipe |= {"mask": facts.mask}
    label = f"bracket {trial.attack} at {trial.threat} on {variant.name}"
    return (_job("bracket", recipe, (model, *attacked, *twins.values()), label, variant.name),)


def swapped(plan: Plan) -> tuple[VariantPlan, ...]:
    """The models of the plan that are the audited one with other activations: trained so, or by a chain of swaps."""
    return tuple(v for v in variants(plan)[1:] if all(spec.name == "swap" for spec in v.chain))


def trial_jobs(plan: Plan, facts: Facts, variant: VariantPlan, trial: Trial) -> tuple[Job, ...]:
    """The jobs of one trial on one variant, a shard of rows each; none when the trial is not for this variant."""
    if trial.variants and variant.name not in trial.variants:
        return ()
    return _attack_jobs("attack", plan, facts, variant, trial)


def _attack_jobs(
    kind: Literal["attack", "craft"], plan: Plan, facts: Facts, variant: VariantPlan, trial: Trial
) -> tuple[Job, ...]:
    model = model_jobs(plan, facts, variant)[-1].id
    recipe = {
        "model": model,
        "data": facts.test,
        "attack": by_content(trial.attack, facts),
        "threat": str(Threat.parse(trial.threat)),
        "seed": plan.seed,
        "budget": plan.budget,
    }
    if plan.bounds is not None:
        recipe |= {"bounds": list(box(plan.bounds))}
    if facts.mask is not None:
        recipe |= {"mask": facts.mask}
    label = f"{trial.attack} at {trial.threat} on {variant.name}"
    sources = source_jobs(plan, facts, trial)
    made = []
    for start in range(0, trial.samples, plan.shard):
        rows = [start, min(start + plan.shard, trial.samples)]
        from_here = tuple(job.id for job in sources if job.recipe["rows"][0] == start)
        told = {"sources": list(from_here)} if from_here else {}
        made.append(_job(kind, {**recipe, "rows": rows, **told}, (model, *from_here), label, variant.name))
    return tuple(made)


def source_jobs(plan: Plan, facts: Facts, trial: Trial) -> tuple[Job, ...]:
    """The jobs on the first model whose examples a ``transfer`` from it proposes; none for other attacks.

    Those of the plan's own trials at the same threat, or one that runs the attack it names. A source ``variant:NAME``
    is that model of the plan.
    """
    attack = registry.build("attacks", trial.attack)
    base = _source(plan, attack.source) if "transfer" in attack.roles else None
    if base is None:
        return ()
    if attack.attack is not None:
        crafted = dataclasses.replace(trial, attack=str(attack.attack), variants=())
        return _attack_jobs("craft", plan, facts, base, crafted)
    at, others = Threat.parse(trial.threat), {*EXPERIMENTS, "noise", "transfer"}
    same = (t for t in plan.attacks if Threat.parse(t.threat) == at and t.role not in others)
    return tuple(job for t in same for job in trial_jobs(plan, facts, base, t))


def _from_source(plan: Plan, facts: Facts, trial: Trial) -> tuple[Job, ...]:
    """``source_jobs`` after the jobs that make their model."""
    made = source_jobs(plan, facts, trial)
    owners = {job.variant for job in made}
    models = (job for v in variants(plan) if v.name in owners for job in model_jobs(plan, facts, v))
    return (*models, *made)


def _source(plan: Plan, source: str) -> VariantPlan | None:
    """The model of the plan that ``transfer`` crafts on; None where it names one from elsewhere."""
    every = variants(plan)
    if source == "base":
        return every[0]
    return next((v for v in every if f"{VARIANT}{v.name}" == source), None)


def by_content(attack: str, facts: Facts) -> str:
    """The attack with every option written out, and what it names outside the plan by its content."""
    text = str(registry.canonical("attacks", attack))
    return dict(facts.contents).get(text, text)


def _job(kind: str, recipe: dict[str, Any], needs: tuple[str, ...], label: str, variant: str) -> Job:
    content = json.dumps({"schema": SCHEMA, "kind": kind, **recipe}, sort_keys=True, allow_nan=False)
    return Job(hashlib.sha256(content.encode()).hexdigest()[:24], kind, recipe, needs, label, variant)


def headline_threats(plan: Plan) -> tuple[Threat, ...]:
    """The threats a variant is judged under, in the order of the plan; the one at the plan's eps first."""
    found = dict.fromkeys(Threat.parse(t.threat) for t in plan.attacks if t.role not in EXPERIMENTS)
    return tuple(sorted(found, key=lambda threat: threat != Threat("linf", plan.eps)))


def rows_tested(plan: Plan, variant: str, threat: Threat) -> int:
    """How many images a variant is judged on under a threat: as many as the largest attack at it had.

    Noise is no attack: images that only noise was tried on are not tested.
    """
    here = [t for t in plan.attacks if Threat.parse(t.threat) == threat and t.role not in EXPERIMENTS | {"noise"}]
    return max((t.samples for t in here if not t.variants or variant in t.variants), default=0)


def plan_id(plan: Plan, facts: Facts) -> str:
    """One hash of all that is measured: the jobs and what each is for. Never a path.

    Gates and the class whose misses are counted ask about what was measured and change none of it.
    """
    content = {
        "jobs": [job.id for job in jobs(plan, facts)],
        "variants": [variant.name for variant in variants(plan)],
        "attacks": [
            dataclasses.astuple(t) if not facts.contents else (by_content(t.attack, facts), *dataclasses.astuple(t)[1:])
            for t in plan.attacks
        ],
        "eps": plan.eps,
    }
    if plan.accept:
        content["accept"] = plan.accept
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
