import importlib.util
import math
import pickle
import py_compile
import random
import sys
import textwrap
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from actsec.errors import BadOption, ModelError, NoVerdict, UnknownName, Unsafe
from actsec.loading.normalizing import IMAGENET, normalization, show_normalization
from actsec.target import describe, echo_eps, fingerprint, load, settle
from actsec.types import Normalization, Target

NETS = """
    import dataclasses
    import torch
    from torch import nn

    @dataclasses.dataclass
    class Sizes:
        width: int = 4

    class Net(nn.Module):
        def __init__(self, sizes, classes):
            super().__init__()
            self.sizes = sizes
            self.first = nn.Linear(6, sizes.width)
            self.last = nn.Linear(sizes.width, classes)

        def forward(self, x):
            return self.last(torch.relu(self.first(x.flatten(1))))

    def make(width=4, classes=3):
        return Net(Sizes(width), classes)

    def needs(width):
        return Net(Sizes(width), 3)

    def anything(**options):
        return Net(Sizes(**options), 3)

    def fails():
        numbers = [1]
        return numbers[3]

    def leaves():
        raise SystemExit("goodbye")

    def words():
        return "a model"

    def kind():
        return Net

    ready = make()
"""


@pytest.fixture
def nets(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(textwrap.dedent(NETS))
    return path


def module(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, classes))


# forms ----------------------------------------------------------------------------------------------------------------


def test_a_function_of_a_file_with_options(nets):
    target = load(f"{nets}:make(width=7)", input_shape=(6,), classes=3)
    assert target.model.first.out_features == 7
    assert target.name == "nets.py:make(width=7)"
    assert (target.shape, target.classes, target.model.training) == ((6,), ("0", "1", "2"), False)


def test_a_model_of_a_file_that_is_no_function(nets):
    assert load(f"{nets}:ready", input_shape=(6,)).model.first.out_features == 4
    with pytest.raises(BadOption, match="takes no options"):
        load(f"{nets}:ready(width=3)", input_shape=(6,))


def test_a_path_with_spaces_and_brackets(tmp_path):
    folder = tmp_path / "my nets (2)"
    folder.mkdir()
    (folder / "a b.py").write_text(textwrap.dedent(NETS))
    assert load(f"{folder}/a b.py:make(width=5)", input_shape=(6,)).model.first.out_features == 5


def test_a_function_of_a_package(tmp_path, monkeypatch):
    (tmp_path / "somepackage").mkdir()
    (tmp_path / "somepackage" / "__init__.py").write_text("")
    (tmp_path / "somepackage" / "nets.py").write_text(textwrap.dedent(NETS))
    monkeypatch.syspath_prepend(tmp_path)
    assert load("somepackage.nets:make(width=2)", input_shape=(6,)).model.first.out_features == 2
    with pytest.raises(ModelError, match=r"fails: nets\.py:\d+: TypeError: .*of type str"):
        load("somepackage.nets:make(width=wide)", input_shape=(6,))


def test_a_reference_network():
    said = []
    target = load("reference:cnn(activation=gelu)", input_shape=(1, 8, 8), classes=10, tell=said.append)
    assert target.logits(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert describe(target)["activations"] == {"gelu": 3}
    assert "untrained" in said[0]
    with pytest.raises(ModelError, match="needs the input shape and the number of classes"):
        load("reference:cnn")


def test_a_torchvision_network_needs_weights_or_a_wish(tmp_path):
    with pytest.raises(ModelError, match=r"untrained network.*\n.*--random-weights"):
        load("torchvision:squeezenet1_1", input_shape=(3, 64, 64))
    target = load("torchvision:squeezenet1_1(num_classes=4)", input_shape=(3, 64, 64), random_weights=True)
    assert target.classes == ("0", "1", "2", "3")
    save_file(target.model.state_dict(), tmp_path / "w.safetensors")
    again = load(
        "torchvision:squeezenet1_1(num_classes=4)", weights=tmp_path / "w.safetensors", input_shape=(3, 64, 64)
    )
    assert fingerprint(again) == fingerprint(target)


def test_torchvision_weights_are_looked_up_and_never_downloaded(tmp_path, monkeypatch):
    from torchvision import models

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ModelError, match=r"nothing is downloaded\n.*https://download.pytorch.org/models/squeezenet1_1"):
        load("torchvision:squeezenet1_1", weights="DEFAULT", input_shape=(3, 64, 64))
    (tmp_path / "checkpoints").mkdir()
    made = models.squeezenet1_1(weights=None)
    name = models.SqueezeNet1_1_Weights.DEFAULT.url.rsplit("/", 1)[1]
    torch.save(made.state_dict(), tmp_path / "checkpoints" / name)
    target = load(
        "torchvision:squeezenet1_1", weights="imagenet1k_v1", input_shape=(3, 64, 64), normalize="torchvision"
    )
    assert torch.equal(target.model.classifier[1].weight, made.classifier[1].weight)
    assert target.normalization == IMAGENET


def test_torchvision_normalisation_comes_from_its_weights():
    options = {"random_weights": True, "input_shape": (3, 75, 75), "normalize": "torchvision"}
    assert load("torchvision:squeezenet1_0", **options).normalization == IMAGENET
    with pytest.raises(BadOption, match="for torchvision models"):
        load(module(), normalize="torchvision")


def test_torchvision_names_are_suggested():
    with pytest.raises(UnknownName, match="Did you mean 'resnet18'"):
        load("torchvision:resnet81", random_weights=True)
    with pytest.raises(BadOption, match="--weights"):
        load("torchvision:resnet18(weights=DEFAULT)", random_weights=True)


def test_a_module_is_taken_as_it_is_and_left_so():
    given_module = module().train()
    before = {key: value.clone() for key, value in given_module.state_dict().items()}
    target = load(given_module, input_shape=(6,))
    assert target.model is given_module
    assert all(m.training for m in given_module.modules())
    assert all(torch.equal(value, before[key]) for key, value in given_module.state_dict().items())


def test_weights_for_a_module_go_into_a_copy(tmp_path):
    source, into = module(), module()
    nn.init.zeros_(into[1].weight)
    save_file(source.state_dict(), tmp_path / "w")
    target = load(into, weights=tmp_path / "w", input_shape=(6,))
    assert torch.equal(target.model[1].weight, source[1].weight)
    assert not into[1].weight.any()


def test_the_random_weights_of_a_factory_are_a_function_of_the_seed(nets):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    made = [fingerprint(load(f"{nets}:make", input_shape=(6,), seed=seed)) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_factory_disturbs_nothing(tmp_path):
    (tmp_path / "rude.py").write_text(
        "import torch\ntorch.set_grad_enabled(False)\ntorch.set_default_dtype(torch.float64)\n"
        "def make():\n    return torch.nn.Linear(3, 2)\n"
    )
    said = []
    path = list(sys.path)
    target = load(f"{tmp_path}/rude.py:make", input_shape=(3,), tell=said.append)
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() is torch.float32
    assert sys.path == path
    assert target.model.weight.dtype is torch.float32
    assert said == ["parameters of float64 are computed in float32"]


def test_dataclasses_and_pickle_work_in_a_file(nets):
    target = load(f"{nets}:make(width=9)", input_shape=(6,))
    copy = pickle.loads(pickle.dumps(target.model))
    assert copy.sizes == target.model.sizes
    assert type(copy) is type(target.model)
    assert "nets" not in sys.modules


def test_two_folders_with_a_module_of_one_name(tmp_path):
    for name, width in (("a", 2), ("b", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sizes_of_it.py").write_text(f"WIDTH = {width}\n")
        (tmp_path / name / "net.py").write_text(
            "import torch, sizes_of_it\ndef make():\n    return torch.nn.Linear(sizes_of_it.WIDTH, 2)\n"
        )
    assert load(f"{tmp_path}/a/net.py:make").model.in_features == 2
    assert load(f"{tmp_path}/b/net.py:make").model.in_features == 3


def test_an_edited_file_is_read_again(tmp_path):
    path = tmp_path / "net.py"
    for width in (2, 3):
        path.write_text(f"import torch\ndef make():\n    return torch.nn.Linear({width}, 2)\n")
        assert load(f"{path}:make").model.in_features == width


def test_lazy_layers_learn_their_size_from_the_shape():
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(ModelError, match="lazy layers"):
        load(lazy)
    assert load(lazy, input_shape=(1, 4, 4)).model[1].in_features == 16


# what a user can do wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        ("mak", ModelError, "has no function 'mak'\n.*Did you mean 'make'"),
        ("make(widht=3)", UnknownName, "option of nets.py:make 'widht'\n.*Did you mean 'width'"),
        ("needs", BadOption, r"needs 'width'\n.*needs\(width=...\)"),
        ("fails", ModelError, r"nets.py:fails fails: nets.py:\d+: IndexError: list index out of range"),
        ("leaves", ModelError, r"nets.py:leaves fails: nets.py:\d+: SystemExit: goodbye"),
        ("words", ModelError, "returned a str, not a torch.nn.Module"),
        ("kind", ModelError, "returned the class Net, not a torch.nn.Module"),
    ],
)
def test_a_factory_that_cannot_be_used(nets, call, error, said):
    with pytest.raises(error, match=said) as caught:
        load(f"{nets}:{call}", input_shape=(6,))
    assert caught.value.exit_code == 2


def test_bytecode_beside_a_file_is_not_executed_for_it(tmp_path):
    """A hash of the file says nothing of a __pycache__ that somebody put beside it."""
    path, other = tmp_path / "net.py", tmp_path / "other.py"
    for place, width in ((path, 2), (other, 3)):
        place.write_text(f"import torch\ndef make():\n    return torch.nn.Linear({width}, 2)\n")
    planted = importlib.util.cache_from_source(str(path))
    py_compile.compile(str(other), planted, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert load(f"{path}:make").model.in_features == 2


def test_the_line_of_a_fault_is_named(tmp_path):
    (tmp_path / "bad.py").write_text("import torch\n\nx = 1 / 0\n")
    with pytest.raises(
        ModelError, match=r"bad.py fails when it is imported: bad.py:3: ZeroDivisionError: division by zero"
    ):
        load(f"{tmp_path}/bad.py:make")
    assert not any("_actsec_model_bad" in name for name in sys.modules)
    (tmp_path / "bad.py").write_text("import torch\ndef make(:\n")
    with pytest.raises(ModelError, match=r"bad.py:2: SyntaxError"):
        load(f"{tmp_path}/bad.py:make")
    (tmp_path / "bad.py").write_text("from .layers import X\n")
    with pytest.raises(ModelError, match=r"\n.*package\.module:function"):
        load(f"{tmp_path}/bad.py:make")
    (tmp_path / "bad.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(ModelError, match=r"\n.*Install 'nowhere_to_be_found'"):
        load(f"{tmp_path}/bad.py:make")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nowhere/nets.py:make", "there is no file"),
        ("nets.py", "names a file and no function"),
        ("resnet18", "cannot read the model"),
        ("no.such.package:make", "there is no module 'no.such.package'"),
        (":make", "cannot read the model"),
    ],
)
def test_a_model_that_is_not_there(text, said):
    with pytest.raises(ModelError, match=said):
        load(text)


def test_weights_are_refused_before_the_architecture_runs(tmp_path):
    (tmp_path / "nets.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\n")
    (tmp_path / "w.pt").write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(Unsafe):
        load(f"{tmp_path}/nets.py:make", weights=tmp_path / "w.pt")
    assert not (tmp_path / "RAN").exists()


def test_nan_weights_are_no_verdict(tmp_path, nets):
    state = load(f"{nets}:make", input_shape=(6,)).model.state_dict()
    state["last.bias"][1] = float("nan")
    save_file(state, tmp_path / "w")
    with pytest.raises(NoVerdict, match=r"weights contain NaN in last\.bias") as caught:
        load(f"{nets}:make", weights=tmp_path / "w", input_shape=(6,))
    assert caught.value.exit_code == 3


def test_notes_of_the_weights_are_told(tmp_path, nets):
    state = load(f"{nets}:make", input_shape=(6,), seed=4).model.state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "w.pt")
    said = []
    target = load(f"{nets}:make", weights=tmp_path / "w.pt", input_shape=(6,), tell=said.append)
    assert torch.equal(target.model.last.weight, state["last.weight"])
    assert said == [
        "left unread in w.pt, no tensors: epoch",
        "weights were read from under 'state_dict.module'",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bounds": (1.0, 0.0)}, "not a range"),
        ({"bounds": (0.0, float("nan"))}, "not a range"),
        ({"classes": 1}, "at least 2"),
        ({"classes": ["a", "a", "b"]}, "different names"),
        ({"classes": "abc"}, "different names"),
        ({"threshold": 1.5, "classes": 2}, "threshold"),
        ({"device": "cuda:7"}, "cannot be used here"),
        ({"device": "toaster"}, "cannot be used here"),
        ({"normalize": "0.5"}, "cannot read the normalisation"),
        ({"normalize": "0.5/0"}, "not usable"),
        ({"normalize": "1,2/1,2,3"}, "2 means and 3 stds"),
        ({"normalize": "imagenet", "input_shape": (1, 2, 3)}, "3 channels, the inputs have 1"),
    ],
)
def test_options_out_of_range(options, said):
    with pytest.raises(BadOption, match=said):
        load(module(), **options)


# heads ----------------------------------------------------------------------------------------------------------------


class Head(nn.Module):
    """Six inputs, and a head that ``shape`` makes of the logits."""

    def __init__(self, shape, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.shape = module(classes), shape

    def forward(self, x):
        return self.shape(self.body(x))


HEADS = [
    lambda z: z,
    lambda z: (z, "aux"),
    lambda z: ["aux", z],
    lambda z: {"features": z[:, :1], "logits": z},
    lambda z: {"out": z},
    lambda z: types.SimpleNamespace(logits=z, loss=None),
    lambda z: z.double(),
]


@pytest.mark.parametrize("shape", HEADS)
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_every_form_of_head_gives_the_same_logits(shape, classes):
    x = torch.rand(4, 6)
    target = load(Head(shape, classes), input_shape=(6,))
    assert len(target.classes) == classes
    assert torch.equal(target.logits(x), module(classes)(x))


def test_a_named_field_and_one_that_is_not_there():
    net = Head(lambda z: {"probabilities": z.softmax(1), "scores": z})
    target = load(net, input_shape=(6,), output="scores")
    assert torch.equal(target.logits(torch.ones(2, 6)), net.body(torch.ones(2, 6)))
    with pytest.raises(UnknownName, match="Did you mean 'scores'"):
        load(net, input_shape=(6,), output="score")
    with pytest.raises(ModelError, match="returns a Tensor"):
        load(module(), input_shape=(6,), output="logits")


@pytest.mark.parametrize("shape", [lambda z: z, lambda z: z[:, 0]])
@given(threshold=st.floats(0.01, 0.99))
def test_one_logit_decides_as_its_sigmoid_does(shape, threshold):
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(2))
    net = Head(shape, 1)
    target = load(net, input_shape=(6,), threshold=threshold)
    probability = torch.sigmoid(net.body(x)[:, 0].double())
    clear = (probability - threshold).abs() > 1e-6
    decided = target.decide(target.logits(x))
    assert torch.equal(decided[clear].bool(), (probability > threshold)[clear])
    assert torch.allclose(target.logits(x).softmax(1)[:, 1].double(), probability, atol=1e-6)


@given(threshold=st.floats(0.01, 0.99))
def test_one_logit_is_the_two_logit_model_of_their_difference(threshold):
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(2))
    two = module(2)
    one = load(lambda_module(lambda x: two(x)[:, 1] - two(x)[:, 0]), input_shape=(6,), threshold=threshold)
    both = load(two, input_shape=(6,), threshold=threshold)
    clear = (both.logits(x).softmax(1)[:, 1] - threshold).abs() > 1e-5
    assert torch.equal(one.decide(one.logits(x))[clear], both.decide(both.logits(x))[clear])


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def lambda_module(function):
    return Lambda(function)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: x[:, :1], "it is a regression, and actsec audits classifiers"),
        (lambda x: x[:, 0], "it is a regression, and actsec audits classifiers"),
        (lambda x: x[:, :4], "tells 4 classes apart and 3 were named"),
        (lambda x: x[:, :3].argmax(1), "a decision, not logits"),
        (lambda x: x.view(-1, 3, 2), "returns shape .2, 3, 2. for 2 inputs"),
        (lambda x: x.sum(), "returns shape .. for 2 inputs"),
        (lambda x: x[:1], "returns shape .1, 6. for 2 inputs"),
        (lambda x: "no", "no logits were found"),
        (lambda x: x @ torch.zeros(5, 3), r"cannot take inputs of shape \(6,\): mat1 and mat2"),
    ],
)
def test_what_is_no_classifier_of_these_classes(function, said):
    with pytest.raises(ModelError, match=said) as caught:
        load(lambda_module(function), input_shape=(6,), classes=("ant", "bee", "cow"))
    assert "Traceback" not in str(caught.value)


def test_shape_and_classes_come_from_the_data():
    target = load(module())
    assert (target.shape, target.classes) == ((), ())
    target = settle(target, torch.rand(5, 1, 2, 3))
    assert (target.shape, target.classes) == ((1, 2, 3), ("0", "1", "2"))
    assert settle(target, torch.rand(5, 1, 2, 3), ["a", "b", "c"]).classes == ("a", "b", "c")
    with pytest.raises(ModelError, match="declared for inputs of shape"):
        settle(target, torch.rand(5, 6))
    with pytest.raises(ModelError, match="tells 3 classes apart and 4 were named"):
        settle(target, torch.rand(5, 1, 2, 3), list("abcd"))


def test_settling_leaves_the_model_as_it_was():
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)).train()
    torch.manual_seed(1)
    before, state = torch.get_rng_state(), {key: value.clone() for key, value in net.state_dict().items()}
    describe(load(net, input_shape=(6,)))
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), before)


# fingerprint and description ------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self, scale=1.0, act=torch.relu):
        super().__init__()
        torch.manual_seed(0)
        self.scale, self.act, self.linear = scale, act, nn.Linear(6, 3)
        self.register_buffer("offset", torch.zeros(3), persistent=False)

    def forward(self, x):
        return self.scale * self.act(self.linear(x)) + self.offset


def changed(**changes):
    return fingerprint(Target(Scaled(), (6,), ("a", "b"), **changes))


def test_everything_that_decides_an_answer_is_in_the_fingerprint():
    def weight(net):
        net.linear.weight.data[0, 0] += 1e-6

    def hidden(net):
        net.offset[0] = 1e-3

    def replaced(net):
        net.linear = nn.Sequential(net.linear, nn.ReLU())

    prints = [fingerprint(Target(Scaled(), (6,), ("a", "b")))]
    for edit in (weight, hidden, replaced):
        net = Scaled()
        edit(net)
        prints.append(fingerprint(Target(net, (6,), ("a", "b"))))
    prints += [
        fingerprint(Target(Scaled(1000.0), (6,), ("a", "b"))),
        fingerprint(Target(Scaled(act=torch.tanh), (6,), ("a", "b"))),
    ]
    prints += [changed(bounds=(0.0, 2.0)), changed(normalization=IMAGENET), changed(threshold=0.3), changed(output="z")]
    assert len(set(prints)) == len(prints)


def test_the_fingerprint_of_equal_models_is_equal():
    assert fingerprint(Target(Scaled(), (6,), ("a", "b"))) == changed() == changed(name="another name")
    net = Scaled().train()
    assert fingerprint(Target(net, (6,), ("a", "b"))) == changed()


def test_an_edited_forward_is_another_model(tmp_path):
    prints = []
    for line in ("return self.inner(x)", "return self.inner(x).flip(1)"):
        (tmp_path / "net.py").write_text(
            "import torch\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            f"        self.inner = torch.nn.Linear(3, 2)\n    def forward(self, x):\n        {line}\n"
        )
        prints.append(fingerprint(load(f"{tmp_path}/net.py:Net", input_shape=(3,))))
    assert prints[0] != prints[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_tensors_of_every_type_are_read(dtype):
    net = Scaled()
    net.register_buffer("extra", torch.ones((), dtype=dtype))
    assert fingerprint(Target(net, (6,), ("a", "b"))) != changed()


def test_description():
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))
    said = describe(load(net, input_shape=(1, 2, 3), classes=("no", "yes"), threshold=0.25, normalize="0.5/0.25"))
    assert said["parameters"] == 6 * 5 + 5 + 5 * 5 + 5 + 5 * 2 + 2
    assert said["activations"] == {"relu": 1, "tanh": 1}
    assert said["normalization"] == "0.5/0.25"
    assert said["decision"] == "class 1 above probability 0.25"
    assert (said["input_shape"], said["classes"], said["device"]) == ([1, 2, 3], ["no", "yes"], "cpu")


# normalisation and eps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("imagenet", IMAGENET),
        ("ImageNet", IMAGENET),
        ("none", None),
        ("0.5/0.25", Normalization((0.5,), (0.25,))),
        ("0.485,0.456,0.406/0.229,0.224,0.225", IMAGENET),
        ("0.1,0.2,0.3/0.5", Normalization((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))),
    ],
)
def test_normalisations_by_name(text, value):
    assert normalization(text) == value
    assert normalization(show_normalization(value)) == value


@given(st.lists(st.tuples(st.floats(-300, 300), st.floats(1e-3, 300)), min_size=1, max_size=4))
def test_normalisations_are_read_back_as_they_are_shown(pairs):
    value = Normalization(*(tuple(column) for column in zip(*pairs, strict=True)))
    assert normalization(show_normalization(value)) == value


def test_normalisation_is_applied_by_the_target():
    x = torch.rand(3, 3, 4, 4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    target = load(net, input_shape=(3, 4, 4), normalize="0.1,0.2,0.3/0.5,0.6,0.7")
    by_hand = (x.numpy() - np.array([0.1, 0.2, 0.3])[:, None, None]) / np.array([0.5, 0.6, 0.7])[:, None, None]
    assert torch.allclose(target.logits(x), net(torch.from_numpy(by_hand).float()), atol=1e-6)


IMAGE = Target(nn.Identity(), (3, 32, 32), ("a", "b"))


@pytest.mark.parametrize(
    ("eps", "norm", "target", "said"),
    [
        (
            2 / 255,
            "linf",
            IMAGE.having(normalization=Normalization((0.5,), (0.23,))),
            "2/255 of [0, 1] = 2 grey levels = 0.034 after your normalisation",
        ),
        (
            2 / 255,
            "linf",
            IMAGE.having(normalization=IMAGENET),
            "2/255 of [0, 1] = 2 grey levels = 0.034 to 0.035 after your normalisation",
        ),
        (1 / 255, "linf", IMAGE, "1/255 of [0, 1] = 1 grey level"),
        (0.1, "linf", IMAGE, "0.1 of [0, 1] = 25.5 grey levels"),
        (8.0, "linf", IMAGE.having(bounds=(0.0, 255.0)), "8 of [0, 255] = 8 grey levels"),
        (2 / 255, "linf", IMAGE.having(bounds=(-1.0, 1.0)), "2/255 of [-1, 1] = 1 grey level"),
        (0.1, "linf", IMAGE.having(shape=(13,)), "0.1 of [0, 1] = 10 % of the range"),
        (1.0, "l0", IMAGE, "1 of 1024 pixels (0.098 %), the chosen pixel free in [0, 1]"),
        (3.0, "l0", IMAGE.having(shape=(12,)), "3 of 12 features (25 %), the chosen features free in [0, 1]"),
        (
            math.sqrt(3072) / 255,
            "l2",
            IMAGE,
            "l2 0.217355 in [0, 1] = 0.0039 a value, spread evenly over 3072 = 1 grey level",
        ),
        (3072 * 3 / 255, "l1", IMAGE, "l1 36.1412 in [0, 1] = 0.012 a value, spread evenly over 3072 = 3 grey levels"),
    ],
)
def test_eps_in_all_its_units(eps, norm, target, said):
    assert echo_eps(eps, target, norm) == said


def test_the_global_random_states_are_left_alone(nets):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002  # the global state is what is watched
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    load(f"{nets}:make", input_shape=(6,))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


def test_a_package_that_only_the_forward_asks_for_is_named():
    """The message of the shape would send the user after the wrong thing."""

    class Late(nn.Module):
        def forward(self, x):
            import surely_not_there

            return surely_not_there.head(x)

    with pytest.raises(ModelError, match="forward fails: ModuleNotFoundError") as caught:
        settle(load(Late()), torch.rand(5, 1, 2, 3))
    assert "Install 'surely_not_there'" in caught.value.mend
