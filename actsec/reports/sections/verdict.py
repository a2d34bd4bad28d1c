"""The first screen: the verdict in plain sentences, its numbers, and what the exit code said."""

from __future__ import annotations

from collections.abc import Iterator

from actsec.reports import lookup, words
from actsec.reports.answers import Answer, answers, beyond
from actsec.reports.blocks import (
    Block,
    Chip,
    Claim,
    Claims,
    Content,
    Heading,
    Items,
    Metric,
    Metrics,
    Note,
    Paragraph,
    Table,
    code,
    joined,
    muted,
    strong,
    struck,
)
from actsec.reports.load import Report
from actsec.reports.next_command import placed, runs
from actsec.reports.order import is_checkup
from actsec.result import Result, ThreatResult, Variant


def section(report: Report) -> Iterator[Block]:
    """Sentences first, then the numbers behind them, then every model at a glance."""
    result = report.result
    yield Heading("Verdict")
    if result.status == "partial":
        left = words.plural(len(result.not_done), "thing")
        yield Note("Partial", f"Not everything was run: {left} not done, listed under limits.", "warn")
    found = answers(result)
    if found:
        yield Claims(tuple(_claim(each) for each in found))
        if more := beyond(result, found):
            yield Items(more)
    elif result.headline:
        yield Paragraph(result.headline[0], lead=True)
        yield Items(result.headline[1:], numbered=False)
    variant = lookup.first(result)
    threat = lookup.main_threat(variant) if variant else None
    if variant and threat:
        if why := words.doubt(threat):
            yield Note("The worst case below must not be believed:", why, "bad")
        yield Metrics(tuple(_metrics(variant, threat)))
        yield Paragraph(_worked(variant, threat, result))
    elif variant:
        yield Metrics((_clean(variant),))
        why = " A checkup makes no attack." if is_checkup(result) else " No attack finished."
        yield Paragraph((strong("Robustness: not done."), why))
    yield Paragraph(_exit(result))
    yield from _glance(result)


def _claim(answer: Answer) -> Claim:
    """The numbers as a few short sentences, the next command last and as typed."""
    parts: list[Content] = [words.sentence(part).rstrip(".") + "." for part in answer.rest]
    if answer.command:
        told = placed(answer.command)
        parts += ["Next:", code(told), *([muted(runs(told))] if runs(told) else [])]
    return Claim(answer.question, answer.claim, joined(parts))


def _metrics(variant: Variant, threat: ThreatResult) -> Iterator[Metric]:
    value, why = words.percent(threat.worst_case.value), words.doubt(threat)
    yield Metric(
        "Robust accuracy, worst case",
        struck(value) if why else strong(value),
        f"{words.of(threat.worst_case)} still correct under {threat.threat}; {words.interval(threat.worst_case)}",
        Chip("not believable", "bad") if why else words.state(threat),
    )
    yield _clean(variant)
    noise = next((a for a in threat.attacks if a.baseline and a.n), None)
    yield Metric(
        "Random noise of the same size",
        words.percent(noise.still_correct.value) if noise else Chip("not done"),
        f"{words.of(noise.still_correct)} still correct; {words.interval(noise.still_correct)}" if noise else "",
    )
    attacked = lookup.condition(variant, clean=False)
    fooled = attacked.confidence_when_wrong if attacked else None
    yield Metric(
        "Confidence when fooled",
        words.percent(fooled) if fooled is not None else Chip("not done"),
        f"the model's mean confidence when wrong, {attacked.condition}, n = {attacked.n}"
        if attacked and fooled is not None
        else "",
    )
    untouched = lookup.condition(variant, clean=True)
    yield Metric(
        "ECE, untouched",
        f"{untouched.ece:.3f}" if untouched else Chip("not done"),
        f"{untouched.bins} bins, n = {untouched.n}; null {untouched.null_mean:.3f}, up to {untouched.null_p95:.3f}"
        if untouched
        else "",
        words.beside_null(untouched) if untouched else None,
    )
    kill = next((k for k in variant.kills if k.applicable and k.net is not None), None)
    if kill and kill.net is not None:
        named = f"{words.forced((kill,))}, net"
        noise_net = f"{words.points(kill.noise_net)} under noise" if kill.noise_net is not None else "noise not done"
        yield Metric(named, words.points(kill.net), f"of all units, n = {kill.n}; {noise_net}")
    elif variant.kills:
        first = variant.kills[0]
        yield Metric(f"{words.forced((first,))}, net", Chip("not applicable"), words.not_applicable(first))


def _clean(variant: Variant) -> Metric:
    accuracy = variant.clean.accuracy
    if not words.measured(variant):
        return Metric("Untouched accuracy", Chip("not done"), "")
    return Metric(
        "Untouched accuracy",
        words.percent(accuracy.value),
        f"{words.of(accuracy)} correct; {words.interval(accuracy)}; weakest untouched: {variant.clean.worst_class}",
    )


def _worked(variant: Variant, threat: ThreatResult, result: Result) -> Content:
    line = f"{words.worked_line(variant, threat)} ({variant.title}, {threat.threat})."
    if why := words.doubt(threat):
        return (struck(line), " ", f"Not to be believed: {why}.")
    budget = words.budget(result.plan)
    return (strong(line), f" What is still correct is not refuted {budget}: an upper bound, not a certificate.")


def _exit(result: Result) -> Content:
    tones = {"passed": "good", "failed": "bad", "no verdict": "warn"}
    parts: list[Content] = []
    for gate in result.gates:
        parts.append(code(gate.gate))
        parts.append(Chip(gate.outcome, tones[gate.outcome]))  # type: ignore[arg-type]  # a Tone
    parts.append(words.exit_meaning(result.exit_code, gates=bool(result.gates)) + ".")
    return joined(parts)


def _glance(result: Result) -> Iterator[Block]:
    """Every undefended model in one table: the comparison of activations, under the heading that limits it."""
    variants = lookup.undefended(result)
    if len(variants) < 2:  # a comparison needs two
        return
    threats = lookup.threats(result)
    if result.heading:
        yield Note("How to read the comparison:", f"{result.heading}.")
    rows = []
    for variant in variants:
        untouched = lookup.condition(variant, clean=True)
        cells = [_under(lookup.threat(variant, name)) for name in threats]
        rows.append(
            (
                words.name_of(variant),
                words.untouched_cell(variant),
                *cells,
                words.ece_cell(untouched),
            )
        )
    yield Table(
        "The models at a glance: untouched accuracy, worst case under each threat, and calibration",
        ("model", "untouched", *(_column(name) for name in threats), "ECE"),
        tuple(rows),
        of=tuple(variant.id for variant in variants),
    )


def _column(threat: str) -> str:
    """A bounded threat has a worst case, an unbounded one a size."""
    return f"worst case, {threat}" if ":" in threat else f"smallest change that works, {threat}"


def _under(threat: ThreatResult | None) -> Content:
    if threat is None:
        return "not done"
    if threat.eps is not None:
        return words.worst_cell(threat)
    sizes = [a.median_size for a in threat.attacks if a.median_size is not None]
    return joined((words.number(min(sizes)), muted("median size"))) if sizes else "no median: see below"
