"""What mkdocs adds to the pages of this folder when the site is built.

A page for every plug-in and activation from what ``actsec explain`` prints, the README as the front page, the changelog
and the benchmarks' results. None of them is committed, so none of them can be out of date.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from actsec.command_line import pages
from actsec.command_line.pages import Page

ROOT = Path(__file__).resolve().parent.parent
TITLES = {
    "attacks": "Attacks",
    "defenses": "Defenses",
    "activations": "Activations",
    "diagnostics": "Sanity checks",
    "symptoms": "Symptoms",
    "lints": "Architecture lints",
    "poisons": "Poisons",
}
ABOUT = {
    "attacks": "Each proposes candidates and never sees the model; the referee asks, judges and counts.",
    "defenses": "Each is chained with others as `swap(to=silu) | temperature`; what one claims stands on its page.",
    "activations": "Every number is computed from the function, and every sentence chosen by a number.",
    "diagnostics": "What a robustness number must pass to be believed. [How they decide](../sanity_checks.md).",
    "symptoms": "What [`actsec diagnose`](../diagnose.md) and every audit look for in activations and confidence.",
    "lints": "What `actsec diagnose --architecture` looks for in a network, trained or not.",
    "poisons": "What [`actsec study poison`](../study.md) plants in training data.",
}
COPIED = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "benchmarks.md": "benchmarks/README.md",
    **{f"results/{p.name}": f"benchmarks/results/{p.name}" for p in sorted((ROOT / "benchmarks/results").glob("*.md"))},
}
HOMES = {source: page for page, source in COPIED.items()} | {"docs/decisions": "decisions/index.md"}
RULE = re.compile(r"\bACT-[A-Z]\d\d\b")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Every generated page has its place in the navigation."""
    made = list(pages.every())
    for kind, title in TITLES.items():
        entries: list[Any] = [f"{kind}/index.md", *({_label(page): _path(page)} for page in made if page.kind == kind)]
        _part(config, "Reference").append({title: entries})
    _part(config, "Project").append({"Results": [page for page in COPIED if page.startswith("results/")]})
    _part(config, "Project").append({"Decisions": ["decisions/index.md", *(f"decisions/{p.name}" for p in _decided())]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    made = list(pages.every())
    links = {page.rule: _path(page) for page in made if page.rule}
    texts = {_path(page): _page(page, links) for page in made}
    texts |= {f"{kind}/index.md": _index(kind, [p for p in made if p.kind == kind]) for kind in TITLES}
    texts |= {name: _copied(name, source) for name, source in COPIED.items()}
    texts["decisions/index.md"] = _decisions()
    for name, text in texts.items():
        files.append(File.generated(config, name, content=text))
    return files


def _part(config: MkDocsConfig, title: str) -> list[Any]:
    """A part of the navigation, to be added to."""
    return next(entry[title] for entry in config.nav or [] if title in entry)  # type: ignore[no-any-return]  # YAML


def _decided() -> list[Path]:
    return sorted((ROOT / "docs" / "decisions").glob("0*.md"))


def _path(page: Page) -> str:
    return f"{page.kind}/{page.name.replace('/', '-')}.md"


def _label(page: Page) -> str:
    return f"{page.rule} {page.name}" if page.rule else page.name


def _page(page: Page, links: dict[str, str]) -> str:
    """A plug-in's page in Markdown."""
    first, _, rest = page.text.partition("\n")
    title = f"# {_label(page)}"
    if page.kind == "activations":
        body = f"``` {{ .text .no-copy }}\n{page.text}\n```"
    else:
        linked = {rule: f"../{path}" for rule, path in links.items() if rule != page.rule}
        body = f"**{markdown(first, linked)}**\n\n{markdown(rest, linked)}"
    facts = "\n".join(f"- **{what}:** {_inline(fact, {})}" for what, fact in page.facts)
    parts = [title, body, facts, _options(page)]
    if not page.rule:
        parts.append(f"In a terminal: `actsec explain {page.name}`.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _options(page: Page) -> str:
    if not page.options:
        return ""
    if page.rule:
        rows = [f"| `{option}` | `{default}` |" for option, _, default, _ in page.options]
        return "\n".join(["## Limits", "", "| limit | value |", "|---|---|", *rows])
    rows = [f"| `{name}` | {_cell(kind)} | `{default}` | {_cell(text)} |" for name, kind, default, text in page.options]
    return "\n".join(["## Options", "", "| option | is | default | meaning |", "|---|---|---|---|", *rows])


def _cell(text: str) -> str:
    return _escaped(text).replace("|", "\\|")


def _index(kind: str, made: list[Page]) -> str:
    rows = []
    for page in made:
        summary = page.text.partition("\n")[0].removeprefix(f"{page.rule}: ")
        if kind == "activations":
            summary = f"`{summary.partition(': ')[2]}`"
        else:
            summary = _cell(summary.partition(": ")[2] or summary) if not page.rule else _cell(summary)
        rows.append(f"| [{_label(page)}]({Path(_path(page)).name}) | {summary} |")
    return "\n".join([f"# {TITLES[kind]}", "", ABOUT[kind], "", "| name | what it is |", "|---|---|", *rows, ""])


def markdown(text: str, links: dict[str, str]) -> str:
    """A docstring in Markdown: indented parts as they are, the rest as paragraphs with nothing taken for markup."""
    return "\n\n".join(_blocks(text.strip("\n"), links))


def _blocks(text: str, links: dict[str, str]) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", text):
        lines = block.split("\n")
        if not block.strip():
            continue
        if all(line.startswith("    ") for line in lines):
            yield "\n".join(["``` { .text .no-copy }", *(line[4:] for line in lines), "```"])
        else:
            yield _inline(block, links)


def _inline(text: str, links: dict[str, str]) -> str:
    parts = re.split(r"(``.+?``|`[^`]+`)", text, flags=re.DOTALL)
    # Every second part is code.
    return "".join(f"`{part.strip('`')}`" if at % 2 else _linked(part, links) for at, part in enumerate(parts))


def _linked(text: str, links: dict[str, str]) -> str:
    return RULE.sub(lambda found: f"[{found[0]}]({links[found[0]]})" if found[0] in links else found[0], _escaped(text))


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_\[\]])", r"\\\1", html.escape(text, quote=False))


def _copied(name: str, source: str) -> str:
    """A file of the repository as a page: links to other such files and into docs/ lead to their pages."""
    folder, up = (ROOT / source).parent, "../" * name.count("/")

    def moved(found: re.Match[str]) -> str:
        path, sign, anchor = found[2].partition("#")
        if "://" in path or not path:
            return found[0]
        place = (folder / path).resolve().relative_to(ROOT).as_posix()
        return f"{found[1]}({up}{HOMES.get(place, place.removeprefix('docs/'))}{sign}{anchor})"

    text = (ROOT / source).read_text(encoding="utf-8")
    titled = text if text.lstrip().startswith("# ") else f"# All the benchmark tables\n\n{text}"
    return re.sub(r"(\[[^\]]*\])\(([^)\s]+)\)", moved, titled)


def _decisions() -> str:
    """The list of the decision log, from the titles of its pages."""
    rows = []
    for path in _decided():
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        rows.append(f"- [{title}]({path.name})")
    return "\n".join(["# Decisions", "", "What was dear to undo, and why it is as it is.", "", *rows, ""])
