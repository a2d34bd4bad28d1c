"""What ``actsec list`` and ``actsec explain`` say. Nothing of it needs torch but what a plug-in imports itself."""

from __future__ import annotations

import re
from typing import Any

from actsec import drift, registry
from actsec.errors import unknown

OTHERS = {
    "ACT-G01": "a gate failed: the whole 95 % interval lies on the wrong side of the limit.",
    "ACT-G02": "a gate has no verdict: the interval holds the limit, the number is void, or it was not measured.",
    "ACT-V01": "crafted inputs mislead the model, detectably more than random noise of the same size does.",
    "ACT-R01": "a robust accuracy cannot be believed: a check that voids it is red. Look at the check.",
    "ACT-M00": "clean accuracy cannot be told from chance: labels, preprocessing or weights are wrong.",
    "ACT-D01": "the same examples are in two splits of the data.",
    "ACT-S01": "a file was opened although opening it executes code (--trust-model).",
    "ACT-E01": "a job failed. Mend the cause; `actsec resume RUN` runs it again.",
    "ACT-E02": "the model draws from a global generator.",
}
"""Rules that are no plug-ins."""
KINDS = (
    "attacks",
    "defenses",
    "activations",
    "diagnostics",
    "lints",
    "poisons",
    "symptoms",
    "models",
    "data",
    "metrics",
)


def listing(kind: str) -> list[tuple[str, str]]:
    """Every name of a kind, and what it means in a line."""
    if kind == "activations":
        from actsec.activations import formula, names

        return [(name, formula(name)) for name in names()]
    if kind == "models":
        from actsec import models

        return [
            *((f"reference:{name}", "built with any activation, trained in the run") for name in models.names()),
            ("torchvision:NAME", "any classification architecture of torchvision"),
            ("file.py:factory", "your own; the function returns an nn.Module"),
            ("hardened/", "the folder that `actsec defend --save` wrote"),
        ]
    if kind == "metrics":
        from actsec.verdict.metrics import METRICS

        return [(name, metric.meaning) for name, metric in METRICS.items()]
    if kind == "data":
        from actsec.data import SOURCES

        return [(source, "") for source in SOURCES]
    theirs = [("art/NAME", "any evasion attack of ART: see `actsec explain art`")] if kind == "attacks" else []
    return theirs + [(name, registry.page(kind, name).split("\n")[0]) for name in registry.names(kind)]  # type: ignore[arg-type]  # the rest are kinds


def explained(name: str) -> str:
    """The page of an activation or plug-in, by its name or a rule's id. Raises UnknownName."""
    from actsec.activations import activation, names

    known: list[str] = list(names())
    short = re.fullmatch(r"act-?([a-z])(\d{1,2})", name, re.IGNORECASE)
    name = f"ACT-{short[1].upper()}{int(short[2]):02d}" if short else name
    if name == "art":
        from actsec import art_names

        every = (f"  {registry.ART}{attack}" for attack in art_names.names())
        return "\n".join(["Attacks of ART that run on PyTorch classifiers:", *every])
    if name.startswith(registry.ART):
        return page("attacks", name)
    if name in known:
        from actsec.activations.cards import card

        return "\n".join(card(activation(name)))
    for kind in ("attacks", "defenses", "diagnostics", "lints", "poisons", "symptoms"):
        for plug_in in registry.names(kind):
            found = registry.find(kind, plug_in)
            rule = getattr(found, "rule", None)
            known += [plug_in] if rule is None else [plug_in, rule]
            if name in (plug_in, rule):
                return page(kind, plug_in)
    others = _others()
    if name in others:
        return others[name]
    raise unknown("name", name, [*known, *others])


def _others() -> dict[str, str]:
    """What is explained and is no plug-in: rules of the verdict and the monitor, metrics of gates."""
    told = {name: f"{name}: {text}" for name, text in OTHERS.items()}
    gates = {name: f"{name}: {meaning}. For gates: see docs/pipelines.md." for name, meaning in listing("metrics")}
    return {**told, **gates, drift.RULE: (drift.__doc__ or "").strip()}


def page(kind: Any, name: str) -> str:
    """The doc page of a plug-in and its options."""
    from actsec.spec import table

    found = registry.find(kind, name)
    if hasattr(found, "rule"):  # limits of a rule are its own: no command sets them
        heading, options = "Limits:", [f"  {o}: {default}" for o, _, default, _ in table(found)]
    else:
        heading = "Options:"
        options = [f"  {o} ({type_}; default {default}): {text}" for o, type_, default, text in table(found)]
    return "\n".join([registry.page(kind, name), *(["", heading, *options] if options else [])])
