"""What ``actsec list``, ``actsec explain`` and the site say. Only what a plug-in imports itself needs torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from actsec import registry
from actsec.errors import unknown
from actsec.health import drift

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
    "ACT-E03": "the model holds more memory after every call.",
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
DOCUMENTED = ("attacks", "defenses", "diagnostics", "lints", "poisons", "symptoms")


@dataclass(frozen=True, slots=True)
class Page:
    """The page of a plug-in or activation: its text, facts, and options as rows (option, type, default, meaning).

    rule is its id where it has one; then its options are the limits of a rule, which no command sets. origin names the
    package of somebody else's plug-in.
    """

    kind: str
    name: str
    text: str
    facts: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str, str, str], ...] = ()
    rule: str = ""
    origin: str = ""

    def __str__(self) -> str:
        if self.rule:
            heading, options = "Limits:", [f"  {o}: {default}" for o, _, default, _ in self.options]
        else:
            heading = "Options:"
            options = [f"  {o} ({type_}; default {default}): {text}" for o, type_, default, text in self.options]
        facts = [f"{what}: {fact}" for what, fact in self.facts]
        parts = [self.text, *(["", *facts] if facts else []), *(["", heading, *options] if options else [])]
        return "\n".join([*parts, *(["", f"From {self.origin}."] if self.origin else [])])


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
    """What there is to say of a name or of a rule's id, as text. Raises UnknownName."""
    if name == "art":
        from actsec.art import names as art_names

        every = (f"  {registry.ART}{attack}" for attack in art_names.names())
        return "\n".join(["Attacks of ART that run on PyTorch classifiers:", *every])
    short = re.fullmatch(r"act-?([a-z])(\d{1,2})", name, re.IGNORECASE)
    name = f"ACT-{short[1].upper()}{int(short[2]):02d}" if short else name
    others = _others()
    return others.get(name) or others.get(name.lower()) or str(find(name))


def find(name: str) -> Page:
    """The page of an activation or plug-in, by its name or a rule's id. Raises UnknownName."""
    from actsec.activations import names

    known: list[str] = list(names())
    if name.startswith(registry.ART):
        return page("attacks", name)
    if name == drift.RULE:
        return _drift()
    if name in known:
        return page("activations", name)
    for kind in DOCUMENTED:
        for plug_in in registry.names(kind):
            rule = getattr(registry.find(kind, plug_in), "rule", None)
            known += [plug_in] if rule is None else [plug_in, rule]
            if name in (plug_in, rule):
                return page(kind, plug_in)
    raise unknown("name", name, [*known, drift.RULE, *_others()])


def _others() -> dict[str, str]:
    """What is explained and is no plug-in: rules of the verdict, and metrics of gates."""
    told = {name: f"{name}: {text}" for name, text in OTHERS.items()}
    gates = {name: f"{name}: {meaning}. For gates: see docs/pipelines.md." for name, meaning in listing("metrics")}
    return told | gates


def page(kind: Any, name: str) -> Page:
    """The page of a plug-in or an activation of a kind. Raises UnknownName."""
    if kind == "activations":
        from actsec.activations import activation
        from actsec.activations.cards import card

        return Page(kind, name, "\n".join(card(activation(name))))
    from actsec.spec import table

    found = registry.find(kind, name)
    rule = str(getattr(found, "rule", ""))
    text, origin = registry.page(kind, name), registry.origin(kind, name)
    return Page(kind, name, text, tuple(_facts(found)), tuple(table(found)), rule, origin)


def _facts(found: Any) -> Iterator[tuple[str, str]]:
    """What an attack or a defense declares about itself."""
    if norms := getattr(found, "norms", ()):
        yield "Norms", ", ".join(norms)
    if knowledge := getattr(found, "knowledge", ""):
        yield "Sees", {"white_box": "gradients", "black_box": "outputs alone"}[knowledge]
    if claims := getattr(found, "claims", ""):
        yield "Claims", claims
        # What its options decide is a property, which only a made defense answers.
        if isinstance(kind := found.kind, str):
            yield "Credited with", kind
        if isinstance(needs := found.needs, str):
            yield "Learns from", {"nothing": needs, "calibration": "calibration data", "train": "training data"}[needs]
    if isinstance(adaptive := getattr(found, "adaptive", None), tuple) and adaptive:
        yield "Must face", ", ".join(adaptive)


def _drift() -> Page:
    """The rule of the monitor, which is no plug-in."""
    return Page("symptoms", "drift", (drift.__doc__ or "").strip(), rule=drift.RULE)


def every() -> Iterator[Page]:
    """Every page there is, by kind and name."""
    from actsec.activations import names

    yield from (page("activations", name) for name in names())
    yield from (page(kind, name) for kind in DOCUMENTED for name in registry.names(kind))
    yield _drift()
