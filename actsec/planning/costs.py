"""What attacks cost, in passes of one image through the model, a backward counting as two; times in words."""

from __future__ import annotations

from typing import Any

FIRST_PASSES = 10
"""Loading a model, the clean pass and the final judgement."""


def attack_passes(attack: Any, shape: tuple[int, ...]) -> int:
    """Passes of one image through an attack with these options, at most: many attacks settle earlier.

    An attack whose cost depends on the input's shape says itself, by ``passes(shape)``.
    """
    own = getattr(attack, "passes", None)
    if own is not None:
        return FIRST_PASSES + int(own(shape))
    option = vars_of(attack)
    steps = int(option.get("steps", 1)) * int(option.get("restarts", 1)) * int(option.get("search_steps", 1))
    asked = int(option.get("queries", 0)) + int(option.get("draws", 0))
    return FIRST_PASSES + (asked or 3 * steps)


def vars_of(plug_in: Any) -> dict[str, Any]:
    """The options of a plug-in by name; of a class, those it has."""
    return {name: getattr(plug_in, name, None) for name in getattr(plug_in, "__dataclass_fields__", {})}


def words(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
