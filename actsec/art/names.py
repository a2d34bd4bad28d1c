"""Names of ART's evasion attacks to dataclasses whose fields are the parameters of ART's constructors.

What the threat says (eps, norm, targeted) is no field; neither is what no text can give (functions, arrays). Unknown
names and options are answered with the nearest known one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
import operator
import re
from functools import cache
from types import ModuleType
from typing import Annotated, Any

from actsec import spec as notation
from actsec.art.bridge import BUDGET, PREFIX, ArtAttack, quiet
from actsec.errors import BadOption, ThreatError, UnknownName, unknown
from actsec.spec import Spec
from actsec.types import Norm

OWN_NORM: dict[str, Norm] = {
    "BasicIterativeMethod": "linf",
    "CarliniL0Method": "l0",
    "CarliniLInfMethod": "linf",
    "ElasticNet": "l1",
    "PixelAttack": "l0",
    "SaliencyMapMethod": "l0",
    "ThresholdAttack": "linf",
    "VirtualAdversarialMethod": "l2",
}
"""What attacks without a ``norm`` parameter measure in: of the others those with an eps in L-inf, the rest in L2."""
FROM_THREAT = {
    "eps": "the budget comes from the threat: linf:8/255",
    "th": "the budget comes from the threat: l0:1",
    "norm": "the norm comes from the threat: l2:0.5",
    "targeted": "the target comes from the threat: linf:8/255:class=3",
    "verbose": "ART is kept quiet",
    "summary_writer": "ART writes no files",
    "estimator_orig": "the model is the audited one",
}
"""Parameters that are no options, and why."""
_NO_NORM = "Wasserstein"
_TYPES = {"float": float, "int": int, "bool": bool, "str": str}
_BLACK_BOX = {"BoundaryAttack", "HopSkipJump", "PixelAttack", "SignOPTAttack", "SimBA", "SquareAttack", "ZooAttack"}
_BLACK_BOX |= {"SpatialTransformation", "ThresholdAttack", "GeoDA"}


def build(spec: Spec) -> Any:
    """The attack of a spec ``art/Name(option=value)``. Raises UnknownName and BadOption, naming the mend."""
    made = find(spec.name)
    for option, _ in spec.options:
        if option in FROM_THREAT:
            raise BadOption(f"{spec.name}({option}=...): {FROM_THREAT[option]}", f"Leave {option} out.")
    return notation.build(made, spec, "attack")


@cache
def find(name: str) -> type[ArtAttack]:
    """The dataclass of ``art/Name``: its fields are the parameters of ART's constructor that a text can give."""
    theirs = _theirs(name.removeprefix(PREFIX))
    known = list(inspect.signature(theirs).parameters.values())[1:]  # the first is the model
    meanings, fields = _meanings(theirs), []
    for parameter in known:
        hint = _hint(str(parameter.annotation))
        required = parameter.default is inspect.Parameter.empty
        if parameter.name in FROM_THREAT or parameter.name == BUDGET.get(theirs.__name__):
            continue
        if hint is None and required:
            raise ThreatError(
                f"{PREFIX}{theirs.__name__} needs {parameter.name!r}, which no option can give",
                "Call ART from Python, and judge its images with actsec.attack(..., replay) or an audit of them.",
            )
        if hint is not None and (required or _sayable(parameter.default)):
            typed: Any = Annotated[hint, meanings.get(parameter.name, "as in ART")]
            default = dataclasses.field() if required else dataclasses.field(default=parameter.default)
            fields.append((parameter.name, typed, default))
    names = {parameter.name for parameter in known}
    bounded = BUDGET.get(theirs.__name__, "eps") in names
    return dataclasses.make_dataclass(
        theirs.__name__,
        fields,
        bases=(ArtAttack,),
        namespace={
            "__doc__": inspect.getdoc(theirs),
            "name": theirs.__name__,
            "theirs": theirs,
            "norms": _norms(theirs.__name__, bounded, "norm" in names),
            "knowledge": "black_box" if theirs.__name__ in _BLACK_BOX else "white_box",
            "roles": () if bounded else ("minimal",),
        },
        frozen=True,
        kw_only=True,
    )


def _sayable(value: Any) -> bool:
    """Whether a default can be written in a spec."""
    simple = value is None or isinstance(value, (bool, int, float, str))
    return simple or (isinstance(value, tuple) and all(map(_sayable, value)))


def page(name: str) -> str:
    """What ``actsec explain art/Name`` says: ART's own words, and how it is run here."""
    made = find(name)
    where = ", ".join(made.norms)
    how = f"Run under threats in {where}" + (" without a budget." if "minimal" in made.roles else " with a budget.")
    return f"{PREFIX}{made.name}: an attack of the Adversarial Robustness Toolbox.\n\n{made.__doc__}\n\n{how}"


def names() -> tuple[str, ...]:
    """The evasion attacks of the installed ART that run on a PyTorch classifier, sorted, without the prefix."""
    return tuple(sorted(name for name, cls in _evasion().items() if _runs_here(cls) and name != _NO_NORM))


def _norms(name: str, bounded: bool, chooses: bool) -> tuple[Norm, ...]:
    if chooses:
        return ("linf", "l2", "l1") if bounded else ("l2", "linf", "l1", "l0")
    own: Norm = OWN_NORM.get(name, "linf" if bounded else "l2")
    # Without a budget any norm may measure what was found.
    return (own,) if bounded else (own, *(norm for norm in ("l2", "linf", "l1", "l0") if norm != own))


def _hint(annotation: str) -> Any:
    """The types of an annotation that a spec can say; None when there are none."""
    found = [kind for word, kind in _TYPES.items() if re.search(rf"\b{word}\b", annotation)]
    empty = [type(None)] if "None" in annotation or "Optional" in annotation else []
    if float in found and int in found:
        found.remove(int)
    if found and ("tuple" in annotation or "list" in annotation.lower()):
        found = [tuple[found[0], ...]]  # type: ignore[valid-type]  # made at run time
    return functools.reduce(operator.or_, [*found, *empty]) if found else None


def _meanings(theirs: type) -> dict[str, str]:
    """What ART's docstring says of each parameter, in one line."""
    found = re.findall(r":param (\w+):\s*(.*?)(?=\n\s*:|\Z)", theirs.__init__.__doc__ or "", re.DOTALL)  # type: ignore[misc]  # its own
    return {name: " ".join(text.split()) for name, text in found}


@cache
def _art() -> ModuleType:
    with quiet():
        try:
            return importlib.import_module("art.attacks.evasion")
        except ImportError as problem:
            raise UnknownName(
                f"art/...: ART cannot be imported: {problem}", "pip install adversarial-robustness-toolbox"
            ) from problem


def _evasion() -> dict[str, Any]:
    from art.attacks.attack import EvasionAttack

    every = {name: getattr(_art(), name) for name in dir(_art())}
    return {n: c for n, c in every.items() if inspect.isclass(c) and issubclass(c, EvasionAttack) and c.__name__ == n}


def _runs_here(cls: Any) -> bool:
    from art.estimators.classification import PyTorchClassifier

    needs = [
        need if isinstance(need, tuple) else (need,) for need in cls._estimator_requirements or ()
    ]  # ART has no other way
    return "TensorFlow" not in cls.__name__ and all(issubclass(PyTorchClassifier, need) for need in needs)


def _theirs(name: str) -> Any:
    """ART's class. Raises ThreatError for attacks of another kind, UnknownName with the nearest name."""
    known = _evasion()
    if name == _NO_NORM:
        raise ThreatError(f"{PREFIX}{name} measures in a ball that no threat has", "Threats are linf, l2, l1 and l0.")
    if name in known:
        if not _runs_here(known[name]):
            raise ThreatError(
                f"{PREFIX}{name} does not attack PyTorch classifiers", "See `actsec list attacks` for those that do."
            )
        return known[name]
    for kind in ("poisoning", "inference", "extraction"):
        with quiet(), contextlib.suppress(ImportError):
            if hasattr(importlib.import_module(f"art.attacks.{kind}"), name):
                raise ThreatError(
                    f"{PREFIX}{name} is no evasion attack: ART has it under {kind}",
                    f"{PREFIX}... runs attacks that change the inputs of a finished model.",
                )
    raise unknown("attack of ART", name, names())
