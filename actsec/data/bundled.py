"""The tables that scikit-learn brings, read as text without importing it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from actsec.data.delimited import Sheet
from actsec.errors import DataError

_CELL = (
    *("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points"),
    *("symmetry", "fractal dimension"),
)
_WINE = (
    *("alcohol", "malic acid", "ash", "alcalinity of ash", "magnesium", "total phenols", "flavanoids"),
    *("nonflavanoid phenols", "proanthocyanins", "color intensity", "hue", "od280/od315", "proline"),
)
_CELLS = tuple(f"{of} {part}" for of in ("mean", "error", "worst") for part in _CELL)
BUNDLED: dict[str, tuple[str, tuple[str, ...]]] = {
    "iris": ("iris.csv", ("sepal length", "sepal width", "petal length", "petal width")),
    "wine": ("wine_data.csv", _WINE),
    "breast_cancer": ("breast_cancer.csv", _CELLS),
}
"""Each table's file, and the names of its columns in the file's order; the last column is the class's number."""


def bundled(name: str) -> tuple[Sheet, str, tuple[str, ...]]:
    """A bundled table with its classes by name, its label column, and the classes in label order."""
    file, columns = BUNDLED[name]
    lines = find(file).read_text(encoding="ascii").split()
    _, _, *classes = lines[0].split(",")
    rows = [line.split(",") for line in lines[1:]]
    values = zip(*rows, strict=True)
    cells = dict(zip((*columns, "class"), (tuple(column) for column in values), strict=True))
    cells["class"] = tuple(classes[int(number)] for number in cells["class"])
    return Sheet(name, cells, tuple(range(2, len(rows) + 2))), "class", tuple(classes)


def find(file: str) -> Path:
    """A data file of scikit-learn, found without importing it: that takes seconds and 90 MB in every worker."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise DataError("scikit-learn is not installed, and this data is its own", "pip install scikit-learn")
    return Path(found.origin).parent / "datasets" / "data" / file
