"""Can its confidence be trusted: on untouched inputs, on attacked ones, and after temperature scaling."""

from __future__ import annotations

from collections.abc import Iterator

from actsec.reports import lookup, words
from actsec.reports.blocks import Block, Chip, Content, Figure, Figures, Fold, Heading, Note, Paragraph, Table, joined
from actsec.reports.figures.reliability import reliability
from actsec.reports.load import Report
from actsec.result import Calibration, Result, Variant


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
            "Bars are the share correct in each bin; the pale part is the gap to the model's own confidence, orange "
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
