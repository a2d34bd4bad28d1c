"""What happens without an adversary: noise, blur, contrast, JPEG, shift and rotation, beside clean accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from actsec.reports import lookup, words
from actsec.reports.blocks import Block, Content, Heading, Paragraph, Table, joined, muted
from actsec.reports.figures.bars import Bar, Group, bars
from actsec.reports.load import Report
from actsec.result import Corrupted, Corruptions, Variant

CAPTION = "Whiskers are 95 % Wilson intervals; untouched, {clean} of the same {n} images are right."


def section(report: Report) -> Iterator[Block]:
    """The audited model by kind and severity, then every undefended model at the strongest severity measured."""
    measured = [(v, v.corruptions) for v in report.result.variants if v.corruptions is not None]
    yield Heading("Corruptions")
    if not measured:
        yield Paragraph("Not done: corruptions are measured on images, and none were asked for here.")
        return
    yield Paragraph(
        "What an image meets on its way to the model, in stated strengths. These are no attacks: nobody looked for the "
        "worst case, and no robustness number counts them. A model can stand all of them and fall to an adversary."
    )
    first = lookup.first(report.result)
    audited = next(((v, c) for v, c in measured if v is first), measured[0])
    yield _table(*audited)
    yield _figure(*audited)
    if len(measured) > 1:
        yield _models(measured)


def _kinds(found: Corruptions) -> dict[str, dict[int, Corrupted]]:
    kinds: dict[str, dict[int, Corrupted]] = {}
    for row in found.rows:
        kinds.setdefault(row.kind, {})[row.severity] = row
    return kinds


def _severities(found: Corruptions) -> list[int]:
    return sorted({row.severity for row in found.rows})


def _table(variant: Variant, found: Corruptions) -> Block:
    severities = _severities(found)
    untouched: tuple[Content, ...] = ("untouched", *(words.share_cell(found.clean) for _ in severities))
    rows = [
        (words.corruption(kind), *(_cell(levels.get(severity)) for severity in severities))
        for kind, levels in _kinds(found).items()
    ]
    return Table(
        f"{variant.title}: accuracy on {found.n} corrupted images, with 95 % Wilson intervals",
        ("corruption", *(f"severity {severity} of 5" for severity in severities)),
        (untouched, *rows),
        strong=(0,),
    )


def _cell(row: Corrupted | None) -> Content:
    return joined((words.share_cell(row.accuracy), muted(row.setting))) if row else "not done"


def _figure(variant: Variant, found: Corruptions) -> Block:
    severities = _severities(found)
    groups = [
        Group(words.corruption(kind), tuple(_bar(levels.get(severity)) for severity in severities))
        for kind, levels in _kinds(found).items()
    ]
    title = f"Accuracy of {variant.title} under corruptions, untouched {words.percent(found.clean.value)}"
    caption = CAPTION.format(clean=words.percent(found.clean.value), n=found.n)
    return bars(title, [f"severity {severity}" for severity in severities], groups, caption)


def _bar(row: Corrupted | None) -> Bar:
    return Bar(row.accuracy.value, row.accuracy.low, row.accuracy.high) if row else Bar(None)


def _models(measured: Sequence[tuple[Variant, Corruptions]]) -> Block:
    """One line a model, a column a kind, at the strongest severity measured."""
    kinds = list(_kinds(measured[0][1]))
    rows: list[tuple[Content, ...]] = []
    for variant, found in measured:
        last = {kind: levels[max(levels)] for kind, levels in _kinds(found).items()}
        shown = (words.percent(last[kind].accuracy.value) if kind in last else "not done" for kind in kinds)
        rows.append((words.name_of(variant), words.percent(found.clean.value), *shown))
    strongest = max(_severities(measured[0][1]))
    return Table(
        f"Every undefended model at severity {strongest}, on the same {measured[0][1].n} images",
        ("variant", "untouched", *map(words.corruption, kinds)),
        tuple(rows),
        numeric=tuple(range(1, len(kinds) + 2)),
        of=tuple(variant.id for variant, _ in measured),
    )
