"""What the diagnostics read about a variant under a threat, from its outcomes; and how to go on from a red check."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec import registry
from actsec.planning.checking import faced
from actsec.planning.plan import CHECKED, Plan
from actsec.result import Check
from actsec.spec import show
from actsec.types import GRADIENT, Evidence, Threat, chain_text
from actsec.verdict.gathering import Gathered, Tried
from actsec.verdict.sanity import Command, diagnose

Array = NDArray[Any]
_FOLLOWED = ("doubled", "iterative")
_TOLD = ("weights", "data", "train", "calibration", "resize", "bounds", "mask", "normalize", "threshold", "output")
_TABLE = ("label_column", "label", "raw_units", "random_weights", "trust_model", "device", "seed")


def checks(g: Gathered, plan: Plan, threat: Threat, n: int, base: Gathered | None = None) -> tuple[Check, ...]:
    """The sanity panel of a variant under a threat; none for a goal other than to misclassify, or without examples.

    base is the undefended model where the variant has defenses.
    """
    if n == 0 or threat.goal != "misclassify":
        return ()
    found = diagnose(evidence(g, plan, threat, n, base), command=command(g, plan))
    names = {f.name for f in dataclasses.fields(Check)}
    return tuple(Check(**{k: v for k, v in _fields(f).items() if k in names}) for f in found)


def _fields(found: Any) -> dict[str, Any]:
    told = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    return told | {"numbers": dict(found.numbers)}


def evidence(g: Gathered, plan: Plan, threat: Threat, n: int, base: Gathered | None = None) -> Evidence:
    """What was seen of a variant under a threat, the roles of its attacks on the same rows."""
    roles = _roles(g, threat)
    rows = min([len(left) for left in roles.values()], default=n)
    return Evidence(
        threat=threat,
        clean=_kept(g, g.clean_wrong[:rows]),
        correct={role: left[:rows] for role, left in roles.items()},
        probe=g.probe.numbers["probe"] if g.probe else {},
        classes=len(g.clean.arrays["test_logits"][0]) if g.clean else 0,
        stochastic=g.stochastic,
        unanswered=_unanswered(g, threat, n),
        confined=g.confined,
        at={eps: left[:rows] for eps, left in _curve(g, threat, rows).items()},
        courses=_courses(g, threat),
        sizes=_sizes(g, threat) if threat.eps is None else {},
        adaptive=_adaptive(g, plan, threat, rows),
        abstained=_abstained(g, threat, rows),
        twin=_twin(base, threat) if g.variant.chain and base is not None else None,
    )


def _kept(g: Gathered, wrong: Array) -> Array:
    """Of each row (n,) the share of answers that were correct; right or not where the target does not draw."""
    return np.asarray(1 - wrong if g.stochastic else wrong < 0.5)


def _left(g: Gathered, tried: Tried) -> Array:
    """Of each row (n,) what one attack left."""
    return _kept(g, np.maximum(g.clean_wrong[: len(tried.wrong)], tried.wrong))


def _roles(g: Gathered, threat: Threat) -> dict[str, Array]:
    """By role, what its strongest attack leaves of each row; without an eps there is no such thing as left."""
    found: dict[str, Array] = {}
    if threat.eps is None:
        return found
    read = (*CHECKED, "attack") if threat.norm == "l0" else CHECKED
    for t in g.tried:
        # The unbounded attack has the whole box as its ball, in L2 for L2 and in L-inf for the others.
        whole = t.threat.norm == ("l2" if threat.norm == "l2" else "linf")
        here = whole if t.trial.role == "unbounded" else t.threat == threat
        if t.usable and t.trial.role in read and here:
            left = _left(g, t)
            known = found.get(t.trial.role, left)
            rows = min(len(left), len(known))
            found[t.trial.role] = np.minimum(left[:rows], known[:rows])
    return found


def _abstained(g: Gathered, threat: Threat, rows: int) -> Array | None:
    """Rows for which some attack under the threat found a misclassified candidate that the detector rejected."""
    if g.clean is None or "test_rejected" not in g.clean.arrays:
        return None
    found = np.zeros(rows, dtype=bool)
    for t in g.under(threat):
        seen = t.arrays["abstained"][:rows] > 0
        found[: len(seen)] |= seen
    return found


def _curve(g: Gathered, threat: Threat, rows: int) -> dict[float, Array]:
    """By eps, what one and the same attack leaves: of those run at several eps the one at most of them."""
    runs: dict[str, dict[float, Array]] = {}
    for t in g.tried:
        eps = t.threat.eps
        if t.usable and t.trial.role == "curve" and t.threat.norm == threat.norm and eps and len(t.wrong) >= rows:
            runs.setdefault(t.trial.attack, {})[eps] = _left(g, t)
    return max(runs.values(), key=len, default={})


def _courses(g: Gathered, threat: Threat) -> dict[str, Array]:
    """By role, the best score question by question of the followed rows that the attack left."""
    found: dict[str, Array] = {}
    for t in g.tried:
        if t.usable and t.threat == threat and t.trial.role in _FOLLOWED and t.trial.role not in found:
            trace = t.arrays["trace"]
            found[t.trial.role] = trace[:, :, 1][_left(g, t)[: len(trace)] > 0.5] if trace.size else np.zeros((0, 0))
    return found


def _sizes(g: Gathered, threat: Threat) -> dict[str, Array]:
    """By role, the smallest size that its attacks found."""
    found: dict[str, Array] = {}
    for t in g.tried:
        if t.usable and t.threat == threat and t.trial.role in ("minimal", "noise", "gradient_free"):
            least = np.array(t.smallest(threat.norm), dtype=np.float64)
            known = found.get(t.trial.role, np.zeros(0))
            longer, shorter = (least, known) if len(least) >= len(known) else (known, least)
            longer[: len(shorter)] = np.minimum(longer[: len(shorter)], shorter)
            found[t.trial.role] = longer
    return found


def _adaptive(g: Gathered, plan: Plan, threat: Threat, rows: int) -> dict[str, Array | None]:
    """The attacks that the variant's defenses name under the threat, and what each leaves; None where not made."""
    found: dict[str, Array | None] = {}
    for attack in faced(g.variant, threat, plan.budget):
        full = registry.canonical("attacks", attack)
        same = (t for t in g.tried if t.threat == threat and registry.canonical("attacks", t.trial.attack) == full)
        made = next((t for t in same if t.usable), None)
        found[attack] = None if made is None else _left(g, made)[:rows]
    return found


def _twin(base: Gathered, threat: Threat) -> Array | None:
    """Of the rows that the undefended model gets right, those it still does after the gradient attacks."""
    roles = [left for role, left in _roles(base, threat).items() if role in GRADIENT]
    if not roles:
        return None
    rows = min(map(len, roles))
    right = base.clean_wrong[:rows] < 0.5
    return np.asarray(np.minimum.reduce([left[:rows] for left in roles])[right] > 0.5)


def _unanswered(g: Gathered, threat: Threat, n: int) -> int | None:
    """How many images are robust although some candidate of an attack under the threat got no finite logits."""
    here = g.under(threat)
    if not here:
        return None
    silent = np.zeros(n, dtype=bool)
    for tried in here:
        rows = min(n, len(tried.arrays["status"]))
        silent[:rows] |= tried.arrays["non_finite"][:rows] > 0
    return int(np.sum(silent & (g.wrong_under(threat, n) < 0.5)))


def command(g: Gathered, plan: Plan) -> Command:
    """How to run one more attack on the variant, as people type it."""

    def typed(attack: str, threat: Threat) -> str:
        if plan.model.startswith("object:"):
            return f"actsec.attack(target, x, y, {attack!r}, threat={str(threat)!r})"
        options = ["--model", g.variant.base, *_options(plan)]
        if not g.variant.chain:
            return shlex.join(["actsec", "attack", attack, "--threat", str(threat), *options])
        chain = ["--defenses", chain_text(g.variant.chain), "--attacks", f"{attack} at {threat}"]
        eps = [] if plan.eps is None else ["--eps", show(plan.eps)]
        return shlex.join(["actsec", "audit", *options, *eps, *chain])

    return typed


def _options(plan: Plan) -> list[str]:
    """The plan's options about model and data that are not at their defaults."""
    found: list[str] = []
    for name in (*_TOLD, *_TABLE):
        value, default = getattr(plan, name), getattr(Plan(), name)
        if value != default:
            flag = "--" + name.replace("_", "-")
            found += [flag] if value is True else [flag, str(value)]
    return found
