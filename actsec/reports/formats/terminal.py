"""The end of a run in a terminal: the worst case first, what it rests on, what helps, and where the report is."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TypeAlias

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from actsec.reports import fixes, lookup, words
from actsec.reports.answers import answers, beyond
from actsec.reports.blocks import Chip, Content, Span, joined, spans
from actsec.reports.load import Report
from actsec.reports.next_command import placed
from actsec.result import Advice, AttackResult, Result, ThreatResult, Variant

_STYLE = {"good": "green", "warn": "yellow", "bad": "red", "neutral": "", "strong": "bold", "struck": "strike"}
_STYLE |= {"code": "", "muted": "dim"}
Line: TypeAlias = Text | Table | Padding
WIDTH, NAME, MOST = 100, 30, 6


def render(report: Report) -> str:
    """The summary as plain text without escape codes, ``WIDTH`` columns wide."""
    sink = io.StringIO()
    show(report, Console(file=sink, width=WIDTH, color_system=None, force_terminal=False, highlight=False))
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines()) + "\n"


def show(report: Report, console: Console) -> None:
    """Print the summary on a console, in colour where the console has it."""
    result = report.result
    measured = _models(result), _attacks(result), _moved(result)
    for part in (_headline(report), *measured, _advice(report), _end(report)):
        for line in part:
            console.print(line, highlight=False, soft_wrap=False)


def text(content: Content) -> Text:
    """Content as rich text; no markup of others is ever read."""
    out = Text()
    for item in spans(content):
        if isinstance(item, str):
            out.append(words.clean(item))
        elif isinstance(item, Chip):
            out.append(words.clean(item.text), style=_STYLE[item.tone])
        elif isinstance(item, Span):
            # Where nothing can be struck through, the words must say so.
            shown = words.clean(item.text)
            out.append(f"~{shown}~" if item.style == "struck" else shown, style=_STYLE[item.style])
    return out


def _headline(report: Report) -> Iterator[Line]:
    result = report.result
    yield Text()
    if result.status == "partial":
        yield Text("Partial: not everything was run.", style="yellow")
    found = answers(result)
    for each in found:
        parts: list[Content] = [Span(f"{each.claim}.", "strong")]
        parts += [words.sentence(part).rstrip(".") + "." for part in each.rest]
        yield text(joined(parts))
        if each.command:
            yield text(("Next: ", Span(placed(each.command, report.shown or report.folder), "strong")))
    for index, line in enumerate(beyond(result, found) if found else result.headline):
        yield Text(words.clean(line), style="" if found or index else "bold")
    variant = lookup.first(result)
    threat = lookup.main_threat(variant) if variant else None
    if variant and threat:
        yield Text()
        line = f"{words.worked_line(variant, threat)} ({variant.title}, {threat.threat})"
        why = words.doubt(threat)
        if not why:
            yield text(Span(line, "strong"))
            yield text(f"What is still correct is not refuted {words.budget(result.plan)}; it is no certificate.")
        else:
            yield text((Span(line, "struck"), " ", Chip("not believable", "bad"), f": {why}"))


def _models(result: Result) -> Iterator[Line]:
    """Every variant, one line each."""
    if not result.variants:
        return
    names = lookup.threats(result)
    yield Text()
    if result.heading:
        yield Text(words.clean(words.sentence(result.heading)), style="dim")
    table = _table(("variant", "untouched", *(_column(name, result) for name in names), "ECE (null p95)"))
    for variant in result.variants:
        untouched = lookup.condition(variant, clean=True)
        table.add_row(
            text(variant.title),
            text(words.percent(variant.clean.accuracy.value) if words.measured(variant) else "not done"),
            *(_under(lookup.threat(variant, name)) for name in names),
            text(f"{untouched.ece:.3f} ({untouched.null_p95:.3f})" if untouched else "not done"),
        )
    yield table


def _moved(result: Result) -> Iterator[Line]:
    """Confidence attacked with the label kept, every variant, one line each."""
    rows = [(v, m) for v in result.variants for m in v.miscalibrations]
    for threat in dict.fromkeys(m.threat for _, m in rows):
        yield Text()
        yield text(f"confidence attacked, labels kept, under {threat}: untouched, by noise, attacked")
        columns = ("variant", "confidence", "by noise", "attacked", "ECE", "by noise", "attacked", "null p95")
        table = _table(columns, tight=True)
        for variant, m in rows:
            if m.threat == threat:
                three = (m.before, m.noise, m.after)
                sure = [words.percent(c.mean_confidence) if c else "not done" for c in three]
                error = [f"{c.ece:.3f}" if c else "not done" for c in three]
                table.add_row(text(variant.title), *map(text, [*sure, *error, f"{m.after.null_p95:.3f}"]))
        yield table


def _column(threat: str, result: Result) -> str:
    bounded = any(t.eps is not None for v in result.variants for t in v.threats if t.threat == threat)
    return f"worst case {threat}" if bounded else f"smallest {threat} (median)"


def _under(threat: ThreatResult | None) -> Text:
    if threat is None or threat.worst_case.n == 0:
        return Text("not done")
    if threat.eps is None:
        sizes = [a.median_size for a in threat.attacks if a.median_size is not None]
        return Text(words.number(min(sizes)) if sizes else "none")
    share = f"{words.percent(threat.worst_case.value)}"
    bounds = f" [{threat.worst_case.low * 100:.1f}, {threat.worst_case.high * 100:.1f}]"
    if not words.doubt(threat):
        return text((Span(share, "strong"), Span(bounds, "muted")))
    return text((Span(share, "struck"), " ", Chip("not believable", "bad")))


def _attacks(result: Result) -> Iterator[Line]:
    """The audited model, attack by attack."""
    variant = lookup.first(result)
    if variant is None:
        return
    for threat in variant.threats:
        yield Text()
        yield text(f"{variant.title} under {threat.threat} ({threat.echo})")
        table = _table(("attack", _alone(threat), "passes per example"))
        ordered = sorted(
            (a for a in threat.attacks if a.error is None), key=lambda a: (a.baseline, a.still_correct.value)
        )
        for attack in ordered:
            table.add_row(text(attack.attack), _left(attack, threat), text(_passes(attack)))
        for attack in threat.attacks:
            if attack.error is not None:
                table.add_row(text(attack.attack), text(("not done: ", attack.error)), Text())
        yield table
        if threat.saved is not None:
            yield text(f"  {words.saved(threat.saved, result.data.grid)}")
    yield from _corrupted(variant)
    yield from _sanity(variant)


def _alone(threat: ThreatResult) -> str:
    if threat.eps is None:
        return "smallest change that works (median)"
    return f"{words.stands(threat)[0]} after this attack alone (upper bound)"


def _left(attack: AttackResult, threat: ThreatResult) -> Text:
    if threat.eps is None:
        return text(f"{words.smallest(attack)}  of {attack.n} images")
    shown = f"{attack.still_correct.k} of {attack.still_correct.n}  {words.percent(attack.still_correct.value)}"
    return text((shown, Span("  baseline", "muted")) if attack.baseline else shown)


def _passes(attack: AttackResult) -> str:
    return f"{words.number(attack.forwards, 1)} forward, {words.number(attack.backwards, 1)} backward"


def _corrupted(variant: Variant) -> Iterator[Line]:
    """What comes without an adversary, weakest first, at the strongest severity measured of each kind."""
    found = variant.corruptions
    if found is None:
        return
    last = {row.kind: row for row in sorted(found.rows, key=lambda row: row.severity)}
    yield Text()
    yield text(f"{variant.title} under corruptions, no adversary: {words.percent(found.clean.value)} untouched")
    table = _table(("corruption", "still correct", "setting"))
    for row in sorted(last.values(), key=lambda row: row.accuracy.value):
        left = f"{row.accuracy.k} of {row.accuracy.n}  {words.percent(row.accuracy.value)}"
        table.add_row(text(words.corruption(row.kind)), text(left), text(f"severity {row.severity}, {row.setting}"))
    yield table


def _sanity(variant: Variant) -> Iterator[Line]:
    """What stands in the way of believing the numbers; nothing when all is well, which the headline says."""
    # What the model itself shows is said under every threat, and once here.
    seen = {(c.rule, c.claim): c for t in variant.threats for c in t.checks}
    wrong = [c for c in seen.values() if c.status in ("red", "error", "warn")]
    if wrong:
        yield Text()
        yield Text("Sanity checks that are not clean")
        for check in wrong:
            yield Padding(text((f"{check.rule} ", words.check(check.status), f": {check.claim}")), (0, 0, 0, 2))


def _advice(report: Report) -> Iterator[Line]:
    """What helps and at what cost: the fixes in a table, sentences where they do anything, and what was not tried."""
    result, times = report.result, report.environment.get("estimates", {})
    tried = fixes.tried(result)
    if result.advice:
        yield Text()
        yield Text("What helps, and what it costs")
    if tried:
        yield Padding(text(fixes.rule(tried)), (0, 0, 0, 2))
        yield from _effects(report, tried)
        if apart := fixes.unequal(result, tried):
            yield Padding(text(f"These trainings are not alike: {apart}"), (0, 0, 0, 2))
    for advice in tried:
        if advice.label != "no detectable effect" or not advice.effects:
            yield Padding(text(_advised(advice)), (0, 0, 0, 2))
    for advice in result.advice:
        if advice.label == "not tested" and any(v.id == advice.variant for v in result.variants):
            yield Padding(text(advice.sentence), (0, 0, 0, 2))
    untried = [a.variant for a in result.advice if a.label == "not tested" and a.estimate]
    if untried:
        named = (f"{name} ({times[name]})" if name in times else name for name in untried)
        yield Padding(text(f"not tested: {', '.join(named)}"), (0, 0, 0, 2))


def _effects(report: Report, tried: tuple[Advice, ...]) -> Iterator[Line]:
    """Two lines a cell: the change, and its interval. What does not fit beside the first threat has its own table."""
    measured = [m for m in fixes.metrics(tried) if any(fixes.effect(a, m) for a in tried)]
    first = next((m for m in measured if m.startswith("robust_accuracy")), None)
    later = ("robust_accuracy", "smallest_change", "dead_units")
    others = [m for m in measured if m != first and m.partition("@")[0] in later]
    for metrics, costs in (([m for m in measured if m not in others], True), (others, False)):
        if not metrics:
            continue
        table = _table(("fix", *map(fixes.short, metrics), *(("latency, passes",) if costs else ())), tight=True)
        for advice in tried:
            name = _lines(lookup.chain(report.result, advice.variant), Chip(advice.label, fixes.tone(advice.label)))
            cost = _lines(fixes.latency(report, advice), _short(advice.passes))
            cells = [_lines(*fixes.narrow(advice, metric)) for metric in metrics]
            table.add_row(name, *cells, *((cost,) if costs else ()))
        yield table


def _lines(first: Content, second: Content) -> Text:
    """Two lines of one cell."""
    return Text("\n").join((text(first), text(second)))


def _short(passes: int | None) -> str:
    """``59k``."""
    if passes is None:
        return fixes.NOT_MEASURED
    return str(passes) if passes < 1000 else f"{passes / 1000:.0f}k"


def _advised(advice: Advice) -> Content:
    cost = f" ({advice.estimate})" if advice.estimate else ""
    return (Chip(advice.label, fixes.tone(advice.label)), f": {advice.sentence}{cost}")


def _end(report: Report) -> Iterator[Line]:
    result = report.result
    yield Text()
    for gate in result.gates:
        tone = {"passed": "good", "failed": "bad"}.get(gate.outcome, "warn")
        yield text((f"Gate {gate.gate}: ", Chip(gate.outcome, tone), f" ({gate.why})"))  # type: ignore[arg-type]  # a Tone
    if result.not_done:
        yield Text("Not done")
        for item in result.not_done[:MOST]:
            yield Padding(text(item), (0, 0, 0, 2))
        if len(result.not_done) > MOST:
            yield text(f"  and {len(result.not_done) - MOST} more, listed in the report")
    yield text(f"{words.exit_meaning(result.exit_code, gates=bool(result.gates))}.")
    if where := report.shown or report.folder:
        yield text(("Report: ", Span(f"{where.rstrip('/')}/report.html", "strong")))


def _table(columns: tuple[str, ...], *, tight: bool = False) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0) if tight else (0, 3, 0, 2), header_style="dim")
    for index, name in enumerate(columns):
        least = (NAME - 9 if tight else NAME) if index == 0 else None
        header = words.clean(name)
        table.add_column(Text("\n".join(header.split()) if tight else header), overflow="fold", min_width=least)
    return table
