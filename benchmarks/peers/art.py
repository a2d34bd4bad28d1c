"""The Adversarial Robustness Toolbox. Spec: a class of art.attacks.evasion with its options.

``eps`` and the batch size are filled in where the attack has them and the spec does not give them.
"""

from __future__ import annotations

import inspect

import torch
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from actsec.spec import Spec
from benchmarks.peers import Attempt, Question


def prepare(spec: Spec, question: Question) -> Attempt:
    device = question.x.device.type
    classifier = PyTorchClassifier(
        question.model,
        torch.nn.CrossEntropyLoss(),
        tuple(question.x.shape[1:]),
        question.classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if device == "cuda" else "cpu",
    )
    cls = getattr(evasion, spec.name)
    known = inspect.signature(cls).parameters
    options = dict(spec.options)
    if "batch_size" in known:
        options.setdefault("batch_size", min(question.batch, len(question.x)))
    if "verbose" in known:
        options.setdefault("verbose", False)
    attacks = []
    for eps in question.eps or (None,):
        sized = {"eps": eps, "eps_step": options.get("eps_step", eps)} if "eps" in known and eps is not None else {}
        attacks.append(cls(classifier, **{**options, **sized}))
    x, y = question.x.cpu().numpy(), question.y.cpu().numpy()

    def attempt() -> list[Tensor]:
        return [torch.from_numpy(attack.generate(x.copy(), y)).to(question.x) for attack in attacks]

    return attempt
