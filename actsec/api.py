"""The importable audit: attack, defend, diagnose and audit a Target or a model.

    target = actsec.load("nets.py:make", weights="w.safetensors")
    outcome = actsec.attack(target, x, y, "fgsm", eps=8/255)
    hardened = actsec.defend(target, "temperature", calibration=(x, y))
    run = actsec.audit("reference:cnn", out="runs/mine"); run.report("report.html")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actsec import losses, probe, registry, statistics, tasks
from actsec.errors import BadOption, ThreatError
from actsec.referee import ALREADY_WRONG, FOUND, Verdicts, attack_target, cases_of
from actsec.result import Result, Share
from actsec.spec import Spec, parse, parse_chain
from actsec.store import Store
from actsec.types import Attack, Defense, Fitted, Goal, Material, Split, Target, Threat

Array = NDArray[Any]
Images = Tensor | Array
Data = tuple[Images, Images]


@dataclass(frozen=True, slots=True)
class Attacked:
    """What one attack achieved on n examples.

    x (n, *shape) float32: the attacked inputs; success (n,) bool: right before, wrong after; size (n,) float64: distance
    in the threat's norm; still_correct: the share classified correctly after this attack alone, an upper bound on robust
    accuracy; verdicts: the referee's full record.
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
    attack: str | Spec | Attack[Any],  # noqa: A002  # the word for it
    *,
    eps: float | None = None,
    threat: str | Threat | None = None,
    seed: int = 0,
    id: Images | None = None,
) -> Attacked:
    """Run one attack on examples x (n, *shape) in input units and labels y (n,).

    attack is a spec such as ``pgd(steps=200)`` or an attack object; threat such as ``linf:8/255`` or ``l2`` overrides
    eps, whose norm is the attack's first. Every success is judged by the target's own rule on a fresh float32 forward;
    the model is bit-equal afterwards. Raises ThreatError when the attack cannot run under the threat.
    """
    made, name = _attack(attack)
    under = _threat(made, name, eps, threat)
    xs, ys = _tensor(x, target.device, torch.float32), _tensor(y, target.device, torch.int64)
    rows = None if id is None else _tensor(id.view(np.int64) if isinstance(id, np.ndarray) else id, target.device)
    goal: Goal = losses.Kill() if under.goal == "kill" else losses.Misclassify()
    if under.goal == "kill" and (reason := probe.kill_profile(target, xs[:2], xs[:2]).reason):
        raise ThreatError(f"{name}: {reason}", "Attack a model whose activations can die, such as relu.")
    repeats = tasks.REPEATS["standard"] if target.stochastic else 1
    verdicts = attack_target(
        made, target, cases_of(target, xs, ys, under.norm, under.eps, rows), goal, seed=seed, name=name, repeats=repeats
    )
    status = verdicts.status.cpu().numpy()
    before = int(np.sum(status != ALREADY_WRONG))
    wrong = verdicts.wrong.cpu().numpy().astype(np.float64)
    wrong[(status != FOUND) & (status != ALREADY_WRONG) & ((wrong == 0) | (wrong == 1))] = 0.0
    still = statistics.share(round(float(np.sum(1 - wrong))), len(status))
    success = status == FOUND
    return Attacked(
        verdicts.x.cpu().numpy(),
        success,
        verdicts.size.cpu().numpy(),
        before,
        still,
        verdicts,
        _sentence(name, under, len(status), before, still, verdicts),
    )


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
) -> tuple[Target, tuple[Fitted, ...]]:
    """The target behind a chain of defenses such as ``swap(to=silu, finetune=3) | temperature``, fitted; and the fits.

    The given target is untouched. Raises UsageError when a defense needs data that was not given.
    """
    chain: list[Defense] = (
        [registry.build("defenses", spec) for spec in parse_chain(str(defense))]
        if isinstance(defense, (str, Spec))
        else [defense]
    )
    material = Material(
        _split(calibration, target.device), _split(train, target.device), seed, tasks.perturb, lambda *_: None
    )
    fits = []
    for each in chain:
        if each.needs != "nothing" and getattr(material, each.needs) is None:
            raise BadOption(f"{type(each).__name__} needs {each.needs} data", f"Give {each.needs}=(x, y).")
        target = each.wrap(target)
        fits.append(each.fit(target, material))
    return target, tuple(fits)


def diagnose(target: Target, x: Images, y: Images, *, eps: float = 0.1, seed: int = 0) -> Mapping[str, Any]:
    """Activation health and direct probes of a target on clean examples, no attack: {"sites": [...], "probe": {...}}."""
    xs, ys = _tensor(x, target.device, torch.float32), _tensor(y, target.device, torch.int64)
    return {
        "sites": probe.site_health(target, xs, ys),
        "probe": probe.probe(target, xs[: tasks.PROBE_ROWS], ys[: tasks.PROBE_ROWS], eps, "linf", seed),
    }


@dataclass(frozen=True, slots=True)
class Run:
    """A finished audit: its result and its folder."""

    result: Result
    folder: Path

    def report(self, path: str | Path, format: str = "html") -> Path:  # noqa: A002  # the option's name everywhere
        """Render the report into a file."""
        from actsec.reports.load import read, write

        write(read(self.folder), Path(path), format)
        return Path(path)


def audit(model: str, *, out: str | Path | None = None, executor: str = "serial", **options: Any) -> Run:
    """Audit a model as ``actsec audit --model`` does. options are the fields of plan.Plan, by name.

    Raises what the command line reports: UsageError, NoVerdict, Unsafe, Interrupted.
    """
    from actsec import runner
    from actsec.plan import Plan, from_table

    plan = from_table({"model": model, **{k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}})
    result, store = runner.audit(plan if isinstance(plan, Plan) else Plan(), out, executor=executor)
    return Run(result, store.root)


def _attack(attack: str | Spec | Attack[Any]) -> tuple[Attack[Any], str]:
    if isinstance(attack, (str, Spec)):
        spec = parse(attack) if isinstance(attack, str) else attack
        return registry.build("attacks", spec), str(registry.canonical("attacks", spec))
    options = {f.name: getattr(attack, f.name) for f in dataclasses.fields(attack)}  # type: ignore[arg-type]  # a dataclass
    return attack, str(Spec(type(attack).__module__.rpartition(".")[2], tuple(options.items())))


def _threat(made: Attack[Any], name: str, eps: float | None, threat: str | Threat | None) -> Threat:
    if threat is None:
        minimal = "minimal" in made.roles
        if not minimal and eps is None:
            raise ThreatError(f"{name} needs an eps", "Give eps=8/255, or threat='l2:0.5'.")
        goal = getattr(made, "goal", "misclassify")
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
