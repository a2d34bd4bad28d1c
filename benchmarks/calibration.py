"""What calibration mends and what it leaves: labels, ECE, confidence on nonsense, and the check on gradients.

    python -m benchmarks.calibration              # digits, and ResNet-20 of the shared data where it is
    python -m benchmarks.calibration --images 400

Half of the test images calibrate, the other half are reported. The rows of each model: as it is; behind each
calibrator; behind a temperature of 0.001, which no fit can give (its bound is 0.01) and the battery must flag; and the
model against labels drawn from its own probabilities, so that it is calibrated by construction and nothing is to mend.
Nonsense is uniform, Gaussian, permuted and blank images (actsec.nonsense).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from actsec import nonsense, registry
from actsec.defenses.temperature import Tempered
from actsec.running.probe import probe
from actsec.search.oracle import Oracle, frozen
from actsec.types import Evidence, Material, Split, Target, Threat
from actsec.verdict.calibration import calibration
from benchmarks.scenes import Absent, scene

CALIBRATORS = ("temperature", "vector_scaling", "isotonic", "isotonic(curves=each)")
MODELS = ("digits: cnn", "digits: cnn * 4", "resnet20")
FRAUD = 0.001
PROBED = 32
EPS = {"digits: cnn": 0.1, "digits: cnn * 4": 0.1, "resnet20": 8 / 255}


@dataclass(frozen=True, slots=True)
class Row:
    """One model behind one calibrator, on the images that did not calibrate."""

    model: str
    behind: str
    n: int
    changed: int
    accuracy: float
    ece: float
    null: float
    nonsense: float
    sure: float
    gradients: str
    slopes: str
    fitted: str


def rows(name: str, images: int, cache: Path) -> Iterator[Row]:
    """The table of one model. Raises Absent."""
    found = scene(name, cache)
    x, y = found.x[:images], found.y[:images]
    target = Target(found.model, tuple(x.shape[1:]), tuple(map(str, range(found.classes))))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    half, rest = order[: len(order) // 2], order[len(order) // 2 :]
    split, test = Split(x[half], y[half], half), (x[rest], y[rest])
    plain = logits_of(target, test[0])
    yield row(name, "as it is", target, plain, test, "")
    for text in CALIBRATORS:
        defense = registry.build("defenses", text)
        made = defense.wrap(target)
        numbers = defense.fit(made, material(split)).numbers
        fitted = f"T = {numbers['temperature']:.3f}" if text == "temperature" else ""
        if "steps" in numbers:
            fitted = f"{sum(numbers['steps'])} steps"
        yield row(name, text, made, plain, test, fitted)
    tempered = Tempered(found.model, None, 0.0)
    tempered.temperature.fill_(FRAUD)
    yield row(name, f"T = {FRAUD}, a fraud", target.having(model=tempered), plain, test, "")
    own = drawn(logits_of(target, split.x)), drawn(plain)
    yield row(f"{name}, its own labels", "as it is", target, plain, (test[0], own[1]), "")
    defense = registry.build("defenses", "temperature")
    made = defense.wrap(target)
    numbers = defense.fit(made, material(Split(split.x, own[0], half))).numbers
    yield row(
        f"{name}, its own labels", "temperature", made, plain, (test[0], own[1]), f"T = {numbers['temperature']:.3f}"
    )


def row(name: str, behind: str, target: Target, plain: Tensor, test: tuple[Tensor, Tensor], fitted: str) -> Row:
    """Measure one model; plain are the logits of the model as it is."""
    x, y = test
    logits = logits_of(target, x)
    found = calibration(logits.double().softmax(1).numpy(), y.numpy(), "clean")
    asked = nonsense.measure(target, x)
    checks = checked(target, x[:PROBED], EPS[name.partition(",")[0]])
    return Row(
        name,
        behind,
        len(x),
        int((logits.argmax(1) != plain.argmax(1)).sum()),
        float((logits.argmax(1) == y).float().mean()),
        found.ece,
        found.null_p95,
        float(asked.confidence.mean()),
        float((asked.confidence > 0.9).mean()),
        *checks,
        fitted,
    )


def checked(target: Target, x: Tensor, eps: float) -> tuple[str, str]:
    """ACT-M01 and ACT-M09 of the model: that gradients exist, and are its slopes."""
    label = logits_of(target, x).argmax(1)
    evidence = Evidence(
        Threat("linf", eps),
        np.ones(len(x), bool),
        {},
        probe(target, x, label, eps, "linf"),
        len(target.classes),
        False,
        0,
    )
    found = [
        next(iter(registry.build("diagnostics", rule)(evidence))) for rule in ("zero_gradients", "finite_differences")
    ]
    return found[0].status, found[1].status


def logits_of(target: Target, x: Tensor) -> Tensor:
    """Logits (n, classes) of x (n, *shape)."""
    with frozen(target.model):
        return Oracle(target).observe(x).logits.cpu()


def drawn(logits: Tensor) -> Tensor:
    """Labels (n,) drawn from the probabilities themselves."""
    generator = torch.Generator().manual_seed(0)
    return torch.multinomial(logits.double().softmax(1), 1, generator=generator).squeeze(1)


def material(split: Split) -> Material:
    """What a calibrator is given."""
    return Material(split, None, 0, lambda *_: split.x, lambda *_: None)


def table(found: Iterable[Row]) -> None:
    """Print the rows as Markdown, as they come."""
    head = (
        "model", "behind", "n", "labels changed", "accuracy", "ECE", "null, 95 %", "confidence on nonsense",
        "above 0.9", "ACT-M01", "ACT-M09", "fitted",
    )  # fmt: skip
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for r in found:
        cells = (
            r.model, r.behind, r.n, r.changed, f"{r.accuracy:.3f}", f"{r.ece:.4f}", f"{r.null:.4f}",
            f"{r.nonsense:.3f}", f"{r.sure:.3f}", r.gradients, r.slopes, r.fitted,
        )  # fmt: skip
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def every(names: list[str], images: int, cache: Path) -> Iterator[Row]:
    """The rows of each model that is there."""
    for name in names:
        try:
            yield from rows(name, images, cache)
        except Absent as missing:
            print(missing, file=sys.stderr)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, help="at most so many test images of each model")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--cache", type=Path, default=Path("runs/benchmarks/models"), help="where trained models lie")
    chosen = parser.parse_args()
    table(every(chosen.models, chosen.images, chosen.cache))


if __name__ == "__main__":
    main()
