"""What to type next: one command, by rule, from what the result shows."""

from __future__ import annotations

import re
import shlex

from actsec.reports import lookup, words
from actsec.result import Advice, Result, ThreatResult, Variant

_GIVEN = ("model", "weights", "data", "train", "calibration", "normalize", "bounds", "resize", "output", "threshold")
"""Plan keys that ``actsec defend`` needs to make the same model again."""
STRONGEST = "adversarial_training"
"""The defense to test where it was not: the others change less, or confidence alone."""


def next_command(result: Result, variant: Variant, threat: ThreatResult) -> str:
    """The next command, in this order.

    A run that is not finished is taken up; what voids the number is explained; a gate that is open for want of images
    gets more; a recommended fix is made; what was not tested is tested; a harder look is taken.
    """
    if result.status != "complete":
        return "actsec resume RUN"
    if words.doubt(threat):
        red = next((c for c in threat.checks if c.voids and c.status in ("red", "warn", "error")), None)
        return (red.command or f"actsec explain {red.rule}") if red else "actsec resume RUN"
    needed = [g.samples for g in result.gates if g.outcome == "no verdict" and g.samples is not None]
    if needed and max(needed) <= variant.clean.accuracy.n:
        return f"actsec audit plan.toml --samples {max(needed)}"
    return _about_defenses(result, variant) or _harder(result, variant)


def _about_defenses(result: Result, variant: Variant) -> str:
    """Make the fix that is recommended, else test one that was not; empty where there is neither."""
    best = next((a for a in result.advice if a.label == "recommended"), None)
    if best is not None:
        plan = dict(result.plan)
        plan = plan | ({"model": variant.base} if variant.base.startswith("reference:") else {})
        given = [part for key in _GIVEN if plan.get(key) is not None for part in (f"--{key}", str(plan[key]))]
        chain = lookup.chain(result, best.variant)
        return shlex.join(["actsec", "defend", chain, *given, "--save", "hardened"])
    asked = {v.id for v in result.variants} | {STRONGEST}
    untried = next((a for a in result.advice if a.label == "not tested" and a.variant in asked), None)
    return "" if untried is None else _test(result, untried)


def _test(result: Result, untried: Advice) -> str:
    """To test a defense nobody asked for, with its options as its estimate writes them: the eps of this audit."""
    if untried.variant in {v.id for v in result.variants}:  # asked for, and not judged: again as it was asked for
        return shlex.join(["actsec", "audit", "plan.toml", "--defenses", lookup.chain(result, untried.variant)])
    written = re.search(r"--defenses '([^']+)'", untried.estimate)
    if written is None:
        return shlex.join(["actsec", "explain", untried.variant])
    given = ["--train", "TRAIN.npz"] if "--train" in untried.estimate else []
    return shlex.join(["actsec", "audit", "plan.toml", *given, "--defenses", written[1]])


def placed(command: str, folder: str = "") -> str:
    """The command with the run that it speaks of: a folder, or RUN in what may be read anywhere."""
    run = folder or "RUN"
    names = {"RUN": shlex.quote(run), "plan.toml": shlex.quote(f"{run}/plan.toml")}
    return " ".join(names.get(word, word) for word in command.split(" "))


def runs(command: str) -> str:
    """What RUN means, where a command has it."""
    return "(RUN: the folder of this report)" if "RUN" in command else ""


def _harder(result: Result, variant: Variant) -> str:
    """A harder look, where there is one."""
    if result.plan.get("budget") != "thorough":
        harder = "standard" if result.plan.get("budget") == "quick" else "thorough"
        return f"actsec audit plan.toml --budget {harder}"
    return f"actsec explain {variant.activation.split(', ')[0] or 'relu'}"
