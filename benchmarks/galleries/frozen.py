"""When the thresholds were frozen: the second gallery is not judged before, nor by any others."""

from __future__ import annotations

import dataclasses
import hashlib

from actsec import registry
from actsec.errors import PlanError

FROZEN = ("239837c", "91896e607d50")
"""The commit at which the thresholds were frozen, and what ``thresholds`` gave there; empty while they are not."""
HELD_BACK = ("second",)
"""Galleries that no threshold may be chosen on."""


def thresholds() -> str:
    """A digest of every diagnostic: its rule, the defaults of its options, which status masks, whether it is needed."""
    digest = hashlib.sha256()
    for name in registry.names("diagnostics"):
        kind = registry.find("diagnostics", name)
        limits = [(field.name, field.default) for field in dataclasses.fields(kind)]
        flags = getattr(kind, "masks", ("red",)), getattr(kind, "essential", False)
        digest.update(repr((name, str(kind.rule), limits, flags)).encode())
    return digest.hexdigest()[:12]


def open_to(gallery: str) -> bool:
    """Whether a gallery may be judged by the thresholds there are now."""
    return gallery not in HELD_BACK or FROZEN[1] == thresholds()


def refuse(gallery: str) -> None:
    """Raises PlanError for a gallery that is held back from these thresholds."""
    if not open_to(gallery):
        commit, digest = FROZEN
        found = f"those frozen at {commit} were {digest}" if commit else "none were frozen"
        raise PlanError(
            f"the {gallery} gallery is held back from thresholds {thresholds()}: {found}",
            f'Freeze them first: FROZEN = ("COMMIT", "{thresholds()}") in benchmarks/galleries/frozen.py.',
        )
