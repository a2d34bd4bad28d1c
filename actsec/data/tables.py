"""From sheets of text to standardised data sets: what each column is, its scaler, its rules, and the labels.

    load("wine", ...)                        scikit-learn's tables iris, wine and breast_cancer, split (offline)
    load("test.csv", train="train.csv", label_column="risk")

The training table decides: which columns are text and their categories, and every column's mean and deviation. Where
there is none the test table does, and the notes say so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from actsec.data.bundled import BUNDLED, bundled
from actsec.data.delimited import Sheet, decimals, number, numeric, read
from actsec.data.recognise import from_arrays
from actsec.data.sets import Labels, Splits, split
from actsec.errors import DataError, PlanError, unknown
from actsec.search.features import Feature, FeatureRule, Table

CATEGORIES = 100
"""A column of text with more different values is not read as a choice: it names its rows."""
INPUTS = 20_000
"""Columns after the one-hot encoding of text: each is a column of float64 for every row."""
CLASSES = 1000
_SUFFIXES = (".csv", ".tsv", ".txt")
_PARTS = (0.5, 0.15, 0.35)
_ON_LATTICE = 1e-6
Array = npt.NDArray[np.float64]


def is_table(source: str) -> bool:
    """Whether ``load`` of this module reads the source."""
    return source in BUNDLED or Path(source).suffix.lower() in _SUFFIXES


def load(
    source: str,
    *,
    train: str | None = None,
    calibration: str | None = None,
    label_column: str | None = None,
    label: str | None = None,
    rules: Sequence[FeatureRule] = (),
    seed: int = 0,
) -> Splits:
    """The splits of tables: x (n, columns) float32 in training standard deviations, y (n,).

    source, train and calibration are .csv files, or source one of the bundled tables. label_column names the column of
    labels, or several 0/1 columns (a,b,c) of which label is the one audited; none of them is an input. rules say what
    the adversary may do to a column. Columns of text become one-hot columns ``colour=red``, which stay 0 and 1, as do
    numeric columns with a group. Raises DataError naming the cell, UnknownName, PlanError.
    """
    if source in BUNDLED:
        for option, value in (("train", train), ("label-column", label_column), ("label", label)):
            if value is not None:
                raise PlanError(f"--{option} {value}: {source} brings its own", f"Leave --{option} out.")
        sheet, target, classes = bundled(source)
        parts = _split(sheet, target, seed)
        return _splits(parts, (target,), target, rules, classes)
    named = {"test": source, "train": train, "calibration": calibration}
    parts = {part: _read(part, path) for part, path in named.items() if path is not None}
    labels, target = _label_columns(parts["test"], label_column, label)
    return _splits(parts, labels, target, rules)


def _read(part: str, source: str) -> Sheet:
    if not is_table(source) or source in BUNDLED:
        raise DataError(f"{part} data {source!r} is no table, the test data is", "Give a .csv file of equal columns.")
    path = Path(source).expanduser()
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob(f"*{path.suffix}")) if path.parent.is_dir() else []
        raise DataError(f"there is no file {source!r}", unknown("file", path.name, near).mend if near else "")
    return read(path)


def _label_columns(test: Sheet, text: str | None, label: str | None) -> tuple[tuple[str, ...], str]:
    """All label columns, and the audited one."""
    known = ", ".join(test.columns)
    if text is None:
        raise PlanError(f"which column of {test.name} holds the labels?", f"Give --label-column. Columns: {known}.")
    names = (text,) if text in test.columns else tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in test.columns:
            raise unknown(f"column of {test.name} (--label-column)", name, test.columns)
    if label is not None and label not in names:
        raise unknown("label (--label names one of --label-column)", label, names)
    if len(names) > 1 and label is None:
        raise PlanError(
            f"{len(names)} label columns are audited one at a time", f"Give --label, one of {', '.join(names)}."
        )
    if len(set(names)) < len(names):
        raise PlanError(f"--label-column {text}: a column is named twice", "Name each once.")
    if len(names) == len(test.columns):
        raise DataError(f"{test.name} holds labels alone", "Give columns that a model can read.")
    return names, label or names[0]


def _splits(
    parts: Mapping[str, Sheet],
    labels: tuple[str, ...],
    target: str,
    rules: Sequence[FeatureRule],
    classes: tuple[str, ...] = (),
) -> Splits:
    """The data sets; classes in label order where they are known."""
    by = "train" if "train" in parts else "test"
    notes: list[str] = []
    if by == "test":
        notes.append("no training table: columns are standardised by the test table, and eps is in its deviations")
    inputs = [name for name in parts[by].columns if name not in labels]
    for part, sheet in parts.items():
        _same_columns(sheet, part, inputs, labels, parts[by].name)
    given = _rules_by_name(rules, inputs)
    encoded = _encode(parts, by, inputs, given, notes)
    if len(encoded) > INPUTS:
        raise DataError(
            f"{parts[by].name} comes to {len(encoded):,} columns when text is one-hot encoded, the limit is {INPUTS:,}",
            "Leave out columns of text that the model does not read.",
        )
    features = _features(parts, by, encoded, given, notes)
    table = Table(tuple(features), target, labels, by)
    classes, y = _classes(parts, by, target, classes, several=len(labels) > 1)
    values = {part: np.stack([columns[part] for columns, *_ in encoded], 1) for part in parts}
    made = {}
    for part, sheet in parts.items():
        raw = values[part]
        _check_rules(sheet, features, raw)
        x = _standardised(features, raw)
        made[part] = from_arrays(x, y[part], name=sheet.name, classes=classes, bounds=_box(table), layout="as_is")
        made[part] = dataclasses.replace(made[part], table=table)
    made["test"] = made["test"].noting(f"{len(inputs)} columns, standardised by the {by} table; eps in its deviations")
    return Splits(made["test"].noting(*notes), made.get("train"), made.get("calibration"))


def _box(table: Table) -> tuple[float, float]:
    """A range that holds all columns' boxes, to a tenth of a deviation, and is never empty."""
    low, high = table.box
    return math.floor(low * 10 - _ON_LATTICE) / 10, math.ceil(high * 10 + _ON_LATTICE) / 10


def _same_columns(sheet: Sheet, part: str, inputs: Sequence[str], labels: Sequence[str], first: str) -> None:
    wanted = [*inputs, *labels]
    missing = [name for name in wanted if name not in sheet.columns]
    extra = [name for name in sheet.columns if name not in wanted]
    if missing:
        raise DataError(
            f"{sheet.name} ({part}) has no column {missing[0]!r}, which {first} has",
            unknown("column", missing[0], extra or sheet.columns).mend,
        )
    if extra:
        raise DataError(
            f"{sheet.name} ({part}) has a column {extra[0]!r}, which {first} has not",
            "All tables have the same columns, in any order.",
        )


def _rules_by_name(rules: Sequence[FeatureRule], inputs: Sequence[str]) -> dict[str, FeatureRule]:
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


def _encode(
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


def _features(
    parts: Mapping[str, Sheet], by: str, encoded: Sequence[Encoded], given: Mapping[str, FeatureRule], notes: list[str]
) -> list[Feature]:
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


def _check_rules(sheet: Sheet, features: Sequence[Feature], raw: Array) -> None:
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
        off = np.flatnonzero(np.abs(count - np.rint(count)) > _ON_LATTICE * np.maximum(1, np.abs(count)))
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


def _standardised(features: Sequence[Feature], raw: Array) -> npt.NDArray[np.float32]:
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


def _classes(
    parts: Mapping[str, Sheet], by: str, target: str, known: tuple[str, ...], *, several: bool
) -> tuple[tuple[str, ...], dict[str, Labels]]:
    """Class names in label order, and the labels of every part."""
    kinds = {part: numeric(sheet, target) for part, sheet in parts.items()}  # every part is read: each cell is checked
    numbers = all(kinds.values())
    texts = {part: sheet.columns[target] for part, sheet in parts.items()}
    classes = known or (_counted(parts, target) if numbers else tuple(sorted(set(texts[by]))))
    if len(classes) < 2:
        raise DataError(f"column {target!r} holds one class, {classes[0]!r}", "Give rows of at least two classes.")
    if several and classes != ("0", "1"):
        raise DataError(
            f"the label column {target!r} holds {', '.join(classes[:4])}",
            "Each of several label columns holds 0 and 1; a column of classes is given alone.",
        )
    if len(classes) > min(CLASSES, max(2, len(parts[by]) // 2)):
        raise DataError(
            f"the label column {target!r} holds {len(classes)} different values in {len(parts[by])} rows",
            "actsec audits classifiers: name the column of the classes.",
        )
    index = {name: i for i, name in enumerate(classes)}
    y = {}
    for part, sheet in parts.items():
        named = [str(int(float(cell))) if numbers else cell for cell in texts[part]]
        for row, name in enumerate(named):
            if name not in index:
                raise DataError(
                    f"{sheet.where(row, target)}: the class {name!r} does not occur in {parts[by].name}",
                    "A model has one output for each class it was trained on: leave the row out.",
                )
        y[part] = np.array([index[name] for name in named], dtype=np.int64)
    return classes, y


def _counted(parts: Mapping[str, Sheet], target: str) -> tuple[str, ...]:
    """Classes of whole numbers: 0 to the largest where 0 occurs, as they are otherwise."""
    found: set[int] = set()
    for sheet in parts.values():
        for row, cell in enumerate(sheet.columns[target]):
            value = number(cell)
            if value is None or value != int(value):
                raise DataError(
                    f"{sheet.where(row, target)}: {cell} is a measurement: this looks like regression",
                    "actsec audits classifiers: name the column of the classes.",
                )
            found.add(int(value))
    if 0 in found and min(found) == 0 and max(found) < CLASSES:
        return tuple(map(str, range(max(found) + 1)))
    return tuple(map(str, sorted(found)))


def _split(sheet: Sheet, target: str, seed: int) -> dict[str, Sheet]:
    """A bundled table cut into test, train and calibration, stratified; equal rows stay together."""
    cells: list[list[float]] = [[float(c) for c in column] for n, column in sheet.columns.items() if n != target]
    names = sorted(set(sheet.columns[target]))
    y = np.array([names.index(cell) for cell in sheet.columns[target]])
    x = np.array(cells).T
    whole = from_arrays(x, y, bounds=(float(x.min()) - 1, float(x.max()) + 1), layout="as_is")
    train, calibration, test = (np.flatnonzero(np.isin(whole.ids, part.ids)) for part in split(whole, _PARTS, seed))
    rows = {"test": test, "train": train, "calibration": calibration}
    return {part: sheet.take(chosen.tolist()) for part, chosen in rows.items()}


def cells(table: Table, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> list[tuple[str, str, str, float]]:
    """What differs between two standardised rows: (feature, before, after, change in training deviations).

    In the columns' own units, largest change first; a one-hot group is one line, from its category to the other, with
    no size.
    """
    found = []
    groups = table.groups
    for i, f in enumerate(table.features):
        if f.group is None and before[i] != after[i]:
            old, new = f.original(float(before[i])), f.original(float(after[i]))
            found.append((f.name, *f.words(old, new), float(after[i]) - float(before[i])))
    found.sort(key=lambda cell: -abs(cell[3]))
    for group, columns in groups.items():
        at = list(columns)
        if (before[at] != after[at]).any():
            old_name, new_name = (table.features[at[int(np.argmax(row[at]))]].category for row in (before, after))
            found.insert(0, (group, old_name, new_name, 0.0))
    return found
