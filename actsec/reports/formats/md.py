"""Markdown for a pull request: the same blocks, figures as their words, everything untrusted escaped.

A hostile name can neither open a tag, a link or a table cell, nor mention a person or an issue.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from actsec import registry
from actsec.reports import words
from actsec.reports.blocks import (
    Block,
    Chip,
    Code,
    Content,
    Figure,
    Figures,
    Fold,
    Heading,
    Images,
    Items,
    Metrics,
    Note,
    Paragraph,
    Table,
    spans,
)
from actsec.reports.load import Report
from actsec.reports.order import is_checkup, sections_of

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")
_REFERENCE = re.compile(r"(#|\bGH\\?-)(?=\d)", re.IGNORECASE)  # GitHub links them after Markdown took its escapes away


def render(report: Report) -> str:
    """The whole report; tables in GitHub's flavour."""
    name = escape(str(report.result.model.get("name", "model")))
    parts = [f"# actsec {'diagnose' if is_checkup(report.result) else 'audit'}: {name}"]
    for section in sections_of(report.result):
        for block in registry.find("sections", section)(report):
            parts.extend(_lines(block))
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no tags, no links, no emphasis, no mentions."""
    text = words.clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _SPECIAL.sub(r"\\\1", text)
    text = _REFERENCE.sub("\\1\N{WORD JOINER}", text.replace("@", "@\N{WORD JOINER}"))
    text = text.replace("://", "&#58;//").replace("www.", "www&#46;")
    return text.strip()


def inline(content: Content) -> str:
    """Text with its meanings as Markdown."""
    return "".join(_inline(item) for item in spans(content))


def _inline(item: Any) -> str:
    if isinstance(item, str):
        head, tail = item[: len(item) - len(item.lstrip())], item[len(item.rstrip()) :] if item.strip() else ""
        return f"{head}{escape(item)}{tail}"
    text = escape(item.text)
    if isinstance(item, Chip) or item.style == "strong":
        return f"**{text}**"
    if item.style == "struck":
        return f"~~{text}~~"
    return text


def _lines(block: Block) -> Iterator[str]:
    yield from _DRAW[type(block)](block)


def _heading(block: Heading) -> Iterator[str]:
    yield f"{'#' * block.level} {escape(block.text)}"


def _paragraph(block: Paragraph) -> Iterator[str]:
    yield f"**{inline(block.content)}**" if block.lead else inline(block.content)


def _items(block: Items) -> Iterator[str]:
    yield "\n".join(f"- {inline(item)}" for item in block.items)


def _metrics(block: Metrics) -> Iterator[str]:
    rows = ["| what | value | of what |", "|---|---|---|"]
    for item in block.items:
        shown = inline(item.value) + (f" {inline(item.status)}" if item.status else "")
        rows.append(f"| {escape(item.label)} | {shown} | {inline(item.detail)} |")
    yield "\n".join(rows)


def _table(block: Table) -> Iterator[str]:
    yield f"*{escape(block.caption)}*"
    rule = ["---:" if i in block.numeric else "---" for i in range(len(block.columns))]
    rows = [[escape(c) for c in block.columns], rule, *([inline(cell) for cell in row] for row in block.rows)]
    yield "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _figure(block: Figure) -> Iterator[str]:
    yield f"*Figure. {escape(block.caption)}* {escape(block.alt)}"


def _figures(block: Figures) -> Iterator[str]:
    if block.small:
        yield "\n".join(f"- {escape(item.alt)}" for item in block.items)
        return
    for item in block.items:
        yield from _figure(item)


def _images(block: Images) -> Iterator[str]:
    rows = [[inline(strip.content), *(escape(p.label) for p in strip.pictures[:2])] for strip in block.strips]
    head = [["example", "original", "attacked"], ["---", "---", "---"]]
    yield "\n".join(f"| {' | '.join(row)} |" for row in head + rows)


def _code(block: Code) -> Iterator[str]:
    if block.caption:
        yield escape(block.caption) + ":"
    lines = [words.clean(line) for line in block.text.split("\n")]
    yield "\n".join(f"    {line}" for line in lines)


def _note(block: Note) -> Iterator[str]:
    yield f"> **{escape(block.title)}** {inline(block.content)}"


def _fold(block: Fold) -> Iterator[str]:
    yield f"<details><summary>{escape(block.summary)}</summary>"
    for inner in block.blocks:
        yield from _lines(inner)
    yield "</details>"


_DRAW: dict[type, Callable[[Any], Iterator[str]]] = {
    Heading: _heading,
    Paragraph: _paragraph,
    Items: _items,
    Metrics: _metrics,
    Table: _table,
    Figure: _figure,
    Figures: _figures,
    Images: _images,
    Code: _code,
    Note: _note,
    Fold: _fold,
}
