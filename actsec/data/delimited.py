"""Reading .csv files: text in named columns, every cell accounted for. Nothing is guessed and nothing is run."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from actsec.errors import DataError, Unsafe

LIMIT = 256 * 2**20
"""Largest file read, in bytes: a cell of text takes about ten times its size in memory."""

COLUMNS = 10_000
"""Columns of a table."""
_DIGITS = 400  # characters of a number: float64 needs 24, and the pattern takes time quadratic in them

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_MISSING = {"", "?", "na", "n/a", "nan", "null", "#n/a"}
_LOOKED_AT = 50
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_HOW = "Save it as UTF-8 text with a header line: pandas' df.to_csv(path, index=False)."


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table as text: a tuple of cells for each column, in the file's order; lines are the cells' line numbers."""

    name: str
    columns: dict[str, tuple[str, ...]]
    lines: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.lines)

    def take(self, rows: Sequence[int]) -> Sheet:
        """The rows at these places, in that order."""
        columns = {name: tuple(cells[i] for i in rows) for name, cells in self.columns.items()}
        return replace(self, columns=columns, lines=tuple(self.lines[i] for i in rows))

    def where(self, row: int, column: str) -> str:
        """A cell's place in words, as an editor and a spreadsheet count."""
        return f"{self.name}, line {self.lines[row]}, column {column!r}"


def read(path: Path, limit: int = LIMIT) -> Sheet:
    """The sheet of a file. Raises DataError naming line and column, Unsafe for a pickle."""
    text = _text(path, limit)
    separator = _separator(path, text)
    rows, lines = _rows(path, text, separator)
    if not rows:
        raise DataError(f"{path} holds no cells", _HOW)
    header = _header(path, rows[0])
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {line} has {len(row)} cells, the header names {len(header)} columns",
                "Give every line one cell a column; a cell that holds the separator is written in double quotes.",
            )
    if len(rows) == 1:
        raise DataError(f"{path} holds a header and no rows", "Give at least one example.")
    columns = {
        name: tuple(cell.strip() for cell in cells)
        for name, cells in zip(header, zip(*rows[1:], strict=True), strict=True)
    }
    return Sheet(path.name, columns, tuple(lines[1:]))


def number(cell: str) -> float | None:
    """The number a cell holds, None where it holds none. ``1_000`` and ``0x10`` are texts."""
    return float(cell) if len(cell) <= _DIGITS and _NUMBER.fullmatch(cell) else None


def numeric(sheet: Sheet, column: str) -> bool:
    """Whether a column holds numbers. Raises DataError for a missing value, and for a stray text among numbers."""
    cells = sheet.columns[column]
    for row, cell in enumerate(cells):
        if cell.lower() in _MISSING:
            shown = f"the cell holds {cell!r}" if cell else "the cell is empty"
            raise DataError(
                f"{sheet.where(row, column)}: a value is missing ({shown})",
                "Leave the row out or fill it in as it was for the training of the model.",
            )
    found = [number(cell) for cell in cells]
    texts = [row for row, value in enumerate(found) if value is None]
    if not texts:
        _check_finite(sheet, column, found)
        return True
    cell = cells[texts[0]]
    if all(_DECIMAL_COMMA.fullmatch(cells[row]) for row in texts):
        raise DataError(f"{sheet.where(texts[0], column)}: {cell!r} has a decimal comma", "Write decimal points.")
    if len(texts) * 2 <= len(cells):
        raise DataError(
            f"{sheet.where(texts[0], column)}: {cell!r} is not a number, and {len(cells) - len(texts)} other cells of "
            "the column are",
            "Mend the cell; categories that look like numbers are written as text in every row (class 1, class 2).",
        )
    return False


def decimals(cells: Sequence[str]) -> int:
    """The decimal places that nine of ten numbers are written with or fewer: 9.899999 is a slip among 5.64 and 4.9."""
    places = sorted(len(cell.partition(".")[2].rstrip("0")) for cell in cells if "e" not in cell.lower())
    return min(places[(len(places) - 1) * 9 // 10], 6) if places else 0


def _check_finite(sheet: Sheet, column: str, values: Sequence[float | None]) -> None:
    for row, value in enumerate(values):
        if value is not None and not abs(value) < 1e30:
            shown = sheet.columns[column][row]
            said = "is infinite" if math.isinf(value) else "is too large for float32"
            raise DataError(f"{sheet.where(row, column)}: {shown} {said}", "Mend the cell or leave the row out.")


def _text(path: Path, limit: int) -> str:
    try:
        size = path.stat().st_size
        if size > limit:
            raise DataError(
                f"{path} has {size / 2**20:.0f} MiB, tables are read up to {limit / 2**20:.0f} MiB",
                "Give a sample of the rows: an audit attacks some hundred of them.",
            )
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "Check the path and its permissions.") from error
    if raw[:1] == b"\x80" and raw[1:2] in b"\x02\x03\x04\x05":
        raise Unsafe(f"{path} is a pickle: opening it would execute code", _HOW)
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path} is UTF-16 text", _HOW)
    if raw[:2] == b"PK" or b"\0" in raw:
        raise DataError(f"{path} is not a text file", _HOW)
    if not raw.strip():
        raise DataError(f"{path} is empty", _HOW)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line} is not UTF-8 text", _HOW) from error


def _separator(path: Path, text: str) -> str:
    """The one separator that gives the first lines equally many cells, more than one. Two that do are refused."""
    fits = {}
    for separator in _SEPARATORS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            widths = [len(row) for row in itertools.islice(reader, _LOOKED_AT) if row]
        except csv.Error:
            continue
        if widths and widths[0] > 1:
            fits[separator] = sum(width == widths[0] for width in widths) / len(widths)
    even = [separator for separator, share in fits.items() if share == 1]
    if len(even) == 1:
        return even[0]
    if len(even) > 1:
        names = " and ".join(_SEPARATORS[each] for each in even)
        raise DataError(f"{path} can be read with {names} as separator", "Save it with commas, texts in double quotes.")
    if not fits:
        raise DataError(
            f"{path}: the first line holds one cell", "Separate columns by commas (semicolon, tab and | are read too)."
        )
    return max(fits, key=lambda each: fits[each])


def _rows(path: Path, text: str, separator: str) -> tuple[list[list[str]], list[int]]:
    """The rows that are not blank, and the line each ends on."""
    rows, lines = [], []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for row in reader:
            if row and not (len(row) == 1 and not row[0].strip()):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}", "Check the double quotes.") from error
    return rows, lines


def _header(path: Path, cells: Sequence[str]) -> list[str]:
    if len(cells) > COLUMNS:
        raise DataError(
            f"{path}: the header names {len(cells):,} columns, the limit is {COLUMNS:,}",
            "Leave out what the model does not read; images and other arrays go into an .npz file.",
        )
    names = [cell.strip() for cell in cells]
    if all(number(name) is not None for name in names):
        raise DataError(f"{path}: the first line holds numbers, not the names of the columns", _HOW)
    for at, name in enumerate(names):
        if not name:
            raise DataError(
                f"{path}: column {at + 1} has no name",
                "Name it or leave it out; pandas writes its index so: df.to_csv(path, index=False).",
            )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: two columns are named {twice[0]!r}", "Give every column a name of its own.")
    return names
