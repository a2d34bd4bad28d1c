"""Re-estimating the running statistics of batch-norm layers, after their inputs have changed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from actsec.training.evaluating import batches, inputs_of, modes_kept, place_of, plain_float32, private_draws, reseed


def recalibrate_batchnorm(model: nn.Module, x: Tensor, batch_size: int = 256) -> int:
    """Re-estimate the running statistics of every batch-norm layer on x (n, ...); returns how many layers there are.

    One pass in batches of a fixed random order, batch norm on batch statistics and everything else in eval mode. A
    layer's running mean and variance become those of all its inputs, pooled over batches in float64 (Chan et al. 1979),
    not an average of batch variances; the variance is the unbiased one, as torch's. Exact at any batch size for layers
    with no batch norm before them; for deeper ones up to the batch statistics used on the way. Needs at least 2 values
    a channel. ``momentum``, train flags and global random state are restored; weights never change. Cost: n forwards.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not layers:
        return 0
    place = place_of(model, None)
    x = inputs_of(x, place)
    pools = {layer: _Pool() for layer in layers}
    momenta = {layer: layer.momentum for layer in layers}
    hooks = [layer.register_forward_pre_hook(pools[layer].see) for layer in layers]
    parts = batches(torch.randperm(len(x), generator=torch.Generator().manual_seed(0)), batch_size)
    try:
        with modes_kept(model), private_draws(place), plain_float32(place), torch.no_grad():
            model.eval()
            reseed(place, 0)
            for layer in layers:
                layer.momentum = 0.0  # torch's own update changes nothing; the pools do the work
                layer.train()
            for index in parts:
                model(x[index.to(place)])
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in momenta.items():
            layer.momentum = momentum
    for layer, pool in pools.items():
        if pool.count > 1 and layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.copy_(pool.mean)
            layer.running_var.copy_(pool.squares / (pool.count - 1))
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked.fill_(len(parts))
    return len(layers)


class _Pool:
    """Mean and sum of squared deviations per channel over all batches seen."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def see(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach().transpose(0, 1).flatten(1).double()
        count, mean = values.shape[1], values.mean(1)
        squares = (values - mean[:, None]).square().sum(1)
        if not self.count:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total, shift = self.count + count, mean - self.mean
        self.squares = self.squares + squares + shift.square() * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total
