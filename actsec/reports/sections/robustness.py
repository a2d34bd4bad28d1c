"""How easily it is fooled: the worst case of each threat first, then what each attack leaves on its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from actsec.reports import lookup, words
from actsec.reports.blocks import (
    Block,
    Chip,
    Content,
    Figure,
    Figures,
    Fold,
    Heading,
    Note,
    Paragraph,
    Table,
    joined,
    muted,
    strong,
    struck,
)
from actsec.reports.figures.curves import Line, curves
from actsec.reports.load import Report
from actsec.reports.sections._cells import miss_rates
from actsec.result import AttackResult, Result, ThreatResult, Variant

LINES = 6
"""Curves in one figure before colours and marks repeat."""


def section(report: Report) -> Iterator[Block]:
    """Per threat: the worst case of every variant, curves, and the attacks one by one."""
    result = report.result
    yield Heading("Robustness")
    names = lookup.threats(result)
    if not names:
        yield Paragraph("Not done: no attack was run.")
        return
    yield Paragraph(
        "An example counts as still correct only when no candidate of any attack inside the threat fooled the model; "
        "examples that were wrong untouched count as not correct. A single attack alone gives an upper bound."
    )
    if result.heading:
        yield Note("How to read the comparison:", f"{result.heading}.")
    yield from miss_rates(result)
    for name in names:
        yield from _threat(result, name)


def _threat(result: Result, name: str) -> Iterator[Block]:
    found = [(v, t) for v in result.variants for t in v.threats if t.threat == name]
    yield Heading(f"Under {name}", 3)
    yield Paragraph(found[0][1].echo)
    for search in dict.fromkeys(attack.search for _, threat in found for attack in threat.attacks if attack.search):
        yield Paragraph(
            f"Some attacks searched on a faster stand-in of the model ({search}); the model itself in float32 judged "
            "what they found, and successes it denied are counted as refused."
        )
    yield _smallest(name, found) if found[0][1].eps is None else _bounded(name, found)
    figures = tuple(_figures(result, found))
    for at in range(0, len(figures), 2):  # three beside one another are too small to read
        yield Figures(figures[at : at + 2])
    first = lookup.first(result)
    others: list[Block] = []
    for variant, threat in found:
        if variant is first:
            yield Paragraph(_worked(variant, threat))
            if threat.saved is not None:
                yield Paragraph(
                    f"{words.saved(threat.saved, result.data.grid)}, rounded and judged again. Attacks stop at their "
                    "first success, so this is no upper limit: one that goes on may find more that hold."
                )
            yield _attacks(variant, threat)
        else:
            others.append(_attacks(variant, threat))
    if others:
        yield Fold(f"Attack by attack under {name}: {words.plural(len(others), 'other variant')}", tuple(others))


def _worked(variant: Variant, threat: ThreatResult) -> Content:
    line = f"{variant.title}: {words.worked_line(variant, threat)}."
    why = words.doubt(threat)
    return (struck(line), f" Not to be believed: {why}.") if why else strong(line)


def _bounded(name: str, found: Sequence[tuple[Variant, ThreatResult]]) -> Block:
    """Worst case inside a budget."""
    rows: list[tuple[Content, ...]] = [
        (
            words.name_of(variant),
            words.worst_cell(threat),
            _before(variant, threat),
            _weakest(threat),
            words.state(threat),
        )
        for variant, threat in found
    ]
    return Table(
        f"Worst case under {name}: over every candidate of every attack, with 95 % Wilson intervals",
        ("variant", *words.stands(found[0][1]), "weakest class", "sanity"),
        tuple(rows),
        of=tuple(variant.id for variant, _ in found),
    )


def _smallest(name: str, found: Sequence[tuple[Variant, ThreatResult]]) -> Block:
    """Without a budget the size tells, not the share."""
    rows: list[tuple[Content, ...]] = []
    for variant, threat in found:
        best = min((a for a in threat.attacks if a.median_size is not None), key=_size, default=None)
        tried = next(iter(threat.attacks), None)
        size: Content = strong(words.number(_size(best))) if best else words.smallest(tried) if tried else "not done"
        by: Content = words.spec(best.attack) if best else "\N{EN DASH}"
        worst, before = words.worst_cell(threat), _before(variant, threat)
        rows.append((words.name_of(variant), size, by, worst, before, words.state(threat)))
    return Table(
        f"Smallest change that works under {name}: median over those correct before, failures counted as infinite",
        ("variant", "median size", "found by", "not fooled at any size", words.stands(found[0][1])[1], "sanity"),
        tuple(rows),
        of=tuple(variant.id for variant, _ in found),
    )


def _size(attack: AttackResult) -> float:
    return math.inf if attack.median_size is None else attack.median_size


def _before(variant: Variant, threat: ThreatResult) -> Content:
    before = words.correct_before(variant, threat)
    return "not done" if before is None else f"{before} of {threat.worst_case.n}"


def _weakest(threat: ThreatResult) -> Content:
    weakest = words.weakest(threat.per_class)
    if weakest is None:
        return "not done"
    return joined((weakest.name, muted(f"{words.percent(weakest.share.value)}, {words.of(weakest.share)}")))


def _figures(result: Result, found: Sequence[tuple[Variant, ThreatResult]]) -> Iterator[Figure]:
    """One figure for the models themselves, one for the first model behind its defenses."""
    first = lookup.first(result)
    chance = 1 / max(len(result.data.classes), 1)
    curved = [(v, t) for v, t in found if t.curve]
    models = [(v, t) for v, t in curved if not v.chain]
    behind = [(v, t) for v, t in curved if first and (v is first or (v.chain and v.base == first.base))]
    groups = [models] if len(behind) <= 1 else [models, behind]
    for group in groups:
        for part in _parts(group):
            lines = [Line(v.id, v.title, v.clean.accuracy, t.curve, not words.doubt(t)) for v, t in part]
            yield curves(lines, part[0][1].norm, part[0][1].eps, chance)


def _parts(group: Sequence[tuple[Variant, ThreatResult]]) -> Iterator[Sequence[tuple[Variant, ThreatResult]]]:
    """As few figures as hold the group, the first of it in each to compare with, about as many lines in every one."""
    if len(group) <= LINES:
        yield from [group] if group else []
        return
    rest = group[1:]
    count = math.ceil(len(rest) / (LINES - 1))
    for at in range(count):
        yield [group[0], *rest[at * len(rest) // count : (at + 1) * len(rest) // count]]


def _attacks(variant: Variant, threat: ThreatResult) -> Block:
    worst: tuple[Content, ...] = (
        "worst case over all of them",
        words.worst_cell(threat),
        _fooled_of_correct(variant, threat),
        "\N{EN DASH}",
        "\N{EN DASH}",
        "\N{EN DASH}",
        "",
    )
    ordered = sorted(threat.attacks, key=lambda a: (a.baseline, a.still_correct.value))
    rows = [worst, *(_row(a, unbounded=threat.eps is None) for a in ordered)]
    return Table(
        f"Attack by attack: {variant.title} under {threat.threat}",
        (
            "attack",
            f"{words.stands(threat)[0]} after this attack alone (upper bound)",
            f"{'fooled' if threat.goal == 'misclassify' else 'reached'}, of those {words.stands(threat)[1]}",
            "median size",
            "confidence when fooled",
            "passes per example",
            "remarks",
        ),
        tuple(rows),
        numeric=(3, 4),
        strong=(0,),
        of=("", *(a.attack for a in ordered)),
        about=variant.id,
    )


def _fooled_of_correct(variant: Variant, threat: ThreatResult) -> Content:
    before = words.correct_before(variant, threat)
    if not before:
        return "not done"
    return f"{before - threat.worst_case.k} of {before}"


def _row(attack: AttackResult, *, unbounded: bool) -> tuple[Content, ...]:
    named = words.spec(attack.attack)
    if attack.error is not None:
        return (named, "not done", "not done", "", "", "", joined((Chip("no result", "bad"), attack.error)))
    confidence = attack.confidence_when_fooled
    return (
        named,
        words.share_cell(attack.still_correct),
        joined((words.of(attack.success), muted(words.percent(attack.success.value)))) if attack.success.n else "none",
        words.smallest(attack) if unbounded else muted("\N{EN DASH}"),
        words.percent(confidence) if confidence is not None else muted("\N{EN DASH}"),
        f"{words.number(attack.forwards, 1)} forward, {words.number(attack.backwards, 1)} backward",
        _remarks(attack),
    )


def _remarks(attack: AttackResult) -> Content:
    parts: list[Content] = []
    if attack.baseline:
        parts.append(Chip("baseline"))
    if not attack.counts:
        parts.append(Chip("not counted", "warn"))
    if attack.refused:
        parts.append(f"{words.plural(attack.refused, 'success', 'successes')} refused by the original model")
    if attack.rejected:
        parts.append(f"{words.plural(attack.rejected, 'candidate')} outside the threat, rejected")
    if attack.saved is not None and attack.saved.k < attack.saved.n:
        parts.append(f"{words.of(attack.saved)} found hold as whole numbers")
    if attack.flat:
        parts.append(f"cross-entropy flat in {words.plural(attack.flat, 'example')}, which climbed the margin")
    if attack.search:
        parts.append("searched on a faster stand-in, judged on the model")
    return joined(parts, "; ") if parts else ""
