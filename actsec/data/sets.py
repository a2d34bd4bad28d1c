"""The nouns of data and what can be done with them: draw, split, compare, fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from actsec.data.streamed import Floats, Ids, Inputs, Rows, Streamed, blocks
from actsec.errors import BadOption, DataError
from actsec.search.features import Table

Labels = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Labelled examples in input units.

    ``x`` (n, ...) float32 inside ``bounds``, of image folders ``Streamed``, which reads what is asked for; ``y`` (n,)
    int64 in 0..len(classes)-1; ``grid`` the number of levels minus one when the source held integers (255 for 8-bit
    images, 16 for the digits), else None; ``ids`` (n,) uint64, a hash of each row of ``x`` alone, so that the same
    input in two places has the same id whatever its label; ``table`` the columns where the examples are rows of one, in
    training standard deviations.
    Built by ``from_arrays`` or ``load``, which check all of this.
    """

    name: str
    x: Inputs
    y: Labels
    classes: tuple[str, ...]
    ids: Ids
    grid: int | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    notes: tuple[str, ...] = ()
    table: Table | None = None

    def __len__(self) -> int:
        return len(self.y)

    def noting(self, *notes: str) -> Dataset:
        """The same data with further notes."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    def take(self, rows: npt.ArrayLike, name: str | None = None, note: str = "") -> Dataset:
        """The examples at ``rows``, in that order."""
        at = np.asarray(rows, dtype=np.int64)
        notes = (*self.notes, note) if note else self.notes
        x = self.x.take(at) if isinstance(self.x, Streamed) else self.x[at]
        return dataclasses.replace(self, name=name or self.name, x=x, y=self.y[at], ids=self.ids[at], notes=notes)

    def whole(self) -> Floats:
        """All inputs in memory. Raises DataError where they are more than ``limits.LIMIT``."""
        return np.asarray(self.x)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """Train, calibration and test. Fixes are fitted on the first two; every reported number comes from ``test``."""

    test: Dataset
    train: Dataset | None = None
    calibration: Dataset | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Overlap:
    """The same input in two splits: ``rows`` are pairs (row in ``first``, row in ``second``)."""

    first: str
    second: str
    rows: tuple[tuple[int, int], ...]


def fingerprint(dataset: Dataset) -> str:
    """sha256 (hex) over shapes, dtypes and bytes of ``x`` and ``y``, and a table's rules; equal on every machine."""
    digest = hashlib.sha256()
    digest.update(f"{dataset.x.shape} <f4;".encode())
    for part in blocks(dataset.x):
        digest.update(np.ascontiguousarray(part, dtype="<f4").tobytes())
    digest.update(f"{dataset.y.shape} <i8;".encode() + np.ascontiguousarray(dataset.y, dtype="<i8").tobytes())
    if dataset.table is not None:
        digest.update(dataset.table.identity.encode())
    return digest.hexdigest()


def check(dataset: Dataset, classes: int, shape: Sequence[int] | None = None) -> None:
    """Does the data fit a model of this many classes and this input shape? Raises DataError with the mend."""
    check_labels(dataset.y, classes)
    if shape is not None and tuple(shape) != dataset.x.shape[1:]:
        raise DataError(
            f"{dataset.name} holds inputs of shape {dataset.x.shape[1:]}, the model takes {tuple(shape)}",
            "Give data of the model's input shape; an image folder can be resized by resize='resize=32x32'.",
        )


def check_labels(y: Labels, classes: int) -> None:
    """Labels must lie in 0..classes-1. Raises DataError naming the first that does not."""
    wrong = np.flatnonzero((y < 0) | (y >= classes))
    if not len(wrong):
        return
    at = int(wrong[0])
    mend = f"Labels must be 0 to {classes - 1}."
    if y.min() == 1 and y.max() == classes:
        mend += " These run from 1: store y - 1."
    raise DataError(f"label {int(y[at])} at row {at} is outside 0..{classes - 1} ({len(wrong)} such rows)", mend)


def sample(dataset: Dataset, n: int | None = None, seed: int = 0, per_class: int | None = None) -> Dataset:
    """A seeded sample: ``n`` examples in proportion to the classes, or ``per_class`` of each class.

    The choice depends on the seed and on the contents, not on the order of the file. Samples are nested: the first 100
    rows of a sample of 200 are the sample of 100. Each class gets its share within one example of exact rounding.
    Asking for more than there is takes everything and says so in the notes; a class with fewer than ``per_class``
    examples is a DataError, since the sample would not be balanced.
    """
    if (n is None) == (per_class is None):
        raise BadOption("sample needs either n or per_class", "Give samples=100 or per_class=10, not both.")
    size = n if n is not None else per_class
    if size is None or size < 1:
        raise BadOption(f"a sample of {size} examples is empty", "Ask for at least 1.")
    order, rank = _stratified(dataset, seed)
    if per_class is not None:
        counts = np.bincount(dataset.y, minlength=len(dataset.classes))
        short = np.flatnonzero(counts < per_class)
        if len(short):
            name, held = dataset.classes[int(short[0])], int(counts[short[0]])
            raise DataError(
                f"class {name!r} has {held} examples, per_class={per_class} asks for more",
                f"Give per_class={int(counts.min())} or less." if counts.min() else "Give samples instead.",
            )
        chosen = order[rank[order] < per_class]
        return dataset.take(chosen[np.argsort(rank[chosen], kind="stable")])
    if size > len(dataset):
        return dataset.take(order, note=f"{size} samples asked for, {len(dataset)} exist: all are used")
    return dataset.take(order[:size])


def split(dataset: Dataset, fractions: Sequence[float], seed: int = 0) -> tuple[Dataset, ...]:
    """Cut into disjoint, stratified parts of these fractions, which sum to one; every example is in one part.

    Rows with equal contents stay together, so the parts are disjoint in content. Raises BadOption on fractions that do
    not sum to 1, DataError when a part would be empty.
    """
    if min(fractions, default=0) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise BadOption(f"fractions {tuple(fractions)} do not split a set", "Give positive numbers that sum to 1.")
    first, group = np.unique(dataset.ids, return_index=True, return_inverse=True)[1:]
    order, _ = _stratified(dataset.take(first), seed)
    cuts = np.rint(np.cumsum(fractions)[:-1] * len(order)).astype(np.int64)
    part_of_group = np.empty(len(order), dtype=np.int64)
    for part, members in enumerate(np.split(order, cuts)):
        if not len(members):
            raise DataError(
                f"{dataset.name} has {len(order)} different examples, too few for fractions {tuple(fractions)}",
                "Give more data or fewer parts.",
            )
        part_of_group[members] = part
    part_of_row = part_of_group[group.reshape(-1)]
    return tuple(dataset.take(np.flatnonzero(part_of_row == part)) for part in range(len(fractions)))


def disjoint(train: Dataset | None, calibration: Dataset | None, test: Dataset | None) -> list[Overlap]:
    """Inputs that occur in two splits, a pair of splits each; an empty list when there are none."""
    named = [(name, data) for name, data in (("train", train), ("calibration", calibration), ("test", test)) if data]
    found = []
    for at, (first, one) in enumerate(named):
        for second, other in named[at + 1 :]:
            _, left, right = np.intersect1d(one.ids, other.ids, return_indices=True)
            if len(left):
                pairs = sorted(zip(left.tolist(), right.tolist(), strict=True))
                found.append(Overlap(first, second, tuple(pairs)))
    return found


def _stratified(dataset: Dataset, seed: int) -> tuple[Rows, Rows]:
    """All rows in an order whose every prefix is proportional, and each row's rank within its class.

    Systematic sampling: inside a class rows are ordered by a keyed hash of their content; the row of rank r among m is
    placed at (r + u) / m, with u in [0, 1) keyed by the class, and rows are read off by place. Hashes instead of a
    generator make the order independent of the file's order and of numpy's version.
    """
    key = str(seed).encode()
    keys = np.frombuffer(
        b"".join(hashlib.blake2b(row.tobytes(), digest_size=8, key=key).digest() for row in dataset.ids), dtype="<u8"
    )
    rank = np.empty(len(dataset), dtype=np.int64)
    place = np.empty(len(dataset), dtype=np.float64)
    for label in np.unique(dataset.y):
        rows = np.flatnonzero(dataset.y == label)
        rank[rows[np.argsort(keys[rows], kind="stable")]] = np.arange(len(rows))
        digest = hashlib.blake2b(f"class {label}".encode(), digest_size=8, key=key).digest()
        offset = int.from_bytes(digest, "little") / 2**64
        place[rows] = (rank[rows] + offset) / len(rows)
    return np.lexsort((keys, place)), rank
