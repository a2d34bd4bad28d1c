"""The target of a job: a variant's structure with the weights that its model job left in the run."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from actsec import detecting, models, registry
from actsec import target as targets
from actsec.errors import BadOption, PlanError, StoreError
from actsec.planning.jobs import VariantPlan
from actsec.running.scene import OBJECT, Scene, not_here
from actsec.running.store import Store
from actsec.search.lowering import SAMPLE, Lowered, lower
from actsec.search.oracle import rows_within
from actsec.search.tables import one_label, raw_units
from actsec.spec import Spec
from actsec.types import Job, Outcome, Target


def base_target(scene: Scene, variant: VariantPlan) -> Target:
    """The target a variant starts from: the user's model, or a reference architecture with untrained weights.

    A model given as an object is copied. Classes that the data only counts are left to the model to name.
    """
    plan, test = scene.plan, scene.test
    shape, classes = tuple(test.x.shape[1:]), test.classes
    if plan.reference:
        model = models.build(variant.base, shape, len(classes), plan.seed)
        made = targets.load(model, classes=classes, input_shape=shape, bounds=test.bounds, device=plan.device)
        return made.having(name=variant.base)
    if plan.model.startswith(OBJECT):
        if scene.given.target is None:
            raise not_here("model")
        given = scene.given.target
        return detecting.carried(given, given.having(model=copy.deepcopy(given.model)))
    if plan.threshold is not None and len(classes) > 2:
        raise BadOption(
            f"--threshold {plan.threshold:g} is for two classes, the data has {len(classes)}", "Leave it out."
        )
    # A reference architecture with weights of its own is built for as many as there are.
    counted = classes == tuple(map(str, range(len(classes)))) and not plan.model.startswith("reference:")
    several = test.table is not None and len(test.table.labels) > 1
    if plan.raw_units and plan.normalize is not None:
        raise PlanError(f"raw_units and normalize = {plan.normalize}", "Give one of them.")
    target = targets.load(
        plan.model,
        weights=plan.weights,
        classes=None if counted else classes,
        input_shape=shape,
        bounds=test.bounds,
        normalize=raw_units(test.table) if plan.raw_units and test.table else plan.normalize,
        threshold=None if several else plan.threshold,
        output=plan.output,
        random_weights=plan.random_weights,
        trust=plan.trust_model,
        device=plan.device,
        seed=plan.seed,
    )
    if several:
        return one_label(target, test.table, plan.threshold)
    # One logit reads as two classes: with labels of more it is a regression, which settle says.
    return targets.settle(target, None, classes) if len(target.classes) == 2 < len(classes) else target


def wrapped(target: Target, chain: tuple[Spec, ...]) -> Target:
    """The target behind a chain of defenses, structure only."""
    for spec in chain:
        target = detecting.behind(target, registry.build("defenses", spec))
    return target


def ready(scene: Scene, store: Store, job: Job, target_job: str) -> Target:
    """The variant of a job with the weights its model job stored. Raises StoreError when they are missing."""
    variant = scene.variant(job.variant)
    outcome = store.get(target_job)
    if outcome is None:
        raise StoreError(f"the weights of {variant.name} are missing from the run", "Resume: they are made again.")
    return restored(scene, variant, outcome)


def restored(scene: Scene, variant: VariantPlan, outcome: Outcome) -> Target:
    """A variant with the weights that the outcome of its model job holds."""
    target = wrapped(base_target(scene, variant), variant.chain)
    # Loading a stranger's file may have set them.
    torch.set_num_threads(scene.plan.threads)
    state = unpack(outcome.arrays["weights"])
    target.model.load_state_dict({key: value.to(target.device) for key, value in state.items()})
    for watching in _WATCHING:
        watching.append((target, outcome.arrays["weights"]))
    sample = torch.from_numpy(scene.test.x[:1]).to(target.device)
    return target.having(
        name=variant.name,
        stochastic=target.stochastic or bool(outcome.numbers.get("stochastic")),
        batch=rows_within(target, sample, scene.plan.memory),
    )


Restored = list[tuple[Target, npt.NDArray[np.uint8]]]
_WATCHING: list[Restored] = []


@contextlib.contextmanager
def restorations() -> Iterator[Restored]:
    """Every target that ``restored`` makes in the block, with the packed weights it was given."""
    made: Restored = []
    _WATCHING.append(made)
    try:
        yield made
    finally:
        _WATCHING.pop()


def stand_in(scene: Scene, target: Target, weights: str) -> Lowered:
    """The stand-in of a variant, made once in each worker, of the same first images for every job.

    weights is the id of the job that left the target's weights.
    """
    key = (weights, target.name)
    if key not in _STAND_INS:
        _STAND_INS.clear()
        _STAND_INS[key] = lower(target, torch.from_numpy(scene.test.x[:SAMPLE]).to(target.device))
    return _STAND_INS[key]


_STAND_INS: dict[tuple[str, str], Lowered] = {}
"""The last one made: jobs come variant by variant."""


def pack(target: Target) -> npt.NDArray[np.uint8]:
    """A model's state as the bytes of a safetensors file. Tensors that share memory are written apart."""
    from safetensors.torch import save

    state = {key: value.detach().cpu().contiguous().clone() for key, value in target.model.state_dict().items()}
    return np.frombuffer(save(state), dtype=np.uint8)


def unpack(content: npt.NDArray[np.uint8]) -> dict[str, torch.Tensor]:
    """What ``pack`` packed."""
    from safetensors.torch import load as load_bytes

    return load_bytes(content.tobytes())
