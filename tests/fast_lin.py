"""A certificate to judge attacks by: the convex outer bound of Wong & Kolter (2018), in the form of Weng et al. (2018).

Each unstable relu is held between two parallel lines of slope u / (u - l); linear bounds are then carried back to the
input layer by layer. A margin whose lower bound over the L-inf ball is positive cannot be attacked by anyone.
Independent of actsec on purpose.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn


def certified(model, x, y, eps, low=0.0, high=1.0, dtype=torch.float64):
    """Bool (n,): no input within eps (L-inf) of x (n, *shape) and inside the box changes the decision y.

    model is an nn.Sequential of Conv2d, Linear, ReLU and Flatten. In float32, which is faster, a margin counts from
    1e-3 on, far above the rounding.
    """
    model = copy.deepcopy(model).to(dtype).eval()
    least = 0.0 if dtype == torch.float64 else 1e-3
    sure = []
    with torch.no_grad():
        for one, label in zip(x.to(dtype), y.tolist(), strict=True):
            lower, upper = (one - eps).clamp_min(low), (one + eps).clamp_max(high)
            others = [k for k in range(_classes(model)) if k != label]
            rows = torch.zeros(len(others), _classes(model), dtype=dtype)
            rows[:, label] = 1
            rows[range(len(others)), others] = -1
            sure.append(bool((_lower_bound(list(model), rows, lower, upper) > least).all()))
    return torch.tensor(sure)


def _lower_bound(layers, rows, lower, upper):
    """Lower bounds (m,) of rows (m, classes) @ logits over the box [lower, upper] of one input."""
    shapes, bounds = _shapes(layers, lower.shape), {}
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.ReLU):
            if not bounds:
                bounds[i] = _box_through(layers[:i], lower, upper)
                continue
            size = shapes[i].numel()
            unit = torch.eye(size, dtype=lower.dtype).reshape(size, *shapes[i])
            bounds[i] = tuple(b.reshape(shapes[i]) for b in _back(layers[:i], shapes, unit, bounds, lower, upper))
    return _back(layers, shapes, rows, bounds, lower, upper)[0]


def _box_through(layers, lower, upper):
    """The exact range of each unit behind linear layers alone: centre and radius, weights in absolute value."""
    centre, radius = (lower + upper)[None] / 2, (upper - lower)[None] / 2
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            radius = F.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding)
        elif isinstance(layer, nn.Linear):
            radius = radius @ layer.weight.abs().T
        else:
            radius = layer(radius)
        centre = layer(centre)
    return (centre - radius)[0], (centre + radius)[0]


def _back(layers, shapes, a, bounds, lower, upper):
    """Carry linear functions a (m, *shape) back through the layers: their bounds (m,) on the box."""
    below = torch.zeros(len(a), dtype=a.dtype)
    above = below.clone()
    for i in reversed(range(len(layers))):
        layer = layers[i]
        if isinstance(layer, nn.Linear):
            below, above = below + a @ layer.bias, above + a @ layer.bias
            a = a @ layer.weight
        elif isinstance(layer, nn.Conv2d):
            bias = a.sum((2, 3)) @ layer.bias
            below, above = below + bias, above + bias
            extra = [
                full - ((out - 1) * layer.stride[0] - 2 * layer.padding[0] + layer.kernel_size[0])
                for full, out in zip(shapes[i][1:], a.shape[2:], strict=True)
            ]
            a = F.conv_transpose2d(a, layer.weight, None, layer.stride, layer.padding, tuple(extra))
        elif isinstance(layer, nn.Flatten):
            a = a.reshape(len(a), *shapes[i])
        elif isinstance(layer, nn.ReLU):
            low, high = bounds[i]
            unstable = (low < 0) & (high > 0)
            slope = torch.where(unstable, high / (high - low).clamp_min(1e-30), (low >= 0).to(low.dtype))
            # The upper line is slope * (z - low), the lower one slope * z: one slope, so one matrix serves both bounds.
            rise = torch.where(unstable, -slope * low, torch.zeros_like(low)).flatten()
            flat = a.flatten(1)
            below, above = below + flat.clamp_max(0) @ rise, above + flat.clamp_min(0) @ rise
            a = a * slope
        else:
            raise TypeError(type(layer))
    flat = a.flatten(1)
    up, down = flat.clamp_min(0), flat.clamp_max(0)
    low, high = lower.flatten(), upper.flatten()
    return below + up @ low + down @ high, above + up @ high + down @ low


def _shapes(layers, shape):
    """The input shape of each layer."""
    shapes, x = [], torch.zeros(1, *shape, dtype=next(p.dtype for layer in layers for p in layer.parameters()))
    for layer in layers:
        shapes.append(x.shape[1:])
        x = layer(x)
    return shapes


def _classes(model):
    return model[-1].out_features
