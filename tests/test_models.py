"""Reference networks: every activation, from a seed, one module a call."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from actsec import activations, models
from actsec.errors import BadOption, ModelError, SpecError, UnknownName
from actsec.spec import parse

INPUTS = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def parameters(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("activation", activations.names())
@pytest.mark.parametrize("name", models.names())
def test_every_activation_builds_and_passes_gradients_to_every_weight(name, activation):
    model = models.build(f"{name}(activation={activation})", (1, 8, 8), 10, seed=0)
    logits = model(INPUTS)
    assert logits.shape == (4, 10)
    F.cross_entropy(logits, torch.arange(4)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize(("name", "calls"), [("mlp", 3), ("cnn", 3), ("resnet20", 19)])
def test_every_call_has_its_own_module(name, calls):
    model = models.build(f"{name}(activation=prelu)", (3, 16, 16), 5, seed=0)
    own = [m for m in model.modules() if isinstance(m, nn.PReLU)]
    assert len({id(m.weight) for m in own}) == len(own) == calls
    seen: list[nn.Module] = []
    for module in own:
        module.register_forward_hook(lambda module, *_: seen.append(module))
    model(torch.rand(2, 3, 16, 16))
    assert len(seen) == len(set(seen)) == calls


@pytest.mark.parametrize("name", models.names())
def test_the_seed_decides_the_weights_and_the_global_state_is_untouched(name):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = models.build(name, (1, 8, 8), 10, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    second, other = models.build(name, (1, 8, 8), 10, seed=1), models.build(name, (1, 8, 8), 10, seed=2)
    pairs = list(zip(parameters(first), parameters(second), parameters(other), strict=True))
    assert all(torch.equal(one, two) for one, two, _ in pairs)
    assert any(not torch.equal(one, three) for one, _, three in pairs)


def test_activation_options_reach_the_function():
    model = models.build("reference:mlp(activation=leaky_relu(slope=0.5),width=[4])", (3,), 2, seed=0)
    linear, last = model[1], model[3]
    x = torch.randn(7, 3)
    z = linear(x)
    assert torch.equal(model(x), last(torch.where(z > 0, z, 0.5 * z)))


def test_cnn_computes_what_it_says():
    model = models.build("cnn(activation=tanh,channels=[3,5],hidden=7)", (2, 9, 11), 4, seed=0)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    x = torch.rand(3, 2, 9, 11)
    h = torch.tanh(F.conv2d(x, convolutions[0].weight, convolutions[0].bias, padding=1))
    h = torch.tanh(F.conv2d(h, convolutions[1].weight, convolutions[1].bias, stride=2, padding=1))
    h = torch.tanh(F.linear(h.flatten(1), linears[0].weight, linears[0].bias))
    assert torch.equal(model(x), F.linear(h, linears[1].weight, linears[1].bias))


@pytest.mark.parametrize(
    ("spec", "shape", "count"),
    [
        ("cnn", (1, 8, 8), 38282),
        ("cnn", (1, 28, 28), 105866),
        ("resnet20", (3, 32, 32), 269722),  # He et al. 2015, table 6: 0.27M
        ("mlp", (64,), 64 * 128 + 128 + 128 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10),
    ],
)
def test_parameter_counts(spec, shape, count):
    assert sum(p.numel() for p in models.build(spec, shape, 10, seed=0).parameters()) == count


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 15, 16), (3, 17, 31), (1, 1, 1), (2, 28, 28)])
def test_image_networks_take_any_size(shape):
    for name in ("cnn", "resnet20"):
        assert models.build(name, shape, 3, seed=0)(torch.rand(2, *shape)).shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "variance"),
    [
        ("activation=relu", 2 / 400),
        ("activation=gelu", 2 / 400),
        ("activation=leaky_relu(slope=0.5)", 2 / 1.25 / 400),
        ("activation=prelu(init=0.25)", 2 / 1.0625 / 400),
        ("activation=selu", 1 / 400),
        ("activation=tanh", 2 / 700),
        ("activation=relu,init=glorot", 2 / 700),
        ("activation=sigmoid", 16 * 2 / 700),
        ("activation=sigmoid,init=glorot", 2 / 700),
        ("activation=tanh,init=he", 2 / 400),
        ("activation=relu,init=torch", 1 / 3 / 400),
        ("activation=relu,init=lecun", 1 / 400),
        ("activation=leaky_relu(slope=0.5),init=orthogonal", 2 / 1.25 / 400),
    ],
)
def test_initial_weights_have_the_stated_variance(options, variance):
    model = models.build(f"mlp({options},width=[300])", (400,), 10, seed=0)
    weight = model[1].weight
    # relative standard error of a variance of 120,000 draws is at most sqrt(2 / 120000) = 0.41 %; five of them
    assert weight.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / weight.numel()))


def test_orthogonal_weights_are_orthonormal_times_the_gain():
    weight = models.build("mlp(width=[30],init=orthogonal)", (50,), 3, seed=0)[1].weight
    assert torch.allclose(weight @ weight.T, 2 * torch.eye(30), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ("", (128, 128, 64)),
        ("depth=5", (128, 128, 64, 64, 64)),
        ("depth=1", (128,)),
        ("depth=4,width=[10]", (10, 10, 10, 10)),
        ("depth=2,width=[9,8,7]", (9, 8)),
    ],
)
def test_depth_repeats_the_last_width_or_leaves_widths_out(options, widths):
    model = models.build(f"mlp({options})", (12,), 3, seed=0)
    assert tuple(m.out_features for m in model if isinstance(m, nn.Linear)) == (*widths, 3)


def test_a_residual_layer_adds_its_input_where_widths_agree():
    model = models.build("mlp(width=[6],depth=3,residual=true,norm=layer,activation=tanh)", (5,), 2, seed=0)
    first, *rest = (m for m in model.modules() if isinstance(m, nn.Linear))
    x = torch.randn(4, 5)
    unit = lambda z: torch.tanh(F.layer_norm(z, (6,)))  # noqa: E731
    h = unit(first(x))
    for layer in rest[:-1]:
        h = h + unit(layer(h))
    assert torch.equal(model(x), rest[-1](h))


def test_a_residual_network_without_a_place_for_it_is_refused():
    with pytest.raises(BadOption, match="equal widths"):
        models.build("mlp(width=[6,7],residual=true)", (5,), 2, seed=0)
    assert models.build("mlp(width=[5,7],residual=true)", (5,), 2, seed=0)(torch.rand(3, 5)).shape == (3, 2)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("name", models.names())
def test_norms_stand_before_every_activation(name, norm):
    """Layer norm: an example's answer ignores the scale of a layer; batch norm: a batch's. Without one, both matter."""
    model = models.build(f"{name}(norm={norm})", (1, 8, 8), 10, seed=0)
    kinds = {"none": (), "batch": (nn.BatchNorm1d, nn.BatchNorm2d), "layer": (nn.LayerNorm, nn.GroupNorm)}
    norms = [m for m in model.modules() if isinstance(m, (*kinds["batch"], *kinds["layer"]))]
    acts = sum(isinstance(m, nn.ReLU) for m in model.modules())
    assert len(norms) == (0 if norm == "none" else acts)
    assert all(isinstance(m, kinds[norm]) for m in norms)
    first = next(m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    before = model(INPUTS)
    with torch.no_grad():
        first.weight *= 7
    assert torch.allclose(model(INPUTS), before, rtol=0, atol=1e-2 * before.abs().max().item()) == (norm != "none")
    alone = torch.cat([model.eval()(x[None]) for x in INPUTS])
    assert torch.allclose(alone, model(INPUTS), atol=1e-4)  # in eval mode rows do not meet


def test_the_plain_network_is_the_residual_one_without_shortcuts():
    shared = [models.build(f"resnet20(width=4{more})", (1, 8, 8), 10, seed=0) for more in ("", ",residual=false")]
    assert all(map(torch.equal, *map(parameters, shared)))
    block = shared[1].blocks[0]
    x = torch.rand(2, 4, 8, 8)
    h = block.norm2(block.conv2(torch.relu(block.norm1(block.conv1(x)))))
    assert torch.equal(block(x), torch.relu(h))
    assert torch.equal(shared[0].blocks[0](x), torch.relu(h + x))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_dropout_drops_in_training_alone(name):
    dropping, plain = (models.build(f"{name}(dropout={share})", (1, 8, 8), 10, seed=0) for share in (0.5, 0))
    assert torch.equal(dropping.eval()(INPUTS), plain.eval()(INPUTS))
    dropping.train()
    assert not torch.equal(dropping(INPUTS), dropping(INPUTS))


def test_maxout_doubles_the_layer_before_it():
    model = models.build("mlp(activation=maxout(pieces=3),width=[8,4])", (5,), 2, seed=0)
    assert [m.out_features for m in model if isinstance(m, nn.Linear)] == [24, 12, 2]
    x = torch.randn(6, 5)
    h = model[1](x).unflatten(1, (8, 3)).amax(2)
    assert torch.equal(model(x), model[5](model[3](h).unflatten(1, (4, 3)).amax(2)))


def test_he_keeps_the_scale_of_a_deep_relu_network():
    """The mean square of every layer's output is the input's, on average over seeds (He et al. 2015, section 2.2)."""
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    width = ",".join(["256"] * 12)
    ratios = [
        models.build(f"mlp(width=[{width}])", (64,), 2, seed)[:-2](x).square().mean().item() for seed in range(5)
    ]  # pre-activations of the last hidden layer: twice the mean square after relu
    assert 2 / 1.5 < sum(ratios) / 5 / x.square().mean().item() < 2 * 1.5


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("cnm", UnknownName, "Did you mean 'cnn'"),
        ("cnn(activation=rleu)", UnknownName, "Did you mean 'relu'"),
        ("cnn(activation=leaky_relu(slop=0.1))", UnknownName, "Did you mean 'slope'"),
        ("cnn(activatoin=relu)", UnknownName, "Did you mean 'activation'"),
        ("cnn(channels=[16])", BadOption, "two numbers of channels"),
        ("cnn(hidden=0)", BadOption, "at least 1 hidden"),
        ("mlp(width=[])", BadOption, "Give widths"),
        ("resnet20(width=3)", BadOption, "even"),
        ("cnn(init=xavier)", BadOption, "auto, he, glorot, lecun, orthogonal, torch"),
        ("mlp(depth=0)", BadOption, "hidden layer"),
        ("mlp(norm=group)", BadOption, "batch, layer or none"),
        ("mlp(dropout=1)", BadOption, "share"),
        ("cnn(dropout=-0.1)", BadOption, "share"),
        ("resnet20(norms=layer)", UnknownName, "Did you mean 'norm'"),
        ("cnn(", SpecError, "cannot read"),
    ],
)
def test_bad_specs_raise_and_never_fall_back(spec, error, says):
    with pytest.raises(error, match=says):
        models.build(spec, (1, 8, 8), 10, seed=0)
    with pytest.raises(error, match=says):
        models.canonical(spec)


def test_shapes_that_do_not_fit():
    with pytest.raises(ModelError, match=r"cnn takes images.*\n.*reference:mlp"):
        models.build("cnn", (64,), 10, seed=0)
    with pytest.raises(ModelError, match="holds nothing"):
        models.build("mlp", (), 10, seed=0)
    with pytest.raises(BadOption, match="at least 2"):
        models.build("mlp", (64,), 1, seed=0)


def test_canonical_writes_every_option_and_round_trips():
    full = models.canonical("reference:cnn(activation=leaky_relu)")
    told = "activation=leaky_relu(slope=0.01), channels=[16, 32], hidden=64, norm=none, dropout=0.0, init=auto"
    assert str(full) == f"cnn({told})"
    assert models.canonical(parse(str(full))) == full
    assert models.canonical("cnn(hidden=64,activation=leaky_relu(slope=0.01))") == full


def test_names_and_options_import_no_torch():
    uses = "models.canonical('cnn'); models.names()"
    code = f"import sys; from actsec import models; {uses}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
