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

from actsec.data import encoding, label_columns
from actsec.data.bundled import BUNDLED, bundled
from actsec.data.delimited import Sheet, read
from actsec.data.recognise import from_arrays
from actsec.data.sets import Splits, split
from actsec.errors import DataError, PlanError, unknown
from actsec.search.features import FeatureRule, Table

INPUTS = 20_000
"""Columns after the one-hot encoding of text: each is a column of float64 for every row."""
_SUFFIXES = (".csv", ".tsv", ".txt")
_PARTS = (0.5, 0.15, 0.35)


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
    labels, target = label_columns.named(parts["test"], label_column, label)
    return _splits(parts, labels, target, rules)


def _read(part: str, source: str) -> Sheet:
    if not is_table(source) or source in BUNDLED:
        raise DataError(f"{part} data {source!r} is no table, the test data is", "Give a .csv file of equal columns.")
    path = Path(source).expanduser()
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob(f"*{path.suffix}")) if path.parent.is_dir() else []
        raise DataError(f"there is no file {source!r}", unknown("file", path.name, near).mend if near else "")
    return read(path)


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
    given = encoding.rules_by_name(rules, inputs)
    encoded = encoding.encode(parts, by, inputs, given, notes)
    if len(encoded) > INPUTS:
        raise DataError(
            f"{parts[by].name} comes to {len(encoded):,} columns when text is one-hot encoded, the limit is {INPUTS:,}",
            "Leave out columns of text that the model does not read.",
        )
    features = encoding.features(parts, by, encoded, given, notes)
    table = Table(tuple(features), target, labels, by)
    classes, y = label_columns.classes(parts, by, target, classes, several=len(labels) > 1)
    values = {part: np.stack([columns[part] for columns, *_ in encoded], 1) for part in parts}
    made = {}
    for part, sheet in parts.items():
        raw = values[part]
        encoding.check_rules(sheet, features, raw)
        x = encoding.standardised(features, raw)
        made[part] = from_arrays(x, y[part], name=sheet.name, classes=classes, bounds=_box(table), layout="as_is")
        made[part] = dataclasses.replace(made[part], table=table)
    made["test"] = made["test"].noting(f"{len(inputs)} columns, standardised by the {by} table; eps in its deviations")
    return Splits(made["test"].noting(*notes), made.get("train"), made.get("calibration"))


def _box(table: Table) -> tuple[float, float]:
    """A range that holds all columns' boxes, to a tenth of a deviation, and is never empty."""
    low, high = table.box
    return math.floor(low * 10 - encoding.ON_LATTICE) / 10, math.ceil(high * 10 + encoding.ON_LATTICE) / 10


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
