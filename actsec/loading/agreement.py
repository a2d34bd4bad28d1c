"""A hardened model held against what the caller says of it and of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actsec.errors import BadOption, ModelError
from actsec.loading.building import WEIGHTS
from actsec.loading.normalizing import normalization, show_normalization
from actsec.loading.recipes import Hardened
from actsec.types import Target


def held_against(
    recipe: Hardened,
    target: Target,
    *,
    classes: int | Sequence[str] | None = None,
    input_shape: Sequence[int] | None = None,
    bounds: tuple[float, float] | None = None,
    own: Mapping[str, Any],
) -> Target:
    """The loaded target, held against what the caller says of the data and the model; named classes give it names.

    own are settings that the recipe brings itself, which may only be repeated. Raises BadOption, ModelError.
    """
    brought: dict[str, Any] = {"threshold": recipe.threshold, "output": recipe.output, "weights": WEIGHTS}
    brought["normalize"] = show_normalization(recipe.normalization.make()) if recipe.normalization else "none"
    for name, given in own.items():
        value = show_normalization(normalization(given)) if name == "normalize" and given != "torchvision" else given
        if given and str(value) != str(brought.get(name)):
            raise BadOption(
                f"{name} = {value}: a hardened model brings its own ({brought.get(name) or 'none'})",
                f"Leave {name} out.",
            )
    if input_shape is not None and tuple(input_shape) not in ((), recipe.input_shape):
        raise ModelError(
            f"the hardened model takes inputs of shape {recipe.input_shape}, the data has {tuple(input_shape)}",
            "Give data of the shape it was made for.",
        )
    if bounds is not None and tuple(bounds) != recipe.bounds:
        low, high = recipe.bounds
        raise ModelError(
            f"the hardened model takes inputs in [{low:g}, {high:g}], the data lies in [{bounds[0]:g}, {bounds[1]:g}]",
            f"Give data in the model's range; --bounds {low:g},{high:g} states it.",
        )
    return target if classes is None else _named(recipe, target, classes)


def _named(recipe: Hardened, target: Target, classes: int | Sequence[str]) -> Target:
    """The target with the data's class names, where the recipe only counts them."""
    count = classes if isinstance(classes, int) else len(classes)
    if count != len(recipe.classes):
        raise ModelError(
            f"the hardened model tells {len(recipe.classes)} classes apart, the data has {count}",
            "Give data of the classes it was made for.",
        )
    if isinstance(classes, int) or tuple(classes) == recipe.classes:
        return target
    if recipe.classes != tuple(map(str, range(count))):
        ours, theirs = next((a, b) for a, b in zip(recipe.classes, classes, strict=True) if a != b)
        raise ModelError(
            f"the hardened model was made for the class {ours!r} where the data has {theirs!r}",
            "Give data whose classes have the model's names, in its order.",
        )
    return target.having(classes=tuple(classes))
