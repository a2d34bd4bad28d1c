"""The scene of a run folder, as a worker loads it: the data where it lies, held against the hashes of the start."""

from __future__ import annotations

import dataclasses
import io
from functools import lru_cache
from pathlib import Path

import numpy as np

from actsec import data
from actsec.data import Dataset, Splits, folders
from actsec.errors import DataError
from actsec.running.scene import Scene, load, one_set, with_classes
from actsec.running.store import Store
from actsec.search import masks

INPUTS = "inputs.npz"
"""In a run folder: which files the data is and what they hash to, so that workers read only what their jobs need."""


def leave(loaded: Scene, store: Store) -> None:
    """Tell a run's workers where the rows of image folders are, so that none reads them all."""
    found = {name: folders.kept(split) for name, split in _parts(loaded.splits) if split is not None}
    arrays = {f"{name} {key}": value for name, each in found.items() for key, value in (each or {}).items()}
    if not arrays:
        (store.root / INPUTS).unlink(missing_ok=True)
        return
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # arrays by name
    store.put_file(INPUTS, buffer.getvalue())


def _left(store: Store) -> dict[str, Dataset]:
    """The data that ``leave`` told of, by split; nothing is read of it."""
    place = store.root / INPUTS
    if not place.is_file():
        return {}
    with np.load(place, allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    named = {key.partition(" ")[0] for key in arrays}
    own = {name: {key.partition(" ")[2]: arrays[key] for key in arrays if key.startswith(f"{name} ")} for name in named}
    return {name: folders.again(each) for name, each in own.items()}


def _parts(splits: Splits) -> tuple[tuple[str, Dataset | None], ...]:
    return ("test", splits.test), ("train", splits.train), ("calibration", splits.calibration)


@lru_cache(maxsize=1)
def of_run(root: Path) -> Scene:
    """The scene of a run folder, loaded once in each worker. Raises DataError when the data is not what it was.

    What is streamed is not read here: every row is held against its id when a job reads it.
    """
    store = Store.open(root)
    plan, known, left = store.plan(), store.facts(), _left(store)
    if "test" in left:
        named = {"train": plan.train, "calibration": plan.calibration}
        others = {key: one_set(text, plan, known.classes) for key, text in named.items() if text and key not in left}
        mask = None if plan.mask is None else masks.read(plan.mask, known.shape)
        loaded = Scene(plan, Splits(**{**left, **others}), (), mask=mask)
    else:
        loaded = load(plan)
    loaded = dataclasses.replace(loaded, splits=with_classes(loaded.splits, known.classes))
    for name, split in _parts(loaded.splits):
        if name not in left and (None if split is None else data.fingerprint(split)) != getattr(known, name):
            raise DataError(f"the {name} data changed since the run began", "Put it back, or give another --out.")
    if loaded.mask is not None and masks.fingerprint(loaded.mask) != known.mask:
        raise DataError("the mask changed since the run began", "Put it back, or give another --out.")
    return loaded
