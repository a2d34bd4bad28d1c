"""A plan completed: what was not told is chosen, by the budget and by what the data and the model are.

``resolve`` fills only gaps, so a resolved plan resolves to itself. Every choice is printed before the work begins and
stands in the run folder's plan.toml.
"""

from __future__ import annotations

import dataclasses
import math

from actsec import corruptions, registry
from actsec.activations import activation
from actsec.errors import BadOption, PlanError, unknown
from actsec.planning.budgets import BUDGETS, Images
from actsec.planning.checking import filled, with_checks
from actsec.planning.jobs import variants
from actsec.planning.plan import Plan
from actsec.running import second_opinion
from actsec.spec import Spec, parse, parse_chain
from actsec.types import Threat, chain_text

DEMO_ACTIVATIONS = ("relu", "leaky_relu", "gelu", "tanh")
DEMO_DEFENSES = (
    "temperature",
    "swap(to=leaky_relu)",
    "swap(to=leaky_relu, finetune=3)",
    "training_noise",
    "noisy_inference(std=0.1)",
    "fast_training",
    "adversarial_training(inner=pgd(steps=5), epochs=10)",
)
OWN_DEFENSES = ("temperature", "swap(to=leaky_relu)", "swap(to=leaky_relu, recalibrate=true)")


def resolve(plan: Plan, images: Images, *, trains: bool, calibrates: bool) -> Plan:
    """The plan with every gap filled, all names checked. Raises UnknownName, BadOption, PlanError, ThreatError."""
    if plan.budget not in BUDGETS:
        raise unknown("budget", plan.budget, BUDGETS)
    budget = BUDGETS[plan.budget]
    if plan.per_class is not None and plan.samples is not None:
        raise PlanError("samples and per_class are both given", "Give one of them.")
    for name in ("samples", "per_class", "threads", "memory", "shard"):
        value = getattr(plan, name)
        if value is not None and value < 1:
            raise BadOption(f"{name} = {value}", f"Give {name} of at least 1.")
    if plan.timeout is not None and not 0 < plan.timeout < math.inf:
        raise BadOption(f"timeout = {plan.timeout:g}", "Give seconds above 0, or leave it out for no limit.")
    if not 0 <= plan.seed < 1 << 63:
        raise BadOption(f"seed = {plan.seed}", "Give a seed of at least 0, below 2**63.")
    if plan.reference:
        _check_reference(plan)
    eps = plan.eps if plan.eps is not None else images.eps
    Threat("linf", eps)
    samples = min(images.rows, plan.samples or (images.rows if plan.per_class else budget.samples))
    given = plan.having(eps=eps, samples=None if plan.per_class else samples)
    given = given.having(activations=_activations(plan))
    given = given.having(corruptions=_corruptions(plan, images))
    given = given.having(defenses=_defenses(plan, eps, trains=trains, calibrates=calibrates))
    names = [variant.name for variant in variants(given)]
    for name in (name for trial in plan.attacks for name in trial.variants):
        if name not in names:
            raise unknown("variant", name, names)
    trials = tuple(filled(trial, given, samples, budget, images) for trial in plan.attacks)
    return second_opinion.asked(given.having(attacks=with_checks(trials, given, samples, budget, images)))


def _check_reference(plan: Plan) -> None:
    """Refuse options that a model trained in the run has no use for, rather than ignore them."""
    for name in ("normalize", "threshold", "output", "random_weights", "trust_model", "expect_accuracy", "raw_units"):
        value = getattr(plan, name)
        if value not in (None, False):
            raise PlanError(
                f"{name} = {value}: {plan.model} is trained in the run and takes none",
                f"Leave {name} out, or give --model.",
            )


def _corruptions(plan: Plan, images: Images) -> tuple[str, ...]:
    """The corruptions that the user named, each with its severity; of images all kinds that suit their channels."""
    if plan.corruptions is None:
        if images.table:
            return ()
        severities = (3,) if plan.budget == "quick" else corruptions.SHOWN
        fit = [kind for kind in corruptions.KINDS if not corruptions.unfit(kind, images.shape)]
        return tuple(f"{kind}(severity={severity})" for kind in fit for severity in severities)
    chosen = [pair for text in plan.corruptions for pair in corruptions.parsed(text)]
    for kind, _ in chosen:
        if reason := corruptions.unfit(kind, images.shape):
            raise PlanError(f"{kind}: {reason}", "Leave it out, or give corruptions = [].")
    return tuple(dict.fromkeys(f"{kind}(severity={severity})" for kind, severity in chosen))


def _activations(plan: Plan) -> tuple[str, ...]:
    if not plan.reference:
        if plan.activations:
            raise PlanError(
                f"activations {', '.join(plan.activations)}: only reference models are built with any activation",
                "Use --defenses 'swap(to=gelu)' on your own model.",
            )
        return ()
    given = parse(plan.model.removeprefix("reference:")).get("activation")
    chosen = plan.activations or ((str(given),) if given is not None else DEMO_ACTIVATIONS)
    for text in chosen:
        activation(text)
    return tuple(dict.fromkeys(str(parse(text)) for text in chosen))


def _defenses(plan: Plan, eps: float, *, trains: bool, calibrates: bool) -> tuple[str, ...]:
    """The chains the user named, or all that make sense and have the data they need."""
    given = {"nothing": True, "train": trains, "calibration": calibrates}
    named = (DEMO_DEFENSES if plan.reference else OWN_DEFENSES) if plan.defenses is None else plan.defenses
    chains = []
    for text in named:
        chain = tuple(_with_eps(spec, eps) for spec in parse_chain(text))
        lacking = [(spec, needs) for spec in chain if not given[needs := registry.build("defenses", spec).needs]]
        if not lacking:
            chains.append(chain_text(chain))
        elif plan.defenses is not None:
            spec, needs = lacking[0]
            raise PlanError(f"{spec.name} needs {needs} data", f"Give --{needs} data.npz.")
    return tuple(dict.fromkeys(chains))


def _with_eps(spec: Spec, eps: float) -> Spec:
    """A defense that trains against a budget trains against the audited one, unless it is told otherwise."""
    defense = registry.find("defenses", spec.name)
    options, trains = {field.name for field in dataclasses.fields(defense)}, getattr(defense, "trains_against", None)
    if "eps" not in options or spec.get("eps") is not None or (trains is not None and not trains(spec)):
        return spec
    return spec.having(eps=eps)
