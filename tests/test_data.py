"""Data: what is recognised, what is refused, and what a sample or a split promises."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy
from PIL import Image

from actsec import data
from actsec.data import Dataset, check, disjoint, fingerprint, from_arrays, load, sample, split
from actsec.errors import BadOption, DataError, Unsafe

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 3, 5, 7), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
SHARED = Path(os.environ.get("ACTSEC_SHARED", Path(__file__).parents[2] / "shared"))


def saved(folder: Path, **arrays: np.ndarray) -> str:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return str(path)


def told(says: str, mends: str) -> str:
    """What an error must match that names in its first line what is wrong, and below how to mend it."""
    return rf"(?s)^[^\n]*{says}.*\n.*{mends}"


# What is recognised


@pytest.mark.parametrize(
    ("stored", "grid"),
    [
        (IMAGES, 255),
        (IMAGES.astype(np.uint16) * 257, 65535),
        ((IMAGES / 255).astype(np.float16), None),
        ((IMAGES / 255).astype(np.float32), None),
        (IMAGES / 255, None),
    ],
    ids=lambda a: str(getattr(a, "dtype", a)),
)
def test_npz_number_types_become_float32_in_0_1(tmp_path, stored, grid):
    got = load(saved(tmp_path, x=stored, y=LABELS))
    assert isinstance(got, Dataset)
    assert got.x.dtype == np.float32
    assert got.y.dtype == np.int64
    assert got.grid == grid
    np.testing.assert_array_equal(got.x, (IMAGES / 255).astype(stored.dtype if grid is None else "f4").astype("f4"))
    assert any("divided by" in note for note in got.notes) == (grid is not None)


def test_the_same_image_has_the_same_id_as_bytes_as_floats_and_under_another_label():
    doubles = from_arrays(IMAGES / 255, LABELS)
    np.testing.assert_array_equal(doubles.ids, from_arrays(IMAGES, LABELS[::-1]).ids)
    np.testing.assert_array_equal(doubles.ids, from_arrays(IMAGES.astype("i8"), LABELS, scale=255).ids)
    assert len(set(doubles.ids.tolist())) == len(doubles)


def test_channels_last_is_turned_and_said():
    turned = from_arrays(np.moveaxis(IMAGES, 1, 3), LABELS)
    np.testing.assert_array_equal(turned.x, from_arrays(IMAGES, LABELS).x)
    assert any("channels-last recognised" in note for note in turned.notes)
    assert not any("channels" in note for note in from_arrays(IMAGES, LABELS).notes)


def test_ambiguous_layout_is_left_and_a_stated_one_is_followed():
    square = RNG.random((4, 3, 8, 3)).astype("f4")
    assert from_arrays(square, np.arange(4)).x.shape == (4, 3, 8, 3)
    assert from_arrays(square, np.arange(4), layout="channels_last").x.shape == (4, 3, 3, 8)


def test_images_without_a_channel_axis_get_one_and_tables_stay_tables():
    grey = from_arrays(IMAGES[:, 0], LABELS)
    assert grey.x.shape == (6, 1, 5, 7)
    assert any("no channel axis" in note for note in grey.notes)
    assert from_arrays(IMAGES[:, 0], LABELS, layout="as_is").x.shape == (6, 5, 7)
    assert from_arrays(RNG.random((6, 4)), LABELS).x.shape == (6, 4)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i4", "u8", "f4", "f8", "?"])
def test_labels_of_any_whole_type(dtype):
    labels = np.array([0, 1, 1, 0, 1, 0]).astype(dtype)
    got = from_arrays(IMAGES, labels)
    np.testing.assert_array_equal(got.y, [0, 1, 1, 0, 1, 0])
    assert got.classes == ("0", "1")


def test_names_of_classes_come_from_the_file_or_the_caller(tmp_path):
    path = saved(tmp_path, x=IMAGES, y=LABELS, classes=np.array(["cat", "dog", "eel"]), extra=np.zeros(2))
    assert load(path).classes == ("cat", "dog", "eel")
    assert load(path, classes=["a", "b", "c"]).classes == ("a", "b", "c")
    assert "arrays left unread: extra" in load(path).notes


def test_scale_gives_the_grid_when_the_source_is_whole():
    assert from_arrays(IMAGES.astype("f8"), LABELS, scale=255).grid == 255
    assert from_arrays(IMAGES.astype("f8") + 0.25, LABELS, scale=256).grid is None


def test_digits_are_split_into_three_disjoint_stratified_parts():
    parts = load("digits")
    assert (len(parts.train), len(parts.calibration), len(parts.test)) == (988, 270, 539)
    assert disjoint(parts.train, parts.calibration, parts.test) == []
    for part in (parts.train, parts.calibration, parts.test):
        assert part.x.shape[1:] == (1, 8, 8)
        assert part.grid == 16
        np.testing.assert_array_equal(part.x * 16, np.rint(part.x * 16))
        counts = np.bincount(part.y, minlength=10)
        assert counts.max() - counts.min() <= max(3, 0.1 * counts.max())
    assert fingerprint(load("digits").test) == fingerprint(parts.test)
    assert fingerprint(load("digits", seed=1).test) != fingerprint(parts.test)


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no shared data")
def test_real_npz_files():
    test, train = (load(str(SHARED / "data" / f"mnist_{part}.npz")) for part in ("test_2k", "train_6k"))
    assert test.x.shape == (2000, 1, 28, 28)
    assert test.grid == 255
    assert disjoint(train, None, test) == []


# Image folders


def folder_of(root: Path, sizes: dict[str, list[tuple[int, int]]], mode: str = "RGB") -> Path:
    for name, each in sizes.items():
        (root / name).mkdir(parents=True)
        for at, (height, width) in enumerate(each):
            shape = (height, width, 3) if mode == "RGB" else (height, width)
            Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(root / name / f"{at}.png")
    return root


def test_image_folder_holds_the_pixels(tmp_path):
    root = folder_of(tmp_path / "photos", {"b": [(4, 6)] * 2, "a": [(4, 6)]})
    (root / "a" / "notes.txt").write_text("not an image")
    got = load(str(root))
    assert got.classes == ("a", "b")
    assert got.y.tolist() == [0, 1, 1]
    assert got.x.shape == (3, 3, 4, 6)
    assert got.grid == 255
    expected = np.asarray(Image.open(root / "b" / "1.png"))
    np.testing.assert_array_equal(np.rint(got.x[2] * 255), np.moveaxis(expected, 2, 0))
    assert any("1 files that are not images" in note for note in got.notes)


def test_grey_folder_has_one_channel_and_mixed_three(tmp_path):
    root = folder_of(tmp_path / "photos", {"a": [(4, 4)], "b": [(4, 4)]}, mode="L")
    assert load(str(root)).x.shape == (2, 1, 4, 4)
    Image.fromarray(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(root / "a" / "1.png")
    mixed = load(str(root))
    assert mixed.x.shape == (3, 3, 4, 4)
    assert any("2 grey images" in note for note in mixed.notes)


def test_stated_transform_equals_torchvision(tmp_path):
    transforms = pytest.importorskip("torchvision.transforms")
    root = folder_of(tmp_path / "photos", {"a": [(37, 53)], "b": [(64, 41)]})
    got = load(str(root), resize="resize=29,crop=22x26")
    theirs = transforms.Compose([transforms.Resize(29), transforms.CenterCrop((22, 26)), transforms.ToTensor()])
    for at, file in enumerate([root / "a" / "0.png", root / "b" / "0.png"]):
        np.testing.assert_array_equal(got.x[at], theirs(Image.open(file)).numpy())
    assert any("transformed by resize=29,crop=22x26" in note for note in got.notes)
    assert load(str(root), resize="resize=8x9").x.shape == (2, 3, 8, 9)


def test_image_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=told("2 sizes", "resize=")):
        load(str(folder_of(tmp_path / "sizes", {"a": [(4, 4)], "b": [(5, 4)]})))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=told("no class folders", "folder/class")):
        load(str(tmp_path / "none"))
    hollow = folder_of(tmp_path / "hollow", {"a": [(4, 4)], "b": []})
    with pytest.raises(DataError, match=told("holds no images", "one folder a class")):
        load(str(hollow))
    (hollow / "b" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=told("not an image", "Mend or remove")):
        load(str(hollow))
    good = folder_of(tmp_path / "good", {"a": [(40, 40)], "b": [(40, 40)]})
    whole = (good / "a" / "0.png").read_bytes()
    (good / "a" / "0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=told("cannot be decoded", "Mend or remove")):
        load(str(good))
    (good / "a" / "0.png").write_bytes(whole)
    with pytest.raises(BadOption, match=told("cannot be read at 'half'", "resize=256")):
        load(str(good), resize="half")
    with pytest.raises(DataError, match=told("cropped to 50x50", "Resize first")):
        load(str(good), resize="crop=50")
    with pytest.raises(DataError, match=told("GiB", "limit")):
        load(str(good), limit=100)
    with pytest.raises(DataError, match=told("differ in b, c", "Name every folder")):
        load(str(good), classes=["a", "c"])


# Factories

FACTORY = """
import numpy as np, torch
from actsec.data import load

class Pairs(torch.utils.data.Dataset):
    classes = ["even", "odd"]
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i): return torch.full((1, 2, 2), i / 10), i % 2

def make(n=4): return Pairs(n)
def both(): return load("digits")
def ragged(): return [(np.zeros(2), 0), (np.zeros(3), 1)]
def stream(): return iter([])
def nothing(): return []
def singles(): return [1, 2]
def fails(): raise RuntimeError("the disk is gone")
"""


def test_factory_gives_a_torch_data_set_with_options(tmp_path):
    (tmp_path / "own.py").write_text(FACTORY)
    got = load(f"{tmp_path}/own.py:make(n=5)")
    np.testing.assert_allclose(got.x[:, 0, 0, 0], np.arange(5) / 10)
    assert got.y.tolist() == [0, 1, 0, 1, 0]
    assert got.classes == ("even", "odd")
    assert len(load(f"{tmp_path}/own.py:both").test) == 539


@pytest.mark.parametrize(
    ("call", "says", "mends"),
    [
        ("ragged", "item 1 .* is float64", "resize"),
        ("stream", "no length", "torch Dataset"),
        ("nothing", "no examples", "at least one"),
        ("singles", "item 0 .* not a pair", "sequence of"),
        ("fails", "the disk is gone", "Mend"),
        ("makes", "no function 'makes'", "Did you mean 'make'"),
        ("make(m=3)", "unexpected keyword", "Mend"),
    ],
)
def test_factories_that_fail(tmp_path, call, says, mends):
    (tmp_path / "own.py").write_text(FACTORY)
    with pytest.raises(DataError, match=told(says, mends)):
        load(f"{tmp_path}/own.py:{call}")


def test_factory_file_missing_or_broken(tmp_path):
    with pytest.raises(DataError, match=told("no file", "FILE.py:FUNCTION")):
        load(f"{tmp_path}/none.py:make")
    (tmp_path / "broken.py").write_text("import no_such_module")
    with pytest.raises(DataError, match=told("no_such_module", "Mend the file")):
        load(f"{tmp_path}/broken.py:make")


# What is refused


@pytest.mark.parametrize(
    ("x", "y", "options", "says", "mends"),
    [
        (IMAGES, LABELS[:5], {}, "6 rows and y has 5", "one label"),
        (IMAGES[:0], LABELS[:0], {}, "empty", "at least one"),
        (IMAGES, LABELS - 1, {}, "label -1 at row 0", "0 to"),
        (IMAGES, LABELS, {"n_classes": 2}, "label 2 at row 2 is outside 0..1", "0 to 1"),
        (IMAGES, LABELS + 1, {"n_classes": 3}, "label 3", "store y - 1"),
        (IMAGES, LABELS, {"classes": ["a", "b", "c"], "n_classes": 4}, "3 class names", "one name"),
        (IMAGES, LABELS + 0.5, {}, "regression", "classifiers"),
        (IMAGES, np.eye(6), {}, "one-hot", "argmax"),
        (IMAGES, np.array(list("abcabc")), {}, "type <U1", "class numbers"),
        (np.where(IMAGES > 250, np.nan, 0.5), LABELS, {}, "nan or infinity", "mend them"),
        (IMAGES.astype("f4"), LABELS, {}, "0-255 images", "Divide x by 255"),
        (IMAGES / 127.5 - 1, LABELS, {}, r"spans \[-1, ", "--normalize"),
        (IMAGES / 255, LABELS, {"bounds": (0.2, 0.8)}, "outside", "bounds"),
        (IMAGES.astype("i8"), LABELS, {}, "type int64", "scale"),
        (IMAGES, LABELS, {"limit": 1000}, "GiB, the limit", "raise limit"),
        (np.zeros(6), LABELS, {}, "one row per example", r"\(n, ...\)"),
        (np.zeros((6, 2), dtype="c8"), LABELS, {}, "type complex64", "uint8"),
    ],
)
def test_arrays_that_do_not_fit(x, y, options, says, mends):
    with pytest.raises(DataError, match=told(says, mends)):
        from_arrays(x, y, **options)


def test_stated_bounds_admit_other_ranges():
    assert from_arrays(IMAGES / 127.5 - 1, LABELS, bounds=(-1, 1)).bounds == (-1, 1)
    with pytest.raises(BadOption, match=told("not a range", "smaller first")):
        from_arrays(IMAGES, LABELS, bounds=(1, 0))


def test_missing_files_name_the_nearest(tmp_path):
    saved(tmp_path, x=IMAGES, y=LABELS)
    with pytest.raises(DataError, match=told("no file", r"Did you mean .*data\.npz")):
        load(str(tmp_path / "dta.npz"))
    with pytest.raises(DataError, match=told("no file", "does not exist either")):
        load(str(tmp_path / "nowhere" / "data.npz"))
    with pytest.raises(DataError, match=told("'digit'", "Did you mean 'digits'")):
        load("digit")
    (tmp_path / "data.parquet").write_text("1,2")
    with pytest.raises(DataError, match=told("'data.parquet'|data.parquet", "reads digits")):
        load(str(tmp_path / "data.parquet"))
    with pytest.raises(BadOption, match=told("for image folders", "Leave resize out")):
        load("digits", resize="resize=4")


def test_wrong_keys_list_what_is_there(tmp_path):
    with pytest.raises(
        DataError, match=told("no array 'x'; it has: images, labels", r"Did you mean 'images'\? .*x=data\['images'\]")
    ):
        load(saved(tmp_path, images=IMAGES, labels=LABELS))
    with pytest.raises(DataError, match=told("no array 'y'; it has: x", "np.savez")):
        load(saved(tmp_path, x=IMAGES))


@pytest.mark.parametrize("keep", [0, 1, 3, 40, 0.3, 0.7, 0.999])
def test_truncated_npz(tmp_path, keep):
    path = Path(saved(tmp_path, x=IMAGES, y=LABELS))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=r"np\.savez"):
        load(str(path))


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 10**6), value=st.integers(0, 255))
def test_one_damaged_byte_never_ends_in_another_error(tmp_path_factory, at, value):
    path = tmp_path_factory.mktemp("npz") / "data.npz"
    np.savez_compressed(path, x=IMAGES, y=LABELS)
    whole = bytearray(path.read_bytes())
    changed = whole[at % len(whole)] != value
    whole[at % len(whole)] = value
    path.write_bytes(whole)
    try:
        got = load(str(path))
    except (DataError, Unsafe):
        assert changed
    else:  # only bytes that carry no data, such as dates, can change without notice: contents are under a CRC
        np.testing.assert_array_equal(got.x, from_arrays(IMAGES, LABELS).x)


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def test_nothing_is_ever_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    boxed = np.array([Bomb()] * 6, dtype=object)
    objects = saved(tmp_path, x=boxed, y=LABELS)
    with pytest.raises(Unsafe, match=told("Python objects", "as numbers")):
        load(objects)
    with pytest.raises(Unsafe, match=told("Python objects", "as numbers")):
        from_arrays(boxed, LABELS)
    for name in ("a.npz", "a.pkl", "a.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(Unsafe, match=told("pickle", "np.savez")):
            load(str(tmp_path / name))
    with zipfile.ZipFile(tmp_path / "torch.npz", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    with pytest.raises(Unsafe, match=told("PyTorch", "np.savez")):
        load(str(tmp_path / "torch.npz"))
    assert not (tmp_path / "executed").exists()
    assert Unsafe.exit_code == 4


def header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    out = io.BytesIO()
    npy.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()


def test_declared_sizes_are_checked_before_anything_is_allocated(tmp_path):
    path = tmp_path / "bomb.npz"
    for content, says in [
        (header((10**12, 10**3)), "GiB, the limit"),
        (header((10**4, 10)), "does not fill"),
        (header((2, 10)) + bytes(10**6), "does not fill"),
        (npy.magic(1, 0) + b"\x10\x00" + b"{'descr': ((((  ", "cannot be read"),
    ]:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", content)
            archive.writestr("y.npy", header((2,), "<i8") + bytes(16))
        with pytest.raises(DataError, match=says):
            load(str(path))
    zeros = tmp_path / "zeros.npz"
    np.savez_compressed(zeros, x=np.zeros((10**6, 8), np.uint8), y=np.zeros(10**6, np.int8))
    assert zeros.stat().st_size < 10**5
    with pytest.raises(DataError, match="the limit is"):
        load(str(zeros), limit=10**6)


def test_single_arrays_and_other_files_are_named(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    with pytest.raises(DataError, match=told("single array", "np.savez")):
        load(str(tmp_path / "x.npy"))
    (tmp_path / "x.npz").write_bytes(b"hello world")
    with pytest.raises(DataError, match=told("not an .npz file", "np.savez")):
        load(str(tmp_path / "x.npz"))


def test_check_against_a_model():
    three = from_arrays(IMAGES, LABELS)
    check(three, 3, (3, 5, 7))
    check(three, 10)
    with pytest.raises(DataError, match=told("label 2", "0 to 1")):
        check(three, 2)
    with pytest.raises(DataError, match=told(r"shape \(3, 5, 7\), the model takes \(3, 32, 32\)", "resize")):
        check(three, 3, (3, 32, 32))


def test_reading_data_imports_no_torch(tmp_path):
    path = saved(tmp_path, x=IMAGES, y=LABELS)
    reads = f"data.load({path!r}); data.load('digits')"
    code = f"import sys; from actsec import data; {reads}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# Samples and splits


def table(labels: list[int], contents: list[int] | None = None) -> Dataset:
    rows = np.array(contents if contents is not None else range(len(labels)), dtype=np.float64)
    return from_arrays(rows[:, None] / 2**20, np.array(labels), n_classes=6)


LABEL_LISTS = st.lists(st.integers(0, 5), min_size=1, max_size=80)


@settings(max_examples=150, deadline=None)
@given(labels=LABEL_LISTS, seed=st.integers(0, 9), data_=st.data())
def test_samples_are_nested_without_repeats_and_independent_of_file_order(labels, seed, data_):
    whole = table(labels)
    n = data_.draw(st.integers(1, len(labels)))
    small, large = sample(whole, n, seed), sample(whole, len(labels), seed)
    assert len(set(small.ids.tolist())) == len(small) == n
    np.testing.assert_array_equal(small.ids, large.ids[:n])
    shuffled = whole.take(data_.draw(st.permutations(range(len(labels)))))
    np.testing.assert_array_equal(sample(shuffled, n, seed).ids, small.ids)


@settings(max_examples=150, deadline=None)
@given(counts=st.lists(st.integers(1, 40), min_size=2, max_size=6), share=st.floats(0.02, 1), seed=st.integers(0, 5))
def test_samples_are_proportional(counts, share, seed):
    """Systematic sampling: at cut t a class has within one of m t, so at size n within one of its quota and the shift
    that the other classes' rounding makes, at most one for each of them."""
    whole = table([label for label, count in enumerate(counts) for _ in range(count)])
    n = max(1, round(share * len(whole)))
    got = Counter(sample(whole, n, seed).y.tolist())
    for label, count in enumerate(counts):
        quota = n * count / len(whole)
        assert abs(got[label] - quota) <= 1 + len(counts) * count / len(whole)


def test_equal_classes_give_equal_counts():
    whole = table([label for label in range(6) for _ in range(50)])
    assert set(np.bincount(sample(whole, 60, 3).y)) == {10}


def test_every_example_is_as_likely():
    whole = table([0] * 5 + [1] * 15)
    hits = np.zeros(20)
    for seed in range(2000):
        chosen = sample(whole, 4, seed)
        hits[np.isin(whole.ids, chosen.ids)] += 1
    # 20 binomials (2000, 0.2): five standard deviations are 90
    assert np.abs(hits - 400).max() < 90


def test_per_class_takes_as_many_of_each_and_refuses_when_it_cannot():
    whole = table([0] * 5 + [1] * 9 + [2] * 7 + [3] * 5 + [4] * 6 + [5] * 8)
    small, large = sample(whole, per_class=2, seed=1), sample(whole, per_class=4, seed=1)
    assert np.bincount(large.y).tolist() == [4] * 6
    np.testing.assert_array_equal(small.ids, large.ids[:12])
    with pytest.raises(DataError, match=told("class '0' has 5", "per_class=5")):
        sample(whole, per_class=6)
    with pytest.raises(BadOption, match=told("either n or per_class", "not both")):
        sample(whole, 3, per_class=3)
    with pytest.raises(BadOption, match=told("empty", "at least 1")):
        sample(whole, 0)


def test_asking_for_too_many_takes_all_and_says_so():
    got = sample(table([0, 1, 2]), 10)
    assert len(got) == 3
    assert "10 samples asked for, 3 exist: all are used" in got.notes


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), min_size=1, max_size=80),
    parts=st.lists(st.integers(1, 10), min_size=1, max_size=4),
    seed=st.integers(0, 9),
)
def test_splits_are_disjoint_in_content_and_complete(rows, parts, seed):
    whole = table([label for label, _ in rows], [content for _, content in rows])
    fractions = [part / sum(parts) for part in parts]
    try:
        got = split(whole, fractions, seed)
    except DataError:
        # a part is empty only when its share rounds to nothing
        assert len(set(whole.ids.tolist())) * min(fractions) < 1
        return
    for at, one in enumerate(got):
        for other in got[at + 1 :]:
            assert disjoint(one, None, other) == []
    pieces = Counter((int(i), int(y)) for part in got for i, y in zip(part.ids, part.y, strict=True))
    assert pieces == Counter((int(i), int(y)) for i, y in zip(whole.ids, whole.y, strict=True))


def test_split_sizes_follow_the_fractions():
    sizes = [len(part) for part in split(table([0, 1, 2, 3] * 25), (0.5, 0.2, 0.3), 0)]
    assert sizes == [50, 20, 30]
    with pytest.raises(BadOption, match=told("do not split", "sum to 1")):
        split(table([0, 1]), (0.5, 0.6))


def test_overlaps_are_found_whatever_the_label():
    train, test = table([0, 1, 2], [7, 8, 9]), table([3, 4, 5], [1, 9, 7])
    (found,) = disjoint(train, None, test)
    assert (found.first, found.second) == ("train", "test")
    assert found.rows == ((0, 2), (2, 1))


def test_fingerprint_sees_every_change():
    base = table([0, 1, 2, 3])
    changed = [
        base.take([0, 1, 2]),
        base.take([1, 0, 2, 3]),
        table([0, 1, 2, 4]),
        table([0, 1, 2, 3], [0, 1, 2, 4]),
        from_arrays(base.x.reshape(2, 2), np.array([0, 1])),
    ]
    assert len({fingerprint(each) for each in [base, *changed]}) == 6
    assert fingerprint(table([0, 1, 2, 3])) == fingerprint(base)


def test_public_names_exist():
    assert all(hasattr(data, name) for name in data.__all__)
