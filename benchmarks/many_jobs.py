"""What surrounds the work of a run, against the number of its jobs: planning, storing, resuming, gathering.

    python -m benchmarks.many_jobs [1000 10000] [--variants 1]

Attacks are not run: every job leaves what the first of its kind, which is run, left. CPU seconds, a line for each size.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from actsec.planning.jobs import jobs, plan_id
from actsec.planning.plan import Plan, Trial
from actsec.running import executing, finishing, preparing, scene, tasks
from actsec.running.executors import Serial
from actsec.running.store import Store
from actsec.types import Job, Outcome
from benchmarks.streaming import NET

ROLES = {
    "fgsm": "single_step",
    "pgd(steps=2)": "iterative",
    "pgd(steps=2, loss=margin)": "margin",
    "pgd(steps=3)": "doubled",
    "noise(draws=2)": "noise",
    "square(queries=4)": "gradient_free",
}
SIDE, SHARD = 8, 2


class Stub:
    """Runs the first job of a kind and attack, and stores what it left for every other."""

    def __init__(self, loaded: scene.Scene) -> None:
        self.loaded, self.first = loaded, dict[str, Outcome]()

    def __call__(self, job: Job, root: Path) -> str | None:
        key = f"{job.kind} {job.recipe.get('attack')} {job.recipe.get('threat')}"
        if key not in self.first:
            error = tasks.run(job, root, self.loaded)
            found = Store(root).get(job.id)
            if error is None and found is not None:
                self.first[key] = found
            return error
        cost = {"kind": job.kind, "label": job.label, "seconds": 0.0, "peak_mib": 0}
        Store(root).put(dataclasses.replace(self.first[key], job=job.id), cost)
        return None


@contextmanager
def timed(into: dict[str, float], name: str) -> Iterator[None]:
    began = time.process_time()
    yield
    into[name] = time.process_time() - began


def request(folder: Path, count: int, variants: int) -> Plan:
    """A plan of about so many jobs."""
    swaps = tuple(f"swap(to=leaky_relu(slope={number / 1000}))" for number in range(1, variants))
    rows = max(count * SHARD // (len(ROLES) + 1) // variants, SHARD)
    rng = np.random.default_rng(0)
    y = np.arange(rows + 40) % 2
    x = rng.integers(0, 64, (len(y), 3, SIDE, SIDE)) + np.where(y == 1, 30, 170)[:, None, None, None]
    np.savez(folder / "data.npz", x=x.astype(np.uint8), y=y)
    np.savez(folder / "held.npz", x=x[-40:].astype(np.uint8), y=y[-40:])
    (folder / "net.py").write_text(NET)
    trials = [Trial(attack, "linf:0.03", rows, role) for attack, role in ROLES.items()]
    return Plan(
        model=f"{folder / 'net.py'}:make",
        data=str(folder / "data.npz"),
        calibration=str(folder / "held.npz"),
        attacks=(*trials, Trial("pgd(steps=3)", "linf:1", rows, "unbounded")),
        defenses=swaps,
        corruptions=(),
        eps=0.03,
        samples=rows,
        shard=SHARD,
    )


def measured(count: int, variants: int) -> dict[str, float]:
    """CPU seconds of every step, and the number of jobs."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        with timed(found, "prepare"):
            prepared = preparing.prepare(request(folder, count, variants))
        with timed(found, "plan"):
            every = jobs(prepared.plan, prepared.facts)
            plan_id(prepared.plan, prepared.facts)
        store = Store.create(folder / "run", prepared.plan, prepared.facts)
        stub = Stub(prepared.scene)
        with timed(found, "run"), store.held():
            errors = executing.execute(prepared, store, Serial(stub, store.root), lambda _: None)
        if errors:
            raise SystemExit(next(iter(errors.values())))
        with timed(found, "resume"):
            executing.execute(prepared, store, Serial(stub, store.root), lambda _: None)
        with timed(found, "report"):
            finishing.finish(prepared, store, complete=True)
        return {"jobs": len(every), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", type=int, nargs="*", default=[1000, 10000])
    parser.add_argument("--variants", type=int, default=1)
    told = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    print("| jobs | variants | prepare | plan | run, stubs | resume: all is done | report | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    measured(100, min(told.variants, 2))  # imports
    for count in told.jobs:
        found = measured(count, told.variants)
        steps = [found[name] for name in ("prepare", "plan", "run", "resume", "report")]
        cells = " | ".join(f"{seconds:.2f}" for seconds in steps)
        print(f"| {found['jobs']:,} | {told.variants} | {cells} | {sum(steps):.1f} |", flush=True)


if __name__ == "__main__":
    main()
