"""Tables as people have them: words, dates, ids, several rows a patient, a given split."""

import numpy as np
import pandas as pd
import pytest

from pfl_flower.data import DataError, DataSettings, Federation
from pfl_flower.data.client_records import OwnRequest
from pfl_flower.data.readers.registry import OWN
from pfl_flower.data.readers.table_columns import TableColumns
from tests.errors import refused


def visits(rows=40, clients=2):
    """A table of visits; two rows a patient."""
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "client": [f"h{i % clients}" for i in range(rows)],
            "label": [("no", "yes")[i // clients % 2] for i in range(rows)],
            "patient": np.arange(rows) // (2 * clients) * clients + np.arange(rows) % clients,
            "age": draw.normal(size=rows).round(2),
            "ward": [("eyes", "heart")[i // clients % 2] for i in range(rows)],
            "seen": [f"1970-01-{1 + i % 28:02d}" for i in range(rows)],
        }
    )


def write(table, path):
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
    return path


def read(path, **columns):
    request = OwnRequest(str(path), "client", "label", columns=TableColumns(**columns))
    return OWN["table"](request)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_dates_are_days_and_categories_come_last(tmp_path, name):
    table = visits()
    if name == "t.parquet":
        table["seen"] = pd.to_datetime(table["seen"])
    raw = read(write(table, tmp_path / name), categories=("ward",)).load(0, 2)
    assert raw.columns == ("age", "patient", "seen", "ward")
    assert raw.table.dates == ("seen",)
    assert raw.table.categories == (("ward", ("eyes", "heart")),)
    assert raw.train[0][:3, 2].tolist() == [0, 2, 4]
    assert raw.train[0][:3, 3].tolist() == [0, 1, 0]


def test_dates_with_a_zone_and_dates_as_objects_are_days(tmp_path):
    table = visits()
    table["zoned"] = pd.to_datetime(table["seen"]).dt.tz_localize("Europe/Berlin")
    table["seen"] = pd.to_datetime(table["seen"]).dt.date
    raw = read(write(table, tmp_path / "t.parquet"), drop=("ward",)).load(0, 2)
    assert raw.table.dates == ("seen", "zoned")
    assert raw.train[0][1, 2:].tolist() == [2, 2 - 1 / 24]


def test_a_missing_date_is_missing_and_a_missing_word_is_a_category(tmp_path):
    table = visits()
    table.loc[[0, 2], "seen"] = None
    table.loc[[0, 4], "ward"] = None
    data = read(write(table, tmp_path / "t.csv"), categories=("ward",))
    with refused(DataError, key="x_train", value={"seen": 2}):
        data.load(0, 2)
    data.allow_missing = True
    raw = data.load(0, 2)
    assert np.isnan(raw.train[0][:3, 2]).tolist() == [True, True, False]
    assert raw.table.categories == (("ward", ("eyes", "heart", "missing")),)
    assert raw.train[0][:3, 3].tolist() == [2, 1, 2]


def test_all_words_are_categories_where_a_user_says_so(tmp_path):
    raw = read(write(visits(), tmp_path / "t.csv"), categories=("all",)).load(0, 2)
    assert raw.columns == ("age", "patient", "seen", "ward")
    assert [name for name, _ in raw.table.categories] == ["ward"]


def test_numbers_may_be_categories(tmp_path):
    table = visits().assign(ward=[(3, 10)[i // 2 % 2] for i in range(40)])
    whole = read(write(table, tmp_path / "a.csv"), categories=("ward",)).load(0, 2)
    table.loc[1, "ward"] = None  # now 3.0 and 10.0
    floats = read(write(table, tmp_path / "b.csv"), categories=("ward",)).load(0, 2)
    assert whole.table.categories == (("ward", ("10", "3")),)
    assert floats.table.categories == (("ward", ("10", "3", "missing")),)


@pytest.mark.parametrize(
    ("columns", "features"),
    [
        ({"drop": ("ward", "patient")}, ("age", "seen")),
        ({"features": ("seen", "age")}, ("age", "seen")),
        ({"drop": ("ward",), "group": "patient"}, ("age", "seen")),
        ({"drop": ("ward",), "time": "seen"}, ("age", "patient")),
        ({"features": ("seen",), "time": "seen"}, ("seen",)),
    ],
)
def test_which_columns_are_features(tmp_path, columns, features):
    assert read(write(visits(), tmp_path / "t.csv"), **columns).load(0, 2).columns == features


@pytest.mark.parametrize(
    ("columns", "key", "value"),
    [
        ({"drop": ("id",)}, "drop-columns", "id"),
        ({"features": ("ages",)}, "feature-columns", "ages"),
        ({"categories": ("wards",)}, "categories", "wards"),
        ({"group": "who"}, "group-column", "who"),
        ({"split": "fold"}, "split-column", "fold"),
        ({"time": "when"}, "time-column", "when"),
        ({"split": "label"}, "split-column", "label"),
        ({"features": ("age", "label")}, "feature-columns", "label"),
        ({"categories": ("ward",), "drop": ("ward",)}, "categories", "ward"),
        ({"time": "ward", "categories": ()}, "time-column", "ward"),
        ({"features": ("age",)}, "categories", "ward"),
    ],
)
def test_columns_that_are_not_there_or_are_two_things_are_refused(tmp_path, columns, key, value):
    path = write(visits(), tmp_path / "t.csv")
    with refused(DataError, key=key, value=value, path=str(path)):
        read(path, **{"categories": ("ward",)} | columns).load(0, 2)


def test_a_column_says_which_rows_train_and_test(tmp_path):
    table = visits(40)
    table["fold"] = ["Train", "train", "TEST", " test", "val", "dev"] * 6 + ["train"] * 4
    data = read(write(table, tmp_path / "t.csv"), split="fold", drop=("ward",))
    raw = data.load(1, 2)
    assert [len(part[1]) for part in (raw.train, raw.validation, raw.test)] == [8, 6, 6]
    assert "fold" not in raw.columns
    own = table[table["client"] == "h1"].set_index(np.arange(20))
    of_test = own["fold"].str.strip() == "test"
    assert raw.test[0][:, 0].tolist() == own["age"][of_test].tolist()
    without = table.assign(fold=["train", "train", "test", "test"] * 10)
    assert (
        read(write(without, tmp_path / "u.csv"), split="fold", drop=("ward",)).load(0, 2).validation
        is None
    )  # to be cut from the training rows
    for fold, value, client in (("fold 3", 40, None), ("train", ["test"], "h0")):
        bad = write(table.assign(fold=fold), tmp_path / "bad.csv")
        with refused(DataError, key="split-column", value=value, client=client):
            read(bad, split="fold", drop=("ward",)).load(0, 2)


def test_a_patient_in_train_and_test_of_a_column_is_refused(tmp_path):
    table = visits(40)
    table["fold"] = ["train", "train", "test", "test"] * 10  # the two visits of each patient
    path = write(table, tmp_path / "t.csv")
    with refused(DataError, key="split-column", value=10, client="h0"):
        read(path, split="fold", group="patient", drop=("ward",)).load(0, 2)


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("client,label,age,age\na,0,1,2\n")
    with refused(DataError, key="age", value=["age"], path=str(path)):
        read(path).load(0, 1)


def test_who_has_text_where_others_have_numbers_is_left_out_by_name(tmp_path):
    table = visits(60, clients=3).drop(columns="ward").astype({"age": object})
    table.loc[1, "age"] = "Haas"
    data = read(write(table, tmp_path / "t.csv"))
    assert data.load(0, 3).train[0].dtype == np.float64
    with refused(DataError, key="age", client="h1", choices=("drop-columns",)) as error:
        data.load(1, 3)
    assert "Haas" not in str(error.value)  # the server is told why a client is left out
    table.loc[2, "age"] = "Ito"  # now at two of three
    with refused(DataError, key="age", client="h1, h2") as error:
        read(write(table, tmp_path / "u.csv")).load(0, 3)
    assert "Ito" not in str(error.value)


def test_an_id_is_noticed_and_amounts_are_not(tmp_path):
    table = visits(40).assign(visit=np.arange(40) + 7, name=[f"n{i}" for i in range(40)])
    data = read(write(table, tmp_path / "t.csv"), categories=("ward", "name"))
    assert data.load(0, 2).table.unique == ("name", "visit")
    few = read(write(table[:19], tmp_path / "few.csv"), categories=("ward", "name"))
    assert few.load(0, 2).table.unique == ()


def test_no_patient_is_in_two_parts_of_a_federation(tmp_path):
    """Five rows a patient and a label that is a coin: split by rows, they are known by heart."""
    draw = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 5)
    table = pd.DataFrame(draw.normal(size=(60, 6))[patient], columns=list("abcdef"))
    table["client"] = draw.integers(4, size=60)[patient]
    table["label"] = np.array(["n", "y"])[draw.integers(2, size=60)[patient]]
    table["patient"] = patient
    path = write(table, tmp_path / "p.csv")
    options = {"dataset": f"table:{path}", "client_column": "client"}
    for settings, shares in (
        (DataSettings(**options, drop_columns="patient"), True),
        (DataSettings(**options, group_column="patient"), False),
    ):
        data = Federation(settings, 4)
        for client in range(4):
            parts = data.client(client)
            train, test = (
                {tuple(row) for row in part[0].tolist()} for part in (parts.train, parts.test)
            )
            assert bool(train & test) == shares
