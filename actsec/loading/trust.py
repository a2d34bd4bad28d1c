"""Which code a recipe may have executed.

Code that builds an architecture is the user's own. A file is executed when it lies outside the folder, outside Python's
own packages, and is unchanged, and of it only a function that is defined in it: what it imports, such as
``subprocess.getoutput``, was not written to be called by a recipe. Other code is executed only when the user names it
(``--model pkg.nets:make --weights hardened/``) or trusts the folder (``--trust-model``). The options of the call are
the recipe's all the same.
"""

from __future__ import annotations

import hashlib
import site
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from actsec.errors import ModelError, Unsafe
from actsec.loading import building

BUILT_IN = ("reference", "torchvision")
"""Architectures that are built without code of the user's."""
HARDEN = "Restore what changed, or harden the model again: the recipe holds the command."


@dataclass(frozen=True, slots=True)
class Code:
    """The file whose function builds the architecture, seen from the folder, and its sha256."""

    file: str
    sha256: str


def vouched(place: Path, model: str, code: Code | None, *, trust: bool = False) -> str:
    """The text that builds the architecture, where its code may be executed. Raises ModelError, Unsafe."""
    source, call = building.split(model)
    if source in BUILT_IN:
        return model
    naming = f"If you know that code, name it: --model {model} --weights {place}; or give --trust-model."
    if code is None:
        if source.endswith(".py"):
            raise ModelError(f"{place} names {source} and holds no hash of it", HARDEN)
        if not trust:
            raise Unsafe(f"{place} asks for the installed function {model} to be called", naming)
        return model
    try:
        file = (place / code.file).resolve()
        there = file.is_file()
    except (OSError, RuntimeError) as problem:  # a name that is too long, links in a circle
        raise ModelError(f"{place} names code that cannot be looked for: {problem}", HARDEN) from None
    within = file.is_relative_to(place.resolve())
    if not trust and (within or _installed(file)):
        raise Unsafe(f"{place} {'brings its own code' if within else 'asks for installed code'}: {file}", naming)
    if not there:
        raise ModelError(
            f"{file}, which builds the architecture of {place}, is not there",
            f"Put it back, or say where it is: --model PATH/{model} --weights {place}.",
        )
    if sha256(file) != code.sha256:
        raise ModelError(
            f"{file} changed since {place} was saved: it may build another model",
            f"Put it back; or name it, and what it builds is compared: --model {file}:{call} --weights {place}.",
        )
    found = f"{file}:{call}"
    if not trust and not building.defines(found):
        raise Unsafe(f"{place} asks for {call}, which is no function or class that {file} defines", naming)
    return found


def loads_alone(model: str) -> bool:
    """Whether a recipe may have the code of this model executed; other code is named beside the folder."""
    source, _ = building.split(model)
    if source in BUILT_IN:
        return True
    return source.endswith(".py") and not _installed(Path(source).expanduser().resolve()) and building.defines(model)


def _installed(file: Path) -> bool:
    """Whether a file is Python's or a package's: their functions were not written to be called by a recipe."""
    if {"site-packages", "dist-packages"} & set(file.parts):
        return True
    places = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    roots = [Path(place).resolve() for place in places if place not in (sys.prefix, sys.base_prefix)]
    return any(map(file.is_relative_to, roots))


def sha256(path: Path) -> str:
    """The hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
