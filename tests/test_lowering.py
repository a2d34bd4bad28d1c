"""The stand-in: exact where it claims to be, dropped where it is not, and never believed without the original."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from attack_models import digits
from torch import Tensor, nn

from actsec import registry
from actsec.activations import find
from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.losses import CrossEntropy, Kill, Margin, Misclassify
from actsec.search import folding, lowering
from actsec.search.ledger import FOUND, Verdicts
from actsec.search.lowering import lower, worth
from actsec.search.oracle import Oracle, frozen
from actsec.search.referee import cases_of, drive
from actsec.spec import parse
from actsec.types import Ask, Cases, Target


@pytest.fixture(autouse=True)
def small_networks_are_enough(monkeypatch):
    """Networks of a size to be tested do too little for channels_last to repay; here it is done from 600,000 on."""
    monkeypatch.setattr(lowering, "CONVOLVED", 600_000)


def lived(model: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with batch norms that have seen data: statistics and scales that are not 0 and 1."""
    draw = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            for tensor, low, width in (
                (module.running_mean, -0.5, 1.0),
                (module.running_var, 0.2, 2.0),
                (module.weight, 0.5, 1.0),
                (module.bias, -0.3, 0.6),
            ):
                if tensor is not None:
                    tensor.data.copy_(torch.rand(tensor.shape, generator=draw) * width + low)
    return model.eval()


class Residual(nn.Module):
    """A small residual network whose relus are functional calls."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.linear = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x - 0.5)))
        h = F.relu(self.bn2(self.conv2(h)) + h)
        return self.linear(F.relu(self.bn3(self.conv3(h))).mean((2, 3)))


def targeting(model: nn.Module, shape: tuple[int, ...] = (3, 20, 20), classes: int = 10) -> Target:
    return Target(model, shape, tuple(map(str, range(classes))))


def residual(n: int = 40) -> tuple[Target, Tensor, Tensor]:
    """An untrained residual network, inputs, and its own decisions as their labels."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        target, x = targeting(lived(Residual())), torch.rand(n, 3, 20, 20)
        # Centred, so that the decisions differ and a small change moves them.
        target.model.linear.bias -= target.logits(x).mean(0)
        return target, x, target.logits(x).argmax(1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (lambda bias: nn.Conv1d(3, 6, 3, bias=bias), nn.BatchNorm1d, (3, 9)),
        (
            lambda bias: nn.Conv2d(4, 6, 3, 2, 1, groups=2, bias=bias, padding_mode="circular"),
            nn.BatchNorm2d,
            (4, 8, 8),
        ),
        (lambda bias: nn.Conv3d(2, 6, 2, bias=bias), nn.BatchNorm3d, (2, 4, 4, 4)),
        (lambda bias: nn.Linear(5, 6, bias=bias), nn.BatchNorm1d, (5,)),
    ],
)
def test_a_folded_pair_is_the_same_function(layer, norm, shape, affine, bias):
    model = lived(nn.Sequential(layer(bias), norm(6, affine=affine))).double()
    x = torch.randn(4, *shape, dtype=torch.float64)
    with torch.no_grad():
        before = model(x)
        assert folding.fold(model) == 1
        assert isinstance(model[1], nn.Identity)
        torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)


def test_a_folded_scale_in_closed_form():
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1, eps=0.0)).eval()
    values = {"0.weight": [[3.0]], "0.bias": [5.0], "1.weight": [2.0], "1.bias": [7.0], "1.running_mean": [1.0]}
    values["1.running_var"] = [16.0]
    model.load_state_dict({name: torch.tensor(value) for name, value in values.items()}, strict=False)
    folding.fold(model)
    assert (model[0].weight.item(), model[0].bias.item()) == (1.5, 9.0)  # 2 (3x + 5 - 1) / 4 + 7


def test_every_batch_norm_of_a_residual_network_is_folded_and_the_sites_stay():
    target, x, _ = residual()
    lowered = lower(target, x)
    assert lowered.what == ("batch norm folded (3)", "channels_last")
    assert lowered.left_out == ()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in lowered.target.model.modules())
    sites = [[(s.name, s.kind, s.shape) for s in find(t.model, x[:2])] for t in (target, lowered.target)]
    assert sites[0] == sites[1]
    assert len(sites[0]) == 3


def test_torchvision_resnet_is_folded_whole():
    from torchvision.models import resnet18

    model = lived(resnet18())
    assert folding.fold(model) == 20
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


class Twice(nn.Module):
    """One convolution called twice; one whose output is read twice; a batch norm that comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.shared, self.norm_a, self.norm_b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.read, self.norm_c = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm_b(self.shared(self.norm_a(self.shared(self.first(x)))))
        r = self.read(h)
        return (self.norm_c(r) + r).mean((2, 3))


class Mine(nn.Conv2d):
    """A convolution of the user's."""


def hooked(model: nn.Sequential) -> nn.Sequential:
    model[1].register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    "model",
    [
        Twice(),
        nn.Sequential(Mine(3, 3, 1), nn.BatchNorm2d(3)),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)),
        nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)),
        hooked(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))),
    ],
    ids=["shared or read twice", "subclass", "no statistics", "relu between", "parametrised", "hooked"],
)
def test_what_is_no_plain_pair_is_left_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert folding.fold(model.eval()) == 0
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_large_network_is_compared_in_calls_that_fit():
    """Nothing asks more rows at once than memory allows, and what is faster is taken all the same."""
    rows = []

    class Counted(Residual):
        def forward(self, x: Tensor) -> Tensor:
            rows.extend([len(x)] if isinstance(x, Tensor) else [])  # not of a trace
            return super().forward(x)

    target = replace(targeting(lived(Counted()), (3, 12, 12)), batch=2)
    assert lower(target, torch.rand(8, 3, 12, 12)).what
    assert max(rows) == 2


def test_a_layer_known_by_two_names_is_folded_under_both():
    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
            self.conv, self.norm = self.body[0], self.body[1]

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)).mean((2, 3))

    model, x = lived(Aliased()), torch.rand(3, 3, 4, 4)
    with torch.no_grad():
        before = model(x)
        assert folding.fold(model) == 1
        torch.testing.assert_close(model(x), before)


class Branching(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.mean() > -1 else super().forward(-x)


class Reading(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.bn1.eps


class Deceiving(nn.Module):
    """The batch norm scales dimension 1, the linear layer's outputs are dimension 2, and both have 5 entries."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.head = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(25, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.linear(x)).relu().flatten(1))


class Viewing(Residual):
    """Asks for a layout that channels_last does not have."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.bn3(self.conv3(h)).view(len(h), -1)[:, :32])


@pytest.mark.parametrize(
    ("model", "shape", "what", "reason"),
    [
        (Branching(), (3, 20, 20), ("channels_last",), "batch norm: torch.fx cannot follow the model: TraceError"),
        (Reading(), (3, 20, 20), ("channels_last",), "batch norm: the model failed: AttributeError"),
        (Deceiving(), (5, 4), (), "batch norm: "),
        (Twice(), (3, 8, 8), (), "batch norm: none follows a convolution or linear layer directly"),
    ],
    ids=["control flow", "reads the batch norm", "wrong dimension", "none"],
)
def test_a_step_that_fails_is_dropped_and_named(model, shape, what, reason):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lowered = lower(targeting(lived(model), shape, 3 if isinstance(model, Twice) else 10), torch.rand(8, *shape))
    assert lowered.what == what
    assert lowered.left_out[0].startswith(reason)


def test_channels_last_is_dropped_where_the_model_wants_another_layout():
    lowered = lower(targeting(lived(Viewing())), torch.rand(8, 3, 20, 20))
    assert lowered.what == ("batch norm folded (2)",)
    assert lowered.left_out[0].startswith("channels_last: the model failed: RuntimeError: view size is not compatible")


def test_without_any_step_the_target_is_its_own():
    target, x, _ = digits()
    lowered = lower(target, x)
    assert lowered.target is target
    assert lowered.what == ()
    # 64 values of 8 channels, 9 weights each; 16 values of 16 channels, 72 weights each.
    assert lowered.left_out == (
        "channels_last: 2-d convolutions do 23,040 multiply-adds an image, it repays from 600,000 on",
    )


def test_no_channels_last_where_weights_outweigh_what_is_convolved():
    model = nn.Sequential(nn.Conv2d(3, 512, 8), nn.Flatten(), nn.Linear(512 * 9, 10))
    made = lower(targeting(model, (3, 10, 10)), torch.rand(4, 3, 10, 10))
    assert made.what == ("channels_last",)
    model = nn.Sequential(nn.Conv2d(3, 4096, 10), nn.Flatten(), nn.Linear(4096, 10))
    made = lower(targeting(model, (3, 10, 10)), torch.rand(4, 3, 10, 10))
    assert made.left_out == (
        "channels_last: 2-d convolutions have 1,228,800 weights and give only 4,096 values an image",
    )


class Stamped(torch.autograd.Function):
    """Rounds to 8 levels; its gradient is the identity's."""

    @staticmethod
    def forward(ctx, x):
        return (x * 8).round() / 8

    @staticmethod
    def backward(ctx, slope):
        return slope


def test_a_custom_gradient_keeps_its_meaning():
    class Quantised(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(Stamped.apply(x))

    lowered = lower(targeting(lived(Quantised())), torch.rand(8, 3, 20, 20))
    assert lowered.what == ("batch norm folded (3)", "channels_last")
    assert lowered.agreement.gradient > 0.999
    assert lower(targeting(lived(Residual())), torch.rand(8, 3, 20, 20)).agreement.rows == 8


def test_no_stand_in_for_what_draws_or_is_not_finite():
    target, x, _ = residual()
    drawing = lower(replace(target, stochastic=True), x)
    with torch.no_grad():
        target.model.linear.bias[3] = torch.nan
    broken = lower(target, x)
    assert [made.target.model is target.model for made in (drawing, broken)] == [True, True]
    assert drawing.left_out == ("stand-in: the target draws at random",)
    assert broken.left_out == ("stand-in: logits or gradients are not finite on the sample",)


def test_a_sample_and_a_known_dtype_are_needed():
    target, x, _ = residual()
    with pytest.raises(BadOption, match="sample is empty"):
        lower(target, x[:0])
    with pytest.raises(BadOption, match="float16"):
        lower(target, x, dtype=torch.float16)


def test_the_original_is_untouched_and_the_same_stand_in_is_made_again():
    target, x, _ = residual()
    target.model.train()
    target.model.conv1.weight.requires_grad_(False)
    target.model.conv2.weight.grad = torch.ones_like(target.model.conv2.weight)
    before = {name: value.clone() for name, value in target.model.state_dict().items()}
    random = torch.random.get_rng_state()
    one, two = lower(target, x), lower(target, x)
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(m.training for m in target.model.modules())
    assert not target.model.conv1.weight.requires_grad
    assert target.model.conv2.weight.requires_grad
    assert bool((target.model.conv2.weight.grad == 1).all())
    after = target.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert target.model.conv1.weight.is_contiguous()
    assert (one.what, one.left_out, one.agreement) == (two.what, two.left_out, two.agreement)
    assert torch.equal(one.target.logits(x), two.target.logits(x))
    assert not any(p.requires_grad or p.grad is not None for p in one.target.model.parameters())


@pytest.mark.parametrize("watches", [False, True])
def test_a_row_of_the_stand_in_has_the_same_bits_in_every_call(watches):
    target, x, y = residual(40)
    lowered = lower(target, x).target
    cases = cases_of(lowered, x, y, "linf", None)
    found = []
    with frozen(lowered.model):
        for size in (40, 1, 7, 33):
            oracle, parts = Oracle(lowered, 128), []
            for piece in torch.split(torch.arange(40), size):
                rows = cases.rows(piece)
                seen, _, slope = oracle.differentiate(x[piece], rows, CrossEntropy() if watches else Margin(), watches)
                parts.append((seen.logits, slope, *(s.pre for s in seen.sites)))
            found.append([torch.cat(column) for column in zip(*parts, strict=True)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_step_that_ties_rows_to_the_size_of_their_call_is_dropped(monkeypatch):
    def sway(target: Target) -> str:
        target.model.register_forward_hook(lambda _, args, z: z * (1 + 1e-6 * len(args[0])))
        return "swaying"

    monkeypatch.setattr(lowering, "_compile", sway)
    target, x, _ = residual()
    assert lower(target, x, compile=True).left_out == (
        "compiled: a row's numbers would depend on the size of its call",
    )


def test_bfloat16_where_the_hardware_has_it_and_float32_out(monkeypatch):
    target, x = targeting(lived(Residual())), torch.rand(32, 3, 20, 20)
    monkeypatch.setattr(lowering, "has_bfloat16", lambda device: True)
    lowered = lower(target, x, dtype=torch.bfloat16)
    assert lowered.what == ("batch norm folded (3)", "bfloat16", "channels_last")
    assert lowered.target.logits(x).dtype == torch.float32
    assert {p.dtype for p in lowered.target.model.parameters()} == {torch.bfloat16}
    assert 0 < lowered.agreement.logits < 0.1 * lowered.agreement.scale
    monkeypatch.setattr(lowering, "has_bfloat16", lambda device: False)
    assert lower(target, x, dtype=torch.bfloat16).left_out == ("bfloat16: this cpu does not compute in it",)


def test_bfloat16_is_dropped_where_it_changes_decisions(monkeypatch):
    class Fine(nn.Module):
        """Decides by a difference that 8 bits do not hold."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([1000 + x.mean((1, 2, 3)), 1000.5 + 0 * x.mean((1, 2, 3))], 1)

    monkeypatch.setattr(lowering, "has_bfloat16", lambda device: True)
    x = torch.rand(16, 1, 2, 2)
    lowered = lower(targeting(Fine(), (1, 2, 2), 2), x, dtype=torch.bfloat16)
    assert lowered.what == ()
    assert lowered.left_out[0].startswith("bfloat16: ")
    assert "labels equal" in lowered.left_out[0]


def test_compiling_only_when_asked_and_dropped_when_it_fails(monkeypatch):
    asked = []

    def refuse(self, **options):
        asked.append(options)
        raise RuntimeError("no compiler")

    monkeypatch.setattr(nn.Module, "compile", refuse)
    target, x, _ = residual()
    assert lower(target, x).left_out == ()
    assert asked == []
    assert lower(target, x, compile=True).left_out == ("compiled: RuntimeError: no compiler",)
    assert asked == [{"dynamic": True}]


def test_who_should_use_a_stand_in():
    assert worth(Misclassify(), lowering.PASSES)
    assert not worth(Misclassify(), lowering.PASSES - 1)
    assert not worth(Kill(), 10 * lowering.PASSES)


# The judge: what a stand-in says is provisional until the original confirms it.


class Biased(nn.Module):
    """A stand-in whose logits are off by a constant: up for even classes, down for odd ones."""

    def __init__(self, model: nn.Module, bias: float) -> None:
        super().__init__()
        self.model, self.bias = model, bias

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(x)
        return z + self.bias * (1 - 2 * (torch.arange(z.shape[1]) % 2))


def driven(attack, target: Target, cases: Cases, stand_in: Target | None = None) -> Verdicts:
    with frozen(target.model), frozen((stand_in or target).model):
        judge = None if stand_in is None else Oracle(target, 64)
        oracle = Oracle(stand_in or target, 64)
        return drive(attack, oracle, Misclassify(), cases, Draws(0, "judged"), judge=judge)


def denied(target: Target, verdicts: Verdicts, cases: Cases) -> Tensor:
    """Rows whose claimed success the original denies."""
    with torch.no_grad():
        right = target.logits(verdicts.x).argmax(1) == cases.y
    return (verdicts.status == FOUND) & right


@pytest.mark.parametrize("bias", [1e-3, 1e-1])
@pytest.mark.parametrize("attack", ["pgd(steps=8)", "minimal_l2(steps=12, refine=8)", "square(queries=60)"])
def test_no_success_that_the_original_denies(attack, bias):
    target, x, y = digits()
    norm, eps = ("l2", None) if attack.startswith("minimal") else ("linf", 0.1)
    cases = cases_of(target, x, y, norm, eps)
    verdicts = driven(
        registry.build("attacks", parse(attack)), target, cases, target.having(model=Biased(target.model, bias))
    )
    assert not bool(denied(target, verdicts, cases).any())
    assert bool((verdicts.status == FOUND).any())


@pytest.mark.parametrize("bias", [1e-3, 1e-1])
def test_rows_that_break_easily_break_through_a_biased_stand_in_too(bias):
    target, x, y = digits()
    cases = cases_of(target, x, y, "linf", 0.3)
    attack = registry.build("attacks", parse("pgd(steps=10)"))
    plain = driven(attack, target, cases)
    through = driven(attack, target, cases, target.having(model=Biased(target.model, bias)))
    assert torch.equal(plain.status, through.status)
    assert int((plain.status == FOUND).sum()) >= 60


@dataclass(frozen=True, slots=True)
class Asked:
    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class Given:
    """Proposes what it was given: x (n, k, *shape), once, rows by id."""

    x: Tensor

    norms: ClassVar = ("linf",)
    knowledge: ClassVar = "black_box"
    roles: ClassVar = ()

    def start(self, cases: Cases, draws: Draws) -> Asked:
        return Asked(torch.zeros_like(cases.id), torch.zeros_like(cases.id).bool())

    def ask(self, state: Asked, cases: Cases) -> Ask:
        return Ask(self.x[cases.id])

    def tell(self, state: Asked, reply, cases: Cases, draws: Draws) -> Asked:
        return Asked(state.step + 1, torch.ones_like(state.done))


@pytest.mark.parametrize("bias", [1e-3, 1e-1])
def test_refusals_are_counted_one_by_one(bias):
    target, x, y = digits()
    stand_in = target.having(model=Biased(target.model, bias))
    clean = cases_of(target, x, y, "linf", 0.3)
    far = driven(registry.build("attacks", parse("pgd(steps=10)")), target, clean).x
    # Points around the crossing of each segment, found by bisection, where the two models disagree.
    low, high = torch.zeros(len(x), 1, 1, 1), torch.ones(len(x), 1, 1, 1)
    with torch.no_grad():
        for _ in range(24):
            middle = (low + high) / 2
            wrong = (target.logits(x + middle * (far - x)).argmax(1) != y)[:, None, None, None]
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
        # Just short of the original's boundary, where a biased stand-in is past its own in about half of the rows.
        given = x + (high - 0.005 * bias).clamp(0, 1) * (far - x)
        there, here = ((t.logits(given).argmax(1) != y) for t in (stand_in, target))
        right = target.logits(x).argmax(1) == y
    verdicts = driven(Given(given[:, None]), target, clean, stand_in)
    refused = there & ~here & right
    assert int(refused.sum()) > 5
    assert verdicts.refused == int(refused.sum())
    assert torch.equal(verdicts.status == FOUND, here & right)


def test_minimal_l2_on_a_folded_copy_returns_what_the_original_confirms():
    target, x, y = residual(24)
    cases = cases_of(target, x, y, "l2", None)
    attack = registry.build("attacks", parse("minimal_l2(steps=20, refine=10)"))
    lowered = lower(target, x)
    assert "batch norm folded (3)" in lowered.what
    plain, through = driven(attack, target, cases), driven(attack, target, cases, lowered.target)
    assert bool((through.status == FOUND).all())
    assert not bool(denied(target, through, cases).any())
    # The refusals cost no distance: both end within a bisection step, 2^-10, of the boundary of the same model.
    assert float((through.size / plain.size).median()) < 1 + 2**-8
