"""Can its confidence be trusted: untouched, attacked with labels and without, and after temperature scaling."""

from __future__ import annotations

from collections.abc import Iterator

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
)
from actsec.reports.figures.reliability import reliability
from actsec.reports.load import Report
from actsec.result import Calibration, Miscalibration, Result, Variant

_AIMS = {
    "over": "surer of everything",
    "under": "less sure of everything",
    "worst": "surer where it is wrong, less sure where it is right",
    "random": "towards a confidence drawn at random for each input",
}


def section(report: Report) -> Iterator[Block]:
    """Reliability diagrams of the audited model, then every number with bins, n and null."""
    result = report.result
    yield Heading("Confidence")
    rows = [(v, c) for v in result.variants for c in v.calibration]
    if not rows:
        yield Paragraph("Not done: calibration was not measured.")
        return
    yield Paragraph(
        "ECE is the mean gap between confidence and correctness over equal-width bins of the top label's probability. "
        "A perfectly calibrated model does not show 0: the null is what it would show at the same n, on average and "
        "at the 95th percentile. Under attack accuracy falls, so ECE tends to the mean confidence; the confidence on "
        "wrong answers says more."
    )
    figures = tuple(_figures(result))
    if figures:
        yield Figures(figures)
        yield Paragraph(
            "Bars are the share correct in each bin; the rest is the gap to the model's own confidence, orange "
            "where it claims too much, green where too little; the line is honest confidence; below, how many "
            "inputs fall in each bin."
        )
    if any(v.kind == "calibration" for v in result.variants):
        yield Note("Calibration only", "Temperature scaling changes no label: it repairs confidence, not robustness.")
    first = lookup.first(result)
    own = [(v, c) for v, c in rows if v is first or (first and v.kind == "calibration" and v.base == first.base)]
    rest = [pair for pair in rows if pair not in own]
    yield _table("Confidence of the audited model", own)
    if rest:
        yield Fold("Confidence of every other variant", (_table("Confidence of every other variant", rest),))
    yield from _moved(result)


def _figures(result: Result) -> Iterator[Figure]:
    """Untouched, attacked, and untouched behind each calibration defense."""
    first = lookup.first(result)
    if first is None:
        return
    untouched, attacked = lookup.condition(first, clean=True), lookup.condition(first, clean=False)
    if untouched:
        yield reliability("untouched", untouched)
    if attacked:
        yield reliability(words.inputs(attacked), attacked)
    for moved in first.miscalibrations[:1]:
        yield reliability(f"labels kept: {moved.after.condition}", moved.after)
    for variant in lookup.defended(result, first):
        found = lookup.condition(variant, clean=True)
        if variant.kind == "calibration" and found:
            yield reliability(f"untouched, {variant.chain}", found)


def _table(caption: str, rows: list[tuple[Variant, Calibration]]) -> Table:
    return Table(
        f"{caption}. ECE: top label, equal-width bins [low, high), L1",
        ("variant and inputs", "ECE", "MCE", "Brier", "NLL", "mean confidence", "when wrong", "wrong above 90 %"),
        tuple(_row(v, c) for v, c in rows),
        numeric=(2, 3, 4, 5, 6),
        of=tuple(v.id for v, _ in rows),
    )


def _row(variant: Variant, found: Calibration) -> tuple[Content, ...]:
    label: list[Content] = [f"{variant.title}, {words.inputs(found)}"]
    if variant.kind == "calibration":
        label.append(Chip("calibration only"))
    wrong = found.confidence_when_wrong
    return (
        joined(label),
        joined((words.ece_cell(found), words.beside_null(found))),
        f"{found.mce:.3f}",
        f"{found.brier:.3f}",
        f"{found.nll:.3f}",
        words.percent(found.mean_confidence),
        words.percent(wrong) if wrong is not None else "none wrong",
        words.share_cell(found.wrong_above_90),
    )


def _moved(result: Result) -> Iterator[Block]:
    """Attacks that keep the label and move the confidence, per threat, every variant."""
    rows = [(v, m) for v in result.variants for m in v.miscalibrations]
    yield Heading("Confidence attacked, labels kept", 3)
    if not rows:
        yield Paragraph("Not done: no attack tried to move the confidence without the label.")
        return
    yield Paragraph(
        "Each input is changed within eps so that its decided class stays and the confidence in it moves as far as "
        "the attack can. Accuracy is the same by construction, so whatever ECE rises by is the attack's doing. "
        "Noise is the control: of its draws at the same eps, the one that moves the confidence most and keeps the "
        "label. Temperature scaling divides all logits: it mends untouched confidence; what it leaves under attack "
        "stands here."
    )
    for threat in dict.fromkeys(m.threat for _, m in rows):
        under = [(v, m) for v, m in rows if m.threat == threat]
        yield Table(
            f"{threat}: {_AIMS[under[0][1].aim]}. ECE: top label, {under[0][1].after.bins} equal-width bins, L1",
            ("variant", "mean confidence", "by noise", "attacked", "ECE", "by noise", "attacked", "accuracy", "moved"),
            tuple(_moved_row(v, m) for v, m in under),
            numeric=(1, 2, 3),
            of=tuple(v.id for v, _ in under),
        )


def _moved_row(variant: Variant, found: Miscalibration) -> tuple[Content, ...]:
    accuracy: Content = words.percent(found.accuracy.value)
    if found.changed:
        accuracy = joined((accuracy, Chip(f"{found.changed} labels changed", "bad")))
    name: list[Content] = [words.name_of(variant)]
    if variant.kind == "calibration":
        name.append(Chip("calibration only"))
    noise, moved = found.noise, words.of(found.moved)
    beside = f"noise {words.of(found.noise_moved)}" if found.noise_moved else "noise not done"
    return (
        joined(name),
        words.percent(found.before.mean_confidence),
        words.percent(noise.mean_confidence) if noise else "not done",
        words.percent(found.after.mean_confidence),
        words.ece_cell(found.before),
        words.ece_cell(noise),
        joined((words.ece_cell(found.after), words.beside_null(found.after))),
        accuracy,
        joined((moved, muted(beside))),
    )
