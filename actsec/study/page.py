"""A study's report as one self-contained HTML file: no network, no script, light and dark.

Reads the markdown that the studies write themselves: headings, paragraphs, lists, tables, images and fenced text, no
more. Every text is escaped; the content security policy allows the file's own style and data: images.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from itertools import groupby

_IMAGE = re.compile(r"!\[(.*)\]\((\w+)\.png\)")
_RULE = re.compile(r"\|(-+\|)+")
_EXTRA = """
body { display: block; }
td { min-width: 4.5rem; }
td.word { font-weight: 600; white-space: nowrap; }
td.said { min-width: 22rem; }
main > h2 { margin-top: 2.6rem; }
main > figure { width: fit-content; max-width: 100%; margin-bottom: 1.2rem; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 8px; }
"""
LONG = 40


def page(report: Iterable[str], images: Mapping[str, bytes]) -> str:
    """The page; images are PNG bytes by the names that the report links. Those it does not link stand at its end."""
    text = [*report]
    linked = {found[2] for line in text if (found := _IMAGE.fullmatch(line.strip()))}
    text += [line for name in images if name not in linked for line in ("", f"![{name}]({name}.png)")]
    title = next((line.removeprefix("# ") for line in text if line.startswith("# ")), "actsec study")
    style = files("actsec.reports.formats").joinpath("page.css").read_text(encoding="utf-8") + _EXTRA
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    body = "\n".join(_blocks(text, images))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{html.escape(title)} — actsec study</title>\n'
        f"<style>{style}</style>\n</head>\n<body>\n"
        f'<header><p class="brand">actsec <span>study</span></p></header>\n<main>\n{body}\n</main>\n</body>\n</html>\n'
    )


def _blocks(text: Iterable[str], images: Mapping[str, bytes]) -> Iterator[str]:
    """Every other part between lines of ``` is fenced, and stands as it was written."""
    parts: list[list[str]] = [[]]
    for line in text:
        if line.startswith("```"):
            parts.append([])
        else:
            parts[-1].append(line)
    for at, part in enumerate(parts):
        if at % 2:
            yield f"<pre><code>{html.escape(chr(10).join(part))}</code></pre>"
        else:
            yield from _written(part, images)


def _written(text: Iterable[str], images: Mapping[str, bytes]) -> Iterator[str]:
    for kind, group in groupby(text, _kind):
        found = [line.strip() for line in group]
        if kind == "table":
            yield from _table(found)
        elif kind == "list":
            yield "<ul>" + "".join(f"<li>{html.escape(line[2:])}</li>" for line in found) + "</ul>"
        elif kind == "heading":
            for line in found:
                level = len(line) - len(line.lstrip("#"))
                yield f"<h{level}>{html.escape(line[level:].strip())}</h{level}>"
        elif kind == "image":
            # those that follow each other without a blank line stand side by side where there is room
            several = len(found) > 1
            yield from ('<div class="figures count2">',) if several else ()
            for line in found:
                yield from _picture(line, images)
            yield from ("</div>",) if several else ()
        elif kind == "text":
            yield f"<p>{html.escape(' '.join(found))}</p>"


def _kind(line: str) -> str:
    marks = {"|": "table", "#": "heading", "!": "image"}
    stripped = line.strip()
    return "" if not stripped else "list" if stripped.startswith("- ") else marks.get(stripped[0], "text")


def _table(rows: list[str]) -> Iterator[str]:
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if not _RULE.fullmatch(row)]
    head, *body = cells
    yield '<div class="scroll" role="region" tabindex="0" aria-label="table"><table>'
    yield "<thead><tr>" + "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head) + "</tr></thead><tbody>"
    for first, *rest in body:
        told = "".join(
            f"<td{_class(name, cell)}>{html.escape(cell)}</td>" for name, cell in zip(head[1:], rest, strict=True)
        )
        yield f'<tr><th scope="row">{html.escape(first)}</th>{told}</tr>'
    yield "</tbody></table></div>"


def _class(column: str, cell: str) -> str:
    """Verdicts stand out, and long cells get room."""
    if column == "the claim":
        return ' class="word"'
    return ' class="said"' if len(cell) > LONG else ""


def _picture(line: str, images: Mapping[str, bytes]) -> Iterator[str]:
    found = _IMAGE.fullmatch(line)
    if found is not None and found[2] in images:
        data = base64.b64encode(images[found[2]]).decode()
        yield f'<figure><img alt="{html.escape(found[1])}" src="data:image/png;base64,{data}"></figure>'
