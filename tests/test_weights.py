import contextlib
import hashlib
import io
import json
import os
import pickle
import struct
import warnings
import zipfile

import joblib
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from actsec.errors import ModelError, NoVerdict, Unsafe
from actsec.loading import weights
from actsec.loading.fitting import check_finite, fit_weights
from actsec.loading.pickled import called
from actsec.loading.weights import read_weights


class Malice:
    """A pickle of this writes a file when it is opened."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def trap(tmp_path):
    return tmp_path / "EXECUTED"


def torchscript(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated, which is why it must still be recognised
        torch.jit.save(torch.jit.script(network().eval()), path)


def exported(path):
    torch.export.save(torch.export.export(network().eval(), (torch.zeros(2, 4),)), path)


# what is read ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pkl", "w"])
def test_safetensors_by_its_bytes_whatever_its_name(tmp_path, name):
    state = network().state_dict()
    save_file(state, tmp_path / name)
    read = read_weights(tmp_path / name)
    assert equal(read.tensors, state)
    assert (read.format, read.trusted, read.notes) == ("safetensors", False, ())


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.pkl"])
def test_torch_zip_by_its_bytes_whatever_its_name(tmp_path, name):
    state = network().state_dict()
    torch.save(state, tmp_path / name)
    read = read_weights(tmp_path / name)
    assert equal(read.tensors, state)
    assert (read.format, read.trusted) == ("torch", False)


def test_the_hash_is_of_the_file(tmp_path):
    save_file(network().state_dict(), tmp_path / "w")
    assert read_weights(tmp_path / "w").sha256 == hashlib.sha256((tmp_path / "w").read_bytes()).hexdigest()


def test_what_is_no_tensor_is_named(tmp_path):
    state = {"epoch": 3, "state_dict": network().state_dict(), "optimizer": {"state": {0: 1}, "param_groups": []}}
    torch.save(state, tmp_path / "w.pt")
    read = read_weights(tmp_path / "w.pt")
    assert all(key.startswith("state_dict.") for key in read.tensors)
    assert "epoch" in read.notes[0]
    assert "optimizer.state" in read.notes[0]


def test_one_part_of_a_checkpoint_is_chosen_by_name(tmp_path):
    a, b = network().state_dict(), {key: value + 1 for key, value in network().state_dict().items()}
    torch.save({"model": a, "ema": b}, tmp_path / "w.pt")
    assert equal(read_weights(f"{tmp_path / 'w.pt'}:ema").tensors, b)
    with pytest.raises(ModelError, match=r"nothing under 'emma'.*\n.*Did you mean 'ema'"):
        read_weights(f"{tmp_path / 'w.pt'}:emma")


def test_weights_saved_on_a_gpu_load_on_the_cpu(tmp_path, monkeypatch):
    state = network().state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:3")
        torch.save(state, tmp_path / "w.pt")
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(tmp_path / "w.pt", weights_only=True)  # the file does ask for a GPU
    read = read_weights(tmp_path / "w.pt")
    assert equal(read.tensors, state)
    assert {tensor.device.type for tensor in read.tensors.values()} == {"cpu"}


# what is refused ------------------------------------------------------------------------------------------------------


def raw_pickle(path, trap):
    path.write_bytes(pickle.dumps({"w": Malice(trap)}))


def ascii_pickle(path, trap):
    path.write_bytes(pickle.dumps({"w": Malice(trap)}, protocol=0))


def state_dict_with_a_bad_global(path, trap):
    torch.save({"w": torch.zeros(2), "x": Malice(trap)}, path)


def state_dict_with_a_new_protocol(path, trap):
    torch.save({"w": torch.zeros(2), "x": Malice(trap)}, path, pickle_protocol=4)


def legacy(path, trap):
    torch.save({"w": torch.zeros(2), "x": Malice(trap)}, path, _use_new_zipfile_serialization=False)


def joblib_plain(path, trap):
    joblib.dump({"w": Malice(trap)}, path)


def joblib_compressed(path, trap):
    joblib.dump({"w": Malice(trap)}, path, compress=3)


MALICIOUS = [
    raw_pickle,
    ascii_pickle,
    state_dict_with_a_bad_global,
    state_dict_with_a_new_protocol,
    legacy,
    joblib_plain,
    joblib_compressed,
]


@pytest.mark.parametrize("write", MALICIOUS)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_malicious_file_is_refused_and_not_executed(tmp_path, trap, monkeypatch, write, name):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    write(tmp_path / name, trap)
    with pytest.raises(Unsafe) as refusal:
        read_weights(tmp_path / name)
    assert not trap.exists()
    assert refusal.value.exit_code == 4
    assert "safetensors" in refusal.value.mend
    assert "--trust-model" in refusal.value.mend
    if write is not joblib_compressed:
        assert f"{os.mkdir.__module__}.mkdir" in refusal.value.problem


@pytest.mark.parametrize("write", MALICIOUS)
def test_the_traps_do_spring(tmp_path, trap, write):
    """The files above are what they are meant to be: opened with trust, they execute."""
    write(tmp_path / "w", trap)
    with contextlib.suppress(ModelError):  # some hold no tensors beside the trap
        read_weights(tmp_path / "w", trust=True)
    assert trap.exists()


def full_module(path):
    torch.save(network(), path)


def legacy_state_dict(path):
    torch.save(network().state_dict(), path, _use_new_zipfile_serialization=False)


def pickled_state_dict(path):
    path.write_bytes(pickle.dumps(network().state_dict()))


def joblib_state_dict(path):
    joblib.dump(network().state_dict(), path, compress=3)


PROGRAMS = [
    (full_module, "Sequential", "torch"),
    (torchscript, "TorchScript", "torchscript"),
    (exported, "exported program", "pt2"),
    (legacy_state_dict, "before 1.6", "legacy"),
    (pickled_state_dict, "a pickle", "pickle"),
    (joblib_state_dict, "joblib", "compressed"),
]


@pytest.mark.parametrize(("write", "said", "_kind"), PROGRAMS)
def test_programs_are_refused_by_kind(tmp_path, write, said, _kind):
    write(tmp_path / "w.pt")
    with pytest.raises(Unsafe, match=said):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(("write", "_said", "kind"), PROGRAMS)
@pytest.mark.filterwarnings("ignore:.*TorchScript.*:FutureWarning", "ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_programs_open_when_trusted_and_it_is_recorded(tmp_path, write, _said, kind):
    write(tmp_path / "w.pt")
    read = read_weights(tmp_path / "w.pt", trust=True)
    assert equal(read.tensors, network().state_dict())
    assert (read.format, read.trusted) == (kind, True)
    assert "executed code" in read.notes[0]


def test_a_pickle_that_the_safe_reader_cannot_follow_is_refused(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "w.pt", pickle_protocol=4)
    with pytest.raises(Unsafe, match="cannot follow"):
        read_weights(tmp_path / "w.pt")
    assert read_weights(tmp_path / "w.pt", trust=True).trusted


def test_trust_changes_nothing_for_a_safe_file(tmp_path):
    torch.save(network().state_dict(), tmp_path / "w.pt")
    read = read_weights(tmp_path / "w.pt", trust=True)
    assert (read.trusted, read.notes) == (False, ())


def test_an_older_torch_reads_safetensors_and_no_pickle(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_torch_version", lambda: (2, 9))
    torch.save(network().state_dict(), tmp_path / "w.pt")
    save_file(network().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(Unsafe, match=r"CVE-2026-24747.*\n.*torch 2.10"):
        read_weights(tmp_path / "w.pt")
    assert len(read_weights(tmp_path / "w.safetensors").tensors) == len(network().state_dict())


@pytest.mark.parametrize("address", ["https://x.org/w.pt", "s3://bucket/w", "hf://a/b"])
def test_addresses_are_refused(address):
    with pytest.raises(Unsafe, match="nothing is fetched"):
        read_weights(address)


@pytest.mark.parametrize("content", [b"\x89HDF\r\n\x1a\n" + bytes(80), b"hello, world", b"\x08\x07\x12\x07pytorch" * 9])
def test_unknown_kinds_are_refused_and_trust_does_not_help(tmp_path, content):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(Unsafe):
        read_weights(tmp_path / "w")
    with pytest.raises(ModelError):
        read_weights(tmp_path / "w", trust=True)


# what is damaged ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\x93NUMPY\x01\x00" + bytes(100), "NumPy array"),
    ],
)
def test_what_is_plainly_something_else_is_called_so(tmp_path, content, said):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ModelError, match=said):
        read_weights(tmp_path / "w")


def test_a_missing_file_and_its_neighbour(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"there is no weight file.*\n.*Did you mean .*weights\.safetensors"):
        read_weights(tmp_path / "weihgts.safetensors")
    with pytest.raises(ModelError, match="not a file"):
        read_weights(tmp_path)


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        header({"w": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}, bytes(4)),
        header({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(8)),
        header({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
        header({"w": {"dtype": "F32", "shape": [2**63], "data_offsets": [0, 0]}}),
        header({"w": {"dtype": "F32", "shape": [1]}}, bytes(4)),
        header({"w": 3}, bytes(4)),
        struct.pack("<Q", 8) + b"{" + bytes(40),
    ],
)
def test_safetensors_that_claim_more_than_they_hold_are_refused(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("save", [torch.save, save_file])
def test_files_cut_short(tmp_path, save, keep):
    save(network().state_dict(), tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "w").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ModelError, match="damaged"):
        read_weights(tmp_path / "w")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    torch.save({"w": torch.zeros(4)}, tmp_path / "small.pt")
    with zipfile.ZipFile(tmp_path / "small.pt") as small, zipfile.ZipFile(tmp_path / "w.pt", "w", 8) as bomb:
        for name in small.namelist():
            bomb.writestr(name, bytes(10**8) if name.endswith("data/0") else small.read(name))
    assert (tmp_path / "w.pt").stat().st_size < 10**6
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(ModelError, match="unpacks to 100,00"):
        read_weights(tmp_path / "w.pt")


def test_a_storage_that_claims_more_than_its_record_is_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(4)}, buffer)
    with zipfile.ZipFile(buffer) as small, zipfile.ZipFile(tmp_path / "w.pt", "w") as forged:
        for name in small.namelist():
            forged.writestr(name, small.read(name)[:4] if name.endswith("data/0") else small.read(name))
    with pytest.raises(ModelError, match="cannot be read"):
        read_weights(tmp_path / "w.pt")


def test_a_file_without_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="no named tensors"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_are_described_without_running_them(trap, protocol):
    names = called(pickle.dumps([Malice(trap), "text", ("text", Malice(trap))], protocol=protocol))
    assert f"{os.mkdir.__module__}.mkdir" in names
    assert not trap.exists()


def test_numbers_and_noise_are_no_pickles():
    assert called(b"") == []
    assert called(bytes(range(256)) * 9) == []


# into an architecture -------------------------------------------------------------------------------------------------


def nested(state, *, under="", prefix=""):
    return {f"{under}{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "net.", "module._orig_mod."])
@pytest.mark.parametrize("under", ["", "state_dict.", "model.", "model_state_dict.", "ema.", "net."])
def test_nesting_and_prefixes_are_found(under, prefix):
    source, into = network(), network()
    nn.init.ones_(into[0].weight)
    notes = fit_weights(into, nested(source.state_dict(), under=under, prefix=prefix))
    assert equal(into.state_dict(), source.state_dict())
    assert any((under + prefix).rstrip(".") in note for note in notes) == bool(under + prefix)


def test_weights_go_into_a_wrapped_architecture():
    wrapped = nn.Sequential()
    wrapped.add_module("inner", network())
    nn.init.ones_(wrapped.inner[0].weight)
    notes = fit_weights(wrapped, nested(network().state_dict(), under="state_dict."))
    assert equal(wrapped.inner.state_dict(), network().state_dict())
    assert any("'inner' of the architecture" in note for note in notes)


def test_weights_and_their_average_are_both_offered_and_none_is_chosen():
    state = network().state_dict()
    with pytest.raises(ModelError, match=r"2 sets of weights that fit: 'ema', 'model'\n.*--weights FILE:model"):
        fit_weights(network(), {**nested(state, under="model."), **nested(state, under="ema.")})


def test_only_the_part_that_fits_is_taken():
    state = network().state_dict()
    other = {"critic.0.weight": torch.zeros(9, 9), "critic.0.bias": torch.zeros(9)}
    into = network()
    notes = fit_weights(into, {**nested(state, under="actor."), **other})
    assert notes == ("weights were read from under 'actor'", "2 other tensors of the file were left unread")


def test_another_architecture_is_told_by_names_and_shapes():
    state = network().state_dict()
    state["3.weight"] = torch.zeros(7, 5)
    state["4.weight"] = state.pop("0.bias")
    into = network()
    before = {key: value.clone() for key, value in into.state_dict().items()}
    with pytest.raises(ModelError) as error:
        fit_weights(into, state)
    assert "1 missing: 0.bias" in error.value.problem
    assert "1 unexpected: 4.weight" in error.value.problem
    assert "3.weight is [7, 5] in the file and [3, 5] in the architecture" in error.value.problem
    assert equal(into.state_dict(), before)


def test_a_mismatch_is_told_for_the_nesting_that_comes_nearest():
    state = network().state_dict()
    state.pop("1.running_var")
    with pytest.raises(ModelError, match=r"read under 'state_dict.module'.*1 missing: 1\.running_var\n") as error:
        fit_weights(network(), nested(state, under="state_dict.", prefix="module."))
    assert "unexpected" not in error.value.problem.split("\n")[0]


def test_long_lists_are_cut():
    with pytest.raises(ModelError, match=r"16 missing: .* and 12 more"):
        fit_weights(nn.Sequential(*(nn.Linear(2, 2) for _ in range(8))), {"x": torch.zeros(1)})


def test_counters_of_old_batch_norms_may_be_missing():
    state = network().state_dict()
    state.pop("1.num_batches_tracked")
    assert fit_weights(network(), state) == ()


def test_tied_weights_may_be_stored_once():
    def tied():
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        model[2].weight = model[0].weight
        return model

    source, into = tied(), tied()
    state = source.state_dict()
    state.pop("2.weight")
    notes = fit_weights(into, state)
    assert equal(into.state_dict(), source.state_dict())
    assert notes == ("tied to a tensor of another name: 2.weight",)


def test_half_precision_is_noted():
    source = network()
    state = {key: value.half() if value.is_floating_point() else value for key, value in source.state_dict().items()}
    into = network()
    assert fit_weights(into, state) == ("8 tensors stored as float16 are computed in float32",)
    assert into[0].weight.dtype == torch.float32
    assert torch.equal(into[0].weight, source[0].weight.half().float())


@pytest.mark.parametrize("value", [torch.zeros(5, 4, dtype=torch.complex64), torch.zeros(5, 4).to_sparse()])
def test_odd_tensors_are_refused(value):
    with pytest.raises(ModelError, match="quantised, complex or sparse"):
        fit_weights(network(), {**network().state_dict(), "0.weight": value})


def test_nan_weights_are_no_verdict_and_named():
    model = network()
    with torch.no_grad():
        model[3].weight[0, 1] = float("nan")
    with pytest.raises(NoVerdict, match=r"weights contain NaN in 3\.weight: 1 of 15 values"):
        check_finite(model)
    model = network()
    with torch.no_grad():
        model[0].bias[2] = float("inf")
    with pytest.raises(NoVerdict, match=r"weights contain infinity in 0\.bias: 1 of 5"):
        check_finite(model)
    model = network()
    model[1].running_var[:] = float("nan")
    with pytest.raises(NoVerdict, match=r"buffers contain NaN in 1\.running_var: 5 of 5"):
        check_finite(model)


def test_a_mask_of_infinities_is_no_damage():
    model = network()
    model.register_buffer("mask", torch.full((3, 3), float("-inf")))
    check_finite(model)
    assert bool(model.mask.isinf().all())
