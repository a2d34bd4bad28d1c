"""A job of a run, and its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Job:
    """One unit of work. Its id is the content hash of its recipe, so equal work has an equal id.

    label is for people and variant says where the plan keeps what the recipe names by hash; neither is hashed.
    """

    id: str
    kind: str
    recipe: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    label: str = ""
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job left: JSON numbers and arrays; error is the message of the exception that ended it, if one did."""

    job: str
    numbers: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    error: str | None = None
