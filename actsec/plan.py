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
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from actsec import models, registry
from actsec.errors import BadOption, PlanError, SpecError, unknown
from actsec.spec import Spec, parse, parse_chain, parse_value
from actsec.training.recipe import Recipe
from actsec.types import Job, Threat, chain_text

SCHEMA = 1
"""Raised when a job would give other numbers for the same recipe."""


EXPERIMENTS = frozenset({"unbounded", "curve", "noise_curve", "kill", "kill_noise", "kill_pgd"})
"""Roles of trials that belong to no headline threat: they serve a check, a curve or another question."""


CHECKED = ("noise", "single_step", "iterative", "doubled", "margin", "gradient_free", "unbounded", "transfer")
"""Roles that the sanity checks read, all on the same images."""


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
    data: Annotated[str, "test data: digits, a .npz file, an image folder or file.py:factory"] = "digits"
    train: Annotated[str | None, "training data, for defenses that train"] = None
    calibration: Annotated[str | None, "calibration data; taken from the test data where not given"] = None
    activations: Annotated[tuple[str, ...], "build the reference model with each of these"] = ()
    attacks: Annotated[tuple[Trial, ...], "attacks to run, such as pgd(steps=200)"] = ()
    defenses: Annotated[tuple[str, ...] | None, "chains of defenses, such as swap(to=silu) | temperature"] = None
    eps: Annotated[float | None, "L-inf budget in input units, such as 8/255"] = None
    samples: Annotated[int | None, "images attacked"] = None
    per_class: Annotated[int | None, "images attacked of each class, instead of in proportion"] = None
    budget: Annotated[str, "quick, standard or thorough"] = "quick"
    seed: Annotated[int, "of everything random"] = 0
    resize: Annotated[str | None, "a stated transform of image folders, such as resize=256,crop=224"] = None
    bounds: Annotated[str | None, "range of float inputs, such as 0,255; eps is in these units [0,1]"] = None
    normalize: Annotated[str | None, "imagenet, torchvision or MEAN/STD, applied before the model"] = None
    threshold: Annotated[float | None, "two classes: say class 1 above this probability"] = None
    output: Annotated[str | None, "which field of the model's output holds the logits"] = None
    expect_accuracy: Annotated[float | None, "stop when clean accuracy does not reach this"] = None
    random_weights: Annotated[bool, "accept a torchvision model without weights"] = False
    trust_model: Annotated[bool, "open files that execute code when opened"] = False
    device: Annotated[str, "cpu, cuda or mps"] = "cpu"
    threads: Annotated[int, "threads of every worker: part of the plan, since it moves the last bit"] = 1
    shard: Annotated[int, "images in one job"] = 250
    gates: Annotated[tuple[str, ...], "conditions such as robust_accuracy@linf:0.1>=0.3"] = ()

    def having(self, **changes: Any) -> Plan:
        """A copy with these fields replaced."""
        return dataclasses.replace(self, **changes)

    @property
    def reference(self) -> bool:
        """Whether the models are trained in the run."""
        return self.model.startswith("reference:") and self.weights is None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the plan's names stand for: content hashes. model is the fingerprint of the loaded target, or the recipe."""

    model: str
    test: str
    train: str | None
    calibration: str | None
    shape: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    grid: int | None = None
    rows: int = 0
    versions: str = ""


@dataclass(frozen=True, slots=True)
class VariantPlan:
    """A model of the audit: a base, and the chain of defenses in front of the verdict."""

    name: str
    base: str
    chain: tuple[Spec, ...] = ()
    audited: bool = False


def variants(plan: Plan) -> tuple[VariantPlan, ...]:
    """The models of a resolved plan: the bases, then each defense on the first, which is the audited model."""
    if plan.reference:
        bases = [
            VariantPlan(str(parse(text)), _with_activation(plan.model, text), audited=i == 0)
            for i, text in enumerate(plan.activations)
        ]
    else:
        bases = [VariantPlan("model", plan.model, audited=True)]
    first = bases[0]
    defended = [
        VariantPlan(f"{first.name} | {chain_text(chain)}", first.base, chain)
        for chain in (parse_chain(text) for text in plan.defenses or ())
    ]
    return (*bases, *defended)


def jobs(plan: Plan, facts: Facts) -> tuple[Job, ...]:
    """Every job of a resolved plan, dependencies before dependants, each once."""
    made: dict[str, Job] = {}
    for variant in variants(plan):
        prepared = model_jobs(plan, facts, variant)
        single = [single_job(kind, plan, facts, variant) for kind in ("clean", "probe")]
        tried = [job for trial in plan.attacks for job in trial_jobs(plan, facts, variant, trial)]
        for job in (*prepared, *single, *tried):
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


def trial_jobs(plan: Plan, facts: Facts, variant: VariantPlan, trial: Trial) -> tuple[Job, ...]:
    """The jobs of one trial on one variant, a shard of rows each; none when the trial is not for this variant."""
    if trial.variants and variant.name not in trial.variants:
        return ()
    model = model_jobs(plan, facts, variant)[-1].id
    recipe = {
        "model": model,
        "data": facts.test,
        "attack": str(registry.canonical("attacks", trial.attack)),
        "threat": str(Threat.parse(trial.threat)),
        "seed": plan.seed,
        "budget": plan.budget,
    }
    if plan.bounds is not None:
        recipe |= {"bounds": list(box(plan.bounds))}
    label = f"{trial.attack} at {trial.threat} on {variant.name}"
    shards = ([start, min(start + plan.shard, trial.samples)] for start in range(0, trial.samples, plan.shard))
    return tuple(_job("attack", {**recipe, "rows": rows}, (model,), label, variant.name) for rows in shards)


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
    """One hash of all that decides the result: the jobs, what each is for, and the gates. Never a path."""
    content = {
        "jobs": [job.id for job in jobs(plan, facts)],
        "variants": [variant.name for variant in variants(plan)],
        "attacks": [dataclasses.astuple(trial) for trial in plan.attacks],
        "eps": plan.eps,
        "gates": plan.gates,
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def read(path: str | Path) -> Plan:
    """A plan from a TOML file. Raises PlanError for what does not read, UnknownName for keys nobody knows."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        raise PlanError(
            f"cannot read the plan {path}: {problem.strerror}", "Give the path of a TOML file."
        ) from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise PlanError(
            f"{path} is not TOML: {problem}", "See `actsec audit --print-plan` for an example."
        ) from problem
    return from_table(table)


def from_table(table: Mapping[str, Any]) -> Plan:
    """A plan from a TOML table, every key and type checked."""
    hints = typing.get_type_hints(Plan)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            raise unknown("plan key", key, hints)
        values[key] = _trials(value) if key == "attacks" else _plan_value(key, hints[key], value)
    return Plan(**values)


def override(plan: Plan, options: Mapping[str, Any]) -> Plan:
    """The plan with texts from the command line over it, each read as its field asks. Raises BadOption."""
    hints = typing.get_type_hints(Plan)
    changes: dict[str, Any] = {}
    for key, value in options.items():
        if key in ("activations", "attacks", "defenses"):
            value = tuple(part for text in value for part in split_list(text))  # noqa: PLW2901  # the texts, one by one
        if key == "attacks":
            changes[key] = _trials(list(value))
        elif key == "defenses" and value == ("none",):
            changes[key] = ()
        elif isinstance(value, tuple) or value is True or "str" in str(hints[key]):
            changes[key] = value
        else:
            changes[key] = _number(key, str(value), whole="float" not in str(hints[key]))
    return plan.having(**changes)


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
        if spec_field.name != "attacks" and value is not None:
            lines.append(f"{spec_field.name} = {_toml(value)}")
    for trial in plan.attacks:
        lines += ["", "[[attacks]]"]
        given = {key: value for key, value in dataclasses.asdict(trial).items() if value not in ("", 0, ())}
        lines += [f"{key} = {_toml(value)}" for key, value in given.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    # A JSON text is a TOML text but for DEL, which TOML wants escaped.
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _trials(value: Any) -> tuple[Trial, ...]:
    every = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return tuple(Trial(item) if isinstance(item, str) else _trial(item) for item in every)


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
