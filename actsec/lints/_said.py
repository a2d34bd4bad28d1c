"""What lints share: how one is written down."""

from __future__ import annotations

from typing import Literal, Protocol

from actsec.result import Problem


class Lint(Protocol):
    """A rule about architectures."""

    @property
    def rule(self) -> str: ...


def said(lint: Lint, severity: Literal["low", "medium", "high"], claim: str, advice: str) -> Problem:
    """A finding of a lint; which variant it is about is for the caller to say."""
    return Problem(lint.rule, severity, "", claim, advice)


def named(names: list[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
