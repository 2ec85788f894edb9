import os
import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clients.natural_order import in_natural_order
from pfl_flower.data import DataError, DataSettings, Federation
from pfl_flower.data.readers.registry import CONVERTER, OWN, OwnRequest, checked
from pfl_flower.utils.imports import ResolveError, resolve


def reader(kind, location, **options):
    return OWN[kind](OwnRequest(str(location), **options))


def arrays(count=5, shape=(2,), fill=0.0, splits=("train", "test")):
    made = {f"x_{split}": np.full((count, *shape), fill) for split in splits}
    return made | {f"y_{split}": np.arange(count) % 3 for split in splits}


@pytest.mark.parametrize(
    ("shape", "wanted"), [((2,), (5, 2)), ((4, 3), (5, 1, 4, 3)), ((2, 4, 3), (5, 2, 4, 3))]
)
def test_bytes_are_pixels_where_they_are_pictures_and_numbers_elsewhere(shape, wanted):
    given = {"x_train": np.full((5, *shape), 2, np.uint8), "y_train": np.arange(5)}
    inputs, _ = checked(given, "here").train
    assert inputs.shape == wanted
    assert inputs.dtype == (np.int64 if len(shape) == 1 else np.uint8)
    assert (inputs == 2).all()


def test_targets_may_be_a_column():
    given = {"x_train": np.zeros((3, 2)), "y_train": np.array([[0], [1], [1]])}
    assert checked(given, "here").train[1].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("given_type", "expected"),
    [
        (np.float64, np.float32),
        (np.float16, np.float32),
        (np.int64, np.int64),
        (np.int8, np.int64),
        (np.uint32, np.int64),
        (np.uint64, np.float32),
        (np.bool_, np.float32),
        (np.uint8, np.uint8),
    ],
)
def test_inputs_become_float32_but_for_integers_and_pixels(given_type, expected):
    given_arrays = arrays(shape=(1, 4, 4), fill=1)
    given_arrays |= {name: given_arrays[name].astype(given_type) for name in ("x_train", "x_test")}
    client = checked(given_arrays, "here")
    for inputs, _ in (client.train, client.test):
        assert inputs.dtype == expected
        assert np.array_equal(inputs, np.ones((5, 1, 4, 4)))


def test_integers_of_one_split_become_floats_where_another_has_floats():
    given = arrays(fill=1.0) | {"x_train": np.full((5, 2), 3)}
    client = checked(given, "here")
    assert [part[0].dtype for part in (client.train, client.test)] == [np.float32, np.float32]


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
    ("change", "key", "value"),
    [
        ({"x_train": np.zeros((4, 2))}, "y_train", 5),
        ({"x_test": np.zeros((5, 3))}, "x_test, y_test", ((3,), "float32", "integers")),
        ({"y_train": np.eye(5, dtype=int)}, "y_train", (5, 5)),
        ({"y_train": np.ones((5, 2))}, "y_train", (5, 2)),
        ({"y_test": np.array(list("abcde"))}, "x_test, y_test", ((2,), "float32", "strings")),
        ({"x_train": np.array([[1, "a"]] * 5, dtype=object)}, "x_train", np.dtype(object)),
        ({"y_train": np.array([1, "a", 2, 3, 4], dtype=object)}, "y_train", np.dtype(object)),
        ({"x_train": np.full((5, 2), "a")}, "x_train", np.dtype("<U1")),
        ({"x_train": np.full((5, 2), 1j)}, "x_train", np.dtype(complex)),
        ({"y_train": np.full(5, 1j)}, "y_train", np.dtype(complex)),
        ({"x_train": np.zeros(5)}, "x_train", (5,)),
        ({"x_train": np.zeros((5, 0))}, "x_train", (5, 0)),
        ({"x_train": [[1], [1, 2], [1], [1], [1]]}, "x_train", None),
        ({"y_train": np.zeros((5, 3))}, "y_train", (5, 3)),
        ({"y_train": np.array([0, 1, np.inf, 1, 1])}, "y_train", [2]),
        ({"x_train": np.full((5, 2), 1e300)}, "x_train", [0, 1, 2, 3, 4]),
        ({"x_train": np.full((5, 2), np.nan)}, "x_train", [0, 1, 2, 3, 4]),
        ({"x_train": np.zeros((0, 2)), "y_train": np.zeros(0, int)}, "x_train", 0),
        ({"x_test": np.zeros((0, 2)), "y_test": np.zeros(0, int)}, "x_test", 0),
        ({"y_test": None}, "y_test", None),
        ({"x_valid": np.zeros((5, 2))}, "x_valid", None),
    ],
)
def test_bad_arrays_say_where_and_what_is_wrong(change, key, value):
    assert len(checked(arrays(), "here").train[1]) == 5
    with pytest.raises(DataError) as error:
        checked(arrays() | change, "here")
    assert (error.value.key, error.value.value) == (key, value)
    assert str(error.value).startswith("here")


def test_arrays_that_are_missing_come_with_those_that_are_there():
    with pytest.raises(DataError) as error:
        checked(arrays() | {"y_test": None}, "here")
    assert error.value.choices == ("x_test", "x_train", "y_train")


def test_columns_that_are_not_finite_are_named_with_how_many_values():
    x = np.array([[1, np.nan, 3], [1, np.inf, 3], [1, 2, -np.inf]])
    with pytest.raises(DataError) as error:
        checked({"x_train": x, "y_train": [0, 1, 0]}, "here", columns=["a", "b", "c"])
    assert (error.value.key, error.value.value) == ("x_train", {"b": 2, "c": 1})


def test_a_client_may_be_tiny_and_have_no_validation_examples():
    client = checked(arrays(3, splits=("train", "val")), "here")
    assert len(client.train[1]) == len(client.validation[1]) == 3
    assert client.test is None
    empty = arrays() | {"x_val": np.zeros((0, 2)), "y_val": np.zeros(0, int)}
    assert checked(empty, "here").validation[0].shape == (0, 2)


def test_clients_of_a_folder_are_numbered_in_natural_order(tmp_path):
    for name in ("clinic10", "clinic2", "Clinic1"):
        np.savez(tmp_path / f"{name}.npz", **arrays(fill=int(name[6:])))
    (tmp_path / "._clinic1.npz").write_bytes(b"of another system")
    (tmp_path / "notes.txt").write_text("not a client")
    data = reader("folder", tmp_path)
    assert data.count() == 3
    assert [data.load(i, 3).train[0][0, 0] for i in range(3)] == [1, 2, 10]
    for bad in (3, -1):
        with pytest.raises(DataError) as error:
            data.load(bad, 4)
        assert (error.value.client, error.value.path) == (bad, str(tmp_path))
        assert error.value.choices == ("Clinic1.npz", "clinic2.npz", "clinic10.npz")


@given(st.lists(st.text("ab019.²٣", min_size=1), min_size=2, max_size=6, unique=True))
def test_any_names_have_one_order(names):
    assert in_natural_order(names) == in_natural_order(names[::-1])


def test_a_file_that_is_not_split_is_split_by_the_fractions(tmp_path):
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    np.savez(tmp_path / "0.npz", x_train=x, y_train=y)
    np.savez(tmp_path / "1.npz", x_train=x[:10], y_train=y[:10], x_test=x[10:], y_test=y[10:])
    federation = Federation(DataSettings(dataset=f"folder:{tmp_path}", test_fraction=0.2), 2)
    parts = [federation.clients.load(client) for client in range(2)]
    assert [len(part.test[1]) for part in parts] == [4, 10]
    rows = np.concatenate([x for x, _ in (parts[0].train, parts[0].validation, parts[0].test)])
    assert sorted(rows[:, 0]) == x[:, 0].tolist()  # each once


def test_the_only_file_of_a_folder_is_the_client_whatever_its_number(tmp_path):
    given_arrays = arrays(splits=("train", "val", "test")) | {"notes": np.array(["2024"])}
    np.savez_compressed(tmp_path / "hospital.npz", **given_arrays)
    client = reader("folder", tmp_path).load(7, 20)
    pairs = {"train": client.train, "val": client.validation, "test": client.test}
    for split, (inputs, targets) in pairs.items():
        assert np.array_equal(inputs, given_arrays[f"x_{split}"])
        assert np.array_equal(targets, given_arrays[f"y_{split}"])


def test_a_folder_without_clients_says_so(tmp_path):
    with pytest.raises(DataError) as error:
        reader("folder", tmp_path / "nothing").count()
    assert error.value.path == f"{tmp_path}/nothing"
    with pytest.raises(DataError) as error:
        reader("folder", tmp_path).count()
    assert (error.value.path, error.value.choices) == (str(tmp_path), ())
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    with pytest.raises(DataError) as error:
        reader("folder", tmp_path).count()
    assert (error.value.path, error.value.choices) == (str(tmp_path), (CONVERTER,))


def test_missing_arrays_are_named_and_so_is_what_is_there(tmp_path):
    np.savez(tmp_path / "0.npz", x_train=np.zeros((2, 2)), images=np.zeros(3))
    with pytest.raises(DataError) as error:
        reader("folder", tmp_path).load(0, 1)
    assert (error.value.key, error.value.choices) == (
        "y_train",
        ("images", "x_train"),
    )
    assert (error.value.client, error.value.path) == (0, str(tmp_path / "0.npz"))


class Trap:
    def __reduce__(self):
        return (os.mkdir, (os.environ["TRAP"],))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    trap = np.empty((5, 2), dtype=object)
    trap[:] = Trap()
    np.savez(tmp_path / "0.npz", **arrays() | {"x_train": trap})
    with pytest.raises(DataError) as error:
        reader("folder", tmp_path).load(0, 1)
    assert (error.value.key, error.value.value) == ("dtype", "object")
    assert (error.value.path, error.value.choices) == (str(tmp_path / "0.npz"), (CONVERTER,))
    (tmp_path / "0.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError) as error:
        reader("folder", tmp_path).load(0, 1)
    assert (error.value.key, error.value.path) == (None, str(tmp_path / "0.npz"))
    assert isinstance(error.value.__cause__, ValueError)
    np.savez(tmp_path / "0.npz", data={"x": 1, "y": 2})
    with pytest.raises(DataError) as error:
        reader("folder", tmp_path).load(0, 1)
    assert (error.value.key, error.value.choices) == ("data", (CONVERTER,))
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
        with pytest.raises(DataError, match="numpy.savez") as error:
            reader("folder", tmp_path).load(0, 1)
        assert (error.value.key, error.value.path) == (None, str(file))
        assert error.value.value == str(error.value.__cause__)
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(DataError) as error:
        reader("folder", tmp_path).load(0, 1)
    assert (error.value.value, error.value.path) == ("it is a single array", str(file))


CODE = """
import numpy as np, torch
SIZE = 3
def load(partition_id, num_partitions):
    return {"x_train": torch.full((SIZE, 2), partition_id / num_partitions, requires_grad=True),
            "y_train": torch.arange(SIZE), "x_val": None, "y_val": None}
def half(partition_id, num_partitions):
    return {"x_train": torch.ones(3, 2, dtype=torch.bfloat16), "y_train": [0, 1, 2],
            "x_test": np.ones((1, 2)), "y_test": np.ones(1, int)}
def drawn(partition_id, num_partitions, seed):
    return {"x_train": np.full((SIZE, 2), float(seed)), "y_train": np.arange(SIZE)}
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


def test_a_function_that_draws_its_data_gets_the_seed(module):
    for seed in (0, 7):
        client = reader("function", "own_code:drawn", seed=seed).load(0, 2)
        assert client.train[0].tolist() == [[seed, seed]] * 3


@pytest.mark.parametrize(
    ("name", "key", "client", "choices", "cause"),
    [
        ("own_code:nothing", "dataset", 0, ("mapping", "Dataset", "Data"), type(None)),
        ("own_code:bad", "x_train, y_train", 0, ("x",), type(None)),
        ("own_code:broken", "dataset", 0, (), ZeroDivisionError),
        ("own_code:laod", "dataset", None, (), ResolveError),
    ],
)
def test_functions_that_cannot_be_used_say_why(module, name, key, client, choices, cause):
    with pytest.raises(DataError, match=name) as error:
        reader("function", name).load(0, 2)
    assert (error.value.key, error.value.client, error.value.choices) == (key, client, choices)
    assert error.value.value == (name if key == "dataset" else None)
    assert type(error.value.__cause__) is cause


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_code", "module:function"),
        ("own_code.py:load:x", "module:function"),
        ("../own_code:load", "module:function"),
        (":load", "module:function"),
        ("own_code:", "module:function"),
        ("own_nowhere:load", "module 'own_nowhere'.*PYTHONPATH"),
        ("own_nowhere.deep:load", "module 'own_nowhere'.*PYTHONPATH"),
        ("own_code.deep:load", "module 'own_code.deep'.*PYTHONPATH"),
        ("own_code:missing", r"own_code.py\).*'missing'$"),
        ("own_code:SIZE", "'own_code:SIZE' is a int"),
        ("own_typo:load", "'own_typo'.*SyntaxError"),
        ("own_needs:load", "'own_needs'.*'no_such_thing'"),
        ("own_raises:load", "'own_raises'.*ZeroDivisionError"),
    ],
)
def test_texts_that_name_no_function_say_why(module, name, message):
    with pytest.raises(ResolveError, match=message):
        resolve(name)


def test_a_function_or_class_is_found_by_name(module):
    assert resolve("own_code:load").__name__ == "load"
    assert resolve(" collections:OrderedDict ")() == {}
