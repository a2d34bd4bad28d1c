"""The label columns of a sheet: which one is audited, its classes, and a label for every row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from actsec.data.delimited import Sheet, number, numeric
from actsec.data.sets import Labels
from actsec.errors import DataError, PlanError, unknown

CLASSES = 1000


def named(test: Sheet, text: str | None, label: str | None) -> tuple[tuple[str, ...], str]:
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


def classes(
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
