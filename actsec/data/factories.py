"""Data made by a function of the user's: ``data.py:make(n=100)``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from actsec import spec as notation
from actsec.data.limits import check_size
from actsec.data.recognise import Layout, from_arrays
from actsec.data.sets import Dataset, Splits
from actsec.errors import ActsecError, DataError, unknown
from actsec.loading.executed import Source


def from_factory(
    path: Path,
    call: str,
    *,
    classes: Sequence[str] | None,
    n_classes: int | None,
    bounds: tuple[float, float] | None,
    scale: float | None,
    layout: Layout,
    limit: int,
) -> Dataset | Splits:
    """Run ``call`` (a name with options) of the file and read what it returns.

    Understood: a ``Dataset`` or ``Splits`` of actsec (taken as it is), a torch Dataset, or any sequence with a length
    whose items are (x, y); x may be a tensor, an array or a PIL image. The file is executed: it is the user's own code.
    """
    wanted = notation.parse(call)
    made = _call(path, wanted)
    if isinstance(made, (Dataset, Splits)):
        return made
    x, y = _collect(made, f"{path.name}:{wanted.name}", limit)
    named = classes if classes is not None else getattr(made, "classes", None)
    return from_arrays(
        x,
        y,
        name=str(wanted),
        classes=[str(c) for c in named] if named else None,
        n_classes=n_classes,
        bounds=bounds,
        scale=scale,
        layout=layout,
        limit=limit,
    )


def _call(path: Path, wanted: notation.Spec) -> Any:
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}", "Give FILE.py:FUNCTION with a path that exists.")
    name = f"actsec_data_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=Source(name, str(path)))
    if spec is None or spec.loader is None:
        raise DataError(f"{path} cannot be imported", "Give a .py file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that classes defined there can be found again, by worker processes for one
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code may raise anything, an exit with code 0 included
        raise DataError(f"{path} fails when it is run: {type(error).__name__}: {error}", "Mend the file.") from error
    functions = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
    if wanted.name not in functions:
        raise DataError(f"{path} has no function {wanted.name!r}", unknown("function", wanted.name, functions).mend)
    try:
        return functions[wanted.name](**dict(wanted.options))
    except ActsecError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(f"{path.name}:{wanted} fails: {type(error).__name__}: {error}", "Mend the function.") from error


def _collect(made: Any, where: str, limit: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Stack the items of a sequence of (x, y)."""
    mend = "Return a torch Dataset with a length, or any sequence of (x, y)."
    try:
        count = len(made)
    except TypeError as error:
        raise DataError(f"{where} returned a {type(made).__name__}, which has no length", mend) from error
    if count == 0:
        raise DataError(f"{where} returned no examples", "Give at least one example.")
    inputs: npt.NDArray[Any] = np.empty(0)
    labels = []
    for at in range(count):
        try:
            x, y = made[at]
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise DataError(f"item {at} of {where} is not a pair (x, y)", mend) from error
        row = _array(x)
        if at == 0:
            check_size("x", (count, *row.shape), row.dtype, limit)
            inputs = np.empty((count, *row.shape), dtype=row.dtype)
        if row.shape != inputs.shape[1:] or row.dtype != inputs.dtype:
            raise DataError(
                f"item {at} of {where} is {row.dtype} {row.shape}, the first is {inputs.dtype} {inputs.shape[1:]}",
                "Give inputs of one type and one size: add a resize to the data set's transform.",
            )
        inputs[at] = row
        labels.append(_array(y))
    if any(label.size != 1 for label in labels):
        raise DataError(f"labels of {where} are not single numbers", "Give class numbers 0, 1, 2, ...")
    return inputs, np.array([label.item() for label in labels])


def _array(value: Any) -> npt.NDArray[Any]:
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
