"""The one training loop: it learns, repeats bit for bit, stops on trouble and leaves nothing behind."""

import dataclasses
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actsec import activations, data, models
from actsec.errors import BadOption, DataError, ModelError
from actsec.spec import build, parse
from actsec.training import Memory, Recipe, accuracy, fit, recalibrate_batchnorm

GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(70, 1, 8, 8, generator=GENERATOR)
Y = torch.randint(0, 4, (70,), generator=GENERATOR)
QUICK = Recipe(epochs=2, batch_size=16)


def small(spec: str = "mlp(width=[12])", seed: int = 0) -> nn.Module:
    return models.build(spec, (1, 8, 8), 4, seed)


def state(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def digits() -> data.Splits:
    return data.load("digits")


# It learns


def test_the_default_recipe_learns_the_digits(digits):
    model = models.build("cnn", (1, 8, 8), 10, seed=0)
    train, test = ((torch.from_numpy(part.x), torch.from_numpy(part.y)) for part in (digits.train, digits.test))
    seen: list[tuple[int, int, float, float]] = []
    history = fit(model, *train, Recipe(), validation=test, progress=lambda *report: seen.append(report))
    reached = accuracy(model, *test)
    assert reached >= 0.96
    assert history.validation_accuracy[-1] == reached
    assert seen == [(at + 1, 20, history.loss[at], history.accuracy[at]) for at in range(20)]
    assert history.loss[-1] < 0.05 < history.loss[0]
    assert (history.epochs_run, history.kept_epoch, history.stopped) == (20, 20, "finished")
    assert history.backwards == 20 * 988
    assert history.forwards == 20 * (988 + 539)


@pytest.mark.parametrize("activation", activations.names())
def test_every_activation_trains(activation, digits):
    """A few epochs on 500 digits beat the best constant prediction, whose loss is ln 10, and move every weight."""
    model = models.build(f"cnn(activation={activation})", (1, 8, 8), 10, seed=0)
    before = [p.detach().clone() for p in model.parameters()]
    part = data.sample(digits.train, 500)
    history = fit(model, torch.from_numpy(part.x), torch.from_numpy(part.y), Recipe(epochs=6, batch_size=25))
    assert history.loss[-1] < math.log(10) - 0.1
    assert history.accuracy[-1] > 0.2
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# It repeats, and leaves nothing behind


class Noisy(nn.Module):
    """Dropout, batch norm and noise of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(64, 12), nn.BatchNorm1d(12)
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.first(x.flatten(1) + 0.1 * torch.randn(len(x), 64)))
        return self.last(self.drop(torch.relu(h)))


def noisy() -> Noisy:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Noisy()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("make", [noisy, small, lambda: small("cnn"), lambda: small("resnet20(width=4)")])
def test_two_fits_from_one_seed_are_bit_equal_and_the_global_state_is_untouched(make, optimizer):
    recipe = Recipe(epochs=2, batch_size=16, optimizer=optimizer, learning_rate=0.01, gradient_noise=0.01, clip_norm=1)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one, other, third = make(), make(), make()
    first = fit(one, X, Y, recipe, validation=(X, Y))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(10)
    second = fit(other, X, Y, recipe, validation=(X, Y))
    assert first == second
    assert equal(state(one), state(other))
    fit(third, X, Y, dataclasses.replace(recipe, seed=1))
    assert not equal(state(one), state(third))


def test_a_perturbation_that_draws_does_not_shift_the_dropout():
    def idle(model, x, y, ids, epoch):
        torch.rand(7)
        return x

    plain, perturbed = noisy(), noisy()
    fit(plain, X, Y, QUICK)
    fit(perturbed, X, Y, QUICK, perturb=idle)
    assert equal(state(plain), state(perturbed))


def test_the_model_ends_in_eval_mode_without_gradients():
    model = noisy()
    fit(model, X, Y, QUICK)
    assert not any(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_only_parameters_that_require_gradients_are_trained():
    model = small()
    model[1].requires_grad_(requires_grad=False)
    frozen, free = model[1].weight.clone(), model[3].weight.clone()
    fit(model, X, Y, QUICK)
    assert torch.equal(model[1].weight, frozen)
    assert not torch.equal(model[3].weight, free)
    model.requires_grad_(requires_grad=False)
    with pytest.raises(ModelError, match="requires_grad_"):
        fit(model, X, Y, QUICK)


def test_training_works_where_gradients_and_precision_are_switched():
    usual, switched = small(), small()
    fit(usual, X, Y, QUICK)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            fit(switched, X, Y, QUICK)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert equal(state(usual), state(switched))


# The updates are the stated ones


def by_hand(model: nn.Module, recipe: Recipe, optimizer: torch.optim.Optimizer) -> None:
    """Full-batch training with torch's own pieces."""
    steps = recipe.epochs
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = recipe.rate(step, steps)
        optimizer.zero_grad()
        F.cross_entropy(model(X.double()), Y, label_smoothing=recipe.label_smoothing).backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({}, torch.optim.Adam),
        ({"label_smoothing": 0.3}, torch.optim.Adam),
        ({"clip_norm": 0.05, "optimizer": "sgd"}, lambda p: torch.optim.SGD(p, momentum=0.9)),
        ({"optimizer": "sgd", "weight_decay": 0.1}, lambda p: torch.optim.SGD(p, momentum=0.9, weight_decay=0.1)),
        ({"weight_decay": 0.1, "schedule": "cosine"}, lambda p: torch.optim.Adam(p, weight_decay=0.1)),
    ],
)
def test_updates_equal_torchs_own_in_float64(options, reference):
    recipe = Recipe(**{"epochs": 5, "batch_size": 70, "learning_rate": 0.01, "schedule": "constant", **options})
    model, expected = small(), small().double()
    start = [p.detach().double() for p in model.parameters()]
    fit(model, X, Y, recipe)
    by_hand(expected, recipe, reference(expected.parameters()))
    for p, q, s in zip(model.parameters(), expected.parameters(), start, strict=True):
        # float32 rounding only: far below the distance travelled (Adam magnifies it where gradients are tiny)
        assert (p.double() - q).norm() < 1e-3 * (q - s).norm()


def test_smoothed_loss_is_torchs():
    for smoothing in (0.0, 0.2):
        model = small()
        expected = F.cross_entropy(model(X), Y, label_smoothing=smoothing).item()
        history = fit(model, X, Y, Recipe(epochs=1, batch_size=70, label_smoothing=smoothing))
        assert history.loss[0] == pytest.approx(expected, rel=1e-6)


class Blind(nn.Module):
    """Logits that do not depend on the weight, so that its gradient is exactly zero."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 4) + 0 * self.weight.sum()


def test_gradient_noise_has_the_stated_variance():
    size, steps = 40_000, 6
    recipe = Recipe(
        epochs=steps,
        batch_size=70,
        optimizer="sgd",
        momentum=0,
        learning_rate=1,
        schedule="constant",
        gradient_noise=0.3,
        gradient_noise_decay=0.55,
    )
    model = Blind(size)
    path = [torch.zeros(size)]
    fit(model, X, Y, recipe, after_epoch=lambda model, epoch: path.append(model.weight.detach().clone()))
    noise = [before - after for before, after in itertools.pairwise(path)]
    for step, drawn in enumerate(noise):
        variance = 0.3 / (1 + step) ** 0.55
        # variance of a normal sample: relative standard error sqrt(2 / n); mean: sigma / sqrt(n); five of each
        assert drawn.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / size))
        assert abs(drawn.mean().item()) < 5 * math.sqrt(variance / size)
    assert abs(np.corrcoef(noise[0].numpy(), noise[1].numpy())[0, 1]) < 5 / math.sqrt(size)


def test_schedules():
    constant = Recipe(schedule="constant", learning_rate=0.5)
    assert {constant.rate(step, 40) for step in range(40)} == {0.5}
    cosine = Recipe(schedule="cosine", learning_rate=0.5)
    assert cosine.rate(0, 40) == 0.5
    assert cosine.rate(20, 40) == pytest.approx(0.25)
    assert 0 < cosine.rate(39, 40) < 0.001
    cycle = [Recipe(learning_rate=0.5).rate(step, 40) for step in range(40)]
    assert cycle[:8] == pytest.approx([0.5 * (step + 1) / 8 for step in range(8)])
    assert cycle[8:] == sorted(cycle[8:], reverse=True)
    assert max(cycle) == 0.5
    assert min(cycle) > 0
    assert [Recipe().rate(0, steps) for steps in (1, 2)] == [Recipe().learning_rate] * 2


# Batches


class Recorder(nn.Module):
    """Keeps the inputs it sees in train mode; its logits follow from a trained bias."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.seen = nn.Parameter(torch.zeros(4)), []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x.detach().clone())
        return self.bias.expand(len(x), 4)


@pytest.mark.parametrize(
    ("n", "size", "expected"), [(70, 16, [16] * 4 + [6]), (33, 16, [16, 17]), (1, 16, [1]), (3, 1, [1, 2])]
)
def test_each_epoch_sees_every_example_once_and_no_batch_of_one_is_left_over(n, size, expected):
    model = Recorder()
    fit(model, torch.arange(n)[:, None].float(), torch.zeros(n, dtype=torch.int64), Recipe(epochs=2, batch_size=size))
    assert [len(x) for x in model.seen] == expected * 2
    first, second = torch.cat(model.seen).view(2, n)
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(n))
    assert n < 30 or not torch.equal(first, second)


def test_perturb_is_called_in_eval_mode_and_its_result_is_what_is_trained_on():
    calls = []

    def perturb(model, x, y, ids, epoch):
        assert not any(m.training for m in model.modules())
        assert all(p.requires_grad for p in model.parameters())
        calls.append((ids, epoch))
        assert torch.equal(x, X[ids - 1000])
        assert torch.equal(y, Y[ids - 1000])
        return x + 1

    model = Recorder()
    fit(model, X, Y, QUICK, ids=torch.arange(70) + 1000, perturb=perturb)
    assert [epoch for _, epoch in calls] == [0] * 5 + [1] * 5
    assert all(torch.equal(x, X[ids - 1000] + 1) for x, (ids, _) in zip(model.seen, calls, strict=True))


def test_gradients_left_by_perturb_do_not_enter_the_update():
    def leaves_gradients(model, x, y, ids, epoch):
        (100 * model(x).sum()).backward()
        return x

    plain, perturbed = small(), small()
    fit(plain, X, Y, QUICK)
    fit(perturbed, X, Y, QUICK, perturb=leaves_gradients)
    assert equal(state(plain), state(perturbed))


# Stopping


def test_after_epoch_stops_with_its_reason():
    model = small()
    modes = []

    def guard(model, epoch):
        modes.append(model.training)
        return "robust accuracy fell" if epoch == 2 else None

    history = fit(model, X, Y, Recipe(epochs=9), after_epoch=guard)
    assert (history.epochs_run, history.kept_epoch, history.stopped) == (2, 2, "robust accuracy fell")
    assert modes == [False, False]
    assert fit(small(), X, Y, Recipe(epochs=9), after_epoch=lambda *_: True).epochs_run == 1


def test_patience_restores_the_weights_of_the_best_epoch():
    held = (torch.rand(40, 1, 8, 8), torch.randint(0, 4, (40,)))  # unrelated labels: the fit soon gets worse
    path = []
    model = small()
    recipe = Recipe(epochs=200, batch_size=10, learning_rate=0.01, schedule="constant", patience=3)
    history = fit(model, X, Y, recipe, validation=held, after_epoch=lambda model, _: path.append(state(model)))
    losses = history.validation_loss
    assert history.stopped == "patience"
    assert history.kept_epoch == 1 + min(range(len(losses)), key=losses.__getitem__)
    assert history.epochs_run == history.kept_epoch + 3 == len(path)
    assert equal(state(model), path[history.kept_epoch - 1])
    model.eval()
    assert F.cross_entropy(model(held[0]), held[1]).item() == pytest.approx(min(losses), rel=1e-5)
    with pytest.raises(BadOption, match="needs validation data"):
        fit(small(), X, Y, recipe)


def test_divergence_is_an_error_that_says_where_and_what_to_do():
    model = small("mlp(width=[12,12,12])")
    with pytest.raises(ModelError, match=r"diverged.* at epoch \d+, update \d+\n.*learning_rate \(to 100000") as caught:
        fit(model, X, Y, Recipe(epochs=30, optimizer="sgd", learning_rate=1e6, batch_size=16))
    assert caught.value.exit_code == 2
    assert all(p.grad is None for p in model.parameters())
    assert not model.training


def test_nan_inputs_and_non_finite_gradients_are_caught_before_the_update():
    model = small()
    before = state(model)
    spoiled = X.clone()
    spoiled[7] = math.nan
    with pytest.raises(ModelError, match="the loss is nan at epoch 1"):
        fit(model, spoiled, Y, Recipe(epochs=1, batch_size=70))
    assert equal(before, state(model))

    class Root(Recorder):
        def forward(self, x: Tensor) -> Tensor:  # sqrt has an infinite slope at 0, the loss is finite
            return self.bias.abs().sqrt().expand(len(x), 4)

    with pytest.raises(ModelError, match=r"the gradient's norm is (nan|inf) at epoch 1, update 1"):
        fit(Root(), X, Y, Recipe(epochs=1, batch_size=70))


def test_a_spoiled_buffer_is_caught():
    class Counting(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            self.scale = self.scale * 1e30
            return super().forward(x)

    with pytest.raises(ModelError, match="not finite after epoch 1"):
        fit(Counting(), X, Y, QUICK)


# Interrupted, and gone on with


class Kept:
    """A checkpoint in memory that can end the training after an epoch, as kill -9 would."""

    def __init__(self, ends: int | None = None) -> None:
        self.content, self.ends, self.saves = None, ends, 0

    def load(self) -> bytes | None:
        return self.content

    def save(self, made) -> None:
        self.content = made()
        self.saves += 1
        if self.saves == self.ends:
            raise KeyboardInterrupt


HELD = (X[:20], (Y[:20] + 1) % 4)
DROPPING = {"epochs": 4, "batch_size": 16, "learning_rate": 0.01, "dropout": 0.2, "gradient_noise": 0.01}


@pytest.mark.parametrize(
    "options",
    [{"optimizer": "adam"}, {"optimizer": "sgd", "weight_decay": 0.01}, {"patience": 2, "confidence_penalty": 0.1}],
)
@pytest.mark.parametrize("ends", [1, 2, 3])
def test_a_training_ended_after_any_epoch_goes_on_to_the_same_bits(options, ends):
    recipe = Recipe(**DROPPING | options)
    held = HELD if recipe.patience else None

    def trained(model, checkpoint=None):
        memory = Memory()

        def after(model, epoch):
            memory.numbers.setdefault("epochs", []).append(epoch)
            memory.tensors["last"] = next(iter(model.parameters())).detach().clone()

        history = fit(model, X, Y, recipe, validation=held, memory=memory, after_epoch=after, checkpoint=checkpoint)
        return history, memory

    whole, resumed, again, kept = noisy(), noisy(), noisy(), Kept(ends)
    first, told = trained(whole)
    with pytest.raises(KeyboardInterrupt):
        trained(noisy(), kept)
    kept.ends = None
    with torch.no_grad():
        resumed.first.weight.zero_()  # what it begins with does not matter
    second, retold = trained(resumed, kept)
    assert second == first
    assert equal(state(whole), state(resumed))
    assert retold.numbers == told.numbers
    assert torch.equal(retold.tensors["last"], told.tensors["last"])
    saves = kept.saves
    assert trained(again, kept)[0] == first
    assert equal(state(whole), state(again))
    assert kept.saves == saves


def test_a_stopped_training_is_not_gone_on_with():
    kept = Kept()
    first = fit(small(), X, Y, Recipe(epochs=5), after_epoch=lambda *_: "enough", checkpoint=kept)
    assert first.epochs_run == 1
    assert fit(small(), X, Y, Recipe(epochs=5), checkpoint=kept) == first


@pytest.mark.parametrize("change", ["recipe", "rows", "model"])
def test_the_state_of_another_training_is_left_unread(change):
    kept = Kept()
    fit(small(), X, Y, QUICK, checkpoint=kept)
    recipe = dataclasses.replace(QUICK, seed=1) if change == "recipe" else QUICK
    n = 60 if change == "rows" else 70
    spec = "mlp(width=[13])" if change == "model" else "mlp(width=[12])"
    plain, tempted = small(spec), small(spec)
    expected = fit(plain, X[:n], Y[:n], recipe)
    assert fit(tempted, X[:n], Y[:n], recipe, checkpoint=kept) == expected
    assert equal(state(plain), state(tempted))


# Objectives, penalties and dropout


def test_penalties_are_added_as_written():
    with torch.no_grad():
        z = small()(X)
    log_p = z - z.logsumexp(1, keepdim=True)
    cross, entropy = -log_p[torch.arange(70), Y].mean(), -(log_p.exp() * log_p).sum(1).mean()
    history = fit(small(), X, Y, Recipe(epochs=1, batch_size=70, confidence_penalty=0.3, logit_penalty=0.2))
    assert history.loss[0] == pytest.approx(float(cross - 0.3 * entropy + 0.2 * z.square().mean()), rel=1e-5)


def test_an_objective_takes_the_place_of_the_cross_entropy_of_what_perturb_made():
    def objective(ask, x, found, y):
        assert torch.equal(found, x + 1)
        return ask(x), 2 * ask(found).square().mean()

    model = small()
    with torch.no_grad():
        expected = F.cross_entropy(model(X), Y) + 2 * model(X + 1).square().mean()
        right = float((model(X).argmax(1) == Y).double().mean())
    recipe = Recipe(epochs=1, batch_size=70)
    history = fit(model, X, Y, recipe, perturb=lambda _, x, *__: x + 1, objective=objective)
    assert history.loss[0] == pytest.approx(float(expected), rel=1e-5)
    assert history.accuracy[0] == right
    assert history.forwards == history.backwards == 140


def test_dropout_acts_on_hidden_units_in_training_only_and_leaves_no_hook():
    from actsec.training.dropout import dropout, dropped_layers

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5000), nn.Linear(5000, 4))
    assert dropped_layers(model) == [model[2]]
    given = []
    hidden = model[1](X[:1].flatten(1))
    with dropout(model, 0.3):
        handle = model[2].register_forward_hook(lambda layer, inputs, _: given.append(inputs[0]))
        model.train()
        model(X[:1])
        model.eval()
        model(X[:1])
        handle.remove()
    dropped = given[0] == 0
    assert abs(float(dropped.double().mean()) - 0.3) < 5 * (0.3 * 0.7 / 5000) ** 0.5
    torch.testing.assert_close(given[0][~dropped], hidden[~dropped] / 0.7)
    assert torch.equal(given[1], hidden)
    assert not any(m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ModelError, match=r"dropout=0.3 has nowhere to act"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), X, Y, Recipe(epochs=1, dropout=0.3))


def test_clipping_bounds_each_update():
    recipe = Recipe(
        epochs=3, batch_size=70, optimizer="sgd", momentum=0, learning_rate=1, schedule="constant", clip_norm=0.01
    )
    model = small()
    path = [state(model)]
    fit(model, X, Y, recipe, after_epoch=lambda m, _: path.append(state(m)))
    for before, after in itertools.pairwise(path):
        length = sum((a - b).square().sum() for a, b in zip(before, after, strict=True)).sqrt()
        assert float(length) == pytest.approx(0.01, rel=1e-4)


# Bad requests


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"batch_size": -1},
        {"learning_rate": 0.0},
        {"learning_rate": math.inf},
        {"clip_norm": 0.0},
        {"patience": 0},
        {"weight_decay": -1.0},
        {"gradient_noise": -0.1},
        {"momentum": 1.0},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"confidence_penalty": -0.1},
        {"logit_penalty": math.inf},
        {"dropout": 1.0},
        {"optimizer": "lion"},
        {"schedule": "step"},
    ],
)
def test_recipes_out_of_range(options):
    (option,) = options
    with pytest.raises(BadOption, match=rf"{option}=.*\n.*Give"):
        Recipe(**options)


def test_a_recipe_is_read_from_the_one_notation():
    assert build(Recipe, parse("recipe(epochs=3, optimizer=sgd, clip_norm=1)"), "recipe") == Recipe(
        epochs=3, optimizer="sgd", clip_norm=1.0
    )


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (X, Y[:5], "for 70 inputs"),
        (X[:0], Y[:0], "no examples"),
        (X, Y - 1, "negative"),
        (X, Y + 4, "outside the model's 4 classes"),
        (X, Y.float(), "class numbers"),
        ((X * 255).byte(), Y, "actsec.data scales"),
    ],
)
def test_data_that_does_not_fit(x, y, says):
    with pytest.raises(DataError, match=says):
        fit(small(), x, y, QUICK)
    with pytest.raises(DataError, match=says):
        accuracy(small(), x, y)


def test_outputs_that_are_no_logits():
    with pytest.raises(ModelError, match=r"logits of shape \(n, C\)"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), X, Y, QUICK)


# Accuracy


def test_accuracy_counts_and_leaves_the_model_as_it_was():
    model = noisy()
    model.train()
    model.drop.eval()
    before, modes = state(model), [m.training for m in model.modules()]
    random = torch.random.get_rng_state()
    first = accuracy(model, X, Y, batch_size=9)
    assert first == accuracy(model, X, Y, batch_size=9)
    assert equal(before, state(model))
    assert modes == [m.training for m in model.modules()]
    assert torch.equal(torch.random.get_rng_state(), random)
    plain = small()
    hits = sum(int(plain(x[None]).argmax()) == int(y) for x, y in zip(X, Y, strict=True))
    assert accuracy(plain, X, Y, batch_size=9) == hits / 70


# Batch norm


@pytest.mark.parametrize("batch_size", [1, 7, 64, 200])
def test_recalibrated_statistics_are_exact_on_one_layer_at_any_batch_size(batch_size):
    x = 3 + 2 * torch.randn(150, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    x[:75] += 10  # batches differ in mean, so averaging batch variances would be wrong
    norm = nn.BatchNorm2d(5)
    assert recalibrate_batchnorm(norm, x, batch_size) == 1
    flat = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean, flat.mean(1).float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(norm.running_var, flat.var(1).float(), rtol=1e-6, atol=0)


def test_recalibration_of_one_batch_equals_torchs_update_bn():
    ours, theirs = small("resnet20(width=4)"), small("resnet20(width=4)")
    theirs.train()
    torch.optim.swa_utils.update_bn([X], theirs)
    layers = recalibrate_batchnorm(ours, X, batch_size=70)
    assert layers == 19
    for (key, one), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        if "num_batches" not in key:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=key)


def test_recalibration_changes_statistics_only():
    model = noisy()
    model.norm.momentum = 0.37
    model.eval()
    model.drop.train()
    weights = [p.detach().clone() for p in model.parameters()]
    modes, random = [m.training for m in model.modules()], torch.random.get_rng_state()
    assert recalibrate_batchnorm(model, X, batch_size=32) == 1
    once = state(model)
    assert recalibrate_batchnorm(model, X, batch_size=32) == 1
    assert equal(once, state(model))
    assert model.norm.momentum == 0.37
    assert modes == [m.training for m in model.modules()]
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert not model.norm._forward_pre_hooks
    assert torch.equal(torch.random.get_rng_state(), random)
    assert model.norm.running_mean.any()


def test_recalibration_without_running_statistics_does_nothing():
    assert recalibrate_batchnorm(small(), X) == 0
    assert recalibrate_batchnorm(nn.BatchNorm2d(1, track_running_stats=False), X) == 0


def test_a_failing_recalibration_restores_the_model():
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Linear(3, 3)).eval()
    before = model[0].running_mean.clone(), model[0].running_var.clone(), model[0].momentum
    with pytest.raises(RuntimeError):
        recalibrate_batchnorm(model, X)
    assert torch.equal(model[0].running_mean, before[0])
    assert torch.equal(model[0].running_var, before[1])
    assert model[0].momentum == before[2]
    assert not model[0].training
    assert not model[0]._forward_pre_hooks


def test_a_recipe_imports_no_torch():
    code = "import sys; from actsec.training import Recipe; Recipe(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_the_update_rules_are_torchs(rule, decay):
    from actsec.training.updates import SGD, Adam

    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(5, 3, generator=generator), torch.randn(4, generator=generator)]
    ours, theirs = ([nn.Parameter(p.clone()) for p in start] for _ in range(2))
    own = Adam(ours, decay) if rule == "adam" else SGD(ours, 0.9, decay)
    peer = (
        torch.optim.Adam(theirs, lr=0.1, weight_decay=decay)
        if rule == "adam"
        else torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=decay)
    )
    for step in range(30):
        rate = 0.1 / (1 + step)
        peer.param_groups[0]["lr"] = rate
        for a, b in zip(ours, theirs, strict=True):
            # every third gradient is missing, as for a layer that a step did not reach
            a.grad = None if step % 3 == 2 and a.dim() == 1 else torch.randn(a.shape, generator=generator)
            b.grad = None if a.grad is None else a.grad.clone()
        own.step(rate)
        peer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_training_does_not_import_the_compiler():
    script = (
        "import sys, torch; from actsec import training; from torch import nn;"
        "training.fit(nn.Linear(2, 2), torch.rand(8, 2), torch.arange(8) % 2, training.Recipe(epochs=1));"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_what_two_trainings_differ_in_is_named():
    from actsec.training.recipe import unlike

    one = {"epochs": 5, "weight_decay": 0.0, "batch_norm": "none", "final_loss": 0.1}
    assert unlike(one, one | {"final_loss": 0.7}) == ""
    assert unlike(one, one | {"epochs": 15, "weight_decay": 0.01}) == "epochs 5 and 15, weight_decay 0.0 and 0.01"
    assert unlike(one, {"optimizer": "sgd"}) == ""
