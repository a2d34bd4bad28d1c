"""Where in a plan file something stands, for formats that point into it."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from actsec.errors import StoreError, UsageError
from actsec.planning.conditions import gate_texts

PLAN = "plan.toml"
_HEADER = re.compile(r"\s*\[")


@dataclass(frozen=True, slots=True)
class Place:
    """A piece of one line. line and the columns count from 1, in characters; end is the column after the last."""

    line: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A plan as text. path is what to call it."""

    path: str
    text: str

    def gate(self, gate: str) -> Place | None:
        """Where a gate stands: its text, or the [[gate]] table that comes to it."""
        for quoted in (json.dumps(gate, ensure_ascii=False), f"'{gate}'"):
            for number, line in enumerate(self.text.splitlines(), 1):
                if (at := line.find(quoted)) >= 0:
                    return Place(number, at + 1, at + 1 + len(quoted))
        return next((place for place, table in self._tables("gate") if gate in table), None)

    def key(self, key: str) -> Place | None:
        """The line of a top-level key."""
        for number, line in enumerate(self.text.splitlines(), 1):
            if _HEADER.match(line):
                return None
            if re.match(rf"\s*{key}\s*=", line):
                return Place(number, 1, len(line) + 1)
        return None

    def _tables(self, name: str) -> list[tuple[Place, tuple[str, ...]]]:
        lines, found = self.text.splitlines(), []
        for number, line in enumerate(lines):
            if re.match(rf"\s*\[\[\s*{name}\s*\]\]", line):
                after = (i for i in range(number + 1, len(lines)) if _HEADER.match(lines[i]))
                block = "\n".join(lines[number : next(after, len(lines))])
                try:
                    texts = gate_texts(tomllib.loads(block)[name][0])
                except (tomllib.TOMLDecodeError, UsageError):
                    continue
                found.append((Place(number + 1, 1, len(line) + 1), texts))
        return found


def plan_file(folder: str, named: str = "") -> PlanFile | None:
    """The plan that a report points into: the named file, else the run's own. Raises StoreError for one not there."""
    path = Path(named) if named else Path(folder or ".") / PLAN
    try:
        return PlanFile(path.as_posix() if named else PLAN, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        if named:
            raise StoreError(f"cannot read the plan {named}: {problem}", "Give the plan file of the run.") from None
        return None
