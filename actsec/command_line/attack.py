"""``actsec attack``: one attack on one model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from actsec.command_line import completing
from actsec.command_line.core import import_core
from actsec.command_line.options import plan_options, read_plan
from actsec.command_line.printing import say
from actsec.errors import BadOption
from actsec.planning.plan import Trial


@click.command(name="attack")
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
    import_core()
    from actsec.attacked import attack as run_attack
    from actsec.running import preparing, scene

    places = {option: _npz(file) for option, file in (("--save", save), ("--save-whole", save_whole)) if file}
    plan = read_plan(None, options, None, None).having(attacks=(Trial(attack, threat or ""),), defenses=())
    loaded = preparing.resolved(scene.load(plan))
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
        memory=loaded.plan.memory,
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
    from actsec.hardening import hardened

    place = Path(file).expanduser()
    path = place if place.suffix == ".npz" else place.with_name(f"{place.name}.npz")
    for each in (file, path):
        hardened.check_file(each)
    return path


def _write(path: Path, **arrays: Any) -> None:
    """A .npz file, whole or not at all."""
    import numpy as np

    from actsec.hardening import hardened

    with hardened.whole(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def _target(loaded: Any) -> Any:
    """The plan's first model: the user's after the preflight checks, a reference model trained."""
    from actsec.hardening import making

    target, notes = making.base_of(loaded, lambda _: None)
    for note in notes:
        say(f"note: {note}", err=True)
    return target
