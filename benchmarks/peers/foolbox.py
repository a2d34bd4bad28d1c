"""foolbox. Spec: a class of foolbox.attacks with its options; ``repeat`` runs it several times and keeps the best."""

from __future__ import annotations

import foolbox
import torch
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor

from actsec.spec import Spec
from benchmarks.peers import Attempt, Question


def prepare(spec: Spec, question: Question) -> Attempt:
    model = PyTorchModel(question.model, bounds=(0, 1), device=question.x.device)
    options = dict(spec.options)
    times = options.pop("repeat", 1)
    attack = getattr(foolbox.attacks, spec.name)(**options)
    if times != 1:
        attack = attack.repeat(times)
    epsilons: list[float | None] = [*question.eps] or [None]

    def attempt() -> list[Tensor]:
        # The second value is clipped to eps: what foolbox tells its users to take.
        pieces = [attack(model, x, y, epsilons=epsilons)[1] for x, y in question.pieces()]
        return [torch.cat(column) for column in zip(*pieces, strict=True)]

    return attempt
