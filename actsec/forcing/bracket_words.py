"""A bracket in words, for reports and studies alike. Imports no torch."""

from __future__ import annotations

from actsec.result import Bracket

EXACT, INTERVALS = "exact radii", "intervals"
"""What certifies a site: each unit's own smallest kill, or bounds on its pre-activation."""


def bracketed(made: Bracket) -> tuple[str, ...]:
    """The bracket in sentences: one a site, one for blackouts, and one for each certificate that there is none of."""
    verb, gone, of = ("kill", "killed", "active units") if made.region == "dead" else ("force", "forced", "other units")
    told = []
    for site in made.sites:
        if site.certified is None:
            continue
        some = f", on {site.units} of {site.of} units" if site.how == EXACT and site.units < site.of else ""
        at_most = f"no perturbation can {verb} more than {100 * site.certified:.1f} % of its {of} ({site.how}{some})"
        if site.certified == 1:
            at_most = f"{site.how}{some} keep no unit out of reach, which says nothing"
        told.append(f"Site {site.name}: {at_most}; the attack {gone} {100 * site.attacked:.1f} %.")
    if made.blackouts:
        told.append(_blackout(made))
    if made.reason_exact:
        told.append(f"Exact radii at the first layer: not available: {made.reason_exact}.")
    if made.reason_intervals:
        told.append(f"Intervals behind the first layer: not available: {made.reason_intervals}.")
    return tuple(told)


def _blackout(made: Bracket) -> str:
    exists = [value for value in made.blackouts if value is not None]
    every, count = "in the box no change kills the whole first site", len(made.blackouts)
    if exists:
        how = "" if made.blackout_exact else "at least "
        every = f"killing the whole first site takes {how}{min(exists):.3g} ({made.norm}, in the box"
        none = count - len(exists)
        every += f"; {none} of {count} images have no such change)" if none else f", smallest of {count} images)"
    anywhere = [value for value in made.blackouts_anywhere if value is not None]
    if anywhere:
        every += f"; without the box {min(anywhere):.3g} to {max(anywhere):.3g}"
    return f"Blackout: {every}; eps is {made.eps:.3g}."
