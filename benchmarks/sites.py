"""What it costs to find activation calls and to count dead units, beside the same forward.

    python -m benchmarks.sites                       # ResNet-20 and ResNet-18, as a markdown table
    python -m benchmarks.sites --rows 128 --rounds 10 --models resnet18

Processor time of this one process on one thread, so that a busy machine does not show. All contenders take turns in
every round; the figure is the median over rounds of a contender's time by that of the forward of the same round, and
beside it the least and the largest. "forward" against itself shows the noise. Counting keeps one number a unit; "kept"
is the plain way: ``watch`` keeps every pre-activation, and torch sums booleans.

Finding costs the same few milliseconds whatever the batch, for it runs Python alone: the targets (10 % for finding,
35 % for counting) are held at the audit's 128 rows, and smaller batches are shown beside.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from actsec.activations import dead_counts, find, watch

TARGETS = {"find": 1.10, "dead_counts": 1.35}


class Block(nn.Module):
    """Two convolutions and a shortcut that pads with zeros (He et al. 2016, option A)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.stride, self.more = stride, width - before

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(nn.functional.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.relu(y + nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.more)))


def resnet20() -> tuple[nn.Module, tuple[int, int, int]]:
    """The CIFAR ResNet-20, untrained, and the shape of its input."""
    shapes = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
    stem = (nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(*stem, *(Block(*shape) for shape in shapes), *head), (3, 32, 32)


def resnet18() -> tuple[nn.Module, tuple[int, int, int]]:
    """torchvision's ResNet-18, untrained, on small images."""
    from torchvision.models import resnet18

    return resnet18(), (3, 64, 64)


MODELS = {"resnet20": resnet20, "resnet18": resnet18}


def contenders(model: nn.Module, x: Tensor) -> dict[str, Callable[[], Any]]:
    """What takes turns, the plain forward first and twice."""
    found = find(model, x)

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def kept() -> list[Tensor]:
        with torch.no_grad(), watch(model, post=False) as seen:
            model(x)
            return [(call.pre <= 0).sum(0) for call in seen.calls]

    return {
        "forward": forward,
        "forward again": forward,
        "find": lambda: find(model, x),
        "dead_counts": lambda: dead_counts(model, x, found),
        "kept": kept,
    }


def ratios(model: nn.Module, x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Each contender's processor time by the forward's, round by round."""
    runs = contenders(model, x)
    for run in runs.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        spent = {}
        for name, run in runs.items():
            began = time.process_time()
            run()
            spent[name] = time.process_time() - began
        for name, seconds in spent.items():
            found[name].append(seconds / spent["forward"])
    return found


def table(models: Sequence[str], rows: Sequence[int], rounds: int) -> str:
    """A markdown table of the medians, with least and largest."""
    lines = ["| model | rows | what | by a forward | least to largest | target |", "|---|---|---|---|---|---|"]
    for name in models:
        torch.manual_seed(0)
        model, shape = MODELS[name]()
        model.eval().requires_grad_(False)
        for n in rows:
            for what, values in ratios(model, torch.rand(n, *shape), rounds).items():
                if what != "forward":
                    target = f"{TARGETS[what]:.2f}" if what in TARGETS and n >= 128 else ""
                    spread = f"{min(values):.2f} to {max(values):.2f}"
                    lines.append(f"| {name} | {n} | {what} | {statistics.median(values):.3f} | {spread} | {target} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sites", description=str(__doc__).splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=list(MODELS))
    parser.add_argument("--rows", nargs="+", type=int, default=[16, 128])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {options.rounds} rounds")
    print(table(options.models, options.rows, options.rounds))


if __name__ == "__main__":
    main()
