"""Certificates beside attacks: randomised smoothing on digits, and the provably robust CNN of the shared data.

    python -m benchmarks.certified                    # digits; the robust CNN where the shared data is
    python -m benchmarks.certified --images 200 --n 10000

Smoothing: by std and radius in L2, certified accuracy (CERTIFY, n0 = 100, alpha = 0.001) beside what an attack left of
the same images, judged by n votes. The robust CNN: at L-inf 0.1 the images certified by the bound of the tests
(tests/fast_lin.py) beside what each attack left; published for its test set: no attack can exceed an error of 5.8 %.
The last column counts images that are certified and fell: 0, or something is wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from actsec import registry
from actsec.data import Splits, load
from actsec.search import certificates
from actsec.search.referee import attack_target, cases_of
from actsec.spec import parse
from actsec.types import Material, Split, Target
from actsec.verdict.statistics import share
from benchmarks.certificate import contradicted
from benchmarks.scenes import Absent, scene

STDS = (0.12, 0.25, 0.5)
RADII = (0.25, 0.5, 1.0, 1.5, 2.0)
EPS = 0.1
ATTACKS = (
    "fgsm",
    "pgd(steps=40, restarts=2)",
    "pgd(steps=40, restarts=2, loss=margin)",
    "apgd(steps=50)",
    "square(queries=1000)",
)
Line = tuple[object, ...]


def smoothing(stds: list[float], images: int, n: int, finetune: int, attack: str, cache: Path) -> Iterator[Line]:
    """Rows (std, radius, certified, left by the attack, certified and fell) of a digits CNN."""
    found, splits = scene("digits: cnn", cache), load("digits")
    assert isinstance(splits, Splits)
    assert splits.train is not None
    train = Split(torch.from_numpy(splits.train.x), torch.from_numpy(splits.train.y), torch.arange(len(splits.train)))
    x, y, ids = found.x[:images], found.y[:images], torch.arange(len(found.x[:images]))
    plain = Target(found.model, tuple(x.shape[1:]), tuple(map(str, range(found.classes))))
    for std in stds:
        defense = registry.build("defenses", f"smoothing(std={std}, finetune={finetune})")
        target = defense.wrap(plain)
        defense.fit(target, Material(None, train, 0, lambda *_: train.x, lambda *_: None))
        made = certificates.certify(target, x, ids, n=n)
        held = certificates.left(target, x, y, ids, [std * k for k in RADII], attack=parse(attack), n=n)
        right = made.label == y
        yield std, 0, said(right), "", ""
        for k, still in zip(RADII, held, strict=True):
            sure = right & (made.radius > std * k)
            yield std, f"{std * k:g}", said(sure), said(still), int((sure & ~still).sum())


def robust_cnn(images: int) -> Iterator[Line]:
    """Rows (attack, left, certified of what fell) of the provably robust CNN at EPS, all attacks together last."""
    found = scene("mnist_robust", Path())
    x, y = found.first(images, correct=False)
    target = Target(found.model, tuple(x.shape[1:]), tuple(map(str, range(10))))
    fell = torch.zeros(len(x), dtype=torch.bool)
    for attack in ATTACKS:
        verdicts = attack_target(registry.build("attacks", attack), target, cases_of(target, x, y, "linf", EPS))
        wrong = verdicts.wrong > 0.5
        fell |= wrong
        yield attack, said(~wrong), ""
    # contradicted() counts the rows that are right untouched, in their order.
    right = logits(target, x).argmax(1) == y
    place = right.long().cumsum(0) - 1
    certified = contradicted("mnist_robust", int(right.sum()), place[fell & right].tolist(), EPS)
    yield "all together", said(~fell), "not told" if certified is None else len(certified)


def logits(target: Target, x: Tensor) -> Tensor:
    """Logits of x (n, *shape)."""
    with torch.no_grad():
        return torch.cat([target.logits(part) for part in x.split(100)])


def said(true: Tensor) -> str:
    """A share with its 95 % interval."""
    found = share(int(true.sum()), len(true))
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def table(head: Line, rows: Iterator[Line]) -> None:
    """Print rows as Markdown as they come."""
    print("| " + " | ".join(map(str, head)) + " |")
    print("|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--stds", type=float, nargs="+", default=list(STDS), help="of the noise, in input units")
    parser.add_argument("--n", type=int, default=1000, help="noisy copies that bound a probability")
    parser.add_argument("--finetune", type=int, default=10, help="epochs under the noise")
    parser.add_argument("--attack", default="pgd(steps=20)", help="the attack beside the smoothed certificate")
    parser.add_argument("--only", choices=("smoothing", "robust_cnn"))
    parser.add_argument("--cache", type=Path, default=Path("runs/benchmarks/models"), help="where trained models lie")
    chosen = parser.parse_args()
    if chosen.only != "robust_cnn":
        head = ("std", "radius", "certified, at least", "left by the attack, at most", "certified and fell")
        table(head, smoothing(chosen.stds, chosen.images, chosen.n, chosen.finetune, chosen.attack, chosen.cache))
    if chosen.only != "smoothing":
        print()
        try:
            table(("attack", f"left at linf:{EPS}, at most", "certified and fell"), robust_cnn(chosen.images))
        except Absent as missing:
            print(missing)


if __name__ == "__main__":
    main()
