"""Can the numbers be believed: every check of the battery, with what it saw; a red one voids what it guards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from actsec.reports import lookup, words
from actsec.reports.blocks import (
    Block,
    Chip,
    Content,
    Fold,
    Heading,
    Paragraph,
    Span,
    Table,
    joined,
    muted,
    strong,
    struck,
)
from actsec.reports.load import Report
from actsec.result import Check, ThreatResult, Variant


def section(report: Report) -> Iterator[Block]:
    """A summary of all variants, the audited one's panel in full, the others folded."""
    result = report.result
    yield Heading("Can these numbers be believed?")
    tried = [(variant, threat) for variant in result.variants for threat in variant.threats]
    if not tried:
        yield Paragraph("Not done: no robustness number was measured, so none was checked.")
        return
    yield Paragraph(
        "Attacks that fail for the wrong reason flatter a model. Each number below passed, or did not pass, these "
        "checks. A red check strikes the number through: masking only flatters, so it voids what still stands, never "
        "a model that was fooled. A check that could not be made is not done, never passed."
    )
    rows: list[tuple[Content, ...]] = [
        (
            words.name_of(variant),
            threat.threat,
            _stands(threat),
            words.state(threat),
            _counts(threat.checks),
        )
        for variant, threat in tried
    ]
    yield Table(
        "Masking verdict for every variant and threat",
        ("variant", "threat", "worst case, or median smallest change", "state", "checks"),
        tuple(rows),
        of=tuple(variant.id for variant, _ in tried),
    )
    bare = list(dict.fromkeys(threat.threat for _, threat in tried if not threat.checks))
    if bare:
        yield Paragraph(
            f"Not checked by themselves: {', '.join(bare)}. The checks compare how often the label falls; those under "
            f"{tried[0][1].threat} speak for the model, and where they void its number or are incomplete, these "
            "numbers are no better."
        )
    first = lookup.first(result)
    checked = [(variant, threat) for variant, threat in tried if threat.checks]
    open_ones = [(v, t) for v, t in checked if v is first or any(c.status in ("red", "error") for c in t.checks)]
    others = tuple(block for v, t in checked if (v, t) not in open_ones for block in _panel(v, t))
    count = len(checked) - len(open_ones)
    for variant, threat in open_ones:
        yield from _panel(variant, threat)
    if others:
        yield Fold(f"The other {words.plural(count, 'panel')}, none with a red check", others)


def _stands(threat: ThreatResult) -> Content:
    """The worst case; without an eps every model is fooled in the end, and the median smallest change stands for it."""
    sizes = [a.median_size for a in threat.attacks if a.median_size is not None]
    if threat.eps is not None or not sizes:
        return words.worst_cell(threat)
    size, why = f"median {words.number(min(sizes))}", words.doubt(threat)
    return joined((struck(size), Chip("not believable", "bad"), why)) if why else strong(size)


def _title(variant: Variant, threat: ThreatResult) -> str:
    return f"{variant.title} under {threat.threat}"


def _panel(variant: Variant, threat: ThreatResult) -> Iterator[Block]:
    """The checks that say something here, and folded those that do not apply, with the reason."""
    title = _title(variant, threat)
    rows = tuple(_row(c) for c in threat.checks if c.status != "not_applicable")
    if rows:
        yield Table(
            f"Checks of {title}", ("check", "status", "what was seen", "numbers", "what to do"), rows, about=variant.id
        )
    apart = tuple((joined((strong(c.title), c.rule)), c.claim) for c in threat.checks if c.status == "not_applicable")
    if apart:
        table = Table(f"Checks that do not apply to {title}", ("check", "why"), apart)
        yield Fold(f"{words.plural(len(apart), 'check')} that do not apply to {title}", (table,))


def _row(found: Check) -> tuple[Content, ...]:
    status: Content = words.check(found.status)
    if found.status == "red" and found.voids:
        status = joined((status, Chip("voids the number", "bad")))
    named = joined((strong(found.title), muted(found.rule)))
    return (named, status, found.claim, words.pairs(found.numbers), _further(found))


def _further(found: Check) -> Content:
    """What to do, the command to dig further, and how often the rule is wrong; a dash where all is well."""
    said: list[Content] = [found.advice] if found.advice else []
    said += [Span(found.command, "code")] if found.command else []
    said += [f"False alarms: {found.false_alarms}."] if found.false_alarms else []
    return joined(tuple(said)) if said else "\N{EN DASH}"


def _counts(checks: tuple[Check, ...]) -> Content:
    """``5 ok, 1 warning, 1 not done``."""
    seen = Counter(c.status for c in checks)
    order = ("red", "error", "warn", "not_done", "not_applicable", "ok")
    said = [f"{seen[status]} {words.check(status).text}" for status in order if seen[status]]  # type: ignore[index]  # a status
    return ", ".join(said) or "not done"
