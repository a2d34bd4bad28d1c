"""What it looks like: inputs that fooled the model, beside the originals and the difference made visible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from actsec.reports import lookup, words
from actsec.reports.blocks import (
    Block,
    Content,
    Heading,
    Images,
    Paragraph,
    Picture,
    Strip,
    Table,
    joined,
    muted,
    strong,
)
from actsec.reports.figures import images
from actsec.reports.load import Report
from actsec.reports.sections._cells import changed_cells
from actsec.result import Example, Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_BYTES = 2_500_000
"""Picture bytes in one report: base64 makes a third more of them, and the file stays below 5 MB."""


SHOWN = 8
"""Examples in one report."""
LISTED = 200
"""Examples in a table, where they are no pictures."""


def section(report: Report) -> Iterator[Block]:
    """Pictures where the inputs are pictures, a table where they are not."""
    result, stored = report.result, report.examples
    yield Heading("Examples")
    if result.plan.get("no_examples"):
        yield Paragraph("Left out: this report is to hold no inputs (--no-examples).")
        return
    if result.data.columns:
        yield from changed_cells(result)
        return
    if not result.examples:
        yield Paragraph("None kept.")
        return
    if stored is None:
        yield Paragraph("The images were not kept with this run; the numbers are.")
    elif not images.drawable(stored["original"].shape[1:]):
        shape = " \N{MULTIPLICATION SIGN} ".join(map(str, stored["original"].shape[1:]))
        yield Paragraph(f"Inputs of shape {shape} are not pictures and are not drawn.")
    else:
        yield from _grid(result, stored)
        return
    if len(result.examples) > LISTED:
        yield Paragraph(f"The first {LISTED} of {len(result.examples)}; the rest: report.json.")
    yield _table(result)


def _grid(result: Result, stored: Mapping[str, NDArray[np.float32]]) -> Iterator[Block]:
    strips: list[Strip] = []
    spent = 0
    for example in varied(result.examples, SHOWN):
        strip = _strip(result, example, stored)
        spent += sum(len(p.png) for p in strip.pictures)
        if spent > MOST_BYTES:
            break
        strips.append(strip)
    if len(strips) < len(result.examples):
        yield Paragraph(
            f"{len(strips)} of {len(result.examples)} shown, of as many classes and attacks as there are; "
            "the rest: examples.npz."
        )
    if strips:
        caption = "Original, attacked, and attacked minus original around grey, amplified as written."
        yield Images(caption, tuple(strips))


def varied(examples: tuple[Example, ...], most: int | None = None) -> list[Example]:
    """The first ``most``, each the one whose original, class and attack were shown least before it, else the first.

    None: all of them. Each choice looks at every example that is left.
    """
    left, order, seen = list(examples), list[Example](), Counter[tuple[str, ...]]()

    def kinds(e: Example) -> list[tuple[str, ...]]:
        # Examples carry no id of their original: its class and the model's confidence in it tell it.
        return [
            ("original", e.true, repr(e.before_confidence)),
            ("class", e.true),
            ("attack", e.attack.partition("(")[0]),
        ]

    while left and (most is None or len(order) < most):
        chosen = min(left, key=lambda e: sum(seen[kind] for kind in kinds(e)))
        left.remove(chosen)
        order.append(chosen)
        seen.update(kinds(chosen))
    return order


def _strip(result: Result, example: Example, stored: Mapping[str, NDArray[np.float32]]) -> Strip:
    low, high = result.data.bounds
    original, attacked = stored["original"][example.index], stored["attacked"][example.index]
    delta, factor = images.difference(original, attacked)
    before = f"{example.before}, {words.percent(example.before_confidence)}"
    after = f"{example.after}, {words.percent(example.after_confidence)}"
    amplified = f"amplified {factor:.3g} times" if factor else "none"
    return Strip(
        (
            Picture(images.picture(original, low, high), f"original, called {before}", "original", f"called {before}"),
            Picture(images.picture(attacked, low, high), f"attacked, called {after}", "attacked", f"called {after}"),
            Picture(delta, f"difference, {amplified}", "difference", amplified),
        ),
        _line(result, example),
    )


def _line(result: Result, example: Example) -> Content:
    said = f"{example.attack} on {lookup.title(result, example.variant)}, size {words.number(example.size)}"
    return joined((strong(f"True: {example.true}"), muted(f"{said} ({example.threat})")))


def _table(result: Result) -> Table:
    rows: list[tuple[Content, ...]] = [
        (
            e.true,
            f"{e.before}, {words.percent(e.before_confidence)}",
            f"{e.after}, {words.percent(e.after_confidence)}",
            words.spec(e.attack),
            words.number(e.size),
        )
        for e in result.examples[:LISTED]
    ]
    columns = ("true", "called, confidence", "called after, confidence", "attack", "size")
    return Table("Examples that fooled the model", columns, tuple(rows), numeric=(4,))
