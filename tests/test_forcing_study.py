"""Forced units as a study and in audits: certificates above attacks, controls beside them, and what is told of both."""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from attack_models import digits, optimum
from runs import inside
from torch import nn

from actsec.attacks import DeadReLU
from actsec.errors import BadOption, ModelError, ThreatError
from actsec.forcing import brackets, consequences, killing, units
from actsec.forcing.aim import Kill
from actsec.forcing.bracket_words import bracketed
from actsec.health import tally
from actsec.result import Bracket, SiteBracket
from actsec.search.referee import attack_target, cases_of
from actsec.study import forcing, forcing_telling, singles
from actsec.study.forcing import ABLATION, BESIDE, BEST, COUNT, NOISE, ONE_LAYER, PGD, PGD_BEST, Settings
from actsec.study.page import page
from actsec.types import Target

EPS = 0.15
CLASSES = ("a", "b", "c")


def network(kind=nn.ReLU, widths=(6, 8, 8, 3), seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), kind()]
        return Target(nn.Sequential(*layers[:-1]).eval(), (widths[0],), CLASSES)


def inputs(n=12, d=6):
    draw = torch.Generator().manual_seed(1)
    return torch.rand(n, d, generator=draw), torch.randint(0, 3, (n,), generator=draw)


@cache
def studied():
    target, x, y = digits()
    settings = Settings(eps=EPS, images=24, steps=12, units=2, certified=12)
    return forcing.run([(target, 3)], x[:24], y[:24], settings)[0]


def test_some_units_of_a_first_layer_are_rows_of_the_whole():
    target, x, _ = digits()
    whole, some = killing.first_layer(target, x[:4]), killing.first_layer(target, x[:4], most=9)
    assert whole.whole
    assert not some.whole
    assert (len(some.units), some.of) == (9, 512)
    torch.testing.assert_close(some.weight, whole.weight[some.units], atol=1e-12, rtol=0)
    torch.testing.assert_close(some.bias, whole.bias[some.units], atol=1e-12, rtol=0)
    every = killing.first_layer(target, x[:4], most=600)
    assert every.whole
    torch.testing.assert_close(every.weight, whole.weight, atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_unit_of_a_convolution_has_the_radius_of_its_patch(norm):
    target, x, _ = digits()
    layer = killing.first_layer(target, x[:4], most=12)
    radius, z = killing.kill_radius(layer, x[:4], norm, (0.0, 1.0)), layer(x[:4])
    for at in range(12):
        truth = optimum(x[:4].flatten(1), layer.weight[at], z[:, at].clamp_min(0), norm)
        torch.testing.assert_close(radius[:, at], torch.where(z[:, at] > 0, truth, 0.0), rtol=1e-6, atol=1e-9)


def test_no_attack_is_above_its_certificate():
    target, (x, y) = network(), inputs()
    cases = cases_of(target, x, y, "linf", 0.03)
    after = attack_target(DeadReLU(20), target, cases, Kill()).x
    held = brackets.bracket(target, cases, after)
    first, second = held.sites
    assert (first.how, second.how) == ("exact radii", "intervals")
    layer = target.model[0]
    with torch.no_grad():
        z = layer(x).double()
        slope = layer.weight.double().abs()
        room = torch.where(layer.weight > 0, x[:, None], 1 - x[:, None]).clamp_max(0.03)
        lowest = z - (slope * room).sum(2)
    share = float(((z > 0) & (lowest <= 0)).sum() / (z > 0).sum())
    assert first.certified == pytest.approx(share)
    assert 0 < first.attacked <= first.certified < 1
    assert second.attacked <= second.certified < 1
    profile = tally.kill_profile(target, x, after).sites
    for site, told in zip(held.sites, profile, strict=True):
        assert site.attacked == pytest.approx(told["killed"] / (1 - told["dead_before"]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_some_units_say_of_a_blackout_is_below_what_all_do(norm, monkeypatch):
    target, (x, y) = network(widths=(4, 5, 3), seed=4), inputs(d=4)
    cases = cases_of(target, x, y, norm, 0.1)
    whole = brackets.bracket(target, cases, x, dark=12)
    assert whole.blackout_exact == (norm == "linf")
    monkeypatch.setattr(brackets, "UNITS", 2)
    part = brackets.bracket(target, cases, x, dark=12)
    assert not part.blackout_exact
    truth = killing.blackout_radius(killing.first_layer(target, x), x, target.bounds)
    exact = killing.kill_radius(killing.first_layer(target, x), x, norm, target.bounds).amax(1)
    for held in (whole, part):
        least = torch.tensor([float("inf") if value is None else value for value in held.blackouts])
        assert bool((least <= (truth if norm == "linf" else torch.maximum(exact, truth)) * (1 + 1e-9)).all())
    assert bool((torch.tensor([value or 0 for value in part.blackouts]) > 0).any())


def test_what_a_model_does_not_allow_is_named():
    target, (x, y) = network(nn.Tanh), inputs()
    held = brackets.bracket(target, cases_of(target, x, y, "linf", 2.0), (x + 1).clamp(0, 1), "saturated")
    assert held.reason_exact == "exact radii are of units that die"
    assert [site.how for site in held.sites] == ["intervals"] * 2
    assert any("not available: exact radii are of units that die" in line for line in bracketed(held))

    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, z):
            return self.last(torch.relu(self.first(z.float())))

    other = Target(Skips().eval(), (6,), CLASSES)
    held = brackets.bracket(other, cases_of(other, x, y, "linf", 0.1), x)
    assert "does not run in float64" in held.reason_exact
    assert held.reason_intervals
    assert [site.certified for site in held.sites] == [None]
    assert not held.blackouts


def test_a_bracket_says_what_it_holds():
    one = SiteBracket("a", "relu", 5, 9, 0.1, 0.25, "exact radii")
    sites = (one, SiteBracket("b", "relu", 9, 9, 0.2, 1.0, "intervals"))
    held = Bracket(7, "linf", 0.1, "dead", sites, "", "", (0.3, None), True, (0.2, 0.25))
    first, second, third = bracketed(held)
    assert first == (
        "Site a: no perturbation can kill more than 25.0 % of its active units (exact radii, on 5 of 9 units); "
        "the attack killed 10.0 %."
    )
    assert "b: intervals keep no unit out of reach, which says nothing; the attack killed 20.0 %" in second
    assert "takes 0.3 (linf, in the box; 1 of 2 images have no such change)" in third
    assert third.endswith("without the box 0.2 to 0.25; eps is 0.1.")


def test_every_contender_is_measured_on_the_same_rows():
    network, found = studied(), studied().rounds[0].contest
    assert [each.name for each in found.forced] == [*forcing.CONTENDERS["dead"]]
    chosen = units.critical(network.target, network.cases, forcing.Ranked("gradient", forcing.SHARE, "dead"))
    for each in found.forced:
        assert float((each.x - network.cases.x).abs().max()) <= EPS * (1 + 1e-5)
        again = consequences.compare(network.target, network.cases.x, each.x, network.cases.y, chosen=chosen)
        assert again == each.effect
        assert (each.labels.k, each.labels.n) == (again.changed, again.right)
    net = {each.name: each.effect.net for each in found.forced}
    assert net[COUNT] > 2 * max(net[name] for name in BESIDE)
    assert net[BEST] > net[NOISE]
    assert net[PGD_BEST] > net[PGD]
    rises = {site.name: site.killed - site.revived for site in found[COUNT].effect.sites}
    assert found.site == max(rises, key=rises.get)
    own = {site.name: site.killed - site.revived for site in found[ONE_LAYER].effect.sites}
    assert own[found.site] >= rises[found.site] * 0.95


def test_what_is_not_done_says_why(monkeypatch):
    target, (x, y) = network(widths=(6, 8, 3)), inputs()
    monkeypatch.setattr(forcing, "ABLATIONS", 7)
    found = forcing.contend(target, cases_of(target, x, y, "linf", 0.1), steps=2)
    assert found.not_done[ABLATION] == "ranking takes 8 forwards an image, more than 7"
    assert found.not_done[ONE_LAYER] == "the model has one site alone"
    assert ABLATION not in found
    with pytest.raises(ThreatError, match="no unit of"):
        forcing.regions_of(network(nn.LeakyReLU), x)


def test_single_units_lie_between_the_truth_and_the_intervals():
    first, *others = studied().rounds[0].smallest
    found, exact = np.array(first.found), np.array(first.exact)
    assert len(found) == len(exact) > 5
    assert (found >= exact * (1 - 1e-5)).all()
    assert np.median(found[np.isfinite(found)] / exact[np.isfinite(found)]) < 1.1
    for each in (first, *others):
        assert each.certified
        for size, share in each.certified:
            assert forcing_telling.reached(each, size) <= share + 1e-9
    assert all(not each.exact for each in others)


def test_one_delta_is_made_on_some_images_and_measured_on_the_others():
    network = studied()
    found, x, y = network.rounds[0].universal, network.cases.x, network.cases.y
    assert (found.made.n, found.other.n) == (8, 16)
    assert float(found.delta.abs().max()) == pytest.approx(found.size)
    assert found.size <= EPS * (1 + 1e-6)
    moved = (x[8:] + found.delta).clamp(0, 1)
    assert consequences.compare(network.target, x[8:], moved, y[8:]) == found.other
    assert found.made.net > found.noise_made.net
    with pytest.raises(ThreatError, match="too few to make a delta"):
        singles.universal(network.target, network.cases.rows(slice(0, 3)), "dead", "dead_relu(steps=2)", 0)


def test_twins_have_the_same_weights_and_other_activations():
    network, found = studied(), studied().rounds[0]
    assert [twin.activation for twin in found.twins] == ["leaky_relu", "gelu", "tanh"]
    leaky = nn.Sequential(*(nn.LeakyReLU() if isinstance(layer, nn.ReLU) else layer for layer in network.target.model))
    x, y, forced = network.cases.x, network.cases.y, found.contest[PGD].x
    with torch.no_grad():
        right = leaky(x).argmax(1) == y
        changed = int((right & (leaky(forced).argmax(1) != y)).sum())
    told = found.twins[0].passed[PGD]
    assert (told.changed, told.right, told.net) == (changed, int(right.sum()), None)


def test_the_report_says_what_the_numbers_say():
    network = studied()
    settings = Settings(eps=EPS, images=24)
    text = "\n".join(forcing_telling.lines([network, network], settings, "digits", "0.15", ["dead_single_1"]))
    count, noise = (network.rounds[0].contest[name].effect for name in (COUNT, NOISE))
    assert f"The count attack killed {count.killed_of_active:.1%} of active units (sign noise " in text
    assert f"the label changed on {count.changed} of {count.right} images (sign noise {noise.changed}, PGD " in text
    assert "## Over 2 seeds" in text
    assert f"{2 * count.changed} of {2 * count.right} |" in text
    assert "![Share of single units forced by changes up to a size](dead_single_1.png)" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({row.count("|") for row in table.strip().split("\n")}) == 1
    weak = forcing.Contest("dead", (network.rounds[0].contest[NOISE],), {}, "")
    as_count = forcing.Forced(COUNT, "dead_relu", noise, None, network.cases.x)
    equal = forcing.Contest("dead", (*weak.forced, as_count), {}, "")
    assert "sign noise raised it as much: this counts as no attack on units." in forcing_telling.lead(equal)


def test_images_that_follow_each_other_stand_side_by_side():
    pictures = {"a": b"1", "b": b"2"}
    assert page(["# t", "![x](a.png)", "![y](b.png)"], pictures).count('<div class="figures count2">') == 1
    assert 'class="figures' not in page(["# t", "![x](a.png)", "", "![y](b.png)"], pictures)


def test_the_command_writes_a_page_pictures_and_numbers(tmp_path):
    model = "reference:mlp(width=[16, 16])"
    said = inside("study", "forcing", "--model", model, "--eps", 0.2, "--images", 12, "--steps", 4, "--units", 1,
                  "--seeds", 2, "--out", tmp_path / "out")  # fmt: skip
    assert said.code == 0, said.err
    assert "The count attack killed" in said.out
    assert "![" not in said.out
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    first, second = written["networks"]
    assert (first["seed"], second["seed"], first["images"]) == (0, 1, 12)
    region = first["regions"][0]
    assert [each["name"] for each in region["contenders"]] == [*forcing.CONTENDERS["dead"]]
    assert region["contenders"] != second["regions"][0]["contenders"]
    for site in region["bracket"]["sites"]:
        assert site["attacked"] <= site["certified"]
    html = (tmp_path / "out" / "report.html").read_text()
    names = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert {"dead_sites_forced", "dead_sites_net", "dead_single_1", "dead_images"} <= names
    assert html.count('src="data:image/png') == len(names)
    assert region["sentence"].replace("%", "%")[:40] in html


def test_units_that_saturate_have_a_study_of_their_own(tmp_path):
    model = "reference:mlp(width=[16], activation=tanh)"
    said = inside("study", "forcing", "--model", model, "--eps", 1, "--norm", "l2", "--images", 8, "--steps", 3,
                  "--swaps", "relu", "--quiet")  # fmt: skip
    assert said.code == 0, said.err
    assert said.out.startswith("# Units saturated\n")
    assert "The saturation attack saturated" in said.out
    assert "not available: exact radii are of units that die" in said.out
    assert re.search(r"^\| relu \| \d+ \|", said.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--norm", "l2"), "--norm l2 without --eps"),
        (("--seeds", 0), "--seeds 0"),
        (("--swaps", "nothing"), "unknown activation 'nothing'"),
        (("--eps", 0.1, "--steps", 0), "steps is above 0"),
        (("--data", "wine"), "is a table"),
        (("--model", "reference:mlp(width=[8], activation=leaky_relu)"), "can be forced dead, saturated"),
    ],
)
def test_mistakes(arguments, words):
    said = inside("study", "forcing", *arguments)
    assert said.code == 2, said.err
    assert words in said.err


def test_settings_refuse_what_means_nothing():
    with pytest.raises(BadOption, match="linf or l2"):
        Settings(norm="l0")
    with pytest.raises(BadOption, match="or 0"):
        Settings(units=-1)


def test_an_audit_holds_forced_units_beside_certificates_and_other_activations(tmp_path):
    said = inside("audit", "--model", "reference:mlp(width=[24])", "--activations", "relu,tanh", "--attacks",
                  "dead_relu(steps=6), saturation(steps=6)", "--defenses", "swap(to=leaky_relu)", "--samples", 24,
                  "--corruptions", "none", "--out", tmp_path / "run")  # fmt: skip
    assert said.code == 0, said.err
    relu, tanh, swapped = json.loads((tmp_path / "run" / "report.json").read_text())["result"]["variants"]
    dead, saturated = relu["kills"][0], tanh["kills"][1]
    assert dead["bracket"]["n"] == 24
    (site,) = dead["bracket"]["sites"]
    assert 0 < site["attacked"] <= site["certified"] < 1
    assert site["how"] == "exact radii"
    assert [each["variant"] for each in dead["passed"]] == ["tanh", "relu | swap(to=leaky_relu)"]
    assert dead["passed"][1]["label_changed"]["n"] > 0
    assert saturated["bracket"]["sites"][0]["attacked"] <= saturated["bracket"]["sites"][0]["certified"]
    assert not saturated["passed"]
    assert relu["kills"][1]["bracket"] is None
    assert all(kill["bracket"] is None for kill in swapped["kills"])
    page = (tmp_path / "run" / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "Units forced dead or saturated</h3>" in page
    assert "What no attack on units can beat" in page
    assert f"no perturbation can kill more than {100 * site['certified']:.1f} % of its active units" in page
    assert "on relu | swap(to=leaky_relu)" in page.replace("<wbr>", "")  # a place to break a line


def test_a_model_error_of_a_certificate_is_no_error_of_the_bracket():
    target, (x, y) = network(), inputs()
    bent = target.having(model=nn.Sequential(nn.Tanh(), *target.model).eval())
    held = brackets.bracket(bent, cases_of(bent, x, y, "linf", 0.1), x)
    assert held.reason_exact == "what comes before 2 is not affine"
    assert [site.how for site in held.sites] == ["intervals", "intervals"]
    with pytest.raises(ModelError):
        killing.first_layer(bent, x, most=4)
