"""Inputs that stay in their files until rows of them are asked for: memory is that of the rows, not of the data set."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from actsec.data.limits import LIMIT, check_size
from actsec.errors import DataError

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Ids = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
_AT_ONCE = 256


class Source(Protocol):
    """Where stored rows are read from."""

    def row(self, number: int) -> npt.NDArray[np.uint8]:
        """Row ``number`` as it is stored. Raises DataError."""

    def where(self, number: int) -> str:
        """What people call the row: the name of its file."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Streamed:
    """Inputs (n, *item), float32 of 8-bit values divided by 255, read from a source row by row.

    ``x[3]``, ``x[10:20]`` and ``x[[4, 1]]`` read those rows. Whatever is read must hash to its id in ``ids`` (n,)
    uint64: data that changed since it was first read raises DataError, and is never mixed with what it was. ``at`` (n,)
    are the rows' numbers in the source. ``numpy.asarray`` reads all of it, up to LIMIT.
    """

    source: Source
    at: Rows
    item: tuple[int, ...]
    ids: Ids

    def __len__(self) -> int:
        return len(self.at)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *item)."""
        return (len(self.at), *self.item)

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Of what is read."""
        return np.dtype(np.float32)

    def take(self, rows: Rows) -> Streamed:
        """The same inputs at ``rows``, unread."""
        return dataclasses.replace(self, at=self.at[rows], ids=self.ids[rows])

    def stored(self, rows: slice) -> npt.NDArray[np.uint8]:
        """These rows as they are stored, checked."""
        values: npt.NDArray[np.uint8] = np.rint(self[rows] * np.float32(255)).astype(np.uint8)
        return values

    def __getitem__(self, index: Any) -> Floats:
        if isinstance(index, (int, np.integer)):
            one: Floats = self[[int(index)]][0]
            return one
        wanted = np.arange(len(self))[index]
        values = np.empty((len(wanted), *self.item), dtype=np.float32)
        for place, row in enumerate(wanted):
            stored = self.source.row(int(self.at[row]))
            if stored.shape != self.item:
                raise self._changed(int(row))
            values[place] = stored
        values /= np.float32(255)
        changed = np.flatnonzero(row_ids(values) != self.ids[wanted])
        if len(changed):
            raise self._changed(int(wanted[changed[0]]))
        return values

    def _changed(self, row: int) -> DataError:
        where = self.source.where(int(self.at[row]))
        return DataError(f"{where} changed since the data was first read", "Put it back, or give another --out.")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        check_size("x", self.shape, self.dtype, LIMIT)
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)


Inputs = Floats | Streamed
"""Inputs in memory, or to be read: both are cut by ``x[first:last]``."""


def row_ids(x: Floats) -> Ids:
    """A 64-bit hash of each row's values. Negative zero counts as zero; the shape of a row takes part."""
    mark = repr(x.shape[1:]).encode()[:64]
    digests = []
    for part in blocks(x, _AT_ONCE):
        rows = np.ascontiguousarray(part + np.float32(0), dtype="<f4")
        digests += [hashlib.blake2b(row.tobytes(), digest_size=8, salt=b"actsec", key=mark).digest() for row in rows]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def blocks(x: Inputs, size: int = _AT_ONCE) -> Iterator[Floats]:
    """Consecutive rows of x, ``size`` at a time."""
    for start in range(0, len(x), size):
        yield x[start : start + size]


def streamed(source: Source, count: int, item: Sequence[int]) -> Streamed:
    """All rows of a source, each read once for its id."""
    item, found = tuple(item), list[Ids]()
    for number in range(count):
        stored = source.row(number)
        if stored.shape != item:
            mend = "Read it when nothing writes to it."
            raise DataError(f"{source.where(number)} changed while the folder was read", mend)
        found.append(row_ids((stored[None] / np.float32(255)).astype(np.float32, copy=False)))
    return Streamed(source, np.arange(count, dtype=np.int64), item, np.concatenate(found))
