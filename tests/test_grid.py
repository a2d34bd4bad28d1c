"""What is found on whole-numbered data survives being saved: rounded, judged again, written, read, judged again."""

import numpy as np
import pytest
import torch
from attack_models import digits
from runs import inside

import actsec
from actsec import data, geometry
from actsec.data import from_arrays
from actsec.registry import build
from actsec.search.ledger import FOUND
from actsec.search.referee import attack_target, cases_of


@pytest.mark.parametrize(("grid", "kind"), [(255, np.uint8), (65535, np.uint16)])
def test_every_level_is_bit_for_bit_what_the_loader_makes_of_it(grid, kind):
    levels = np.arange(grid + 1, dtype=kind)
    loaded = torch.from_numpy(from_arrays(levels[:, None], np.zeros(grid + 1, dtype=int)).x)
    target, _, _ = digits()
    cases = cases_of(target, loaded, torch.zeros(grid + 1, dtype=torch.int64), "linf", 1.0)
    assert torch.equal(geometry.gridded(cases, loaded, grid), loaded)
    # A value beside a level goes to it, from either side.
    for away in (-0.4 / grid, 0.4 / grid):
        assert torch.equal(geometry.gridded(cases, (loaded + away).clamp(0, 1), grid), loaded)


def test_levels_of_a_stated_scale_too():
    levels = np.arange(17)
    loaded = torch.from_numpy(from_arrays(levels[:, None], np.zeros(17, dtype=int), scale=16).x)
    target, _, _ = digits()
    cases = cases_of(target, loaded, torch.zeros(17, dtype=torch.int64), "linf", 1.0)
    assert torch.equal(geometry.gridded(cases, loaded, 16), loaded)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.11), ("linf", 2 / 255), ("l2", 0.43), ("l2", 0.06)])
def test_rounding_never_leaves_the_ball(norm, eps):
    target, x, _ = digits()
    levels = (x * 255).round() / 255
    cases = cases_of(target, levels, torch.zeros(len(x), dtype=torch.int64), norm, eps)
    draw = torch.Generator().manual_seed(0)
    delta = (torch.rand(x.shape, generator=draw) * 2 - 1) * (eps if norm == "linf" else eps / 4)
    saved = geometry.gridded(cases, geometry.place(cases, delta), 255)
    assert (geometry.distance(saved, levels, norm) <= eps * (1 + 1e-6)).all()
    assert torch.equal((saved * 255).round() / 255, saved)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Digits as 8-bit images in a file, and what a loader makes of them."""
    _, x, y = digits()
    path = tmp_path_factory.mktemp("whole") / "digits.npz"
    np.savez(path, x=(x.numpy() * 255).round().astype(np.uint8), y=y.numpy())
    return data.load(str(path))


@pytest.mark.parametrize("spec", ["fgsm", "pgd(steps=5)", "minimal_l2(steps=20, refine=6)"])
def test_saved_images_reload_to_the_same_verdict(spec, whole, tmp_path):
    target, _, _ = digits()
    assert whole.grid == 255
    eps = None if spec.startswith("minimal") else 0.12
    outcome = actsec.attack(target, whole.x, whole.y, spec, eps=eps, grid=whole.grid)
    found = outcome.verdicts.status == FOUND
    held = outcome.verdicts.on_grid
    assert found.any()
    assert torch.equal(held >= 0, found)
    np.savez(tmp_path / "adv.npz", x=outcome.whole, y=whole.y)
    again = data.load(str(tmp_path / "adv.npz"))
    assert again.x.dtype == np.float32
    assert outcome.whole.dtype == np.uint8
    rounded = geometry.gridded(
        cases_of(target, torch.from_numpy(whole.x), torch.from_numpy(whole.y), "l2" if eps is None else "linf", eps),
        outcome.verdicts.x,
        255,
    )
    assert np.array_equal(again.x, rounded.numpy())
    wrong = target.decide(target.logits(torch.from_numpy(again.x))) != torch.from_numpy(again.y)
    assert torch.equal(wrong[found], held[found] == 1)
    judged = attack_target(
        build("attacks", "noise(draws=1)"),
        target,
        cases_of(target, torch.from_numpy(again.x), torch.from_numpy(again.y), "linf", 1e-6),
    )
    assert torch.equal((judged.status == 0)[found], held[found] == 1)


def test_the_sentence_says_how_many_hold(whole):
    target, _, _ = digits()
    outcome = actsec.attack(target, whole.x, whole.y, "pgd(steps=5)", eps=0.12, grid=255)
    held, found = int((outcome.verdicts.on_grid == 1).sum()), int(outcome.success.sum())
    assert f"{held} of {found} found still succeed as 8-bit images" in outcome.sentence
    assert "8-bit" not in actsec.attack(target, whole.x, whole.y, "fgsm", eps=0.12).sentence


def test_the_command_line_saves_whole_numbers_that_reload(tmp_path):
    _, x, y = digits()
    for name in ("train", "test"):
        np.savez(tmp_path / f"{name}.npz", x=(x.numpy() * 255).round().astype(np.uint8), y=y.numpy())
    out = tmp_path / "adv.npz"
    said = inside(
        "attack", "fgsm", "--model", "reference:mlp(width=[8])", "--activations", "relu", "--eps", "0.2",
        "--data", tmp_path / "test.npz", "--train", tmp_path / "train.npz", "--save-whole", out, "--samples", 20,
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "8-bit images" in said.out
    with np.load(out) as saved:
        assert saved["x"].dtype == np.uint8
        assert saved["success"].sum() == int(said.out.split("; ")[-1].split(" of ")[0])
    assert len(data.load(str(out))) == 20


def test_data_that_no_file_can_say_is_refused(tmp_path):
    said = inside("attack", "fgsm", "--model", "reference:mlp(width=[8])", "--save-whole", tmp_path / "a.npz")
    assert said.code == 2
    assert "--save-whole: digits holds whole numbers from 0 to 16" in said.err
