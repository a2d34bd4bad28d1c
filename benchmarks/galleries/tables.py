"""The page of the galleries: every cell, miss and false-alarm rates, and what each rule said, from the stored cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from actsec import registry
from actsec.verdict.statistics import share
from benchmarks.galleries import GALLERIES
from benchmarks.galleries.audited import Cell, Said, spoke
from benchmarks.galleries.exhibits import Exhibit
from benchmarks.galleries.frozen import FROZEN
from benchmarks.galleries.rooms import ROOMS

HEAD = """# Galleries: how often the masking battery is right

Written by `python -m benchmarks.gallery report` from the cells of `python -m benchmarks.gallery run`, which
`benchmarks/README.md` explains. Not edited by hand.

Every model here went through the audit itself: of the attacks of `actsec audit` at the quick budget those that the
checks read, the probe, the diagnostics at their default thresholds, the state. Nothing was told to the audit about the
model.

- **A fraud is missed** when the audit calls it clean (or unchecked) and believes its number. Flagged means masked,
  randomised, void, or refused.
- **An honest model is a false alarm** when its state is not the one it should have (clean; randomised for models that
  draw) or its number is void.
- An honest model must be right under every threat that has checks (L-inf at eps, and the smallest change in L2); a
  fraud must be flagged under the first. What was said under another threat than the first stands in brackets where it
  is not the right state.
- A rule in a cell: **M06!** voids the number, M06 is red or warns without voiding it. Rules that said ok are left out.
- Intervals are 95 % (Wilson; Clopper-Pearson at none or all). They count cells as independent, which cells of one
  exhibit on several seeds and wrappers of one network are not: read them as too narrow. "By exhibit" counts an exhibit
  once, as wrong when any of its cells is.
"""
GALLERY_WORDS = {
    "first": "The models that issue 4 names and that thresholds were chosen on.",
    "second": "Other frauds and other honest models, written before the battery was run on any of them, with the "
    "thresholds as the first gallery left them. After looking at this table one thing was changed, which flags "
    "nothing: ACT-M17 had warned of three honest models in four, and now does only where twice the steps broke more.",
}


def document(cells: Sequence[Cell]) -> str:
    """The whole page as Markdown."""
    parts = [HEAD, "## Rates\n", _provenance(cells), _rates(cells), _rules(cells), _wrong(cells)]
    for gallery, exhibits in GALLERIES.items():
        hung = [cell for cell in cells if cell.gallery == gallery]
        parts.append(f"## The {gallery} gallery\n\n{GALLERY_WORDS[gallery]}\n")
        parts.append(_catalogue(exhibits))
        parts += [_room(room, exhibits, hung) for room in ROOMS if any(cell.room == room for cell in hung)]
    return "\n".join(part for part in parts if part)


def summary(cells: Sequence[Cell]) -> str:
    """The rates and what is wrong, for a terminal."""
    return f"{_provenance(cells)}\n{_rates(cells)}\n{_wrong(cells)}".strip()


def _provenance(cells: Sequence[Cell]) -> str:
    batteries = sorted({cell.battery for cell in cells})
    seeds = sorted({cell.seed for cell in cells})
    missing = len(_all_cells(seeds)) - len({cell.key for cell in cells})
    words = f"{len(cells)} cells, seeds {', '.join(map(str, seeds))}, battery {', '.join(batteries)}"
    if len(batteries) > 1:
        words += " (**several: run again**)"
    commit, digest = FROZEN
    if commit:
        words += f"; thresholds frozen at {commit} (their digest {digest})"
    return f"{words}; not made of these seeds: {_missing(cells, seeds)}.\n" if missing else f"{words}.\n"


def _missing(cells: Sequence[Cell], seeds: Iterable[int]) -> str:
    """``12 cells of the first gallery in mnist``, by gallery and room."""
    made = {cell.key for cell in cells}
    counts = Counter(tuple(key.split("-")[:2]) for key in _all_cells(seeds) if key not in made)
    return ", ".join(f"{n} of the {gallery} gallery in {room}" for (gallery, room), n in counts.items())


def _all_cells(seeds: Iterable[int]) -> list[str]:
    return [
        f"{gallery}-{room}-{exhibit.name}-{seed}"
        for gallery, exhibits in GALLERIES.items()
        for exhibit in exhibits
        for room in exhibit.rooms
        for seed in seeds
    ]


def rate(wrong: int, n: int) -> str:
    """``1 of 40 = 2.5 % [0.4 %, 12.9 %]``."""
    if n == 0:
        return "none"
    found = share(wrong, n)
    return f"{wrong} of {n} = {100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def misses(cells: Iterable[Cell]) -> list[Cell]:
    """Frauds that were believed."""
    return [cell for cell in cells if cell.kind == "fraud" and not cell.flagged]


def alarms(cells: Iterable[Cell]) -> list[Cell]:
    """Honest models that were not."""
    return [cell for cell in cells if cell.kind == "honest" and cell.flagged]


def _rates(cells: Sequence[Cell]) -> str:
    lines = [
        "| gallery | room | missed frauds | false alarms | missed, by exhibit | false alarms, by exhibit |",
        "|---|---|---|---|---|---|",
    ]
    for gallery in GALLERIES:
        hung = [cell for cell in cells if cell.gallery == gallery]
        rooms = [(room, [cell for cell in hung if cell.room == room]) for room in ROOMS]
        for room, here in (*rooms, ("**all**", hung)):
            if not here:
                continue
            columns = [
                _rate_of(here, kind, wrong, by)
                for by in (lambda cell: cell.key, lambda cell: cell.name)
                for kind, wrong in (("fraud", misses), ("honest", alarms))
            ]
            lines.append(f"| {gallery} | {room} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def _rate_of(
    cells: Sequence[Cell], kind: str, wrong: Callable[[Iterable[Cell]], list[Cell]], by: Callable[[Cell], str]
) -> str:
    of_kind = [cell for cell in cells if cell.kind == kind]
    return rate(len({by(cell) for cell in wrong(of_kind)}), len({by(cell) for cell in of_kind}))


def _rules(cells: Sequence[Cell]) -> str:
    """What each rule said: on frauds it should fire somewhere, on honest models it should not flag."""
    lines = [
        (
            "Each rule alone, of the models that it judged: not where it does not apply or was not made. "
            "*Flags*: it voids the number or makes the state masked. Models that draw are left out."
        ),
        "",
        "| rule | frauds flagged | honest flagged (false alarms) | honest warned without flag | sole flag of |",
        "|---|---|---|---|---|",
    ]
    kinds = {str(k.rule): k for k in (registry.find("diagnostics", n) for n in registry.names("diagnostics"))}
    settled = [cell for cell in cells if cell.state != "refused" and cell.right != ("randomised",)]
    frauds = [cell for cell in settled if cell.kind == "fraud"]
    honest = [cell for cell in settled if cell.kind == "honest"]
    for rule in sorted(kinds):
        masks = tuple(getattr(kinds[rule], "masks", ("red",)))
        alone = sorted({cell.name for cell in frauds if _flags(cell, kinds) == {rule}})
        warned = [
            cell
            for cell in honest
            if any(r == rule for r, *_ in spoke(cell.everywhere)) and not _says(cell, rule, masks)
        ]
        counts = [[_says(cell, rule, masks) for cell in kind if _judged(cell, rule)] for kind in (frauds, honest)]
        caught, accused = (rate(sum(flags), len(flags)) for flags in counts)
        columns = (rule, caught, accused, str(len(warned)), ", ".join(alone))
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def measured(cells: Iterable[Cell]) -> dict[str, tuple[int, int]]:
    """By rule: honest models that it warned or was red of, under any threat, and honest models that it judged."""
    found: dict[str, tuple[int, int]] = {}
    for cell in cells:
        said = {}
        for rule, status, *_ in cell.everywhere:
            if status not in ("not_done", "not_applicable"):
                said[rule] = said.get(rule, False) or status != "ok"
        if cell.kind == "honest":
            for rule, spoken in said.items():
                k, n = found.get(rule, (0, 0))
                found[rule] = (k + spoken, n + 1)
    return dict(sorted(found.items()))


def _judged(cell: Cell, rule: str) -> bool:
    """Whether a rule was applied to a cell under any threat."""
    return any(r == rule and status not in ("not_done", "not_applicable") for r, status, *_ in cell.everywhere)


def _flags(cell: Cell, kinds: dict[str, object]) -> set[str]:
    return {rule for rule, kind in kinds.items() if _says(cell, rule, tuple(getattr(kind, "masks", ("red",))))}


def _says(cell: Cell, rule: str, masks: tuple[str, ...]) -> bool:
    """Whether a rule flags a cell: by a status that means masking, or by voiding the number."""
    return any(r == rule and _flagging(status, voids, masks) for r, status, voids in spoke(cell.everywhere))


def _flagging(status: str, voids: bool, masks: tuple[str, ...]) -> bool:
    return status in masks or (voids and status in ("red", "error"))


def _wrong(cells: Sequence[Cell]) -> str:
    missed, accused = misses(cells), alarms(cells)
    lines = [f"Missed frauds: {len(missed) or 'none'}."]
    lines += [f"- {_named(cell)}: {cell.state}, {_numbers(cell)}{_harmless(cell)}" for cell in missed]
    lines.append(f"\nFalse alarms: {len(accused) or 'none'}.")
    lines += [f"- {_named(cell)}: {cell.state}; {_claims(cell)}; {_numbers(cell)}" for cell in accused]
    named = [c for c in cells if c.kind == "fraud" and c.flagged and c.state not in (*c.right, "refused")]
    lines.append(f"\nFlagged under another name than the right one: {len(named) or 'none'}.")
    lines += [f"- {_named(cell)}: {cell.state} instead of {' or '.join(cell.right)}; {_claims(cell)}" for cell in named]
    failed = [cell for cell in cells if cell.errors]
    lines.append(f"\nCells with a job that failed: {len(failed) or 'none'}.")
    lines += [f"- {_named(cell)}: {'; '.join(cell.errors)}" for cell in failed]
    return "\n".join(lines) + "\n"


def _named(cell: Cell) -> str:
    return f"{cell.name} in {cell.room}, seed {cell.seed}"


def _claims(cell: Cell) -> str:
    if cell.state == "refused":
        return cell.why
    threats = (("", cell.checks), *((f"{threat}: ", checks) for threat, _, _, checks in cell.others))
    said = []
    for name, checks in threats:
        fired = {rule for rule, *_ in spoke(checks)}
        said += [f"{name}{rule}: {claim}" for rule, _, _, _, _, claim in checks if rule in fired]
    return " ".join(said)


def _numbers(cell: Cell) -> str:
    return f"clean {cell.clean[0]}/{cell.clean[1]}, robust {cell.robust[0]}/{cell.robust[1]}"


def _harmless(cell: Cell) -> str:
    """What must be said of a fraud that was believed when it claimed nothing."""
    if cell.robust[0]:
        return ""
    return ". Every image fell, so the number that was believed flatters nothing; it is counted as missed all the same"


def _catalogue(exhibits: Sequence[Exhibit]) -> str:
    lines = ["| model | is |", "|---|---|"]
    lines += [f"| {exhibit.name} ({exhibit.kind}) | {exhibit.about} |" for exhibit in exhibits]
    return "\n".join(lines) + "\n"


def _room(room: str, exhibits: Sequence[Exhibit], cells: Sequence[Cell]) -> str:
    here = {(cell.name, cell.seed): cell for cell in cells if cell.room == room}
    seeds = sorted({seed for _, seed in here})
    about = ROOMS[room]
    lines = [
        f"### {room}\n",
        f"{about.base}, L-inf {about.eps:.4g}, {about.images} images.\n",
        f"| model | kind | clean, robust (seed {seeds[0]}) | {' | '.join(f'seed {seed}' for seed in seeds)} |",
        f"|---|---|---|{'---|' * len(seeds)}",
    ]
    for exhibit in exhibits:
        row = [here.get((exhibit.name, seed)) for seed in seeds]
        if any(row):
            first = here.get((exhibit.name, seeds[0]))
            accuracy = _accuracy(first) if first else ""
            said = " | ".join(_said(cell) for cell in row)
            lines.append(f"| {exhibit.name} | {exhibit.kind} | {accuracy} | {said} |")
    return "\n".join(lines) + "\n"


def _accuracy(cell: Cell) -> str:
    if cell.state == "refused":
        return ""
    return f"{cell.clean[0] / cell.clean[1]:.2f}, {cell.robust[0] / cell.robust[1]:.2f}"


def _said(cell: Cell | None) -> str:
    if cell is None:
        return "not made"
    right = cell.flagged == (cell.kind == "fraud")
    state = cell.state if right else f"**WRONG:** {cell.state}"
    elsewhere = [
        f"({threat}: {other} {_short(checks)}".strip() + ")"
        for threat, other, believable, checks in cell.others
        if other not in cell.right or not believable
    ]
    return " ".join(filter(None, (state, _short(cell.checks), *elsewhere)))


def _short(checks: tuple[Said, ...]) -> str:
    return " ".join(
        f"**{rule.removeprefix('ACT-')}!**" if voids and status in ("red", "error") else rule.removeprefix("ACT-")
        for rule, status, voids in spoke(checks)
    )
