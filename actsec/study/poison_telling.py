"""What a study of poisons comes to, as markdown: verdicts, what the poisons did, what persists, what mitigates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from actsec import registry
from actsec.study.claim import CHANCE, FLOW, MARGIN, UNLIKE, Verdict, verdicts
from actsec.study.comparing import estimate
from actsec.study.harm import Harm
from actsec.study.laboratory import MITIGATIONS, NONE, Outcome, Settings
from actsec.study.mitigated import sentences, word
from actsec.study.poison import Cell, applies, record

Read = Callable[[Harm], Any]
_ABSENT = "-"
_SAID = {
    "range_check": "rows with a feature outside the box are dropped",
    "clipping": "gradients clipped to a norm of 1",
    "adam": "Adam at 1e-3 in place of plain gradient descent",
    "leaky_relu": "leaky_relu in place of the activation",
    "layer_norm": "layer normalisation before every activation",
    "initialisation": "orthogonal initialisation",
}


def lines(cells: Sequence[Cell], source: str, classes: int, settings: Settings) -> Iterator[str]:
    """The whole report."""
    plain = [cell for cell in cells if cell.mitigation == NONE]
    yield from _head(source, settings)
    yield from _verdicts(verdicts(plain, classes))
    for kind in settings.activations:
        for depth in settings.depths:
            group = [cell for cell in plain if (cell.activation, cell.depth) == (kind, depth)]
            yield f"## {kind}, {depth} hidden layers"
            yield ""
            yield from _arms(group)
            yield from _layers(group)
    yield from _persists(plain)
    if settings.mitigations and settings.mitigated:
        yield from _mitigations(cells, settings)


def noted(cells: Sequence[Cell], source: str, classes: int, settings: Settings) -> dict[str, Any]:
    """The study for report.json."""
    found = [asdict(verdict) for verdict in verdicts([c for c in cells if c.mitigation == NONE], classes)]
    return {"data": source, "settings": asdict(settings), "verdicts": found, "cells": record(tuple(cells))}


def _head(source: str, settings: Settings) -> Iterator[str]:
    yield "# Poisoned training against clean twins"
    yield ""
    yield (
        f"Fully connected networks on {source}, {settings.width} units a layer, {settings.seeds} seeds, plain gradient "
        f"descent at {settings.learning_rate:g}, batches of 32, {settings.epochs} epochs. Each poison stands beside a "
        "clean twin of the same seed and beside as many random rows in the same place."
    )
    yield ""
    yield (
        f"Attacks: L-inf {settings.eps:g} on the first {settings.samples} test rows, 20 steps of PGD, "
        f"{settings.queries} queries of square, transfer from a clean twin of another seed. What stands against an "
        "attack is an upper bound. Intervals are 95 %, over seeds and rows."
    )
    yield ""
    yield "Silenced: dead on every clean training row (relu), or the mean share saturated (sigmoid, tanh)."
    yield ""


def _verdicts(found: Sequence[Verdict]) -> Iterator[str]:
    yield "## Does poisoned data cause gradient obfuscation, weakening deep layers?"
    yield ""
    words = [verdict.word for verdict in found]
    counts = ", ".join(f"{word}: {words.count(word)}" for word in dict.fromkeys(words))
    yield f"Of {len(found)} networks and poisons, {counts}."
    yield ""
    yield "| network | poison | the claim | p | why |"
    yield "|---|---|---|---|---|"
    for v in found:
        p = _ABSENT if v.word == UNLIKE or v.sentence.startswith("Destroyed") else f"{v.p:.2g}"
        yield f"| {v.activation}, {v.depth} layers | {v.poison} | {v.word} | {p} | {v.sentence} |"
    yield ""
    yield (
        "The rule: it holds where the gradient attack leaves more rows correct, and more than square and transfer "
        "leave, and units are silenced or G falls, all beyond twin and control (p < 0.05, the largest p of what is "
        f"required, Holm over all networks and poisons). It does not hold where the interval of a rise ends below "
        f"{MARGIN:g} (of log10 G: {FLOW:g}), or where every seed broke off or is near chance (accuracy below "
        f"{CHANCE:g} times guessing). Otherwise nothing was detected, which is no proof that there is nothing."
    )
    yield ""


def _arms(group: Sequence[Cell]) -> Iterator[str]:
    columns: tuple[tuple[str, Read, float], ...] = (
        ("accuracy", lambda h: h.rows.get("clean"), 1.0),
        ("PGD", lambda h: h.rows.get("pgd"), 1.0),
        ("PGD, margin", lambda h: h.rows.get("margin"), 1.0),
        ("square", lambda h: h.rows.get("square"), 1.0),
        ("transfer", lambda h: h.rows.get("transfer"), 1.0),
        ("silenced", lambda h: h.silent, 1.0),
    )
    yield "| trained on | " + " | ".join(name for name, *_ in columns) + " | G | zero gradients | broke off |"
    yield "|---" * (len(columns) + 4) + "|"
    for name, arm in _rows(group):
        of = [outcome.at_once for outcome in arm]
        cells = [number(of, read, most) for _, read, most in columns]
        broke = sum(bool(found.broke) for found in of)
        cells += [flow(of), number(of, lambda h: h.zero_cross_entropy, 1.0), f"{broke} of {len(of)}"]
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""


def _rows(group: Sequence[Cell]) -> Iterator[tuple[str, tuple[Outcome, ...]]]:
    """Twins and controls once for each place where rows enter, and every poison after its own."""
    seen = set()
    places = {"training": "", "scaler": ", standardised", "update": ", updated"}
    for cell in group:
        made = registry.build("poisons", cell.poison)
        place = places[made.enters]
        # as many rows in the same place: the same twin and control
        if (key := (made.enters, id(cell.control[0]))) not in seen:
            seen.add(key)
            yield f"clean rows{place}", cell.twin
            yield f"random rows{place}", cell.control
        yield cell.poison, cell.poisoned


def _layers(group: Sequence[Cell]) -> Iterator[str]:
    deepest = max((cell.depth for cell in group), default=0)
    yield "Silenced by hidden layer, less the clean twin's:"
    yield ""
    yield "| poison | " + " | ".join(f"layer {at + 1}" for at in range(deepest)) + " |"
    yield "|---" * (deepest + 1) + "|"
    for cell in group:
        yield f"| {cell.poison} | " + " | ".join(_ABSENT if n is None else f"{n:+.3f}" for n in net(cell)) + " |"
    yield ""


def net(cell: Cell, when: str = "at_once") -> list[float | None]:
    """By layer, the share silenced less the twin's, mean over the seeds where both have one."""
    found: list[float | None] = []
    for layer in range(cell.depth):
        gaps = []
        for one, two in zip(cell.poisoned, cell.twin, strict=True):
            pair = [
                side.silenced[layer] if side.silenced else None for side in (getattr(one, when), getattr(two, when))
            ]
            if pair[0] is not None and pair[1] is not None:
                gaps.append(pair[0] - pair[1])
        found.append(float(np.mean(gaps)) if gaps else None)
    return found


def _persists(cells: Sequence[Cell]) -> Iterator[str]:
    yield "## What is left after clean epochs"
    yield ""
    yield "| network | poison | accuracy | the twin's | silenced, less the twin's | at once |"
    yield "|---|---|---|---|---|---|"
    for cell in cells:
        later = [[outcome.later for outcome in arm] for arm in (cell.poisoned, cell.twin)]
        accuracies = [number(of, lambda h: h.rows.get("clean"), 1.0) for of in later]
        yield (
            f"| {cell.activation}, {cell.depth} layers | {cell.poison} | {accuracies[0]} | {accuracies[1]} | "
            f"{gap(cell, 'later')} | {gap(cell, 'at_once')} |"
        )
    yield ""


def _mitigations(cells: Sequence[Cell], settings: Settings) -> Iterator[str]:
    yield "## Mitigations"
    yield ""
    yield "Each against a clean twin that has the mitigation too, at once after the poison; nothing was attacked here."
    if settings.adapted:
        yield ""
        yield (
            "Adapted: whoever plants the rows knows the mitigation, the recipe and the clean rows, not the seed, and "
            "chooses outliers by rehearsing the training, crafted rows through the step that the mitigation makes; "
            "as many rows either way."
        )
    yield ""
    yield from (f"- {name}: {_SAID[name]}." for name in settings.mitigations)
    yield ""
    if any(
        not applies(k, m, p) for k in settings.activations for m in settings.mitigations for p in settings.mitigated
    ):
        yield "Crafted rows are not tried on activations whose units neither die nor saturate, such as leaky_relu."
        yield ""
    columns = ("network", "poison", "adapted", "mitigation", "accuracy", "the twin's", "silenced, less the twin's")
    yield f"| {' | '.join((*columns, 'broke off', 'later', 'it'))} |"
    yield "|---" * 10 + "|"
    order = {name: at for at, name in enumerate((NONE, *MITIGATIONS))}
    chosen = [cell for cell in cells if cell.poison in settings.mitigated]
    kinds = list(dict.fromkeys((cell.activation, cell.depth, cell.poison) for cell in cells))
    chosen.sort(key=lambda c: (kinds.index((c.activation, c.depth, c.poison)), order[c.mitigation], c.adapted))
    for cell in chosen:
        of = [[outcome.at_once for outcome in arm] for arm in (cell.poisoned, cell.twin)]
        accuracies = [number(arm, lambda h: h.rows.get("clean"), 1.0) for arm in of]
        later = number([outcome.later for outcome in cell.poisoned], lambda h: h.rows.get("clean"), 1.0)
        broke = sum(bool(found.broke) for found in of[0])
        yield (
            f"| {cell.activation}, {cell.depth} layers | {cell.poison} | {'yes' if cell.adapted else 'no'} | "
            f"{cell.mitigation} | {accuracies[0]} | {accuracies[1]} | {gap(cell, 'at_once')} | "
            f"{broke} of {len(of[0])} | {later} | {_ABSENT if cell.mitigation == NONE else word(cell)} |"
        )
    yield ""
    yield (
        "It holds where no training broke off and, by the ends of both intervals over the twin, accuracy falls by less "
        f"than {MARGIN:g} and silenced units rise by less. It fails where a training broke off, or either is beyond "
        "that and its interval excludes 0. Otherwise it cannot be told."
    )
    yield ""
    if told := list(sentences(cells)):
        yield "### What holds against whom"
        yield ""
        yield from told
        yield ""


def gap(cell: Cell, when: str) -> str:
    """The mean share silenced less the twin's, with its interval over seeds."""
    pairs = [
        (getattr(one, when).silent, getattr(two, when).silent)
        for one, two in zip(cell.poisoned, cell.twin, strict=True)
    ]
    return _told([None if None in pair else pair[0] - pair[1] for pair in pairs], (-1.0, 1.0), "+")


def number(of: Sequence[Harm], read: Read, most: float) -> str:
    """A mean with its interval; of the seeds that have a number where some have none, and then without."""
    return _told([read(found) for found in of], (0.0, most))


def _told(values: Sequence[Any], ends: tuple[float, float], sign: str = "") -> str:
    known = [np.atleast_1d(value) for value in values if value is not None and np.isfinite(value).all()]
    if not known:
        return _ABSENT
    found = estimate(known, lambda rows: float(np.mean(rows)))
    if len(known) < len(values):
        return f"{found.value:{sign}.3f} ({len(known)} of {len(values)} seeds)"
    return f"{found.value:{sign}.3f} [{max(found.low, ends[0]):{sign}.3f}, {min(found.high, ends[1]):{sign}.3f}]"


def flow(of: Sequence[Harm]) -> str:
    """The geometric mean of G, and its range over seeds."""
    known = [found.flow for found in of if found.flow is not None]
    if not known:
        return _ABSENT
    ends = f"{10 ** min(known):.1e} to {10 ** max(known):.1e}"
    return f"{10 ** float(np.mean(known)):.1e} ({ends})"
