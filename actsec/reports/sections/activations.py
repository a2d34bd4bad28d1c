"""Activation health: each site on untouched inputs, and units forced dead beside noise and plain PGD."""

from __future__ import annotations

from collections.abc import Iterator

from actsec.forcing.bracket_words import bracketed
from actsec.reports import words
from actsec.reports.answers import forced
from actsec.reports.blocks import (
    Block,
    Chip,
    Content,
    Figures,
    Fold,
    Heading,
    Items,
    Note,
    Paragraph,
    Table,
    joined,
    muted,
    strong,
)
from actsec.reports.figures.bars import Bar, Group, bars
from actsec.reports.figures.strip import Row, strip
from actsec.reports.load import Report
from actsec.reports.vital_blocks import blocks as vital_blocks
from actsec.result import Kill, Result, SiteHealth, Variant

MOST_STRIPS = 6
"""Variants whose strips stand open; the others are folded."""


def section(report: Report) -> Iterator[Block]:
    """A strip and a table per model, then dead-ReLU forcing."""
    result = report.result
    yield Heading("Activations")
    shown = [v for v in result.variants if v.sites or v.unresolved]
    if not shown:
        yield Paragraph("Not done: no activation was watched.")
    else:
        yield Paragraph(
            "A site is one call of an activation, in the order of the network. A unit is dead on an input when its "
            "activation passes no signal there, and permanently dead when it does so on every input; saturated when "
            "its slope is close to zero at either end. A crossed cell marks what this kind of activation cannot have."
        )
        if result.heading:
            yield Note("How to read the comparison:", f"{result.heading}.")
    folded: list[Block] = []
    for index, variant in enumerate(shown):
        blocks = (Heading(variant.title, 3), *_sites(variant))
        if variant.chain or index >= MOST_STRIPS:
            folded += blocks
        else:
            yield from blocks
    if folded:
        count = sum(isinstance(block, Heading) for block in folded)
        yield Fold(f"Sites of {words.plural(count, 'other variant')}", tuple(folded))
    yield from _forcing(result)


def _sites(variant: Variant) -> Iterator[Block]:
    if variant.sites:
        sites, kill = variant.sites, next((k for k in variant.kills if k.applicable and k.sites), None)
        after = {s.name: s.dead_after for s in kill.sites} if kill else {}
        rows = [
            Row("dead", tuple(s.dead for s in sites)),
            Row("permanently dead", tuple(s.permanently_dead for s in sites)),
            Row("saturated", tuple(s.saturated for s in sites)),
        ]
        if after:
            rows.insert(1, Row("dead after forcing", tuple(after.get(s.name) for s in sites)))
        kept = [row for row in rows if any(value is not None for value in row.values)]
        if kept:
            under = f" Forcing under {kill.threat}." if kill else ""
            yield strip(
                f"Sites of {variant.title}", kept, f"Fraction of units by site; stronger colour is more.{under}"
            )
        else:
            yield Paragraph(f"No unit of {variant.activation} can be dead or saturated.")
        table = _table(variant, sites, after)
        yield Fold(f"The {words.plural(len(sites), 'site')} of {variant.title} in numbers", (table,))
    if variant.vitals is not None:
        yield from vital_blocks(variant.vitals, variant.title)
    if variant.unresolved:
        yield Note("Unresolved calls", "These calls may be activations and were not counted:", "warn")
        yield Items(variant.unresolved)


def _table(variant: Variant, sites: tuple[SiteHealth, ...], after: dict[str, float]) -> Table:
    rows: list[tuple[Content, ...]] = []
    for number, site in enumerate(sites, 1):
        forced = after.get(site.name)
        rows.append(
            (
                f"{number}  {site.name}",
                site.kind,
                words.number(site.units),
                _fraction(site.dead),
                _fraction(forced) if after else "not done",
                _fraction(site.permanently_dead),
                _fraction(site.saturated),
                words.number(site.gradient_norm) if site.gradient_norm is not None else "not done",
                Chip("finite", "good") if site.finite else Chip("not finite", "bad"),
            )
        )
    columns = ("site", "kind", "units", "dead", "dead after forcing", "permanently dead", "saturated", "gradient norm")
    return Table(f"Sites of {variant.title} on untouched inputs", (*columns, "values"), tuple(rows), (2, 3, 4, 5, 6, 7))


def _fraction(value: float | None) -> Content:
    return "cannot" if value is None else words.percent(value)


def _forcing(result: Result) -> Iterator[Block]:
    kills = [(v, k) for v in result.variants for k in v.kills]
    yield Heading(words.forced(k for _, k in kills), 3)
    if not kills:
        yield Paragraph("Not done: no attack tried to silence units.")
        return
    yield Paragraph(
        "The net rise of the dead fraction: units killed minus units revived, of all units, mean over examples; "
        "under the goals saturate and zero_tail, of the saturated or numerically zero fraction. "
        "It counts as an attack only where it beats both random noise and plain PGD at the same eps. Silencing units "
        "and changing the label are different successes."
    )
    live = [(v, k) for v, k in kills if k.applicable]
    if live:
        groups = [Group(_name(v, k, kills), _bars(k), v.id) for v, k in live]
        caption = "Net rise of the fraction that is gone; whiskers are 95 % intervals."
        yield Figures(
            (
                bars(
                    words.forced(k for _, k in live),
                    ("forcing", "noise of the same eps", "plain PGD, same eps"),
                    groups,
                    caption,
                    near=True,
                ),
            )
        )
    rows = tuple(_kill(_name(v, k, kills), k) for v, k in kills)
    yield Table(
        "Forcing beside its baselines: net rise of the fraction that is gone, in percentage points; labels of those "
        "correct before",
        (
            "variant",
            "forcing",
            "noise",
            "plain PGD",
            "active units killed",
            "the same, noise",
            "labels changed",
            "the same, noise",
        ),
        rows,
        of=tuple(v.id for v, _ in kills),
    )
    yield Items(tuple((strong(v.title), f": {forced(k)}.") for v, k in kills))
    yield from _effects(kills)
    yield from _brackets(live, kills)
    yield from _passed(live, kills)
    for variant, kill in live:
        title = f"Every site under forcing: {_name(variant, kill, kills)}"
        yield Fold(title, (_forced_sites(title, kill),))


def _effects(kills: list[tuple[Variant, Kill]]) -> Iterator[Block]:
    """What the silenced units cost: margins and gradients."""
    rows: list[tuple[Content, ...]] = []
    for variant, kill in kills:
        if (effect := kill.effect) is not None:
            noise = (effect.noise_margin_after, effect.gradient_ratio, effect.noise_gradient_ratio)
            cells = (words.number(value) if value is not None else "not done" for value in noise)
            name = _name(variant, kill, kills)
            shares = (words.percent(effect.zero_gradients), words.percent(effect.blackouts))
            margins = (words.number(effect.margin_before), words.number(effect.margin_after))
            critical = (effect.critical_killed, effect.noise_critical_killed, effect.pgd_critical_killed)
            killed = (words.percent(value) if value is not None else "not done" for value in critical)
            rows.append((name, *margins, *cells, *shares, *killed))
    if rows:
        yield Table(
            "What it did to the model: median margin of the label over the best other, median ratio of the "
            "gradient's norm after by before, images whose gradient is exactly 0, images at which a whole site is dark",
            (
                "variant",
                "margin untouched",
                "margin forced",
                "margin, noise",
                "gradient ratio",
                "gradient ratio, noise",
                "zero gradients",
                "blackouts",
                "critical units killed",
                "the same, noise",
                "the same, plain PGD",
            ),
            tuple(rows),
        )


def _brackets(live: list[tuple[Variant, Kill]], kills: list[tuple[Variant, Kill]]) -> Iterator[Block]:
    """Each attack beside what no attack can beat."""
    held = [(v, k, k.bracket) for v, k in live if k.bracket is not None]
    if not held:
        return
    yield Heading("What no attack on units can beat", 4)
    yield Paragraph(
        "The truth lies between the attack and the certificate: at the first layer each unit's own smallest change is "
        "exact; behind it intervals hold at any depth and soon say nothing. Attack and certificate are of the same "
        "units and images."
    )
    for variant, kill, bracket in held:
        yield Paragraph(strong(f"{_name(variant, kill, kills)}, first {words.plural(bracket.n, 'image')}:"))
        yield Items(bracketed(bracket))


def _passed(live: list[tuple[Variant, Kill]], kills: list[tuple[Variant, Kill]]) -> Iterator[Block]:
    """What the same inputs did on the models with other activations."""
    rows: list[tuple[Content, ...]] = []
    for variant, kill in live:
        for found in kill.passed:
            changed = words.share_cell(found.label_changed) if found.label_changed else "none was right"
            net = words.signed(found.net) if found.net is not None else "cannot"
            rows.append((f"{_name(variant, kill, kills)} on {found.variant}", changed, net))
    if rows:
        yield Table(
            "The forced inputs of the audited model on its models with other activations: labels changed of those that "
            "were right there, and the net rise of their own units that are gone, in percentage points",
            ("inputs", "labels changed", "net"),
            tuple(rows),
        )


def _forced_sites(title: str, kill: Kill) -> Table:
    """What went and came back at every site."""
    rows: list[tuple[Content, ...]] = [
        (
            f"{number}  {site.name}",
            words.number(site.units),
            *(words.percent(value) for value in (site.dead_before, site.dead_after, site.killed, site.revived)),
        )
        for number, site in enumerate(kill.sites, 1)
    ]
    columns = ("site", "units", "gone before", "gone after", "killed", "revived")
    return Table(title, columns, tuple(rows), (1, 2, 3, 4, 5))


def _name(variant: Variant, kill: Kill, kills: list[tuple[Variant, Kill]]) -> str:
    several = len({(k.threat, k.attack) for _, k in kills}) > 1
    by = f", {kill.attack}" if len({k.attack for _, k in kills if k.attack}) > 1 and kill.attack else ""
    return f"{variant.title}, {kill.threat}{by}" if several else variant.title


def _bars(kill: Kill) -> tuple[Bar, ...]:
    return Bar(kill.net, kill.net_low, kill.net_high), Bar(kill.noise_net), Bar(kill.pgd_net)


def _kill(name: str, kill: Kill) -> tuple[Content, ...]:
    if not kill.applicable:
        return (name, words.not_applicable(kill), *("\N{EN DASH}",) * 6)
    net: Content = words.signed(kill.net) if kill.net is not None else "not done"
    if kill.net_low is not None and kill.net_high is not None:
        net = joined((net, muted(f"[{words.signed(kill.net_low)}, {words.signed(kill.net_high)}], n = {kill.n}")))
    return (
        name,
        net,
        *(words.signed(x) if x is not None else "not done" for x in (kill.noise_net, kill.pgd_net)),
        *(
            words.percent(x) if x is not None else "not done"
            for x in (kill.killed_of_active, kill.noise_killed_of_active)
        ),
        words.share_cell(kill.label_changed) if kill.label_changed else "not done",
        words.share_cell(kill.noise_label_changed) if kill.noise_label_changed else "not done",
    )
