"""Where a mask says no, no attack changes anything: every candidate of every attack, and the report says so."""

import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from attack_models import digits
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_attacks import NAMES, attack_of, goal_of, subject, threats

import actsec
from actsec.data import from_arrays
from actsec.errors import DataError, Unsafe
from actsec.planning.jobs import jobs
from actsec.planning.plan import Plan
from actsec.planning.reading import from_table
from actsec.running import preparing, runner
from actsec.search import masks
from actsec.search.ledger import ALREADY_WRONG
from actsec.search.referee import attack_target, cases_of
from actsec.types import Proposer

LEFT = np.zeros((8, 8), dtype=bool)
LEFT[:, :4] = True


@pytest.mark.parametrize("name", NAMES)
def test_every_admissible_candidate_of_every_attack_keeps_the_mask(name):
    target, x, y = subject(name)
    attack = attack_of(name)
    if isinstance(attack, Proposer) or "transfer" in attack.roles or name == "replay":
        pytest.skip("proposes what others made")
    mask, seen = torch.from_numpy(masks.fitted(LEFT, (1, 8, 8))), []

    def note(index, ask, reply):
        touched = ((ask.x != x[index][:, None]) & ~mask).flatten(2).any(-1)
        assert not (touched & reply.inside).any()
        seen.append((int(reply.inside.sum()), int(touched.sum())))

    for norm, eps in threats(name):
        cases = masks.applied(cases_of(target, x[:8], y[:8], norm, eps), masks.fitted(LEFT, (1, 8, 8)))
        verdicts = attack_target(attack, target, cases, goal_of(attack), note=note)
        asked = verdicts.status != ALREADY_WRONG
        assert torch.equal(verdicts.x[..., 4:], x[:8][..., 4:])
        assert (verdicts.size[asked] > 0).any(), (name, norm)  # it moved what it may
    admitted, outside = (sum(column) for column in zip(*seen, strict=True))
    assert admitted > 0
    assert outside == 0, "an attack that knows the box proposes nothing outside it"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.booleans(), min_size=64, max_size=64).filter(any), st.sampled_from(["linf", "l2"]), st.integers(0, 99)
)
def test_any_mask_holds_for_any_attack_in_a_ball(bits, norm, seed):
    target, x, y = digits()
    mask = np.array(bits).reshape(8, 8)
    outcome = actsec.attack(target, x[:4], y[:4], "pgd(steps=2)", threat=f"{norm}:0.3", mask=mask, seed=seed)
    assert not (outcome.x != x[:4].numpy())[:, :, ~mask].any()


def test_no_mask_is_the_box_itself():
    target, x, y = digits()
    cases = cases_of(target, x[:3], y[:3], "linf", 0.1)
    assert masks.applied(cases, None) is cases
    whole = masks.applied(cases, np.ones((1, 8, 8), dtype=bool))
    assert float(whole.low.min()) == float(whole.low.max()) == 0.0
    assert float(whole.high.min()) == 1.0
    free = actsec.attack(target, x, y, "pgd(steps=5)", eps=0.1)
    all_free = actsec.attack(target, x, y, "pgd(steps=5)", eps=0.1, mask=np.ones((8, 8), dtype=bool))
    assert np.array_equal(free.x, all_free.x)


def test_a_mask_composes_with_a_box_of_each_row():
    target, x, y = digits()
    cases = cases_of(target, x[:3], y[:3], "linf", 0.1)
    own = replace(cases, low=(x[:3] - 0.02).clamp_min(0), high=(x[:3] + 0.02).clamp_max(1))
    both = masks.applied(own, masks.fitted(LEFT, (1, 8, 8)))
    assert torch.equal(both.low[..., :4], own.low[..., :4])
    assert torch.equal(both.low[..., 4:], x[:3][..., 4:])
    assert torch.equal(both.high[..., 4:], x[:3][..., 4:])


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8)])
@pytest.mark.parametrize("kind", ["npy", "npz", "png", "uint8"])
def test_every_file_says_the_same(tmp_path, kind, shape):
    path = tmp_path / f"mask.{'npy' if kind == 'uint8' else kind}"
    mask = LEFT.reshape(shape)
    if kind == "npz":
        np.savez(path, anything=mask)
    elif kind == "png":
        Image.fromarray((LEFT * 255).astype(np.uint8)).save(path)
    else:
        np.save(path, mask.astype(np.uint8) if kind == "uint8" else mask)
    found = masks.read(path, (1, 8, 8))
    assert np.array_equal(found[0], LEFT)
    assert masks.fingerprint(found) == masks.fingerprint(masks.fitted(LEFT, (1, 8, 8)))
    colour = masks.fitted(LEFT, (3, 8, 8))
    assert colour.shape == (3, 8, 8)
    assert np.array_equal(colour[2], LEFT)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((8, 8), dtype=bool), "nothing may change"),
        (np.ones((7, 8), dtype=bool), r"the inputs need \(1, 8, 8\) or \(8, 8\)"),
        (np.linspace(0, 1, 64).reshape(8, 8), "not black and white"),
    ],
)
def test_masks_that_say_nothing_are_refused(values, says, tmp_path):
    np.save(tmp_path / "m.npy", values)
    with pytest.raises(DataError, match=says) as problem:
        masks.read(tmp_path / "m.npy", (1, 8, 8))
    assert problem.value.mend


def test_files_that_are_no_masks_are_refused(tmp_path):
    (tmp_path / "m.png").write_text("no picture")
    np.savez(tmp_path / "two.npz", a=LEFT, b=LEFT)
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "short.npy").write_bytes((tmp_path / "objects.npy").read_bytes()[:9])
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(LEFT))
    for name, error, says in (
        ("m.png", DataError, "not an image that can be read"),
        ("none.png", DataError, "there is no mask"),
        ("none.npy", DataError, "there is no file"),
        ("two.npz", DataError, "2 arrays"),
        ("text.npy", DataError, "cannot be read"),
        ("short.npy", DataError, "cannot be read"),
        ("objects.npy", Unsafe, "Python objects"),
        ("pickle.npy", Unsafe, "is a pickle"),
    ):
        with pytest.raises(error, match=says) as problem:
            masks.read(tmp_path / name, (1, 8, 8))
        assert "allow_pickle" not in str(problem.value)


def test_a_mask_that_claims_more_than_it_holds_is_not_read(tmp_path):
    np.save(tmp_path / "m.npy", LEFT)
    content = (tmp_path / "m.npy").read_bytes().replace(b"(8, 8)", b"(9, 8)")
    (tmp_path / "m.npy").write_bytes(content)
    with pytest.raises(DataError, match="do not fill it"):
        masks.read(tmp_path / "m.npy", (1, 8, 8))
    (tmp_path / "m.npy").write_bytes(content.replace(b"(9, 8), }      ", b"(99999999999,)}"))
    with pytest.raises(DataError, match="GiB"):
        masks.read(tmp_path / "m.npy", (1, 8, 8))


def test_the_job_knows_the_mask_by_its_content(tmp_path):
    np.save(tmp_path / "a.npy", LEFT)
    np.savez(tmp_path / "b.npz", mask=LEFT)
    np.save(tmp_path / "c.npy", ~LEFT)
    plan = from_table({"model": "reference:mlp(width=[8])", "activations": ["relu"], "defenses": [], "samples": 4})
    made = {}
    for name in ("a.npy", "b.npz", "c.npy", None):
        prepared = preparing.prepare(plan.having(mask=None if name is None else str(tmp_path / name)))
        made[name] = {job.id for job in jobs(prepared.plan, prepared.facts) if job.kind == "attack"}
    assert made["a.npy"] == made["b.npz"]
    assert not made["a.npy"] & made["c.npy"]
    assert not made["a.npy"] & made[None]


def test_an_audit_keeps_the_mask_and_says_so(tmp_path):
    np.save(tmp_path / "mask.npy", LEFT)
    plan = from_table(
        {
            "model": "reference:mlp(width=[8])",
            "activations": ["relu"],
            "defenses": [],
            "samples": 6,
            "mask": str(tmp_path / "mask.npy"),
            "attacks": ["pgd(steps=3)", "minimal_l2(steps=5, refine=2)", "art/FastGradientMethod"],
        }
    )
    result, store = runner.audit(plan, tmp_path / "run", executor="serial")
    assert result.mask == "32 of 64 values may change, the others are masked"
    prepared = preparing.prepare(store.plan())
    clean, checked = prepared.scene.test.x[:6], 0
    for job in prepared.jobs:
        if job.kind == "attack":
            outcome = store.get(job.id)
            assert outcome is not None
            assert outcome.error is None, (job.label, outcome.error)
            assert np.array_equal(outcome.arrays["x"][..., 4:], clean[..., 4:]), job.label
            checked += 1
    assert checked > 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "A mask holds for every attack: 32 of 64" in (tmp_path / "run" / "report.html").read_text()


def test_whole_numbers_and_masks_go_together():
    target, x, y = digits()
    outcome = actsec.attack(target, x, y, "pgd(steps=10)", eps=0.3, mask=LEFT, grid=16)
    assert outcome.whole is not None
    again = from_arrays(outcome.whole, y.numpy(), scale=16).x
    assert np.array_equal(again[..., 4:], x.numpy()[..., 4:])
    assert Plan(mask="m.npy").mask == "m.npy"
