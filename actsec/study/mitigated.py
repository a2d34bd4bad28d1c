"""Whether a mitigation holds against a poison, and whether still when who plants it knows the mitigation. By rule.

    holds         no training broke off; the 95 % interval of the accuracy less the twin's ends above -0.05, and that of
                  the share silenced less the twin's below 0.05
    fails         some training broke off; or either differs by more than that, with an interval that excludes 0
    cannot tell   neither

The twin has the mitigation too, and the same seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from actsec.study.claim import MARGIN, POISONED, TWIN, values
from actsec.study.comparing import Pair, compare
from actsec.study.laboratory import NONE
from actsec.study.poison import Cell

HOLDS, FAILS, UNKNOWN = "holds", "fails", "cannot tell"


def word(cell: Cell) -> str:
    """What a mitigation comes to against one poison."""
    if any(outcome.at_once.broke for outcome in cell.poisoned):
        return FAILS
    lost, silenced = _pair(cell, accuracy=True), _pair(cell, accuracy=False)
    if (lost is not None and lost.difference <= -MARGIN and lost.high < 0) or (
        silenced is not None and silenced.difference >= MARGIN and silenced.low > 0
    ):
        return FAILS
    kept = lost is not None and lost.low > -MARGIN
    return HOLDS if kept and (silenced is None or silenced.high < MARGIN) else UNKNOWN


def _pair(cell: Cell, *, accuracy: bool) -> Pair | None:
    """Poisoned less twin; None where a network has no such number."""
    arms = {
        name: values(
            [outcome.at_once for outcome in arm],
            lambda found: found.rows.get("clean") if accuracy else found.silent,
        )
        for name, arm in ((POISONED, cell.poisoned), (TWIN, cell.twin))
    }
    if not all(arms.values()):
        return None
    return compare({name: rows for name, rows in arms.items() if rows}, lambda rows: float(np.mean(rows)))[0]


def sentences(cells: Sequence[Cell]) -> Iterator[str]:
    """A line for each mitigation and poison that was tried both ways: where it holds, and against whom."""
    tried = [cell for cell in cells if cell.mitigation != NONE]
    for name, poison in dict.fromkeys((c.mitigation, c.poison) for c in tried if c.adapted):
        mine = [cell for cell in tried if (cell.mitigation, cell.poison) == (name, poison)]
        words = {adapted: {(c.activation, c.depth): word(c) for c in mine if c.adapted == adapted} for adapted in _BOTH}
        both = [where for where in words[True] if where in words[False]]
        only = [where for where in both if words[False][where] == HOLDS and words[True][where] != HOLDS]
        broken = [where for where in only if words[True][where] == FAILS]
        held = [where for where in words[True] if words[True][where] == HOLDS]
        told = (
            f"- {name} against {poison}: holds against the adapted poison in {len(held)} of {len(words[True])} networks"
        )
        if broken:
            told += f"; **only against the non-adapted** in {len(broken)} ({_where(broken)})"
        if doubtful := [where for where in only if where not in broken]:
            told += (
                f"; only against the non-adapted, with doubt about the adapted, in {len(doubtful)} ({_where(doubtful)})"
            )
        if neither := [where for where in both if words[False][where] == words[True][where] == FAILS]:
            told += f"; fails against both in {len(neither)}"
        if not both:
            told += "; the non-adapted poison cannot be planted here"
        yield f"{told}."


_BOTH = (False, True)


def _where(networks: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{kind} {depth}" for kind, depth in networks)
