"""A stored run as one record, read strictly and written in any format.

A run folder holds ``report.json`` = {"result": ..., "environment": ...} and, where examples were kept,
``examples.npz`` with float32 arrays ``original`` and ``attacked`` (m, *shape), and ``nonsense`` (k, *shape).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from actsec import registry
from actsec.data.archives import read_arrays
from actsec.errors import StoreError
from actsec.result import SCHEMA, Result

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESULT, EXAMPLES = "report.json", "examples.npz"
ARRAYS = ("original", "attacked", "nonsense")


@dataclass(frozen=True, slots=True)
class Report:
    """What a format renders.

    examples holds ``original`` and ``attacked`` (m, *shape) and ``nonsense`` (k, *shape), where there are any, or is
    None; folder is where the run lies, for the terminal to point at; empty keeps every path out of the report. plan is
    the plan file that locations point into, empty for the run's own.
    """

    result: Result
    environment: Mapping[str, Any] = field(default_factory=dict)
    examples: Mapping[str, NDArray[np.float32]] | None = None
    folder: str = ""
    plan: str = ""


@dataclass(frozen=True)
class _File:
    """report.json. The settings hold for every record inside it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    result: Result
    environment: dict[str, Any]


def read(folder: Path | str) -> Report:
    """The report of a run folder. Raises StoreError with the mend."""
    place = Path(folder)
    try:
        text = (place / RESULT).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StoreError(
            f"{place} holds no {RESULT}", "Give the folder of a finished run (actsec resume RUN)."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read {place / RESULT}: {error}", "Check the path and its permissions.") from None
    found = from_json(text, str(place / RESULT))
    return Report(found.result, found.environment, _examples(place / EXAMPLES, found.result), str(place))


def from_json(text: str, where: str = RESULT) -> Report:
    """The report of its JSON text, without examples. Raises StoreError for another schema or a damaged file."""
    again = "Render it with the actsec that wrote it, or run the audit again."
    try:
        raw = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where} is not JSON: {error}", "The file is damaged; run actsec resume RUN.") from None
    inner = raw.get("result") if isinstance(raw, dict) else None
    if not isinstance(inner, dict):
        raise StoreError(f'{where} has no "result"', again)
    if inner.get("schema") != SCHEMA:
        made = f"schema {inner.get('schema')!r} (actsec {inner.get('actsec', 'unknown')})"
        raise StoreError(f"{where} has {made}; this actsec reads schema {SCHEMA}", again)
    try:
        found = _adapter().validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{where} does not fit schema {SCHEMA} at {at}: {first['msg']}", again) from None
    return Report(found.result, found.environment)


def to_json(report: Report) -> str:
    """report.json as text: ASCII, the same bytes for the same record. Raises StoreError if it would not read back."""
    found = _checked(report)
    record = {"result": asdict(found.result), "environment": dict(found.environment)}
    return json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n"


def result_json(result: Result) -> str:
    """The ``result`` half alone: the bytes that two equal runs share."""
    found = _checked(Report(result))
    return json.dumps(asdict(found.result), indent=1, sort_keys=True, allow_nan=False) + "\n"


def render(report: Report, format: str) -> str | bytes:  # the option's name everywhere
    """The report in a format: html, json, md, terminal, or a plug-in's. Raises UnknownName.

    The record goes through its JSON first, so that a report made in the run and one made from the folder are equal.
    """
    draw = registry.find("formats", format)
    stored = _checked(report)
    made: str | bytes = draw(replace(report, result=stored.result, environment=stored.environment))
    return made


def write(report: Report, path: Path | str, format: str) -> None:  # the option's name everywhere
    """Render into a file, written whole or not at all. Raises StoreError when it cannot be written."""
    made, place = render(report, format), Path(path)
    partial = place.with_name(f".{place.name}.partial")
    try:
        partial.write_bytes(made if isinstance(made, bytes) else made.encode("utf-8"))
        partial.replace(place)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {place}: {error.strerror or error}", "Give a folder that can be written."
        ) from None


@cache
def _adapter() -> TypeAdapter[_File]:
    return TypeAdapter(_File)


def _checked(report: Report) -> Report:
    """The report as it reads back from its JSON, without examples. Raises StoreError when it would not."""
    record = {"result": asdict(report.result), "environment": dict(report.environment)}
    try:
        text = json.dumps(record, sort_keys=True, allow_nan=False)
    except ValueError:
        raise StoreError("the result holds NaN or infinity", "Store None and the reason beside it.") from None
    return from_json(text, "the result")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _examples(path: Path, result: Result) -> dict[str, NDArray[np.float32]] | None:
    """The example images, when the run kept any; every example's row must be there."""
    if not path.exists():
        return None
    mend = "Run the audit again, or delete the file to render without images."
    try:
        with path.open("rb") as file:
            stored = read_arrays(file, path.stat().st_size)  # written without compression
        arrays = {name: np.asarray(stored[name], dtype=np.float32) for name in ARRAYS if name in stored}
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"cannot read {path}: {error}", mend) from None
    need = max((e.index for e in result.examples), default=-1) + 1
    original, attacked = (arrays.get(name, np.zeros(0)) for name in ARRAYS[:2])
    if original.shape != attacked.shape or original.ndim == 0 or len(original) < need:
        raise StoreError(f"{path} holds {original.shape} and {attacked.shape}, but {need} examples are named", mend)
    drawn = max((p.index for v in result.variants if v.nonsense for p in v.nonsense.pictures), default=-1) + 1
    if drawn and len(arrays.get("nonsense", ())) < drawn:
        raise StoreError(f"{path} lacks the {drawn} nonsense inputs that are named", mend)
    return arrays
