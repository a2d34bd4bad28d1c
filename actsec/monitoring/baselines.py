"""What a drift is measured against: a histogram a site, in a file of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actsec.errors import DataError, StoreError
from actsec.health.readings import Profile, profile

FORMAT = "actsec activation baseline 1"


def opened(given: str | Path | dict[str, Any]) -> dict[str, Any]:
    """The profiles of a baseline."""
    if not isinstance(given, dict):
        try:
            found = json.loads(Path(given).read_text())
        except OSError as problem:
            raise DataError(f"the baseline {given} cannot be read: {problem.strerror}", "Name another.") from None
        except ValueError as problem:
            raise DataError(f"the baseline {given} is no JSON: {problem}", "Save it by save_baseline.") from None
    else:
        found = given
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("sites"), dict):
        raise DataError("that is no baseline of an ActivationMonitor", "Save it by save_baseline.")
    return {name: profile(name, each) for name, each in found["sites"].items()}


def told(profiles: Mapping[str, Profile]) -> dict[str, Any]:
    """A baseline as JSON."""
    sites = {
        name: {"kind": p.kind, "edges": list(p.edges), "shares": list(p.shares), "noise": p.noise}
        for name, p in profiles.items()
    }
    return {"format": FORMAT, "sites": sites}


def save(made: dict[str, Any], path: str | Path, needed: int) -> None:
    """Write a baseline, which takes ``needed`` rows. Raises DataError where it has no site, StoreError."""
    if not made["sites"]:
        raise DataError("there is no baseline yet", f"It takes {needed} watched rows in eval mode.")
    try:
        Path(path).write_text(json.dumps(made, indent=1) + "\n")
    except OSError as problem:
        raise StoreError(f"the baseline cannot be written to {path}: {problem.strerror}", "Name another.") from None
