"""Plans as TOML and as options: read, checked, overridden, written."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actsec.errors import BadOption, PlanError, SpecError, unknown
from actsec.planning.conditions import accept_text, evidence_texts, gate_texts
from actsec.planning.plan import Plan, Trial
from actsec.planning.toml import quoted
from actsec.search.features import FeatureRule
from actsec.spec import parse, parse_value

_MOST = 1 << 20  # bytes of a plan


def read(path: str | Path) -> Plan:
    """A plan from a TOML file. Raises PlanError for what does not read, UnknownName for keys nobody knows."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MOST + 1)
        if len(content) > _MOST:
            raise PlanError(f"the plan {path} has more than {_MOST:,} bytes", "Give the path of a plan.")
        table = tomllib.loads(content.decode())
    except OSError as problem:
        raise PlanError(
            f"cannot read the plan {path}: {problem.strerror}", "Give the path of a TOML file."
        ) from problem
    except (ValueError, RecursionError) as problem:  # numbers of thousands of digits and deep nesting raise these
        raise PlanError(
            f"{path} is not TOML: {problem}", "See `actsec audit --print-plan` for an example."
        ) from problem
    return from_table(table)


def from_table(table: Mapping[str, Any]) -> Plan:
    """A plan from a TOML table, every key and type checked."""
    hints = typing.get_type_hints(Plan)
    values: dict[str, Any] = {}
    for key, value in _as_texts(table).items():
        if key not in hints:
            raise unknown("plan key", key, hints)
        if key == "features":
            values[key] = _features(value)
        else:
            values[key] = _trials(value) if key == "attacks" else _plan_value(key, hints[key], value)
    return Plan(**values)


def _as_texts(table: Mapping[str, Any]) -> dict[str, Any]:
    """The same with every ``[[gate]]`` and ``[[accept]]`` as the text it comes to."""
    found = dict(table)
    if (gates := found.pop("gate", None)) is not None:
        listed = found.get("gates", [])
        texts = [text for each in (gates if isinstance(gates, list) else [gates]) for text in gate_texts(each)]
        found["gates"] = [*([listed] if isinstance(listed, str) else listed), *texts]
    if (accepted := found.get("accept")) is not None:
        found["accept"] = [accept_text(each) for each in (accepted if isinstance(accepted, list) else [accepted])]
    if (stated := found.get("evidence")) is not None:
        found["evidence"] = list(evidence_texts(stated))
    return found


def override(plan: Plan, options: Mapping[str, Any]) -> Plan:
    """The plan with texts from the command line over it, each read as its field asks. Raises BadOption."""
    hints = typing.get_type_hints(Plan)
    changes: dict[str, Any] = {}
    for key, value in options.items():
        _check_text(key, value)
        if key in ("activations", "attacks", "defenses", "corruptions"):
            value = tuple(part for text in value for part in split_list(text))  # noqa: PLW2901  # the texts, one by one
        if key == "attacks":
            changes[key] = _trials(list(value))
        elif key == "evidence":
            changes[key] = evidence_texts(value)
        elif key == "features":
            changes[key] = tuple(FeatureRule.parse(text) for text in value)
        elif key in ("defenses", "corruptions") and value == ("none",):
            changes[key] = ()
        elif isinstance(value, tuple) or value is True or "str" in str(hints[key]):
            changes[key] = value
        else:
            changes[key] = _number(key, str(value), whole="float" not in str(hints[key]))
    return plan.having(**changes)


def _check_text(key: str, value: Any) -> None:
    """Refuse bytes of the command line that are no text: a plan could not be written down with them."""
    for text in value if isinstance(value, tuple) else (value,):
        if any("\ud800" <= c <= "\udfff" for c in str(text)):
            raise BadOption(f"--{key.replace('_', '-')} {text!r} is not Unicode text", "Rename the file in UTF-8.")


def split_list(text: str) -> list[str]:
    """The specs of a text such as ``relu, leaky_relu(slope=0.1)``: cut at commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _number(key: str, text: str, *, whole: bool) -> float:
    """The number of an option's text: 20, 0.1 or 8/255."""
    try:
        value = parse_value(text)
    except SpecError:
        value = None
    if type(value) is int:
        return value if whole else float(value)
    if type(value) is float and not whole:
        return value
    kind = "a whole number" if whole else "a number such as 0.1 or 8/255"
    raise BadOption(f"--{key.replace('_', '-')} {text!r} is not {kind}", f"Give {kind}.")


def box(bounds: str | None) -> tuple[float, float]:
    """The range of a plan's inputs, of texts such as ``0,255``. Raises BadOption."""
    low, comma, high = (bounds or "0,1").partition(",")
    try:
        found = float(low), float(high)
    except ValueError:
        found = (math.nan, math.nan)
    if not comma or not -math.inf < found[0] < found[1] < math.inf:
        raise BadOption(f"--bounds {bounds!r} is not a range", "Give two numbers, the smaller first: 0,255.")
    return found


def write(plan: Plan) -> str:
    """The plan as TOML. ``from_table`` gives back an equal plan."""
    lines = []
    for spec_field in dataclasses.fields(plan):
        value = getattr(plan, spec_field.name)
        if spec_field.name not in ("attacks", "features") and value is not None:
            lines.append(f"{spec_field.name} = {toml(value)}")
    for trial in plan.attacks:
        lines += ["", "[[attacks]]"]
        given = {key: value for key, value in dataclasses.asdict(trial).items() if value not in ("", 0, ())}
        lines += [f"{key} = {toml(value)}" for key, value in given.items()]
    for rule in plan.features:
        lines += ["", f"[features.{toml(rule.name)}]"]
        lines += [f"{key} = {toml(value)}" for key, value in rule.options.items()]
    return "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """A value as TOML text."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml, value))}]"
    return repr(value) if isinstance(value, float) else quoted(value)


def _features(value: Any) -> tuple[FeatureRule, ...]:
    if isinstance(value, Mapping):
        return tuple(FeatureRule.read(name, table) for name, table in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(rule if isinstance(rule, FeatureRule) else FeatureRule.parse(str(rule)) for rule in value)
    raise PlanError(f"features = {value!r}", "Write a table for each: [features.AGE] and step = 1 below it.")


def _trials(value: Any) -> tuple[Trial, ...]:
    every = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return tuple(_named_trial(item) if isinstance(item, str) else _trial(item) for item in every)


def _named_trial(text: str) -> Trial:
    """``pgd(steps=200)``, or with its threat: ``pgd(steps=200) at linf:8/255:class=3``."""
    attack, _, threat = text.partition(" at ")
    return Trial(attack.strip(), threat.strip())


def _trial(item: Any) -> Trial:
    """One table of ``[[attacks]]``, every key and type checked."""
    if not isinstance(item, Mapping) or "attack" not in item:
        raise PlanError(f"attacks: {item!r} is not an attack", "Write 'pgd(steps=200)' or a table with attack = ...")
    known = {f.name: getattr(Trial("", ""), f.name) for f in dataclasses.fields(Trial)}
    given: dict[str, Any] = {}
    for key, part in item.items():
        if key not in known:
            raise unknown("key of an attack", key, known)
        given[key] = tuple(part) if isinstance(part, list) else part
        texts = key != "variants" or all(isinstance(name, str) for name in given[key])
        if type(given[key]) is not type(known[key]) or not texts:
            kind = {str: "a text", int: "a whole number", tuple: "a list of texts"}[type(known[key])]
            raise PlanError(f"attacks: {key} = {part!r} is not {kind}", f"Give {kind}.")
    if given.get("samples", 1) < 1:
        raise PlanError(f"attacks: samples = {given['samples']}", "Give at least 1, or leave it out.")
    return Trial(**given)


def _plan_value(key: str, hint: Any, value: Any) -> Any:
    text = str(hint)
    allowed: tuple[type, ...] = ()
    if "float" in text:
        allowed += (float, int)
    if "int" in text:
        allowed += (int,)
    if "bool" in text:
        allowed += (bool,)
    if "tuple" in text:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif "str" in text:
        allowed += (str,)
    if key == "eps" and isinstance(value, str):
        return _number(key, value, whole=False)
    if type(value) not in allowed:
        raise PlanError(f"{key} = {value!r} has the wrong type", f"Give {key} as in `actsec audit --print-plan`.")
    return float(value) if "float" in text else value


def with_activation(model: str, activation: str) -> str:
    """A reference model by its name, with another activation."""
    spec = parse(model.removeprefix("reference:"))
    return f"reference:{spec.having(activation=parse(activation))}"
