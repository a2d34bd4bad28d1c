"""Code of others that an audit executes: whose it is, and how a file of it is run. Imports no torch.

Plug-ins and factories are programs. What is listed here is what a plan names and what is installed to take part in
every audit: the file's name or the distribution with its version, and the sha256 of the file that holds the function or
class. What such a file imports is not hashed.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import metadata
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

from actsec import registry
from actsec.errors import UsageError
from actsec.result import Executed
from actsec.spec import Spec, Value, parse, parse_chain

if TYPE_CHECKING:
    from actsec.planning.plan import Plan

_BUILT_IN = ("reference", "torchvision", "object")
_ALWAYS: tuple[registry.Kind, ...] = ("diagnostics", "lints", "symptoms")
"""Kinds of which every installed plug-in is asked in every audit or checkup."""


class Source(SourceFileLoader):
    """Executes what the file says now: bytecode kept beside it may be of an older text, or of a stranger's making."""

    def get_code(self, fullname: str) -> CodeType:
        place = self.get_filename(fullname)
        return self.source_to_code(self.get_data(place), place)


def of(plan: Plan) -> tuple[Executed, ...]:
    """Everything that a plan executes beside actsec and what it is installed with, in the plan's order, each once."""
    return tuple(dict.fromkeys((*_factories(plan), *_plugins(plan))))


def _factories(plan: Plan) -> Iterator[Executed]:
    yield from _model("model", plan.model)
    for what in ("data", "train", "calibration"):
        path, mark, call = (getattr(plan, what) or "").partition(".py:")
        if mark:
            yield _file(f"{what} {call}", Path(path + ".py").expanduser())
    for trial in plan.attacks:
        for option, value in _options(parse(trial.attack)):
            if option == "source" and isinstance(value, str) and ":" in value and not value.startswith("variant:"):
                yield from _model("surrogate", value)
    if plan.weights is not None and plan.trust_model and Path(plan.weights).expanduser().is_file():
        yield _file("weights, opened although that may execute them (--trust-model)", Path(plan.weights).expanduser())


def _model(what: str, text: str) -> Iterator[Executed]:
    """The code that builds a model: a function of a file or a package, named here or by a hardened model's recipe."""
    from actsec.loading import recipes
    from actsec.loading.building import split

    with suppress(UsageError):  # what is wrong with it is told where it is loaded
        if recipes.is_folder(text):
            recipe = recipes.read(text)
            if recipe.code is not None:
                yield Executed(f"{what} {split(recipe.model)[1]}", Path(recipe.code.file).name, recipe.code.sha256)
                return
            text = recipe.model
        source, call = split(text)
        if source.endswith(".py"):
            yield _file(f"{what} {call}", Path(source).expanduser())
        elif source not in _BUILT_IN:
            yield _module(f"{what} {call}", source, _distribution(source))


def _plugins(plan: Plan) -> Iterator[Executed]:
    specs = [parse(trial.attack) for trial in plan.attacks]
    specs += [spec for chain in plan.defenses or () for spec in parse_chain(chain)]
    used = [name for spec in specs for name in _names(spec)]
    for kind in ("attacks", "defenses"):
        for name, entry in registry.foreign(kind).items():
            if name in used:
                yield _module(f"{kind[:-1]} {name}", entry.module, entry.dist)
    for kind in _ALWAYS:
        for name, entry in registry.foreign(kind).items():
            yield _module(f"{kind[:-1]} {name}", entry.module, entry.dist)


def _names(spec: Spec) -> Iterator[str]:
    """The names in a spec: its own, and those of the specs and words among its options."""
    yield spec.name
    for _, value in _options(spec):
        if isinstance(value, Spec):
            yield value.name
        elif isinstance(value, str):
            yield value


def _options(spec: Spec) -> Iterator[tuple[str, Value]]:
    for option, value in spec.options:
        yield option, value
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, Spec):
                yield option, inner
                yield from _options(inner)


def _file(what: str, path: Path) -> Executed:
    return Executed(what, path.name, _sha256(path))


def _module(what: str, module: str, distribution: metadata.Distribution | None) -> Executed:
    """A module of an installed package. Its parents are imported to find it, as they are when it is used."""
    origin = "no installed package" if distribution is None else f"{distribution.name} {distribution.version}"
    try:
        found = importlib.util.find_spec(module)
    except Exception:  # noqa: BLE001  # a package may raise anything when it is imported; that is told where it is used
        found = None
    path = None if found is None or not found.has_location or not found.origin else Path(found.origin)
    return Executed(what, f"{module} of {origin}", None if path is None else _sha256(path))


def _distribution(module: str) -> metadata.Distribution | None:
    owners = _owners().get(module.partition(".")[0], [])
    return metadata.distribution(owners[0]) if owners else None


@cache
def _owners() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
