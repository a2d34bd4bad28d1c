"""The error tree. Each error carries the exit code that the command line ends with.

ActsecError            5    actsec itself failed
|-- UsageError         2    the request cannot be carried out as written
|   |-- SpecError           a text such as ``pgd(steps=200)`` does not parse
|   |-- UnknownName         no plug-in, option, class or key has this name
|   |-- BadOption           an option has a value of the wrong type or range
|   |-- PlanError           the plan contradicts itself or cannot be run
|   |-- ThreatError         an attack cannot be run under this threat
|   |-- ModelError          the model cannot be loaded or audited
|   |-- DataError           the data cannot be read or does not fit the model
|   |-- StoreError          the run folder cannot be written, read or resumed
|   `-- NotComparable       two runs did not ask the same
|-- NoVerdict          3    the audit ended without a number that can be believed
|-- Unsafe             4    the file would execute code when opened
`-- Interrupted      130    stopped by the user; everything finished is stored
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class ActsecError(Exception):
    """Root of every error actsec raises on purpose: what is wrong, and how to mend it."""

    exit_code: ClassVar[int] = 5

    def __init__(self, problem: str, mend: str = "") -> None:
        super().__init__(problem, mend)
        self.problem = problem
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.problem}\n  {self.mend}" if self.mend else self.problem


class UsageError(ActsecError):
    """The request cannot be carried out as written."""

    exit_code: ClassVar[int] = 2


class SpecError(UsageError):
    """A text such as ``pgd(steps=200)`` does not parse."""


class UnknownName(UsageError):
    """No plug-in, option, class or key has this name."""


class BadOption(UsageError):
    """An option has a value of the wrong type or outside its range."""


class PlanError(UsageError):
    """The plan contradicts itself or cannot be run."""


class ThreatError(UsageError):
    """An attack cannot be run under this threat."""


class ModelError(UsageError):
    """The model cannot be loaded or cannot be audited."""


class DataError(UsageError):
    """The data cannot be read or does not fit the model."""


class StoreError(UsageError):
    """The run folder cannot be written, read or resumed."""


class NotComparable(UsageError):
    """Two runs did not ask the same, so that their numbers cannot be compared."""


class NoVerdict(ActsecError):
    """The audit ended without a number that can be believed."""

    exit_code: ClassVar[int] = 3


class Guessing(NoVerdict):
    """The model answers all alike, or no better than chance: nothing to attack, and much to diagnose."""


class Unsafe(ActsecError):
    """The file would execute code when opened."""

    exit_code: ClassVar[int] = 4


class Interrupted(ActsecError):
    """Stopped by the user; everything finished is stored."""

    exit_code: ClassVar[int] = 130


MOST_LISTED = 60
"""Names that an error lists; of more it gives the nearest."""


def unknown(what: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a name nobody knows, with the nearest known one as the mend."""
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    mend = f"Did you mean {near[0]!r}? " if near else ""
    listed = f"Known: {', '.join(choices) or 'none'}."
    if len(choices) > MOST_LISTED:
        listed = f"{len(choices)} are known: see `actsec list`."
    return UnknownName(f"unknown {what} {name!r}", f"{mend}{listed}")
