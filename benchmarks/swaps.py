"""Another activation in a trained network: what it does to robustness, and to confidence far from the data.

    python -m benchmarks.swaps                       # all three parts, as markdown
    python -m benchmarks.swaps robust --seeds 3 --images 539 --models mlp
    python -m benchmarks.swaps far learnable

robust: networks of relu on the digits, their calls swapped straight, with batch norm recalibrated, and fine-tuned; PGD
on the margin at eps 0.1 on the same test images. Recalibrating and fine-tuning move robustness by themselves, so that
such a swap is held against relu treated in the same way ("control"). Correctness is averaged over the seeds image by
image; the interval is a bootstrap over images, p a sign-flip test raised for the number of swaps compared with it
(Holm), and McNemar's exact p of every seed stands beside. "Better" and "worse" need an interval without 0 and a raised
p below 0.05.

far: the confidence at alpha * u for noise u and alpha from 1 to 1e6, in float64, outside any box: a network of
unbounded pieces is certain there (Hein et al. 2019), a bounded activation is the mend, and temperature is none.

learnable: the train-test gap of learned activations beside their fixed forms, in clean and robust accuracy.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actsec import api, attacked, models, training
from actsec.data import Dataset, Splits, load
from actsec.types import Fitted, Target
from actsec.verdict import statistics

EPS = 0.1
MODELS = {"mlp": "mlp", "cnn": "cnn(norm=batch)"}
ACTIVATIONS = (
    *("leaky_relu(slope=0.1)", "prelu", "elu", "gelu", "silu", "pswish", "mish", "softplus", "tanh", "relu6"),
    "hardtanh(lower=-1, upper=1)",
)
ALPHAS = (1, 10, 100, 1e4, 1e6)
Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Setting:
    """What is measured: which networks, how many of each, on how many test images, how long they are fine-tuned."""

    models: tuple[str, ...] = ("mlp", "cnn")
    seeds: int = 3
    images: int = 539
    steps: int = 40
    epochs: int = 5


@cache
def digits() -> Splits:
    """Handwritten digits, 8x8, in [0, 1]."""
    splits = load("digits")
    assert isinstance(splits, Splits)
    return splits


def pair(split: Dataset | None) -> tuple[torch.Tensor, torch.Tensor]:
    """A split's inputs and labels as tensors."""
    assert split is not None
    return torch.from_numpy(split.x), torch.from_numpy(split.y)


@cache
def trained(spec: str, seed: int) -> Target:
    """A reference model trained on the digits, ready to be swapped."""
    model = models.build(spec, (1, 8, 8), 10, seed)
    training.fit(model, *pair(digits().train), training.Recipe(seed=seed))
    return Target(model.requires_grad_(False), (1, 8, 8), tuple("0123456789"))


def defended(target: Target, chain: str, seed: int) -> tuple[Target, tuple[Fitted, ...]]:
    """The target behind a chain of defenses, fitted on training and calibration digits."""
    return api.fitted(target, chain, train=pair(digits().train), calibration=pair(digits().calibration), seed=seed)


def correct(target: Target, x: torch.Tensor, y: torch.Tensor) -> Bits:
    """Whether each image is classified correctly, untouched (n,)."""
    with torch.no_grad():
        return (target.decide(target.logits(x)) == y).numpy()


def robust(target: Target, x: torch.Tensor, y: torch.Tensor, steps: int, seed: int) -> Bits:
    """Whether each image is classified correctly, untouched and after PGD on the margin at EPS (n,)."""
    found = attacked.attack(target, x, y, f"pgd(steps={steps}, loss=margin)", eps=EPS, seed=seed)
    return correct(target, x, y) & ~found.success


@dataclass(frozen=True)
class Row:
    """One swap in one network: what it is held against, and per seed (seeds, n) what stood before and after."""

    model: str
    kind: str
    to: str
    against: str
    clean: tuple[float, float]
    before: Bits
    after: Bits

    @property
    def found(self) -> Any:
        """The difference of the means over seeds, image by image, with interval and p."""
        before, after = self.before.mean(0), self.after.mean(0)
        interval = statistics.paired_mean(before, after)
        return interval, statistics.sign_flip(before, after)

    @property
    def each(self) -> list[float]:
        """McNemar's exact p of every seed."""
        return [float(statistics.paired(b, a).p or 0) for b, a in zip(self.before, self.after, strict=True)]


def measured(name: str, setting: Setting, say: Callable[[str], None]) -> Iterator[Row]:
    """Every swap in one kind of network, on the same images."""
    x, y = (part[: setting.images] for part in pair(digits().test))
    seeds = range(setting.seeds)

    def outcome(chain: str | None) -> tuple[float, Bits]:
        clean, bits = [], []
        for seed in seeds:
            target = trained(MODELS[name], seed)
            if chain is not None:
                target, _ = defended(target, chain, seed)
            clean.append(correct(target, x, y).mean())
            bits.append(robust(target, x, y, setting.steps, seed))
        say(f"{name}, {chain or 'as trained'}")
        return float(np.mean(clean)), np.stack(bits)

    as_trained = outcome(None)
    for to in ACTIVATIONS:
        clean, after = outcome(f"swap(to={to})")
        yield Row(name, "straight", to, "as trained", (as_trained[0], clean), as_trained[1], after)
    kinds = {"recalibrated": ", recalibrate=true"} if "norm" in MODELS[name] else {}
    # recalibrated first where there is batch norm, as anyone would
    kinds["fine-tuned"] = f"{kinds.get('recalibrated', '')}, finetune={setting.epochs}, twin=false"
    for kind, option in kinds.items():
        control = outcome(f"swap(to=relu{option})")
        both = (as_trained[0], control[0])
        yield Row(name, kind, "relu (control)", "as trained", both, as_trained[1], control[1])
        for to in ACTIVATIONS:
            clean, after = outcome(f"swap(to={to}{option})")
            yield Row(name, kind, to, "control", (control[0], clean), control[1], after)


def robust_table(setting: Setting, say: Callable[[str], None]) -> Iterator[str]:
    """Markdown: every swap against what it is compared with; the verdict counts all of one network and kind."""
    x = pair(digits().test)[0]
    yield (
        f"Swaps under linf:{EPS}, PGD with {setting.steps} steps on the margin, {min(setting.images, len(x))} digits, "
        f"{setting.seeds} seeds. Robust accuracy is of the attacked, untouched errors counting as broken."
    )
    yield ""
    yield "| network | swap | to | against | clean | robust | points (95 %) | p, raised | p of each seed | verdict |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name in setting.models:
        for _, same in itertools.groupby(measured(name, setting, say), key=lambda row: row.kind):
            rows = list(same)
            found = [row.found for row in rows]
            raised = statistics.holm([p for _, p in found])
            for row, (difference, _), p in zip(rows, found, raised, strict=True):
                yield _line(row, difference, p)


def _line(row: Row, difference: Any, p: float) -> str:
    detected = p < 0.05 and not difference.low <= 0 <= difference.high
    verdict = ("better" if difference.difference > 0 else "worse") if detected else "no detectable effect"
    points = [100 * value for value in (difference.difference, difference.low, difference.high)]
    cells = (
        *(row.model, row.kind, row.to, row.against),
        f"{row.clean[0]:.3f} to {row.clean[1]:.3f}",
        f"{row.before.mean():.3f} to {row.after.mean():.3f}",
        f"{points[0]:+.1f} ({points[1]:+.1f} to {points[2]:+.1f})",
        f"{p:.3g}",
        ", ".join(f"{each:.2g}" for each in row.each),
        verdict,
    )
    return f"| {' | '.join(cells)} |"


def confidence(target: Target, u: torch.Tensor, alpha: float) -> NDArray[np.float64]:
    """The largest probability at alpha * u (n, *shape), in float64."""
    target.model.double()
    try:
        with torch.no_grad():
            return torch.softmax(target.model(alpha * u.double()), 1).amax(1).numpy()
    finally:
        target.model.float()


def far_table(setting: Setting, say: Callable[[str], None]) -> Iterator[str]:
    """Markdown: mean confidence by alpha, before a swap, after it, fine-tuned, and trained with it from the start."""
    u = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x, y = pair(digits().test)
    yield f"Mean confidence at alpha * u, u uniform noise, float64; digits MLP, {setting.seeds} seeds."
    yield ""
    yield (
        "| activation | how | clean | "
        + " | ".join(f"alpha {alpha:g}" for alpha in ALPHAS)
        + " | share >= 0.99 at 1e6 |"
    )
    yield "|---" * (4 + len(ALPHAS)) + "|"
    bounded = ("relu6", "hardtanh(lower=-1, upper=1)", "tanh", "sigmoid")
    cases: list[tuple[str, str, str, str | None]] = [("relu", "as trained", "mlp", None)]
    cases.append(("relu", "temperature", "mlp", "temperature"))
    for to in (*bounded, "gelu", "softplus"):
        cases.append((to, "swapped straight", "mlp", f"swap(to={to})"))
        cases.append((to, f"swapped, {setting.epochs} epochs", "mlp", f"swap(to={to}, finetune={setting.epochs})"))
    more = (*bounded, "leaky_relu", "gelu", "softplus")
    cases += [(to, "from the start", f"mlp(activation={to})", None) for to in more]
    for to, how, spec, chain in cases:
        means, sure, clean = [], [], []
        for seed in range(setting.seeds):
            target = trained(spec, seed)
            if chain is not None:
                target, _ = defended(target, chain, seed)
            clean.append(correct(target, x, y).mean())
            levels = [confidence(target, u, alpha) for alpha in ALPHAS]
            means.append([level.mean() for level in levels])
            sure.append((levels[-1] >= 0.99).mean())
        say(f"far, {to} {how}")
        columns = " | ".join(f"{value:.3f}" for value in np.mean(means, 0))
        yield f"| {to} | {how} | {np.mean(clean):.3f} | {columns} | {np.mean(sure):.3f} |"


def learnable_table(setting: Setting, say: Callable[[str], None]) -> Iterator[str]:
    """Markdown: train-test gaps of a learned activation and of its fixed form, fine-tuned alike."""
    x, y = (part[: setting.images] for part in pair(digits().test))
    seen_x, seen_y = (part[: setting.images] for part in pair(digits().train))
    yield f"Train-test gaps after {setting.epochs} epochs of fine-tuning, in points; mean of {setting.seeds} seeds."
    yield ""
    yield "| network | to | fitted on | clean gap | robust accuracy, train | test | gap | learned values |"
    yield "|---|---|---|---|---|---|---|---|"
    pairs = (("prelu", "leaky_relu(slope=0.25)"), ("pswish", "swish(beta=1.0)"))
    for name in setting.models:
        for to in (each for both in pairs for each in both):
            for fitted_on in ("clean", "adversarial"):
                chain = f"swap(to={to}, finetune={setting.epochs}, twin=false)"
                if fitted_on == "adversarial":
                    inner = f"eps={EPS}, inner=pgd(steps=5), epochs={setting.epochs}"
                    chain = f"swap(to={to}) | adversarial_training({inner})"
                gaps, before, after, values = [], [], [], []
                for seed in range(setting.seeds):
                    target, _ = defended(trained(MODELS[name], seed), chain, seed)
                    gaps.append(correct(target, seen_x, seen_y).mean() - correct(target, x, y).mean())
                    before.append(robust(target, seen_x, seen_y, setting.steps, seed).mean())
                    after.append(robust(target, x, y, setting.steps, seed).mean())
                    values += [float(v) for k, v in target.model.state_dict().items() if k.startswith("stands.")]
                say(f"learnable, {name} {to} {fitted_on}")
                learned = f"{min(values):.2f} to {max(values):.2f}" if values else "none"
                yield (
                    f"| {name} | {to} | {fitted_on} | {100 * np.mean(gaps):.1f} | {np.mean(before):.3f} | "
                    f"{np.mean(after):.3f} | {100 * (np.mean(before) - np.mean(after)):.1f} | {learned} |"
                )


PARTS = {"robust": robust_table, "far": far_table, "learnable": learnable_table}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was asked for as markdown, line by line; progress goes to standard error."""
    import sys

    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "parts", nargs="*", choices=(*PARTS, []), help="robust, far, learnable; all where none is named"
    )
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=["mlp", "cnn"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=539)
    parser.add_argument("--steps", type=int, default=40, help="of PGD")
    parser.add_argument("--epochs", type=int, default=5, help="of fine-tuning")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    setting = Setting(tuple(given.models), given.seeds, given.images, given.steps, given.epochs)
    for part in given.parts or PARTS:
        for line in PARTS[part](setting, lambda text: print(text, file=sys.stderr, flush=True)):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
