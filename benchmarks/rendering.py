"""How long a large audit takes to render, and how large it is: processor seconds and bytes of every format.

    python -m benchmarks.rendering                        # the sample record of the tests, widened: 20 x 10,000
    python -m benchmarks.rendering --variants 40 --examples 100000
    python -m benchmarks.rendering --run runs/mine        # a run that is there, as it is

The record holds counts and not examples, so what costs is variants, attacks and checks; the pictures are as many in any
audit. The first format also pays for loading what all of them share. Target: every format in under 10 seconds, and an
HTML file under 5 MB.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actsec.reports import load
from actsec.result import Result, Share
from actsec.verdict.statistics import share

FORMATS = ("html", "md", "json", "terminal", "junit", "sarif")
SAMPLES = Path(__file__).resolve().parent.parent / "tests"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line a format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run folder; without one, the widened sample record")
    parser.add_argument("--variants", type=int, default=20)
    parser.add_argument("--examples", type=int, default=10_000)
    chosen = parser.parse_args(arguments)
    report = load.read(chosen.run) if chosen.run else _sample(chosen.variants, chosen.examples)
    result = report.result
    attacks = sum(len(threat.attacks) for variant in result.variants for threat in variant.threats)
    tested = max(variant.clean.accuracy.n for variant in result.variants)
    print(
        f"{len(result.variants)} variants, {tested} examples, {attacks} attacks, {len(result.comparisons)} comparisons"
    )
    for form in FORMATS:
        started = time.process_time()
        made = load.render(report, form)
        seconds = time.process_time() - started
        size = len(made if isinstance(made, bytes) else made.encode())
        print(f"{form:9s} {seconds:6.2f} s of processor {size / 1e6:7.3f} MB")


def _sample(variants: int, examples: int) -> load.Report:
    """The tests' sample, its defended variants repeated under names of their own and everything counted of so many."""
    sys.path.insert(0, str(SAMPLES))
    import sample_result as sample

    whole: Result = sample.normal()
    defended = [variant for variant in whole.variants if variant.chain]
    own = [variant for variant in whole.variants if not variant.chain]
    made = [_counted(variant, examples) for variant in own]
    comparisons, advice = [], []
    for at in range(max(variants - len(own), 0)):
        model = defended[at % len(defended)]
        name = f"{model.id} ({at})"
        chain = f"{model.chain}(option={at})"
        made.append(dataclasses.replace(_counted(model, examples), id=name, title=name, chain=chain))
        comparisons += [dataclasses.replace(c, variant=name) for c in whole.comparisons if c.variant == model.id]
        advice += [dataclasses.replace(a, variant=name) for a in whole.advice if a.variant == model.id]
    wide = dataclasses.replace(whole, variants=tuple(made), comparisons=tuple(comparisons), advice=tuple(advice))
    return sample.report(wide)


def _counted(thing: Any, examples: int) -> Any:
    """A record with every share in it counted of so many times as many examples."""
    if isinstance(thing, Share):
        times = examples / 1000  # the sample's
        return share(round(thing.k * times), round(thing.n * times)) if thing.n else thing
    if isinstance(thing, tuple):
        return tuple(_counted(each, examples) for each in thing)
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = {field.name: _counted(getattr(thing, field.name), examples) for field in dataclasses.fields(thing)}
        return dataclasses.replace(thing, **fields)
    return thing


if __name__ == "__main__":
    main()
