"""Memory against the number of images: an image folder is audited, all of its files, in a process of its own.

    python -m benchmarks.streaming [2000 20000 100000] [--executor serial|processes] [--side 32] [--folder DIR]

Images are small PNGs, dark or bright, and the model tells them apart; the attacks are the seven that the sanity checks
ask for, a few steps each. Prints the largest resident memory of the audit, or of any of its workers, a line for each
size. With 32 x 32 pixels the examples of 100,000 images take 8.6 GB of disk while it runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

NET = """
import torch
from torch import nn


def make():
    \"\"\"Tells bright images from dark ones.\"\"\"
    hidden, last = nn.LazyLinear(8), nn.Linear(8, 2)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), hidden, nn.ReLU(), last)
    with torch.no_grad():
        model(torch.zeros(1, 3, 8, 8))
        hidden.weight.fill_(1 / 48)
        hidden.bias.fill_(-0.5)
        hidden.weight[1:].neg_()
        hidden.bias[1:].neg_()
        last.weight.copy_(torch.tensor([[8.0] + [-1.0] * 7, [-8.0] + [1.0] * 7]))
        last.bias.zero_()
    return model
"""
ATTACKS = (
    ("fgsm", "single_step", ""),
    ("pgd(steps=2)", "iterative", ""),
    ("pgd(steps=2, loss=margin)", "margin", ""),
    ("pgd(steps=3)", "doubled", ""),
    ("pgd(steps=3)", "unbounded", "linf:1"),
    ("noise(draws=2)", "noise", ""),
    ("square(queries=4)", "gradient_free", ""),
)
AUDIT = """
import json, resource, sys, time
from actsec.__main__ import main
began = time.process_time()
try:
    main()
except SystemExit as end:
    code = end.code
own, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({"code": code, "own": own.ru_maxrss, "worker": workers.ru_maxrss,
                  "seconds": own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime}))
"""


def pictures(folder: Path, count: int, side: int, seed: int = 0) -> None:
    """``count`` PNGs of side x side pixels, every second one bright. What is there already stays."""
    from PIL import Image

    for name in ("bright", "dark"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        place = folder / ("bright" if number % 2 else "dark") / f"{number:07d}.png"
        if place.exists():
            continue
        pixels = np.random.default_rng((seed, number)).integers(0, 64, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels + np.uint8(170 if number % 2 else 30)).save(place)


def plan(folder: Path, data: Path, count: int) -> Path:
    """A plan that attacks all of the images, and its model beside it."""
    (folder / "net.py").write_text(NET)
    lines = [f'model = "{folder / "net.py"}:make"', f'data = "{data}"', f"samples = {count}", "eps = 0.03"]
    lines += ["defenses = []", "corruptions = []"]
    for attack, role, threat in ATTACKS:
        lines += ["[[attacks]]", f'attack = "{attack}"', f'role = "{role}"']
        lines += [f'threat = "{threat}"'] if threat else []
    place = folder / "plan.toml"
    place.write_text("\n".join(lines))
    return place


def audited(count: int, side: int, executor: str, kept: Path | None = None) -> dict[str, float]:
    """Peak memory (MiB) of the audit and of its largest worker, CPU seconds, and the exit code."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = (kept or folder) / f"pictures-{side}-{count}"
        pictures(data, count, side)
        command = [sys.executable, "-c", AUDIT, "audit", str(plan(folder, data, count)), "--out", str(folder / "run")]
        done = subprocess.run(  # noqa: S603  # our own command
            [*command, "--executor", executor, "--quiet"], capture_output=True, text=True, check=False
        )
        if not done.stdout.strip():
            raise SystemExit(done.stderr)
        said = json.loads(done.stdout.strip().splitlines()[-1])
        report = folder / "run" / "report.json"
        if not report.exists():
            raise SystemExit(done.stderr)
        rows = json.loads(report.read_text())["result"]["variants"][0]["clean"]["accuracy"]["n"]
        return {
            "rows": rows,
            "code": said["code"],
            "own": said["own"] / 1024,
            "worker": said["worker"] / 1024,
            "seconds": said["seconds"],
            "store": sum(file.stat().st_size for file in (folder / "run").rglob("*") if file.is_file()) / 2**20,
            "report": sum(file.stat().st_size for file in (folder / "run").glob("report.*")) / 2**20,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=int, nargs="*", default=[2000, 20000])
    parser.add_argument("--executor", default="serial", choices=["serial", "processes"])
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="keep the images there")
    told = parser.parse_args()
    print("| images | executor | MiB, audit | MiB, worker | CPU s | run folder MiB | reports MiB | exit code |")
    print("|---|---|---|---|---|---|---|---|")
    for count in told.images:
        found = audited(count, told.side, told.executor, told.folder)
        print(
            f"| {found['rows']:,} of {count:,} | {told.executor} | {found['own']:.0f} | {found['worker']:.0f} | "
            f"{found['seconds']:.0f} | {found['store']:.0f} | {found['report']:.1f} | {found['code']} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
