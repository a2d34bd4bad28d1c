"""Activation health without an attack: dead, saturated, vanishing, overconfident. What ``actsec diagnose`` measures.

dead              units whose activation passes no signal; permanently: on every image looked at
saturated         units in a tail where the slope is below 5 % of its largest
vanishing         G = |dL/dW_first| / |dL/dW_last| of the cross-entropy in eval mode, the median over batches of 32;
                  below 1e-3 the first layer learns nothing, above 1e3 gradients explode
overconfident     ECE beside what a perfectly calibrated model would show at this n; confidence on wrong answers

Cost: 2 forwards and 2 backwards a row watched, 1 forward a test image. The model is left as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics as middle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

from actsec import health, scene
from actsec.activations import find
from actsec.architecture import Architecture, lint
from actsec.chains import threads
from actsec.describing import fingerprint
from actsec.exporting import Logits
from actsec.hardening import measure
from actsec.oracle import frozen
from actsec.plan import Plan, variants
from actsec.result import Problem, SiteHealth
from actsec.scene import Scene
from actsec.types import Target
from actsec.verdict import statistics
from actsec.verdict.activity import Checkup, Layer, check_gates, decide, exit_code, findings, metrics, worst_first
from actsec.wiring import wiring

ROWS, BATCH, MOST = 1000, 32, 10
"""Images whose activations are watched; rows of a batch whose gradient is taken, and the most batches."""
UNRESOLVED = "unresolved_sites"
"""The lint that a checkup leaves to ACT-A02, which says the same of the sites it watched."""


def whole(plan: Plan) -> Plan:
    """The plan of a checkup: nothing is fitted, so no test data is set aside for calibration."""
    kept = plan.data if plan.calibration is None and Path(plan.data).exists() else plan.calibration
    return plan.having(calibration=kept, defenses=(), gates=(), samples=ROWS if plan.samples is None else plan.samples)


def examine(target: Target, loaded: Scene, gates: Sequence[str] = ()) -> Checkup:
    """Look at a target on the first images of the plan's sample, and measure its confidence on all test data.

    Raises PlanError or UnknownName for a gate that cannot be read.
    """
    plan, test = loaded.plan, loaded.test
    check_gates(gates)
    rows = min(plan.samples or ROWS, len(test))
    x, y = (torch.from_numpy(a[:rows]).to(target.device) for a in (test.x, test.y))
    with threads(plan.threads):
        seen = health.observed(target, x, y)
        sites = tuple(SiteHealth(**site) for site in seen.sites)
        layers, ratio = gradients(target, x, y)
        measured = measure(target, test, plan)
        with frozen(target.model):
            found = find(target.model, x[:2] if target.normalization is None else target.normalization(x[:2]))
    right = (measured.labels.cpu() == torch.from_numpy(test.y)).numpy()
    # A model that draws is as accurate as its draws are on average.
    clean = dataclasses.replace(statistics.clean(right, test.y, test.classes), accuracy=measured.accuracy)
    kinds = [site.kind for site in sites]
    left_out = [site.role if site.role != "activation" else "constant" for site in found if site not in found.active]
    unresolved = tuple(f"{item.name}: {item.reason}" for item in seen.unresolved)
    steep = frozenset(site.name for site in found.active if site.activation.properties.saturated_above is not None)
    problems = findings(sites, steep, unresolved, ratio, measured.accuracy, measured.calibration, rows)
    problems = worst_first((*problems, *lint(architecture(target, loaded, fresh=False), without=(UNRESOLVED,))))
    decided = tuple(decide(text, metrics(sites, ratio, measured.calibration)) for text in gates)
    return Checkup(
        model=target.name,
        data=test.name,
        n=rows,
        activations={kind: kinds.count(kind) for kind in sorted(set(kinds))},
        parameters=sum(p.numel() for p in target.model.parameters()),
        fingerprint=fingerprint(target),
        clean=clean,
        calibration=measured.calibration,
        sites=sites,
        unresolved=unresolved,
        left_out={role: left_out.count(role) for role in sorted(set(left_out))},
        layers=layers,
        gradient_ratio=ratio,
        findings=problems,
        gates=decided,
        exit_code=exit_code(problems, decided),
    )


def untrained(loaded: Scene) -> tuple[Architecture, tuple[Problem, ...]]:
    """The plan's first model as it is built, and every lint's findings. With weights given, they are what is seen."""
    target = scene.base_target(loaded, variants(loaded.plan)[0])
    network = architecture(target, loaded, fresh=loaded.plan.weights is None)
    return network, lint(network)


def architecture(target: Target, loaded: Scene, *, fresh: bool) -> Architecture:
    """How a target is wired, shown by the first images. Labels that the data only counts are as many as it says."""
    test = loaded.test
    network = wiring(target, torch.from_numpy(test.x[:BATCH]).to(target.device), fresh=fresh, classes=len(test.classes))
    counted = test.classes == tuple(map(str, range(len(test.classes))))
    if counted and network.outputs > len(test.classes):
        return dataclasses.replace(network, classes=network.outputs)
    return network


def gradients(target: Target, x: Tensor, y: Tensor) -> tuple[tuple[Layer, ...], float | None]:
    """The gradient of the mean cross-entropy by each layer's weights, and G, on x (n, *shape), y (n,), in eval mode.

    Layers are modules with a parameter of two dimensions or more, in the order of their first call. Norms are L2, the
    median over batches. One forward and one backward of at most 320 rows.
    """
    asked = Logits(target)
    with frozen(target.model), torch.no_grad(), _calls(asked) as called:
        asked(x[:2])
    names = {module: name for name, module in asked.named_modules()}
    found = [(names[m], [n for n, p in m.named_parameters(recurse=False) if p.dim() > 1]) for m in called if m in names]
    wanted = [(name, f"{name}.{weight}") for name, weights in found for weight in weights]
    norms: list[list[float]] = []
    with frozen(target.model), torch.enable_grad():
        own = dict(asked.named_parameters())
        for piece, labels in list(zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True))[:MOST]:
            leaves = {key: own[key].detach().clone().requires_grad_(True) for _, key in wanted if key in own}
            logits = functional_call(asked, leaves, (piece,))
            loss = F.cross_entropy(target.decision_logits(logits), labels)
            if not loss.requires_grad or not leaves:
                return (), None
            taken = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            norms.append([float("nan") if g is None else float(g.double().norm()) for g in taken])
        kept = [name for name, key in wanted if key in own]
    columns = [[row[i] for row in norms] for i in range(len(kept))]
    layers = tuple(Layer(n.removeprefix("model."), _median(c)) for n, c in zip(kept, columns, strict=True))
    with_gradient = [c for c in columns if _median(c) is not None]
    if len(with_gradient) < 2:
        return layers, None
    return layers, _median([a / b for a, b in zip(with_gradient[0], with_gradient[-1], strict=True) if b > 0])


@contextlib.contextmanager
def _calls(root: nn.Module) -> Iterator[list[nn.Module]]:
    """The modules inside ``root`` that are called in this block, in the order of their first call."""
    inside, called = set(root.modules()), dict[nn.Module, None]()

    def note(module: nn.Module, _inputs: Any) -> None:
        if module in inside:
            called.setdefault(module)

    order: list[nn.Module] = []
    handle = register_module_forward_pre_hook(note)
    try:
        yield order
    finally:
        handle.remove()
        order += called


def _median(values: Sequence[float]) -> float | None:
    """None where there is none, or one that is not a finite number."""
    usable = bool(values) and all(map(_finite, values))
    return middle.median(values) if usable else None


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")  # noqa: PLR0124  # NaN differs from itself
