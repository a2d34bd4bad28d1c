"""Writing TOML. Python reads it (tomllib) and does not write it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def value(thing: Any) -> str:
    """A text, number, boolean, list or mapping as a TOML value; what is None is left out of a mapping."""
    if isinstance(thing, Mapping):
        return f"{{{', '.join(f'{key(k)} = {value(v)}' for k, v in thing.items() if v is not None)}}}"
    if isinstance(thing, (list, tuple)):
        return f"[{', '.join(map(value, thing))}]"
    return repr(thing) if isinstance(thing, float) else quoted(thing)


def quoted(thing: Any) -> str:
    """A text, whole number or boolean. What moves a cursor or hides, DEL and bidi marks for two, is written out."""
    # A JSON text is a TOML text but for DEL, which TOML wants escaped.
    return "".join(map(_shown, json.dumps(thing, ensure_ascii=False)))


def _shown(c: str) -> str:
    if c.isprintable() or "\ud800" <= c <= "\udfff":
        return c
    return f"\\u{ord(c):04x}" if ord(c) < 1 << 16 else f"\\U{ord(c):08x}"


def key(name: str) -> str:
    """A key, in quotes where it needs them."""
    return name if _BARE.fullmatch(name) else value(name)


def document(content: Mapping[str, Any]) -> str:
    """Single values first, then a ``[table]`` for each mapping, and ``[[table]]`` for each list of mappings."""
    tables = {name: thing for name, thing in content.items() if isinstance(thing, Mapping) or _several(thing)}
    lines = [f"{key(k)} = {value(v)}" for k, v in content.items() if k not in tables and v is not None]
    for name, thing in tables.items():
        for each in (thing,) if isinstance(thing, Mapping) else thing:
            header = f"[{key(name)}]" if isinstance(thing, Mapping) else f"[[{key(name)}]]"
            lines += ["", header, *(f"{key(k)} = {value(v)}" for k, v in each.items() if v is not None)]
    return "\n".join(lines) + "\n"


def _several(thing: Any) -> bool:
    return isinstance(thing, (list, tuple)) and bool(thing) and all(isinstance(each, Mapping) for each in thing)
