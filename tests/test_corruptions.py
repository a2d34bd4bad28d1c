"""Noise, blur, contrast, JPEG, shift and rotation: what they are, and where their accuracy stands in a report."""

from __future__ import annotations

import io
import json
import math
import tomllib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import TINY, inside
from scipy import ndimage

from actsec import corruptions
from actsec.corruptions import KINDS, SEVERITIES, corrupt
from actsec.errors import BadOption, PlanError, UnknownName
from actsec.planning import budgets, plan, reading, resolving
from actsec.planning.jobs import corruption_jobs, variants
from actsec.reports.load import read, render
from actsec.running import preparing, restoring, run_scene, runner, scene
from actsec.running.store import Store

IDS = torch.tensor([3, 1, 4, 15, 9, 2])


def photos(n=6, channels=3, side=24, seed=0):
    """Smooth images with an edge in them."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 5, 5, generator=draw)
    x = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").clamp(0, 1)
    x[:, :, side // 2 :, : side // 3] = 0.9
    return x


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_keyed_by_its_row_alone_and_stays_inside(kind):
    x = photos()
    whole = corrupt(x, IDS, kind, 3, seed=5)
    assert whole.shape == x.shape
    assert whole.dtype == torch.float32
    assert ((whole >= 0) & (whole <= 1)).all()
    for i in range(len(x)):
        assert torch.equal(corrupt(x[i : i + 1], IDS[i : i + 1], kind, 3, seed=5), whole[i : i + 1])
    assert torch.equal(corrupt(x.flip(0), IDS.flip(0), kind, 3, seed=5), whole.flip(0))
    state = torch.get_rng_state()
    corrupt(x, IDS, kind, 1)
    assert torch.equal(torch.get_rng_state(), state)
    drawn = not torch.equal(corrupt(x, IDS, kind, 3, seed=6), whole)
    assert drawn == (kind in ("gaussian_noise", "shift", "rotation"))


@pytest.mark.parametrize("kind", KINDS)
def test_severity_is_monotone(kind):
    x = photos(side=48)
    far = [float((corrupt(x, IDS, kind, s) - x).square().mean()) for s in SEVERITIES]
    assert far == sorted(far)
    assert 0 < far[0] < 0.5 * far[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_range_of_the_data_changes_nothing(kind):
    x = photos()
    unit, wide = corrupt(x, IDS, kind, 4), corrupt(x * 255 - 100, IDS, kind, 4, bounds=(-100.0, 155.0))
    # JPEG rounds to whole levels, so that a float on the edge may fall to either side.
    assert ((wide + 100) / 255 - unit).abs().max() <= (0.06 if kind == "jpeg" else 1e-5)


def test_noise_has_the_stated_deviation():
    x = torch.full((4, 3, 64, 64), 0.5)
    for severity, std in zip(SEVERITIES, KINDS["gaussian_noise"].levels, strict=True):
        made = corrupt(x, IDS[:4], "gaussian_noise", severity) - 0.5
        assert made.std().item() == pytest.approx(std, rel=0.03)
        assert abs(made.mean().item()) < 4 * std / math.sqrt(x.numel())


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_is_scipys_gaussian_filter(severity):
    x = photos(2, side=40)
    sigma = KINDS["blur"].levels[severity - 1] * 40
    reach = math.ceil(3 * sigma)
    expected = ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="nearest", radius=(0, 0, reach, reach))
    assert np.abs(corrupt(x, IDS[:2], "blur", severity).numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_scales_the_deviation_and_keeps_the_mean(severity):
    x = photos()
    made = corrupt(x, IDS, "contrast", severity)
    assert torch.allclose(made.mean((2, 3)), x.mean((2, 3)), atol=1e-6)
    ratio = made.std((2, 3)) / x.std((2, 3))
    assert torch.allclose(ratio, torch.full_like(ratio, KINDS["contrast"].levels[severity - 1]), rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels):
    from PIL import Image

    x = photos(3, channels)
    made = corrupt(x, IDS[:3], "jpeg", 5)
    for image, got in zip(x, made, strict=True):
        level = (image * 255).round().to(torch.uint8)
        array = level[0].numpy() if channels == 1 else level.permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "JPEG", quality=15)
        back = np.asarray(Image.open(buffer), dtype=np.float32) / 255
        assert np.array_equal(got.numpy(), back[None] if channels == 1 else back.transpose(2, 0, 1))
    with pytest.raises(BadOption, match="1 or 3 channels"):
        corrupt(photos(1, 2), IDS[:1], "jpeg", 1)


def test_rotation_is_scipys_by_the_stated_angle_to_one_side_or_the_other():
    x = photos(6, 1, 25)
    made = corrupt(x, IDS, "rotation", 4)
    sides = set()
    for image, got in zip(x, made, strict=True):
        tried = {
            side: ndimage.rotate(image[0].numpy(), side * 15, reshape=False, order=1, mode="nearest")
            for side in (-1, 1)
        }
        off = {side: np.abs(got[0].numpy() - want).max() for side, want in tried.items()}
        side = min(off, key=off.__getitem__)
        sides.add(side)
        assert off[side] < 1e-4
    assert sides == {-1, 1}


@given(st.integers(0, 2**62), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_a_shift_is_of_the_stated_length(row, seed):
    """A ramp moves its values by the gradient times the shift."""
    side, severity = 50, 3
    ramp = torch.linspace(0.25, 0.75, side)
    x = torch.stack([ramp[:, None].expand(-1, side), ramp[None].expand(side, -1)])[None]
    x = torch.cat([x, torch.zeros(1, 1, side, side)], 1)
    made = corrupt(x, torch.tensor([row]), "shift", severity, seed=seed)
    middle = (made - x)[0, :2, side // 2, side // 2] / (ramp[1] - ramp[0])
    assert middle.square().sum().sqrt().item() == pytest.approx(KINDS["shift"].levels[severity - 1] * side, rel=1e-3)


def test_names_and_severities_are_checked():
    assert corruptions.parsed("blur") == (("blur", 1), ("blur", 3), ("blur", 5))
    assert corruptions.parsed("jpeg(severity=2)") == (("jpeg", 2),)
    with pytest.raises(UnknownName, match="blurr"):
        corruptions.parsed("blurr")
    with pytest.raises(UnknownName, match="strength"):
        corruptions.parsed("blur(strength=2)")
    for text in ("blur(severity=6)", "blur(severity=0)", "blur(severity=1.5)"):
        with pytest.raises(BadOption, match="1, 2, 3, 4 or 5"):
            corruptions.parsed(text)
    with pytest.raises(BadOption, match="images"):
        corrupt(torch.rand(2, 9), IDS[:2], "blur", 1)
    assert corruptions.setting("blur", 3, (3, 32, 32)) == "sigma 0.96 pixels"
    assert corruptions.setting("rotation", 3, (3, 32, 32)) == "10 degrees"


def resolved(**changes):
    return preparing.resolved(scene.load(reading.from_table(tomllib.loads(TINY) | changes))).plan


def test_a_plan_measures_all_kinds_unless_it_says_otherwise():
    assert resolved().corruptions == tuple(f"{kind}(severity=3)" for kind in KINDS)
    assert len(resolved(budget="standard").corruptions) == 3 * len(KINDS)
    assert resolved(corruptions=[]).corruptions == ()
    asked = resolved(corruptions=["blur", "blur(severity=3)", "jpeg(severity=2)"])
    assert asked.corruptions == ("blur(severity=1)", "blur(severity=3)", "blur(severity=5)", "jpeg(severity=2)")
    again = reading.from_table(tomllib.loads(reading.write(asked)))
    assert again.corruptions == asked.corruptions
    with pytest.raises(UnknownName, match="fog"):
        resolved(corruptions=["fog"])
    said = inside("audit", "--corruptions", "blur(severity=2), contrast", "--samples", 5, "--print-plan")
    assert tomllib.loads(said.out)["corruptions"][0] == "blur(severity=2)"
    said = inside("audit", "--corruptions", "none", "--samples", 5, "--print-plan")
    assert tomllib.loads(said.out)["corruptions"] == []


def test_vectors_have_none():
    images = budgets.Images((9,), None, 10)
    assert resolving._corruptions(plan.Plan(), images) == ()
    with pytest.raises(PlanError, match="blur: it is for images"):
        resolving._corruptions(plan.Plan(corruptions=("blur",)), images)


def test_an_audit_measures_them_on_undefended_models_and_no_worst_case_counts_them(finished, tmp_path):
    record = json.loads((finished / "report.json").read_text())["result"]
    base, warm = record["variants"]
    assert warm["corruptions"] is None
    found = base["corruptions"]
    assert [row["kind"] for row in found["rows"]] == list(KINDS)
    assert found["n"] == 8
    store = Store.open(finished)
    made = corruption_jobs(store.plan(), store.facts(), variants(store.plan())[0])
    assert [job.recipe["rows"] for job in made] == [[0, 4], [4, 8]]
    wrong = np.concatenate([store.get(job.id).arrays["wrong"] for job in made], 1)
    assert [row["accuracy"]["k"] for row in found["rows"]] == (1 - wrong).sum(1).round().astype(int).tolist()
    # Independently: the stored weights, the corruption, one forward.
    loaded = run_scene.of_run(finished)
    target = restoring.ready(loaded, store, made[0], made[0].needs[0])
    x, y = (torch.from_numpy(a[:8]) for a in (loaded.test.x, loaded.test.y))
    ids = torch.from_numpy(loaded.test.ids[:8].view(np.int64))
    target.model.eval()
    for i, kind in enumerate(KINDS):
        with torch.no_grad():
            decided = target.decide(target.logits(corrupt(x, ids, kind, 3, seed=0)))
        assert np.array_equal(decided != y, wrong[i] > 0.5), kind
    table = tomllib.loads(TINY) | {"corruptions": []}
    without, _ = runner.audit(reading.from_table(table), tmp_path / "without", executor="serial")
    assert without.variants[0].corruptions is None
    left = json.loads((tmp_path / "without" / "report.json").read_text())["result"]["variants"][0]
    assert left["threats"] == base["threats"]


def test_the_report_shows_them_in_a_section_of_their_own(finished):
    report = read(finished)
    found = report.result.variants[0].corruptions
    assert found is not None
    for form in ("md", "html", "terminal"):
        shown = str(render(report, form))
        assert "gaussian noise" in shown
        assert "JPEG" in shown
        assert "quality 40" in shown
    text = str(render(report, "md"))
    own = text[text.index("## Corruptions") :]
    own = own[: own.index("\n## ", 5)]
    assert "no robustness number counts them" in own
    assert all(row.setting in own for row in found.rows)
    assert "nobody looked for the worst" in text[text.index("## Limits") :]
