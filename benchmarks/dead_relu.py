"""Dead-ReLU forcing held to its targets: kills beside noise and PGD, what they did, and what no attack could do.

    python -m benchmarks.dead_relu                    # both parts, as markdown
    python -m benchmarks.dead_relu digits --seeds 5 --images 540
    python -m benchmarks.dead_relu resnet20 --images 64

digits: MLPs 64-128-128-64-10 of relu on scikit-learn's digits, five seeds, L-inf eps 0.2. The count attack must kill at
least 0.14 of the active units as a mean over seeds, and on every seed 5 times what sign noise kills and twice what PGD
does. resnet20: the shared CIFAR-10 network at 8/255: the net rise of the dead fraction (killed minus revived) must be
5 times that of noise and of PGD; raw kills mislead there, for noise kills as it revives.

Noise is one draw of random signs, and PGD leaves its best misclassifying candidate: an adversary each with its own aim.
"best of 20" and "PGD for kills" choose among 20 draws, and among all of PGD's candidates, the one with most kills.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actsec import consequences, killing, units
from actsec.activations import replace
from actsec.forcing import Kill, Ranked
from actsec.losses import Misclassify
from actsec.referee import attack_target, cases_of
from actsec.registry import build
from actsec.types import Target

MEAN_KILL, OVER_NOISE, OVER_PGD = 0.14, 5.0, 2.0
CLASSES = tuple("0123456789")
CONTENDERS = {
    "sign noise": "noise(draws=1, kind=sign)",
    "sign noise, best of 20": "noise(draws=20, kind=sign)",
    "PGD": "pgd(steps=50)",
    "PGD for kills": "pgd(steps=50)",
    "count": "dead_relu",
    "critical, gradient": "dead_relu(aim=critical)",
    "critical, ablation": "dead_relu(aim=critical, rank=ablation)",
    "blackout": "dead_relu(aim=blackout)",
}


@dataclass(frozen=True)
class Scene:
    """A target, images and labels, and the radius."""

    name: str
    target: Target
    x: Tensor
    y: Tensor
    eps: float


def digits(seed: int, images: int, epochs: int = 60) -> Scene:
    """The MLP of the notes: 70/30 stratified split, Adam 1e-3, 60 epochs."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    split = train_test_split(data.data / 16, data.target, test_size=0.3, stratify=data.target, random_state=0)
    train_x, x, train_y, y = (torch.tensor(part) for part in split)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in ((64, 128), (128, 128), (128, 64)):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(epochs):
            for batch in torch.randperm(len(train_x)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(train_x[batch].float()), train_y[batch]).backward()
                optimizer.step()
    model.zero_grad()
    target = Target(model.eval(), (64,), CLASSES, name=f"mlp, seed {seed}")
    return Scene(target.name, target, x[:images].float(), y[:images], 0.2)


def resnet20(images: int) -> Scene:
    """The shared CIFAR-10 network. Raises FileNotFoundError where the shared data is not there (ACTSEC_SHARED)."""
    import importlib.util

    import numpy as np
    from safetensors.torch import load_file

    folder = Path(os.environ.get("ACTSEC_SHARED", "../shared")) / "data"
    spec = importlib.util.spec_from_file_location("shared_models", folder / "models.py")
    if spec is None or spec.loader is None or not (folder / "models.py").exists():
        raise FileNotFoundError(f"{folder}/models.py: set ACTSEC_SHARED to the folder of the shared data")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.cifar10_resnet20().eval()
    model.load_state_dict(load_file(folder / "cifar10_resnet20.safetensors"))
    data = np.load(folder / "cifar10_test_2k.npz")
    x, y = torch.tensor(data["x"][:images]).float() / 255, torch.tensor(data["y"][:images]).long()
    return Scene("resnet20", Target(model, (3, 32, 32), CLASSES, name="resnet20"), x, y, 8 / 255)


def measured(scene: Scene, wanted: tuple[str, ...], norm: Any = "linf", eps: float = 0.0) -> dict[str, Any]:
    """What every contender leaves, as consequences.Consequence by name; and its inputs."""
    cases = cases_of(scene.target, scene.x, scene.y, norm, eps or scene.eps)
    chosen = units.critical(scene.target, cases, Ranked("gradient", 0.25, "dead"))
    found = {}
    for name in wanted:
        attack = build("attacks", CONTENDERS[name])
        goal = Misclassify() if name == "PGD" else Kill(aim=getattr(attack, "aim", "count"))
        left = attack_target(attack, scene.target, cases, goal, settle=False, name=name)
        # PGD for its own aim does not ask about images that are wrong already; they stay untouched.
        found[name] = (consequences.compare(scene.target, scene.x, left.x, scene.y, chosen=chosen), left.x)
    return found


def table(found: dict[str, Any]) -> Iterator[str]:
    """One line a contender."""
    yield "| attack | killed of active | net | critical killed | blackouts | labels changed | margin | gradient ratio | zero gradients |"  # noqa: E501  # one row of a table
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, (c, _) in found.items():
        ratio = "none" if c.gradient_ratio is None else f"{c.gradient_ratio:.2f}"
        yield (
            f"| {name} | {c.killed_of_active:.3f} | {c.net:+.4f} | {c.critical_killed or 0:.3f} | {c.blackout:.3f} "
            f"| {c.changed} of {c.right} | {c.before.margin:.2f} to {c.after.margin:.2f} | {ratio} "
            f"| {c.after.zero_gradient:.3f} |"
        )


def sites(found: Any) -> Iterator[str]:
    """Every site under the count attack."""
    yield "| site | units | dead before | dead after | killed | revived | permanently dead before | after |"
    yield "|---|---|---|---|---|---|---|---|"
    for s in found.sites:
        shares = (s.dead_before, s.dead_after, s.killed, s.revived, s.permanently_dead_before, s.permanently_dead_after)
        yield f"| {s.name} | {s.units} | " + " | ".join(f"{value:.3f}" for value in shares) + " |"


def bracket(scene: Scene, forced: Any, images: int = 40) -> Iterator[str]:
    """Attack and certificate side by side."""
    few = scene.x[:images]
    layer = killing.first_layer(scene.target, few)
    alive = layer(few) > 0
    radius = killing.kill_radius(layer, few, "linf", scene.target.bounds)
    alone = float((radius <= scene.eps)[alive].double().mean())
    together = killing.blackout_radius(layer, few[:5], scene.target.bounds)
    everywhere = killing.blackout_radius(layer, few[:5])
    yield f"first layer: {alone:.3f} of active units can be killed one at a time (exact, n = {images})"
    yield f"first layer: smallest blackout in the box {together.tolist()}, in all of space {everywhere.tolist()}"
    for found in killing.bounds(scene.target, few, scene.eps):
        site = next(s for s in forced.sites if s.name == found.name)
        safe = float((found.low > 0).double().mean())
        killed = site.killed / max(1 - site.dead_before, 1e-9)
        yield f"{found.name}: killed together {killed:.3f} of active; {safe:.3f} of units cannot be killed (intervals)"


def held(name: str, value: float, limit: float) -> str:
    """A target and whether it was met."""
    return f"{'met' if value >= limit else 'MISSED'}: {name} {value:.3f}, at least {limit:g} asked"


def part_digits(seeds: int, images: int, wanted: tuple[str, ...]) -> Iterator[str]:
    """The first part."""
    kills, over_noise, over_pgd = [], [], []
    for seed in range(seeds):
        scene = digits(seed, images)
        found = measured(scene, wanted)
        killed = {name: c.killed_of_active for name, (c, _) in found.items()}
        kills.append(killed["count"])
        over_noise.append(killed["count"] / max(killed["sign noise"], 1e-9))
        over_pgd.append(killed["count"] / max(killed["PGD"], 1e-9))
        yield f"\n## {scene.name}, L-inf {scene.eps}, n = {len(scene.x)}\n"
        yield from table(found)
        if seed == 0:
            yield ""
            yield from sites(found["count"][0])
            yield ""
            yield from (f"- {line}" for line in bracket(scene, found["count"][0]))
            yield from universal(scene, found["count"][0])
            swaps = ("leaky_relu", "gelu", "tanh")
            twins = {
                to: scene.target.having(model=replace(scene.target.model, to, example=scene.x[:2])) for to in swaps
            }
            for t in consequences.transferred(twins, scene.x, found["count"][1], scene.y):
                yield f"- on the twin with {t.name}: labels changed on {t.changed} of {t.right}; net {t.net}"
    mean = sum(kills) / len(kills)
    yield "\n## Targets\n"
    yield held("mean share of active units killed", mean, MEAN_KILL)
    yield held("least ratio to noise over the seeds", min(over_noise), OVER_NOISE)
    yield held("least ratio to PGD over the seeds", min(over_pgd), OVER_PGD)


def universal(scene: Scene, alone: Any) -> Iterator[str]:
    """One delta for 128 images, made on them and tried on the others."""
    made, other = scene.x[:128], scene.x[128:]
    target = units.universal_target(scene.target, made)
    zero = torch.zeros_like(made[:1])
    cases = cases_of(target, zero, scene.y[:1] * 0, "linf", scene.eps)
    delta = attack_target(build("attacks", "dead_relu"), target, cases, Kill()).x
    for name, x, y in (("made on", made, scene.y[:128]), ("others", other, scene.y[128:])):
        if len(x):
            c = consequences.compare(scene.target, x, units.shifted(scene.target, x, delta)[0], y)
            yield f"- one delta for all, {name} {len(x)}: {c.sentence} (each its own: {alone.killed_of_active:.1%})"


def part_resnet20(images: int, wanted: tuple[str, ...]) -> Iterator[str]:
    """The second part."""
    scene = resnet20(images)
    found = measured(scene, wanted)
    yield f"\n## resnet20, L-inf 8/255, n = {images}\n"
    yield from table(found)
    yield ""
    yield from sites(found["count"][0])
    yield "\n## Targets\n"
    net = {name: c.net for name, (c, _) in found.items()}
    for other in ("sign noise", "PGD"):
        yield held(f"net rise of the count attack less 5 times that of {other}", net["count"] - 5 * net[other], 0.0)


def main(arguments: list[str]) -> None:
    """Print the parts asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["digits", "resnet20"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    wanted = tuple(options.only) or tuple(name for name in CONTENDERS if name != "critical, ablation")
    if "digits" in options.parts:
        for line in part_digits(options.seeds, options.images or 540, wanted):
            print(line, flush=True)
    if "resnet20" in options.parts:
        for line in part_resnet20(options.images or 64, wanted):
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
