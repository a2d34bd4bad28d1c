"""What Tab offers: the names of plug-ins, activations and rules, and files. No torch is imported for it.

click writes the scripts of the shells (``_ACTSEC_COMPLETE=bash_source actsec``); these are the functions it asks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from click.shell_completion import CompletionItem

ASKED = "_ACTSEC_COMPLETE"
"""Set where a shell asks; click then answers and ends the process itself."""
Offer = Callable[[Any, Any, str], list[CompletionItem]]
FILES = {"model", "weights", "data", "train", "calibration", "mask"}


def of_plan(field: str) -> Offer | None:
    """What an option of the plan may be, where that can be told."""
    if field in FILES:
        return lambda _context, _option, begun: [CompletionItem(begun, type="file")]
    return {"attacks": attacks, "defenses": defenses, "activations": activations, "budget": budgets}.get(field)


def attacks(_context: Any, _option: Any, begun: str) -> list[CompletionItem]:
    """Attacks by name."""
    return _matching(_plug_ins("attacks"), begun)


def defenses(_context: Any, _option: Any, begun: str) -> list[CompletionItem]:
    """Defenses by name; behind a ``|`` the next of the chain."""
    before, bar, last = begun.rpartition("|")
    gap = " " if bar and last.startswith(" ") else ""
    found = _matching(_plug_ins("defenses"), last.strip())
    return [CompletionItem(f"{before}{bar}{gap}{item.value}", help=item.help) for item in found]


def activations(_context: Any, _option: Any, begun: str) -> list[CompletionItem]:
    """Activations by name."""
    return _matching(_activations(), begun)


def budgets(_context: Any, _option: Any, begun: str) -> list[CompletionItem]:
    """Budgets by name."""
    from actsec.planning.jobs import CERTIFIED

    return _matching(((name, "") for name in CERTIFIED), begun)


def pages(_context: Any, _argument: Any, begun: str) -> list[CompletionItem]:
    """Whatever ``actsec explain`` explains: names, and ids of rules."""
    from actsec.command_line.pages import DOCUMENTED

    def every() -> Iterator[tuple[str, str]]:
        yield from _activations()
        for kind in DOCUMENTED:
            for name, text in _plug_ins(kind):
                yield name, text
                if rule := re.match(r"[A-Z]+-[A-Z]\d\d(?=: )", text):
                    yield rule[0], text

    return _matching(every(), begun)


def _matching(offered: Any, begun: str) -> list[CompletionItem]:
    return [CompletionItem(name, help=text) for name, text in sorted(offered) if name.startswith(begun)]


def _plug_ins(kind: Any) -> Iterator[tuple[str, str]]:
    from actsec import registry

    return ((name, registry.page(kind, name).partition("\n")[0]) for name in registry.names(kind))


def _activations() -> Iterator[tuple[str, str]]:
    from actsec.activations import formula, names

    return ((name, formula(name)) for name in names())
