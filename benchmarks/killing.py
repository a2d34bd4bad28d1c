"""kill -9 at random moments: what was finished, what was lost, and whether the result shows it.

    python -m benchmarks.killing [--executor serial|processes] [--kills 20]

One small audit is killed with its workers, begun again, killed again; then run to its end and compared, byte for byte,
with one that nobody disturbed. Prints one line of a table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from actsec.running.store import Store

PLAN = """
model = "reference:mlp(width=[8])"
activations = ["relu"]
defenses = ["temperature"]
samples = 120
shard = 10
attacks = ["fgsm", "pgd(steps=20)"]
"""


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "actsec", *map(str, arguments), "--quiet"]


def whole(run: Path) -> dict[str, bytes]:
    """Every finished outcome, by name."""
    store, folder = Store(run), run / "outcomes"
    names = [path.stem for path in folder.glob("[!.]*.json")] if folder.is_dir() else []
    return {name: (folder / f"{name}.json").read_bytes() for name in names if store.done(name)}


def result(run: Path) -> str:
    return json.dumps(json.loads((run / "report.json").read_text())["result"], sort_keys=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executor", default="serial", choices=["serial", "processes"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    dice = random.Random(told.seed)
    with tempfile.TemporaryDirectory() as folder:
        plan, run, undisturbed = Path(folder) / "plan.toml", Path(folder) / "run", Path(folder) / "undisturbed"
        plan.write_text(PLAN)
        run_whole = command("audit", plan, "--out", undisturbed, "--executor", "serial")
        subprocess.run(run_whole, capture_output=True, check=False)  # noqa: S603  # our own command
        every, lost, finished = len(whole(undisturbed)), 0, 0
        for _ in range(told.kills):
            before = whole(run)
            process = subprocess.Popen(  # noqa: S603  # our own command
                command("audit", plan, "--out", run, "--executor", told.executor),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            # Some are killed while they read, most once another job or two are done.
            wanted = len(before) + dice.randint(0, 2)
            while len(list((run / "outcomes").glob("[!.]*.json"))) < min(wanted, every) and process.poll() is None:
                time.sleep(0.002)
            time.sleep(dice.random() * 0.3)
            finished += process.poll() is not None
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            after = whole(run)
            lost += sum(after.get(name) != content for name, content in before.items())
        kept = whole(run)
        subprocess.run(command("resume", run, "--executor", told.executor), capture_output=True, check=False)  # noqa: S603  # our own command
        equal = result(run) == result(undisturbed) and whole(run) == whole(undisturbed)
        print(
            f"{told.executor}: {told.kills - finished} kills of {told.kills} starts, {len(kept)} of {every} jobs done "
            f"before the last start, lost {lost}, result byte-equal: {'yes' if equal else 'NO'}"
        )


if __name__ == "__main__":
    main()
