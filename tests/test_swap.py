"""Swaps say what they did to clean answers, learn with a decay of their own, chain, travel, and bound confidence."""

import copy
import functools
import io
import pickle

import pytest
import torch
from test_defenses import digits, everything, material, trained
from test_sites import Net
from torch import nn
from torch.nn import functional as F

from actsec import api, attacked, registry, training
from actsec.activations import activation, find, names, replace, watch
from actsec.defenses import AdversarialTraining, Swap
from actsec.defenses import swap as swapping
from actsec.defenses._learning import Asked
from actsec.errors import BadOption
from actsec.spec import Spec, parse
from actsec.training import Recipe
from actsec.types import Split, Target

CATALOGUE = [name for name in names() if activation(name).pieces == 1]


@functools.cache
def _mlp() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10)
        )
    train = digits()[0]
    training.fit(model, train.x, train.y, Recipe(epochs=8))
    return model


def mlp() -> Target:
    return Target(copy.deepcopy(_mlp()).requires_grad_(False), (1, 8, 8), tuple("0123456789"))


def labels(target: Target, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return target.model.eval()(x).argmax(1)


def right(target: Target, split: Split) -> float:
    return training.accuracy(Asked(target), split.x, split.y)


def robust(target: Target, eps: float, steps: int = 20) -> float:
    x, y = digits()[2].x[:200], digits()[2].y[:200]
    return attacked.attack(target, x, y, f"pgd(steps={steps}, loss=margin)", eps=eps).still_correct.value


# ---- what it says of itself


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("swap(to=gelu)", "stability"),
        ("swap(to=gelu, recalibrate=true)", "stability"),
        ("swap(to=gelu, finetune=2)", "robustness"),
        ("swap(to=gelu, recalibrate=true, finetune=2)", "robustness"),
    ],
)
def test_only_a_trained_swap_may_be_credited_with_robustness(text, kind):
    assert registry.build("defenses", text).kind == kind


def test_what_it_did_to_clean_answers_is_counted():
    target, given = mlp(), everything()
    swap = Swap(Spec("sigmoid"), finetune=2, learning_rate=0.01)
    wrapped = swap.wrap(target)
    held = given.calibration
    before, straight = labels(target, held.x), labels(wrapped, held.x)
    numbers = swap.fit(wrapped, given).numbers
    after = labels(wrapped, held.x)
    share = lambda hits: hits.double().mean().item()  # noqa: E731
    assert (numbers["compared"], numbers["compared_on"]) == (400, "calibration")
    assert numbers["clean_accuracy_before"] == share(before == held.y)
    assert numbers["clean_accuracy_straight"] == share(straight == held.y)
    assert numbers["clean_accuracy_after"] == share(after == held.y)
    assert numbers["agreement_straight"] == share(straight == before)
    assert numbers["agreement_after"] == share(after == before)
    assert numbers["clean_accuracy_straight"] != numbers["clean_accuracy_after"]
    assert 0 < numbers["agreement_straight"] < 1
    seen = numbers["generalisation"]
    assert seen["held_out_accuracy"] == numbers["clean_accuracy_after"]
    assert seen["train_accuracy"] == right(wrapped, given.train)
    assert seen["gap"] == seen["train_accuracy"] - seen["held_out_accuracy"]


def test_the_change_of_clean_accuracy_is_said():
    target, given = mlp(), everything()
    fitted = Swap(Spec("sigmoid")).fit(Swap(Spec("sigmoid")).wrap(target), given)
    n = fitted.numbers
    before, after, kept = (n[f"{k}"] for k in ("clean_accuracy_before", "clean_accuracy_after", "agreement_after"))
    said = f"Clean accuracy {before:.1%} to {after:.1%} on 400 calibration examples; {kept:.1%} of decisions as before."
    assert fitted.notes == ("Straight swap: no weight was trained, so it is not a defense.", said)
    tuned = Swap(Spec("sigmoid"), finetune=1)
    notes = tuned.fit(tuned.wrap(target), given).notes
    assert f"{before:.1%}, {after:.1%} swapped, " in notes[0]


def test_without_calibration_data_it_compares_on_training_data_and_without_any_it_says_so():
    target, train = mlp(), digits()[0]
    wrapped = Swap(Spec("elu")).wrap(target)
    numbers = Swap(Spec("elu")).fit(wrapped, material(train=train)).numbers
    assert (numbers["compared_on"], numbers["compared"]) == ("training", 900)
    assert numbers["agreement_after"] == (labels(target, train.x) == labels(wrapped, train.x)).double().mean().item()
    nothing = Swap(Spec("elu")).fit(wrapped, material())
    assert nothing.numbers["compared"] == 0
    assert "clean_accuracy_before" not in nothing.numbers
    assert "no data to compare" in nothing.notes[1]


def test_rows_to_compare_are_spread_over_a_sorted_split(monkeypatch):
    monkeypatch.setattr(swapping, "COMPARED", 50)
    train = digits()[0]
    order = train.y.argsort()
    numbers = (
        Swap(Spec("elu"))
        .fit(Swap(Spec("elu")).wrap(mlp()), material(train=Split(train.x[order], train.y[order], train.id[order])))
        .numbers
    )
    assert numbers["compared"] == 50
    spread = order[torch.linspace(0, 899, 50).round().long()]
    assert len(set(train.y[spread].tolist())) == 10
    assert (
        numbers["clean_accuracy_before"] == (labels(mlp(), train.x[spread]) == train.y[spread]).double().mean().item()
    )


class Disguised(nn.Module):
    """A ReLU that is one, a ReLU written as a clamp, and a gate."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x):
        h = F.relu(self.a(x.flatten(1)))
        h = self.b(h).clamp(min=0)
        return self.c(F.relu(h * torch.sigmoid(self.b(h))))


def test_sites_found_replaced_left_and_unresolved_are_named():
    target = Target(Disguised().eval().requires_grad_(False), (1, 8, 8), tuple("0123456789"))
    fitted = Swap(Spec("silu")).fit(Swap(Spec("silu")).wrap(target), everything())
    assert (fitted.numbers["sites"], fitted.numbers["sites_found"], fitted.numbers["sites_left"]) == (2, 2, [])
    (unresolved,) = fitted.numbers["unresolved"]
    assert "clamp at exactly 0" in unresolved
    assert any("could not be replaced" in note and "clamp" in note for note in fitted.notes)
    one = Swap(Spec("silu"), sites="relu:2")
    fitted = one.fit(one.wrap(target), everything())
    assert (fitted.numbers["sites"], fitted.numbers["sites_found"]) == (1, 2)
    assert fitted.numbers["sites_left"] == ["relu"]
    assert "Left as they were: relu." in fitted.notes


def test_maxout_is_refused_before_anything_runs():
    with pytest.raises(BadOption, match="reference:mlp"):
        registry.build("defenses", "swap(to=maxout)")


# ---- what it learns


def test_learned_activations_have_their_own_decay():
    """Inputs of 0 leave a PReLU without a gradient: what moves it is decay alone, (1 - rate * decay) an update."""
    x, y = torch.zeros(60, 4), torch.arange(60) % 3

    def slopes(**decays):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.PReLU(), nn.Linear(5, 3), activation("pswish").module())
        recipe = Recipe(epochs=2, batch_size=20, learning_rate=0.1, schedule="constant", optimizer="sgd", momentum=0)
        weight = model[0].weight.detach().clone()
        training.fit(model, x, y, Recipe(**{**{k: getattr(recipe, k) for k in recipe.__slots__}, **decays}))
        return model[1].weight.item(), (model[0].weight / weight).mean().item()

    assert slopes(weight_decay=0.5) == pytest.approx((0.25, 0.95**6))
    assert slopes(weight_decay=0.5, activation_decay=0.2) == pytest.approx((0.25 * 0.98**6, 0.95**6))
    assert slopes(activation_decay=0.2) == pytest.approx((0.25 * 0.98**6, 1.0))


def test_swap_hands_both_decays_to_the_training():
    target, given = mlp(), everything()
    found = {}
    for decay in (0.0, 50.0):
        swap = Swap(Spec("prelu"), finetune=2, activation_decay=decay, twin=False)
        numbers = swap.fit(swap.wrap(target), given).numbers
        assert numbers["activation_decay"] == decay
        assert "fixed" not in numbers
        found[decay] = [value for values in numbers["learned"].values() for value in values]
    assert len(found[0.0]) == 2
    assert max(abs(v) for v in found[50.0]) < min(abs(v) for v in found[0.0])


@pytest.mark.parametrize(("to", "fixed"), [("prelu", "leaky_relu(slope=0.25)"), ("pswish(init=2)", "swish(beta=2.0)")])
def test_the_gap_of_a_learned_slope_stands_beside_that_of_the_fixed_one(to, fixed):
    """The twin is what fine-tuning the fixed activation alone gives, to the last bit."""
    target, given = mlp(), everything()
    swap, alone = (Swap(parse(text), finetune=2, learning_rate=0.01) for text in (to, fixed))
    wrapped, twin = swap.wrap(target), alone.wrap(target)
    fitted, expected = swap.fit(wrapped, given), alone.fit(twin, given)
    assert fitted.numbers["fixed"] == {"to": fixed, **expected.numbers["generalisation"]}
    assert fitted.numbers["generalisation"]["train_accuracy"] == right(wrapped, given.train)
    assert "fixed" not in expected.numbers
    gap = 100 * fitted.numbers["generalisation"]["gap"]
    assert fitted.notes[-1].startswith(f"Train-test gap {gap:.1f} points, ")
    assert fixed in fitted.notes[-1]
    learned = fitted.numbers["learned"]
    stands = wrapped.model.stands
    assert learned == {key.replace("/", "."): next(s.parameters()).tolist() for key, s in stands.items()}
    init = activation(to).options.init
    assert all(values != [init] for values in learned.values())


def test_a_gap_needs_data_held_out():
    swap = Swap(Spec("prelu"), finetune=1)
    fitted = swap.fit(swap.wrap(mlp()), material(train=everything().train))
    assert fitted.numbers["generalisation"]["gap"] is None
    assert "not known" in fitted.notes[-1]


# ---- chains


def test_adversarial_fine_tuning_is_a_chain_and_the_chain_is_attacked_end_to_end():
    target, (train, calibration, test) = mlp(), digits()
    chain = (
        "swap(to=silu) | adversarial_training(eps=0.15, inner=pgd(steps=3), epochs=4, learning_rate=0.01) | temperature"
    )
    given = {"train": (train.x, train.y), "calibration": (calibration.x, calibration.y)}
    hardened = api.defend(target, chain, **given)
    straight = api.defend(target, "swap(to=silu)", **given)
    assert [s.name for s in find(hardened.model, test.x[:2])] == ["2", "4"]
    assert {s.kind for s in find(hardened.model, test.x[:2])} == {"silu"}
    assert {s.kind for s in find(target.model, test.x[:2])} == {"relu"}
    assert right(hardened, test) > 0.8
    # 200 images, so that a difference of 0.2 is more than four standard errors of either
    assert robust(hardened, 0.15) > robust(straight, 0.15) + 0.2
    rebuilt = target
    for text in chain.split(" | "):
        rebuilt = registry.build("defenses", text).wrap(rebuilt)
    rebuilt.model.load_state_dict(hardened.model.state_dict())
    assert torch.equal(rebuilt.logits(test.x[:9]), hardened.logits(test.x[:9]))


def test_a_learned_slope_trains_inside_the_chain():
    train = everything().train
    swapped = Swap(Spec("prelu")).wrap(mlp())
    swap_fit = Swap(Spec("prelu")).fit(swapped, material())
    assert swap_fit.numbers["learned"] == {"2": [0.25], "4": [0.25]}
    adversarial = AdversarialTraining(eps=0.1, inner=parse("pgd(steps=2)"), epochs=1)
    trained_on = adversarial.wrap(swapped)
    adversarial.fit(trained_on, material(train=train))
    assert all(p.item() != 0.25 for p in trained_on.model.stands.parameters())
    assert all(p.item() == 0.25 for p in swapped.model.stands.parameters())


# ---- far from the data


def test_a_bounded_activation_bounds_confidence_far_from_the_data_and_nothing_else_does():
    target = mlp()
    u = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    @functools.cache
    def swapped(to):
        return Swap(Spec(to)).wrap(target).model.double()

    def far(to, alpha):
        with torch.no_grad():
            return torch.softmax(swapped(to)(alpha * u), 1).amax(1)

    for unbounded in ("relu", "leaky_relu", "gelu", "silu"):
        assert far(unbounded, 1e6).min() > 1 - 1e-9
        assert far(unbounded, 1.0).mean() < 0.99
    # relu6's limit in closed form: every unit of the first layer is off or at 6
    first, second, last = (m.double() for m in copy.deepcopy(target.model) if isinstance(m, nn.Linear))
    h = 6 * (F.linear(u.flatten(1), first.weight) > 0).double()
    limit = torch.softmax(last(second(h).clamp(0, 6)), 1).amax(1)
    torch.testing.assert_close(far("relu6", 1e6), limit, rtol=0, atol=1e-9)
    assert far("relu6", 1e6).min() < 0.9
    for bounded in ("relu6", "hardtanh", "tanh", "sigmoid"):
        assert activation(bounded).properties.bounded
        torch.testing.assert_close(far(bounded, 1e6), far(bounded, 1e7), rtol=0, atol=1e-9)


# ---- it travels


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = Net()
    made(torch.rand(8, 3, 6, 6))
    return made.eval()


def operators(model, x):
    """The operators of the exported program, which answers as the model does."""
    with torch.no_grad():
        program = torch.export.export(model, (x,), strict=False)
        assert torch.allclose(program.module()(x), model(x), rtol=1e-5, atol=1e-6)
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.filterwarnings("ignore")  # torch.export's own
@pytest.mark.parametrize("to", ["silu", "prelu", "kwta", "relu"])
def test_a_swapped_model_exports_to_torch_alone_without_the_old_calls(net, to):
    x = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    calls = operators(replace(net, to, example=x), x)
    assert all(name.startswith(("aten.", "<built-in function getitem>")) for name in calls), calls
    old = sum(name.startswith(("aten.relu", "aten.hardtanh", "aten.clamp")) for name in calls)
    assert old == (5 if to == "relu" else 0)


@pytest.mark.filterwarnings("ignore")  # torch.export's own
@pytest.mark.parametrize("to", CATALOGUE)
def test_every_activation_swapped_in_copies_pickles_saves_exports_and_comes_back(to):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ELU(), nn.Linear(6, 3)).eval(), torch.randn(5, 4)
    swapped = replace(model, to, example=x)
    with torch.no_grad():
        for parameter in swapped.stands.parameters():
            parameter.uniform_(0.3, 0.6)
        plain = swapped(x)
        assert torch.equal(copy.deepcopy(swapped)(x), plain)
        assert torch.equal(pickle.loads(pickle.dumps(swapped))(x), plain)
        file = io.BytesIO()
        torch.save(swapped.state_dict(), file)
        file.seek(0)
        fresh = replace(copy.deepcopy(model), to, example=x)
        fresh.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(fresh(x), plain)
    calls = operators(swapped, x)
    assert ("aten.elu.default" in calls) == (to == "elu")
    assert all(name.startswith(("aten.", "<built-in function getitem>")) for name in calls), calls


@pytest.mark.filterwarnings("ignore")  # torch.export's own
def test_an_exported_swap_is_saved_and_loaded_by_torch_alone():
    target, x = trained(), digits()[2].x[:5]
    model = Swap(parse("swish(beta=2)")).wrap(target).model.eval()
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (x,), strict=False), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    with watch(loaded) as seen, torch.no_grad():
        loaded(x)
    assert "relu" not in {call.kind for call in seen.calls}
