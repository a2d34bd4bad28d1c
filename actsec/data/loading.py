"""``load``: one text names where data comes from."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from actsec.data import tables
from actsec.data.archives import read_npz
from actsec.data.bundled import BUNDLED, find
from actsec.data.factories import from_factory
from actsec.data.folders import from_folder
from actsec.data.limits import LIMIT
from actsec.data.recognise import Layout, from_arrays
from actsec.data.sets import Dataset, Splits, split
from actsec.errors import BadOption, DataError, Unsafe, unknown

SOURCES = {
    "digits": "scikit-learn's 1797 handwritten digits, 8x8 pixels, 17 grey levels; needs no network",
    "iris, wine, breast_cancer": "scikit-learn's tables, standardised; needs no network",
    "FILE.csv": "a table with a header line; --label-column names the labels, --train the training table",
    "FILE.npz": "arrays x (n, ...) and y (n,), optionally classes (names)",
    "FOLDER": "FOLDER/class/*.png or *.jpg, one folder a class",
    "FILE.py:FUNCTION(option=value)": "a torch Dataset or any sequence of (x, y) that FUNCTION returns",
}
"""What ``load`` reads, for ``actsec list data``."""

_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".pt2"}
_DIGITS = (0.55, 0.15, 0.30)


def load(
    source: str,
    *,
    classes: Sequence[str] | None = None,
    n_classes: int | None = None,
    bounds: tuple[float, float] | None = None,
    scale: float | None = None,
    layout: Layout = "auto",
    resize: str | None = None,
    limit: int = LIMIT,
    seed: int = 0,
) -> Dataset | Splits:
    """The data that ``source`` names (see SOURCES). ``digits``, and factories that return them, give ``Splits``.

    ``classes``: names in label order; ``n_classes``: how many there are, to check labels against; ``bounds``,
    ``scale`` and ``layout``: see ``from_arrays``; ``resize``: a stated transform for image folders, see
    ``from_folder``; ``limit``: largest array in bytes; ``seed``: of the digits' split.
    Raises DataError (exit code 2), or Unsafe (4) for what would execute.
    """
    if resize is not None and not Path(source).is_dir():
        raise BadOption(f"resize={resize!r} is for image folders, {source!r} is none", "Leave resize out.")
    if source == "digits":
        return digits(seed)
    if tables.is_table(source):
        return tables.load(source, seed=seed)
    path, mark, call = source.partition(".py:")
    if mark:
        return from_factory(
            Path(path + ".py"),
            call,
            classes=classes,
            n_classes=n_classes,
            bounds=bounds,
            scale=scale,
            layout=layout,
            limit=limit,
        )
    place = Path(source).expanduser()
    if place.is_dir():
        return from_folder(place, resize=resize, classes=classes, limit=limit)
    if place.suffix.lower() in _PICKLES:
        raise Unsafe(f"{source} is a pickle: opening it could execute code", "Store arrays: np.savez(path, x=x, y=y).")
    if not place.exists():
        raise _missing(source, place)
    if not place.is_file():
        raise DataError(f"{source} is neither a file nor a folder", f"actsec reads {', '.join(SOURCES)}.")
    if place.suffix.lower() not in (".npz", ".npy", ""):
        raise DataError(f"{source} is of a kind actsec does not read", f"It reads {', '.join(SOURCES)}.")
    x, y, named, notes = read_npz(place, limit)
    dataset = from_arrays(
        x,
        y,
        name=place.name,
        classes=classes or named,
        n_classes=n_classes,
        bounds=bounds,
        scale=scale,
        layout=layout,
        limit=limit,
    )
    return dataset.noting(*notes)


def digits(seed: int = 0) -> Splits:
    """scikit-learn's digits, x/16 of shape (n, 1, 8, 8), stratified: 988 train, 270 calibration, 539 test examples."""
    table = np.loadtxt(find("digits.csv.gz"), delimiter=",", dtype=np.uint8)
    whole = from_arrays(table[:, :64].reshape(-1, 1, 8, 8), table[:, 64].astype(np.int64), name="digits", scale=16)
    train, calibration, test = split(whole, _DIGITS, seed)
    return Splits(test, train, calibration)


def _missing(source: str, place: Path) -> Exception:
    if place.parent == Path() and not place.suffix:
        error = unknown("data", source, {*SOURCES, *BUNDLED})
        return DataError(f"there is no file, folder or data set {source!r}", error.mend)
    around = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
    near = difflib.get_close_matches(place.name, around, n=1)
    mend = f"Did you mean {str(place.parent / near[0])!r}?" if near else "Check the path."
    if not place.parent.is_dir():
        mend = f"The folder {str(place.parent)!r} does not exist either."
    return DataError(f"there is no file {source!r}", mend)
