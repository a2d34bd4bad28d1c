"""What `actsec audit --print-plan` predicts beside what the audit then takes: passes of the attacks, and their seconds.

    python -m benchmarks.predicting [digits_mlp digits_cnn mnist resnet20] [--samples 150] [--images 16]

One model, no defenses, the attacks of a quick audit, one thread, serial. Seconds are of the processor. MNIST and
CIFAR-10 are read from ACTSEC_SHARED (or ../shared) and left out where they are not there.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch

from actsec import models, training
from actsec.data.loading import digits
from actsec.planning import foresight
from actsec.planning.plan import Plan
from actsec.running import executing, preparing
from actsec.running.executors import Serial
from actsec.running.store import Store
from actsec.running.tasks import run

SHARED = Path(os.environ.get("ACTSEC_SHARED", Path(__file__).parents[2] / "shared")) / "data"
NAMES = ("digits_mlp", "digits_cnn", "mnist", "resnet20")


def plan_of(name: str, samples: int, folder: Path) -> Plan | None:
    """The audit of a model; None where its files are not here."""
    asked = Plan(samples=samples, defenses=(), corruptions=())
    if name.startswith("digits"):
        from safetensors.torch import save_file

        spec, splits = name.removeprefix("digits_"), digits()
        train = splits.train
        assert train is not None  # digits are split
        model = models.build(spec, tuple(train.x.shape[1:]), len(train.classes), 0)
        training.fit(model, torch.from_numpy(train.whole()), torch.from_numpy(train.y), training.Recipe())
        save_file(model.state_dict(), folder / "w.safetensors")
        return asked.having(model=f"reference:{spec}", weights=str(folder / "w.safetensors"))
    code, weights, data, eps = {
        "mnist": ("mnist_cnn_provably_robust", "mnist_cnn_provably_robust", "mnist_test_2k", 0.1),
        "resnet20": ("cifar10_resnet20", "cifar10_resnet20", "cifar10_test_2k", 2 / 255),
    }[name]
    place = SHARED / f"{weights}.safetensors"
    if not place.exists():
        return None
    return asked.having(
        model=f"{SHARED / 'models.py'}:{code}", weights=str(place), data=str(SHARED / f"{data}.npz"), eps=eps
    )


def compared(name: str, samples: int, images: int) -> str | None:
    """A line of the table."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        asked = plan_of(name, samples, folder)
        if asked is None:
            return None
        prepared = preparing.prepare(asked)
        predicted = foresight.forecast(prepared, images)
        store = Store.create(folder / "run", prepared.plan, prepared.facts)
        serial = Serial(lambda job, root: run(job, root, prepared.scene), store.root)
        with store.held():
            errors = executing.execute(prepared, store, serial, lambda _: None)
        if errors:
            raise SystemExit(next(iter(errors.values())))
        costs = [json.loads(file.read_text()) for file in (store.root / "costs").glob("*.json")]
        attacks = [cost for cost in costs if cost["kind"] == "attack"]
        passes, seconds = sum(cost["passes"] for cost in attacks), sum(cost["cpu_seconds"] for cost in attacks)
        beside = sum(cost["cpu_seconds"] for cost in costs if cost["kind"] in foresight.BESIDE)
        return (
            f"| {name} | {samples} | {len(predicted.lines)} | {predicted.at_most:,} | {predicted.passes:,.0f} | "
            f"{passes:,} | {predicted.passes / passes:.2f} | {predicted.seconds:.0f} | {seconds:.0f} | "
            f"{predicted.seconds / seconds:.2f} | {predicted.beside:.0f} | {beside:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--images", type=int, default=foresight.IMAGES)
    told = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| model | images | attacks | passes at most | predicted | measured | ratio | s predicted | s measured "
        "| ratio | beside, predicted | beside, measured |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name in told.names:
        line = compared(name, told.samples, told.images)
        print(line if line is not None else f"| {name} | its files are not here |", flush=True)


if __name__ == "__main__":
    main()
