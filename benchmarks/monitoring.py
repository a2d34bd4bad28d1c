"""What an ActivationMonitor costs, and how often it calls drift what is none.

    python -m benchmarks.monitoring                  # both loops, false alarms and what is found: a few minutes
    python -m benchmarks.monitoring cost --steps 300
    python -m benchmarks.monitoring drift

Cost: three copies of one model take turns, step by step and in every order: bare, bare again (the A/A control) and
monitored, with lines written to a file. The figure is the monitored copy's processor time by the bare copy's over all
steps, and the least and largest of five interleaved parts. Processor time of this one process on one thread, so that a
busy machine shows less. The monitor stays attached from the first step to the last, its first watched passes included.

Drift: images drawn with replacement from the set the baseline was drawn from, in windows of the default size; every
reading above the limit is a false alarm. Then changed ones: the share of windows in which a site is called drifted.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import actsec
from actsec.health.readings import DRIFT, WINDOWS
from actsec.monitoring import Report

BUDGET = 0.05
PARTS = 5


def digits() -> tuple[Tensor, Tensor]:
    """The bundled training digits, (n, 64) in [0, 1], and their labels."""
    from actsec.data import load

    train = load("digits").train
    return torch.from_numpy(train.x).flatten(1), torch.from_numpy(train.y)


def mlp(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """A small network for digits."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 256), activation(), nn.Linear(256, 256), activation(), nn.Linear(256, 10)]
    return nn.Sequential(*layers)


def resnet20() -> tuple[nn.Module, Tensor] | None:
    """The shared CIFAR-10 network, trained, and its test images in [0, 1]; None where they are absent."""
    root = os.environ.get("ACTSEC_SHARED", Path(__file__).resolve().parent.parent.parent / "shared")
    place = Path(root) / "data"
    if not (place / "cifar10_resnet20.safetensors").is_file():
        return None
    target = actsec.load(f"{place / 'models.py'}:cifar10_resnet20", weights=place / "cifar10_resnet20.safetensors")
    with np.load(place / "cifar10_test_2k.npz", allow_pickle=False) as stored:
        x = torch.from_numpy(stored["x"]).float() / 255
    return target.model.eval(), x


def serving(model: nn.Module, x: Tensor, rows: int, passes: int = 1) -> Iterator[None]:
    """Forward passes without end; so many of them at each step."""
    pieces = itertools.cycle(torch.split(x[: len(x) // rows * rows], rows))
    while True:
        with torch.no_grad():
            for _ in range(passes):
                model(next(pieces))
        yield


def training(model: nn.Module, x: Tensor, y: Tensor, rows: int) -> Iterator[None]:
    """Training steps without end."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    while True:
        for piece, labels in zip(torch.split(x, rows), torch.split(y, rows), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(piece), labels).backward()
            optimizer.step()
            yield


def taking_turns(name: str, model: nn.Module, made: Callable[[nn.Module], Iterator[None]], steps: int) -> str:
    """A row of the table."""
    copies = {arm: copy.deepcopy(model) for arm in ("bare", "again", "monitored")}
    loops = {arm: made(each) for arm, each in copies.items()}
    for loop in loops.values():
        next(loop)
    spent: dict[str, list[float]] = {arm: [] for arm in loops}
    orders = list(itertools.permutations(loops))
    with tempfile.TemporaryDirectory() as folder:
        monitor = actsec.ActivationMonitor(copies["monitored"], Path(folder) / "lines.jsonl", budget=BUDGET)
        with monitor:
            for turn in range(steps):
                for arm in orders[turn % len(orders)]:
                    began = time.process_time()
                    next(loops[arm])
                    spent[arm].append(time.process_time() - began)

    def told(arm: str) -> str:
        parts = [range(at, steps, PARTS) for at in range(PARTS)]
        each = [sum(spent[arm][i] for i in part) / sum(spent["bare"][i] for i in part) for part in parts]
        return f"{sum(spent[arm]) / sum(spent['bare']):.3f} | {min(each):.3f} to {max(each):.3f}"

    share = f"{monitor.watched} of {monitor.passes}"
    return f"| {name} | {told('monitored')} | {told('again')} | {share} |"


def costs(steps: int) -> Iterator[str]:
    """The table of costs."""
    yield "| loop | monitored, by bare | in fifths | bare again, by bare | in fifths | watched |"
    yield "|---|---|---|---|---|---|"
    given = resnet20()
    if given is None:
        yield "| ResNet-20 | not measured: the shared data is absent | | | | |"
    else:
        model, images = given
        made = lambda each: serving(each, images, 32)  # noqa: E731  # one line each, side by side
        yield taking_turns("ResNet-20, forward, 32 rows", model, made, steps)
    x, y = digits()
    trained = lambda each: training(each, x, y, 64)  # noqa: E731  # as above
    yield taking_turns("digits MLP, training, 64 rows", mlp(), trained, 20 * steps)
    served = lambda each: serving(each.eval(), x, 64, 10)  # noqa: E731  # as above
    yield taking_turns("digits MLP, forward, 64 rows", mlp(), served, 10 * steps)


def windows(
    model: nn.Module, x: Tensor, changes: dict[str, Callable[[Tensor], Tensor]], many: int, rows: int = 16
) -> list[str]:
    """Rows of the drift table: the same images first, then changed ones, each against one baseline."""
    draw = torch.Generator().manual_seed(0)
    reports: list[Report] = []
    monitor = actsec.ActivationMonitor(model, callback=reports.append, budget=math.inf)
    table = []
    with monitor, torch.no_grad():

        def run(change: Callable[[Tensor], Tensor], count: int) -> list[Report]:
            del reports[:]
            while len(reports) < count:
                model(change(x[torch.randint(len(x), (rows,), generator=draw)]))
            return list(reports)

        run(lambda each: each, WINDOWS + 1)
        for name, change in changes.items():
            said = run(change, many if name == "the same" else 5)
            drifts = [reading.drift or 0.0 for report in said for reading in report.readings]
            alarms = sum(DRIFT in reading.findings for report in said for reading in report.readings)
            share = sum(any(DRIFT in r.findings for r in report.readings) for report in said) / len(said)
            worst, middle = max(drifts), statistics.median(drifts)
            table.append(f"{name} | {alarms} of {len(drifts)} | {share:.0%} | {middle:.3f} | {worst:.3f} |")
    return table


def drifts(many: int) -> str:
    """The table of drift."""
    noise = torch.Generator().manual_seed(1)
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "the same": lambda x: x,
        "noise, std 0.1": lambda x: (x + 0.1 * torch.randn(x.shape, generator=noise)).clamp(0, 1),
        "half the contrast": lambda x: 0.5 * x + 0.25,
        "half as bright": lambda x: 0.5 * x,
        "inverted": lambda x: 1 - x,
        "scaled to 0..255": lambda x: 255 * x,
    }
    same = next(iter(changes.items()))
    lines = [
        "| model | inputs | sites called drifted | windows with one | median drift | largest |",
        "|---|---|---|---|---|---|",
    ]
    given = resnet20()
    if given is not None:
        lines += [f"| ResNet-20 | {row}" for row in windows(*given, changes, many)]
    x, y = digits()
    for activation in (nn.ReLU, nn.Tanh):
        model = mlp(activation)
        loop = training(model, x, y, 64)
        for _ in range(500):
            next(loop)
        name = f"digits MLP, {activation.__name__}"
        lines += [f"| {name} | {row}" for row in windows(model.eval(), x, changes, 5 * many)]
        lines += [f"| {name}, one row a pass | {row}" for row in windows(model, x, dict([same]), 5 * many, rows=1)]
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitoring", description=str(__doc__).splitlines()[0])
    parser.add_argument("what", nargs="*", metavar="cost|drift", help="both if not told")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--windows", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, budget {BUDGET}")
    if "cost" in options.what or not options.what:
        for line in costs(options.steps):
            print(line, flush=True)
    if "drift" in options.what or not options.what:
        print(drifts(options.windows))


if __name__ == "__main__":
    main()
