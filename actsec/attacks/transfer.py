"""Transfer: examples crafted on another model, the surrogate, proposed to the audited one.

An adversary who cannot see the model trains or finds another for the same task and attacks that: adversarial examples
carry over (Szegedy et al. 2013, section 4.2; Papernot et al. 2016, "Transferability in Machine Learning"). In an audit
the surrogate is by default the first model, undefended, and serves every other one; ``source`` names another model of
the plan (variant:NAME), or any as ``--model`` does. ``attack`` is run on it and keeps each row's candidate of the
largest margin there: what only just fools the surrogate carries over a third as often (digits, eps 0.1: 6 of 64 against
19). Without it the source's own trials at the same threat are proposed, which cost nothing new. Cost: a forward of each
example proposed; the passes on the surrogate are the adversary's own and not counted.

A gradient attack that loses to it is misled: ACT-M07. Known failure: it says little where the surrogate is far from the
model, in architecture or in training data; surviving it is no robustness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from actsec.errors import BadOption, ThreatError
from actsec.spec import Spec
from actsec.types import NORMS, Attack, Cases, Knowledge, Norm


@dataclass(frozen=True, slots=True)
class Transfer:
    """The examples of a surrogate."""

    source: Annotated[str, "the surrogate: base, variant:NAME of the plan, or a model as --model names it"] = "base"
    weights: Annotated[str | None, "weights of a source that is no base"] = None
    normalize: Annotated[str | None, "normalisation of a source that is no base"] = None
    attack: Annotated[
        Spec | None, "what crafts them; none is all that ran on the base, pgd(steps=40) on another source"
    ] = None
    most: Annotated[int, "examples tried of each row; those that fooled the surrogate come first"] = 64

    norms: ClassVar[tuple[Norm, ...]] = NORMS
    knowledge: ClassVar[Knowledge] = "black_box"
    roles: ClassVar[tuple[str, ...]] = ("transfer", "any_eps")

    def __post_init__(self) -> None:
        if self.most < 1:
            raise BadOption(f"transfer(most={self.most})", "most is at least 1.")
        if self.source == "base" and (self.weights, self.normalize) != (None, None):
            raise BadOption("transfer(source=base) with weights or normalize", "The base of a defense has its own.")

    @property
    def crafted(self) -> Spec:
        """The attack that is run on a source of its own."""
        return self.attack or Spec("pgd", (("steps", 40),))

    def parts(self, cases: Cases, classes: int) -> tuple[Attack[Any], ...]:
        raise ThreatError(
            f"transfer(source={self.source}): the examples are crafted before the attack begins",
            "Call actsec.attack(..., source=twin), or name the source model; in an audit the base needs no name.",
        )
