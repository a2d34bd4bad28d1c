"""Attacked inputs made earlier, by the row they were made from: what replay and transfer propose.

A run folder is only read: JSON, and arrays without pickles. Nothing in it is executed or changed.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actsec import geometry
from actsec.data.archives import read_arrays
from actsec.errors import StoreError, ThreatError
from actsec.search.proposals import Stored
from actsec.types import Cases

Array = NDArray[Any]
_FOUND = 1
_KEPT = ("id", "x", "status")
_AT_ONCE = 1024


@dataclass(frozen=True)
class Examples:
    """Attacked inputs x (m, *shape) float32 of the rows with these content hashes, id (m,) int64.

    fooled (m,) bool says whether one fooled the model that it was made on. Those come first.
    """

    id: Array
    x: Array
    fooled: Array
    where: str

    def __len__(self) -> int:
        return len(self.id)


def of_outcomes(outcomes: Iterable[Mapping[str, Array]], where: str) -> Examples:
    """The examples in the arrays of attack outcomes. Raises StoreError where there are none."""
    found = [arrays for arrays in outcomes if set(_KEPT) <= set(arrays)]
    if not found:
        raise StoreError(f"{where} holds no attacked examples", "Give a run in which an attack has finished.")
    ids, x, status = (np.concatenate([arrays[name] for arrays in found]) for name in _KEPT)
    order = np.argsort(status != _FOUND, kind="stable")
    return Examples(ids[order].view(np.int64), x[order], status[order] == _FOUND, where)


def of_run(run: str) -> Examples:
    """The examples of a run folder, of every variant. Raises StoreError for what is none, or was changed."""
    return _read(run, digest(run))


def digest(run: str) -> str:
    """A hash (hex) of the attacked examples of a run: of their content, not of where the folder lies."""
    lines = [f"{name} {record['arrays']}" for name, record in _records(run)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:24]


@lru_cache(maxsize=2)
def _read(run: str, _digest: str) -> Examples:
    kept = []
    for name, record in _records(run):
        path = Path(run) / "outcomes" / f"{name}.npz"
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != record["arrays"]:
                raise ValueError("it is not what the run wrote")  # noqa: TRY301  # one message for all damage
            stored = read_arrays(io.BytesIO(content), len(content))
            kept.append({key: stored[key] for key in _KEPT if key in stored})
        except (OSError, ValueError) as problem:
            raise StoreError(f"cannot read {path}: {problem}", f"Run actsec resume {run}: it is made again.") from None
    if kept and not any("id" in arrays for arrays in kept):
        raise StoreError(f"{run} does not say which rows its examples are of: its actsec was older", "Run it again.")
    return of_outcomes(kept, run)


def _records(run: str) -> list[tuple[str, dict[str, Any]]]:
    """Job id and record of every finished attack of a run, in a fixed order."""
    root = Path(run)
    if not (root / "plan.toml").is_file() or not (root / "outcomes").is_dir():
        raise StoreError(f"{run} is not a run folder", "Give the folder that an audit wrote.")
    found = []
    for path in sorted((root / "outcomes").glob("[!.]*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue  # a job without a whole outcome is not finished, here as in the store
        whole = isinstance(record, dict) and isinstance(record.get("numbers"), dict)
        if whole and "refused" in record["numbers"] and isinstance(record.get("arrays"), str):
            found.append((path.stem, record))
    return found


def proposed(examples: Examples, cases: Cases, most: int) -> Stored:
    """The examples of the cases' own rows that lie inside ball and box, as an attack: at most ``most`` of each row.

    Equal ones are asked once; a row that has fewer than another is filled up with its clean input, which counts for
    nothing. Raises ThreatError when no row has an example, or they have another shape.
    """
    if examples.x.shape[1:] != tuple(cases.x.shape[1:]):
        raise ThreatError(
            f"{examples.where} holds inputs of shape {examples.x.shape[1:]}, not {tuple(cases.x.shape[1:])}",
            "Give a run on data of this shape.",
        )
    ids = cases.id.cpu().numpy()
    known = np.flatnonzero(np.isin(examples.id, ids))
    if not len(known):
        raise ThreatError(
            f"none of the {len(ids)} examples attacked is among those of {examples.where}",
            "Give a run on the same data and seed: rows are known by their content.",
        )
    place = {int(known_by): row for row, known_by in enumerate(ids)}
    rows: dict[int, list[Tensor]] = {}
    seen: set[tuple[int, bytes]] = set()
    for piece in np.array_split(known, -(-len(known) // _AT_ONCE)):
        at = [place[int(known_by)] for known_by in examples.id[piece]]
        x = torch.from_numpy(examples.x[piece]).to(cases.x.device)
        for row, candidate, fits in zip(at, x, _admissible(x, cases.rows(torch.tensor(at))), strict=True):
            key = row, candidate.cpu().numpy().tobytes()
            if fits and key not in seen and len(rows.setdefault(row, [])) < most:
                seen.add(key)
                rows[row].append(candidate)
    widest = max(map(len, rows.values()), default=1)
    filled = cases.x[:, None].repeat(1, widest, *(1,) * (cases.x.dim() - 1))
    for row, candidates in rows.items():
        for k, candidate in enumerate(candidates):
            filled[row, k] = candidate
    order = cases.id.argsort(stable=True)
    none = torch.zeros_like(cases.id)
    return Stored(cases.id[order], filled[order], none, none)


def _admissible(x: Tensor, cases: Cases) -> Tensor:
    """Whether each of x (m, *shape) differs from its case and lies inside its ball and box (m,)."""
    size = geometry.distance(x, cases.x, cases.norm)
    return geometry.inside(x[:, None], cases, size[:, None])[:, 0] & (size > 0)
