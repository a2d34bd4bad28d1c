import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from actsec.errors import BadOption, DataError, ModelError, NoVerdict
from actsec.loading.normalizing import normalization
from actsec.running.preflight import check_expected, preflight
from actsec.target import load
from actsec.types import Normalization, Target
from actsec.verdict.statistics import share

looking = importlib.import_module("actsec.running.preflight")

CLASSES = 4
N = 400


class Prototypes(nn.Module):
    """Logits are the negative squared distances to one prototype image a class, and what ``then`` makes of them."""

    def __init__(self, means, then=None, scale=1.0):
        super().__init__()
        self.means = nn.Parameter(means.flatten(1).clone())
        self.then, self.scale = then or nn.Identity(), scale

    def forward(self, x):
        return self.then(-self.scale * torch.cdist(x.flatten(1), self.means).square())


def problem(channels=3, classes=CLASSES, noise=0.1, n=N):
    """Inputs in [0, 1], labels, and the class means: nearly separable by distance."""
    draw = torch.Generator().manual_seed(4)
    means = torch.rand(classes, channels, 5, 5, generator=draw) * 0.6 + 0.2
    y = torch.arange(n) % classes
    x = (means[y] + noise * torch.randn(n, channels, 5, 5, generator=draw)).clamp(0, 1)
    return x, y, means


def target(then=None, normalize=None, means=None, scale=1.0, **options):
    means = problem()[2] if means is None else means
    return load(Prototypes(means, then, scale), input_shape=tuple(means.shape[1:]), normalize=normalize, **options)


class Then(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z):
        return self.function(z)


# all is well ----------------------------------------------------------------------------------------------------------


def test_a_good_model_passes_and_is_measured():
    x, y, means = problem(noise=0.6)
    found = preflight(target(), x, y)
    rows = np.linspace(0, N - 1, found.accuracy.n).round().astype(int)
    correct = torch.cdist(x.flatten(1), means.flatten(1)).argmin(1) == y
    assert found.accuracy == share(int(correct[rows].sum()), len(rows))
    assert 32 <= found.accuracy.n <= 256
    assert 0.5 < found.accuracy.value < 1
    assert found.warnings == ()
    assert found.notes[0].startswith(f"clean accuracy {found.accuracy.value:.1%} ({found.accuracy.k} of {len(rows)})")
    assert {name for name, _ in found.others} == {"imagenet", "0.5/0.5", "0/0.00392156862745098"}
    assert found.target.stochastic is False


def test_numpy_and_few_rows():
    x, y, _ = problem()
    found = preflight(target(), x[:40].numpy(), y[:40].numpy())
    assert found.accuracy.n == 40


@pytest.mark.parametrize(("rows", "asked"), [(100, 100), (3, 32), (10_000, 256)])
def test_a_costly_model_is_asked_fewer_rows(monkeypatch, rows, asked):
    """A linear layer costs two operations a weight; four passes share the budget."""
    x, _, means = problem()
    net = nn.Sequential(nn.Flatten(), nn.Linear(75, 2000), nn.Linear(2000, 75), Prototypes(means))
    weights = 2 * 75 * 2000
    monkeypatch.setattr(looking, "BUDGET", 4 * rows * 2 * weights * 1.01)
    assert looking._rows(load(net, input_shape=(3, 5, 5)), x[:1]) == pytest.approx(asked, rel=0.02)


def test_shape_and_classes_are_filled_in():
    x, y, means = problem()
    found = preflight(load(Prototypes(means)), x, y)
    assert (found.target.shape, found.target.classes) == ((3, 5, 5), ("0", "1", "2", "3"))


def test_the_model_is_left_as_it_was():
    x, y, means = problem()
    net = nn.Sequential(nn.BatchNorm2d(3, momentum=0.9), nn.Dropout(0.5), Prototypes(means)).train()
    net[0].running_var[:] = 1.0
    state = {key: value.clone() for key, value in net.state_dict().items()}
    torch.manual_seed(2)
    before = torch.get_rng_state()
    preflight(load(net, input_shape=(3, 5, 5)), x, y)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_log_softmax_is_logits():
    x, y, _ = problem()
    assert preflight(target(nn.LogSoftmax(1)), x, y).warnings == ()


@pytest.mark.parametrize("classes", [2, 3])
def test_two_and_three_classes(classes):
    x, y, means = problem(classes=classes)
    assert preflight(target(means=means), x, y).accuracy.value > 0.9


def test_one_logit():
    x, y, means = problem(classes=2)
    one = Then(lambda z: z[:, 1] - z[:, 0])
    two = preflight(target(means=means), x, y)
    assert preflight(target(one, means=means), x, y).accuracy == two.accuracy


def test_vectors_have_no_image_normalisations():
    x, y, means = problem()
    net = Prototypes(means)
    found = preflight(load(net, input_shape=(75,)), x.flatten(1), y)
    assert (found.others, found.warnings) == ((), ())


def test_the_threshold_decides():
    x, y, means = problem(classes=2, noise=0.9)
    plain, strict = (preflight(target(means=means, threshold=t, scale=0.5), x, y) for t in (0.5, 0.7))
    probability = Prototypes(means, scale=0.5)(x).softmax(1)[:, 1]
    rows = np.linspace(0, N - 1, strict.accuracy.n).round().astype(int)
    assert strict.accuracy.k == int(((probability > 0.7).long() == y)[rows].sum())
    assert plain.accuracy.k != strict.accuracy.k


# the outputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [None, "probabilities"])
def test_softmax_outputs_stop(field):
    x, y, _ = problem()
    then = nn.Softmax(1) if field is None else Then(lambda z: {"probabilities": z.softmax(1), "logits": z})
    with pytest.raises(ModelError, match=r"probabilities \(softmax outputs\)(.|\n)*--output"):
        preflight(target(then, output=field), x, y)
    if field:
        assert preflight(target(then, output="logits"), x, y).accuracy.value > 0.9


def test_sigmoid_outputs_stop():
    x, y, means = problem(classes=2)
    with pytest.raises(ModelError, match="sigmoid output"):
        preflight(target(Then(lambda z: torch.sigmoid(z[:, 1] - z[:, 0])), means=means), x, y)


def test_sigmoids_a_class_are_doubted():
    x, y, _ = problem()
    found = preflight(target(nn.Sequential(Then(lambda z: z + 3), nn.Sigmoid())), x, y)
    assert any("sigmoid" in warning for warning in found.warnings)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_no_numbers(value):
    x, y, _ = problem()
    broken = Then(
        lambda z: torch.where(z < z.amin(0), value, z) if len(z) < 3 else z.index_fill(0, torch.tensor([5]), value)
    )
    with pytest.raises(NoVerdict, match=r"NaN or infinity for \d+ of \d+ examples"):
        preflight(target(broken), x, y)


def test_nan_weights():
    x, y, means = problem()
    net = Prototypes(means)
    ready = load(net, input_shape=(3, 5, 5))
    with torch.no_grad():
        net.means[1, 2] = float("nan")
    with pytest.raises(NoVerdict, match="weights contain NaN in means"):
        preflight(ready, x, y)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_a_dead_model(value):
    x, y, _ = problem()
    with pytest.raises(NoVerdict, match="same output for every example") as caught:
        preflight(target(Then(lambda z: z * 0 + value)), x, y)
    assert caught.value.exit_code == 3


def test_a_model_that_always_says_one_class():
    x, y, _ = problem()
    biased = Then(lambda z: z + torch.tensor([0.0, 0.0, 1e4, 0.0]))
    with pytest.raises(NoVerdict, match="says '2' to all of 256 examples"):
        preflight(target(biased), x, y)


def test_noise_is_noticed():
    x, y, _ = problem()
    found = preflight(target(Then(lambda z: z + 0.01 * torch.randn_like(z))), x, y)
    assert found.target.stochastic
    assert any("judged by averages" in warning for warning in found.warnings)


def test_batch_norm_without_running_statistics():
    x, y, means = problem()
    net = nn.Sequential(nn.BatchNorm2d(3, affine=False, track_running_stats=False), Prototypes((means - 0.5) * 3))
    found = preflight(load(net, input_shape=(3, 5, 5)), x, y)
    assert any(warning.startswith("0 keeps no running statistics") for warning in found.warnings)
    assert any("depends on the others in its batch" in warning for warning in found.warnings)
    assert not found.target.stochastic


# the data -------------------------------------------------------------------------------------------------------------


def test_bytes_for_a_unit_model():
    x, y, _ = problem()
    with pytest.raises(DataError, match=r"these are 0-255 images\n.*Divide them by 255, or give --bounds 0,255"):
        preflight(target(), (x * 255).round(), y)


def test_inputs_outside_other_bounds():
    x, y, _ = problem()
    with pytest.raises(DataError, match=r"inputs lie in \[-.*declared for \[0, 1\]"):
        preflight(target(), x * 2 - 1, y)


def test_inputs_that_use_little_of_their_range():
    x, y, means = problem()
    found = preflight(target(bounds=(0.0, 255.0)), x, y)
    assert any("is their scale right" in warning for warning in found.warnings)
    assert preflight(target(means=means * 255, bounds=(0.0, 255.0)), x * 255, y).warnings == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x[:0], y[:0]), "no examples"),
        (lambda x, y: (x, y[:-1]), "400 inputs and 399 labels"),
        (lambda x, y: (x.index_fill(0, torch.tensor([7]), float("nan")), y), "NaN"),
        (lambda x, y: (x, y - 1), "labels run from -1 to 2"),
        (lambda x, y: (x, y + 1), r"labels run from 1 to 4, the model tells 4 classes apart\n.*begin at 1: subtract 1"),
        (lambda x, y: (x, y * 10), "labels run from 0 to 30"),
        (lambda x, y: (x, y + 0.25), "not regression models"),
        (lambda x, y: (x, torch.eye(4)[y]), r"labels have shape \(400, 4\)"),
    ],
)
def test_data_that_cannot_be_meant(change, said):
    x, y, _ = problem()
    with pytest.raises(DataError, match=said) as caught:
        preflight(target(), *change(x, y))
    assert caught.value.exit_code == 2


def test_labels_in_other_clothes():
    x, y, _ = problem()
    plain = preflight(target(), x, y).accuracy
    assert preflight(target(), x, y.float()).accuracy == plain
    assert preflight(target(), x, y[:, None].to(torch.uint8)).accuracy == plain


def test_inputs_of_another_shape():
    x, y, means = problem()
    with pytest.raises(ModelError, match=r"declared for inputs of shape \(3, 5, 5\), the data has \(3, 5, 4\)"):
        preflight(target(), x[..., :4], y)
    with pytest.raises(ModelError, match=r"cannot take inputs of shape \(3, 5, 4\): X1 and X2 must have the same"):
        preflight(load(Prototypes(means)), x[..., :4], y)


# what the owner may have meant ----------------------------------------------------------------------------------------


NAMES = ["none", "imagenet", "0.5/0.5", "0/0.00392156862745098"]


def brightness(true):
    """Four grey levels, and a model that tells them apart when its inputs are normalised as ``true`` says."""
    draw = torch.Generator().manual_seed(4)
    means = torch.tensor([0.2, 0.4, 0.6, 0.8])[:, None, None, None].expand(4, 3, 5, 5)
    y = torch.arange(N) % CLASSES
    x = (means[y] + 0.05 * torch.randn(N, 3, 5, 5, generator=draw)).clamp(0, 1)
    rescale = normalization(true)
    return x, y, Prototypes(rescale(means) if rescale else means)


@pytest.mark.parametrize("asked", NAMES)
@pytest.mark.parametrize("true", NAMES)
def test_the_wrong_normalisation_stops_with_the_right_flag(asked, true):
    x, y, net = brightness(true)
    tested = load(net, input_shape=(3, 5, 5), normalize=asked)
    if asked == true:
        assert preflight(tested, x, y).accuracy.value == 1.0
        return
    with pytest.raises(ModelError) as caught:
        preflight(tested, x, y)
    assert caught.value.mend.startswith(f"Give --normalize {true}")
    assert f"with normalisation {asked} and 100.0% with {true}" in caught.value.problem


def test_an_owner_who_knows_the_accuracy_is_believed():
    x, y, made = brightness("0.1/1")
    net = load(made, input_shape=(3, 5, 5))
    others = ["0.1/1"]
    reached = float((net.decide(net.logits(x)) == y).float().mean())
    with pytest.raises(ModelError, match=r"or --expect-accuracy 0\.6\d if that"):
        preflight(net, x, y, other_normalizations=others)
    found = preflight(net, x, y, other_normalizations=others, expect_accuracy=round(reached, 2))
    assert max(other.value for _, other in found.others) - found.accuracy.value > 0.1


def test_named_alternatives_replace_the_usual_ones():
    odd = Normalization((0.3,), (0.05,))
    x, y, made = brightness("0.3/0.05")
    net = load(made, input_shape=(3, 5, 5))
    with pytest.raises(ModelError, match=r"Give --normalize 0\.3/0\.05 if that is its training's or its own MEAN/STD;"):
        preflight(net, x, y, other_normalizations=["0.3/0.05"])
    x, y, _ = problem()
    found = preflight(target(), x, y, other_normalizations=[None, odd])
    assert [name for name, _ in found.others] == ["0.3/0.05"]


def test_labels_moved_in_a_circle_are_moved_back_in_one():
    x, y, means = problem(classes=5)
    with pytest.raises(DataError, match=r"too high(.|\n)*\(y - 1\) % 5"):
        preflight(target(means=means), x, (y + 1) % 5)


def test_labels_of_one_class_are_noted():
    x, y, _ = problem()
    (said,) = (note for note in preflight(target(), x[y == 1], y[y == 1]).notes if note.startswith("every label"))
    assert said == "every label is '1': the other 3 classes are not tested"


def test_a_normalisation_given_twice_is_noted():
    """Too little is lost for an error: more than 10 points stop."""
    x, y, _ = problem(noise=0.6)
    found = preflight(target(normalize="0.05/1"), x, y)
    assert dict(found.others)["none"].value > found.accuracy.value > dict(found.others)["none"].value - 0.1
    assert "without normalisation: does the model normalise by itself?" in found.notes[1]


class Stubborn(nn.Module):
    """Dropout that eval() does not reach."""

    def __init__(self, model):
        super().__init__()
        self.model, self.drop = model, nn.Dropout(0.05)

    def forward(self, x):
        return self.drop(self.model(x))

    def train(self, mode=True):
        return self


def test_a_model_that_ignores_eval_is_named():
    x, y, means = problem()
    found = preflight(load(Stubborn(Prototypes(means)), input_shape=(3, 5, 5)), x, y)
    assert any(
        note.endswith("drop (Dropout) stays in training mode in spite of eval(): is that meant?")
        for note in found.notes
    )


@pytest.mark.parametrize(("shift", "said"), [(1, "too high(.|\n)*y - 1"), (-1, r"too low(.|\n)*y \+ 1")])
def test_labels_off_by_one(shift, said):
    """A model with a class that the labels skip, at either end."""
    x, y, means = problem(classes=5)
    rows = (y > 0) & (y < 4)
    with pytest.raises(DataError, match=f"labels are one {said}"):
        preflight(target(means=means), x[rows], y[rows] + shift)


def test_a_small_gain_is_no_reason_to_stop():
    x, y, means = problem(noise=0.6)
    slightly = Normalization((0.02,), (1.0,))
    net = load(Prototypes(slightly(means)), input_shape=(3, 5, 5))
    found = preflight(net, x, y, other_normalizations=[slightly])
    assert abs(found.others[0][1].value - found.accuracy.value) < 0.1


def test_guessing_is_no_verdict():
    x, y, _ = problem()
    shuffled = y[torch.randperm(N, generator=torch.Generator().manual_seed(1))]
    with pytest.raises(NoVerdict, match=r"no better than guessing \(25.0%\)") as caught:
        preflight(target(), x, shuffled)
    assert caught.value.exit_code == 3


def test_few_examples_are_said_to_be_few():
    x, y, _ = problem()
    found = preflight(target(), x[:2], y[:2])
    assert found.accuracy.k == 2
    assert any("2 examples are too few" in warning for warning in found.warnings)
    with pytest.raises(NoVerdict, match="no better than guessing"):
        preflight(target(), x[:2], y[:2].flip(0))


def test_an_expected_accuracy_that_is_not_reached():
    x, y, _ = problem(noise=0.9)
    reached = preflight(target(), x, y)
    assert reached.accuracy.high < 0.9
    with pytest.raises(NoVerdict, match=r"clean accuracy is .*, and 93.0% is expected") as caught:
        preflight(target(), x, y, expect_accuracy=0.93)
    assert caught.value.exit_code == 3
    assert preflight(target(), x, y, expect_accuracy=reached.accuracy.value).accuracy == reached.accuracy


@pytest.mark.parametrize("k", range(80, 101))
def test_the_rule_of_expectation_is_the_interval(k):
    measured = share(k, 100)
    if measured.high < 0.93:
        with pytest.raises(NoVerdict):
            check_expected(measured, 0.93)
    else:
        assert check_expected(measured, 0.93) is None
    assert (measured.high < 0.93) == (k <= 87)


@pytest.mark.parametrize("wrong", [93.0, 0.0, -1.0])
def test_an_expectation_that_is_no_share(wrong):
    with pytest.raises(BadOption, match=r"Write 0\.93"):
        check_expected(share(9, 10), wrong)


# real models ----------------------------------------------------------------------------------------------------------

SHARED = Path(os.environ.get("ACTSEC_SHARED", Path(__file__).parents[2] / "shared")) / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the trained models are not here (ACTSEC_SHARED)")


def cifar(**options) -> tuple[Target, np.ndarray, np.ndarray]:
    held = np.load(SHARED / "cifar10_test_2k.npz")
    net = load(
        f"{SHARED}/models.py:cifar10_resnet20",
        weights=SHARED / "cifar10_resnet20.safetensors",
        input_shape=(3, 32, 32),
        classes=10,
        **options,
    )
    return net, (held["x"] / 255).astype(np.float32), held["y"]


@needs_shared
def test_a_resnet_that_normalises_inside():
    found = preflight(*cifar())
    assert 0.7 < found.accuracy.value < 0.9
    assert found.target.model.training is False
    with pytest.raises(ModelError, match="Give --normalize none"):
        preflight(*cifar(normalize="imagenet"))


@needs_shared
def test_a_resnet_whose_normalisation_was_forgotten():
    net, x, y = cifar()
    net.model.normalize = nn.Identity()
    with pytest.raises(ModelError, match="Give --normalize imagenet"):
        preflight(net, x, y)
    net = net.having(normalization=load(net.model, normalize="imagenet").normalization)
    assert 0.7 < preflight(net, x, y).accuracy.value < 0.9
