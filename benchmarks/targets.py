"""What must be reached, and whether it is. Each target reads the cells of one scene and says what it measured.

Speeds are compared per image by median, strengths on the images that both were given. A target whose cells are missing
is "not measured", never "met".
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.judging import best_of, quantile, ratios
from benchmarks.results import Cell


@dataclass(frozen=True, slots=True)
class Finding:
    """A target in words, what was measured, and whether it is met (None: not measured)."""

    text: str
    measured: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class Sheet:
    """The cells of one scene by tag, in the order of the suite; others are cells of the same scene and threat too."""

    scene: str
    tagged: dict[str, list[Cell]]
    everyone: list[Cell]

    def one(self, tag: str) -> Cell:
        """The first measured cell of a tag. Raises Unmeasured."""
        return self.all(tag)[0]

    def all(self, tag: str) -> list[Cell]:
        """The measured cells of a tag, at least one. Raises Unmeasured."""
        found = [cell for cell in self.tagged.get(tag, []) if cell.seconds and cell.sizes]
        if not found:
            why = next((cell.message for cell in self.tagged.get(tag, []) if cell.message), "it was not run")
            raise Unmeasured(why)
        return found


class Unmeasured(Exception):
    """A cell that a target needs has no result."""


Target = Callable[[Sheet], Finding]


def _target(text: str, measure: Callable[[Sheet], tuple[str, bool]]) -> Target:
    def finding(sheet: Sheet) -> Finding:
        try:
            return Finding(text, *measure(sheet))
        except Unmeasured as why:
            return Finding(text, str(why), None)

    return finding


def _per_image(cell: Cell) -> float:
    return cell.median / cell.images


def faster(ours: str, rival: str, factor: float) -> Target:
    """The fastest cell tagged ``rival`` takes at least ``factor`` times as long per image."""

    def measure(sheet: Sheet) -> tuple[str, bool]:
        mine, other = sheet.one(ours), min(sheet.all(rival), key=_per_image)
        ratio = _per_image(other) / _per_image(mine)
        return f"{ratio:.1f}x ({_timed(mine)} against {_timed(other)} for {other.label})", ratio >= factor

    return _target(f"{ours} at least {factor:g}x faster than {rival}", measure)


def at_most(ours: str, bare: str, factor: float) -> Target:
    """Ours takes at most ``factor`` times as long as the bare passes."""

    def measure(sheet: Sheet) -> tuple[str, bool]:
        ratio = sheet.one(ours).median / sheet.one(bare).median
        return f"{ratio:.2f}x ({_timed(sheet.one(ours))} against {_timed(sheet.one(bare))})", ratio <= factor

    return _target(f"{ours} at most {factor:g}x {bare}", measure)


def paired(ours: str, bare: str, again: str, limits: dict[str, float]) -> Target:
    """The median over interleaved pairs of ours / bare, per scene; and of bare / bare, the noise of the comparison."""

    def measure(sheet: Sheet) -> tuple[str, bool]:
        mine, one, two = sheet.one(ours), sheet.one(bare), sheet.one(again)
        pairs = [a / b for a, b in zip(mine.seconds, one.seconds, strict=False)]
        noise = [a / b for a, b in zip(two.seconds, one.seconds, strict=False)]
        middle = statistics.median(pairs)
        same = math.isclose(mine.forwards, one.forwards) and math.isclose(mine.backwards, one.backwards)
        passes = f"{one.forwards:g} forwards, {one.backwards:g} backwards each"
        if not same:
            passes = f"passes differ: ours {mine.forwards:g}/{mine.backwards:g}, bare {passes}"
        text = (
            f"{middle:.3f}x over {len(pairs)} pairs [{min(pairs):.3f} to {max(pairs):.3f}]; "
            f"A/A {statistics.median(noise):.3f} [{min(noise):.3f} to {max(noise):.3f}]; {passes}"
        )
        return text, middle <= limits[sheet.scene] and same

    return lambda sheet: _target(f"{ours} at most {limits[sheet.scene]:g}x the same bare passes", measure)(sheet)


def equal_strength(ours: str, truth: str) -> Target:
    """Ours fools the model on exactly the same images, radius by radius."""

    def measure(sheet: Sheet) -> tuple[str, bool]:
        pairs = list(zip(sheet.one(ours).flat, sheet.one(truth).flat, strict=True))
        less = sum(math.isinf(a) and math.isfinite(b) for a, b in pairs)
        more = sum(math.isfinite(a) and math.isinf(b) for a, b in pairs)
        return f"{less} of {len(pairs)} verdicts lost, {more} gained", not less and not more

    return _target(f"{ours} equals {truth}", measure)


def no_weaker(ours: str, rival: str) -> Target:
    """No cell tagged ``rival`` fools the model on more of the images that both were given."""

    def measure(sheet: Sheet) -> tuple[str, bool]:
        mine = sheet.one(ours)
        # A rival on fewer images is compared on those.
        counts = [(_broken(cell, cell.images), _broken(mine, cell.images), cell) for cell in sheet.all(rival)]
        theirs, own, cell = max(counts, key=lambda count: count[0] - count[1])
        return f"{own} of {len(cell.flat)} broken, by {cell.label} {theirs}", theirs <= own

    return _target(f"{ours} breaks no fewer than any {rival}", measure)


def breaks_all_of(ours: str, rival: str) -> Target:
    """Every image that the rival breaks is broken by ours."""

    def measure(sheet: Sheet) -> tuple[str, bool]:
        mine, other = sheet.one(ours), sheet.one(rival)
        missed = [i for i, (a, b) in enumerate(zip(mine.flat, other.flat, strict=True)) if a == math.inf > b]
        named = f": images {missed[:8]}" if missed else ""
        n = len(mine.flat)
        return f"{_broken(mine, n)} broken, {other.label} {_broken(other, n)}, {len(missed)} missed{named}", not missed

    return _target(f"{ours} breaks every image that {rival} breaks", measure)


def all_fall(ours: str) -> Target:
    """Ours succeeds on every image."""

    def measure(sheet: Sheet) -> tuple[str, bool]:
        mine = sheet.one(ours)
        return f"{_broken(mine, len(mine.flat))} of {len(mine.flat)}", mine.success == 1

    return _target(f"{ours} succeeds on every image", measure)


def nearest(ours: str, middle: float, high: float) -> Target:
    """Median and 95th percentile of the ratio to the smallest size that anyone found."""

    def measure(sheet: Sheet) -> tuple[str, bool]:
        best = best_of([cell.flat for cell in sheet.everyone if cell.sizes])
        mine = ratios(sheet.one(ours).flat, best)
        half, most = quantile(mine, 0.5), quantile(mine, 0.95)
        return f"{half:.4f} and {most:.4f}, worst {max(mine):.4f}", half <= middle and most <= high

    return _target(f"{ours} within {middle:g} (median) and {high:g} (95 %) of the best known", measure)


def no_farther(ours: str, rival: str) -> Target:
    """Ours succeeds on no fewer images and its median size is no larger than that of any cell tagged ``rival``."""

    def measure(sheet: Sheet) -> tuple[str, bool]:
        mine, best = sheet.one(ours), min(sheet.all(rival), key=lambda cell: quantile(cell.flat, 0.5))
        half, other = quantile(mine.flat, 0.5), quantile(best.flat, 0.5)
        fewer = any(cell.success > mine.success for cell in sheet.all(rival))
        text = f"median {half:.4f}, success {mine.success:.0%}; {best.label} {other:.4f}, {best.success:.0%}"
        return text, half <= other and not fewer

    return _target(f"{ours} no worse than any {rival}", measure)


def converged(ours: str, longer: str, factor: float) -> Target:
    """Twice the steps come at most ``factor`` times nearer in the median."""

    def measure(sheet: Sheet) -> tuple[str, bool]:
        ratio = quantile(ratios(sheet.one(ours).flat, sheet.one(longer).flat), 0.5)
        return f"median ratio to twice the steps {ratio:.4f}", ratio <= factor

    return _target(f"{ours} has converged within {factor:g}", measure)


def share_of(ours: str, truth: str, share: float) -> Target:
    """Ours finds at least this share of what the truth finds."""

    def measure(sheet: Sheet) -> tuple[str, bool]:
        pairs = list(zip(sheet.one(ours).flat, sheet.one(truth).flat, strict=False))
        there = sum(math.isfinite(b) for _, b in pairs)
        found = sum(math.isfinite(a) and math.isfinite(b) for a, b in pairs)
        return f"{found} of {there} on {len(pairs)} images", found >= share * there

    return _target(f"{ours} finds at least {share:.0%} of what {truth} finds", measure)


def fewer_forwards(ours: str, truth: str, factor: float) -> Target:
    """The truth takes at least ``factor`` times the forwards per image; what it takes backwards is told too."""

    def measure(sheet: Sheet) -> tuple[str, bool]:
        mine, other = sheet.one(ours), sheet.one(truth)
        text = (
            f"{mine.forwards:.0f} forwards an image (and {mine.backwards:.1f} backwards) against {other.forwards:.0f}"
        )
        return f"{text}: 1/{other.forwards / mine.forwards:.1f}", mine.forwards * factor <= other.forwards

    return _target(f"{ours} at most 1/{factor:g} of the forwards of {truth}", measure)


def nothing_certified(ours: str) -> Target:
    """No image falls that the convex outer bound proves safe."""

    def measure(sheet: Sheet) -> tuple[str, bool]:
        from benchmarks.certificate import contradicted

        cell = sheet.one(ours)
        fallen = [i for i, size in enumerate(cell.flat) if math.isfinite(size)]
        wrong = contradicted(sheet.scene, cell.images, fallen, cell.eps[0])
        if wrong is None:
            raise Unmeasured("the certificate or the scene is not at hand")
        return f"{len(wrong)} of {len(fallen)} fallen images are certified", not wrong

    return _target(f"{ours} breaks nothing that is certified", measure)


def _broken(cell: Cell, n: int) -> int:
    return sum(math.isfinite(size) for row in cell.sizes for size in row[:n])


def _timed(cell: Cell) -> str:
    return f"{cell.median:.3g} s on {cell.images} images"


def held(targets: Sequence[Target], sheet: Sheet) -> list[Finding]:
    """What the targets say of a scene."""
    return [target(sheet) for target in targets]
