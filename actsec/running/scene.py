"""What a plan's names stand for, loaded: its data, its models, its variants.

Every worker loads its own scene from the run folder; what it loads is checked against the hashes the run began with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

import actsec
from actsec import data, models, registry
from actsec import target as targets
from actsec.data import Dataset, Splits, tables
from actsec.data.streamed import blocks
from actsec.errors import DataError, ModelError, PlanError, UsageError
from actsec.planning.jobs import VariantPlan, variants
from actsec.planning.plan import Facts, Plan
from actsec.planning.reading import box
from actsec.search import masks, surrogates
from actsec.search.oracle import Oracle
from actsec.types import Split, Target

CALIBRATION_SHARE = 0.2
CALIBRATION_MOST = 1000
CLEAN_MOST = 10_000
"""Clean accuracy and calibration are measured on at most this many test images, and on all that are attacked."""
IN_CALL = 256
"""Images read at once where all of them are asked."""
MLP = "reference:mlp"
OBJECT = "object:"
"""How a plan names a model or data that was given as a Python object: nothing can load it again."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller handed over as objects rather than names."""

    target: Target | None = None
    splits: Splits | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """A plan with its data, in the order of the attack sample: the first rows of test are the ones attacked."""

    plan: Plan
    splits: Splits
    notes: tuple[str, ...]
    given: Given = Given()  # immutable
    mask: masks.Mask | None = None

    @property
    def test(self) -> Dataset:
        return self.splits.test

    def variant(self, name: str) -> VariantPlan:
        """The variant plan of a name. Raises ModelError."""
        for variant in variants(self.plan):
            if variant.name == name:
                return variant
        raise ModelError(f"the plan has no variant {name!r}", "This run folder was edited by hand.")


def load(plan: Plan, given: Given | None = None) -> Scene:
    """Read the data a plan names, test data in sampling order. Raises DataError and what the loaders raise."""
    given = given or Given()
    plan, told = _for_tables(plan)
    named = {"train": plan.train, "calibration": plan.calibration}
    if plan.data.startswith(OBJECT) and given.splits is None:
        raise not_here("data")
    if tabled := given.splits is None and tables.is_table(plan.data):
        named = {}
    first = given.splits or (_tables(plan) if tabled else _images(plan))
    splits = first if isinstance(first, Splits) else Splits(first)
    if plan.bounds is not None and (splits.test.grid is not None or splits.test.bounds != _box(plan)):
        raise DataError(
            f"--bounds {plan.bounds}: {splits.test.name} holds whole numbers, which are divided to lie in [0, 1]",
            "Leave --bounds out, or store the inputs as floats.",
        )
    loaded = {key: one_set(source, plan, splits.test.classes) for key, source in named.items() if source is not None}
    train, calibration = loaded.get("train", splits.train), loaded.get("calibration", splits.calibration)
    test, notes = splits.test, [*told]
    if calibration is None and len(test) >= 50:
        share = min(CALIBRATION_SHARE, CALIBRATION_MOST / len(test))
        test, calibration = data.split(test, (1 - share, share), plan.seed)
        notes.append(
            f"no calibration data given: {len(calibration)} of the {len(test) + len(calibration)} test images were set "
            "aside for calibration and are not tested"
        )
    for name, other in (("train", train), ("calibration", calibration)):
        if other is not None and other.x.shape[1:] != test.x.shape[1:]:
            raise DataError(
                f"{name} data has shape {other.x.shape[1:]}, test data {test.x.shape[1:]}", f"Give {name} of one shape."
            )
    if plan.per_class is not None:
        sampled = data.sample(test, seed=plan.seed, per_class=plan.per_class)
    else:
        most = max(CLEAN_MOST, plan.samples or 0, *(trial.samples for trial in plan.attacks))
        sampled = data.sample(test, min(len(test), most), seed=plan.seed)
    mask = None if plan.mask is None else masks.read(plan.mask, tuple(test.x.shape[1:]))
    return Scene(plan, Splits(sampled, train, calibration), tuple(notes), given, mask)


def _images(plan: Plan) -> Dataset | Splits:
    for name in ("label_column", "label", "raw_units", "features"):
        if getattr(plan, name) and not plan.data.startswith(OBJECT):
            raise PlanError(f"{name} is for tables, and {plan.data} is none", f"Leave {name} out, or give a .csv file.")
    return data.load(plan.data, seed=plan.seed, resize=plan.resize, bounds=_box(plan))


def _tables(plan: Plan) -> Splits:
    for name, mend in (("bounds", "give min and max of a column: --feature 'AGE(min=0, max=120)'"), ("resize", "")):
        if getattr(plan, name) is not None:
            raise PlanError(f"{name} is for images, and {plan.data} is a table", f"Leave it out{mend and '; ' + mend}.")
    return tables.load(
        plan.data,
        train=plan.train,
        calibration=plan.calibration,
        label_column=plan.label_column,
        label=plan.label,
        rules=plan.features,
        seed=plan.seed,
    )


def _for_tables(plan: Plan) -> tuple[Plan, tuple[str, ...]]:
    """The plan with the reference model that takes rows where it names none, and the note that says so.

    The note stands in the result, which a resumed run repeats: it rests on the model alone.
    """
    if tables.is_table(plan.data) and plan.model == Plan().model:
        plan = plan.having(model=MLP)
    mlp = tables.is_table(plan.data) and plan.model == MLP
    return plan, (f"{Plan().model} takes images: the rows of a table go to {MLP}",) if mlp else ()


def _box(plan: Plan) -> tuple[float, float] | None:
    return None if plan.bounds is None else box(plan.bounds)


def with_classes(splits: Splits, classes: tuple[str, ...]) -> Splits:
    """The same data with the model's classes: labels 0 to 6 alone do not tell that there are 10."""
    parts = (splits.test, splits.train, splits.calibration)
    return Splits(*(None if part is None else dataclasses.replace(part, classes=classes) for part in parts))  # type: ignore[arg-type]  # test stays


def not_here(what: str) -> UsageError:
    """The refusal to load again what was given as an object."""
    return UsageError(
        f"the {what} of this run was given as a Python object and cannot be loaded again",
        "Call actsec.audit with the same objects and out=RUN: it goes on where it stopped.",
    )


def one_set(source: str, plan: Plan, classes: tuple[str, ...]) -> Dataset:
    """The one data set of a source beside the test data. Raises DataError where it holds several."""
    found = data.load(source, seed=plan.seed, resize=plan.resize, n_classes=len(classes), bounds=_box(plan))
    if isinstance(found, Splits):
        raise DataError(f"{source} holds several splits", "Name one set, such as train.npz.")
    return found


def facts(scene: Scene, base: Target | None) -> Facts:
    """Content hashes of the scene. base is the loaded target, or None for reference models trained in the run."""
    plan, splits = scene.plan, scene.splits
    recipe = f"{models.canonical(plan.model)}" if base is None else targets.fingerprint(base)
    theirs = registry.packages(" ".join([*(trial.attack for trial in plan.attacks), *(plan.defenses or ())]))
    return Facts(
        model=recipe,
        test=data.fingerprint(splits.test),
        train=None if splits.train is None else data.fingerprint(splits.train),
        calibration=None if splits.calibration is None else data.fingerprint(splits.calibration),
        shape=tuple(splits.test.x.shape[1:]),
        classes=splits.test.classes,
        grid=splits.test.grid,
        rows=len(splits.test),
        versions=", ".join([versions(), *(f"{name} {version}" for name, version in theirs.items())]),
        contents=contents(scene),
        confined=scene.mask is not None or (splits.test.table is not None and splits.test.table.confined),
        mask=None if scene.mask is None else masks.fingerprint(scene.mask),
    )


def versions() -> str:
    """What numbers depend on beside the plan: the libraries of this process."""
    return f"actsec {actsec.__version__}, torch {torch.__version__}"


def contents(scene: Scene) -> tuple[tuple[str, str], ...]:
    """Facts.contents: of attacks that replay a run or craft on a model of their own. Raises StoreError, ModelError."""
    found: dict[str, str] = {}
    for trial in scene.plan.attacks:
        attack, full = registry.build("attacks", trial.attack), registry.canonical("attacks", trial.attack)
        if hasattr(attack, "content"):
            found[str(full)] = str(full.having(**attack.content()))
        elif (source := surrogate(scene, attack)) is not None:
            found[str(full)] = str(full.having(source=targets.fingerprint(source), weights=None, normalize=None))
    return tuple(sorted(found.items()))


def located(scene: Scene, attack: str) -> str:
    """The attack of a job's recipe with the names that the plan has for what stands there by content."""
    if not any(mark in attack for mark in ("run=", "source=")):
        return attack
    return next((named for named, content in contents(scene) if content == attack), attack)


def surrogate(scene: Scene, attack: object) -> Target | None:
    """The model that ``transfer`` names as its source; None for the base, and for other attacks."""
    plan, test = scene.plan, scene.test
    return surrogates.named(
        attack,
        classes=test.classes,
        shape=tuple(test.x.shape[1:]),
        bounds=test.bounds,
        device=plan.device,
        trust=plan.trust_model,
        seed=plan.seed,
    )


def as_split(dataset: Dataset | None, device: str) -> Split | None:
    """A dataset as tensors: all of it, for whoever learns from it."""
    if dataset is None:
        return None
    return Split(
        torch.from_numpy(dataset.whole()).to(device),
        torch.from_numpy(dataset.y).to(device),
        torch.from_numpy(dataset.ids.view(np.int64)).to(device),
    )


def calls(dataset: Dataset, oracle: Oracle) -> Iterator[npt.NDArray[np.float32]]:
    """All inputs a few calls of the model at a time: cut where the oracle would cut the whole."""
    return blocks(dataset.x, max(IN_CALL // oracle.rows(), 1) * oracle.rows())
