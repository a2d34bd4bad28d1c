"""Inputs in a row or two, each with what it is and what it is called."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from actsec.reports.blocks import Figure
from actsec.reports.figures import svg

SIDE, GAP, TEXT, ACROSS, LETTERS = 98.0, 16.0, 54.0, 7, 17


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture as PNG bytes; what it is, what it is called, and how surely, below one another."""

    png: bytes
    what: str
    label: str
    sure: str


def gallery(title: str, items: Sequence[Shown], caption: str) -> Figure:
    """The figure, ``ACROSS`` pictures in a row. The pictures lie inside it."""
    parts: list[Markup] = []
    for i, item in enumerate(items):
        left, top = i % ACROSS * (SIDE + GAP), i // ACROSS * (SIDE + TEXT + GAP)
        uri = "data:image/png;base64," + base64.b64encode(item.png).decode()
        box = {"x": left, "y": top, "width": SIDE, "height": SIDE}
        parts.append(svg.tag("image", **box, href=uri, image_rendering="pixelated", preserveAspectRatio="xMidYMid"))
        parts.append(svg.tag("rect", **box, fill="none", class_="grid"))
        for line, (text, class_) in enumerate(((item.what, "tick"), (item.label, "value"), (item.sure, "tick"))):
            below = top + SIDE + 16 + line * 16
            parts.append(svg.tag("text", svg.shorten(text, LETTERS), x=left, y=below, class_=class_))
    alt = f"{title}: " + "; ".join(f"{item.what}, {item.label}, {item.sure}" for item in items) + "."
    columns, rows = min(len(items), ACROSS), -(-len(items) // ACROSS)
    width, height = columns * (SIDE + GAP) - GAP, rows * (SIDE + TEXT + GAP) - GAP
    return Figure(svg.drawing(width, height, alt, parts), alt, caption)
