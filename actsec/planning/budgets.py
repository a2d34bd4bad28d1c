"""What an audit does when it is not told: attacks, sample sizes and defenses for a budget.

``resolve`` fills only gaps, so a resolved plan resolves to itself. Every choice is printed before the work begins and
stands in the run folder's plan.toml.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actsec import corruptions, registry
from actsec.activations import activation
from actsec.errors import BadOption, PlanError, ThreatError, unknown
from actsec.planning.plan import (
    CHECKED,
    EXPERIMENTS,
    VARIANT,
    Plan,
    Trial,
    VariantPlan,
    headline_threats,
    tested,
    variants,
)
from actsec.running import second_opinion
from actsec.spec import Spec, parse, parse_chain, show
from actsec.types import Aim, Norm, Target, Threat, chain_text

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
CURVE = (0.25, 0.5, 1.5, 2.0)
"""The robust-accuracy curve is measured at these multiples of eps, and at eps."""


TABLE_EPS = 0.3
FEATURE_LEVELS = 33
REPEATS = {"quick": 5, "standard": 20, "thorough": 50}
"""Draws averaged for each question to a stochastic target."""

SHORT = "carlini_wagner(steps=100, search_steps=6, step_size=0.05, c=0.1)"
"""For the small models trained in the run: on 19 images of a digits CNN its median is 0.5583, the default's 0.5569."""
MOST_GUIDED = 1 << 22
"""The guided one-pixel search keeps every candidate of its grid in mind: at most so many."""
OWN_SHORT = "carlini_wagner(steps=200)"
"""For models of the user: on 22 images of a ResNet-20 its median is 0.0545, SHORT's 0.123, minimal_l2's 0.0500."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much work an audit may do, in images for each kind of attack and in passes for each image.

    samples face the headline threat, minimal the minimal-norm and dead-ReLU attacks, pixels the one-pixel search, and
    search Carlini-Wagner, whose nine rounds cost the most.
    """

    samples: int
    minimal: int
    pixels: int
    steps: int
    draws: int
    queries: int
    search: int
    pixel_forwards: int
    carlini_wagner: str = "carlini_wagner"
    cascade: str = "cascade"
    aims: tuple[Aim, ...] = ("worst", "over", "under")
    """Where attacks on calibration move the confidence."""


BUDGETS = {
    "quick": Budget(
        samples=150,
        minimal=50,
        pixels=40,
        steps=20,
        draws=20,
        queries=150,
        search=20,
        pixel_forwards=1_600,
        carlini_wagner=SHORT,
        cascade="cascade(steps=10, restarts=5, queries=50)",
        aims=("worst",),
    ),
    "standard": Budget(
        samples=1000, minimal=300, pixels=100, steps=50, draws=100, queries=1000, search=100, pixel_forwards=10_000
    ),
    "thorough": Budget(
        samples=5000,
        minimal=1000,
        pixels=300,
        steps=100,
        draws=1000,
        queries=5000,
        search=500,
        pixel_forwards=41_000,
        cascade="cascade(steps=50, targets=9, restarts=50, queries=1000)",
    ),
}


@dataclass(frozen=True, slots=True)
class Images:
    """What a budget must know of the data: shape of an input, levels of its grid minus one, rows, range of values."""

    shape: tuple[int, ...]
    grid: int | None
    rows: int
    bounds: tuple[float, float] = (0.0, 1.0)
    table: bool = False

    @property
    def eps(self) -> float:
        """The budget of a plan that names none: 8/255 of colour images, a tenth of others, 0.3 deviations of a table.

        0.3 standard deviations is about what a careless reading or a rounded entry makes, and in most tables far less
        than what tells two classes apart.
        """
        if self.table:
            return TABLE_EPS
        return self.width * (8 / 255 if self.shape[:1] == (3,) else 0.1)

    @property
    def width(self) -> float:
        """The L-inf size that nothing exceeds."""
        return _tidy(self.bounds[1] - self.bounds[0])

    def whole(self, norm: Norm) -> Threat:
        """The threat whose ball holds the whole box, in L-inf or L2."""
        far = self.width if norm == "linf" else self.width * math.sqrt(math.prod(self.shape))
        return Threat(norm, _tidy(far))


def repeats(budget: str, target: Target) -> int:
    """Answers averaged for each question to a target: those a budget has, fewer where each averages over draws."""
    return -(-REPEATS[budget] // target.draws) if target.stochastic else 1


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
    filled = plan.having(eps=eps, samples=None if plan.per_class else samples)
    filled = filled.having(activations=_activations(plan))
    filled = filled.having(corruptions=_corruptions(plan, images))
    filled = filled.having(defenses=_defenses(plan, eps, trains=trains, calibrates=calibrates))
    names = [variant.name for variant in variants(filled)]
    for name in (name for trial in plan.attacks for name in trial.variants):
        if name not in names:
            raise unknown("variant", name, names)
    trials = tuple(_filled(trial, filled, samples, budget, images) for trial in plan.attacks)
    return second_opinion.asked(filled.having(attacks=_with_checks(trials, filled, samples, budget, images)))


def _check_reference(plan: Plan) -> None:
    """Refuse options that a model trained in the run has no use for, rather than ignore them."""
    for name in ("normalize", "threshold", "output", "random_weights", "trust_model", "expect_accuracy", "raw_units"):
        value = getattr(plan, name)
        if value not in (None, False):
            raise PlanError(
                f"{name} = {value}: {plan.model} is trained in the run and takes none",
                f"Leave {name} out, or give --model.",
            )


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
    curve = [_tidy(eps * k) for k in CURVE if eps * k <= images.width]
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


def _tidy(eps: float) -> float:
    """A multiple of eps without the last digits of floating point; k/255 stays exactly that."""
    return eps if "/" in show(eps) else float(f"{eps:.9g}")


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


def _filled(trial: Trial, plan: Plan, samples: int, budget: Budget, images: Images) -> Trial:
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


def _with_checks(
    trials: tuple[Trial, ...], plan: Plan, samples: int, budget: Budget, images: Images
) -> tuple[Trial, ...]:
    """The user's trials and the checks their numbers must pass; all of the budget's when none are named."""
    eps = plan.eps or 0.1
    if not trials:
        if not plan.reference and budget.carlini_wagner == SHORT:
            budget = dataclasses.replace(budget, carlini_wagner=OWN_SHORT)
        trials = default_trials(eps, samples, budget, images, variants(plan))
        trials = tuple(_filled(trial, plan, samples, budget, images) for trial in trials)
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
    every = (*trials, *(_filled(trial, plan, samples, budget, images) for trial in missing))
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
            if not tested(known, variant.name, threat):
                continue
            for attack in faced(variant, threat, plan.budget):
                at = (t for t in trials if Threat.parse(t.threat) == threat and _full(t) == _full(Trial(attack)))
                if not any(not t.variants or variant.name in t.variants for t in at):
                    wanted.setdefault((attack, str(threat)), []).append(variant.name)
    return tuple(
        Trial(attack, at, max(tested(known, name, Threat.parse(at)) for name in names), "adaptive", tuple(names))
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
