"""What no attack on units can beat: exact kill radii and blackouts at the first layer, interval bounds behind it.

An attack says how much at least can be killed, a certificate how much at most: attack <= truth <= certificate.

    first_layer        the affine map from an input to the first site's pre-activation, read off the model and checked
    kill_radius        the exact smallest change that kills each unit there: z / |w|_q in all of space; in the box, less
                       than which no attack gets by
    blackout_radius    the exact smallest L-inf change that kills all of them at once, by a linear program
    bounds             interval bounds (IBP, Gowal et al. 2018) on every pre-activation over a ball: a unit whose lower
                       bound is above 0 cannot be killed; sound at any depth, and vacuous a few layers in

All arithmetic is float64.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actsec.activations import Site, activation, watch
from actsec.errors import BadOption, ModelError
from actsec.forcing import units
from actsec.search.oracle import frozen
from actsec.spec import Spec
from actsec.types import Norm, Target

MOST_ENTRIES = 1 << 25
"""Numbers of a first layer's matrix: 256 MiB."""


@dataclass(frozen=True, slots=True)
class Affine:
    """z = x.flatten() @ weight.T + bias: weight (units, features), bias (units,), float64. site names the call.

    A unit is dead at z <= 0: where the activation's dead half-line ends elsewhere (hardswish at -3), z is how far above
    that end the pre-activation lies. ``units`` (units,) int64 are their places in the flattened pre-activation, of the
    ``of`` that the site has: some, where not all were read.
    """

    site: str
    weight: Tensor
    bias: Tensor
    units: Tensor | None = None
    of: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        """How far above the end of the dead half-line each unit is (n, units) on inputs (n, *shape)."""
        return x.flatten(1).double() @ self.weight.T + self.bias

    @property
    def whole(self) -> bool:
        """Whether every unit of the site is there."""
        return self.units is None or len(self.units) == self.of


def first_layer(target: Target, x: Tensor, batch: int = 256, most: int | None = None, seed: int = 0) -> Affine:
    """The map from inputs (n, *shape), in input units, to the first site that can die. features + 5 forwards.

    With ``most``, of at most so many of its units, drawn at random: as many forwards and backwards, and 5 forwards.
    Raises ModelError where it is not affine (something before the site bends), where no site can die, where the model
    does not run in float64, and where the matrix would hold more than MOST_ENTRIES numbers.
    """
    first = next(iter(units.sites(target, x)), None)
    if first is None:
        raise ModelError("no site can die, so there is nothing to certify", "Use a model with relu.")
    try:
        return _read(target, first, x, batch, most, seed)
    except (RuntimeError, TypeError) as problem:  # of a model or a device without float64
        reason = str(problem).splitlines()[0]
        raise ModelError(f"the model does not run in float64: {reason}", "Use bounds.") from problem


def _read(target: Target, first: Site, x: Tensor, batch: int, most: int | None, seed: int) -> Affine:
    name, end = first.name, first.activation.properties.dead_below or 0.0
    model = copy.deepcopy(target.model).double()
    double = target.having(model=model)
    shape, features = tuple(x.shape[1:]), x[0].numel()

    def pre(rows: Tensor) -> Tensor:
        with watch(model, only=(name,), post=False) as seen:
            model(double.normalization(rows) if double.normalization else rows)
        return seen.calls[0].pre.flatten(1) - end

    def slopes(places: Tensor) -> Tensor:
        """Rows of the matrix, one a place, as gradients."""
        zeros = torch.zeros(len(places), *shape, dtype=torch.float64, device=x.device, requires_grad=True)
        with torch.enable_grad():
            (found,) = torch.autograd.grad(pre(zeros).gather(1, places[:, None]).sum(), zeros)
        return found.flatten(1)

    with frozen(model), torch.no_grad():
        bias = pre(torch.zeros(1, *shape, dtype=torch.float64, device=x.device))[0]
        of = len(bias)
        chosen = _some(of, most, seed).to(x.device)
        if len(chosen) * features > MOST_ENTRIES:
            raise ModelError(
                f"the first site has {of} units on {features} features: too many for an exact certificate",
                "Use bounds, which needs no matrix.",
            )
        if most is not None:
            weight = torch.cat([slopes(places) for places in torch.split(chosen, batch)])
        else:
            basis = torch.split(torch.eye(features, dtype=torch.float64, device=x.device), batch)
            weight = torch.cat([pre(part.reshape(-1, *shape)) - bias for part in basis]).T.contiguous()
        found = Affine(name, weight, bias[chosen], chosen, of)
        some = x[:4].double()
        worst = float((pre(some)[:, chosen] - found(some)).abs().max())
        scale = float(found(some).abs().max())
    if worst > 1e-8 * (1 + scale):
        raise ModelError(f"what comes before {name} is not affine", "Use bounds.")
    return found


def _some(of: int, most: int | None, seed: int) -> Tensor:
    """At most ``most`` of the numbers below ``of``, at random, ascending."""
    if most is None or of <= most:
        return torch.arange(of)
    return torch.randperm(of, generator=torch.Generator().manual_seed(seed))[:most].sort().values


def kill_radius(layer: Affine, x: Tensor, norm: Norm, box: tuple[float, float] | None = None) -> Tensor:
    """The smallest change, in linf or l2, at which each unit of the first site is dead: (n, units) float64.

    0 where it is dead already. Without a box z / |w|_q, q the dual norm; in a box the smallest change that stays inside
    (its coordinates stop at the box; by bisection to float64), infinity where no input in the box kills the unit, and
    for a unit without weights.
    """
    if norm not in ("linf", "l2"):
        raise BadOption(f"kill_radius in {norm}", "Use linf or l2.")
    z = layer(x).clamp_min(0)
    slope = layer.weight.abs()
    if box is None:
        dual = slope.sum(1) if norm == "linf" else slope.square().sum(1).sqrt()
        return torch.where(z > 0, z / dual, torch.zeros_like(z))  # 0 / 0 is not taken, z / 0 is infinite
    flat = x.flatten(1).double()
    # a unit of a convolution sees a patch: the other columns of its row are 0 and need no room
    seen = max(1, int((slope > 0).sum(1).max()))
    columns = slope.topk(seen, dim=1).indices
    weight = layer.weight.gather(1, columns)
    return torch.stack([_boxed_radius(weight, z[i], flat[i][columns], norm, box) for i in range(len(x))])


def _boxed_radius(weight: Tensor, z: Tensor, x: Tensor, norm: Norm, box: tuple[float, float]) -> Tensor:
    """kill_radius in a box of one input, for every unit (units,); x (units, features) is what each of them sees."""
    slope = weight.abs()
    room = torch.where(weight > 0, x - box[0], box[1] - x)  # how far each coordinate can go against the weight
    most = (slope * room).sum(1)

    def moved(t: Tensor) -> Tensor:
        # linf: every coordinate by t; l2: in proportion to the weight (the KKT point), each at most as far as it can
        return torch.minimum(t[:, None] * (torch.ones_like(slope) if norm == "linf" else slope), room)

    low = torch.zeros_like(z)
    steep = torch.where(slope > 0, slope, torch.inf).amin(1)
    high = torch.full_like(z, box[1] - box[0]) if norm == "linf" else (box[1] - box[0]) / steep
    high = torch.where(torch.isfinite(high) & (high > 0), high, torch.ones_like(high))
    high = torch.where((z > 0) & (z <= most), high, low)  # the others need no search
    # A next to weightless coordinate puts high many powers of 2 away: until no number of float64 lies between.
    while True:
        middle = (low + high) / 2
        if not bool(((low < middle) & (middle < high)).any()):
            break
        enough = (slope * moved(middle)).sum(1) >= z
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    step = torch.where(slope > 0, moved(high), torch.zeros_like(slope))
    size = step.amax(1) if norm == "linf" else step.square().sum(1).sqrt()
    return torch.where(z > most, torch.inf, torch.where(z > 0, size, torch.zeros_like(z)))


def blackout_radius(layer: Affine, x: Tensor, box: tuple[float, float] | None = None) -> Tensor:
    """The smallest L-inf change of each input that kills the whole first site: (n,) float64; infinity where none does.

    A linear program in the input and the radius (scipy, HiGHS): least r with |x' - x| <= r, W x' + b <= 0 and x' in the
    box. Constant units that are alive make it infeasible, as they should. Of a map of some units it is a lower bound.
    Raises ModelError if the solver gives up.
    """
    from scipy.optimize import linprog

    weight, bias = layer.weight.cpu().numpy(), layer.bias.cpu().numpy()
    n_units, features = weight.shape
    eye, ones = np.eye(features), np.ones((features, 1))
    rows = np.block([[weight, np.zeros((n_units, 1))], [eye, -ones], [-eye, -ones]])
    cost = np.append(np.zeros(features), 1.0)
    ends = [*([box if box is not None else (None, None)] * features), (0, None)]
    found = []
    for clean in x.flatten(1).double().cpu().numpy():
        limits = np.concatenate([-bias, clean, -clean])
        solved = linprog(cost, A_ub=rows, b_ub=limits, bounds=ends, method="highs")
        if solved.status not in (0, 2):
            raise ModelError(f"the linear program was not solved: {solved.message}", "Scale the inputs to [0, 1].")
        found.append(float(solved.fun) if solved.status == 0 else np.inf)
    return torch.tensor(found, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds on one site's pre-activation over a ball, each (n, units) float64. name is the activation module's."""

    name: str
    kind: str
    low: Tensor
    high: Tensor


def bounds(target: Target, x: Tensor, eps: float) -> tuple[Bounds, ...]:
    """Interval bounds on every pre-activation over the L-inf ball of eps around x (n, *shape), cut to the box.

    An L2 ball of the same eps lies inside it, so the bounds hold there, too. For a model that is a chain of linear and
    convolution layers, batch norm, pooling, flattening, dropout and monotone activations; raises ModelError for
    another. Costs about 2 forwards.
    """
    model = copy.deepcopy(target.model).double().eval()
    low = (x.double() - eps).clamp_min(target.bounds[0])
    high = (x.double() + eps).clamp_max(target.bounds[1])
    if target.normalization is not None:
        low, high = target.normalization(low), target.normalization(high)
    found = []
    with torch.no_grad():
        for name, layer in _chain(model, ""):
            low, high, kind = _through(layer, low, high, name)
            if kind is not None:
                found.append(Bounds(name, kind[0], kind[1], kind[2]))
    return tuple(found)


def _chain(model: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a model that is a chain, in order, with their names."""
    if type(model).forward is not nn.Sequential.forward:  # a subclass may do more than run its children in order
        yield path, model
        return
    for name, child in model._modules.items():  # noqa: SLF001  # named_children leaves out what stands there twice
        if child is None:
            continue
        yield from _chain(child, f"{path}.{name}" if path else name)


_ACTIVATIONS = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.Softplus: "softplus"}
_ALIKE = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)
_AFFINE = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)
Passed = tuple[Tensor, Tensor, tuple[str, Tensor, Tensor] | None]


def _through(layer: nn.Module, low: Tensor, high: Tensor, name: str) -> Passed:
    """The interval after a layer; with the kind and the interval before it where it is an activation."""
    if type(layer) in _ACTIVATIONS:
        kind = _ACTIVATIONS[type(layer)]
        if not activation(Spec(kind)).properties.monotone:
            raise ModelError(f"{name}: {kind} is not monotone", "Certify the layers before it alone.")
        return layer(low), layer(high), (kind, low.flatten(1), high.flatten(1))
    own = next((kind for kind in (*_ALIKE, *_AFFINE) if isinstance(layer, kind)), None)
    plain = own is not None and type(layer).forward is own.forward  # a subclass may compute something else
    if plain and own in _ALIKE:  # monotone in every input
        return layer(low), layer(high), None
    middle, reach = (low + high) / 2, (high - low) / 2
    if plain and isinstance(layer, nn.Linear):
        centre, wide = layer(middle), F.linear(reach, layer.weight.abs())
    elif plain and isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
        centre = layer(middle)
        wide = F.conv2d(reach, layer.weight.abs(), None, layer.stride, layer.padding, layer.dilation, layer.groups)
    elif plain and isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and layer.running_var is not None:
        centre, wide = layer(middle), (layer(high) - layer(low)).abs() / 2
    else:
        what = f"{name} ({type(layer).__name__})" if name else type(layer).__name__
        raise ModelError(f"no interval bounds through {what}", "They need a chain of ordinary layers.")
    return centre - wide, centre + wide, None
