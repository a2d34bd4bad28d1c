"""Parts of sections: what attacks changed in the rows of a table, in its own units; how often a class is missed."""

from __future__ import annotations

from collections.abc import Iterator

from actsec.reports import lookup, words
from actsec.reports.blocks import Block, Content, Fold, Heading, Paragraph, Table, code, joined, muted, strong
from actsec.result import Cell, Column, Example, Result, Share, Variant

MOST_CELLS = 6
"""Cells of one row shown; the smaller changes are counted."""
ROWS_EACH = 2
"""Rows shown of one attack."""


def changed_cells(result: Result) -> Iterator[Block]:
    """A table of rows that fooled the model, changed cells alone, and the rules of the columns."""
    yield Heading("Changed cells", 3)
    shown = _chosen(result)
    if not shown:
        yield Paragraph("No row was changed so that the model erred.")
    else:
        yield Paragraph(
            "In the columns' own units: the largest changes first, measured in standard deviations of the training "
            "table. Cells that did not change are left out; a one-hot group is one cell."
        )
        yield _cells(result, shown)
    yield Fold(f"What may change in the {words.plural(len(result.data.columns), 'column')}", (_columns(result),))


def _chosen(result: Result) -> tuple[Example, ...]:
    """The first rows of each attack under each threat."""
    count: dict[tuple[str, str], int] = {}
    chosen = []
    for example in result.examples:
        key = (example.attack, example.threat)
        count[key] = count.get(key, 0) + 1
        if example.cells and count[key] <= ROWS_EACH:
            chosen.append(example)
    return tuple(chosen)


def _cells(result: Result, shown: tuple[Example, ...]) -> Block:
    """Every shown row: what the model said, how, and its cells."""
    rows: list[tuple[Content, ...]] = []
    for example in shown:
        said = joined(
            (
                strong(f"{example.before} \N{RIGHTWARDS ARROW} {example.after}"),
                muted(f"{words.percent(example.before_confidence)}, then {words.percent(example.after_confidence)}"),
            )
        )
        how = joined((code(example.attack), muted(f"{example.threat}, size {words.number(example.size)}")))
        rest = len(example.cells) - MOST_CELLS
        for i, cell in enumerate(example.cells[:MOST_CELLS]):
            first = i == 0
            rows.append((said if first else "", how if first else "", cell.feature, *_change(cell)))
        if rest > 0:
            rows.append(("", "", muted(f"and {words.plural(rest, 'smaller change')}"), "", "", ""))
    caption = f"Rows of {result.data.name} that fooled {lookup.title(result, shown[0].variant)}"
    columns = ("called, then", "attack", "column", "before", "after", "in deviations")
    return Table(caption, columns, tuple(rows), numeric=(3, 4, 5))


def _change(cell: Cell) -> tuple[Content, Content, Content]:
    size = "another category" if cell.change == 0 else words.minus(f"{cell.change:+.3g}")
    return cell.before, strong(cell.after), size


def _columns(result: Result) -> Block:
    rows: list[tuple[Content, ...]] = [
        (c.name, f"{c.low:.6g}", f"{c.high:.6g}", f"{c.std:.4g}", _rule(c)) for c in result.data.columns
    ]
    return Table(
        "The inputs, in the columns' own units. An attack that broke any of this was rejected.",
        ("column", "least", "largest", "1 deviation", "and"),
        tuple(rows),
        numeric=(1, 2, 3),
    )


def _rule(column: Column) -> str:
    found = []
    if column.immutable:
        found.append("immutable")
    if column.direction is not None:
        found.append(f"only {column.direction}")
    if column.step is not None:
        found.append("whole numbers" if column.step == 1 else f"in steps of {column.step:g}")
    if column.group is not None:
        found.append(f"one of {column.group}, 0 or 1")
    return ", ".join(found) or "any value between"


def miss_rates(result: Result) -> Iterator[Block]:
    """The miss rate of the positive class, untouched and at the worst case of each threat."""
    positive = result.plan.get("positive")
    # Without a budget every example is missed in the end: the size tells, not the rate.
    threats = dict.fromkeys(t.threat for v in result.variants for t in v.threats if t.eps is not None)
    rows: list[tuple[Content, ...]] = [
        (words.name_of(v), _share(v.clean.missed), *(_attacked(v, name) for name in threats))
        for v in result.variants
        if v.clean.missed is not None
    ]
    if not rows:
        return
    yield Paragraph(
        f"The miss rate is the share of the examples of class {positive} that the model calls something else "
        "(false negatives). Attacked, it is a lower bound: a stronger attack may hide more."
    )
    columns = ("variant", "untouched", *(f"worst case, {name}" for name in threats))
    yield Table(f"Miss rate of {positive}, with 95 % Wilson intervals", columns, tuple(rows))


def _attacked(variant: Variant, name: str) -> Content:
    threat = lookup.threat(variant, name)
    if threat is None:
        return "not done"
    return _share(threat.missed, believed=not words.doubt(threat))


def _share(share: Share | None, *, believed: bool = True) -> Content:
    return "not done" if share is None else words.share_cell(share, believed=believed)
