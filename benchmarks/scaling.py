"""How much faster several workers are, and whether any of them takes more cores than its own.

    python -m benchmarks.scaling [--executor processes] [--executor ray] [--samples 400] [--longer 1] [--repeats 3]

One audit of the digits CNN, the same outcomes each time: by one worker of one thread, by two, and in this process with
one thread and with two. A wall clock on a machine that does nothing else; the least of the repeats. Workers start and
import before they work, and one process plans before and reports after them, however long the attacks take;
``--longer 3`` gives the attacks three times the steps. Targets: two workers 1.8 times as fast as one (processes),
1.6 (Ray), and no slower than serial with two threads.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLAN = """
model = "reference:cnn"
weights = "{weights}"
data = "digits"
defenses = []
corruptions = []
samples = {samples}
shard = {shard}
attacks = ["pgd(steps=100, restarts={restarts})", "apgd(steps={steps})", "square(queries={queries})"]
"""
TARGETS = {"processes": 1.8, "ray": 1.6}


def made(folder: Path, samples: int, longer: int) -> Path:
    """The plan, with weights that are trained once."""
    import torch
    from safetensors.torch import save_file

    from actsec import models, training
    from actsec.data.loading import digits

    torch.set_num_threads(1)
    train = digits().train
    assert train is not None  # digits are split
    model = models.build("cnn", tuple(train.x.shape[1:]), len(train.classes), 0)
    training.fit(model, torch.from_numpy(train.whole()), torch.from_numpy(train.y), training.Recipe(epochs=5))
    save_file(model.state_dict(), folder / "w.safetensors")
    place = folder / "plan.toml"
    lengths = {"restarts": 5 * longer, "steps": 100 * longer, "queries": 1000 * longer}
    place.write_text(
        PLAN.format(weights=folder / "w.safetensors", samples=samples, shard=max(samples // 8, 1), **lengths)
    )
    return place


def once(plan: Path, executor: str, workers: int, threads: int) -> tuple[float, dict[str, str]]:
    """Seconds of an audit by the wall clock, and a digest of every outcome."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "actsec", "audit", str(plan), "--out", f"{folder}/run", "--quiet"]
        command += ["--executor", executor, "--workers", str(workers), "--threads", str(threads)]
        # As a user runs it: nothing from outside says how many threads there are.
        alone = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        began = time.perf_counter()
        done = subprocess.run(command, env=alone, capture_output=True, text=True, check=False)  # noqa: S603  # our own
        seconds = time.perf_counter() - began
        files = sorted(Path(folder, "run", "outcomes").glob("[!.]*.npz"))
        if not files or done.returncode in (2, 4, 5):
            raise SystemExit(done.stderr)
        return seconds, {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executor", action="append", choices=list(TARGETS))
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--longer", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        plan = made(Path(text), told.samples, told.longer)
        ways = [("serial", 1, 1), ("serial", 1, 2)]
        ways += [(name, workers, 1) for name in told.executor or ["processes"] for workers in (1, 2)]
        print("| executor | workers | threads of each | seconds | over one worker | outcomes |")
        print("|---|---|---|---|---|---|")
        least: dict[tuple[str, int, int], float] = {}
        first: dict[str, str] = {}
        for way in ways:
            runs = [once(plan, *way) for _ in range(told.repeats)]
            least[way] = min(seconds for seconds, _ in runs)
            # Another number of threads is another plan: it names its outcomes otherwise.
            first = first or runs[0][1]
            same = "-" if way[2] != 1 else "equal" if all(found == first for _, found in runs) else "DIFFERENT"
            over = least[(way[0], 1, 1)] / least[way]
            print(f"| {way[0]} | {way[1]} | {way[2]} | {least[way]:.1f} | {over:.2f} | {same} |", flush=True)
        for name in told.executor or ["processes"]:
            gain, serial = least[name, 1, 1] / least[name, 2, 1], least["serial", 1, 2] / least[name, 2, 1]
            met = "met" if gain >= TARGETS[name] and serial >= 1 else "NOT met"
            print(
                f"{name}: two workers {gain:.2f} times one (target {TARGETS[name]}), {serial:.2f} times serial with "
                f"two threads (target 1): {met}"
            )


if __name__ == "__main__":
    main()
