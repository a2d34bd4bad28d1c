"""The benchmark starts, lists, counts, judges and stores; each library's adapter works where the answer is known."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from actsec import registry
from actsec.errors import StoreError
from actsec.spec import parse
from benchmarks import __main__ as command
from benchmarks import running, suites, tables, targets
from benchmarks.judging import best_of, judge, optimality, quantile, ratios
from benchmarks.measuring import counted, peak_memory
from benchmarks.peers import PEERS, Missing, Question, prepare
from benchmarks.plots import draw
from benchmarks.results import Cell, opened
from benchmarks.scenes import Scene, Whole

ENVIRONMENT = {
    "device": "cpu",
    "threads": 1,
    "cores": 1,
    "processor": "p",
    "python": "3",
    "libraries": {"actsec": "0"},
    "begun": "today",
}


def linear():
    """Two classes, decided by the sign of the mean minus a half: the nearest boundary is known in every norm."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([-torch.ones(64), torch.ones(64)]))
        model[1].bias.copy_(torch.tensor([32.0, -32.0]))
    return Whole(model).eval().requires_grad_(False)


def digits(n=6):
    """Grey images (n, 1, 8, 8) at distance 0.1 from the boundary in L-inf, 0.8 in L2; every second is of class 1."""
    y = torch.arange(n) % 2
    return torch.where(y == 1, 0.6, 0.4).view(-1, 1, 1, 1).expand(n, 1, 8, 8).clone(), y


def asked(norm, eps, n=6, **options):
    x, y = digits(n)
    return Question(linear(), x, y, 2, norm, eps, batch=4, **options)


def cell(**known):
    blank = {"scene": "s", "norm": "linf", "eps": [0.1], "images": 2, "batch": 4, "peer": "p", "spec": "a", "seed": 0}
    return Cell(**{**blank, "settle": True, **known})


@pytest.mark.parametrize(
    ("values", "share", "expected"), [([3, 1, 2], 0.5, 2), ([1, math.inf], 0.95, math.inf), ([1, 2, 3, 4], 0.5, 2)]
)
def test_quantile_is_a_value_that_the_share_does_not_exceed(values, share, expected):
    assert quantile(values, share) == expected


def test_best_ratio_and_area_by_hand():
    one, two = [1.0, 4.0, math.inf], [2.0, 3.0, math.inf]
    best = best_of([one, two, [9.0]])
    assert best == [1.0, 3.0, math.inf]
    assert ratios(one, best) == [1.0, 4 / 3, 1.0]
    assert ratios([math.inf, 3.0, math.inf], best) == [math.inf, 1.0, 1.0]


def test_area_measure_is_one_for_the_best_and_zero_for_a_failure():
    best = [1.0, 2.0, 4.0]
    assert optimality(best, best) == 1
    assert optimality([math.inf] * 3, best) == 0
    # Sizes cut off at 4: areas 3 against 7 / 3 against 4.
    assert optimality([1.0, 4.0, 40.0], best) == pytest.approx(1 - (3 - 7 / 3) / (4 - 7 / 3))


def test_the_judge_counts_violations_and_takes_no_credit_for_them():
    model, (x, y) = linear(), digits(6)
    y[5] = 1 - y[5]
    direction = torch.where(y == 1, -1.0, 1.0).view(-1, 1, 1, 1)
    found = x + 0.11 * direction
    found[1] = x[1] + 0.2 * direction[1]
    found[2, 0, 0, 0] = torch.nan
    found[3] = x[3] + 0.05 * direction[3]
    judged = judge(model, x, y, found, "linf", 0.11)
    assert judged.violations == 2
    assert judged.sizes[0] == pytest.approx(0.11)
    assert judged.sizes[1:4] == [math.inf] * 3
    assert judged.sizes[5] == 0, "misclassified from the beginning"
    outside = judge(model, x, y, found - 0.8, "linf", None)
    assert outside.violations == 6


def test_the_judge_allows_the_rounding_of_a_float_and_no_more():
    model, (x, y) = linear(), digits(2)
    eps = 0.1 + 1e-4
    at = x + torch.tensor(eps) * torch.where(y == 1, -1.0, 1.0).view(-1, 1, 1, 1)
    assert judge(model, x, y, at, "linf", eps).violations == 0
    assert judge(model, x, y, at, "linf", eps - 1e-6).violations == 2


def test_a_pixel_is_changed_when_it_moves_by_more_than_a_rounding():
    model, (x, y) = linear(), digits(2)
    found = x + 1e-7
    found[:, 0, 0, 0] = 1
    assert judge(model, x, y, found, "l0", 1).violations == 0
    found[:, 0, 0, 1] = 1
    assert judge(model, x, y, found, "l0", 1).violations == 2


def test_rows_forwards_and_backwards_are_counted_and_the_model_is_left_as_it_was():
    model, (x, _) = linear(), digits(5)
    with counted(model) as passes:
        leaf = x.clone().requires_grad_(True)
        logits = model(leaf)
        torch.autograd.grad(logits[:, 0].sum(), leaf, retain_graph=True)
        torch.autograd.grad(logits[:, 1].sum(), leaf)
        with torch.no_grad():
            model(x[:2])
    assert (passes.forwards, passes.backwards) == (7, 10)
    model(x)
    assert passes.forwards == 7


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no high-water mark here")
def test_peak_memory_sees_what_was_freed_again():
    with peak_memory(torch.device("cpu")) as peak:
        torch.ones(32 * 2**20 // 4).sum()
    assert peak.mib is None or 28 < peak.mib < 100


ATTEMPTS = [
    ("bare", "fgsm", "linf", (0.05, 0.15)),
    ("actsec", "fgsm", "linf", (0.05, 0.15)),
    ("actsec", "minimal_l2(steps=20)", "l2", ()),
    ("art", "FastGradientMethod", "linf", (0.05, 0.15)),
    ("foolbox", "LinfFastGradientAttack", "linf", (0.05, 0.15)),
    ("foolbox", "DDNAttack(steps=20)", "l2", ()),
    ("torchattacks", "FGSM", "linf", (0.05, 0.15)),
    ("adv-lib", "pgd_linf(steps=5, relative_step_size=0.5)", "linf", (0.05, 0.15)),
    ("adv-lib", "ddn(steps=20, levels=none)", "l2", ()),
    ("autoattack", "custom(attacks=[apgd-ce])", "linf", (0.05, 0.15)),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("peer", "spec", "norm", "eps"), ATTEMPTS, ids=[f"{p}-{s}" for p, s, *_ in ATTEMPTS])
def test_every_library_finds_what_there_is_on_a_linear_model(peer, spec, norm, eps):
    question = asked(norm, eps)
    try:
        attempt = prepare(peer, parse(spec), question)
    except Missing as why:
        pytest.skip(str(why))
    with counted(question.model) as passes:
        found = attempt()
    assert len(found) == max(len(eps), 1)
    assert passes.forwards > 0
    assert passes.backwards > 0
    for images, radius in zip(found, eps or (None,), strict=True):
        judged = judge(question.model, question.x, question.y, images, norm, radius, batch=4)
        assert judged.violations == 0
        if radius == 0.05:
            assert judged.sizes == [math.inf] * 6
        elif radius == 0.15:
            assert max(judged.sizes) <= 0.15 * (1 + 1e-5)
        else:
            assert min(judged.sizes) >= 0.8 * (1 - 1e-6)
            assert max(judged.sizes) < 1.2


def test_a_stand_in_searches_and_its_passes_are_counted():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
    )
    x = torch.rand(40, 1, 8, 8)
    model = Whole(layers).eval().requires_grad_(False)
    question = Question(model, x, model(x).argmax(1), 2, "l2", (), batch=64)
    passes, sizes = {}, {}
    for stand_in in ("", "float32"):
        attempt = prepare("actsec", parse("minimal_l2(steps=20)"), dataclasses.replace(question, stand_in=stand_in))
        with counted(model) as seen:
            (found,) = attempt()
        judged = judge(model, x, question.y, found, "l2", None, batch=64)
        passes[stand_in], sizes[stand_in] = seen.backwards, judged.sizes
        assert max(judged.sizes) < math.inf
    assert passes["float32"] >= passes[""] > 0
    assert sizes["float32"] == pytest.approx(sizes[""], rel=0.05)


def test_a_library_that_is_not_there_is_said_so(monkeypatch):
    monkeypatch.setitem(PEERS, "elsewhere", ("no_such_module", "nothing"))
    with pytest.raises(Missing, match="python -m benchmarks setup"):
        prepare("elsewhere", parse("fgsm"), asked("linf", (0.1,)))


def small(*entries, **changes):
    known = {"about": "", "grid": (("line", 6),), "norm": "linf", "eps": (0.15,), "entries": entries, "batch": 4}
    return suites.Suite(**{**known, **changes})


@pytest.fixture
def line(monkeypatch):
    x, y = digits(8)
    monkeypatch.setattr(running, "scene", lambda name, cache, device: Scene(name, linear(), x, y, 2))


def ran(suite, folder, **options):
    results = opened(folder, ENVIRONMENT)
    running.run({"s": suite}, results, running.Options(**options))
    return opened(folder, ENVIRONMENT)


def test_runs_take_turns_and_are_resumed_not_repeated(line, tmp_path, monkeypatch, capsys):
    calls = []
    spied = running.prepare

    def preparing(peer, spec, question):
        attempt = spied(peer, spec, question)
        return lambda: (calls.append(str(spec)), attempt())[1]

    monkeypatch.setattr(running, "prepare", preparing)
    entries = (suites.Entry("bare", "fgsm", "reference"), suites.Entry("actsec", "fgsm", "ours"))
    twice = small(*entries, repeats=2)
    results = ran(twice, tmp_path)
    # First a run of each to warm up and count, then in turns.
    assert calls == ["fgsm", "fgsm"] * 3
    assert [len(found.seconds) for found in results.cells.values()] == [2, 2]
    ours = next(found for found in results.cells.values() if found.peer == "actsec")
    assert ours.success == 1
    assert ours.violations == 0
    calls.clear()
    assert ran(twice, tmp_path).cells == results.cells
    assert not calls
    more = ran(small(*entries, repeats=3), tmp_path)
    assert calls == ["fgsm", "fgsm"]
    assert [len(found.seconds) for found in more.cells.values()] == [3, 3]
    assert "stored" in capsys.readouterr().out


def test_a_contender_that_fails_or_is_missing_stops_nobody(line, tmp_path, monkeypatch):
    monkeypatch.setitem(PEERS, "elsewhere", ("no_such_module", "nothing"))
    suite = small(
        suites.Entry("bare", "no_such_attack", "reference"),
        suites.Entry("elsewhere", "fgsm", "documented", "rival"),
        suites.Entry("actsec", "fgsm", "ours", "ours", runs=1),
        targets=(targets.faster("ours", "rival", 2),),
    )
    results = ran(suite, tmp_path)
    text = tables.report({"s": suite}, results)
    assert "failed: AssertionError" in text
    assert "elsewhere is not installed" in text
    assert "100.0% (6/6)" in text
    assert "not measured: ours at least 2x faster than rival: elsewhere is not installed" in text
    assert draw({"s": suite}, results).stat().st_size > 1000


def test_the_cap_ends_a_contender_and_the_table_says_so(line, tmp_path):
    suite = small(suites.Entry("actsec", "fgsm", "ours"))
    results = ran(suite, tmp_path, cap=0.0, repeats=3)
    assert [len(found.seconds) for found in results.cells.values()] == [1]
    assert "stopped by the cap after 1 of 3 runs" in tables.report({"s": suite}, results)


def test_fewer_images_are_the_first_ones_and_scaled_in_words(line, tmp_path):
    suite = small(suites.Entry("bare", "fgsm", "reference"), suites.Entry("actsec", "fgsm", "ours", images=2))
    text = tables.report({"s": suite}, ran(suite, tmp_path, repeats=1))
    assert "100.0% (2/2)" in text
    assert "only 2 of the 6 images; all would take" in text


def test_stored_results_come_back_equal_and_are_not_mixed_with_another_machine(tmp_path):
    results = opened(tmp_path, ENVIRONMENT)
    results.cell(cell(sizes=[[0.5, math.inf]], seconds=[0.25], wanted=1, forwards=3.0, backwards=1.0))
    results.save()
    again = opened(tmp_path, None)
    assert again.cells == results.cells
    assert json.loads((tmp_path / "results.json").read_text())["cells"].popitem()[1]["sizes"] == [[0.5, None]]
    with pytest.raises(StoreError, match="measured with threads 1, now it is 2"):
        opened(tmp_path, {**ENVIRONMENT, "threads": 2})
    with pytest.raises(StoreError, match="does not exist"):
        opened(tmp_path / "none", None)


def sheet(**tagged):
    cells = {tag: [cell(peer=tag, **known)] for tag, known in tagged.items()}
    return targets.Sheet("s", cells, [one for many in cells.values() for one in many])


OURS = {"seconds": [1.0, 2.0, 3.0], "sizes": [[1.0, 2.0]], "forwards": 10.0, "backwards": 2.0}
RIVAL = {"seconds": [9.0, 10.0, 11.0], "sizes": [[1.0, math.inf]], "forwards": 96.0, "backwards": 0.0}


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (targets.faster("ours", "rival", 5), True),
        (targets.faster("ours", "rival", 5.1), False),
        (targets.at_most("ours", "rival", 0.2), True),
        (targets.at_most("rival", "ours", 4.9), False),
        (targets.no_weaker("ours", "rival"), True),
        (targets.no_weaker("rival", "ours"), False),
        (targets.breaks_all_of("ours", "rival"), True),
        (targets.breaks_all_of("rival", "ours"), False),
        (targets.equal_strength("ours", "ours"), True),
        (targets.equal_strength("ours", "rival"), False),
        (targets.all_fall("ours"), True),
        (targets.all_fall("rival"), False),
        (targets.nearest("ours", 1, 1), True),
        (targets.nearest("rival", 1, 1), False),
        (targets.no_farther("ours", "rival"), True),
        (targets.no_farther("rival", "ours"), False),
        (targets.converged("ours", "rival", 1), True),
        (targets.share_of("rival", "ours", 0.5), True),
        (targets.share_of("rival", "ours", 0.6), False),
        (targets.fewer_forwards("ours", "rival", 9.6), True),
        (targets.fewer_forwards("ours", "rival", 9.7), False),
        (targets.faster("ours", "nobody", 1), None),
    ],
)
def test_targets_are_met_or_missed_as_computed_by_hand(target, met):
    found = target(sheet(ours=OURS, rival=RIVAL))
    assert found.met is met
    assert found.text
    assert found.measured


def test_overhead_is_the_median_of_pairs_and_needs_equal_passes():
    bare = {"seconds": [1.0, 2.0, 4.0], "sizes": [[math.inf, math.inf]], "forwards": 43.0, "backwards": 40.0}
    ours = {**bare, "seconds": [1.1, 2.0, 4.8]}
    again = {**bare, "seconds": [1.0, 2.2, 4.0]}
    target = targets.paired("ours", "bare", "again", {"s": 1.1})
    found = target(sheet(ours=ours, bare=bare, again=again))
    assert found.met
    assert "1.100x over 3 pairs [1.000 to 1.200]; A/A 1.000 [1.000 to 1.100]" in found.measured
    assert not target(sheet(ours={**ours, "forwards": 50.0}, bare=bare, again=again)).met


def test_every_spec_of_every_suite_parses_and_ours_exist():
    for name, suite in suites.SUITES.items():
        assert suite.entries, name
        for entry in suite.entries:
            spec = parse(entry.spec)
            assert str(spec) == entry.spec
            assert entry.peer in PEERS
            if entry.peer == "actsec":
                assert registry.build("attacks", spec) is not None


def test_targets_speak_of_tags_that_the_suite_has():
    """A target that names nobody would be "not measured" for ever."""
    for suite in suites.SUITES.values():
        tags = {entry.tag for entry in suite.entries} - {""}
        for where, images in suite.grid:
            known = {tag: [cell(scene=where, images=images, **OURS)] for tag in tags}
            everyone = [one for many in known.values() for one in many]
            for found in targets.held(suite.targets, targets.Sheet(where, known, everyone)):
                assert "was not run" not in found.measured, (found.text, found.measured)


def test_the_command_lists_and_refuses_what_it_does_not_know():
    listed = CliRunner().invoke(command.main, ["list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in suites.SUITES)
    refused = CliRunner().invoke(command.main, ["run", "lint", "--out", "nowhere"])
    assert refused.exit_code != 0
    assert "Did you mean 'linf'?" in str(refused.exception)
