"""A model that abstains, behind defenses: its detector goes with it.

A defense puts a copy of the model in the model's place. A detector that is part of the model (a method ``rejects``, or
a module of it) is that of the copy from then on: it runs on the weights that the defense trained, inside what the
defense puts around the model, so that swapped activations, noise and calibrators change what decides and not what
rejects. A detector that stands alone stays. One that stands outside and asks the model can do neither, and is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

from torch import nn

from actsec.activations.following import Stands
from actsec.errors import ModelError
from actsec.types import Defense, Target

DETECTOR = (
    "the model's detector goes with it: it runs on the weights that are trained, and what is put around the model "
    "(swapped activations, noise, calibrators) changes what decides and not what rejects"
)
_METHOD = "Make it a method rejects(self, x) of the model's class: it then goes with the model through every defense."


def behind(target: Target, defense: Defense) -> Target:
    """The target behind one defense, structure only, its detector with it. Raises ModelError where it cannot be."""
    _check_outside(target)
    return carried(target, defense.wrap(target))


def carried(before: Target, after: Target) -> Target:
    """``after``, which holds a copy of the model of ``before``, with the detector of that copy where it is part of it.

    Raises ModelError for a copy that is not found.
    """
    rejects = before.rejects
    if rejects is None or after.rejects is not rejects or after.model is before.model:
        return after
    owner = _owner(rejects)
    place = None if owner is None else _place(owner, before.model)
    if owner is None or place is None:
        return after
    home = _copy_of(before.model, after.model)
    if home is None:
        raise ModelError(
            f"{type(after.model).__name__} holds no copy of {before.name} whose detector could go on",
            "Hold it as an attribute named model, in a module of actsec.activations.following.Stands.",
        )
    its = home.get_submodule(place)
    method = getattr(rejects, "__func__", None)
    return after.having(rejects=its if method is None else MethodType(method, its))


def own(target: Target) -> bool:
    """Whether loading the model anew finds its detector again: a method or module of it by the name of rejects."""
    rejects = target.rejects
    owner = None if rejects is None else _owner(rejects)
    place = None if owner is None else _place(owner, _innermost(target.model))
    if owner is rejects:
        return place == "rejects"
    return place == "" and getattr(rejects, "__name__", "") == "rejects"


def _innermost(model: nn.Module) -> nn.Module:
    """The model without what defenses put around it."""
    while isinstance(model, Stands):
        model = model.model
    return model


def _owner(rejects: Callable[..., Any]) -> nn.Module | None:
    """The module that a detector is, or is a method of."""
    holder = rejects if isinstance(rejects, nn.Module) else getattr(rejects, "__self__", None)
    return holder if isinstance(holder, nn.Module) else None


def _place(owner: nn.Module, model: nn.Module) -> str | None:
    """The name of a module inside the model; None outside of it."""
    return next((name for name, module in model.named_modules() if module is owner), None)


def _copy_of(model: nn.Module, made: nn.Module) -> nn.Module | None:
    """The copy of a model in what a defense made of it: all of it, or what it holds as ``model``."""
    wanted = _form(model)
    inside = (made, made.model) if isinstance(made, Stands) else (made,)
    return next((each for each in inside if _form(each) == wanted), None)


def _form(model: nn.Module) -> list[tuple[str, type]]:
    return [(name, type(module)) for name, module in model.named_modules()]


def _check_outside(target: Target) -> None:
    """Raise ModelError for a detector outside the model that holds the model, or a part of it with weights."""
    rejects = target.rejects
    owner = None if rejects is None else _owner(rejects)
    if rejects is None or (owner is not None and _place(owner, target.model) is not None):
        return
    weights = {id(tensor) for tensor in (*target.model.parameters(), *target.model.buffers())}
    for module in _held(rejects):
        if any(id(tensor) in weights for tensor in (*module.parameters(), *module.buffers())):
            raise ModelError(
                f"the detector of {target.name} stands outside the model and asks it: a defense would change the model "
                "and leave the detector asking the old one",
                f"{_METHOD} Or audit it without defenses (--defenses none).",
            )


def _held(rejects: Any) -> Iterator[nn.Module]:
    """Modules that a detector holds: itself, its object and that one's attributes, what it closes over or is given."""
    if isinstance(rejects, functools.partial):
        yield from _held(rejects.func)
        near = [*rejects.args, *rejects.keywords.values()]
    else:
        holder = getattr(rejects, "__self__", rejects)
        cells = getattr(rejects, "__closure__", None) or ()
        defaults = getattr(rejects, "__defaults__", None) or ()
        near = [holder, *getattr(holder, "__dict__", {}).values(), *defaults, *(c.cell_contents for c in cells)]
    for each in near:
        holder = getattr(each, "__self__", each)
        if isinstance(holder, nn.Module):
            yield holder
