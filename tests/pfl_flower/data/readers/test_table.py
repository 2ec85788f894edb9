import os

import numpy as np
import pandas as pd
import pytest

from pfl_flower.data import DataError, DataSettings, Federation
from pfl_flower.data.readers.registry import OWN, OwnRequest
from tests.errors import refused


def reader(location, **options):
    return OWN["table"](OwnRequest(str(location), **options))


def frame():
    return pd.DataFrame(
        {
            "age": [1, 2, 3, 4, 5],
            "who": ["b", "a", "b", "c", "b"],
            "height": [0.5, 1.5, 2.5, 3.5, 4.5],
            "ill": ["no", "yes", "yes", "no", "no"],
            "smokes": [True, False, True, False, True],
        }
    )


def write(table, path):
    table.to_csv(path, index=False) if "csv" in path.name else table.to_parquet(path)
    return path


COLUMNS = {"client_column": "who", "label_column": "ill"}


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "T.PARQUET", "t.pq"])
def test_rows_of_a_table_go_to_their_clients_in_order(tmp_path, name):
    data = reader(write(frame(), tmp_path / name), **COLUMNS)
    assert data.count() == 3
    inputs, targets = data.load(1, 3).train
    assert np.array_equal(inputs, np.array([[1, 0.5, 1], [3, 2.5, 1], [5, 4.5, 1]], np.float32))
    assert inputs.dtype == np.float64
    assert targets.tolist() == ["no", "yes", "no"]
    assert data.load(0, 3).train[0].tolist() == [[2, 1.5, 0]]
    assert data.load(1, 3).test is None
    with pytest.raises(DataError) as error:
        data.load(3, 4)
    assert (error.value.client, error.value.choices) == (3, ("a", "b", "c"))
    assert error.value.path == str(tmp_path / name)


def test_the_order_of_columns_in_the_file_means_nothing(tmp_path):
    turned = frame()[["smokes", "ill", "height", "who", "age"]]
    data = reader(write(turned, tmp_path / "turned.csv"), **COLUMNS).load(1, 3)
    straight = reader(write(frame(), tmp_path / "t.csv"), **COLUMNS).load(1, 3)
    assert np.array_equal(data.train[0], straight.train[0])
    assert data.columns == straight.columns == ("age", "height", "smokes")


def test_numbers_of_a_client_column_are_sorted_as_numbers(tmp_path):
    table = frame().assign(who=[10, 9, 10, 100, 10])
    data = reader(write(table, tmp_path / "t.csv"), **COLUMNS)
    assert [data.load(i, 3).train[0][0, 0] for i in range(3)] == [2, 1, 4]


def test_words_of_a_client_column_are_sorted_naturally(tmp_path):
    """As the files of a folder are; or else client 1 is Clinic 10."""
    table = frame().assign(who=["Clinic 10", "Clinic 2", "Clinic 10", "Clinic 1", "Clinic 11"])
    data = reader(write(table, tmp_path / "t.csv"), **COLUMNS)
    assert data.names() == ["Clinic 1", "Clinic 2", "Clinic 10", "Clinic 11"]
    assert [data.load(i, 4).train[0][0, 0] for i in range(4)] == [4, 2, 1, 5]
    assert data.load(2, 4).train[0][:, 0].tolist() == [1, 3]


def test_all_rows_are_one_clients_where_no_column_names_clients(tmp_path):
    path = write(frame().drop(columns="who"), tmp_path / "t.csv")
    data = reader(path, **COLUMNS, whole="ward-7")
    assert data.names() == ["ward-7"]
    assert data.load(0, 1).train[0].shape == (5, 3)
    assert data.load(0, 1).columns == ("age", "height", "smokes")
    with refused(DataError, key="client-column", value="who"):
        reader(path, **COLUMNS).names()
    named = reader(write(frame(), tmp_path / "named.csv"), **COLUMNS, whole="ward-7")
    assert named.names() == ["a", "b", "c"]  # a column that is there counts


def test_values_that_are_missing_are_those_of_the_table(tmp_path):
    path = write(frame().assign(age=[1, None, 3, 4, 5]), tmp_path / "t.csv")
    with refused(DataError, key="x_train", value={"age": 1}) as error:
        reader(path, **COLUMNS).load(0, 3)
    assert "x_train" not in str(error.value)  # a user of a table has no such thing


def test_the_only_client_of_a_table_is_the_client_whatever_its_number(tmp_path):
    table = frame().assign(who="me")
    data = reader(write(table, tmp_path / "t.csv"), **COLUMNS)
    assert len(data.load(11, 40).train[1]) == 5


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3, 1, 2, 1, 0], [3, 2, 0]),
        ([0.5, 1, 2, 1, 0], [0.5, 2, 0]),
        ([True, False, False, True, True], [1, 0, 1]),
        (pd.Categorical(list("xyzxy")), ["x", "z", "y"]),
        (pd.array([1, 2, 3, 4, 5], "Int64"), [1, 3, 5]),
    ],
)
def test_labels_may_be_numbers_booleans_or_words(tmp_path, name, labels, expected):
    data = reader(write(frame().assign(ill=labels), tmp_path / name), **COLUMNS)
    assert data.load(1, 3).train[1].tolist() == expected


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_column_without_any_value_is_one_of_missing_numbers(tmp_path, name):
    path = write(frame().assign(dose=None), tmp_path / name)
    data = reader(path, **COLUMNS, allow_missing=True).load(0, 3)
    assert data.columns == ("age", "dose", "height", "smokes")
    assert np.isnan(data.train[0][:, 1]).all()
    with pytest.raises(DataError) as error:
        reader(path, **COLUMNS).load(0, 3)
    assert (error.value.key, error.value.value) == ("x_train", {"dose": 5})


def test_pixels_in_a_table_are_features_as_any_others(tmp_path):
    table = frame()[["who", "ill", "age"]].astype({"age": np.uint8})
    inputs, _ = reader(write(table, tmp_path / "t.pq"), **COLUMNS).load(0, 3).train
    assert inputs.dtype == np.float64


@pytest.mark.parametrize(
    ("change", "options", "key", "value"),
    [
        ({}, {"client_column": "who?"}, "client-column", "who?"),
        ({}, {"label_column": ""}, "label-column", ""),
        ({}, {"label_column": "who"}, "label-column", "who"),
        ({"town": list("abcde"), "x": "b"}, {}, "town, x", None),
        ({"age": [1, None, 3, None, 5]}, {}, "x_train", {"age": 2}),
        ({"age": [1, 2, np.inf, 4, 5]}, {}, "x_train", {"age": 1}),
        ({"ill": ["a", None, "b", "a", "b"]}, {}, "ill", 1),
        ({"ill": [1, 2, 3, np.inf, -np.inf]}, {}, "ill", 2),
        ({"who": ["a", None, None, "a", "b"]}, {}, "who", 2),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_tables_that_cannot_be_used_say_which_columns_and_why(
    tmp_path, name, change, options, key, value
):
    path = write(frame().assign(**change), tmp_path / name)
    with pytest.raises(DataError) as error:
        reader(path, **COLUMNS | options).load(0, 3)
    assert (error.value.key, error.value.value, error.value.path) == (key, value, str(path))
    columns = ("age", "who", "height", "ill", "smokes")
    ways = ("drop-columns", "categories") if key == "town, x" else ()
    assert error.value.choices == (columns if value in ("who?", "") else ways)


def test_columns_without_a_name_are_no_features(tmp_path):
    frame().to_csv(tmp_path / "t.csv")
    with pytest.raises(DataError, match="index=False") as error:
        reader(tmp_path / "t.csv", **COLUMNS).count()
    assert error.value.key == "Unnamed: 0"


def test_a_table_without_features_says_so(tmp_path):
    path = write(frame()[["who", "ill"]], tmp_path / "t.csv")
    with pytest.raises(DataError) as error:
        reader(path, **COLUMNS).count()
    assert (error.value.key, error.value.value) == ("x_train", (5, 0))


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("t.xlsx", b"", None),
        ("t.csv", b"", ValueError),
        ("t.csv", b'who,ill\n"a', ValueError),
        ("t.csv", b"\xff\xfe\x00who", ValueError),
        ("t.csv.gz", b"who,ill", OSError),
        ("t.parquet", b"PAR1", ValueError),
        ("t.csv", None, FileNotFoundError),
    ],
)
def test_files_that_are_no_tables_say_so(tmp_path, name, content, cause):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        reader(tmp_path / name, **COLUMNS).count()
    assert error.value.path == str(tmp_path / name)
    assert isinstance(error.value.__cause__, cause or type(None))
    unreadable = cause in (ValueError, OSError)
    assert error.value.choices == (() if unreadable else (".csv", ".csv.gz", ".parquet", ".pq"))
    assert (error.value.value is not None) == unreadable


def test_a_table_is_read_once_but_again_when_it_changes(tmp_path, monkeypatch):
    path = write(frame(), tmp_path / "t.csv")
    reads = []
    original = pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda *a, **k: reads.append(1) or original(*a, **k))
    for client in range(3):
        reader(path, **COLUMNS).load(client, 3)
    assert len(reads) == 1
    time = path.stat().st_mtime_ns
    write(frame().assign(age=[7, 2, 3, 4, 5]), path)  # of the same size, at another time
    os.utime(path, ns=(time, time + 10**9))
    assert reader(path, **COLUMNS).load(1, 3).train[0][0, 0] == 7
    write(frame().iloc[:4], path)  # of another size, at the same time
    os.utime(path, ns=(time, time + 10**9))
    assert len(reader(path, **COLUMNS).load(1, 3).train[1]) == 2
    assert len(reads) == 3


def task_of_table(folder, name, labels):
    table = pd.concat([frame().assign(ill=labels)] * 2)  # two rows or more of each client
    path = write(table, folder / name)
    settings = DataSettings(dataset=f"table:{path}", client_column="who", label_column="ill")
    merged = Federation(settings, 3).schema
    return merged.task, merged.labels


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_labels_of_0_and_1_are_classes_whatever_their_type(tmp_path, name):
    """Also where a client has one class only."""
    found = task_of_table(tmp_path, name, [0.0, 1.0, 0.0, 0.0, 1.0])
    assert found == ("classification", (0, 1))


@pytest.mark.parametrize("labels", [[0.0, 1.0, 2.0, 0.0, 1.0], [0.0, 0.5, 1.0, 0.0, 1.0]])
def test_other_floats_are_amounts(tmp_path, labels):
    assert task_of_table(tmp_path, "t.csv", labels) == ("regression", ())


def many(count, **columns):
    table = pd.DataFrame({"who": np.arange(count) % 2, "x": 0.5, "ill": np.arange(count)})
    return table.assign(**columns)


def test_many_whole_numbers_are_refused_until_it_is_said_what_they_are(tmp_path):
    file = write(many(70), tmp_path / "t.csv")
    with refused(
        DataError, key="task", value="auto", choices=("classification", "regression")
    ) as caught:
        reader(file, **COLUMNS).count()
    assert "70" in str(caught.value)
    assert caught.value.path == str(file)
    for task in ("classification", "regression"):
        assert reader(file, task=task, **COLUMNS).count() == 2
    assert reader(write(many(20), tmp_path / "few.csv"), **COLUMNS).count() == 2
    words = many(70, ill=[f"w{i}" for i in range(70)])
    assert reader(write(words, tmp_path / "words.csv"), **COLUMNS).count() == 2
