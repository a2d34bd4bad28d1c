"""Cards: what an activation is like, where to use it and what it means for an attack, in words made from its function.

Every number is computed from f and f' in float64, and every sentence is chosen by a number, so that a card cannot say
what its function does not do. Nothing here says that one activation is safer: that takes ``actsec study activations``
and ``actsec audit``.
"""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Iterator

import torch

from actsec.activations.catalogue import Activation
from actsec.activations.properties import Properties

_VARIABLES = {"z", "u"}
_COMPARING = {"max", "min", "abs"}
LAYERS = 10


def card(activation: Activation) -> list[str]:
    """The card of an activation, a line each: formula, derivative, properties, more of them, and advice."""
    known = activation.properties
    return [
        f"{activation.name}: {activation.formula}",
        f"derivative: {activation.slope}",
        "",
        *(f"  {key.replace('_', ' ')}: {shown(value)}" for key, value in dataclasses.asdict(known).items()),
        f"  range: {interval(activation)}",
        *(f"  {line}" for line in _computed(activation)),
        "",
        "Use:",
        *(f"  - {line}" for line in _use(activation, known)),
        "Avoid:",
        *(f"  - {line}" for line in _avoid(activation, known)),
        "Security lens:",
        *(f"  - {line}" for line in _security(activation, known)),
    ]


def shown(value: float | None) -> str:
    """A property as a card prints it: yes or no, none, or six significant digits, which the grid is good for."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.6g}"


def interval(activation: Activation) -> str:
    """The range as an interval: an end that is reached is closed, one only approached is open."""
    known = activation.properties
    kinked = math.isinf(known.curvature)
    z = torch.tensor([-32.0, 0.0, 32.0], dtype=torch.float64)
    f = activation(z).tolist() if activation.elementwise else []
    # a smooth tail reaches its limit by rounding alone
    low = known.argmin is not None or (kinked and known.lower in f)
    high = kinked and known.upper in f
    return f"{'[' if low else '('}{known.lower:.6g}, {known.upper:.6g}{']' if high else ')'}"


def turns(activation: Activation) -> tuple[float, ...]:
    """Where the slope changes its sign, to 1e-9: between, the function falls. Empty for a monotone one."""
    if not activation.elementwise or activation.properties.monotone:
        return ()
    z = torch.linspace(-32, 32, 2**16 + 1, dtype=torch.float64)
    slope = activation.derivative(z)
    flips = (slope[:-1].sign() * slope[1:].sign() < 0).nonzero().flatten().tolist()
    return tuple(_bisected(activation, float(z[at]), float(z[at + 1])) for at in flips)


def cost(activation: Activation) -> tuple[int, int, int] | None:
    """Transcendental functions, arithmetic and comparisons a unit, counted in the formula; None where units compete.

    What does not depend on the pre-activation is computed once and not counted. Hardware fuses and approximates: this
    is no time.
    """
    if not activation.elementwise:
        return None
    heavy = arithmetic = compared = 0
    for part in activation.formula.split(";"):
        text = part.strip()
        try:
            tree = ast.parse(text)
        except SyntaxError:  # what a letter stands for is told in words
            continue
        for node in ast.walk(tree):
            if not any(isinstance(below, ast.Name) and below.id in _VARIABLES for below in ast.walk(node)):
                continue
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                light = node.func.id in _COMPARING
                heavy, compared = heavy + (not light), compared + light
            arithmetic += isinstance(node, (ast.BinOp, ast.UnaryOp))
            compared += isinstance(node, ast.Compare)
    return heavy, arithmetic, compared


def gain(activation: Activation) -> float | None:
    """1 / sqrt(E f'(Z)^2), Z standard normal: the gain of initial weights that keeps the size of gradients.

    sqrt(2) for relu (He et al. 2015). None where units compete or the slope is 0 almost everywhere.
    """
    if not activation.elementwise or activation.properties.estimated_slope:
        return None
    z = torch.arange(-8 * 4096, 8 * 4096 + 1, dtype=torch.float64) / 4096
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return 1 / math.sqrt(float((activation.derivative(z).square() * density).sum()) / 4096)


def _bisected(activation: Activation, low: float, high: float) -> float:
    rising = float(activation.derivative(torch.tensor([high], dtype=torch.float64))) > 0
    while high - low > 1e-9:
        middle = (low + high) / 2
        up = float(activation.derivative(torch.tensor([middle], dtype=torch.float64))) > 0
        low, high = (low, middle) if up == rising else (middle, high)
    return (low + high) / 2


def _computed(activation: Activation) -> Iterator[str]:
    if points := turns(activation):
        yield f"slope is 0 at: {', '.join(f'{z:.4f}' for z in points)}, and changes its sign there"
    if activation.elementwise:
        z = torch.tensor([-10.0, -2.0, 0.0, 2.0, 10.0], dtype=torch.float64)
        slopes = ", ".join(f"{value:.3g}" for value in activation.derivative(z).tolist())
        yield f"slope at -10, -2, 0, 2, 10: {slopes}"
    if (keeps := gain(activation)) is not None:
        yield f"initial gain that keeps gradients: {keeps:.4g}"
    found = cost(activation)
    if found is None:
        yield "cost: units are compared with each other"
    else:
        yield f"cost: {found[0]} transcendental, {found[1]} arithmetic, {found[2]} comparisons a unit"


def _use(activation: Activation, known: Properties) -> Iterator[str]:
    if activation.name == "identity":
        yield "as the output of a regression, and to measure what a network without activations can do"
        return
    steep, smooth = known.max_slope >= 1 and not known.estimated_slope, math.isfinite(known.curvature)
    told = (
        (activation.name == "sigmoid", "at the output for labels that can hold together, inside the loss; as a gate"),
        (
            steep and not known.bounded,
            f"in hidden layers: its largest slope is {known.max_slope:.3g}, so depth alone does not shrink gradients",
        ),
        (
            steep and known.bounded and known.zero_centred,
            "in hidden layers with Glorot's initialisation, where its slope near 0 keeps gradients; in recurrent ones",
        ),
        (
            smooth and not known.bounded,
            f"where the loss should be smooth: its curvature is at most {known.curvature:.3g}",
        ),
        (activation.learnable, "where data is plenty: it learns a parameter a call"),
        (known.estimated_slope, "where binary activations are wanted: it trains by a straight-through estimate"),
        (not activation.elementwise, "in experiments: units of a call compete"),
        (
            known.bounded and activation.elementwise and not smooth and not known.estimated_slope,
            "in low-precision networks: it is piecewise linear and bounded",
        ),
    )
    yield from (text for holds, text in told if holds)


def _avoid(activation: Activation, known: Properties) -> Iterator[str]:
    if activation.name == "identity":
        yield "in hidden layers: layers with nothing between them collapse to one (ACT-L06)"
        return
    passed, open_ended = known.max_slope**LAYERS, not known.bounded and not known.can_die and activation.elementwise
    told = (
        (
            known.max_slope < 1,
            f"in all of many hidden layers: {LAYERS} in a row have slopes of at most {passed:.2g} together (ACT-L01)",
        ),
        (
            known.can_die,
            "at the output (ACT-L02), and with high learning rates or large negative biases: units can die for good",
        ),
        (known.saturates, "with inputs or weights of large scale: both tails are flat"),
        (known.estimated_slope, "where gradients are to be believed: the function's own slope is 0 (ACT-L03)"),
        (activation.learnable, "one parameter for several calls (ACT-L08), and weight decay on it"),
        (activation.pieces > 1, f"where weights are dear: a layer needs {activation.pieces} times as many of them"),
        (
            math.isinf(known.lipschitz) and not known.estimated_slope,
            "where neighbouring inputs must get neighbouring outputs: it jumps",
        ),
        (known.bounded, "at the output of a classifier: a bounded score caps the confidence (ACT-L04)"),
        (open_ended, "at the output of a classifier, like every activation: a softmax takes raw scores"),
    )
    yield from (text for holds, text in told if holds)


def _security(activation: Activation, known: Properties) -> Iterator[str]:
    if activation.name == "identity":
        yield "a linear model: its nearest wrong class lies in one direction for all inputs; nothing to force dead"
        return
    if known.can_die:
        yield f"dead-ReLU forcing applies: pre-activations up to {known.dead_below:g} pass neither value nor gradient"
    elif activation.elementwise:
        yield "no half-line with value and slope both 0: nothing to force dead, but see where it saturates"
    if known.bounded:
        yield "bounded: confidence far from the data stays below what the last layer's weights allow"
    else:
        yield "unbounded: far from the data scores grow without limit, and confidence with them (Hein et al. 2019)"
    if known.saturates:
        yield "flat tails: robustness that rests on vanishing gradients is masking; read gradient-free attacks beside"
    if math.isinf(known.lipschitz):
        yield "it jumps: gradients mislead, random search finds what they hide (ACT-M06, ACT-M07)"
    elif math.isinf(known.curvature):
        yield "it has kinks: gradients are exact between them, and networks of it are piecewise simple to certify"
    else:
        yield "smooth: whether that helps an attacker is no matter of the curve; actsec study activations measures it"
    if turns(activation):
        yield "not monotone: a larger pre-activation can mean a smaller output, and its slope does vanish in places"
