"""python -m benchmarks.training: what adversarial training gives, what it costs, and beside ART's.

    digits        adversarial training, FGSM-RS and TRADES against standard training, at L-inf 0.15
    cifar         a ResNet-20 of others, fine-tuned by each of two ways at 8/255 (shared data)
    art           ours beside ART's AdversarialTrainerMadryPGD: the same recipe, interleaved
    activations   smooth activations against relu under adversarial training, paired by seed
    masking       label smoothing and its relatives: what cross-entropy PGD says, and what the cascade says

Robust accuracy is always what our cascade leaves, on images no training has seen; clean errors count as not robust.
Weights, numbers and a table go to --out; what is there is not run again, and a training that was interrupted goes on.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from actsec import models, registry, training
from actsec.data import Splits, load
from actsec.errors import ActsecError
from actsec.running.store import Store, Training
from actsec.running.tasks import perturb
from actsec.search.ledger import ALREADY_WRONG, FOUND
from actsec.search.referee import attack_target, cases_of
from actsec.types import Material, Split, Target
from actsec.verdict.statistics import paired, share_of
from benchmarks.scenes import Absent, scene, shared_folder

SEEDS = 5
EPS = 0.15
CIFAR_EPS = 8 / 255
CIFAR_TEST = 500


@dataclass(frozen=True, slots=True)
class Room:
    """A folder of numbers by name (training.json) and of weights. What is there is not made again."""

    folder: Path

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The numbers of that name, made and stored at once where they are not there yet."""
        path = self.folder / "training.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        if name not in known:
            print(f"... {name}", flush=True)
            known[name] = make()
            Store(self.folder).put_file("training.json", (json.dumps(known, indent=1) + "\n").encode())
        found: dict[str, Any] = known[name]
        return found

    def defended(self, name: str, spec: str, target: Target, train: Split, seed: int) -> tuple[Target, dict[str, Any]]:
        """The target behind a defense fitted with a seed, and what fitting it told; made once."""
        defense = registry.build("defenses", spec)
        made, weights = defense.wrap(target), self.folder / f"{name}.safetensors"

        def fit() -> dict[str, Any]:
            kept = Training(Store(self.folder), f"training/{name}")
            material = Material(None, train, seed, perturb, lambda *told: print("   ", *told, flush=True), kept)
            began = time.perf_counter(), time.process_time()
            told = dict(defense.fit(made, material).numbers)
            seconds, busy = time.perf_counter() - began[0], time.process_time() - began[1]
            save_file({key: value.contiguous() for key, value in made.model.state_dict().items()}, weights)
            return {"spec": spec, "seconds": round(seconds, 1), "cpu_seconds": round(busy, 1), **told}

        told = self.once(f"{name}: training", fit)
        made.model.load_state_dict(load_file(weights))
        return made, told

    def judged(self, name: str, target: Target, test: Split, eps: float, attack: str = "cascade") -> dict[str, Any]:
        """Which test rows are right, and which stay so under an attack, as bits."""

        def judge() -> dict[str, Any]:
            cases = cases_of(target, test.x, test.y, "linf", eps, test.id)
            verdicts = attack_target(registry.build("attacks", attack), target, cases, seed=0, name=attack)
            clean = verdicts.status != ALREADY_WRONG
            robust = clean & (verdicts.status != FOUND)
            return {"attack": attack, "eps": eps, "clean": clean.int().tolist(), "robust": robust.int().tolist()}

        return self.once(f"{name}: {attack}", judge)


def digits() -> tuple[Split, Split]:
    """The digits to learn from and those to be judged by."""
    splits = load("digits")
    assert isinstance(splits, Splits)
    assert splits.train is not None
    train, test = (
        Split(torch.from_numpy(part.x), torch.from_numpy(part.y), torch.arange(len(part)))
        for part in (splits.train, splits.test)
    )
    return train, test


def standard(spec: str, train: Split, seed: int) -> Target:
    """A reference network, trained as the audit trains it."""
    target = untrained(spec, seed)
    target.model.requires_grad_(True)
    training.fit(target.model, train.x, train.y, training.Recipe(seed=seed))
    return target


def untrained(spec: str, seed: int) -> Target:
    """A reference network for the digits as it is made."""
    return Target(models.build(spec, (1, 8, 8), 10, seed=seed), (1, 8, 8), tuple("0123456789"), name=spec)


def said(bits: list[int]) -> str:
    """A share with its 95 % interval."""
    found = share_of(np.array(bits, dtype=bool))
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


# ---- the experiments: each yields the lines of its table


def on_digits(room: Room) -> Iterator[str]:
    """The digits CNN at L-inf 0.15, three seeds."""
    ways = {
        "adversarial training": f"adversarial_training(eps={EPS})",
        "FGSM-RS": f"fast_training(eps={EPS})",
        "TRADES": f"trades(eps={EPS})",
    }
    train, test = digits()
    yield f"Digits, CNN, L-inf {EPS}, {len(test.y)} test images, cascade\n"
    yield "| seed | training | clean accuracy | robust accuracy | gain in robust accuracy | epoch kept |"
    yield "|---|---|---|---|---|---|"
    least = []
    for seed in range(3):
        base = standard("cnn", train, seed)
        first = room.judged(f"digits standard {seed}", base, test, EPS)
        yield f"| {seed} | standard | {said(first['clean'])} | {said(first['robust'])} | | |"
        for way, spec in ways.items():
            name = f"digits {way} {seed}"
            made, told = room.defended(name, spec, base, train, seed)
            found = room.judged(name, made, test, EPS)
            gain = paired(np.array(first["robust"], bool), np.array(found["robust"], bool))
            least.append((way, gain.low))
            yield (
                f"| {seed} | {way} | {said(found['clean'])} | {said(found['robust'])} | {gain.difference:+.3f} "
                f"[{gain.low:+.3f}, {gain.high:+.3f}] | {told['kept_epoch']} of {told['epochs']} |"
            )
    worst = min(low for way, low in least if way == "adversarial training")
    yield f"\nTarget, a gain above 0.3: {'met' if worst > 0.3 else 'MISSED'} (least lower bound {worst:+.3f})"


CIFAR = {
    "PGD-3": "adversarial_training(eps=8/255, inner=pgd(steps=3), epochs=8, validate=0.05, optimizer=sgd, "
    "learning_rate=0.05, batch_size=128, weight_decay=0.0005)",
    "FGSM-RS": "fast_training(eps=8/255, epochs=14, holdout=0.05, optimizer=sgd, learning_rate=0.05, batch_size=128, "
    "weight_decay=0.0005)",
}


def on_cifar(room: Room) -> Iterator[str]:
    """The ResNet-20 of the shared data, from its own weights, on 5,000 training images."""
    found = scene("resnet20", room.folder)
    with np.load(shared_folder() / "cifar10_train_5k.npz", allow_pickle=False) as file:
        x, y = torch.from_numpy(file["x"]).float() / 255, torch.from_numpy(file["y"]).long()
    train = Split(x, y, torch.arange(len(y)))
    test = Split(found.x[:CIFAR_TEST], found.y[:CIFAR_TEST], torch.arange(CIFAR_TEST))
    base = Target(found.model, (3, 32, 32), tuple("0123456789"), name="resnet20")
    yield f"CIFAR-10, ResNet-20 from its given weights, L-inf 8/255, first {CIFAR_TEST} test images, cascade\n"
    yield "| training | clean accuracy | robust accuracy | minutes | epoch kept | spec |"
    yield "|---|---|---|---|---|---|"
    first = room.judged("cifar given", base, test, CIFAR_EPS)
    yield f"| none | {said(first['clean'])} | {said(first['robust'])} | | | |"
    met = []
    for way, spec in CIFAR.items():
        name = f"cifar {way}"
        made, told = room.defended(name, spec, base, train, 0)
        judged = room.judged(name, made, test, CIFAR_EPS)
        met.append(np.mean(judged["robust"]) >= 0.15 and told["seconds"] <= 1800)
        yield (
            f"| {way} | {said(judged['clean'])} | {said(judged['robust'])} | {told['seconds'] / 60:.1f} | "
            f"{told['kept_epoch']} of {told['epochs']} | `{spec}` |"
        )
    yield f"\nTarget, at least 0.15 within 30 minutes: {'met' if any(met) else 'MISSED'}"


OURS = {
    "same recipe": "pgd(steps=7, step_size=0.05)",
    "3 longer steps": "pgd(steps=3, step_size=0.1)",
}
"""Our inner attacks beside ART's 7 steps of 0.05: the very same, and the one that was chosen, once, to be cheaper."""


def beside_art(room: Room, repeats: int = 5) -> Iterator[str]:
    """Ours and ART's from the same initial weights: 15 epochs of batches of 64, Adam at 1e-3; ART's attack as given."""
    train, test = digits()
    spec = (
        f"adversarial_training(eps={EPS}, inner={{inner}}, epochs=15, validate=0, "
        "learning_rate=0.001, schedule=constant)"
    )
    yield "Digits, CNN: ours beside ART's AdversarialTrainerMadryPGD (7 steps of 0.05), from the same initial weights\n"
    yield f"`{spec}`\n"
    yield "| run | inner attack | ours: seconds | ART: seconds | ART / ours | ours: robust | ART: robust | difference |"
    yield "|---|---|---|---|---|---|---|---|"
    ratios: dict[str, list[float]] = {way: [] for way in OURS}
    changes: dict[str, list[float]] = {way: [] for way in OURS}
    for seed in range(repeats):
        start = untrained("cnn", seed)
        theirs, cost = _by_art(room, f"art theirs {seed}", start, train, seed)
        art = room.judged(f"art theirs {seed}", theirs, test, EPS)
        for way, inner in OURS.items():
            name = f"art ours, {way} {seed}"
            mine, told = room.defended(name, spec.format(inner=inner), start, train, seed)
            ours = room.judged(name, mine, test, EPS)
            change = paired(np.array(art["robust"], bool), np.array(ours["robust"], bool))
            ratios[way].append(cost["cpu_seconds"] / told["cpu_seconds"])
            changes[way].append(change.difference)
            yield (
                f"| {seed} | {way} | {told['cpu_seconds']:.1f} | {cost['cpu_seconds']:.1f} | {ratios[way][-1]:.2f} | "
                f"{said(ours['robust'])} | {said(art['robust'])} | {change.difference:+.3f} [{change.low:+.3f}, "
                f"{change.high:+.3f}] |"
            )
    for way in OURS:
        middle, interval = statistics.median(ratios[way]), t_interval(changes[way])
        yield (
            f"\n{way}: at most half of ART's time {'met' if middle >= 2 else 'MISSED'} (median ratio {middle:.2f} of "
            f"processor seconds, runs interleaved); robust accuracy, ours less ART's over seeds: {interval[0]:+.3f} "
            f"[{interval[1]:+.3f}, {interval[2]:+.3f}]"
        )


def _by_art(room: Room, name: str, start: Target, train: Split, seed: int) -> tuple[Target, dict[str, Any]]:
    """ART's trainer, its attack given whole batches where its default is 32."""
    from art.defences.trainer import AdversarialTrainerMadryPGD
    from art.estimators.classification import PyTorchClassifier

    model = deepcopy(start.model).requires_grad_(True)
    weights = room.folder / f"{name}.safetensors"

    def fit() -> dict[str, Any]:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # ART draws from the global generator
        classifier = PyTorchClassifier(
            model,
            nn.CrossEntropyLoss(),
            (1, 8, 8),
            10,
            optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        trainer = AdversarialTrainerMadryPGD(classifier, 15, 64, EPS, 0.05, 7, 1)
        trainer.attack.set_params(batch_size=64, verbose=False)
        began = time.perf_counter(), time.process_time()
        trainer.fit(train.x.numpy(), np.eye(10, dtype=np.float32)[train.y.numpy()])
        cost = {"seconds": time.perf_counter() - began[0], "cpu_seconds": time.process_time() - began[1]}
        save_file(dict(model.state_dict()), weights)
        return cost

    cost = room.once(f"{name}: training", fit)
    model.load_state_dict(load_file(weights))
    return start.having(model=model.eval().requires_grad_(False)), cost


ACTIVATIONS = ("relu", "gelu", "silu", "elu", "tanh")


def by_activation(room: Room, seeds: int = SEEDS) -> Iterator[str]:
    """The digits CNN of each activation, trained adversarially from its own start: one training a seed."""
    train, test = digits()
    spec = f"adversarial_training(eps={EPS}, inner=pgd(steps=5), start=given, validate=0)"
    yield f"Digits, CNN, adversarial training from scratch at L-inf {EPS}, {seeds} seeds, cascade\n"
    yield f"`{spec}`\n"
    yield "| activation | clean accuracy by seed | robust accuracy by seed | mean less relu's, by seed | verdict |"
    yield "|---|---|---|---|---|"
    robust: dict[str, list[float]] = {}
    for name in ACTIVATIONS:
        clean = []
        for seed in range(seeds):
            made, _ = room.defended(
                f"activations {name} {seed}", spec, untrained(f"cnn(activation={name})", seed), train, seed
            )
            found = room.judged(f"activations {name} {seed}", made, test, EPS)
            clean.append(float(np.mean(found["clean"])))
            robust.setdefault(name, []).append(float(np.mean(found["robust"])))
        row = f"| {name} | {' '.join(f'{v:.3f}' for v in clean)} | {' '.join(f'{v:.3f}' for v in robust[name])} | "
        if name == "relu":
            yield row + "| |"
            continue
        interval = t_interval([a - b for a, b in zip(robust[name], robust["relu"], strict=True)], len(ACTIVATIONS) - 1)
        yield row + f"{interval[0]:+.3f} [{interval[1]:+.3f}, {interval[2]:+.3f}] | {verdict(interval)} |"
    yield "\nIntervals are 95 % together for the four comparisons (Student's t over seeds, Bonferroni)."


def t_interval(values: list[float], comparisons: int = 1) -> tuple[float, float, float]:
    """Mean of values, one a seed, and its 95 % interval by Student's t, 95 % for all the comparisons together."""
    from scipy.stats import t

    mean = statistics.fmean(values)
    half = t.ppf(1 - 0.025 / comparisons, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def verdict(interval: tuple[float, float, float]) -> str:
    """What an interval of a difference allows to be said."""
    if interval[1] > 0:
        return "more robust than relu"
    return "less robust than relu" if interval[2] < 0 else "no detectable difference"


MASKING = {
    "standard": "",
    "label smoothing 0.1": "label_smoothing(start=scratch, epochs=20, learning_rate=0.005)",
    "label smoothing 0.5": "label_smoothing(epsilon=0.5, start=scratch, epochs=20, learning_rate=0.005)",
    "confidence penalty 0.5": "confidence_penalty(beta=0.5, start=scratch, epochs=20, learning_rate=0.005)",
    "logit squeezing 0.5": "confidence_penalty(beta=0.5, of=logits, start=scratch, epochs=20, learning_rate=0.005)",
}
WEAK = "pgd(steps=40)"


def by_masking(room: Room) -> Iterator[str]:
    """How much of what output regularisation seems to give is left by attacks that need no cross-entropy."""
    train, test = digits()
    yield f"Digits, CNN, L-inf 0.1: what {WEAK} on cross-entropy says, and what the cascade says\n"
    yield "| training | clean accuracy | robust by cross-entropy PGD | by the cascade | hidden | against standard |"
    yield "|---|---|---|---|---|---|"
    base = standard("cnn", train, 0)
    first: list[int] = []
    for way, spec in MASKING.items():
        made = room.defended(f"masking {way}", spec, base, train, 0)[0] if spec else base
        weak, strong = (room.judged(f"masking {way}", made, test, 0.1, attack) for attack in (WEAK, "cascade"))
        first = first or strong["robust"]
        gain = paired(np.array(first, bool), np.array(strong["robust"], bool))
        hidden = np.mean(weak["robust"]) - np.mean(strong["robust"])
        yield (
            f"| {way} | {said(strong['clean'])} | {said(weak['robust'])} | {said(strong['robust'])} | {hidden:+.3f} | "
            f"{gain.difference:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] |"
        )


EXPERIMENTS: dict[str, Callable[[Room], Iterator[str]]] = {
    "digits": on_digits,
    "cifar": on_cifar,
    "art": beside_art,
    "activations": by_activation,
    "masking": by_masking,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiments", nargs=-1, type=click.Choice(list(EXPERIMENTS)))
@click.option("--out", default="runs/training", show_default=True, type=click.Path(path_type=Path))
@click.option("--threads", type=int, help="Threads torch may use. Default: torch's own choice.")
def main(experiments: tuple[str, ...], out: Path, threads: int | None) -> None:
    """Run EXPERIMENTS (all when none is named) and print their tables; they are written to OUT/training.md too."""
    if threads is not None:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    tables = []
    for name in experiments or tuple(EXPERIMENTS):
        try:
            text = "\n".join(EXPERIMENTS[name](Room(out)))
        except Absent as why:
            text = f"{name}: not measured: {why}"
        tables.append(f"## {name}\n\n{text}\n")
        print(f"\n{tables[-1]}", flush=True)
    Store(out).put_file("training.md", "\n".join(tables).encode())


if __name__ == "__main__":
    try:
        main(standalone_mode=True)
    except ActsecError as error:
        raise SystemExit(str(error)) from None
