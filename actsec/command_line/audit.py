"""``actsec audit``, ``resume`` and ``merge``: run a plan, go on with it, put its parts together."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import click

from actsec.command_line.core import import_core
from actsec.command_line.options import plan_options, read_plan
from actsec.command_line.printing import say, show
from actsec.errors import BadOption, PlanError
from actsec.planning import reading
from actsec.planning.parts import Part


def _where_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where jobs run, as one argument ``where``: changes nothing in the result."""

    @functools.wraps(command)
    def gathered(*arguments: Any, **options: Any) -> Any:
        where = {name: options.pop(name) for name in ("executor", "workers", "address", "gpus")}
        if where["executor"] == "ray":
            if importlib.util.find_spec("ray") is None:
                raise PlanError("--executor ray: Ray is not installed", "pip install 'actsec[ray]'")
        elif where["address"] is not None or where["gpus"] is not None:
            named = where["executor"]
            raise BadOption(f"--address and --gpus are for --executor ray, not {named}", "Leave them out.")
        return command(*arguments, where=where, **options)

    choice, share = click.Choice(["processes", "serial", "ray"]), click.FloatRange(0, min_open=True)
    for option in (
        click.option("--gpus", type=share, help="With --executor ray: share of a GPU for a job on CUDA [1]."),
        click.option("--address", help="With --executor ray: the cluster, such as HOST:6379 or auto [this machine]."),
        click.option("--workers", type=click.IntRange(1), help="Workers on this machine [cores / threads]."),
        click.option("--executor", type=choice, default="processes", show_default=True),
    ):
        gathered = option(gathered)
    return gathered


_as_json = click.option("--json", "as_json", is_flag=True, help="Print all of report.json instead of the summary.")


@click.command(name="audit")
@click.argument("plan_file", required=False, metavar="[PLAN.toml]", type=click.Path())
@plan_options(shard="images in one job [250]; or 3/16: run the third of 16 parts, for `actsec merge`")
@click.option("--min", "minimum", type=float, help="With --gate METRIC: the metric must be at least this.")
@click.option("--max", "maximum", type=float, help="With --gate METRIC: the metric must be at most this.")
@click.option("--out", type=click.Path(), help="Run folder [runs/HASH-OF-THE-PLAN].")
@_where_options
@click.option("--print-plan", is_flag=True, help="Print the resolved plan as TOML, on stderr what it will cost; stop.")
@_as_json
@click.option("--quiet", is_flag=True, help="No progress.")
def audit_command(
    plan_file: str | None,
    minimum: float | None,
    maximum: float | None,
    out: str | None,
    where: dict[str, Any],
    print_plan: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Audit a model: attack it, check the attacks, judge the defenses, write a report.

    Without arguments: small networks with four activations, trained on handwritten digits, offline.
    """
    import_core()
    from actsec.command_line.screen import Screen
    from actsec.running import preparing, runner
    from actsec.running.store import Store

    part = Part.parse(options.pop("shard")) if "/" in (options["shard"] or "") else None
    plan = read_plan(plan_file, options, minimum, maximum)
    screen = Screen(quiet=quiet)
    with screen.busy("reading model and data"):
        prepared = dataclasses.replace(preparing.prepare(plan), part=part)
    if print_plan:
        click.echo(reading.write(prepared.plan), nl=False)
        if not quiet:
            _foretell(prepared, screen, where["workers"])
        return 0
    told = None if part is None else str(part)
    store = Store.create(out or runner.default_out(prepared), prepared.plan, prepared.facts, told)
    return _run(prepared, store, screen, where, as_json=as_json)


@click.command()
@click.argument("run", type=click.Path())
@_where_options
@click.option("--gate", "gates", multiple=True, help="Decide these gates instead of the plan's, on what is stored.")
@_as_json
@click.option("--quiet", is_flag=True, help="No progress.")
def resume(run: str, where: dict[str, Any], gates: tuple[str, ...], as_json: bool, quiet: bool) -> int:
    """Take up a run where it stopped: only jobs without an outcome run."""
    import_core()
    from actsec.command_line.screen import Screen
    from actsec.running import preparing
    from actsec.running.store import Store

    screen = Screen(quiet=quiet)
    with Store.open(run).at_home() as store:
        plan, told = store.plan(), store.part()
        part = None if told is None else Part.parse(told)
        with screen.busy("reading model and data"):
            prepared = preparing.prepare(plan.having(gates=gates) if gates else plan)
        prepared = dataclasses.replace(prepared, part=part)
        taken_up = Store.create(store.root, prepared.plan, prepared.facts, told)
        return _run(prepared, taken_up, screen, where, as_json=as_json)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(), metavar="RUN...")
@click.option("--out", required=True, type=click.Path(), help="Run folder to write.")
def merge(runs: tuple[str, ...], out: str) -> int:
    """Put together the parts of a plan that `actsec audit --shard 1/16` to `16/16` ran, on whatever machines.

    The result is that of one run, byte for byte. What no part holds is named, and made by `actsec resume OUT`.
    """
    import_core()
    from actsec.reports.load import read
    from actsec.running.merging import merge as put_together

    merged = put_together(runs, out)
    if merged.missing:
        say(f"note: {len(merged.missing)} missing; `actsec resume {merged.store.root}` makes them:", err=True)
        for line in merged.missing:
            say(f"  {line}", err=True)
    show(read(merged.store.root))
    return merged.result.exit_code


def _run(prepared: Any, store: Any, screen: Any, where: dict[str, Any], *, as_json: bool) -> int:
    from actsec.reports.load import read
    from actsec.running import places, runner

    executor, workers = where["executor"], where["workers"]
    cluster = places.Cluster(where["address"], 1.0 if where["gpus"] is None else where["gpus"])
    screen.plan(prepared, store)
    if prepared.part is not None:
        with screen.running() as tell:
            errors = runner.run_part(prepared, store, executor=executor, workers=workers, tell=tell, cluster=cluster)
        done, root = len(prepared.jobs) - len(errors), store.root
        say(f"part {prepared.part}: {done} of {len(prepared.jobs)} jobs finished in {root}")
        click.echo("Put together: actsec merge RUN RUN ... --out MERGED")
        return 3 if errors else 0
    with screen.running() as tell:
        result = runner.run_prepared(prepared, store, executor=executor, workers=workers, tell=tell, cluster=cluster)
    found = read(store.root)
    show(dataclasses.replace(found, shown="share" if prepared.plan.no_examples else ""), as_json=as_json)
    return result.exit_code


def _foretell(prepared: Any, screen: Any, workers: int | None) -> None:
    """What attacks and trainings will cost, on stderr: the plan itself goes into a file.

    Attacks on models that are trained in the run cannot be tried before.
    """
    from actsec.planning import foresight, foretelling
    from actsec.running import places

    if not prepared.plan.reference:
        with screen.busy("trying each attack on a few images"):
            found = foresight.forecast(prepared)
        for line in sorted(found.lines, key=lambda line: -line.seconds):
            trial, many = line.trial, f"{line.models} models" if line.models > 1 else "1 model"
            passes, seconds = f"{line.passes:,.0f} passes", f"{line.seconds:.1f} s"
            what = f"{trial.attack} at {trial.threat}, {trial.samples} on {many}"
            click.echo(f"{passes:>20} {seconds:>9}  {what}", err=True)
        click.echo(found.said(workers or places.workers_here(prepared.plan)), err=True)
    with screen.busy("timing a few steps of each training"):
        said = tuple(foretelling.lines(foretelling.trainings(prepared)))
    for text in said:
        click.echo(text, err=True)
