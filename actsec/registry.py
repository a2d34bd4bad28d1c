"""Names to plug-ins. The file name is the name; nothing is imported before it is asked for.

A built-in plug-in is the one public class (attacks, defenses, diagnostics, lints, poisons, symptoms) or function
(sections, formats) of its file that its kind asks for. Others come by entry points of the group ``actsec.<kind>`` and
are addressed as ``package/name``, so that they never shadow a built-in.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import pkgutil
from functools import cache
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from actsec import spec as notation
from actsec.errors import ActsecError, BadOption, UsageError, unknown
from actsec.spec import Spec

Kind = Literal["attacks", "defenses", "diagnostics", "lints", "poisons", "symptoms", "sections", "formats"]
ART = "art/"
"""``art/Name`` is an attack of the Adversarial Robustness Toolbox. They are not listed: there are dozens."""

_ROOMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "attacks": ("actsec.attacks", ("ask", "parts")),
    "defenses": ("actsec.defenses", ("wrap",)),
    "diagnostics": ("actsec.diagnostics", ("rule",)),
    "lints": ("actsec.lints", ("rule",)),
    "symptoms": ("actsec.symptoms", ("rule",)),
    "poisons": ("actsec.poisons", ("poison",)),
    "sections": ("actsec.reports.sections", ("section",)),
    "formats": ("actsec.reports.formats", ("render",)),
}


@cache
def names(kind: Kind) -> tuple[str, ...]:
    """Every known name of a kind, sorted; third-party ones as ``package/name``. Imports none of them."""
    room = importlib.import_module(_ROOMS[kind][0])
    built_in = [m.name for m in pkgutil.iter_modules(room.__path__) if not m.name.startswith("_")]
    return tuple(sorted([*built_in, *foreign(kind)]))


@cache
def find(kind: Kind, name: str) -> Any:
    """The class or function called ``name``. Raises UnknownName with the nearest known name."""
    if (entry := foreign(kind).get(name)) is not None:
        return _loaded(entry, f"{kind[:-1]} {name}")
    if kind == "attacks" and name.startswith(ART):
        return _art().find(name)
    if name not in names(kind):
        raise unknown(kind[:-1], name, names(kind))
    room, marks = _ROOMS[kind]
    return _only(importlib.import_module(f"{room}.{name}"), marks)


def build(kind: Kind, spec: Spec | str) -> Any:
    """The plug-in of a spec or its text: ``build("attacks", "pgd(steps=200)")``."""
    wanted = notation.parse(spec) if isinstance(spec, str) else spec
    if kind == "attacks" and wanted.name.startswith(ART):
        return _art().build(wanted)
    made = notation.build(find(kind, wanted.name), wanted, kind[:-1])
    if kind == "defenses":
        check_inner(made)
    return made


def check_inner(defense: Any) -> None:
    """Raise what ``trainer`` raises of the attack that a defense's option ``inner`` names: before it is fitted."""
    if isinstance(inner := getattr(defense, "inner", None), Spec):
        trainer(inner)


def trainer(attack: Spec) -> Any:
    """The attack of a spec, for a defense to train against. Raises BadOption for one that cannot make examples."""
    made = build("attacks", attack)
    # A Proposer or a Recipe, told by its method: reports import this file, and types.py reaches torch.
    if hasattr(made, "propose") or not hasattr(made, "ask"):
        raise BadOption(
            f"{attack} needs the finished model, or is several attacks: it cannot train one",
            "Train with pgd(steps=10).",
        )
    return made


def canonical(kind: Kind, spec: Spec | str) -> Spec:
    """The same spec with every option written out, checked on the way."""
    wanted = notation.parse(spec) if isinstance(spec, str) else spec
    return notation.full(build(kind, wanted), wanted.name)


def brief(kind: Kind, spec: Spec) -> Spec:
    """The same spec without the options that stand at their defaults, for people to read."""
    fields = {f.name: f.default for f in dataclasses.fields(find(kind, spec.name))}
    return Spec(spec.name, tuple((key, value) for key, value in spec.options if fields.get(key) != value))


def page(kind: Kind, name: str) -> str:
    """The doc page of a plug-in: its module's docstring, read without importing what the plug-in imports."""
    if kind == "attacks" and name.startswith(ART):
        return str(_art().page(name))
    if name not in names(kind):
        raise unknown(kind[:-1], name, names(kind))
    entry = foreign(kind).get(name)
    found = importlib.util.find_spec(entry.module if entry else f"{_ROOMS[kind][0]}.{name}")
    return (ast.get_docstring(ast.parse(_source(found) or "")) or "").strip()


def origin(kind: Kind, name: str) -> str:
    """Whose code a plug-in is, such as ``their-pack 1.0 (theirs.wiggle)``; empty where it is actsec's own."""
    entry = foreign(kind).get(name)
    if entry is None:
        return ""
    return f"{entry.dist.name} {entry.dist.version} ({entry.module})" if entry.dist else entry.module


def packages(named: str | None = None) -> dict[str, str]:
    """The packages that bring plug-ins and their versions; of a text of specs, those of the plug-ins it names."""
    entries = [entry for kind in _ROOMS for entry in foreign(kind).items()]  # type: ignore[arg-type]  # each is a Kind
    return {e.dist.name: e.dist.version for name, e in entries if e.dist and (named is None or name in named)}


def _source(found: ModuleSpec | None) -> str | None:
    if found is not None and isinstance(found.loader, InspectLoader):
        return found.loader.get_source(found.name)
    # pytest loads the packages of its plug-ins itself, and has no source to show
    return Path(found.origin).read_text(encoding="utf-8") if found is not None and found.origin else None


def _art() -> ModuleType:
    """Where the attacks of ART get their names: importing it takes seconds."""
    return importlib.import_module("actsec.art.names")


def _loaded(entry: EntryPoint, what: str) -> Any:
    """A third-party plug-in, which is executed. Raises UsageError naming whose it is when that fails."""
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything
        whose = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
        raise UsageError(
            f"the {what}{whose} fails when it is imported: {type(error).__name__}: {error}",
            "Mend or uninstall that package.",
        ) from error


def foreign(kind: Kind) -> dict[str, EntryPoint]:
    """The plug-ins of other distributions, by ``package/name``. Imports none of them."""
    found = entry_points(group=f"actsec.{kind}")
    return {f"{e.dist.name if e.dist else e.module}/{e.name}": e for e in found}


def _only(module: ModuleType, marks: tuple[str, ...]) -> Any:
    """The one public thing of a module that carries one of the kind's marks, or is called by the first."""
    if callable(function := getattr(module, marks[0], None)):
        return function
    own = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and not name.startswith("_")
        and any(hasattr(value, mark) for mark in marks)
    ]
    if len(own) != 1:
        wanted = " or ".join(marks)
        raise ActsecError(f"{module.__name__} should hold exactly one class with {wanted!r}, it holds {len(own)}")
    return own[0]
