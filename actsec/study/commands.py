"""The ``actsec study`` commands: options, and where the results go. torch and matplotlib are imported when one runs."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actsec.command_line.options import plan_options, read_plan
from actsec.command_line.printing import say, say_lines
from actsec.errors import BadOption
from actsec.study.page import page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OUT = "A new folder for report.html, report.md, report.json and the plots."
_NOT_FORCED: tuple[str, ...] = (
    *("calibration", "activations", "attacks", "defenses", "corruptions", "per_class", "budget", "second_opinion"),
    *("mask", "shard", "timeout", "gates", "accept", "positive", "label_column", "label", "raw_units", "features"),
)
"""Fields of the plan that mean nothing where units are forced."""


@click.group()
def study() -> None:
    """Experiments about activation functions: units forced, gradients over depth, networks compared, poison, curves."""


@study.command(name="depth")
@click.option("--activations", multiple=True, help="Repeat for several [sigmoid tanh relu leaky_relu elu silu].")
@click.option("--inits", multiple=True, help="glorot, he, lecun, orthogonal, torch or auto; repeat [glorot he].")
@click.option("--depths", default="3,5,10,15,20", show_default=True, help="Layers with weights, the output's included.")
@click.option("--seeds", default=5, show_default=True, help="Networks of each kind.")
@click.option("--width", default=64, show_default=True, help="Units a layer.")
@click.option("--data", default="gaussian", show_default=True, help="gaussian, or data as `actsec list data` says.")
@click.option("--out", help=_OUT)
@click.option("--quiet", is_flag=True, help="No progress.")
def depth_command(
    activations: tuple[str, ...],
    inits: tuple[str, ...],
    depths: str,
    seeds: int,
    width: int,
    data: str,
    out: str | None,
    quiet: bool,
) -> int:
    """Gradient norms at initialisation over depth: mean, std, min and max of the layers, and G, first over last."""
    place = _new(out)
    from actsec.study import depth

    chosen = activations or depth.ACTIVATIONS
    networks = depth.run(
        chosen, _numbers("depths", depths), inits or depth.INITS, seeds, width, data, tell=_teller(quiet)
    )
    report = list(depth.lines(networks, data, width))
    found = {
        "data": data,
        "width": width,
        "networks": [dataclasses.asdict(network) for network in networks],
        "cells": [dataclasses.asdict(cell) for cell in depth.cells(networks)],
    }
    if place is not None:
        from actsec.study import drawing

        _write(place, report, found, {"depth": drawing.depth(networks)})
    _say(report, place)
    return 0


@study.command(name="activations")
@click.option("--data", multiple=True, help="Repeat for several: yours, or of [iris breast_cancer digits moons].")
@click.option("--activations", multiple=True, help="Repeat for several [sigmoid tanh relu leaky_relu elu gelu ...].")
@click.option("--width", default="64,32", show_default=True, help="Units of the hidden layers.")
@click.option("--depths", default="2", show_default=True, help="Hidden layers; 2,8 compares shallow and deep.")
@click.option("--seeds", default=3, show_default=True, help="Networks of each kind, at least 3.")
@click.option("--epochs", default=60, show_default=True, help="Passes over the training rows.")
@click.option("--dropout", default=0.0, show_default=True, help="Share of hidden units dropped in training.")
@click.option("--attacks", multiple=True, help="Repeat for several; 'none' for none [pgd(steps=20) minimal_l2].")
@click.option("--eps", default=0.1, show_default=True, help="Of attacks that need one, in the inputs' own units.")
@click.option("--samples", default=100, show_default=True, help="Test rows that are attacked.")
@click.option("--out", help=_OUT)
@click.option("--quiet", is_flag=True, help="No progress.")
def activations_command(
    out: str | None, quiet: bool, data: tuple[str, ...], width: str, depths: str, **more: Any
) -> int:
    """Train the same network with every activation, and say what differs beyond seeds and sampling."""
    place = _new(out)
    from actsec.study import activations as comparing
    from actsec.study import telling

    given = {key: value for key, value in more.items() if value not in ((), None)}
    if given.get("attacks") == ("none",):
        given["attacks"] = ()
    settings = comparing.Settings(width=_numbers("width", width), depths=_numbers("depths", depths), **given)
    report, found, plots = [*telling.shared(settings)], {"settings": dataclasses.asdict(settings), "data": {}}, {}
    for source in data or comparing.DATA:
        splits = comparing.read(source)
        networks = comparing.run(splits, settings, _teller(quiet))
        sizes = tuple(0 if part is None else len(part) for part in (splits.train, splits.calibration, splits.test))
        report += telling.lines(source, (sizes[0], sizes[1], sizes[2]), networks, settings)
        found["data"][source] = telling.noted(networks, settings)
        if place is not None:
            from actsec.study import drawing

            name = Path(source).stem
            plots[f"{name}_training"] = drawing.courses(networks)
            if splits.test.x.shape[1:] == (2,):
                plots[f"{name}_boundaries"] = drawing.boundaries(networks, splits)
    if place is not None:
        _write(place, report, found, plots)
    _say(report, place)
    return 0


@study.command(name="poison")
@click.option("--data", default="digits", show_default=True, help="Data with a box: digits, moons, or yours.")
@click.option("--activations", multiple=True, help="Repeat for several [sigmoid tanh relu].")
@click.option("--depths", default="3,8", show_default=True, help="Hidden layers.")
@click.option("--poisons", multiple=True, help="Repeat for several [outliers, poisoned_scaler, crafted].")
@click.option("--mitigations", multiple=True, help="Repeat for several; 'none' for none [all six].")
@click.option("--mitigated", multiple=True, help="Poisons that each is tried on [outliers(magnitude=1000) crafted].")
@click.option("--adapted/--no-adapted", default=True, help="Whether poisons that know the mitigation are tried [yes].")
@click.option("--seeds", default=3, show_default=True, help="Networks of each kind, at least 3.")
@click.option("--epochs", default=10, show_default=True, help="Passes over the training rows, planted ones among them.")
@click.option("--clean-epochs", default=3, show_default=True, help="Clean passes afterwards, for what persists.")
@click.option("--updates", default=3, show_default=True, help="Steps of an update on planted rows alone.")
@click.option("--width", default=64, show_default=True, help="Units a layer.")
@click.option("--learning-rate", default=0.1, show_default=True, help="Of plain gradient descent.")
@click.option("--samples", default=80, show_default=True, help="Test rows that are attacked.")
@click.option("--eps", default=0.1, show_default=True, help="L-inf, in the inputs' own units.")
@click.option("--queries", default=150, show_default=True, help="Of the attack by scores alone.")
@click.option("--out", help=_OUT)
@click.option("--quiet", is_flag=True, help="No progress.")
def poison_command(data: str, depths: str, out: str | None, quiet: bool, **more: Any) -> int:
    """Poison trainings, and say by rule whether that hides gradients and weakens layers, beyond twins and chance."""
    place = _new(out)
    from actsec.command_line.screen import Screen
    from actsec.study import activations, laboratory, poison, poison_telling

    given = {key: value for key, value in more.items() if value != ()}
    if given.get("mitigations") == ("none",):
        given["mitigations"] = ()
    settings = laboratory.Settings(depths=_numbers("depths", depths), **given)
    classes = len(activations.read(data).test.classes)
    with Screen(quiet=quiet).running("networks") as tell:
        cells = poison.run(data, settings, tell)
    report = list(poison_telling.lines(cells, data, classes, settings))
    if place is not None:
        from actsec.study import poison_drawing

        plots = {"silenced": poison_drawing.silenced(cells), "obfuscation": poison_drawing.obfuscation(cells)}
        _write(place, report, poison_telling.noted(cells, data, classes, settings), plots)
    _say(report, place)
    return 0


@study.command(name="forcing")
@plan_options(
    without=_NOT_FORCED,
    model="file.py:factory, package.module:factory, torchvision:NAME, reference:NAME [reference:mlp]",
    eps="budget in input units, such as 8/255 [as in an audit; l2 has none]",
    seed="of the first network or, for a model of your own, of the noise",
    samples="the same as --images",
)
@click.option("--images", help="Test images whose units are forced [64].")
@click.option("--norm", type=click.Choice(["linf", "l2"]), default="linf", show_default=True)
@click.option("--seeds", default=1, show_default=True, help="Networks; for a model of your own, draws of the noise.")
@click.option("--steps", default=50, show_default=True, help="Gradient steps of each attack.")
@click.option("--units", default=4, show_default=True, help="Single units a site whose smallest kills are looked for.")
@click.option("--swaps", multiple=True, help="Activations of the twins; repeat for several [leaky_relu gelu tanh].")
@click.option("--out", help=_OUT)
@click.option("--quiet", is_flag=True, help="No progress.")
def forcing_command(
    norm: Any, images: str | None, seeds: int, steps: int, units: int, swaps: tuple[str, ...], out: str | None,
    quiet: bool, **options: Any,
) -> int:  # fmt: skip
    """Force units of a model dead, saturated or to zero: every aim beside noise, PGD and what no attack can beat.

    Without a model: a small network of relu, trained on handwritten digits, offline.
    """
    place = _new(out)
    from actsec.command_line.screen import Screen
    from actsec.study import forcing, forcing_scene, forcing_telling

    if images is not None:
        options["samples"] = images
    if options.get("model") is None and options.get("weights") is None:
        options["model"] = "reference:mlp"
    with Screen(quiet=quiet).running("parts") as tell:
        subject = forcing_scene.subject(read_plan(None, options, None, None), norm, seeds, tell)
        settings = forcing.Settings(
            norm=norm,
            eps=subject.eps,
            images=len(subject.x),
            seeds=seeds,
            steps=steps,
            units=units,
            swaps=swaps or forcing.SWAPS,
        )
        networks = subject.run(settings, tell)
    for note in subject.notes:
        say(f"note: {note}", err=True)
    plots = {}
    if place is not None:
        from actsec.study import forcing_drawing

        plots = forcing_drawing.plots(networks[0], subject.classes)
    report = list(forcing_telling.lines(networks, settings, subject.data, subject.echo, [*plots]))
    if place is not None:
        _write(place, report, forcing_telling.noted(networks, settings, subject.data), plots)
    _say([line for line in report if not line.startswith("![")], place)
    return 0


@study.command(name="curves")
@click.option("--activations", multiple=True, help="Repeat for several [the whole catalogue].")
@click.option("--reach", default=5.0, show_default=True, help="Drawn from -reach to reach.")
@click.option("--out", required=True, help=_OUT)
def curves_command(activations: tuple[str, ...], reach: float, out: str) -> int:
    """Draw f and f' of activations, and write their cards beside them."""
    if not 0 < reach < float("inf"):
        raise BadOption(f"--reach {reach}", "Give a positive number.")
    place = _new(out)
    from actsec.activations import activation, names
    from actsec.activations.cards import card
    from actsec.study import drawing

    chosen = activations or names()
    cards = {name: card(activation(name)) for name in chosen}
    report = ["# Activation functions", "", "![f and f'](curves.png)", ""]
    for name in chosen:
        report += [f"## {name}", "", "```text", *cards[name], "```", ""]
    found = {name: dataclasses.asdict(activation(name).properties) for name in chosen}
    if place is not None:
        _write(place, report, found, {"curves": drawing.curves(chosen, reach)})
        say(f"Report: {place / 'report.html'}")
    return 0


def _numbers(option: str, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise BadOption(f"--{option} {text}", f"Give whole numbers above 0 with commas: --{option} 3,5,10.")
    return tuple(map(int, parts))


def _new(out: str | None) -> Path | None:
    """The folder to write to, checked before anything is computed."""
    if out is None:
        return None
    from actsec.hardening.hardened import check_place

    check_place(out)
    return Path(out)


def _teller(quiet: bool) -> Any:
    return (lambda _: None) if quiet else (lambda text: say(text, err=True))


def _write(place: Path, report: list[str], found: dict[str, Any], plots: dict[str, Figure]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, figure in plots.items():
        figure.savefig(place / f"{name}.png", dpi=110, metadata={"Software": "actsec"})
    shown = [line for name in plots if f"]({name}.png)" not in "\n".join(report) for line in (f"![]({name}.png)", "")]
    (place / "report.md").write_text("\n".join([*report, *shown]).rstrip() + "\n")
    images = {name: (place / f"{name}.png").read_bytes() for name in plots}
    (place / "report.html").write_text(page([*report, *shown], images))
    (place / "report.json").write_text(json.dumps(_plain(found), indent=1, sort_keys=True, allow_nan=False) + "\n")


def _say(report: list[str], place: Path | None) -> None:
    say_lines("\n".join(report))
    if place is not None:
        say(f"Report: {place / 'report.html'}")


def _plain(value: Any) -> Any:
    """The value with every number that JSON does not have as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
