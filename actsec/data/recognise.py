"""From raw arrays to a Dataset: what the numbers are is recognised, said in the notes, and never guessed twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from actsec.data.limits import LIMIT, check_size
from actsec.data.sets import Dataset, Labels, check_labels
from actsec.data.streamed import Floats, row_ids
from actsec.errors import BadOption, DataError, Unsafe

Layout = Literal["auto", "as_is", "channels_first", "channels_last"]
CLASSES = 100_000
NAME = 1000
"""Classes of a data set, and characters of a class's name."""

_LEVELS = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
_CHANNELS = (1, 3, 4)
Array = npt.NDArray[Any]


def from_arrays(
    x: Array,
    y: Array,
    *,
    name: str = "arrays",
    classes: Sequence[str] | None = None,
    n_classes: int | None = None,
    bounds: tuple[float, float] | None = None,
    scale: float | None = None,
    layout: Layout = "auto",
    limit: int = LIMIT,
) -> Dataset:
    """Check and convert arrays into a Dataset.

    ``x`` (n, ...): uint8 is divided by 255 and uint16 by 65535; floats are taken as they are and must lie in ``bounds``
    ([0, 1] unless given); with ``scale`` any number type is divided by it. Under layout "auto", (n, h, w) gets a
    channel axis and (n, h, w, c) with c of 1, 3 or 4 is turned to (n, c, h, w) unless its second axis is 1, 3 or 4 too.
    ``y`` (n,) whole numbers of any type in 0..C-1, where C is the length of ``classes``, or ``n_classes``, or the
    largest label plus one. Raises DataError (Unsafe for arrays of Python objects) naming the mend.
    """
    x, y = np.asarray(x), np.asarray(y)
    _refuse_objects("x", x.dtype)
    _refuse_objects("y", y.dtype)
    if x.ndim < 2:
        raise DataError(f"x has shape {x.shape}, one row per example is needed", "Give x as (n, ...), y as (n,).")
    check_size("x", x.shape, x.dtype, limit)
    notes: list[str] = []
    labels = _labels(y, notes)
    if len(x) != len(labels):
        raise DataError(f"x has {len(x)} rows and y has {len(labels)}", "Give one label per example.")
    if not x.size:
        raise DataError(f"the data is empty: x has shape {x.shape}", "Give at least one example.")
    if n_classes is not None and classes is not None and len(classes) != n_classes:
        raise DataError(f"{len(classes)} class names for {n_classes} classes", "Give one name per class.")
    count = len(classes) if classes is not None else n_classes or int(labels.max()) + 1
    if count > CLASSES:
        raise DataError(
            f"the labels go up to {count - 1:,}, the limit is {CLASSES:,} classes",
            "Labels are class numbers 0, 1, 2, ... without gaps: np.unique(y, return_inverse=True)[1] gives them.",
        )
    check_labels(labels, count)
    names = tuple(classes) if classes is not None else tuple(map(str, range(count)))
    check_names(names)
    values, grid = _scaled(_channels_first(x, layout, notes), scale, notes)
    box = bounds or (0.0, 1.0)
    _check_values(values, box, stated=bounds is not None, scaled=scale is not None)
    return Dataset(name, values, labels, names, row_ids(values), grid, box, tuple(notes))


def check_names(names: Sequence[str]) -> None:
    """Class names are text that can be written down and read back."""
    for name in names:
        if len(name) > NAME:
            raise DataError(f"a class is named {name[:40]!r}..., {len(name):,} characters", f"At most {NAME} are kept.")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"the class name {name!r} is not Unicode text", "Rename it in UTF-8.") from None


def _refuse_objects(key: str, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise Unsafe(
            f"{key} is an array of Python objects, which is a pickle: opening it would execute code",
            f"Store {key} as numbers, for example {key}.astype('float32').",
        )


def _labels(y: Array, notes: list[str]) -> Labels:
    if y.ndim == 2 and y.shape[1] == 1:
        notes.append("labels of shape (n, 1) read as (n,)")
        y = y[:, 0]
    if y.ndim == 2 and y.shape[1] > 1:
        raise DataError(f"y has shape {y.shape}: scores or one-hot labels", "Store y.argmax(1).")
    if y.ndim != 1:
        raise DataError(f"y has shape {y.shape}, (n,) is needed", "Store one whole number per example.")
    if y.dtype.kind == "f":
        if not np.isfinite(y).all() or (y != np.rint(y)).any():
            raise DataError(
                "y holds numbers that are not whole: this looks like regression",
                "actsec audits classifiers; store class numbers 0, 1, 2, ... as y.",
            )
        notes.append("whole-number float labels read as integers")
    elif y.dtype.kind not in "iub":
        raise DataError(f"y has type {y.dtype}", "Store class numbers 0, 1, 2, ... of an integer type.")
    if y.dtype.kind in "uf" and y.size and y.max() > np.iinfo(np.int32).max:
        raise DataError(f"y holds the label {y.max()}", "Labels must be class numbers 0, 1, 2, ...")
    return y.astype(np.int64)


def _channels_first(x: Array, layout: Layout, notes: list[str]) -> Array:
    if layout == "channels_last" or (
        layout == "auto" and x.ndim == 4 and x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS
    ):
        if x.ndim != 4:
            raise BadOption(f"layout=channels_last does not fit x of shape {x.shape}", "Give (n, h, w, c).")
        notes.append(
            f"channels-last {'recognised' if layout == 'auto' else 'stated'}: "
            f"{x.shape[1:]} turned to {(x.shape[3], *x.shape[1:3])}"
        )
        return np.moveaxis(x, 3, 1)
    if layout == "auto" and x.ndim == 3:
        notes.append(f"no channel axis: {x.shape[1:]} read as {(1, *x.shape[1:])}")
        return x[:, None]
    if layout == "channels_first" and x.ndim != 4:
        raise BadOption(f"layout=channels_first does not fit x of shape {x.shape}", "Give (n, c, h, w).")
    return x


def _scaled(x: Array, scale: float | None, notes: list[str]) -> tuple[Floats, int | None]:
    """float32 values in input units and the grid they came from. Each quotient is rounded once, correctly."""
    if x.dtype.kind not in "iuf" or (scale is None and x.dtype.kind != "f" and x.dtype not in _LEVELS):
        raise DataError(
            f"x has type {x.dtype}, whose range is not known",
            "Store x as uint8, uint16 or float in [0, 1], or give scale: the value that stands for 1.",
        )
    if scale is None:
        levels = _LEVELS.get(x.dtype)
        if levels is None:
            return np.ascontiguousarray(x, dtype=np.float32), None
        notes.append(f"{x.dtype} divided by {levels}")
        values = np.array(x, dtype=np.float32, order="C")
        values /= np.float32(levels)
        return values, levels
    if not scale > 0 or not np.isfinite(scale):
        raise BadOption(f"scale={scale} cannot divide the data", "Give the value that stands for 1, for example 255.")
    notes.append(f"{x.dtype} divided by scale={scale:g}")
    whole = scale == int(scale) and bool((x == np.rint(x)).all())
    return np.ascontiguousarray(x.astype(np.float64) / scale, dtype=np.float32), int(scale) if whole else None


def _check_values(x: Floats, bounds: tuple[float, float], *, stated: bool, scaled: bool) -> None:
    low, high = bounds
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise BadOption(f"bounds={bounds} is not a range", "Give two finite numbers, the smaller first.")
    finite = np.isfinite(x.reshape(len(x), -1)).all(1)
    if not finite.all():
        at = int(np.flatnonzero(~finite)[0])
        raise DataError(
            f"x holds nan or infinity, first in row {at} ({int((~finite).sum())} such rows)",
            "Drop these rows or mend them; float16 overflows above 65504.",
        )
    least, most = float(x.min()), float(x.max())
    if low <= least and most <= high:
        return
    problem = f"x spans [{least:.4g}, {most:.4g}], outside [{low:g}, {high:g}]"
    if stated:
        raise DataError(problem, "Give the bounds that an input can really have.")
    if least >= 0 and 16 < most <= 255 and not scaled:
        raise DataError(
            f"{problem}: these look like 0-255 images",
            "Divide x by 255, or store it as uint8; --bounds 0,255 is for a model that was trained on it as it is.",
        )
    raise DataError(
        problem,
        "If this is normalised data, store the raw inputs and give the normalisation to the model (--normalize); "
        f"otherwise state the range an input can have, for example bounds=({least:.4g}, {most:.4g}).",
    )
