"""What a rule reads and says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from actsec.spec import Value
from actsec.types.threats import Threat

if TYPE_CHECKING:
    import numpy as np


Status = Literal["ok", "warn", "red", "not_done", "not_applicable", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a diagnostic says: a stable rule id, a status, one claim in words, its numbers, and what to do.

    voids says that a passing robustness number must not be believed while this is red. What is not ok carries a command
    to dig further, and how often its rule was wrong about honest models, in words.
    """

    rule: str
    title: str
    status: Status
    claim: str
    numbers: Mapping[str, Value] = field(default_factory=dict)
    advice: str = ""
    severity: Literal["none", "low", "medium", "high"] = "none"
    voids: bool = False
    command: str = ""
    false_alarms: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a diagnostic reads about one variant under one threat. It names no attack, only roles.

    correct maps a role to an array (n,): whether a row is still classified correctly after that role's attack, or, of a
    target that draws, the share of the judge's answers that are; on the same rows in the same order for every role.
    probe holds the numbers of the direct probes of the model. unanswered counts rows that are robust although a
    candidate was answered with logits that are not finite. None: not done.
    """

    threat: Threat
    clean: np.ndarray[Any, Any]
    correct: Mapping[str, np.ndarray[Any, Any]]
    probe: Mapping[str, Any]
    classes: int
    stochastic: bool
    unanswered: int | None = None
    confined: bool = False
    """Whether rules keep an adversary without a budget from turning every input into every other."""
    at: Mapping[float, np.ndarray[Any, Any]] = field(default_factory=dict)
    """By eps, rows still correct after one and the same gradient attack alone."""
    courses: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    """By role, the best score (rows, questions) of followed rows that still stand, NaN after their last question."""
    sizes: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    """Without an eps: by role, the smallest misclassifying size (n,) that it found; 0 where wrong untouched."""
    adaptive: Mapping[str, np.ndarray[Any, Any] | None] = field(default_factory=dict)
    """The attacks that the model's own defenses say it must face here: rows still correct, None where not made."""
    abstained: np.ndarray[Any, Any] | None = None
    """Rows with an admissible misclassified candidate that the target's detector rejected; None without a detector."""
    twin: np.ndarray[Any, Any] | None = None
    """Rows that the model without its defenses gets right after the same gradient attacks; None where there is none."""


class Diagnostic(Protocol):
    """One rule: reads evidence, yields findings. A frozen dataclass whose fields are its thresholds."""

    rule: ClassVar[str]
    title: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]

    def __call__(self, evidence: Evidence) -> Iterable[Finding]:
        """Findings, one for each claim; at least one, also when all is well."""
