"""What a section is made of: small frozen blocks that every format can draw.

Text in a block is raw and may come from anywhere (class names, paths); each format cleans and escapes it. The one
exception is ``Figure.svg``, which the figures package builds with every text already escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from markupsafe import Markup

Style = Literal["strong", "struck", "code", "muted"]
Tone = Literal["good", "warn", "bad", "neutral"]


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text with a meaning: strong (the worst case), struck (not to be believed), code, or muted."""

    text: str
    style: Style


@dataclass(frozen=True, slots=True)
class Chip:
    """A status in a word or two. The tone only repeats what the word says."""

    text: str
    tone: Tone = "neutral"


Inline: TypeAlias = str | Span | Chip
Content: TypeAlias = Inline | tuple[Inline, ...]


@dataclass(frozen=True, slots=True)
class Heading:
    """level 2 opens a section, 3 and 4 lie inside one. The title, level 1, belongs to the format."""

    text: str
    level: Literal[2, 3, 4] = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text. lead marks the first sentence of a verdict."""

    content: Content
    lead: bool = False


@dataclass(frozen=True, slots=True)
class Items:
    """A list, numbered or not."""

    items: tuple[Content, ...]
    numbered: bool = False


@dataclass(frozen=True, slots=True)
class Metric:
    """One headline number: what it is, the number, and what it counts."""

    label: str
    value: Content
    detail: Content
    status: Chip | None = None


@dataclass(frozen=True, slots=True)
class Metrics:
    """The headline numbers side by side."""

    items: tuple[Metric, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """A question, what is said to it, and what that rests on."""

    question: str
    claim: Content
    rest: Content


@dataclass(frozen=True, slots=True)
class Claims:
    """The questions a reader comes with, one under another."""

    items: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """The first column names the row. numeric columns align right; strong rows are the ones to read first.

    of says of what each row is (a variant's id, an attack's spec), about of what the whole table is: where scripts run,
    what is of the same thing lights up together, in figures too.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Content, ...], ...]
    numeric: tuple[int, ...] = ()
    strong: tuple[int, ...] = ()
    of: tuple[str, ...] = ()
    about: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing. alt says in words what it shows, with its numbers; caption says how to read it."""

    svg: Markup
    alt: str
    caption: str


@dataclass(frozen=True, slots=True)
class Figures:
    """Drawings that belong together, side by side where there is room; small ones many to a row, without captions."""

    items: tuple[Figure, ...]
    small: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """One image as PNG bytes, with a title and a line of text."""

    png: bytes
    alt: str
    title: str
    label: str


@dataclass(frozen=True, slots=True)
class Strip:
    """Pictures of one example, left to right, under one sentence."""

    pictures: tuple[Picture, ...]
    content: Content


@dataclass(frozen=True, slots=True)
class Images:
    """A grid of examples."""

    caption: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Text to copy."""

    text: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """A remark set apart. level says how much it matters."""

    title: str
    content: Content
    level: Tone = "neutral"


@dataclass(frozen=True, slots=True)
class Fold:
    """Detail that may be closed on a screen and is printed in full."""

    summary: str
    blocks: tuple[Block, ...]
    open: bool = False


Block: TypeAlias = (
    Heading | Paragraph | Items | Metrics | Claims | Table | Figure | Figures | Images | Code | Note | Fold
)


def strong(text: str) -> Span:
    """The text, to be read first."""
    return Span(text, "strong")


def struck(text: str) -> Span:
    """The text struck through: a number that must not be believed."""
    return Span(text, "struck")


def code(text: str) -> Span:
    """The text as typed."""
    return Span(text, "code")


def muted(text: str) -> Span:
    """The text, less loud."""
    return Span(text, "muted")


def spans(content: Content) -> tuple[Inline, ...]:
    """The content as a tuple."""
    return content if isinstance(content, tuple) else (content,)


def joined(parts: Iterable[Content], separator: str = " ") -> tuple[Inline, ...]:
    """Contents one after another."""
    out: list[Inline] = []
    for part in parts:
        if out:
            out.append(separator)
        out.extend(spans(part))
    return tuple(out)


def plain(content: Content) -> str:
    """The words alone."""
    return "".join(item if isinstance(item, str) else item.text for item in spans(content))
