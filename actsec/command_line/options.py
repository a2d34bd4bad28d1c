"""The plan's fields as options of a command, and the plan of what was given. Nothing is written twice."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from actsec.command_line import completing
from actsec.errors import BadOption, PlanError
from actsec.planning import reading
from actsec.planning.plan import Plan

AUDIT_ONLY: tuple[str, ...] = (
    *("attacks", "defenses", "activations", "corruptions", "samples", "per_class", "budget", "second_opinion"),
    *("mask", "shard", "timeout", "gates", "accept", "evidence", "positive"),
)
"""Fields of the plan that mean nothing where nothing is attacked."""

_MANY = {"accept", "evidence", "activations", "attacks", "corruptions", "defenses", "gates", "features"}


def plan_options(without: tuple[str, ...] = (), **told: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """One click option for every field of the plan but ``without``, its help from the field's annotation.

    told are other help texts, where a field means something of its own to a command.
    """
    hints = typing.get_type_hints(Plan, include_extras=True)

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for field in reversed([field for field in dataclasses.fields(Plan) if field.name not in without]):
            help_text = told.get(field.name, typing.get_args(hints[field.name])[1])
            if field.default not in (None, (), False):
                help_text += f" [{field.default}]"
            flag = "--" + field.name.replace("_", "-")
            if "bool" in str(hints[field.name]):
                option = click.option(flag, is_flag=True, default=None, help=help_text)
            else:
                # Texts, read by the plan's own rules: 8/255 is a number there.
                name = {"gates": "--gate", "features": "--feature"}.get(field.name, flag)
                many, offer = field.name in _MANY, completing.of_plan(field.name)
                option = click.option(name, field.name, multiple=many, help=help_text, shell_complete=offer)
            command = option(command)
        return command

    return add


def read_plan(plan_file: str | None, options: dict[str, Any], minimum: float | None, maximum: float | None) -> Plan:
    """The plan of a file with the command line's options over it."""
    base = reading.read(plan_file) if plan_file else Plan()
    given = {key: value for key, value in options.items() if value not in (None, ())}
    folder = Path(given.get("weights", "")).expanduser() / "recipe.toml"
    if "weights" in given and "model" not in given and base.model == Plan().model and folder.is_file():
        raise BadOption(f"--weights {given['weights']} is the folder of a hardened model", "Give it as --model.")
    if "weights" not in given and (Path(given.get("model", "")).expanduser() / "recipe.toml").is_file():
        base = base.having(weights=None)  # the plan's are for the plan's model; a hardened one brings its own
    gates = given.get("gates", ())
    if minimum is not None or maximum is not None:
        if len(gates) != 1 or any(sign in gates[0] for sign in "<>="):
            raise PlanError(
                "--min and --max go with one --gate METRIC", "Write --gate robust_accuracy@linf:0.1 --min 0.3."
            )
        bounds = [f">={minimum}" if minimum is not None else "", f"<={maximum}" if maximum is not None else ""]
        given["gates"] = tuple(gates[0] + bound for bound in bounds if bound)
    return reading.override(base, given)
