"""What was measured, as JSON: written after every run, so that a benchmark that is stopped keeps what it has."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actsec.errors import StoreError

FILE = "results.json"
SCHEMA = 1


@dataclass(slots=True)
class Cell:
    """One contender on one scene. Everything in the tables is derived from this.

    sizes[k][i] is what the k-th eps's (or the only) attack needed to fool the model on image i, infinity for a failure;
    seconds are of the timed runs, wanted their intended number; forwards and backwards are rows through the model per
    image; memory is the peak in MiB beyond what was in use before; counted_while_timed says that counts and memory come
    from the one timed run, where there was no run to spare. message is set when there is no result.
    """

    scene: str
    norm: str
    eps: list[float]
    images: int
    batch: int
    peer: str
    spec: str
    seed: int
    settle: bool
    stand_in: str = ""
    parameters: int = 0
    wanted: int = 0
    capped: bool = False
    seconds: list[float] = field(default_factory=list)
    forwards: float = math.nan
    backwards: float = math.nan
    counted_while_timed: bool = False
    memory: float | None = None
    sizes: list[list[float]] = field(default_factory=list)
    violations: int = 0
    message: str = ""

    @property
    def key(self) -> str:
        """What the cell is about, and nothing that was measured."""
        radii = ",".join(f"{eps:.6g}" for eps in self.eps) or "smallest"
        return f"{self.scene} [{self.images}] {self.norm}:{radii} {self.label}"

    @property
    def label(self) -> str:
        """The contender: library, attack, and what else was chosen for it."""
        seed = f" seed {self.seed}" if self.seed else ""
        settled = "" if self.settle else ", nobody leaves early"
        stand_in = f", stand-in in {self.stand_in}" if self.stand_in else ""
        return f"{self.peer} {self.spec}{seed}{settled}{stand_in}"

    @property
    def done(self) -> bool:
        """Nothing is left to run."""
        return bool(self.message) or self.capped or (bool(self.sizes) and len(self.seconds) >= self.wanted)

    @property
    def median(self) -> float:
        """Seconds of the median run."""
        return statistics.median(self.seconds) if self.seconds else math.nan

    @property
    def flat(self) -> list[float]:
        """All sizes, radius after radius."""
        return [size for row in self.sizes for size in row]

    @property
    def success(self) -> float:
        """Share of images, over all radii, on which the model is fooled."""
        return sum(map(math.isfinite, self.flat)) / len(self.flat) if self.flat else math.nan


@dataclass(slots=True)
class Results:
    """All cells of a folder, and what they were measured on."""

    folder: Path
    environment: dict[str, Any]
    cells: dict[str, Cell]

    def cell(self, fresh: Cell) -> Cell:
        """The stored cell of the same key, or this one, from now on stored."""
        return self.cells.setdefault(fresh.key, fresh)

    def save(self) -> None:
        """Write to a file beside and move it over the old one: a kill leaves one or the other, both whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        cells = {key: _plain(dataclasses.asdict(cell)) for key, cell in self.cells.items()}
        text = json.dumps({"schema": SCHEMA, "environment": self.environment, "cells": cells}, indent=1)
        fresh = self.folder / f"{FILE}.new"
        fresh.write_text(text + "\n")
        os.replace(fresh, self.folder / FILE)  # noqa: PTH105  # Path.replace is the same call with less of a name


def opened(folder: Path, environment: dict[str, Any] | None) -> Results:
    """The results of a folder, empty when there are none. Raises StoreError when they come from another set-up.

    Without an environment the folder must hold results: they are only read.
    """
    file = folder / FILE
    if not file.exists():
        if environment is None:
            raise StoreError(f"{file} does not exist", "Run python -m benchmarks SUITE --out FOLDER first.")
        return Results(folder, environment, {})
    data = json.loads(file.read_text())
    if data.get("schema") != SCHEMA:
        raise StoreError(f"{file} has schema {data.get('schema')}, this is {SCHEMA}", "Give another --out.")
    stored = data["environment"]
    for name in ("device", "threads", "processor", "python", "libraries"):
        if environment is not None and stored[name] != environment[name]:
            raise StoreError(
                f"{folder} was measured with {name} {stored[name]}, now it is {environment[name]}",
                "Times from two set-ups do not belong in one table: give another --out.",
            )
    cells = {key: Cell(**_parsed(cell)) for key, cell in data["cells"].items()}
    return Results(folder, stored, cells)


def _plain(cell: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: a failure is null. Six digits of a size and four of a time are more than is known."""
    cell["sizes"] = [[float(f"{s:.7g}") if math.isfinite(s) else None for s in row] for row in cell["sizes"]]
    cell["seconds"] = [round(s, 6) for s in cell["seconds"]]
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in cell.items()}


def _parsed(cell: dict[str, Any]) -> dict[str, Any]:
    cell["sizes"] = [[math.inf if s is None else s for s in row] for row in cell["sizes"]]
    for name in ("forwards", "backwards"):
        cell[name] = math.nan if cell[name] is None else cell[name]
    return cell
