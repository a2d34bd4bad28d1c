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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actsec.search.referee import cases_of
from actsec.study import forcing, forcing_telling
from actsec.study.forcing import ABLATION, CONTENDERS, COUNT, NOISE, PGD, Contest, Network, Settings
from actsec.types import Target

MEAN_KILL, OVER_NOISE, OVER_PGD = 0.14, 5.0, 2.0
CLASSES = tuple("0123456789")
USUAL = tuple(name for name in CONTENDERS["dead"] if name != ABLATION)


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


def contest(scene: Scene, wanted: tuple[str, ...]) -> Contest:
    """What the contenders that are wanted leave of a scene."""
    cases = cases_of(scene.target, scene.x, scene.y, "linf", scene.eps)
    return forcing.contend(scene.target, cases, wanted=wanted)


def held(name: str, value: float, limit: float) -> str:
    """A target and whether it was met."""
    return f"{'met' if value >= limit else 'MISSED'}: {name} {value:.3f}, at least {limit:g} asked"


def told(scene: Scene, found: Contest) -> Iterator[str]:
    """The contenders of a scene, and every site under the count."""
    yield f"\n## {scene.name}, L-inf {scene.eps:.4g}, n = {len(scene.x)}\n"
    yield from forcing_telling.contenders(found)
    yield ""
    yield from forcing_telling.sites(found[COUNT].effect)


def part_digits(seeds: int, images: int, wanted: tuple[str, ...]) -> Iterator[str]:
    """The first part; all that ``actsec study forcing`` tells of the first seed."""
    kills, over_noise, over_pgd = [], [], []
    for seed in range(seeds):
        scene = digits(seed, images)
        if seed == 0:
            settings = Settings(eps=scene.eps, images=len(scene.x))
            networks: tuple[Network, ...] = forcing.run(((scene.target, seed),), scene.x, scene.y, settings)
            yield from forcing_telling.lines(networks, settings, "digits", f"{scene.eps:g}")
            found = networks[0].rounds[0].contest
        else:
            found = contest(scene, wanted)
            yield from told(scene, found)
        killed = {each.name: each.effect.killed_of_active for each in found.forced}
        kills.append(killed[COUNT])
        over_noise.append(killed[COUNT] / max(killed[NOISE], 1e-9))
        over_pgd.append(killed[COUNT] / max(killed[PGD], 1e-9))
    yield "\n## Targets\n"
    yield held("mean share of active units killed", sum(kills) / len(kills), MEAN_KILL)
    yield held("least ratio to noise over the seeds", min(over_noise), OVER_NOISE)
    yield held("least ratio to PGD over the seeds", min(over_pgd), OVER_PGD)


def part_resnet20(images: int, wanted: tuple[str, ...]) -> Iterator[str]:
    """The second part."""
    scene = resnet20(images)
    found = contest(scene, wanted)
    yield from told(scene, found)
    yield "\n## Targets\n"
    for other in (NOISE, PGD):
        rise = found[COUNT].effect.net - 5 * found[other].effect.net
        yield held(f"net rise of the count attack less 5 times that of {other}", rise, 0.0)


def main(arguments: list[str]) -> None:
    """Print the parts asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["digits", "resnet20"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    wanted = tuple(options.only) or USUAL
    if "digits" in options.parts:
        for line in part_digits(options.seeds, options.images or 540, wanted):
            print(line, flush=True)
    if "resnet20" in options.parts:
        for line in part_resnet20(options.images or 64, wanted):
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
