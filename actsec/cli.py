"""The ``actsec`` command. Options are the fields of the plan: nothing is written twice, nothing heavy imported early.

Results go to stdout, progress and messages to stderr. Exit codes are those of the error tree and of the verdict.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import actsec
from actsec import completing, pages
from actsec import plan as plans
from actsec.errors import ActsecError, BadOption, Interrupted, PlanError, UsageError
from actsec.options import plan_options, read_plan
from actsec.parts import Part
from actsec.plan import Trial
from actsec.printing import say, say_lines
from actsec.study.commands import study

_AUDIT_ONLY: tuple[str, ...] = (
    *("attacks", "defenses", "activations", "corruptions", "samples", "per_class", "budget", "second_opinion"),
    *("mask", "memory", "shard", "timeout", "gates", "accept", "evidence", "positive"),
)
"""Fields of the plan that mean nothing where nothing is attacked."""


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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(actsec.__version__, prog_name="actsec")
def cli() -> None:
    """Tell the truth about a PyTorch classifier's robustness and confidence."""


@cli.command(name="audit")
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
    _import_core()
    from actsec import runner
    from actsec.screen import Screen
    from actsec.store import Store

    part = Part.parse(options.pop("shard")) if "/" in (options["shard"] or "") else None
    plan = read_plan(plan_file, options, minimum, maximum)
    screen = Screen(quiet=quiet)
    with screen.busy("reading model and data"):
        prepared = dataclasses.replace(runner.prepare(plan), part=part)
    if print_plan:
        click.echo(plans.write(prepared.plan), nl=False)
        if not quiet:
            _foretell(prepared, screen, where["workers"])
        return 0
    told = None if part is None else str(part)
    store = Store.create(out or runner.default_out(prepared), prepared.plan, prepared.facts, told)
    return _run(prepared, store, screen, where, as_json=as_json)


@cli.command()
@click.argument("plan_file", default="plan.toml", metavar="[PLAN.toml]")
@plan_options()
def init(plan_file: str, **options: Any) -> int:
    """Write a commented plan to start from: plan.toml, or a name of your own. Nothing is overwritten."""
    import shlex

    from actsec.starting import create

    if Path(plan_file).is_dir():
        plan_file = str(Path(plan_file) / "plan.toml")
    create(Path(plan_file), read_plan(None, options, None, None))
    say(f"{plan_file}: every key with its meaning; change what you like")
    say(f"next: actsec audit {shlex.quote(plan_file)}")
    return 0


@cli.command()
@click.argument("run", type=click.Path())
@_where_options
@click.option("--gate", "gates", multiple=True, help="Decide these gates instead of the plan's, on what is stored.")
@_as_json
@click.option("--quiet", is_flag=True, help="No progress.")
def resume(run: str, where: dict[str, Any], gates: tuple[str, ...], as_json: bool, quiet: bool) -> int:
    """Take up a run where it stopped: only jobs without an outcome run."""
    _import_core()
    from actsec import runner
    from actsec.screen import Screen
    from actsec.store import Store

    screen = Screen(quiet=quiet)
    with Store.open(run).at_home() as store:
        plan, told = store.plan(), store.part()
        part = None if told is None else Part.parse(told)
        with screen.busy("reading model and data"):
            prepared = runner.prepare(plan.having(gates=gates) if gates else plan)
        prepared = dataclasses.replace(prepared, part=part)
        taken_up = Store.create(store.root, prepared.plan, prepared.facts, told)
        return _run(prepared, taken_up, screen, where, as_json=as_json)


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(), metavar="RUN...")
@click.option("--out", required=True, type=click.Path(), help="Run folder to write.")
def merge(runs: tuple[str, ...], out: str) -> int:
    """Put together the parts of a plan that `actsec audit --shard 1/16` to `16/16` ran, on whatever machines.

    The result is that of one run, byte for byte. What no part holds is named, and made by `actsec resume OUT`.
    """
    _import_core()
    from actsec.merging import merge as put_together
    from actsec.reports.load import read

    merged = put_together(runs, out)
    if merged.missing:
        say(f"note: {len(merged.missing)} missing; `actsec resume {merged.store.root}` makes them:", err=True)
        for line in merged.missing:
            say(f"  {line}", err=True)
    _show(read(merged.store.root))
    return merged.result.exit_code


def _run(prepared: Any, store: Any, screen: Any, where: dict[str, Any], *, as_json: bool) -> int:
    from actsec import runner
    from actsec.reports.load import read

    executor, workers = where["executor"], where["workers"]
    cluster = runner.Cluster(where["address"], 1.0 if where["gpus"] is None else where["gpus"])
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
    _show(dataclasses.replace(found, shown="share" if prepared.plan.no_examples else ""), as_json=as_json)
    return result.exit_code


def _foretell(prepared: Any, screen: Any, workers: int | None) -> None:
    """What attacks and trainings will cost, on stderr: the plan itself goes into a file.

    Attacks on models that are trained in the run cannot be tried before.
    """
    from actsec import foresight, foretelling, runner

    if not prepared.plan.reference:
        with screen.busy("trying each attack on a few images"):
            found = foresight.forecast(prepared)
        for line in sorted(found.lines, key=lambda line: -line.seconds):
            trial, many = line.trial, f"{line.models} models" if line.models > 1 else "1 model"
            passes, seconds = f"{line.passes:,.0f} passes", f"{line.seconds:.1f} s"
            what = f"{trial.attack} at {trial.threat}, {trial.samples} on {many}"
            click.echo(f"{passes:>20} {seconds:>9}  {what}", err=True)
        click.echo(found.said(workers or runner.workers_here(prepared.plan)), err=True)
    with screen.busy("timing a few steps of each training"):
        said = tuple(foretelling.lines(foretelling.trainings(prepared)))
    for text in said:
        click.echo(text, err=True)


def _import_core() -> None:
    """Import torch and what needs it. torch aborts the process when Ctrl-C reaches it there, so Ctrl-C waits."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
    try:
        importlib.import_module("actsec.runner")
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _show(report: Any, *, as_json: bool = False) -> None:
    """The summary on stdout: bold and coloured on a terminal, plain elsewhere; or all of report.json."""
    from actsec.reports.load import render
    from actsec.screen import plain

    if as_json or plain() or not sys.stdout.isatty():
        click.echo(render(report, "json" if as_json else "terminal"), nl=False)
        return
    from rich.console import Console

    from actsec.reports.formats.terminal import show

    show(report, Console(highlight=False))


@cli.command(name="attack")
@click.argument("attack", shell_complete=completing.attacks)
@plan_options(without=("attacks", "defenses", "gates", "accept", "evidence", "no_examples", "per_class", "timeout"))
@click.option("--threat", help="Such as linf:8/255, l2 or l0:1 [the attack's own norm at --eps].")
@click.option("--save", type=click.Path(), help="Write the attacked images to this .npz file.")
@click.option("--save-whole", type=click.Path(), help="The same as the whole numbers the data came in, judged as such.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts and the sentence as JSON.")
def attack_command(
    attack: str, threat: str | None, save: str | None, save_whole: str | None, as_json: bool, **options: Any
) -> int:
    """Run one attack, such as 'pgd(steps=200)', and print what it achieved."""
    _import_core()
    from actsec import runner, scene
    from actsec.api import attack as run_attack

    places = {option: _npz(file) for option, file in (("--save", save), ("--save-whole", save_whole)) if file}
    plan = read_plan(None, options, None, None).having(attacks=(Trial(attack, threat or ""),), defenses=())
    loaded = runner.resolved(scene.load(plan))
    trial, test = loaded.plan.attacks[0], loaded.test
    target = _target(loaded)
    x, y, rows = test.x[: trial.samples], test.y[: trial.samples], test.ids[: trial.samples]
    if save_whole and test.grid not in (255, 65535):
        kind = "floats" if test.grid is None else f"whole numbers from 0 to {test.grid}, which no .npz file says"
        raise BadOption(f"--save-whole: {test.name} holds {kind}", "Use --save, which keeps the attacked floats.")
    outcome = run_attack(
        target,
        x,
        y,
        attack,
        threat=trial.threat,
        mask=loaded.mask,
        grid=test.grid,
        seed=plan.seed,
        id=rows,
        table=test.table,
    )
    if save:
        _write(places["--save"], x=outcome.x, y=y, success=outcome.success, original=x)
    if save_whole and outcome.whole is not None:
        held = outcome.verdicts.on_grid.cpu().numpy() == 1
        _write(places["--save-whole"], x=outcome.whole, y=y, success=held)
    if as_json:
        import json

        counts = {"correct_before": outcome.correct_before, "still_correct": dataclasses.asdict(outcome.still_correct)}
        told = {"attack": str(trial.attack), "threat": str(trial.threat), **counts, "sentence": outcome.sentence}
        click.echo(json.dumps(told, indent=1, sort_keys=True, allow_nan=False))
    else:
        say(outcome.sentence)
    return 0


def _npz(file: str) -> Path:
    """The .npz file that is meant. Raises StoreError, before anything is attacked, unless it can be written."""
    from actsec import hardened

    place = Path(file).expanduser()
    path = place if place.suffix == ".npz" else place.with_name(f"{place.name}.npz")
    for each in (file, path):
        hardened.check_file(each)
    return path


def _write(path: Path, **arrays: Any) -> None:
    """A .npz file, whole or not at all."""
    import numpy as np

    from actsec import hardened

    with hardened.whole(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def _target(loaded: Any) -> Any:
    """The plan's first model: the user's after the preflight checks, a reference model trained."""
    from actsec import hardening

    target, notes = hardening.base_of(loaded, lambda _: None)
    for note in notes:
        say(f"note: {note}", err=True)
    return target


@cli.command(name="defend")
@click.argument("chain", metavar="CHAIN", shell_complete=completing.defenses)
@plan_options(without=(*_AUDIT_ONLY, "no_examples"))
@click.option("--save", metavar="PLACE", help="A new folder that stands alone; or FILE.safetensors, the weights alone.")
@click.option("--export", metavar="FILE.pt2", help="An exported program, which runs in torch without actsec.")
@click.option("--quiet", is_flag=True, help="No progress.")
def defend_command(chain: str, save: str | None, export: str | None, quiet: bool, **options: Any) -> int:
    """Put a chain of defenses on a model, such as 'swap(to=silu, finetune=3) | temperature', fit and save it.

    Nothing is attacked: whether the result is robust is for `actsec audit --model FOLDER` to find out.
    """
    _import_core()
    import shlex

    from actsec import hardening
    from actsec.screen import Screen

    plan, screen = read_plan(None, options, None, None), Screen(quiet=quiet)
    try:
        with screen.running("epochs") as tell:
            tested = options.get("data") is not None
            ready = hardening.prepare(plan, chain, tested=tested, save=save, export=export, tell=tell)
            for note in ready.notes:
                screen.note(note)
            made = hardening.make(ready, tell)
    except KeyboardInterrupt:
        raise Interrupted("nothing was written", "Training cannot be taken up: the command starts anew.") from None
    for line in hardening.told(made):
        say(line)
    for line in hardening.write(made, save, export, shlex.join(["actsec", *sys.argv[1:]])):
        say(line)
    return 0


@cli.command(name="diagnose")
@plan_options(
    without=("eps", *(name for name in _AUDIT_ONLY if name not in ("samples", "gates"))),
    samples="images whose activations are watched, and at most 320 whose gradients [1000]",
    gates="conditions such as permanently_dead<=0.1; what they may speak of stands above",
)
@click.option("--architecture", is_flag=True, help="Only lint the architecture, untrained: weights are not needed.")
@click.option("--json", "as_json", is_flag=True, help="Print everything that was measured as JSON.")
@click.option("--out", help="A new folder for report.json and report.html; `actsec report` renders it again.")
@click.option("--quiet", is_flag=True, help="No progress.")
def diagnose_command(architecture: bool, as_json: bool, out: str | None, quiet: bool, **options: Any) -> int:
    """Look at a model's activations and confidence without attacking it: dead, saturated, vanishing, overconfident.

    The architecture is linted as well: rules ACT-L01 to ACT-L09, see `actsec explain ACT-L01`.

    Gates, METRIC<=LIMIT or METRIC>=LIMIT, speak of the worst site (dead, permanently_dead, saturated) or of the whole
    model (gradient_ratio, the first layer's over the last's; ece; confidence_when_wrong). They are decided by the value
    itself, not by an interval. Exit code: 0 whatever is found, 1 where a gate failed, 3 where nothing can be said.
    """
    _import_core()
    import json

    from actsec import checkup, hardened, runner, scene
    from actsec.screen import Screen
    from actsec.verdict import activity

    plan, screen = read_plan(None, options, None, None), Screen(quiet=quiet)
    activity.check_gates(plan.gates)
    if architecture:
        if plan.gates or out is not None or as_json:
            raise BadOption("--architecture prints its findings alone", "Leave --gate, --json and --out out.")
        with screen.busy("looking"):
            plan = plan if plan.weights or plan.reference else plan.having(random_weights=True)
            network, problems = checkup.untrained(runner.resolved(scene.load(checkup.whole(plan))))
        for line in activity.linted(network, problems):
            say(line)
        return 0
    if out is not None:
        hardened.check_place(out)
    with screen.busy("looking"):
        loaded = runner.resolved(scene.load(checkup.whole(plan)))
        target, notes, refused = checkup.subject(loaded)
        for note in notes:
            say(f"note: {note}", err=True)
        found = checkup.examine(target, loaded, plan.gates, () if refused is None else (refused,))
    if out is not None:
        _store_checkup(found, loaded, target, Path(out).expanduser())
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=1, sort_keys=True, allow_nan=False))
    else:
        for line in activity.lines(found):
            say(line)
        if out is not None:
            say(f"Report: {Path(out).expanduser() / 'report.html'}")
    return found.exit_code


def _store_checkup(found: Any, loaded: Any, target: Any, folder: Path) -> None:
    """report.json and report.html of a checkup, whole or not at all."""
    import shlex

    from actsec import hardened, scene
    from actsec.reports.load import Report, write
    from actsec.reports.redacting import redacted
    from actsec.verdict.checked import checked

    result = checked(found, loaded, scene.facts(loaded, target), shlex.join(["actsec", *sys.argv[1:]]))
    told = redacted(Report(result)) if loaded.plan.no_examples else Report(result)
    with hardened.staged(folder) as staging:
        for form in ("json", "html"):
            write(told, staging / f"report.{form}", form)


@cli.command()
@click.argument("run", type=click.Path())
@click.option("--format", "form", default="html", show_default=True, help="html, md, json, sarif, junit or terminal.")
@click.option("--out", help="File to write; - prints [RUN/report.FORMAT; actsec.sarif, junit.xml].")
@click.option("--plan", default="", metavar="FILE", help="The plan file that SARIF points into [RUN/plan.toml].")
@click.option("--no-examples", is_flag=True, help="Leave inputs, paths, names and secrets out [RUN/share/...].")
def report(run: str, form: str, out: str | None, plan: str, no_examples: bool) -> int:
    """Render the report of a run again. Needs no model, no data and no torch."""
    from actsec.reports.load import read, render, write

    found = dataclasses.replace(read(Path(run)), plan=plan)
    if no_examples or found.result.plan.get("no_examples"):
        from actsec.reports.redacting import redacted

        found = redacted(found)
    if out == "-" or (out is None and form == "terminal"):
        if form == "terminal":
            _show(found)
        else:
            click.echo(render(found, form), nl=False)
        return 0
    folder = Path(run) / "share" if no_examples else Path(run)
    path = Path(out) if out else folder / _file_name(form)
    if no_examples and not out:
        folder.mkdir(exist_ok=True)
    write(found, path, form)
    say(str(path))
    return 0


@cli.command()
@click.argument("base", type=click.Path())
@click.argument("new", type=click.Path())
@click.option(
    "--fail-on", multiple=True, metavar="METRIC", help="Exit 1 when it is worse in NEW: robust_accuracy, ece."
)
@click.option("--worse-than", default=0.0, metavar="MARGIN", help="With --fail-on: how much may be lost, such as 0.03.")
@click.option("--format", "form", type=click.Choice(["terminal", "md", "json"]), default="terminal", show_default=True)
def compare(base: str, new: str, fail_on: tuple[str, ...], worse_than: float, form: str) -> int:
    """Compare the audited models of two finished runs, paired on the same examples.

    Exit code: 0 unless a metric of --fail-on is worse (1) or cannot be decided (3); 2 where the runs did not ask the
    same.
    """
    _import_core()
    from actsec.reports.compared import render
    from actsec.verdict import between

    found = between.compare(base, new, fail_on, worse_than)
    click.echo(render(found, form), nl=False)
    return found.exit_code


def _file_name(form: str) -> str:
    """What a report is called where nothing else is said: as those who read it look for it."""
    return {"sarif": "actsec.sarif", "junit": "junit.xml"}.get(form, f"report.{form}")


@cli.command()
def schema() -> int:
    """Print the JSON schema of report.json, as published in docs/report.schema.json."""
    from actsec.reports.schema import schema_json

    click.echo(schema_json(), nl=False)
    return 0


@cli.command(name="list")
@click.argument("kind", metavar="KIND", type=click.Choice(pages.KINDS))
def list_command(kind: str) -> int:
    """List attacks, defenses, activations, diagnostics, lints, poisons, symptoms, models or data."""
    for name, meaning in pages.listing(kind):
        say(f"{name:28} {meaning}".rstrip())
    return 0


@cli.command()
@click.argument("name", shell_complete=completing.pages)
def explain(name: str) -> int:
    """Explain an attack, a defense, a rule (by name or id such as ACT-M03, ACT-A01) or an activation."""
    say_lines(pages.explained(name))
    return 0


cli.add_command(study)


def _uncoloured(_context: click.Context, _option: click.Parameter, given: bool) -> None:
    if given:
        os.environ["NO_COLOR"] = "1"


def _every(group: click.Group) -> Iterator[click.Command]:
    """The group and every command below it."""
    yield group
    for command in group.commands.values():
        yield from _every(command) if isinstance(command, click.Group) else (command,)


for _command in _every(cli):
    _help = "Plain text, as where NO_COLOR is set."
    _command.params.append(
        click.Option(["--no-color"], is_flag=True, expose_value=False, is_eager=True, callback=_uncoloured, help=_help)
    )


def main() -> None:
    """Entry point: run the command and exit with the code of its verdict or of its error."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as problem:
        problem.show()
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = Interrupted.exit_code
    except ActsecError as problem:
        label = "interrupted" if isinstance(problem, Interrupted) else "error"
        say(f"{label}: {problem.problem}", err=True)
        if problem.mend:
            say(f"  {problem.mend}", err=True)
        code = problem.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except SystemExit:
        # click returns its codes, but where a shell asks for completions. Else it is code that was executed, and 0
        # would say that gates are met.
        if completing.ASKED in os.environ:
            raise
        say("error: the code of the model, the data or a plug-in ended the process", err=True)
        say("  Leave sys.exit out of it.", err=True)
        code = UsageError.exit_code
    except Exception as problem:  # noqa: BLE001  # a bug of ours: one line, and how to see the rest
        import traceback

        if os.environ.get("ACTSEC_TRACEBACK"):
            traceback.print_exc()
        last = traceback.extract_tb(problem.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        say(f"internal error: {type(problem).__name__}: {problem} ({where})", err=True)
        say("  This is a bug in actsec. ACTSEC_TRACEBACK=1 shows where.", err=True)
        code = ActsecError.exit_code
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
