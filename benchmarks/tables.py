"""The table: every cell of every suite, then the targets; all derived from the stored cells."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.judging import best_of, optimality, quantile, ratios
from benchmarks.results import Cell, Results
from benchmarks.running import cell_of
from benchmarks.suites import Entry, Suite
from benchmarks.targets import Finding, Sheet, held

HEADINGS = ("attack", "options", "success", "to best", "optimality", "fwd", "bwd", "seconds", "runs", "MiB", "notes")
MARKS = {True: "met", False: "MISSED", None: "not measured"}


def report(suites: dict[str, Suite], results: Results) -> str:
    """Markdown: what it was measured on, then a table and the targets of every suite that has results."""
    env = results.environment
    libraries = ", ".join(f"{name} {version}" for name, version in env["libraries"].items())
    parts = [
        f"{env['processor']}, {env['threads']} threads of {env['cores']} cores, device {env['device']}.",
        f"Python {env['python']}, {env['begun']}.",
        f"Libraries: {libraries}.",
        "",
    ]
    for name, suite in suites.items():
        parts += _suite(name, suite, results)
    return "\n".join([*parts, LEGEND])


LEGEND = """\
success: share of images (over all radii) on which the original model, in float32, is fooled by an admissible image.
to best: size over the smallest that anyone found on that image, median / 95th percentile; failures are infinite.
optimality: AttackBench's area measure for the smallest change (1 is the best of all on every image, 0 a failure on
all); for a fixed radius the share of the images broken by anyone. fwd, bwd: rows through the model per image.
seconds: median [least to most] of the timed runs. MiB: peak memory beyond what was in use before.
Options are ours, as the library documents them, the best found for the library, or a reference.
"""


def sheets(suite: Suite, results: Results) -> list[tuple[Sheet, int, list[tuple[Entry, Cell]]]]:
    """For every scene of a suite with results: what targets read, the number of images, and entries with cells."""
    found: list[tuple[Sheet, int, list[tuple[Entry, Cell]]]] = []
    seen: list[list[str]] = []
    for where, images in suite.grid:
        rows = [(entry, cell) for entry in suite.entries if (cell := _stored(suite, entry, where, images, results))]
        keys = [cell.key for _, cell in rows]
        # A suite that was not run may own a few cells of others; fewer images may serve two sizes of a growing grid.
        if 2 * len(rows) < len(suite.entries) or keys in seen:
            continue
        seen.append(keys)
        tagged: dict[str, list[Cell]] = {}
        for entry, cell in rows:
            tagged.setdefault(entry.tag, []).append(cell)
        first = rows[0][1]
        everyone = [
            cell
            for cell in results.cells.values()
            if (cell.scene, cell.norm, cell.eps) == (first.scene, first.norm, first.eps) and cell.sizes
        ]
        found.append((Sheet(where, tagged, everyone), max(cell.images for _, cell in rows), rows))
    return found


def _stored(suite: Suite, entry: Entry, where: str, images: int, results: Results) -> Cell | None:
    """The entry's cell with the most images, of at most those asked for."""
    wanted = cell_of(suite, entry, where, images)
    like = [cell for cell in results.cells.values() if cell.images <= wanted.images and _about(cell) == _about(wanted)]
    return max(like, key=lambda cell: cell.images, default=None)


def _about(cell: Cell) -> tuple[object, ...]:
    return cell.scene, cell.norm, cell.eps, cell.label


def findings(suite: Suite, results: Results) -> list[tuple[str, Finding]]:
    """Every target of a suite on every scene that has results."""
    return [(sheet.scene, found) for sheet, _, _ in sheets(suite, results) for found in held(suite.targets, sheet)]


def _suite(name: str, suite: Suite, results: Results) -> list[str]:
    parts = []
    for sheet, images, rows in sheets(suite, results):
        parts += [f"## {name}: {sheet.scene}, {images} images, {_threat(suite)}", "", suite.about, ""]
        parts += [*_aligned([HEADINGS, *(_row(entry, cell, sheet, images) for entry, cell in rows)]), ""]
        for found in held(suite.targets, sheet):
            parts.append(f"- {MARKS[found.met]}: {found.text}: {found.measured}")
        parts.append("")
    return parts


def _threat(suite: Suite) -> str:
    if not suite.eps:
        return f"smallest {suite.norm}"
    # A short number such as 0.1 is meant as it stands, others are grey levels.
    grey = suite.norm == "linf" and any(len(repr(eps)) > 7 for eps in suite.eps)
    return f"{suite.norm} {', '.join(f'{eps * 255:g}/255' if grey else f'{eps:g}' for eps in suite.eps)}"


def _row(entry: Entry, cell: Cell, sheet: Sheet, images: int) -> tuple[str, ...]:
    if not cell.sizes:
        return (cell.label, entry.setting, *[""] * (len(HEADINGS) - 3), cell.message or "not run")
    middle = f"{cell.median:.3g}" if cell.seconds else ""
    spread = f"{middle} [{min(cell.seconds):.3g} to {max(cell.seconds):.3g}]" if len(cell.seconds) > 1 else middle
    broken = sum(map(math.isfinite, cell.flat))
    strength = (f"{cell.success:.1%} ({broken}/{len(cell.flat)})", *_strength(cell, sheet.everyone))
    if entry.spec.startswith("passes"):
        strength = ("no attack", "", "")
    return (
        cell.label,
        entry.setting,
        *strength,
        f"{cell.forwards:.0f}",
        f"{cell.backwards:.0f}",
        spread,
        str(len(cell.seconds)),
        "" if cell.memory is None else f"{cell.memory:.0f}",
        "; ".join(_notes(cell, images)),
    )


def _strength(cell: Cell, everyone: Sequence[Cell]) -> tuple[str, str]:
    """Ratio to the best known and optimality, or for a fixed radius the share of what anyone broke."""
    if cell.eps:
        best = [best_of([other.sizes[k] for other in everyone]) for k in range(len(cell.eps))]
        pairs = [pair for row, least in zip(cell.sizes, best, strict=True) for pair in zip(row, least, strict=False)]
        there = sum(math.isfinite(least) for _, least in pairs)
        return "", f"{sum(math.isfinite(size) for size, _ in pairs) / there:.3f}" if there else "none fell"
    nearest = best_of([other.sizes[0] for other in everyone])
    found = ratios(cell.sizes[0], nearest)
    return f"{quantile(found, 0.5):.3f} / {quantile(found, 0.95):.3f}", f"{optimality(cell.sizes[0], nearest):.3f}"


def _notes(cell: Cell, images: int) -> list[str]:
    notes = []
    if cell.images < images:
        per_image = cell.median / cell.images
        notes.append(f"only {cell.images} of the {images} images; all would take {per_image * images:.3g} s")
    if cell.capped:
        notes.append(f"stopped by the cap after {len(cell.seconds)} of {cell.wanted} runs")
    elif cell.seconds and len(cell.seconds) < 5:
        notes.append("fewer than 5 runs")
    if cell.counted_while_timed:
        notes.append("counted in the timed run")
    if cell.violations:
        notes.append(f"{cell.violations} outside ball or box")
    if cell.message:
        notes.append(cell.message)
    return notes


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table that reads as one in a terminal."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]
