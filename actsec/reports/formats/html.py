"""One self-contained HTML file: no network, light and dark, screen, phone and paper; all of it without JavaScript.

Where scripts run, tables sort, and what shows one variant or attack lights up together in tables and figures. Every
text passes through ``words.clean`` and jinja's escaping; the content security policy allows this file's own style sheet
and script (by their hashes) and data: images, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from actsec import registry
from actsec.reports import lookup, words
from actsec.reports.blocks import Block, Content, Heading, plain, spans
from actsec.reports.load import Report
from actsec.reports.order import is_checkup, sections_of

LONG_CELL = 24
"""Characters from which a cell is running text."""


def render(report: Report) -> str:
    """The whole page. The same report gives the same bytes."""
    result = report.result
    sections = [(name, *_opened(tuple(registry.find("sections", name)(report)))) for name in sections_of(result)]
    style, script = _asset("page.css"), _asset("page.js")
    name = words.clean(lookup.model_name(result))
    facts = [
        ("data", result.data.name),
        ("test examples", words.number(max((v.clean.accuracy.n for v in result.variants), default=0))),
        *((("budget", str(result.plan["budget"])),) if not is_checkup(result) else ()),
        ("seed", str(result.plan.get("seed", "as planned"))),
        ("status", result.status),
    ]
    return _template().render(
        name=name,
        kind="checkup" if is_checkup(result) else "robustness audit",
        facts=facts,
        sections=sections,
        style=Markup(style),  # noqa: S704  # nosec B704  # our own style sheet, no text of others
        digest=_digest(style),
        script=Markup(script),  # noqa: S704  # nosec B704  # ours as well
        script_digest=_digest(script),
        version=result.actsec,
        plan=result.plan_id,
    )


def _digest(text: str) -> str:
    """The hash by which the content security policy knows a text."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _opened(blocks: tuple[Block, ...]) -> tuple[str, tuple[Block, ...]]:
    """A section's title and the rest of it."""
    first = blocks[0]
    return (first.text, blocks[1:]) if isinstance(first, Heading) else ("", blocks)


@cache
def _asset(name: str) -> str:
    return files("actsec.reports.formats").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_asset),
    )
    environment.filters.update(
        spans=spans, data_uri=_data_uri, long=_long, breakable=_breakable, held=_held, typed=_typed
    )
    environment.tests["block"] = _is_block
    return environment.get_template("page.html.j2")


def _finalize(value: Any) -> Any:
    """Texts lose what could move or hide them; escaping follows."""
    return words.clean(value) if type(value) is str else value


def _is_block(thing: object, name: str) -> bool:
    return type(thing).__name__ == name


def _long(cell: Content) -> bool:
    """Whether a table cell holds running text and needs room."""
    return not isinstance(cell, tuple) and len(plain(cell)) > LONG_CELL


def _breakable(written: Markup) -> Markup:
    """Escaped text that may also break where a chain of defenses has a joint."""
    parts = re.split(r"(<[^>]*>)", written)
    texts = (part if part.startswith("<") else re.sub(r"([_(=])(?=\w)", r"\1<wbr>", part) for part in parts)
    return Markup("".join(texts))  # noqa: S704  # nosec B704  # escaped by jinja, and only <wbr> added


def _held(text: str) -> str:
    """A number and its percent sign stay on one line, and so does what is written before a number: ``> 99.9 %``."""
    return re.sub(r"(?<=\d) (?=%)|(?<=(?<!\S)[<>]) (?=\d)", "\N{NO-BREAK SPACE}", text)


def _typed(text: str) -> Markup:
    """Code, whose options do not break at their hyphens."""
    parts = re.split(r"((?<!\S)--?[a-z][\w-]*)", words.clean(text))
    return Markup("").join(
        Markup('<span class="opt">{}</span>').format(p) if at % 2 else p for at, p in enumerate(parts)
    )


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
