"""What work costs, in passes of one image through the model, a backward counting as two: for time left and prices."""

from __future__ import annotations

from typing import Any

from actsec import registry
from actsec.spec import Spec, Value, parse

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


def training_passes(defense: Any, rows: int, shape: tuple[int, ...]) -> int:
    """Passes that fitting a defense on this many images takes; 0 for one that trains nothing."""
    option = vars_of(defense)
    epochs = int(option.get("epochs", option.get("finetune", 0)))
    inner = option.get("inner")
    crafted = attack_passes(registry.build("attacks", inner), shape) if isinstance(inner, Spec) else 0
    if "guard_steps" in option:
        # One step for each image; the guard's attack on the held-out share.
        crafted = 3 + round(3 * int(option["guard_steps"]) * float(option["holdout"]))
    return epochs * rows * (3 + crafted)


def spelled(name: str, eps: float) -> Spec:
    """A defense with the options it needs, as one would first try it."""
    spec = parse(name)
    options = vars_of(registry.find("defenses", spec.name))
    needed: dict[str, Value] = {"eps": eps, "std": eps, "to": parse("leaky_relu"), "finetune": 3}
    return spec.having(**{option: needed[option] for option in needed if option in options})


def price(name: str, eps: float, rows: int, shape: tuple[int, ...]) -> int:
    """Passes of fitting a defense as ``spelled``."""
    return training_passes(registry.build("defenses", spelled(name, eps)), rows, shape)


def vars_of(plug_in: Any) -> dict[str, Any]:
    """The options of a plug-in by name; of a class, those it has."""
    return {name: getattr(plug_in, name, None) for name in getattr(plug_in, "__dataclass_fields__", {})}


def words(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
