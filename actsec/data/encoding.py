"""Columns of a sheet as inputs of a model: text one-hot, what the adversary may do to each, in deviations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from actsec.data.delimited import Sheet, decimals, number, numeric
from actsec.errors import DataError, PlanError, unknown
from actsec.search.features import Feature, FeatureRule

CATEGORIES = 100
"""A column of text with more different values is not read as a choice: it names its rows."""
ON_LATTICE = 1e-6
Array = npt.NDArray[np.float64]


def rules_by_name(rules: Sequence[FeatureRule], inputs: Sequence[str]) -> dict[str, FeatureRule]:
    """Rules by the column they are of. Raises UnknownName, and PlanError for one written twice."""
    found: dict[str, FeatureRule] = {}
    for rule in rules:
        if rule.name not in inputs:
            raise unknown("feature", rule.name, inputs)
        if rule.name in found:
            raise PlanError(f"feature {rule.name!r} is written twice", "Put its options together.")
        found[rule.name] = rule
    return found


Encoded = tuple[dict[str, Array], str, str | None, str]
"""A model input: its values in each part, the column it comes from, its one-hot group, its category."""


def encode(
    parts: Mapping[str, Sheet], by: str, inputs: Sequence[str], given: Mapping[str, FeatureRule], notes: list[str]
) -> list[Encoded]:
    """Every column as numbers; a column of text as one 0/1 column a category, sorted."""
    encoded: list[Encoded] = []
    for name in inputs:
        kinds = {part: numeric(sheet, name) for part, sheet in parts.items()}
        if kinds[by]:
            _all_numeric(parts, name, kinds)
            values = {part: np.array([number(cell) for cell in sheet.columns[name]]) for part, sheet in parts.items()}
            group = given[name].group if name in given else None
            encoded.append((values, name, group, name if group else ""))
            continue
        categories = sorted(set(parts[by].columns[name]))
        _check_text(parts, by, name, categories, given.get(name))
        notes.append(f"{name}: text, one-hot encoded as {len(categories)} columns: {_few(categories)}")
        for category in categories:
            cells = {part: np.array([c == category for c in sheet.columns[name]]) for part, sheet in parts.items()}
            encoded.append(({part: cell.astype(np.float64) for part, cell in cells.items()}, name, name, category))
    return encoded


def _all_numeric(parts: Mapping[str, Sheet], name: str, kinds: Mapping[str, bool]) -> None:
    for part, sheet in parts.items():
        if not kinds[part]:
            row = next(i for i, cell in enumerate(sheet.columns[name]) if number(cell) is None)
            raise DataError(
                f"{sheet.where(row, name)}: {sheet.columns[name][row]!r} is not a number, as in the other tables",
                "Give the tables' columns one kind each.",
            )


def _check_text(
    parts: Mapping[str, Sheet], by: str, name: str, categories: Sequence[str], rule: FeatureRule | None
) -> None:
    if len(categories) > min(CATEGORIES, max(2, len(parts[by]) // 2)):
        raise DataError(
            f"{parts[by].name}, column {name!r} holds {len(categories)} different texts: it names rows",
            "Leave the column out of the tables, or write numbers.",
        )
    if rule is not None and (wrong := [o for o in rule.options if o != "immutable"]):
        raise PlanError(
            f"feature {name!r} is a column of text: {wrong[0]} says nothing of it",
            "It is a one-hot group by itself, and can be immutable.",
        )
    for sheet in parts.values():
        for row, cell in enumerate(sheet.columns[name]):
            if cell not in categories:
                raise DataError(
                    f"{sheet.where(row, name)}: {cell!r} does not occur in {parts[by].name}",
                    "A model has one input for each category it was trained on: leave the row out.",
                )


def features(
    parts: Mapping[str, Sheet], by: str, encoded: Sequence[Encoded], given: Mapping[str, FeatureRule], notes: list[str]
) -> list[Feature]:
    """What each encoded column is and may become; constant columns and whole numbers are told of in the notes."""
    features, constant, whole = [], [], []
    for values, name, group, category in encoded:
        rule = given.get(name, FeatureRule(name))
        every = np.concatenate(list(values.values()))
        mean, std = float(values[by].mean()), float(values[by].std())
        still = bool((values[by] == values[by][0]).all())
        if group is not None:
            mean, std = 0.0, 1.0
        elif still:
            constant.append(name)
            std = 1.0
        written = tuple(cell for sheet in parts.values() for cell in sheet.columns[name]) if group is None else ()
        free = group is None and not (rule.step or rule.immutable or still)
        if free and bool((every == np.rint(every)).all()):
            whole.append(name)
        features.append(
            Feature(
                name=f"{name}={category}" if group == name and category != name else name,
                mean=mean,
                std=std,
                low=_end(rule.min, float(every.min())) if group is None else 0.0,
                high=_end(rule.max, float(every.max())) if group is None else 1.0,
                step=rule.step,
                base=_end(rule.min, 0.0) if rule.step is not None else 0.0,
                immutable=rule.immutable or (still and group is None),
                direction=rule.direction,
                group=group,
                category=category,
                decimals=decimals(written),
            )
        )
    if constant:
        notes.append(f"constant in the {by} table, so immutable here: {_few(constant)}")
    if whole:
        notes.append(
            f"whole numbers, which an attack may turn into fractions: {_few(whole)}; state step = 1 where it cannot"
        )
    _check_groups(features)
    return features


def _end(stated: float | None, found: float) -> float:
    return found if stated is None else float(stated)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _check_groups(features: Sequence[Feature]) -> None:
    columns: dict[str, set[str]] = {}
    for feature in features:
        if feature.group is not None:
            source = "text" if feature.name != feature.category else "numbers"
            columns.setdefault(feature.group, set()).add(source)
    for group, sources in columns.items():
        if len(sources) > 1:
            raise PlanError(f"the group {group!r} has the name of a column of text", "Give the group another name.")
        if sum(feature.group == group for feature in features) < 2:
            raise PlanError(f"the one-hot group {group!r} has one column", "Give group to every column of it.")


def check_rules(sheet: Sheet, features: Sequence[Feature], raw: Array) -> None:
    """The data itself keeps the rules, or no attack could: bounds, lattices and groups."""
    for i, f in enumerate(features):
        value = raw[:, i]
        outside = np.flatnonzero((value < f.low) | (value > f.high))
        if len(outside) and f.group is None:
            shown = f"{value[outside[0]]:g} lies outside the stated [{f.low:g}, {f.high:g}]"
            raise DataError(f"{sheet.where(int(outside[0]), f.name)}: {shown}", "State bounds that the data keeps.")
        if f.step is None:
            continue
        count = (value - f.base) / f.step
        off = np.flatnonzero(np.abs(count - np.rint(count)) > ON_LATTICE * np.maximum(1, np.abs(count)))
        if len(off):
            raise DataError(
                f"{sheet.where(int(off[0]), f.name)}: {value[off[0]]:g} is not {f.base:g} + a multiple of {f.step:g}",
                "Steps are counted from min, or from 0: state them as the data has them.",
            )
        if max(abs(f.low), abs(f.high), abs(f.mean)) * 2.0**-22 > f.step / 4:
            raise PlanError(
                f"feature {f.name!r}: step = {f.step:g} is finer than float32 tells values of {f.high:g} apart",
                "Leave step out: there the rounding is of no account.",
            )
    for group in {f.group for f in features if f.group is not None}:
        part = raw[:, [i for i, f in enumerate(features) if f.group == group]]
        wrong = np.flatnonzero(~((part == 0) | (part == 1)).all(1) | (part.sum(1) != 1))
        if len(wrong):
            line = sheet.lines[int(wrong[0])]
            raise DataError(
                f"{sheet.name}, line {line}: the columns of the group {group!r} are not one 1 and the rest 0",
                "Give group to the columns of one choice alone.",
            )


def standardised(features: Sequence[Feature], raw: Array) -> npt.NDArray[np.float32]:
    """(value - mean) / std in float64, rounded once; stepped values exactly those of ``TableRules``."""
    columns = []
    for i, f in enumerate(features):
        value = raw[:, i]
        if f.step is not None:
            value = f.base + np.rint((value - f.base) / f.step) * f.step
        columns.append((value - f.mean) / f.std)
    with np.errstate(over="ignore"):
        x = np.stack(columns, 1).astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(x).all(0))
    if len(wrong):
        name = features[int(wrong[0])].name
        raise DataError(f"column {name!r} has values too far from its mean for float32", "Mend the outliers.")
    return x
