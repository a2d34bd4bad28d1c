"""Hard cases for finding, watching and replacing: what torch fuses, scripts, runs twice, never reaches, or wraps."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from actsec.activations import activation, dead_counts, find, replace, sites, watch
from actsec.errors import ModelError
from actsec.types import Target


class Recurrent(nn.Module):
    def __init__(self, cell, **options):
        super().__init__()
        self.cell, self.head = cell(4, 5, **options), nn.Linear(5, 3)

    def forward(self, x):
        out = self.cell(x)
        while isinstance(out, tuple):
            out = out[0]
        return self.head(F.relu(out))


@pytest.mark.parametrize(
    ("cell", "options", "says"),
    [
        (nn.LSTM, {"batch_first": True}, "an LSTM's gates, fused"),
        (nn.GRU, {"batch_first": True}, "a GRU's gates, fused"),
        (nn.RNN, {"batch_first": True}, "an RNN's tanh, fused"),
        (nn.RNN, {"nonlinearity": "relu"}, "an RNN's ReLU, fused"),
        (nn.LSTMCell, {}, "an LSTM cell's gates, fused"),
        (nn.GRUCell, {}, "a GRU cell's gates, fused"),
        (nn.RNNCell, {}, "an RNN cell's tanh, fused"),
        (nn.RNNCell, {"nonlinearity": "relu"}, "an RNN cell's ReLU, fused"),
    ],
)
def test_gates_inside_fused_recurrent_kernels_are_not_watchable(cell, options, says):
    x = torch.randn(3, 4) if cell.__name__.endswith("Cell") else torch.randn(3, 2, 4)
    found = find(Recurrent(cell, **options).eval(), x)
    assert [(item.name, says in item.reason, "not watchable" in item.reason) for item in found.unresolved] == [
        ("cell", True, True)
    ]
    assert [(s.name, s.role, s.constant) for s in found] == [("relu", "activation", False)]


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act = nn.Linear(4, 6), nn.ReLU()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONWARNINGS", "ignore")
            self.child = torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.Tanh()))
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(F.silu(self.child(self.act(self.first(x)))))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_child_is_unresolved_and_the_rest_is_found():
    torch.manual_seed(0)
    model, x = Scripted().eval(), torch.randn(3, 4)
    found = find(model, x)
    assert [(s.name, s.constant) for s in found] == [("act", False), ("silu", False)]
    (item,) = found.unresolved
    assert item.name == "child"
    assert "scripted" in item.reason
    with watch(model) as seen, torch.no_grad():
        assert torch.equal(model(x), seen.calls[-1].post @ model.head.weight.T + model.head.bias)
    swapped = replace(model, "relu", only="act", example=x)
    assert torch.equal(swapped(x), model(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_models_compiled_as_a_whole_are_refused_and_it_is_said_what_is_still_possible():
    model = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    for use in (lambda: find(model, torch.rand(1, 4)), lambda: watch(model).__enter__()):
        with pytest.raises(ModelError, match="robust accuracy work on it as it is"):
            use()
    lazy = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), backend="eager")
    with pytest.raises(ModelError, match="_orig_mod"):
        find(lazy, torch.rand(1, 4))
    assert [s.kind for s in find(lazy._orig_mod, torch.rand(1, 4))] == ["relu"]


def test_data_parallel_wrappers_leave_the_names_alone():
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).eval()
    x = torch.randn(3, 4)
    wrapped = nn.DataParallel(plain) if not torch.cuda.is_available() else nn.DataParallel(plain, device_ids=[0])
    assert [s.name for s in find(wrapped, x)] == [s.name for s in find(plain, x)] == ["1"]
    with torch.no_grad():
        assert torch.equal(replace(wrapped, "silu", example=x)(x), replace(plain, "silu", example=x)(x))
    wrapped.device_ids = [0, 1]
    with pytest.raises(ModelError, match=r"model\.module"):
        find(wrapped, x)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Quick(), nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    model, x = model.eval().to(dtype), torch.randn(3, 4).to(dtype)
    assert [(s.name, s.kind) for s in find(model, x)] == [("1.swish", "swish"), ("3", "relu")]
    with torch.no_grad():
        plain = model(x)
        with watch(model) as seen:
            assert torch.equal(model(x), plain)
        assert {c.pre.dtype for c in seen.calls} == {dtype}
        swapped = replace(model, "prelu", example=x)
        assert swapped(x).dtype == dtype
        counts = dead_counts(model, x, find(model, x))
        assert torch.equal(counts["3"], (seen.calls[-1].pre <= 0).sum(0).double())


class Quick(nn.Module):
    def forward(self, z):
        return z * torch.sigmoid(1.702 * z)


def test_a_model_swapped_by_hand_written_sites_pickles_and_loads():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), Quick(), nn.Linear(8, 2)).eval(), torch.randn(3, 4)
    swapped = replace(model, "prelu", example=x)
    again = pickle.loads(pickle.dumps(copy.deepcopy(swapped)))
    assert torch.equal(again(x), swapped(x))
    fresh = replace(model, "prelu(init=0.9)", example=x)
    fresh.load_state_dict(swapped.state_dict())
    assert torch.equal(fresh(x), swapped(x))
    program = torch.export.export(again, (x,)).module()
    assert torch.equal(program(x), swapped(x))
    assert [s.name for s in find(again, x)] == ["1.swish"]


class Learned(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.beta = nn.Parameter(torch.ones(shape))

    def forward(self, z):
        return z * torch.sigmoid(self.beta * z)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_swish_whose_sharpness_is_learned_keeps_its_name_while_it_learns(shape):
    model, x = nn.Sequential(nn.Linear(4, 8), Learned(shape), nn.Linear(8, 2)), torch.randn(3, 4)
    for value in (1.0, 1.7, 3.0):
        model[1].beta.data.fill_(value)
        (site,) = find(model, x)
        assert (site.name, site.kind) == ("1.pswish", "pswish")


class Shared(nn.Module):
    """The sigmoid of a hand-written SiLU is a gate elsewhere."""

    def forward(self, x):
        s = torch.sigmoid(x)
        return x * s + s * x.flip(0)


def test_a_part_that_is_used_elsewhere_makes_the_whole_unresolved():
    model, x = nn.Sequential(nn.Linear(4, 4), Shared(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(3, 4)
    found = find(model, x)
    assert [s.name for s in found] == ["3"]
    assert ["used elsewhere" in item.reason for item in found.unresolved] == [True]
    with torch.no_grad():
        assert torch.equal(replace(model, "relu", example=x)(x), model(x))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.act = nn.Linear(4, 4), Quick()

    def forward(self, x):
        h = self.act(self.fc(x))
        if x.mean() > 100:
            h = F.mish(h)
        return self.act(self.fc(h)).sum(1, keepdim=True)


def test_a_module_used_twice_and_a_branch_that_is_not_taken():
    x = torch.randn(3, 4)
    found = find(Twice(), x)
    assert [(s.name, s.block, s.functional) for s in found] == [
        ("act.swish", "act", True),
        ("act.swish:2", "act", True),
    ]
    swapped = replace(Twice(), "prelu", example=x)
    assert list(swapped.stands) == ["act/swish", "act/swish:2"]
    with pytest.raises(ModelError, match="mish"):
        swapped(x + 1000)


class Fickle(nn.Module):
    """After the example its expression means another thing."""

    power = 1

    def forward(self, x):
        return x * torch.sigmoid(x) ** self.power


def test_an_expression_that_changed_since_is_an_error_and_not_a_wrong_answer():
    swapped = replace(nn.Sequential(Fickle(), nn.Linear(4, 2)), "relu", example=torch.randn(3, 4))
    swapped.model[0].power = 2
    with pytest.raises(ModelError, match="part of an activation written by hand"):
        swapped(torch.randn(3, 4))


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.fc, self.act, self.reentrant = nn.Linear(4, 4), nn.SiLU(inplace=True), reentrant

    def forward(self, x):
        return checkpoint(lambda z: self.act(self.fc(z)), x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_activations_are_found_and_watched(reentrant):
    model, x = nn.Sequential(Checkpointed(reentrant), nn.Linear(4, 2)).eval(), torch.randn(3, 4, requires_grad=True)
    assert [(s.name, s.kind, s.functional) for s in find(model, x)] == [("0.act", "silu", False)]
    with watch(model) as seen:
        model(x)
    assert torch.equal(seen.calls[0].pre, model[0].fc(x))


@pytest.mark.parametrize(
    "act",
    [
        nn.SiLU(inplace=True),
        nn.Mish(inplace=True),
        nn.ELU(inplace=True),
        nn.CELU(inplace=True),
        nn.SELU(inplace=True),
        nn.LeakyReLU(inplace=True),
        nn.Hardswish(inplace=True),
        nn.Hardsigmoid(inplace=True),
        nn.Hardtanh(inplace=True),
    ],
)
def test_every_activation_in_place(act):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), act, nn.Linear(8, 2)).eval(), torch.randn(3, 4)
    (site,) = find(model, x)
    with torch.no_grad():
        plain, z = model(x), model[0](x)
        with watch(model) as seen:
            assert torch.equal(model(x), plain)
        assert torch.equal(seen.calls[0].pre, z)
        assert torch.equal(seen.calls[0].post, site.activation(z))
        swapped = replace(model, "gelu", example=x)
        assert torch.equal(swapped(x), model[2](F.gelu(z)))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("act", ["relu", "gelu", F.silu])
def test_transformer_layers(act, norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=act, batch_first=True, norm_first=norm_first)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(24, 2))
    found = find(model.eval(), torch.rand(2, 3, 8))
    kind = act if isinstance(act, str) else "silu"
    assert [(s.name, s.block) for s in found] == [
        (f"0.layers.0.{kind}", "0.layers.0"),
        (f"0.layers.1.{kind}", "0.layers.1"),
    ]
    assert found.unresolved == ()
    assert found.softmaxes == ("0.layers.0.self_attn", "0.layers.1.self_attn")


def test_softmaxes_of_attention_and_of_the_output_are_named_and_left():
    class Attention(nn.Module):
        def forward(self, x):
            return F.softmax(x @ x.transpose(1, 2), -1) @ x

    model = nn.Sequential(Attention(), nn.Flatten(), nn.Linear(6, 3), nn.Softmax(-1))
    found = find(model, torch.rand(2, 3, 2))
    assert (found.sites, found.unresolved, found.softmaxes) == ((), (), ("0", "3"))


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.table, self.act = nn.Linear(4, 4), nn.Parameter(torch.randn(4)), nn.ReLU()

    def forward(self, x):
        return self.act(self.fc(x)) + self.act(self.table) + self.table * torch.sigmoid(self.table)


def test_branches_that_never_see_the_input_count_for_nothing():
    torch.manual_seed(0)
    model, x = nn.Sequential(Table(), nn.Linear(4, 2)), torch.randn(5, 4)
    found = find(model, x)
    assert [(s.name, s.constant) for s in found] == [("0.act", False), ("0.act:2", True), ("0.silu", True)]
    assert list(dead_counts(model, x, found)) == ["0.act"]


def test_values_that_are_not_numbers_are_neither_dead_nor_alive():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 4)
    found = find(model, x)
    x[3, 1] = torch.nan
    assert dead_counts(model, x, found) == {"1": None, "3": None}
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)
    assert [(s.name, s.constant) for s in find(model, x)] == [("1", False), ("3", False)]


def test_a_constant_that_is_not_a_number_is_still_a_constant():
    model = nn.Sequential(Table(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].table.fill_(torch.nan)
    assert [s.constant for s in find(model, torch.randn(5, 4))] == [False, True, True]


@pytest.mark.parametrize("name", ["relu", "relu6", "hardswish", "hardsigmoid", "hardtanh", "tanh"])
@pytest.mark.parametrize("batch", [1, 3, 128])
def test_dead_counts_are_those_of_the_flat_side(name, batch):
    torch.manual_seed(0)
    act = activation(name)
    model, x = nn.Sequential(nn.Linear(4, 16), act.module(), nn.Linear(16, 2)), 4 * torch.randn(50, 4)
    counts = dead_counts(model, x, find(model, x), batch)
    if not act.properties.can_die:
        assert counts == {}
        return
    z = model[0](x).detach().requires_grad_()
    act(z).sum().backward()
    flat = (z.grad == 0) & (act(z) == act(torch.tensor(-9.0)))
    assert 0 < flat.sum() < flat.numel()
    assert torch.equal(counts["1"], flat.sum(0).double())


def test_a_target_lists_its_sites():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), Quick(), nn.Linear(6, 6), nn.LeakyReLU(0.2), nn.Linear(6, 2))
    target = Target(model.eval().requires_grad_(False), (3, 2, 2), ("a", "b"), bounds=(-1.0, 1.0))
    listed = sites(target)
    assert [(s.name, s.block, s.module, s.shape) for s in listed] == [
        ("2.swish", "2", None, (6,)),
        ("4", "", "4", (6,)),
    ]
    table = str(listed).splitlines()
    assert table[0].split() == ["name", "kind", "shape", "call", "block", "role"]
    assert table[1].split() == ["2.swish", "swish(beta=1.702)", "6", "by", "hand", "2", "activation"]
    assert table[2].split() == ["4", "leaky_relu(slope=0.2)", "6", "module", "(model)", "activation"]


def test_a_model_without_activations():
    model, x = nn.Linear(4, 2), torch.randn(3, 4)
    found = find(model, x)
    assert (found.sites, found.unresolved, dead_counts(model, x, found)) == ((), (), {})
    assert str(found).splitlines() == ["name  kind  shape  call  block  role"]
