"""What forcing units came to, as markdown: contenders, sites, certificates, single units, one delta, twins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from actsec.forcing.bracket_words import bracketed
from actsec.forcing.consequences import Consequence
from actsec.spec import parse
from actsec.study.forcing import (
    BESIDE,
    BEST,
    COUNT,
    NOISE,
    ONE_LAYER,
    PGD,
    PGD_BEST,
    SHARE,
    Contest,
    Network,
    Round,
    Settings,
)
from actsec.study.singles import Smallest, Twin, Universal
from actsec.types import Region

_NAMED: dict[Region, tuple[str, str, str, str]] = {
    "dead": ("Units forced dead", "killed", "active units", "dead"),
    "saturated": ("Units saturated", "saturated", "the other units", "saturated"),
    "zero_tail": ("Units forced into zero tails", "forced", "the units outside a zero tail", "in a zero tail"),
}
"""Of each region: the heading, what is done, to which units, and what they are then."""


def lines(
    networks: Sequence[Network], settings: Settings, data: str, echo: str, pictures: Sequence[str] = ()
) -> Iterator[str]:
    """The whole report. echo words the eps; pictures are the names of what is drawn, each put where it belongs."""
    first = networks[0]
    yield f"# {' and '.join(_NAMED[r.contest.region][0] for r in first.rounds)}"
    yield ""
    seeds = f", seeds {', '.join(str(n.seed) for n in networks)}" if len(networks) > 1 else f", seed {first.seed}"
    where = f"linf {echo}" if settings.norm == "linf" else echo  # of L2 the echo says so itself
    yield f"{first.name} on {len(first.cases)} images of {data}; {where}{seeds}."
    yield ""
    for at, found in enumerate(first.rounds):
        region = found.contest.region
        if len(first.rounds) > 1:
            yield f"## {_NAMED[region][0]}"
            yield ""
        yield lead(found.contest)
        yield ""
        level = "##" if len(first.rounds) == 1 else "###"
        if len(networks) > 1:
            yield from over_seeds(networks, at, level)
        for line in _round(found, settings, pictures):
            yield line.replace("##", level, 1) if line.startswith("## ") else line


def _round(found: Round, settings: Settings, pictures: Sequence[str]) -> Iterator[str]:
    contest = found.contest
    region = contest.region

    def drawn(part: str) -> Iterator[str]:
        yield from (f"![{_ALT[part]}]({name}.png)" for name in pictures if name.startswith(f"{region}_{part}"))
        yield ""

    yield "## Attacks beside noise and PGD"
    yield ""
    yield from contenders(contest)
    yield ""
    yield from legend(contest)
    yield ""
    yield f"## Every site under {label(contest, COUNT)}"
    yield ""
    yield from sites(contest[COUNT].effect, region)
    yield ""
    yield from drawn("sites")
    yield "## What no attack can beat"
    yield ""
    yield f"On the first {found.bracket.n} images. The truth lies between the attack and the certificate."
    yield ""
    yield from (f"- {line}" for line in bracketed(found.bracket))
    yield ""
    yield "## Smallest changes that force single units"
    yield ""
    yield from singles(found, settings.eps)
    yield ""
    yield from drawn("single")
    yield "## One delta for all images"
    yield ""
    yield from one_delta(found)
    yield ""
    yield "## The same inputs on twins with another activation"
    yield ""
    yield from on_twins(found)
    yield ""
    if any(name.startswith(f"{region}_images") for name in pictures):
        yield "## Images"
        yield ""
        yield (
            f"The images with most units {_NAMED[region][1]} by {label(contest, COUNT)}, with what the model says. "
            "Right: of each site (down) every unit or channel (across), the share of it that "
            f"is {_NAMED[region][3]} and was not."
        )
        yield ""
        yield from drawn("images")


_ALT = {
    "sites": "By site, for each contender",
    "single": "Share of single units forced by changes up to a size",
    "images": "Untouched and forced images, and their units",
}


def label(contest: Contest, name: str) -> str:
    """A contender's name; the count of a region other than dead is called by its attack."""
    if name == COUNT and contest.region != "dead":
        return parse(contest[COUNT].attack).name
    return f"{name} ({contest.site})" if name == ONE_LAYER and contest.site else name


def lead(contest: Contest) -> str:
    """What the count came to beside noise and PGD, and whether that is an attack: kills never without labels."""
    count = contest[COUNT].effect
    _, done, of, gone = _NAMED[contest.region]

    def beside(names: Sequence[str], text: Callable[[Consequence], str]) -> str:
        return ", ".join(f"{name} {text(contest[name].effect)}" for name in names if name in contest)

    plain = (NOISE, PGD)
    said = (
        f"The {label(contest, COUNT)} attack {done} {count.killed_of_active:.1%} of {of} "
        f"({beside(plain, lambda e: f'{e.killed_of_active:.1%}')}); the label changed on {count.changed} of "
        f"{count.right} images ({beside(plain, lambda e: str(e.changed))}). Less those that came back, the share of "
        f"all units that is {gone} rises by {count.net:+.3f} ({beside(tuple(BESIDE), lambda e: f'{e.net:+.3f}')}). "
    )
    equals = [name for name in BESIDE if name in contest and contest[name].effect.net >= count.net]
    if equals:
        return said + f"{' and '.join(equals)} raised it as much: this counts as no attack on units."
    return said + "Neither noise nor PGD raised it as much: it is an attack on units of its own."


def contenders(contest: Contest) -> Iterator[str]:
    """One row a contender; those that were not run say why."""
    _, done, of, _ = _NAMED[contest.region]
    head = (f"{done}, of {of}", "net", f"critical {done}", "blackouts", "labels changed", "95 %", "margin")
    yield "| attack | " + " | ".join((*head, "gradient ratio", "zero gradients")) + " |"
    yield "|---" * (len(head) + 3) + "|"
    for each in contest.forced:
        e = each.effect
        interval = "-" if each.labels is None else f"{100 * each.labels.low:.0f} to {100 * each.labels.high:.0f}%"
        cells = (
            f"{e.killed_of_active:.1%}",
            f"{e.net:+.4f}",
            "-" if e.critical_killed is None else f"{e.critical_killed:.1%}",
            f"{round(e.blackout * e.n)} of {e.n}",
            f"{e.changed} of {e.right}",
            interval,
            f"{e.after.margin:.2f}",
            "-" if e.gradient_ratio is None else f"{e.gradient_ratio:.3g}",
            f"{round(e.after.zero_gradient * e.n)} of {e.n}",
        )
        yield f"| {label(contest, each.name)} | " + " | ".join(cells) + " |"


def legend(contest: Contest) -> Iterator[str]:
    """What the columns and the contenders are."""
    verb = _NAMED[contest.region][1]
    yield f"- Net: units {verb} minus those that came back, of all units that anything moves; raw shares mislead alone."
    yield f"- Critical: the {SHARE:.0%} of units (channels) of a site with most effect on the label's logit."
    yield "- Blackouts: images at which a whole site went dark. Labels: changed, of the images that were right before."
    before = contest[COUNT].effect.before.margin
    yield f"- Margin: the label's logit less the best other, mean; {before:.2f} untouched."
    yield "- Gradient ratio: of the loss's gradient by the input, median norm after by before. Zero: exactly 0 after."
    if PGD_BEST in contest:
        yield (
            f"- {PGD} changes labels; {PGD_BEST} and {BEST} are the candidate of each with most units {verb}, so that "
            "they are no easier to beat."
        )
    yield from (f"- {name}: not done: {reason}." for name, reason in contest.not_done.items())


def sites(found: Consequence, region: Region = "dead") -> Iterator[str]:
    """Every site of one contender."""
    _, done, _, gone = _NAMED[region]
    head = (f"{gone} before", "after", done, "came back", f"{gone} on every image, before", "after")
    yield f"| site | kind | units | {' | '.join(head)} |"
    yield "|---" * (len(head) + 3) + "|"
    for s in found.sites:
        shares = (s.dead_before, s.dead_after, s.killed, s.revived, s.permanently_dead_before, s.permanently_dead_after)
        yield f"| {s.name} | {s.kind} | {s.units} | " + " | ".join(f"{value:.1%}" for value in shares) + " |"


def over_seeds(networks: Sequence[Network], at: int = 0, level: str = "##") -> Iterator[str]:
    """Every contender over seeds: the mean, and the least and most of them."""
    contests = [network.rounds[at].contest for network in networks]
    yield f"{level} Over {len(contests)} seeds"
    yield ""
    yield "| attack | forced, of those not gone | net | labels changed |"
    yield "|---|---|---|---|"
    for name in (each.name for each in contests[0].forced if all(each.name in contest for contest in contests)):
        effects = [contest[name].effect for contest in contests]
        cells = (
            _spread([e.killed_of_active for e in effects], ".1%"),
            _spread([e.net for e in effects], "+.4f"),
            f"{sum(e.changed for e in effects)} of {sum(e.right for e in effects)}",
        )
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""
    yield "What follows is of the first seed."
    yield ""


def _spread(values: Sequence[float], form: str) -> str:
    return f"{np.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def one_delta(found: Round) -> Iterator[str]:
    """One delta on the images it was made on and on the others, beside random signs."""
    if found.universal is None:
        yield f"Not available: {found.not_done['universal']}."
        return
    made: Universal = found.universal
    alone = found.contest[COUNT].effect
    yield f"| one delta | images | {_NAMED[found.contest.region][1]} | net | labels changed |"
    yield "|---|---|---|---|---|"
    rows = (
        (label(found.contest, COUNT), "made on these", made.made),
        (label(found.contest, COUNT), "the others", made.other),
        ("random signs, best of 20", "chosen on these", made.noise_made),
        ("random signs, best of 20", "the others", made.noise_other),
        ("each image its own", "all", alone),
    )
    for name, which, e in rows:
        yield f"| {name} | {e.n}, {which} | {e.killed_of_active:.1%} | {e.net:+.4f} | {e.changed} of {e.right} |"


def singles(found: Round, eps: float) -> Iterator[str]:
    """The distribution of smallest changes at each site, the attack's beside the truth where it is known."""
    if not found.smallest:
        yield f"Not available: {found.not_done.get('smallest', 'no single unit was searched')}."
        return
    head = ("units", "pairs", f"within {eps:.3g}", "quarter", "median", "never", "truth within", "truth, median")
    yield f"| site | {' | '.join(head)} |"
    yield "|---" * (len(head) + 1) + "|"
    for s in found.smallest:
        sizes, exact = np.array(s.found), np.array(s.exact)
        never = int(np.isinf(sizes).sum())
        cells = (
            str(s.units), str(len(sizes)), f"{np.mean(sizes <= eps):.1%}", _quantile(sizes, 0.25),
            _quantile(sizes, 0.5), str(never), f"{np.mean(exact <= eps):.1%}" if len(exact) else "-",
            _quantile(exact, 0.5),
        )  # fmt: skip
        yield f"| {s.site} | " + " | ".join(cells) + " |"
    yield ""
    yield "A pair is an image and a unit that is not gone there. Sizes are what an attack took: at least the truth."


def _quantile(sizes: Any, q: float) -> str:
    """The least size that so large a share of the pairs is within; failures count as infinity."""
    if not len(sizes):
        return "-"
    value = float(np.quantile(sizes, q, method="higher"))
    return f"{value:.3g}" if math.isfinite(value) else "none"


def reached(found: Smallest, size: float) -> float:
    """The share of pairs that the attack forced by changes up to a size."""
    return float(np.mean(np.array(found.found) <= size))


def on_twins(found: Round) -> Iterator[str]:
    """Labels that each contender's inputs change on the twins."""
    if not found.twins:
        yield f"Not available: {found.not_done.get('twins', 'no activation is left to swap to')}."
        return
    yield from twin_rows(found.twins, found.contest)
    yield ""
    yield (
        "The same weights, every activation swapped, nothing trained: what passes on is of the weights, not of the "
        "activation. Labels changed, of the images that the twin has right; net: the rise of its own units that are "
        f"{_NAMED[found.contest.region][3]}."
    )


def twin_rows(twins: Sequence[Twin], contest: Contest) -> Iterator[str]:
    """One row a twin, after one of the model itself."""
    names = [*twins[0].passed]
    yield "| activation | right before | " + " | ".join(label(contest, name) for name in names) + " | net of count |"
    yield "|---" * (len(names) + 3) + "|"
    own = [str(contest[name].effect.changed) for name in names]
    yield f"| as it is | {contest[COUNT].effect.right} | " + " | ".join(own) + f" | {contest[COUNT].effect.net:+.4f} |"
    for twin in twins:
        net = twin.passed[COUNT].net
        told = " | ".join(str(twin.passed[name].changed) for name in names)
        gone = "cannot" if net is None else f"{net:+.4f}"
        yield f"| {twin.activation} | {twin.passed[COUNT].right} | {told} | {gone} |"


def noted(networks: Sequence[Network], settings: Settings, data: str) -> dict[str, Any]:
    """The study for report.json: every number, no inputs."""
    return {
        "data": data,
        "settings": dataclasses.asdict(settings),
        "networks": [
            {
                "name": network.name,
                "seed": network.seed,
                "images": len(network.cases),
                "regions": [*map(_noted, network.rounds)],
            }
            for network in networks
        ],
    }


def _noted(found: Round) -> dict[str, Any]:
    contest = found.contest
    return {
        "region": contest.region,
        "sentence": lead(contest),
        "one_layer": contest.site or None,
        "contenders": [
            {"name": f.name, "attack": f.attack, "labels": f.labels and dataclasses.asdict(f.labels)}
            | dataclasses.asdict(f.effect)
            for f in contest.forced
        ],
        "not_done": {**contest.not_done, **found.not_done},
        "bracket": dataclasses.asdict(found.bracket),
        "universal": None if found.universal is None else _of_one_delta(found.universal),
        "smallest": [dataclasses.asdict(each) for each in found.smallest],
        "twins": [dataclasses.asdict(twin) for twin in found.twins],
    }


def _of_one_delta(made: Universal) -> dict[str, Any]:
    parts = ("made", "other", "noise_made", "noise_other")
    return {"size": made.size, **{part: dataclasses.asdict(getattr(made, part)) for part in parts}}
