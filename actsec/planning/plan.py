"""What to do: the plan, its TOML, and the jobs it comes to.

A plan with gaps is a request; ``budgets.resolve`` fills the gaps and changes nothing that is written, so a resolved
plan given back resolves to itself. Paths are kept as written. Job ids hash content (weights, data, specs, seed), never
paths.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from actsec import models, registry
from actsec.errors import BadOption, PlanError, SpecError, UsageError, unknown
from actsec.planning.conditions import accept_text, evidence_texts, gate_texts
from actsec.planning.toml import quoted
from actsec.search.features import FeatureRule
from actsec.spec import Spec, parse, parse_chain, parse_value
from actsec.training.recipe import Recipe
from actsec.types import Job, Threat, chain_text

SCHEMA = 4
"""Raised when a job would give other numbers for the same recipe."""


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


CHECKED = ("noise", "single_step", "iterative", "doubled", "margin", "gradient_free", "unbounded", "transfer")
"""Roles that the sanity checks read, all on the same images."""
_MOST = 1 << 20  # bytes of a plan
VARIANT = "variant:"
"""How ``transfer`` names a model of the plan as its source."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One attack under one threat on the first ``samples`` images. role ties it to the sanity checks."""

    attack: str
    threat: str = ""
    samples: int = 0
    role: str = ""
    variants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything an audit is told. Each field is a TOML key and a command-line option of the same name."""

    model: Annotated[str, "file.py:factory, package.module:factory, torchvision:NAME, reference:NAME"] = "reference:cnn"
    weights: Annotated[str | None, "safetensors file or weights-only state dict"] = None
    data: Annotated[str, "test data: digits, wine, a .npz or .csv file, an image folder or file.py:factory"] = "digits"
    train: Annotated[str | None, "training data, for defenses that train"] = None
    calibration: Annotated[str | None, "calibration data; taken from the test data where not given"] = None
    activations: Annotated[tuple[str, ...], "build the reference model with each of these"] = ()
    attacks: Annotated[tuple[Trial, ...], "attacks to run, such as pgd(steps=200)"] = ()
    defenses: Annotated[tuple[str, ...] | None, "chains of defenses, such as swap(to=silu) | temperature"] = None
    corruptions: Annotated[tuple[str, ...] | None, "measured beside the attacks, such as blur(severity=3); none"] = None
    eps: Annotated[float | None, "L-inf budget in input units, such as 8/255"] = None
    samples: Annotated[int | None, "images attacked"] = None
    per_class: Annotated[int | None, "images attacked of each class, instead of in proportion"] = None
    budget: Annotated[str, "quick, standard or thorough"] = "quick"
    second_opinion: Annotated[bool, "run ART's counterpart of each attack on a sample and report disagreements"] = False
    seed: Annotated[int, "of everything random"] = 0
    resize: Annotated[str | None, "a stated transform of image folders, such as resize=256,crop=224"] = None
    bounds: Annotated[str | None, "range of float inputs, such as 0,255; eps is in these units [0,1]"] = None
    mask: Annotated[str | None, ".npy, .npz or black-and-white picture: which pixels the adversary may change"] = None
    normalize: Annotated[str | None, "imagenet, torchvision or MEAN/STD, applied before the model"] = None
    threshold: Annotated[float | None, "two classes: say class 1 above this probability"] = None
    output: Annotated[str | None, "which field of the model's output holds the logits"] = None
    expect_accuracy: Annotated[float | None, "stop when clean accuracy does not reach this"] = None
    random_weights: Annotated[bool, "accept a torchvision model without weights"] = False
    trust_model: Annotated[bool, "open files that execute code when opened"] = False
    device: Annotated[str, "cpu, cuda or mps"] = "cpu"
    threads: Annotated[int, "threads of every worker: part of the plan, since it moves the last bit"] = 1
    memory: Annotated[int, "MiB that the activations of one model call may take"] = 2048
    shard: Annotated[int, "images in one job"] = 250
    timeout: Annotated[float | None, "seconds one job may take; a longer one has failed, alone"] = None
    gates: Annotated[tuple[str, ...], "conditions such as robust_accuracy@linf:0.1>=0.3"] = ()
    accept: Annotated[tuple[str, ...], "findings out of the gates until a day: 'ACT-D01 until 2027-03-31: why'"] = ()
    evidence: Annotated[tuple[str, ...], "for the evidence page: system=, version=, purpose=, tester=, approver="] = ()
    no_examples: Annotated[bool, "keep inputs, paths, names and secrets out of reports; RUN/share may be handed on"] = (
        False
    )
    label_column: Annotated[str | None, "tables: the column of labels, or several of 0 and 1 (a,b,c)"] = None
    label: Annotated[str | None, "tables: which of several label columns is audited"] = None
    positive: Annotated[str | None, "report the miss rate of this class, clean and attacked"] = None
    raw_units: Annotated[bool, "tables: the model takes the columns' own units, not standardised ones"] = False
    features: Annotated[tuple[FeatureRule, ...], "tables: rules such as 'AGE(step=1, min=0, direction=up)'"] = ()

    def having(self, **changes: Any) -> Plan:
        """A copy with these fields replaced."""
        return dataclasses.replace(self, **changes)

    @property
    def reference(self) -> bool:
        """Whether the models are trained in the run."""
        return self.model.startswith("reference:") and self.weights is None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the plan's names stand for: content hashes. model is the fingerprint of the loaded target, or the recipe.

    confined says that a table's rules or a mask keep rows from being turned into any other.
    """

    model: str
    test: str
    train: str | None
    calibration: str | None
    shape: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    grid: int | None = None
    rows: int = 0
    versions: str = ""
    contents: tuple[tuple[str, str], ...] = ()
    """Attacks that name a run or another model, and the same text with a content hash in the place of each name."""
    confined: bool = False
    mask: str | None = None


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
            VariantPlan(str(parse(text)), _with_activation(plan.model, text), audited=i == 0)
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
    recipe: dict[str, Any] = {"seed": plan.seed, "threads": plan.threads}
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


def tested(plan: Plan, variant: str, threat: Threat) -> int:
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


def read(path: str | Path) -> Plan:
    """A plan from a TOML file. Raises PlanError for what does not read, UnknownName for keys nobody knows."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MOST + 1)
        if len(content) > _MOST:
            raise PlanError(f"the plan {path} has more than {_MOST:,} bytes", "Give the path of a plan.")
        table = tomllib.loads(content.decode())
    except OSError as problem:
        raise PlanError(
            f"cannot read the plan {path}: {problem.strerror}", "Give the path of a TOML file."
        ) from problem
    except (ValueError, RecursionError) as problem:  # numbers of thousands of digits and deep nesting raise these
        raise PlanError(
            f"{path} is not TOML: {problem}", "See `actsec audit --print-plan` for an example."
        ) from problem
    return from_table(table)


def from_table(table: Mapping[str, Any]) -> Plan:
    """A plan from a TOML table, every key and type checked."""
    hints = typing.get_type_hints(Plan)
    values: dict[str, Any] = {}
    for key, value in _as_texts(table).items():
        if key not in hints:
            raise unknown("plan key", key, hints)
        if key == "features":
            values[key] = _features(value)
        else:
            values[key] = _trials(value) if key == "attacks" else _plan_value(key, hints[key], value)
    return Plan(**values)


def _as_texts(table: Mapping[str, Any]) -> dict[str, Any]:
    """The same with every ``[[gate]]`` and ``[[accept]]`` as the text it comes to."""
    found = dict(table)
    if (gates := found.pop("gate", None)) is not None:
        listed = found.get("gates", [])
        texts = [text for each in (gates if isinstance(gates, list) else [gates]) for text in gate_texts(each)]
        found["gates"] = [*([listed] if isinstance(listed, str) else listed), *texts]
    if (accepted := found.get("accept")) is not None:
        found["accept"] = [accept_text(each) for each in (accepted if isinstance(accepted, list) else [accepted])]
    if (stated := found.get("evidence")) is not None:
        found["evidence"] = list(evidence_texts(stated))
    return found


def override(plan: Plan, options: Mapping[str, Any]) -> Plan:
    """The plan with texts from the command line over it, each read as its field asks. Raises BadOption."""
    hints = typing.get_type_hints(Plan)
    changes: dict[str, Any] = {}
    for key, value in options.items():
        _check_text(key, value)
        if key in ("activations", "attacks", "defenses", "corruptions"):
            value = tuple(part for text in value for part in split_list(text))  # noqa: PLW2901  # the texts, one by one
        if key == "attacks":
            changes[key] = _trials(list(value))
        elif key == "evidence":
            changes[key] = evidence_texts(value)
        elif key == "features":
            changes[key] = tuple(FeatureRule.parse(text) for text in value)
        elif key in ("defenses", "corruptions") and value == ("none",):
            changes[key] = ()
        elif isinstance(value, tuple) or value is True or "str" in str(hints[key]):
            changes[key] = value
        else:
            changes[key] = _number(key, str(value), whole="float" not in str(hints[key]))
    return plan.having(**changes)


def _check_text(key: str, value: Any) -> None:
    """Refuse bytes of the command line that are no text: a plan could not be written down with them."""
    for text in value if isinstance(value, tuple) else (value,):
        if any("\ud800" <= c <= "\udfff" for c in str(text)):
            raise BadOption(f"--{key.replace('_', '-')} {text!r} is not Unicode text", "Rename the file in UTF-8.")


def split_list(text: str) -> list[str]:
    """The specs of a text such as ``relu, leaky_relu(slope=0.1)``: cut at commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _number(key: str, text: str, *, whole: bool) -> float:
    """The number of an option's text: 20, 0.1 or 8/255."""
    try:
        value = parse_value(text)
    except SpecError:
        value = None
    if type(value) is int:
        return value if whole else float(value)
    if type(value) is float and not whole:
        return value
    kind = "a whole number" if whole else "a number such as 0.1 or 8/255"
    raise BadOption(f"--{key.replace('_', '-')} {text!r} is not {kind}", f"Give {kind}.")


def box(bounds: str | None) -> tuple[float, float]:
    """The range of a plan's inputs, of texts such as ``0,255``. Raises BadOption."""
    low, comma, high = (bounds or "0,1").partition(",")
    try:
        found = float(low), float(high)
    except ValueError:
        found = (math.nan, math.nan)
    if not comma or not -math.inf < found[0] < found[1] < math.inf:
        raise BadOption(f"--bounds {bounds!r} is not a range", "Give two numbers, the smaller first: 0,255.")
    return found


def write(plan: Plan) -> str:
    """The plan as TOML. ``from_table`` gives back an equal plan."""
    lines = []
    for spec_field in dataclasses.fields(plan):
        value = getattr(plan, spec_field.name)
        if spec_field.name not in ("attacks", "features") and value is not None:
            lines.append(f"{spec_field.name} = {toml(value)}")
    for trial in plan.attacks:
        lines += ["", "[[attacks]]"]
        given = {key: value for key, value in dataclasses.asdict(trial).items() if value not in ("", 0, ())}
        lines += [f"{key} = {toml(value)}" for key, value in given.items()]
    for rule in plan.features:
        lines += ["", f"[features.{toml(rule.name)}]"]
        lines += [f"{key} = {toml(value)}" for key, value in rule.options.items()]
    return "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """A value as TOML text."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml, value))}]"
    return repr(value) if isinstance(value, float) else quoted(value)


def _features(value: Any) -> tuple[FeatureRule, ...]:
    if isinstance(value, Mapping):
        return tuple(FeatureRule.read(name, table) for name, table in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(rule if isinstance(rule, FeatureRule) else FeatureRule.parse(str(rule)) for rule in value)
    raise PlanError(f"features = {value!r}", "Write a table for each: [features.AGE] and step = 1 below it.")


def _trials(value: Any) -> tuple[Trial, ...]:
    every = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return tuple(_named_trial(item) if isinstance(item, str) else _trial(item) for item in every)


def _named_trial(text: str) -> Trial:
    """``pgd(steps=200)``, or with its threat: ``pgd(steps=200) at linf:8/255:class=3``."""
    attack, _, threat = text.partition(" at ")
    return Trial(attack.strip(), threat.strip())


def _trial(item: Any) -> Trial:
    """One table of ``[[attacks]]``, every key and type checked."""
    if not isinstance(item, Mapping) or "attack" not in item:
        raise PlanError(f"attacks: {item!r} is not an attack", "Write 'pgd(steps=200)' or a table with attack = ...")
    known = {f.name: getattr(Trial("", ""), f.name) for f in dataclasses.fields(Trial)}
    given: dict[str, Any] = {}
    for key, part in item.items():
        if key not in known:
            raise unknown("key of an attack", key, known)
        given[key] = tuple(part) if isinstance(part, list) else part
        texts = key != "variants" or all(isinstance(name, str) for name in given[key])
        if type(given[key]) is not type(known[key]) or not texts:
            kind = {str: "a text", int: "a whole number", tuple: "a list of texts"}[type(known[key])]
            raise PlanError(f"attacks: {key} = {part!r} is not {kind}", f"Give {kind}.")
    if given.get("samples", 1) < 1:
        raise PlanError(f"attacks: samples = {given['samples']}", "Give at least 1, or leave it out.")
    return Trial(**given)


def _plan_value(key: str, hint: Any, value: Any) -> Any:
    text = str(hint)
    allowed: tuple[type, ...] = ()
    if "float" in text:
        allowed += (float, int)
    if "int" in text:
        allowed += (int,)
    if "bool" in text:
        allowed += (bool,)
    if "tuple" in text:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif "str" in text:
        allowed += (str,)
    if key == "eps" and isinstance(value, str):
        return _number(key, value, whole=False)
    if type(value) not in allowed:
        raise PlanError(f"{key} = {value!r} has the wrong type", f"Give {key} as in `actsec audit --print-plan`.")
    return float(value) if "float" in text else value


def _with_activation(model: str, activation: str) -> str:
    spec = parse(model.removeprefix("reference:"))
    return f"reference:{spec.having(activation=parse(activation))}"
