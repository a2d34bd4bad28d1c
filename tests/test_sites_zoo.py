"""Activation calls on torchvision's classification networks, against what torch.export and the profiler see.

The slow tests take every architecture, the smallest first; ``-s`` prints a table.
"""

import pytest
import torch

from actsec.activations import find, replace, watch

torchvision = pytest.importorskip("torchvision")

QUICK = ("resnet18", "googlenet", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "vit_b_16", "squeezenet1_1")
ALL = torchvision.models.list_models(module=torchvision.models)
KINDS = "relu relu6 hardtanh leaky_relu prelu elu celu selu gelu silu mish hardswish tanh sigmoid hardsigmoid softplus"
KINDS = set(KINDS.split())


@pytest.fixture
def build(monkeypatch):
    """Networks on the meta device: no weights, no arithmetic, so that the largest is as cheap as the smallest."""
    regnet = torchvision.models.regnet.BlockParams
    original = regnet.from_init_params.__func__

    def on_cpu(cls, *args, **options):
        with torch.device("cpu"):  # it computes its widths with tensors
            return original(cls, *args, **options)

    monkeypatch.setattr(regnet, "from_init_params", classmethod(on_cpu))

    def build(name):
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        with torch.device("meta"):
            return torchvision.models.get_model(name, **options).eval()

    return build


def operators(model, example):
    """The activation operators of the exported program in order, each with the path of the module that calls it."""
    with torch.no_grad():
        program = torch.export.export(model, (example,))
    calls = []
    for node in program.graph.nodes:
        name = getattr(node.target, "__name__", "").partition(".")[0].rstrip("_")
        if node.op == "call_function" and name in KINDS:
            kind = "relu6" if name == "hardtanh" and list(node.args[1:]) == [0.0, 6.0] else name
            path, _ = list(node.meta["nn_module_stack"].values())[-1]
            calls.append((kind, path.partition("@")[0]))
    return calls


def assert_agreement(model, name):
    size = 299 if name == "inception_v3" else 224
    example = torch.empty(2, 3, size, size, device="meta")
    sites = find(model, example)
    called = operators(model, example)
    assert [site.kind for site in sites] == [kind for kind, _ in called]
    assert [site.module or site.block for site in sites] == [path for _, path in called]
    assert len({site.name for site in sites}) == len(sites)
    assert sites.unresolved == ()
    assert sites.active
    return sites


@pytest.mark.filterwarnings("ignore")  # torch.export's own
@pytest.mark.parametrize("name", QUICK)
def test_calls_are_those_of_the_exported_program(build, name):
    sites = assert_agreement(build(name), name)
    known = {"resnet18": 17, "googlenet": 57, "mobilenet_v2": 35, "vit_b_16": 12}
    assert len(sites) == known.get(name, len(sites))
    gates = {"mobilenet_v3_small": 9, "efficientnet_b0": 16}
    assert sum(site.role == "gate" for site in sites) == gates.get(name, 0)
    assert not any(site.constant for site in sites)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.export's own
@pytest.mark.parametrize("name", [name for name in ALL if name not in QUICK])
def test_calls_are_those_of_the_exported_program_on_the_rest(build, name):
    sites = assert_agreement(build(name), name)
    # Swin v2 computes its position bias from a table: a ReLU and a sigmoid a block that never see the image
    assert sum(site.constant for site in sites) == (2 * len(sites.active) if name.startswith("swin_v2") else 0)
    squeezes = name.startswith(("efficientnet", "mobilenet_v3", "regnet_y", "maxvit"))
    assert any(site.role == "gate" for site in sites) == squeezes


def test_resnet18_in_full():
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    x = torch.rand(2, 3, 64, 64)
    sites = find(model, x)
    assert [s.name for s in sites][:3] == ["relu", "layer1.0.relu", "layer1.0.relu:2"]
    assert sum(isinstance(m, torch.nn.ReLU) for m in model.modules()) == 9
    swapped = replace(model, "relu", example=x)
    with torch.no_grad():
        plain = model(x)
        assert torch.equal(swapped(x), plain)
        for watched in (model, swapped):
            with watch(watched) as seen:
                assert torch.equal(watched(x), plain)
            assert [c.name for c in seen.calls] == [s.name for s in sites]
            assert all((c.pre < 0).any() and torch.equal(c.post, c.pre.relu()) for c in seen.calls)
    assert len(list(replace(model, "prelu", example=x).stands.parameters())) == 17


@pytest.mark.filterwarnings("ignore:.*inception_v3.*")
def test_auxiliary_heads_are_replaced_although_eval_mode_skips_them():
    torch.manual_seed(0)
    model = torchvision.models.googlenet(init_weights=False)
    x = torch.rand(2, 3, 64, 64)
    swapped = replace(model, "prelu", example=x)
    assert len(find(model, x)) == 57
    assert len(swapped.stands) == 57 + 4
    swapped.train()
    out = swapped(x)
    (out.logits.sum() + out.aux_logits1.sum() + out.aux_logits2.sum()).backward()
    assert all(stand.weight.grad is not None for stand in swapped.stands.values())


def kernels(model, x):
    """The activation operators that ran, in order; those inside another one are its own."""
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        model(x)
    known = {f"aten::{kind}{tail}": kind for kind in KINDS for tail in ("", "_")}
    ran = []
    for event in sorted((e for e in seen.events() if e.name in known), key=lambda e: e.time_range.start):
        above = event.cpu_parent
        while above is not None and above.name not in known:
            above = above.cpu_parent
        if above is None:
            ran.append(known[event.name])
    return ran


def as_kernels(kinds):
    return ["hardtanh" if kind == "relu6" else kind for kind in kinds]


SIZES = {"maxvit_t": 224, "inception_v3": 96, "vit_h_14": 28}


def real(name, monkeypatch):
    """A network with weights, on the smallest input that its architecture takes; torch's own initialisers take long."""
    for initialiser in [key for key in vars(torch.nn.init) if key.endswith("_") and not key.startswith("_")]:
        monkeypatch.setattr(torch.nn.init, initialiser, lambda tensor, *args, **options: tensor)
    size = SIZES.get(name, 32 if name.startswith("vit") else 64)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    options |= {"image_size": size} if name.startswith("vit") else {}
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
    return model, torch.rand(1, 3, size, size)


def assert_profiled(name, monkeypatch):
    model, x = real(name, monkeypatch)
    sites = find(model, x)
    assert as_kernels(site.kind for site in sites) == kernels(model, x)
    active = {site.name for site in sites.active}
    swapped = replace(model, "softplus", example=x)
    expected = ["softplus" if site.name in active else site.kind for site in sites]
    assert kernels(swapped, x) == as_kernels(expected)
    kinds = ", ".join(f"{sum(s.kind == kind for s in sites)} {kind}" for kind in dict.fromkeys(s.kind for s in sites))
    others = f"{len(sites.gates)} gates, {sum(s.constant for s in sites)} constant, {len(sites.softmaxes)} softmax"
    print(f"{name:20s} {len(sites):4d} sites  {kinds}; {others}; {len(sites.unresolved)} unresolved", flush=True)  # noqa: T201  # the table


def weight(name):
    return torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]


@pytest.mark.filterwarnings("ignore:.*inception_v3.*")
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_calls_are_those_that_the_profiler_sees_before_and_after_a_swap(name, monkeypatch):
    assert_profiled(name, monkeypatch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*inception_v3.*")
@pytest.mark.parametrize("name", sorted(ALL, key=weight))
def test_calls_are_those_that_the_profiler_sees_on_every_network(name, monkeypatch):
    assert_profiled(name, monkeypatch)
