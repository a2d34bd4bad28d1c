"""The importable audit: attack, defend, diagnose and audit a target.

    target = actsec.load("nets.py:make", weights="w.safetensors", input_shape=(3, 32, 32))
    outcome = actsec.attack(target, x, y, "fgsm", eps=8/255)
    hardened = actsec.defend(target, "temperature", calibration=(x, y))
    run = actsec.audit(target, (x, y), train=(x_train, y_train))

Images are numpy arrays or tensors (n, *shape) in input units, labels (n,) whole numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from actsec import health, losses, probe, registry, runner, scene, surrogates, tasks
from actsec import target as targets
from actsec.data import Dataset, Splits, from_arrays
from actsec.data.sets import row_ids
from actsec.errors import BadOption, DataError, ThreatError
from actsec.features import Table
from actsec.ledger import ALREADY_WRONG, FOUND, Verdicts
from actsec.plan import from_table
from actsec.referee import attack_target, cases_of
from actsec.result import Result, Share
from actsec.spec import Spec, parse, parse_chain
from actsec.tables import constrained
from actsec.types import Ask, Attack, Defense, Fitted, Material, Reply, Split, Target, Threat
from actsec.verdict import statistics

Array = NDArray[Any]
Images = Tensor | Array
Data = tuple[Images, Images]


@dataclass(frozen=True, slots=True)
class Attacked:
    """What one attack achieved on n examples.

    x (n, *shape) float32: the attacked inputs; success (n,) bool: right before, wrong after; size (n,) float64:
    distance in the threat's norm; still_correct: the share classified correctly after this attack alone, an upper bound
    on robust accuracy; verdicts: the referee's full record; sentence: the same in words.
    """

    x: Array
    success: Array
    size: Array
    correct_before: int
    still_correct: Share
    verdicts: Verdicts
    sentence: str


def attack(
    target: Target,
    x: Images,
    y: Images,
    attack: str | Spec | Attack[Any],  # the word for it
    *,
    eps: float | None = None,
    threat: str | Threat | None = None,
    target_class: int | Images | None = None,
    seed: int = 0,
    id: Images | None = None,
    table: Table | None = None,
    source: Target | None = None,
    note: Callable[[Tensor, Ask, Reply], None] | None = None,
) -> Attacked:
    """Run one attack on examples x (n, *shape) in input units and labels y (n,).

    attack is a spec such as ``pgd(steps=200)`` or an attack object; threat such as ``linf:8/255`` or ``l2`` overrides
    eps, whose norm is the attack's first; target_class, one for all or one a row, asks for that very class; source is
    the surrogate that ``transfer`` crafts on; note sees every question, with the rows it is about, and its reply. Every
    success is judged by the target's own rule on a fresh float32 forward; the model is bit-equal afterwards. Raises
    ThreatError when the attack cannot run under the threat.

    table, the ``table`` of a data set whose rows x are, says what may change in each: bounds, steps, groups.
    """
    made, name = _attack(attack)
    under = _threat(made, name, eps, threat)
    xs, ys = _tensor(x, target.device, torch.float32), _tensor(y, target.device, torch.int64)
    _check(target, xs, ys)
    given = row_ids(xs.cpu().numpy()) if id is None and "by_content" in dir(made) else id
    given = given.view(np.int64) if isinstance(given, np.ndarray) else given
    rows = None if given is None else _tensor(given, xs.device)
    if under.goal == "kill" and (reason := health.kill_profile(target, xs[:2], xs[:2]).reason):
        raise ThreatError(f"{name}: {reason}", "Attack a model whose activations can die, such as relu.")
    repeats = tasks.REPEATS["standard"] if target.stochastic else 1
    cases = constrained(cases_of(target, xs, ys, under.norm, under.eps, rows), table)
    if target_class is not None:
        wanted = target_class if isinstance(target_class, int) else _tensor(target_class, target.device, torch.int64)
        cases = dataclasses.replace(cases, target=torch.zeros_like(ys) + wanted)
    flat = tasks.Flat(cases, note)
    surrogate = _surrogate(made, target) if source is None else source
    verdicts = attack_target(
        surrogates.ready(made, cases, surrogate, (), seed),
        target,
        cases,
        losses.goal_of(under, made),
        seed=seed,
        name=f"{name}@{under}",  # as an audit does, so that the same attack draws the same numbers
        repeats=repeats,
        note=flat,
    )
    status = verdicts.status.cpu().numpy()
    before = int(np.sum(status != ALREADY_WRONG))
    wrong = verdicts.wrong.cpu().numpy().astype(np.float64)
    if not target.stochastic:
        wrong[(status != FOUND) & (status != ALREADY_WRONG)] = 0.0
    still = statistics.share(round(float(np.sum(1 - wrong))), len(status))
    success = status == FOUND
    return Attacked(
        verdicts.x.cpu().numpy(),
        success,
        verdicts.size.cpu().numpy(),
        before,
        still,
        verdicts,
        _sentence(_brief(made, name), under, len(status), before, still, verdicts) + flat.said("; "),
    )


def _surrogate(made: Any, target: Target) -> Target | None:
    """The model that ``transfer`` names as its source, loaded to take the target's inputs; None for other attacks."""
    if getattr(made, "source", "base") == "base":
        return None
    return targets.load(
        made.source,
        weights=made.weights,
        normalize=made.normalize,
        classes=target.classes,
        input_shape=target.shape,
        bounds=target.bounds,
        device=target.device,
    )


def _check(target: Target, x: Tensor, y: Tensor) -> None:
    """Refuse inputs outside the target's box, where no candidate would be admissible, and labels that do not fit."""
    low, high = target.bounds
    if len(x) != len(y) or not len(x):
        raise DataError(f"{len(x)} inputs with {len(y)} labels", "Give one label for each input, and at least one.")
    if not bool(((x >= low) & (x <= high)).all()):
        least, most = float(x.min()), float(x.max())
        raise DataError(
            f"inputs lie in [{least:g}, {most:g}], outside the target's [{low:g}, {high:g}]",
            "Scale them, or load the target with the bounds its inputs have.",
        )
    if not 0 <= int(y.min()) <= int(y.max()) < len(target.classes):
        raise DataError(
            f"labels run from {int(y.min())} to {int(y.max())}, the target has {len(target.classes)} classes",
            "Labels count from 0.",
        )


def _brief(made: Attack[Any], name: str) -> str:
    """The attack without the options at their defaults."""
    fields = dataclasses.fields(made)  # type: ignore[arg-type]  # a dataclass
    changed = tuple((f.name, getattr(made, f.name)) for f in fields if getattr(made, f.name) != f.default)
    return str(Spec(parse(name).name, changed))


def _sentence(name: str, threat: Threat, n: int, before: int, still: Share, verdicts: Verdicts) -> str:
    if threat.goal == "kill":
        rise = float(verdicts.score.mean())
        return f"{name} at {threat}: {n} tested, dead share of units {rise:+.3f} net (killed minus revived)"
    text = f"{name} at {threat}: {n} tested, {before} correct before, {still.k} still correct after"
    if threat.eps is None and before:
        size = torch.where(verdicts.status == FOUND, verdicts.size, torch.inf)[verdicts.status != ALREADY_WRONG]
        median = float(size.median())
        text += f"; half of them fall to a change of {threat.norm} size {median:.4g} or less"
    return text


def defend(
    target: Target,
    defense: str | Spec | Defense,
    *,
    calibration: Data | None = None,
    train: Data | None = None,
    seed: int = 0,
) -> Target:
    """The target behind a chain of defenses such as ``swap(to=silu, finetune=3) | temperature``, fitted.

    The given target is untouched. Raises BadOption when a defense needs data that was not given.
    """
    return fitted(target, defense, calibration=calibration, train=train, seed=seed)[0]


def fitted(
    target: Target,
    defense: str | Spec | Defense,
    *,
    calibration: Data | None = None,
    train: Data | None = None,
    seed: int = 0,
) -> tuple[Target, tuple[Fitted, ...]]:
    """What ``defend`` returns, and what fitting each defense of the chain found: a temperature, losses, costs."""
    chain: list[Defense] = (
        [registry.build("defenses", spec) for spec in parse_chain(str(defense))]
        if isinstance(defense, (str, Spec))
        else [defense]
    )
    splits = _split(calibration, target.device), _split(train, target.device)
    material = Material(*splits, seed, tasks.perturb, lambda *_: None)
    fits = []
    for each in chain:
        if each.needs != "nothing" and getattr(material, each.needs) is None:
            raise BadOption(f"{type(each).__name__} needs {each.needs} data", f"Give {each.needs}=(x, y).")
        target = each.wrap(target)
        fits.append(each.fit(target, material))
    return target, tuple(fits)


def diagnose(target: Target, x: Images, y: Images, *, eps: float = 0.1, seed: int = 0) -> Mapping[str, Any]:
    """Activation health and direct probes on clean examples, no attack: {"sites": [...], "probe": {...}}."""
    xs, ys = _tensor(x, target.device, torch.float32), _tensor(y, target.device, torch.int64)
    return {
        "sites": health.site_health(target, xs, ys),
        "probe": probe.probe(target, xs[: tasks.PROBE_ROWS], ys[: tasks.PROBE_ROWS], eps, "linf", seed),
    }


@dataclass(frozen=True, slots=True)
class Run:
    """A finished audit: its result and its folder."""

    result: Result
    folder: Path

    def report(self, path: str | Path, format: str = "html") -> Path:  # the option's name everywhere
        """Render the report into a file."""
        from actsec.reports.load import read, write

        write(read(self.folder), Path(path), format)
        return Path(path)


def audit(
    model: str | Target | nn.Module,
    data: str | Data | Dataset | Splits = "digits",
    *,
    train: str | Data | Dataset | None = None,
    calibration: str | Data | Dataset | None = None,
    out: str | Path | None = None,
    executor: str = "serial",
    **options: Any,
) -> Run:
    """Audit a model as ``actsec audit`` does; options are the other fields of plan.Plan, by name.

    model and data are what the command line takes, or objects: a Target, a module, arrays (x, y), a Dataset. Objects
    stay in this process (executor ``serial``); the same call with the same out goes on where it stopped. A module is
    audited in eval mode and left as it was. Raises UsageError, NoVerdict, Unsafe, Interrupted.
    """
    splits = _splits(model, data, train, calibration)
    target = None if isinstance(model, str) else _target(model, splits)
    plan = from_table(
        {
            "model": model if isinstance(model, str) else f"{scene.OBJECT}{_name(model)}",
            "data": data if isinstance(data, str) else f"{scene.OBJECT}{splits.test.name if splits else ''}",
            **{key: value for key, value in (("train", train), ("calibration", calibration)) if isinstance(value, str)},
            **{key: list(value) if isinstance(value, tuple) else value for key, value in options.items()},
        }
    )
    result, store = runner.audit(plan, out, executor=executor, given=scene.Given(target, splits))
    return Run(result, store.root)


def _splits(
    model: str | Target | nn.Module,
    test: str | Data | Dataset | Splits,
    train: str | Data | Dataset | None,
    calibration: str | Data | Dataset | None,
) -> Splits | None:
    """The data given as objects; None when all of it is named."""
    others = [value for value in (train, calibration) if value is not None]
    if isinstance(test, str):
        if not all(isinstance(value, str) for value in others):
            raise BadOption(f"data={test!r} is a name, train or calibration is not", "Give all as names or as arrays.")
        return None
    if isinstance(test, Splits):
        return test
    classes, bounds = (model.classes or None, model.bounds) if isinstance(model, Target) else (None, None)

    def made(value: Data | Dataset | str | None, name: str) -> Dataset | None:
        if value is None or isinstance(value, Dataset):
            return value
        if isinstance(value, str):
            raise BadOption(f"{name}={value!r} is a name, the test data is not", "Give all as names or as arrays.")
        x, y = (part.detach().cpu().numpy() if isinstance(part, Tensor) else part for part in value)
        return from_arrays(x, y, name=name, classes=classes, bounds=bounds)

    first = made(test, "test")
    assert first is not None  # noqa: S101  # test is never None here
    return Splits(first, made(train, "train"), made(calibration, "calibration"))


def _target(model: Target | nn.Module, splits: Splits | None) -> Target:
    if isinstance(model, Target):
        return model
    test = splits.test if splits else None
    counted = test is None or test.classes == tuple(map(str, range(len(test.classes))))
    return targets.load(model, classes=None if counted or test is None else test.classes)


def _name(model: Target | nn.Module) -> str:
    return model.name if isinstance(model, Target) else type(model).__name__


def _attack(attack: str | Spec | Attack[Any]) -> tuple[Attack[Any], str]:
    if isinstance(attack, (str, Spec)):
        spec = parse(attack) if isinstance(attack, str) else attack
        return registry.build("attacks", spec), str(registry.canonical("attacks", spec))
    options = {f.name: getattr(attack, f.name) for f in dataclasses.fields(attack)}  # type: ignore[arg-type]  # a dataclass
    return attack, str(Spec(type(attack).__module__.rpartition(".")[2], tuple(options.items())))


def _threat(made: Attack[Any], name: str, eps: float | None, threat: str | Threat | None) -> Threat:
    if threat is None:
        minimal = "minimal" in made.roles or bool(getattr(made, "sizes", ()))
        if not minimal and eps is None:
            raise ThreatError(f"{name} needs an eps", "Give eps=8/255, or threat='l2:0.5'.")
        goal = getattr(made, "goal", "misclassify")
        if isinstance(eps, str):
            raise ThreatError(f"eps {eps!r} is a text", f"Give a number, or threat='{made.norms[0]}:{eps}'.")
        threat = Threat(made.norms[0], None if minimal else eps, goal)
    under = Threat.parse(threat) if isinstance(threat, str) else threat
    if under.norm not in made.norms:
        raise ThreatError(f"{name} works in {', '.join(made.norms)}, not in {under.norm}", "Use a norm of its own.")
    return under


def _tensor(value: Images, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
    return tensor.to(device=device, dtype=dtype or tensor.dtype)


def _split(data: Data | None, device: torch.device) -> Split | None:
    if data is None:
        return None
    x, y = _tensor(data[0], device, torch.float32), _tensor(data[1], device, torch.int64)
    return Split(x, y, torch.arange(len(y), device=device))
