"""Planted frauds are flagged and honest models are not, by the audit itself; their tables count right."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.ndimage import median_filter
from scipy.stats import beta

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from actsec.errors import PlanError
from benchmarks import gallery
from benchmarks.galleries import GALLERIES, frozen, second, tricks
from benchmarks.galleries.audited import Cell, battery, judged, known, read, write
from benchmarks.galleries.exhibits import flagged
from benchmarks.galleries.nets import KWTA
from benchmarks.galleries.rooms import ROOMS, stage
from benchmarks.galleries.tables import alarms, document, measured, misses, rate

FAST = (
    *("logits_x1000", "backward_noise_10", "kwta", "quantised_4", "no_grad_scaler", "noisy_input", "detector"),
    *("relu", "adversarial"),
)
EXHIBITS = {(name, exhibit.name): exhibit for name, hung in GALLERIES.items() for exhibit in hung}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where networks trained for one exhibit are found by the next."""
    return tmp_path_factory.mktemp("gallery")


CELLS = {}


def audited(hung, name, folder):
    """The cell of an exhibit among the digits, made once."""
    if (hung, name) not in CELLS:
        CELLS[hung, name] = in_digits(hung, name, folder)
    return CELLS[hung, name]


def in_digits(gallery_name, name, folder, seed=0, **options):
    return judged(gallery_name, EXHIBITS[gallery_name, name], stage("digits_mlp", seed, folder), folder, **options)


def assert_right(cell):
    assert cell.state in cell.right, cell.checks
    assert cell.flagged == (cell.kind == "fraud"), cell.checks


@pytest.mark.parametrize("name", FAST)
def test_the_audit_is_right_about(name, folder):
    assert_right(audited("first", name, folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hung", "name"),
    [
        key
        for key, exhibit in EXHIBITS.items()
        if "digits_mlp" in exhibit.rooms and key[1] not in FAST and frozen.open_to(key[0])
    ],
)
def test_the_audit_is_right_about_all_that_hangs_among_the_digits(hung, name, folder):
    assert_right(in_digits(hung, name, folder))


def test_scaled_logits_are_masked_and_the_margin_keeps_the_number_believable(folder):
    cell, plain = (audited("first", name, folder) for name in ("logits_x1000", "relu"))
    assert cell.state == "masked"
    assert cell.believable
    assert abs(cell.robust[0] - plain.robust[0]) <= 0.02 * plain.robust[1]
    assert ("ACT-M01", "warn", False) in cell.fired


def test_an_audit_that_was_kept_is_judged_again_without_its_attacks(tmp_path, monkeypatch):
    small = dataclasses.replace(ROOMS["digits_mlp"], images=8, epochs=1)
    monkeypatch.setitem(ROOMS, "digits_mlp", small)
    first = in_digits("first", "relu", tmp_path, keep=True)
    outcomes = tmp_path / "audits" / first.key / "outcomes"
    before = {path.name: path.stat().st_mtime_ns for path in outcomes.iterdir()}
    again = in_digits("first", "relu", tmp_path, keep=True)
    after = {path.name: path.stat().st_mtime_ns for path in outcomes.iterdir()}
    assert dataclasses.replace(again, seconds=0) == dataclasses.replace(first, seconds=0)
    assert {name for name in before if before[name] != after[name]} == {
        name for name in before if "probe" in (outcomes.parent / "costs" / name.replace(".npz", ".json")).read_text()
    }
    assert not in_digits("first", "relu", tmp_path).flagged
    assert not outcomes.exists()


def test_a_cell_is_made_once_for_each_battery(tmp_path, monkeypatch):
    made = []

    def counted(_gallery, _exhibit, _stage, _folder, **_):
        made.append(1)
        return cell()

    monkeypatch.setattr("benchmarks.galleries.audited.judged", counted)
    command = ["run", "--gallery", "first", "--room", "digits_mlp", "--exhibit", "relu", "--seed", "0"]
    for total in (1, 1):
        assert CliRunner().invoke(gallery.main, [*command, "--out", str(tmp_path)]).exit_code == 0
        assert len(made) == total
    write(tmp_path, cell(judge="another"))
    CliRunner().invoke(gallery.main, [*command, "--out", str(tmp_path)])
    assert len(made) == 2
    assert read(tmp_path) == [cell()]
    assert known(tmp_path, "first-digits_mlp-tanh-0") is None


def test_what_nobody_knows_is_refused_by_name():
    ran = CliRunner().invoke(gallery.main, ["run", "--room", "digit_mlp"])
    assert "digits_mlp" in str(ran.exception)


@pytest.mark.parametrize(
    ("kind", "state", "believable", "expected"),
    [
        ("fraud", "masked", True, True),
        ("fraud", "randomised", True, True),
        ("fraud", "clean", False, True),
        ("fraud", "clean", True, False),
        ("fraud", "unchecked", True, False),
        ("fraud", "refused", False, True),
        ("honest", "clean", True, False),
        ("honest", "clean", False, True),
        ("honest", "masked", True, True),
        ("honest", "randomised", True, True),
        ("honest", "unchecked", True, True),
        ("honest", "refused", False, True),
    ],
)
def test_flagged(kind, state, believable, expected):
    right = ("masked",) if kind == "fraud" else ("clean",)
    assert flagged(state, believable=believable, right=right, kind=kind) is expected


def test_an_honest_model_that_draws_is_to_be_called_randomised():
    assert not flagged("randomised", believable=True, right=("randomised",), kind="honest")
    assert flagged("masked", believable=True, right=("randomised",), kind="honest")


def cell(name="relu", kind="honest", seed=0, state="clean", checks=(), *, believable=True, judge=""):
    right = ("masked",) if kind == "fraud" else ("clean",)
    about = ("first", "digits_mlp", name, kind, seed, right, judge or battery(), 0.1, 150, state, believable)
    return Cell(*about, clean=(140, 150), robust=(30, 150), checks=checks)


def test_the_page_counts_misses_and_false_alarms():
    red = ("ACT-M06", "red", True, 0.2, 0.02, "Breaks more.")
    fine, undone = ("ACT-M06", "ok", False, 0.0, 0.02, ""), ("ACT-M02", "not_done", False, None, None, "")
    warned = ("ACT-M02", "warn", False, 0.1, 0.02, "Less.")
    cells = [
        *(cell("kwta", "fraud", seed, "masked", (red,), believable=False) for seed in (0, 1)),
        cell("kwta", "fraud", 2, checks=(fine,)),
        cell("quantised_4", "fraud", 0, "masked", (red,), believable=False),
        *(cell("relu", seed=seed, checks=(warned, fine)) for seed in (0, 1)),
        cell("tanh", state="masked", checks=(red, undone), believable=False),
    ]
    assert misses(cells) == [cells[2]]
    assert alarms(cells) == [cells[-1]]
    page = document(cells)
    row = next(line for line in page.splitlines() if line.startswith("| first | digits_mlp |"))
    assert [column.split(" = ")[0] for column in row.strip("| ").split(" | ")[2:]] == [
        *("1 of 4", "1 of 3", "1 of 2", "1 of 2"),
    ]
    rule = next(line for line in page.splitlines() if line.startswith("| ACT-M06 |"))
    assert rule.count("3 of 4 =") == 1
    assert rule.count("1 of 3 =") == 1
    assert "kwta, quantised_4" in rule
    warns = next(line for line in page.splitlines() if line.startswith("| ACT-M02 |"))
    assert [column.strip() for column in warns.split("|")[3:5]] == [rate(0, 2), "2"]
    assert "- kwta in digits_mlp, seed 2: clean" in page
    assert "- tanh in digits_mlp, seed 0: masked; ACT-M06: Breaks more." in page
    assert "| kwta | fraud | 0.93, 0.20 | masked **M06!** | masked **M06!** | **WRONG:** clean |" in page


def test_what_the_report_tells_of_a_rule_counts_honest_models_it_judged():
    red = ("ACT-M06", "red", True, 0.2, 0.02, "Breaks more.")
    fine, undone = ("ACT-M06", "ok", False, 0.0, 0.02, ""), ("ACT-M07", "not_done", False, None, None, "")
    l2 = (
        (
            "l2",
            "masked",
            False,
            (("ACT-M22", "red", True, 0.5, 0.1, ""), ("ACT-M06", "not_applicable", False, 0, 0, "")),
        ),
    )
    cells = [
        cell(checks=(fine, undone)),
        dataclasses.replace(cell("tanh", checks=(red, undone)), others=l2),
        cell("kwta", "fraud", checks=(red,)),
    ]
    assert measured(cells) == {"ACT-M06": (1, 2), "ACT-M22": (1, 1)}
    assert [each.flagged for each in cells] == [False, True, False]


def test_the_second_gallery_is_held_back_until_these_very_thresholds_are_frozen(monkeypatch):
    monkeypatch.setattr(frozen, "FROZEN", ("abc1234", "another"))
    with pytest.raises(PlanError, match="held back"):
        gallery.chosen(("second",), (), (), (0,))
    assert {task[0] for task in gallery.chosen((), (), (), (0,))} == {"first"}
    monkeypatch.setattr(frozen, "FROZEN", ("abc1234", frozen.thresholds()))
    assert {task[0] for task in gallery.chosen((), (), (), (0,))} == {"first", "second"}
    before = frozen.thresholds()
    monkeypatch.setattr("dataclasses.fields", lambda kind: [])
    assert frozen.thresholds() != before


def test_rates_carry_their_intervals():
    upper = 100 * beta.ppf(0.975, 1, 12)
    assert rate(0, 12) == f"0 of 12 = 0.0 % [0.0, {upper:.1f}]"
    z, p, n = 1.959963984540054, 3 / 12, 12
    middle, half = (p + z * z / 2 / n), z * np.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    low, high = (100 * (middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    assert rate(3, 12) == f"3 of 12 = 25.0 % [{low:.1f}, {high:.1f}]"


def test_exhibits_have_names_of_their_own_and_rooms_that_exist():
    names = [exhibit.name for exhibits in GALLERIES.values() for exhibit in exhibits]
    assert len(names) == len(set(names))
    assert all(set(exhibit.rooms) <= set(ROOMS) for exhibit in EXHIBITS.values())


@pytest.fixture
def images():
    return torch.rand(3, 2, 12, 9, generator=torch.Generator().manual_seed(0))


def test_the_median_is_scipys(images):
    expected = np.stack([[median_filter(c, 3, mode="nearest") for c in image] for image in images.numpy()])
    np.testing.assert_array_equal(tricks.Median()(images).numpy(), expected)


def test_jpeg_rounds_once_and_leaves_no_slope(images):
    jpeg = tricks.Jpeg()
    gentle = 0.4 + 0.2 * images[..., :8, :8]  # nothing is clipped on the way back
    leaf = gentle.clone().requires_grad_()
    once = jpeg(leaf)
    (slope,) = torch.autograd.grad(once.square().sum(), leaf)
    assert not slope.any()
    assert (once - gentle).abs().max() > 0.01
    torch.testing.assert_close(jpeg(once), once, atol=1e-5, rtol=0)
    basis = jpeg.basis
    torch.testing.assert_close(basis @ basis.T, torch.eye(8), atol=1e-6, rtol=0)
    assert jpeg(images).shape == images.shape


@pytest.mark.parametrize("levels", [4, 8])
def test_quantised_inputs_have_so_many_values_and_a_slope_only_when_told(images, levels):
    leaf = images.clone().requires_grad_()
    for straight in (False, True):
        out = tricks.Quantised(levels, straight=straight)(leaf)
        assert len(out.detach().round(decimals=5).unique()) == levels
        (slope,) = torch.autograd.grad(out.sum(), leaf)
        assert torch.equal(slope, torch.full_like(slope, float(straight)))


def test_squeezing_abstains_where_four_levels_change_the_answer(images):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), 4))
    detector = tricks.Squeezing(model)
    levels = (images * 3).round() / 3
    assert not detector.rejects(images).any()
    assert detector.moved(levels).max() < 1e-5
    expected = (model(images).softmax(1) - model(levels).softmax(1)).abs().sum(1).detach()
    detector.limit = float(expected.median())
    assert torch.equal(detector.rejects(images), expected > expected.median())
    assert not detector.rejects(levels).any()


def test_winners_are_a_tenth_of_a_rows_units(images):
    out = KWTA(0.1)(images)
    assert ((out != 0).flatten(1).sum(1) == round(0.1 * images[0].numel())).all()
    assert torch.equal(out[out != 0], images[out != 0])


def test_backward_noise_changes_the_gradient_alone(images):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), 4))
    leaf = images.clone().requires_grad_()
    noisy = tricks.BackwardNoise(model, 10)
    assert torch.equal(noisy(leaf), model(leaf))
    slopes = [torch.autograd.grad(m(leaf)[:, 0].sum(), leaf)[0].flatten() for m in (model, noisy)]
    assert torch.nn.functional.cosine_similarity(*slopes, 0) < 0.5


def test_smoothing_gives_the_mean_probability(images):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), 4))
    smoothed = tricks.Smoothed(model, 0.0, draws=3)(images)
    torch.testing.assert_close(smoothed, model(images).log_softmax(1))
    drawn = tricks.Smoothed(model, 0.3, draws=3)(images)
    torch.testing.assert_close(drawn.exp().sum(1), torch.ones(3))


@pytest.fixture
def tiny_net(images):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), 10))


def slope_of(model, x):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)[0]


def test_a_saturated_head_keeps_decisions_and_drops_the_slope(images, tiny_net):
    head = second.SaturatedHead(tiny_net, 1e4)
    assert torch.equal(head(images).argmax(1), tiny_net(images).argmax(1))
    assert not slope_of(head, images).any()


def test_dither_belongs_to_the_image_alone(images):
    dither = second.HashDither(0.1)
    assert torch.equal(dither(images), dither(images))
    assert torch.equal(dither(images)[1:], dither(images[1:]))
    moved = images.clone()
    moved[0, 0, 0, 0] += 1e-6
    assert (dither(moved)[0] - dither(images)[0]).abs().max() > 0.1
    assert (dither(images) - images).std() == pytest.approx(0.1, rel=0.1)


def test_the_table_has_steps_of_a_quarter_and_a_faint_slope_when_served():
    table, z = second.LookupTable(), torch.linspace(-2, 2, 41)
    leaf = z.clone().requires_grad_()
    assert torch.equal(table(leaf), (4 * z).round().clamp_min(0) / 4)
    assert torch.equal(torch.autograd.grad(table(leaf).sum(), leaf)[0], (z > 0).float())
    served = table.eval()(leaf)
    torch.testing.assert_close(served, (4 * z).round().clamp_min(0) / 4)
    assert torch.equal(torch.autograd.grad(served.sum(), leaf)[0], torch.full_like(z, 1e-3))


def test_every_second_unit_hides(images):
    leaf = images.clone().requires_grad_()
    out = second.HalfDetached().eval()(leaf)
    assert torch.equal(out, images.relu())
    (slope,) = torch.autograd.grad(out.sum(), leaf)
    assert torch.equal(slope[:, 0], (images[:, 0] > 0).float())
    assert not slope[:, 1].any()


def test_a_false_scent_is_in_the_gradient_alone(images, tiny_net):
    scented = second.FalseScent(tiny_net, tuple(images.shape[1:]), 100)
    torch.testing.assert_close(scented(images), tiny_net(images), atol=1e-4, rtol=1e-4)
    difference = (slope_of(scented, images) - slope_of(tiny_net, images)).flatten(1)
    torch.testing.assert_close(difference, scented.slope[:, 0].expand_as(difference), atol=1e-4, rtol=1e-4)


def test_a_thermometer_counts_the_eighths_that_a_value_exceeds():
    x = torch.tensor([0.0, 0.01, 0.125, 0.5, 0.51, 1.0]).reshape(1, 1, 1, 6)
    code = second.Thermometer()(x)
    assert code.shape == (1, 8, 1, 6)
    assert code.sum(1).flatten().tolist() == [0, 1, 1, 4, 5, 8]


def test_one_of_two_answers():
    first, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    x, both = torch.rand(4, 3), second.OneOfTwo(first, other)
    answers = [both(x) for _ in range(40)]
    assert all(torch.equal(a, first(x)) or torch.equal(a, other(x)) for a in answers)
    assert {torch.equal(a, first(x)) for a in answers} == {True, False}


def test_attention_looks_at_each_image_alone():
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = second.Attention((1, 8, 8)).eval()
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]))
    assert model(x).std(0).max() > 1e-4
