"""Examples made on another model: how ``transfer`` gets what it proposes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from actsec import registry
from actsec import target as targets
from actsec.errors import ThreatError
from actsec.losses import Hardest
from actsec.planning.jobs import VARIANT
from actsec.search import examples
from actsec.search.ledger import Verdicts
from actsec.search.oracle import bounded
from actsec.search.referee import attack_target
from actsec.spec import Spec
from actsec.types import Attack, Cases, Recipe, Target


def named(
    attack: object,
    *,
    classes: tuple[str, ...],
    shape: tuple[int, ...],
    bounds: tuple[float, float],
    device: str | torch.device = "cpu",
    trust: bool = False,
    seed: int = 0,
) -> Target | None:
    """The model that ``transfer`` names as its source, loaded to take such inputs; None for those of the plan."""
    source = getattr(attack, "source", "base")
    if source == "base" or source.startswith(VARIANT):
        return None
    found = targets.load(
        source,
        weights=getattr(attack, "weights", None),
        normalize=getattr(attack, "normalize", None),
        classes=classes,
        input_shape=shape,
        bounds=bounds,
        trust=trust,
        device=device,
        seed=seed,
    )
    return found.having(name=source)


def craft(attack: Spec, source: Target, cases: Cases, seed: int) -> Verdicts:
    """Run an attack on a surrogate and keep each row's candidate of the largest margin there, right or wrong.

    What only just fools the surrogate seldom fools another model, so that no row stops at its first success.
    """
    made = registry.build("attacks", attack)
    if cases.norm not in made.norms:
        raise ThreatError(
            f"{attack.name} works in {', '.join(made.norms)}, not in {cases.norm}", "Craft with an attack of this norm."
        )
    return attack_target(made, source, cases, Hardest(), seed=seed, name=f"{attack}@{cases.norm}", settle=False)


def ready(
    attack: Any, cases: Cases, source: Target | None, stored: Sequence[Mapping[str, Any]], seed: int, memory: int
) -> Attack[Any] | Recipe:
    """The attack itself; of ``transfer`` the examples it proposes: those stored, else those crafted on the source.

    memory, in MiB, bounds the activations of one call of the source.
    """
    if "transfer" not in attack.roles or (source is None and not stored):
        return attack  # type: ignore[no-any-return]  # a plug-in
    if source is None:
        return examples.proposed(examples.of_outcomes(stored, "the base"), cases, attack.most)
    made = craft(attack.crafted, bounded(source, cases.x, memory), cases, seed)
    left = {"id": cases.id, "x": made.x, "status": made.status}
    found = examples.of_outcomes([{key: value.cpu().numpy() for key, value in left.items()}], "the source")
    return examples.proposed(found, cases, attack.most)
