"""What an ActivationMonitor costs, and how often it calls drift what is none.

    python -m benchmarks.monitoring                  # both loops, false alarms and what is found: a few minutes
    python -m benchmarks.monitoring cost --rounds 20
    python -m benchmarks.monitoring drift

Cost: three copies of one model take turns in every round: bare, bare again (the A/A control) and monitored, with lines
written to a file. The figure is the monitored copy's processor time by the bare copy's, over all rounds, beside the
median, least and largest round. Processor time of this one process on one thread, so that a busy machine does not show.
The monitor stays attached from the first round to the last, its first watched passes included.

Drift: images drawn with replacement from the same set the baseline was drawn from, in windows of the default size; every
reading above the limit is a false alarm. Then corrupted ones: the share of windows in which some site is called drifted.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import actsec
from actsec.monitoring import Report
from actsec.readings import DRIFT, WINDOWS

BUDGET = 0.05


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


def serving(model: nn.Module, x: Tensor, rows: int, passes: int) -> Callable[[], None]:
    """A block of forward passes."""

    def block() -> None:
        with torch.no_grad():
            for at in range(passes):
                start = at * rows % (len(x) - rows)
                model(x[start : start + rows])

    return block


def training(model: nn.Module, x: Tensor, y: Tensor, rows: int, epochs: int) -> Callable[[], None]:
    """A block of epochs."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()

    def block() -> None:
        for _ in range(epochs):
            for piece, labels in zip(torch.split(x, rows), torch.split(y, rows), strict=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(piece), labels).backward()
                optimizer.step()

    return block


def taking_turns(name: str, model: nn.Module, made: Callable[[nn.Module], Callable[[], None]], rounds: int) -> str:
    """A row of the table."""
    copies = {arm: copy.deepcopy(model) for arm in ("bare", "again", "monitored")}
    blocks = {arm: made(each) for arm, each in copies.items()}
    for block in blocks.values():
        block()
    spent: dict[str, list[float]] = {arm: [] for arm in blocks}
    with tempfile.TemporaryDirectory() as folder:
        monitor = actsec.ActivationMonitor(copies["monitored"], Path(folder) / "lines.jsonl", budget=BUDGET)
        with monitor:
            for turn in range(rounds):
                for arm in [*blocks][turn % 3 :] + [*blocks][: turn % 3]:
                    began = time.process_time()
                    blocks[arm]()
                    spent[arm].append(time.process_time() - began)

    def told(arm: str) -> str:
        each = [a / b for a, b in zip(spent[arm], spent["bare"], strict=True)]
        spread = f"{statistics.median(each):.3f} ({min(each):.3f} to {max(each):.3f})"
        return f"{sum(spent[arm]) / sum(spent['bare']):.3f} | {spread}"

    share = f"{monitor.watched} of {monitor.passes}"
    return f"| {name} | {told('monitored')} | {told('again')} | {share} |"


def costs(rounds: int) -> str:
    """The table of costs."""
    lines = [
        "| loop | monitored, by bare | median round (least to largest) | bare again, by bare | median round | watched |",
        "|---|---|---|---|---|---|",
    ]
    given = resnet20()
    if given is None:
        lines.append("| ResNet-20 | not measured: the shared data is absent | | | | |")
    else:
        model, x = given
        made = lambda each: serving(each, x, 32, 20)  # noqa: E731  # one line each, side by side
        lines.append(taking_turns("ResNet-20, forward, 32 rows", model, made, rounds))
    x, y = digits()
    trained = lambda each: training(each, x, y, 64, 4)  # noqa: E731  # as above
    lines.append(taking_turns("digits MLP, training, 64 rows", mlp(), trained, 2 * rounds))
    served = lambda each: serving(each.eval(), x, 64, 400)  # noqa: E731  # as above
    lines.append(taking_turns("digits MLP, forward, 64 rows", mlp(), served, 2 * rounds))
    return "\n".join(lines)


def windows(model: nn.Module, x: Tensor, changes: dict[str, Callable[[Tensor], Tensor]], many: int) -> list[str]:
    """Rows of the drift table: the same images first, then changed ones, each against one baseline."""
    draw = torch.Generator().manual_seed(0)
    reports: list[Report] = []
    monitor = actsec.ActivationMonitor(model, callback=reports.append, budget=math.inf)
    rows = []
    with monitor, torch.no_grad():

        def run(change: Callable[[Tensor], Tensor], count: int) -> list[Report]:
            del reports[:]
            while len(reports) < count:
                model(change(x[torch.randint(len(x), (monitor.rows,), generator=draw)]))
            return list(reports)

        run(lambda each: each, WINDOWS + 1)
        for name, change in changes.items():
            said = run(change, many if name == "the same" else 5)
            drifts = [reading.drift or 0.0 for report in said for reading in report.readings]
            alarms = sum(DRIFT in reading.findings for report in said for reading in report.readings)
            share = sum(any(DRIFT in r.findings for r in report.readings) for report in said) / len(said)
            worst, middle = max(drifts), statistics.median(drifts)
            rows.append(f"{name} | {alarms} of {len(drifts)} | {share:.0%} | {middle:.3f} | {worst:.3f} |")
    return rows


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
        training(model, x, y, 64, 20)()
        name = f"digits MLP, {activation.__name__}"
        lines += [f"| {name} | {row}" for row in windows(model.eval(), x, changes, 5 * many)]
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitoring", description=str(__doc__).splitlines()[0])
    parser.add_argument("what", nargs="*", choices=["cost", "drift"], default=["cost", "drift"])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--windows", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, budget {BUDGET}")
    if "cost" in options.what:
        print(costs(options.rounds))
    if "drift" in options.what:
        print(drifts(options.windows))


if __name__ == "__main__":
    sys.exit(main())
