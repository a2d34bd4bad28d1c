"""What to do: the plan. Its TOML is read in ``reading.py``, the jobs it comes to stand in ``jobs.py``.

A plan with gaps is a request; ``resolving.resolve`` fills the gaps and changes nothing that is written, so a resolved
plan given back resolves to itself. Paths are kept as written. Job ids hash content (weights, data, specs, seed), never
paths.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from actsec.search.features import FeatureRule
from actsec.types import MEMORY

SCHEMA = 5
"""Raised when a job would give other numbers for the same recipe."""
CHECKED = ("noise", "single_step", "iterative", "doubled", "margin", "gradient_free", "unbounded", "transfer")
"""Roles that the sanity checks read, all on the same images."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One attack under one threat on the first ``samples`` images. role ties it to the sanity checks."""

    attack: str
    threat: str = ""
    samples: int = 0
    role: str = ""
    variants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything an audit is told. Each field is a TOML key and a command-line option of the same name."""

    model: Annotated[str, "file.py:factory, package.module:factory, torchvision:NAME, reference:NAME"] = "reference:cnn"
    weights: Annotated[str | None, "safetensors file or weights-only state dict"] = None
    data: Annotated[str, "test data: digits, wine, a .npz or .csv file, an image folder or file.py:factory"] = "digits"
    train: Annotated[str | None, "training data, for defenses that train"] = None
    calibration: Annotated[str | None, "calibration data; taken from the test data where not given"] = None
    activations: Annotated[tuple[str, ...], "build the reference model with each of these"] = ()
    attacks: Annotated[tuple[Trial, ...], "attacks to run, such as pgd(steps=200)"] = ()
    defenses: Annotated[tuple[str, ...] | None, "chains of defenses, such as swap(to=silu) | temperature"] = None
    corruptions: Annotated[tuple[str, ...] | None, "measured beside the attacks, such as blur(severity=3); none"] = None
    eps: Annotated[
        float | None, "L-inf budget in input units [8/255 of colour images, else 0.1 of the range; 0.3 of a table]"
    ] = None
    samples: Annotated[int | None, "images attacked [by the budget: 150, 1000 or 5000]"] = None
    per_class: Annotated[int | None, "images attacked of each class, instead of in proportion"] = None
    budget: Annotated[str, "quick, standard or thorough"] = "quick"
    second_opinion: Annotated[bool, "run ART's counterpart of each attack on a sample and report disagreements"] = False
    seed: Annotated[int, "of everything random"] = 0
    resize: Annotated[str | None, "a stated transform of image folders, such as resize=256,crop=224"] = None
    bounds: Annotated[str | None, "range of float inputs, such as 0,255; eps is in these units [0,1]"] = None
    mask: Annotated[str | None, ".npy, .npz or black-and-white picture: which pixels the adversary may change"] = None
    normalize: Annotated[str | None, "imagenet, torchvision or MEAN/STD, applied before the model"] = None
    threshold: Annotated[float | None, "two classes: say class 1 above this probability"] = None
    output: Annotated[str | None, "which field of the model's output holds the logits"] = None
    expect_accuracy: Annotated[float | None, "stop when clean accuracy does not reach this"] = None
    random_weights: Annotated[bool, "accept a torchvision model without weights"] = False
    trust_model: Annotated[bool, "open files that execute code when opened"] = False
    device: Annotated[str, "cpu, cuda or mps"] = "cpu"
    threads: Annotated[int, "threads of every worker: part of the plan, since it moves the last bit"] = 1
    memory: Annotated[int, "MiB that activations of one model call may take: part of the plan, as threads are"] = MEMORY
    shard: Annotated[int, "images in one job"] = 250
    timeout: Annotated[float | None, "seconds one job may take; a longer one has failed, alone"] = None
    gates: Annotated[tuple[str, ...], "conditions such as robust_accuracy@linf:0.1>=0.3"] = ()
    accept: Annotated[tuple[str, ...], "findings out of the gates until a day: 'ACT-D01 until 2027-03-31: why'"] = ()
    evidence: Annotated[tuple[str, ...], "for the evidence page: system=, version=, purpose=, tester=, approver="] = ()
    no_examples: Annotated[bool, "keep inputs, paths, names and secrets out of reports; RUN/share may be handed on"] = (
        False
    )
    label_column: Annotated[str | None, "tables: the column of labels, or several of 0 and 1 (a,b,c)"] = None
    label: Annotated[str | None, "tables: which of several label columns is audited"] = None
    positive: Annotated[str | None, "report the miss rate of this class, clean and attacked"] = None
    raw_units: Annotated[bool, "tables: the model takes the columns' own units, not standardised ones"] = False
    features: Annotated[tuple[FeatureRule, ...], "tables: rules such as 'AGE(step=1, min=0, direction=up)'"] = ()

    def having(self, **changes: Any) -> Plan:
        """A copy with these fields replaced."""
        return dataclasses.replace(self, **changes)

    @property
    def reference(self) -> bool:
        """Whether the models are trained in the run."""
        return self.model.startswith("reference:") and self.weights is None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the plan's names stand for: content hashes. model is the fingerprint of the loaded target, or the recipe.

    confined says that a table's rules or a mask keep rows from being turned into any other.
    """

    model: str
    test: str
    train: str | None
    calibration: str | None
    shape: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    grid: int | None = None
    rows: int = 0
    versions: str = ""
    contents: tuple[tuple[str, str], ...] = ()
    """Attacks that name a run or another model, and the same text with a content hash in the place of each name."""
    confined: bool = False
    mask: str | None = None
