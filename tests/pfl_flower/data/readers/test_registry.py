import os
import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pfl_flower.data import DataError
from pfl_flower.data.readers.registry import OWN, OwnRequest, _natural_order, checked
from pfl_flower.utils.imports import ResolveError, resolve


def reader(kind, location, **options):
    return OWN[kind](OwnRequest(str(location), **options))


def arrays(count=5, shape=(2,), fill=0.0, splits=("train", "test")):
    made = {f"x_{split}": np.full((count, *shape), fill) for split in splits}
    return made | {f"y_{split}": np.arange(count) % 3 for split in splits}


@pytest.mark.parametrize(
    ("given_type", "expected"),
    [
        (np.float64, np.float32),
        (np.float16, np.float32),
        (np.int64, np.float32),
        (np.int8, np.float32),
        (np.bool_, np.float32),
        (np.uint8, np.uint8),
    ],
)
def test_inputs_become_float32_but_for_pixels(given_type, expected):
    given_arrays = arrays(shape=(1, 4, 4), fill=1)
    given_arrays |= {name: given_arrays[name].astype(given_type) for name in ("x_train", "x_test")}
    client = checked(given_arrays, "here")
    for inputs, _ in (client.train, client.test):
        assert inputs.dtype == expected
        assert np.array_equal(inputs, np.ones((5, 1, 4, 4)))


@pytest.mark.parametrize(
    ("targets", "kind"),
    [
        (np.array([0, 1, 2, 0, 1], np.uint8), "u"),
        (np.array([-1, 1, 2, 0, 1]), "i"),
        (np.array([0.5, 1, 2, 0, 1]), "f"),
        (np.array(["a", "b", "c", "a", "b"]), "U"),
        (np.array(["a", "b", "c", "a", "b"], dtype=object), "U"),
        (torch.tensor([0, 1, 2, 0, 1]), "i"),
        (np.array([True, False, True, True, True]), "i"),
        (np.zeros(5, int), "i"),  # one class
    ],
)
def test_targets_are_kept_and_booleans_become_integers(targets, kind):
    _, found = checked({"x_train": np.zeros((5, 2)), "y_train": targets}, "here").train
    assert found.dtype.kind == kind
    assert list(found) == np.asarray(targets).tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.zeros((4, 2))}, "x_train has 4 examples, but y_train 5"),
        ({"x_test": np.zeros((5, 3))}, r"of test has shape.*\(3,\).* of train has \(\(2,\)"),
        ({"x_test": np.zeros((5, 2), np.uint8)}, "'uint8'.*train has.*'float32'.*be the same"),
        ({"y_test": np.array(list("abcde"))}, "'strings'.*'integers'"),
        ({"x_train": np.array([[1, "a"]] * 5, dtype=object)}, "x_train holds Python objects.*unpi"),
        ({"y_train": np.array([1, "a", 2, 3, 4], dtype=object)}, "y_train holds Python objects"),
        ({"x_train": np.full((5, 2), "a")}, "x_train is of type <U1; it has to be of numbers"),
        ({"x_train": np.full((5, 2), 1j)}, "x_train is of type complex128"),
        ({"y_train": np.full(5, 1j)}, "y_train is of type complex128; targets are integers"),
        ({"x_train": np.zeros(5)}, r"x_train has shape \(5,\); it has to be \(examples, feat"),
        ({"x_train": np.zeros((5, 0))}, "at least one feature"),
        ({"x_train": [[1], [1, 2], [1], [1], [1]]}, "x_train is no array.*the same shape"),
        ({"y_train": np.zeros((5, 3))}, r"y_train has shape \(5, 3\).*argmax"),
        ({"y_train": np.array([0, 1, np.inf, 1, 1])}, r"y_train.*in 1 of 5 examples \(the first i"),
        ({"x_train": np.full((5, 2), 1e300)}, r"too large values in 5 of 5 .*the first is 0"),
        ({"x_train": np.full((5, 2), np.nan)}, r"here: x_train has missing \(NaN\)"),
        ({"x_train": np.zeros((0, 2)), "y_train": np.zeros(0, int)}, "has no train example"),
        ({"x_test": np.zeros((0, 2)), "y_test": np.zeros(0, int)}, "has no test example"),
        ({"y_test": None}, r"here has no y_test \(there: x_test, x_train, y_train\)"),
        ({"x_valid": np.zeros((5, 2))}, "here has x_valid.*x_val and y_val if there is"),
    ],
)
def test_bad_arrays_say_where_and_what_is_wrong(change, message):
    assert len(checked(arrays(), "here").train[1]) == 5
    with pytest.raises(DataError, match=message) as error:
        checked(arrays() | change, "here")
    assert str(error.value).startswith("here")


def test_columns_that_are_not_finite_are_named_with_how_many_values():
    x = np.array([[1, np.nan, 3], [1, np.inf, 3], [1, 2, -np.inf]])
    with pytest.raises(DataError, match=r"how many\): 'b' \(2\), 'c' \(1\);"):
        checked({"x_train": x, "y_train": [0, 1, 0]}, "here", columns=["a", "b", "c"])


def test_a_client_may_be_tiny_and_have_no_validation_examples():
    client = checked(arrays(3, splits=("train", "val")), "here")
    assert len(client.train[1]) == len(client.validation[1]) == 3
    assert client.test is None
    empty = arrays() | {"x_val": np.zeros((0, 2)), "y_val": np.zeros(0, int)}
    assert checked(empty, "here").validation[0].shape == (0, 2)


def test_clients_of_a_folder_are_numbered_in_natural_order(tmp_path):
    for name in ("site10", "site2", "Site1"):
        np.savez(tmp_path / f"{name}.npz", **arrays(fill=int(name[4:])))
    (tmp_path / "._site1.npz").write_bytes(b"of another system")
    (tmp_path / "notes.txt").write_text("not a client")
    data = reader("folder", tmp_path)
    assert data.count() == 3
    assert [data.load(i, 3).train[0][0, 0] for i in range(3)] == [1, 2, 10]
    for bad in (3, -1):
        with pytest.raises(DataError, match=rf"3 clients \(Site1.npz.*no client {bad}; use at mo"):
            data.load(bad, 4)


@given(st.lists(st.text("ab019.²٣", min_size=1), min_size=2, max_size=6, unique=True))
def test_any_names_have_one_order(tmp_path_factory, names):
    files = [tmp_path_factory.getbasetemp() / f"{name}.npz" for name in names]
    backwards = files[::-1]
    assert sorted(files, key=_natural_order) == sorted(backwards, key=_natural_order)


def test_the_only_file_of_a_folder_is_the_client_whatever_its_number(tmp_path):
    given_arrays = arrays(splits=("train", "val", "test")) | {"notes": np.array(["2024"])}
    np.savez_compressed(tmp_path / "hospital.npz", **given_arrays)
    client = reader("folder", tmp_path).load(7, 20)
    pairs = {"train": client.train, "val": client.validation, "test": client.test}
    for split, (inputs, targets) in pairs.items():
        assert np.array_equal(inputs, given_arrays[f"x_{split}"])
        assert np.array_equal(targets, given_arrays[f"y_{split}"])


def test_a_folder_without_clients_says_so(tmp_path):
    with pytest.raises(DataError, match=f"there is no folder {tmp_path}/nothing"):
        reader("folder", tmp_path / "nothing").count()
    with pytest.raises(DataError, match="has no .npz file; it has to have one of every client"):
        reader("folder", tmp_path).count()
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    with pytest.raises(DataError, match="like one of PFLlib's: convert it with python -m pfl_flo"):
        reader("folder", tmp_path).count()


def test_missing_arrays_are_named_and_so_is_what_is_there(tmp_path):
    np.savez(tmp_path / "0.npz", x_train=np.zeros((2, 2)), images=np.zeros(3))
    with pytest.raises(
        DataError,
        match=r"0.npz has no x_test, y_test, y_train \(there: images, x_train\); name the arrays",
    ):
        reader("folder", tmp_path).load(0, 1)


class Trap:
    def __reduce__(self):
        return (os.mkdir, (os.environ["TRAP"],))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    trap = np.empty((5, 2), dtype=object)
    trap[:] = Trap()
    np.savez(tmp_path / "0.npz", **arrays() | {"x_train": trap})
    with pytest.raises(
        DataError, match=r"0.npz holds Python objects.*pfl_flower.data.readers.pfllib"
    ):
        reader("folder", tmp_path).load(0, 1)
    (tmp_path / "0.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"0.npz cannot be read"):
        reader("folder", tmp_path).load(0, 1)
    np.savez(tmp_path / "0.npz", data={"x": 1, "y": 2})
    with pytest.raises(DataError, match="looks like one of PFLlib's: convert it with"):
        reader("folder", tmp_path).load(0, 1)
    assert not (tmp_path / "sprung").exists()


def test_damaged_files_say_so(tmp_path):
    file = tmp_path / "0.npz"
    np.savez_compressed(file, **arrays(fill=3.5, shape=(50,)))
    whole = file.read_bytes()
    assert reader("folder", tmp_path).load(0, 1).train[0].shape == (5, 50)
    middle = len(whole) // 4
    damaged = [
        whole[: len(whole) // 2],
        b"",
        b"PK",
        whole[:middle] + bytes(20) + whole[middle + 20 :],
    ]
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"0.npz cannot be read.*again with numpy.savez"):
            reader("folder", tmp_path).load(0, 1)
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(DataError, match="it is a single array"):
        reader("folder", tmp_path).load(0, 1)


CODE = """
import numpy as np, torch
SIZE = 3
def load(partition_id, num_partitions):
    return {"x_train": torch.full((SIZE, 2), partition_id / num_partitions, requires_grad=True),
            "y_train": torch.arange(SIZE), "x_val": None, "y_val": None}
def half(partition_id, num_partitions):
    return {"x_train": torch.ones(3, 2, dtype=torch.bfloat16), "y_train": [0, 1, 2],
            "x_test": np.ones((1, 2)), "y_test": np.ones(1, int)}
def nothing(partition_id, num_partitions): pass
def bad(partition_id, num_partitions): return {"x": 1}
def broken(partition_id, num_partitions): return 1 / partition_id
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A folder on Python's path with modules of a user's own."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in {
        "own_code": CODE,
        "own_typo": "def load(:",
        "own_needs": "import no_such_thing",
        "own_raises": "1 / 0",
    }.items():
        (tmp_path / f"{name}.py").write_text(code)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def test_a_function_makes_clients_of_tensors_or_arrays(module):
    data = reader("function", "own_code:load")
    assert data.count() is None
    client = data.load(1, 4)
    assert client.train[0].tolist() == [[0.25, 0.25]] * 3
    assert client.train[1].tolist() == [0, 1, 2]
    assert client.validation is client.test is None
    client = reader("function", "own_code:half").load(0, 1)
    assert client.train[0].dtype == np.float32
    assert client.test[0].shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_code:nothing", r"own_code:nothing\(0, 2\) returned a NoneType.*x_train and y_train"),
        ("own_code:bad", r"own_code:bad\(0, 2\) has no x_train, y_train \(there: x\); name the"),
        ("own_code:broken", r"own_code:broken\(0, 2\) failed with ZeroDivisionError: division"),
        ("own_code:laod", "has no 'laod'; did you mean 'own_code:load'"),
    ],
)
def test_functions_that_cannot_be_used_say_why(module, name, message):
    with pytest.raises(DataError, match=message):
        reader("function", name).load(0, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_code", "does not name a function: write module:function"),
        ("own_code.py:load:x", "does not name a function"),
        ("../own_code:load", "does not name a function"),
        (":load", "does not name a function"),
        ("own_code:", "does not name a function"),
        ("own_nowhere:load", "there is no module 'own_nowhere'; install it.*PYTHONPATH"),
        ("own_nowhere.deep:load", "there is no module 'own_nowhere'"),
        ("own_code.deep:load", "there is no module 'own_code.deep'"),
        ("own_code:missing", r"\(.*own_code.py\) has no 'missing'$"),
        ("own_code:SIZE", "'own_code:SIZE' is a int, which cannot be called"),
        ("own_typo:load", "importing module 'own_typo' failed with SyntaxError"),
        ("own_needs:load", "'own_needs' needs another one: No module named 'no_such_thing'"),
        ("own_raises:load", "importing module 'own_raises' failed with ZeroDivisionError"),
    ],
)
def test_texts_that_name_no_function_say_why(module, name, message):
    with pytest.raises(ResolveError, match=message):
        resolve(name)


def test_a_function_or_class_is_found_by_name(module):
    assert resolve("own_code:load").__name__ == "load"
    assert resolve(" collections:OrderedDict ")() == {}
