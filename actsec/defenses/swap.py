"""Activation swap: all or chosen activation calls compute another function, by itself or retrained.

Four things under one name, judged apart. Straight (the default): the old weights under a new activation, which is no
defense. Recalibrated: batch-norm statistics are estimated anew on the training split, since a new activation shifts
what every later layer sees. Fine-tuned: all weights are trained for some epochs at a low learning rate, after
recalibration where both are asked for. Fine-tuned on adversarial examples is a chain, and the chain is attacked end to
end: ``swap(to=silu) | adversarial_training(eps=0.1)``. Published gains come with the latter (Xie et al. 2020, "Smooth
adversarial training"; Dai et al. 2021), not from the swap.

Whatever was asked for, fitting says what it did to clean answers: on the calibration split (the training split where
there is none; at most 2,000 examples, evenly spaced), clean accuracy before, right after the swap and at the end, and
the share of decisions that stayed; how many calls were replaced of those found; which were left, and which could not be
resolved. A learnable activation (prelu, pswish) has a parameter per call, which ``weight_decay`` spares and
``activation_decay`` does not: He et al. (2015) leave PReLU undecayed, since decay drives it to ReLU. Once fine-tuned,
its accuracy on training data and on the calibration split stands beside that of its fixed form, trained the same way.

Cost: one forward of the examples compared on before the swap, one after it and one at the end; recalibrated, one
forward of the training split; fine-tuned, one forward and one backward of it an epoch, twice that for a learnable
activation with its twin. ``forwards`` and ``backwards`` count the last two.

Known failures: tanh, sigmoid and softplus in place of relu wreck a network that is not fine-tuned; kwta masks
gradients and step estimates them, so only gradient-free attacks measure them; relu6 and hardtanh are bounded, which
mends confidence far from the data, and saturate where relu does not.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from actsec import training
from actsec.activations import Activation, activation, find, replace
from actsec.activations.replacing import Swapped, replaceable
from actsec.defenses._learning import Asked, decisions_of, fine_tuned, learn, recipe_of, require, split_of
from actsec.draws import Draws
from actsec.errors import ModelError
from actsec.spec import Spec
from actsec.types import Fitted, Material, Split, Target

COMPARED = 2000
"""The most examples on which clean answers before and after are compared."""


@dataclass(frozen=True, slots=True)
class Swap:
    """Another activation function at all or chosen sites."""

    to: Annotated[Spec, "any activation of the catalogue but maxout, with its options"]
    sites: Annotated[str | tuple[str, ...], "names of the calls to replace: a glob, or a list of globs"] = "*"
    recalibrate: Annotated[bool, "estimate batch-norm statistics anew on the training split"] = False
    finetune: Annotated[int, "epochs of training after the swap; 0 leaves the weights"] = 0
    learning_rate: Annotated[float, "the highest learning rate of fine-tuning"] = 1e-3
    batch_size: Annotated[int, "examples an update of fine-tuning"] = 64
    weight_decay: Annotated[float, "L2 penalty of fine-tuning, of all but learned activations"] = 0.0
    activation_decay: Annotated[float, "L2 penalty of learned activations"] = 0.0
    twin: Annotated[bool, "fine-tune a learnable activation's fixed form as well, to report both gaps"] = True

    claims: ClassVar[str] = (
        "Changes which units can die or saturate; without fine-tuning it is not a defense, and with it any gain must "
        "show in attacks on the swapped model."
    )
    adaptive: ClassVar[tuple[str, ...]] = ("pgd(loss=margin)", "square")

    def __post_init__(self) -> None:
        replaceable(self.to)
        require(bool(self.sites), "swap(sites=...)", list(self.sites), "at least one name, or a glob such as *")
        fine_tuned(self, "twin")

    @property
    def kind(self) -> Literal["robustness", "calibration", "stability"]:
        """What it may be credited with: robustness once weights were trained, before that what units do."""
        return "robustness" if self.finetune else "stability"

    @property
    def needs(self) -> Literal["nothing", "calibration", "train"]:
        """``train`` when it recalibrates or fine-tunes, otherwise nothing."""
        return "train" if self.recalibrate or self.finetune else "nothing"

    def wrap(self, target: Target) -> Target:
        """The target with the chosen calls replaced. Raises UnknownName, listing the sites, for a glob without one."""
        return self._swapped(target, activation(self.to))

    def fit(self, target: Target, material: Material) -> Fitted:
        """Recalibrate and fine-tune as asked. Raises DataError without a training split where one is needed."""
        if not isinstance(target.model, Swapped):
            raise ModelError("swap is fitted to a model it has not wrapped", "Call wrap(target) first.")
        split = split_of(material, "train", "swap") if self.needs == "train" else None
        before, made = target.having(model=target.model.model), activation(self.to)
        twin = None
        if self.finetune and self.twin and made.learnable:
            twin = self._swapped(before, made.fixed)
        clean = _Clean.of(before, material)
        numbers = {"to": str(self.to), "epochs": 0, "forwards": 0, "backwards": 0, **_sites(target), **clean.beginning}
        numbers |= clean.now(target, "straight")
        notes: list[str] = []
        if split is not None:
            trained, notes = self._train(target, split, material, "swap")
            numbers |= trained
        if not self.finetune:
            notes.append(
                ("No weight was trained" if self.recalibrate else "Straight swap: no weight was trained")
                + ", so it is not a defense."
            )
        numbers |= clean.now(target, "after") if split is not None else clean.same(numbers)
        notes += clean.words(numbers) + _site_words(numbers)
        if self.finetune:
            numbers["generalisation"] = _gap(target, material)
        if made.learnable:
            numbers["learned"] = {name: _values(stand) for name, stand in _own(target)}
        if twin is not None and split is not None:
            alone = dataclasses.replace(material, checkpoint=None)
            learnt, _ = self._train(twin, split, alone, f"swap, {made.fixed.spec}")
            numbers |= {name: numbers[name] + learnt[name] for name in ("forwards", "backwards")}
            numbers["fixed"] = {"to": str(made.fixed.spec), **_gap(twin, material)}
            notes.append(_gap_words(made, numbers))
        return Fitted(numbers, tuple(notes))

    def _swapped(self, target: Target, to: Activation) -> Target:
        only = None if self.sites == "*" else self.sites
        return target.having(model=replace(target.model, to, only=only, example=example_of(target)))

    def _train(self, target: Target, split: Split, material: Material, label: str) -> tuple[dict[str, Any], list[str]]:
        """Recalibrate and fine-tune in place: numbers, and what there is to say."""
        numbers: dict[str, Any] = {}
        notes = []
        forwards = 0
        if self.recalibrate:
            material.tell(f"{label}: batch-norm statistics", 0, 1)
            layers = training.recalibrate_batchnorm(Asked(target), split.x)
            forwards = len(split.y) if layers else 0
            numbers |= {"batch_norm_layers_recalibrated": layers, "forwards": forwards}
            if not layers:
                notes.append("The model has no batch-norm layer, so there was nothing to recalibrate.")
        if self.finetune:
            learnt = learn(target, split, recipe_of(self, material.seed), material, label)
            numbers |= {**learnt, "forwards": forwards + learnt["forwards"]}
            if activation(self.to).learnable:
                numbers["activation_decay"] = self.activation_decay
        return numbers, notes


def example_of(target: Target) -> Tensor:
    """Two inputs as the model sees them: uniform in the box, always the same, normalised."""
    low, high = target.bounds
    drawn = Draws(0, "example").uniform(torch.arange(2, device=target.device), 0, target.shape)
    x = low + (high - low) * drawn
    return target.normalization(x) if target.normalization else x


@dataclass(frozen=True, slots=True)
class _Clean:
    """Clean answers of the model before the swap, to compare later ones with; rows is None where there is no data."""

    rows: Split | None
    name: str
    labels: Tensor
    seed: int

    @classmethod
    def of(cls, before: Target, material: Material) -> _Clean:
        for name, split in (("calibration", material.calibration), ("training", material.train)):
            if split is not None and len(split.y):
                rows = _spaced(split)
                return cls(rows, name, decisions_of(before, rows.x, material.seed).argmax(-1).cpu(), material.seed)
        return cls(None, "", torch.zeros(0), material.seed)

    @property
    def beginning(self) -> dict[str, Any]:
        if self.rows is None:
            return {"compared": 0}
        return {
            "compared": len(self.rows.y),
            "compared_on": self.name,
            "clean_accuracy_before": _share(self.labels == self.rows.y.cpu()),
        }

    def now(self, target: Target, when: str) -> dict[str, Any]:
        """Clean accuracy and the share of decisions that are as before the swap."""
        if self.rows is None:
            return {}
        labels = decisions_of(target, self.rows.x, self.seed).argmax(-1).cpu()
        return {
            f"clean_accuracy_{when}": _share(labels == self.rows.y.cpu()),
            f"agreement_{when}": _share(labels == self.labels),
        }

    def same(self, numbers: dict[str, Any]) -> dict[str, Any]:
        """What was found right after the swap, where nothing was trained since."""
        keys = () if self.rows is None else ("clean_accuracy", "agreement")
        return {f"{key}_after": numbers[f"{key}_straight"] for key in keys}

    def words(self, numbers: dict[str, Any]) -> list[str]:
        """The change of clean accuracy in a sentence."""
        if self.rows is None:
            return ["There was no data to compare clean answers on before and after the swap."]
        first, last = numbers["clean_accuracy_before"], numbers["clean_accuracy_after"]
        between = numbers["clean_accuracy_straight"]
        path = f"{first:.1%} to {last:.1%}" if between == last else f"{first:.1%}, {between:.1%} swapped, {last:.1%}"
        kept = numbers["agreement_after"]
        return [f"Clean accuracy {path} on {len(self.rows.y)} {self.name} examples; {kept:.1%} of decisions as before."]


def _sites(target: Target) -> dict[str, Any]:
    """How many calls were replaced, of how many that could be; what was left, and what could not be resolved."""
    found = find(target.model.model, example_of(target))  # type: ignore[arg-type]  # Swapped.model, a module
    own = {name for name, _ in _own(target)}
    return {
        "sites": len(own),
        "sites_found": len(found.active),
        "sites_left": [site.name for site in found.active if site.name not in own],
        "unresolved": [f"{item.name or 'the model'}: {item.reason}" for item in found.unresolved],
    }


def _site_words(numbers: dict[str, Any]) -> list[str]:
    said = []
    if numbers["sites_left"]:
        said.append(f"Left as they were: {', '.join(numbers['sites_left'])}.")
    if numbers["unresolved"]:
        said.append(f"Act as activations and could not be replaced: {'; '.join(numbers['unresolved'])}.")
    return said


def _own(target: Target) -> list[tuple[str, torch.nn.Module]]:
    """The replacements of a swapped target by the names of their sites."""
    stands = target.model.stands
    assert isinstance(stands, torch.nn.ModuleDict)  # noqa: S101  # for the type checker: fit looked
    return [(key.replace("/", "."), stand) for key, stand in stands.items()]


def _values(module: torch.nn.Module) -> list[float]:
    return [value for p in module.parameters() for value in p.detach().flatten().tolist()]


def _gap(target: Target, material: Material) -> dict[str, Any]:
    """Clean accuracy on training data, on the calibration split where there is one, and their difference."""
    shares = {}
    for name, split in (("train_accuracy", material.train), ("held_out_accuracy", material.calibration)):
        if split is not None and len(split.y):
            rows = _spaced(split)
            labels = decisions_of(target, rows.x, material.seed).argmax(-1).cpu()
            shares[name] = _share(labels == rows.y.cpu())
    gap = shares["train_accuracy"] - shares["held_out_accuracy"] if len(shares) == 2 else None
    return {**shares, "gap": gap}


def _gap_words(made: Activation, numbers: dict[str, Any]) -> str:
    own, fixed = numbers["generalisation"], numbers["fixed"]
    if own["gap"] is None:
        return f"{made.spec}: no calibration split, so its train-test gap beside {fixed['to']} is not known."
    return (
        f"Train-test gap {100 * own['gap']:.1f} points, {100 * fixed['gap']:.1f} with {fixed['to']} in its place "
        f"(held-out accuracy {own['held_out_accuracy']:.1%} and {fixed['held_out_accuracy']:.1%})."
    )


def _spaced(split: Split) -> Split:
    """At most COMPARED rows of a split, evenly spaced, since rows may be sorted by class."""
    if len(split.y) <= COMPARED:
        return split
    rows = torch.linspace(0, len(split.y) - 1, COMPARED).round().long().to(split.y.device)
    return Split(split.x[rows], split.y[rows], split.id[rows])


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
