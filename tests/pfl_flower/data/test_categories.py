"""Categories of tables: who reports which, how they merge, and what the model gets."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataSettings, Federation
from pfl_flower.data.categories import (
    MOST_CATEGORIES,
    merge_categories,
    reported_categories,
    with_one_hot,
)
from pfl_flower.data.errors import SchemaError
from pfl_flower.data.schema import ClientSchema
from pfl_flower.data.schema_merging import merge_schemas
from pfl_flower.server.data_remarks import mixed_labels
from tests.errors import refused


def test_a_category_is_reported_where_enough_rows_have_it():
    words = ("Haas", "Ito", "eyes", "heart", "missing", "other")
    places = np.repeat([0, 1, 2, 3, 4, 5], [1, 4, 5, 9, 9, 9])
    inputs = np.column_stack([np.zeros(len(places)), places])
    assert reported_categories(inputs, (("ward", words),), None, 5) == (
        ("ward", ("eyes", "heart")),
    )
    assert reported_categories(inputs, (("ward", words),), None, 1)[0][1] == words[:4]


def test_ten_visits_of_one_patient_are_one():
    inputs = np.zeros((10, 1))
    patients = np.arange(10)
    ward = (("ward", ("Haas",)),)
    assert reported_categories(inputs, ward, patients, 5) == ward
    assert reported_categories(inputs, ward, patients // 3, 5) == (("ward", ()),)


def test_the_commonest_fifty_are_reported_and_those_of_most_clients_are_kept():
    words = tuple(f"w{i:03d}" for i in range(80))
    places = np.concatenate([np.repeat(np.arange(80), 5), np.repeat(np.arange(79, 20, -1), 3)])
    inputs = places[:, None].astype(float)
    ((_, found),) = reported_categories(inputs, (("c", words),), None, 5)
    assert found == tuple(f"w{i:03d}" for i in range(21, 71))
    assert len(found) == MOST_CATEGORIES
    many = (("c", tuple(f"a{i:02d}" for i in range(50))),)
    ((_, kept),) = merge_categories([many, (("c", ("z",)),), (("c", ("z",)),)])
    assert len(kept) == MOST_CATEGORIES
    assert kept[-1] == "z"
    assert merge_categories([]) == merge_categories([(), ()]) == ()


def test_a_model_gets_columns_of_0_and_1_in_the_order_of_the_federation():
    own, federated = (("ward", ("Haas", "heart", "missing")),), (("ward", ("eyes", "heart")),)
    inputs = torch.tensor([[0.5, 0], [1.5, 1], [2.5, 2]], dtype=torch.float64)
    expected = [[0.5, 0, 0, 1, 0], [1.5, 0, 1, 0, 0], [2.5, 0, 0, 0, 1]]
    assert with_one_hot(inputs, own, federated).tolist() == expected
    assert with_one_hot(inputs, (), ()) is inputs


def schema(columns=("age", "ward"), categories=(("ward", ("eyes",)),), dates=()):
    return ClientSchema(
        (len(columns),),
        "classification",
        (0, 1),
        columns=columns,
        categories=categories,
        dates=dates,
    )


def test_the_merged_schema_has_the_columns_of_the_model():
    merged, misfits = merge_schemas({0: schema(), 1: schema(categories=(("ward", ("heart",)),))})
    assert not misfits
    assert merged.columns == ("age", "ward=eyes", "ward=heart", "ward=other", "ward=missing")
    assert merged.shape == (5,)
    assert merged.categories == (("ward", ("eyes", "heart")),)
    assert ClientSchema.from_json(merged.to_json()) == merged
    assert merge_schemas({0: schema(categories=(), dates=("ward",))})[0].dates == ("ward",)


@pytest.mark.parametrize(
    "odd",
    [schema(categories=()), schema(categories=(), dates=("ward",)), schema(("age", "wards"))],
)
def test_a_client_whose_column_holds_something_else_is_left_out(odd):
    odd = replace(odd, categories=odd.categories and (("wards", ()),))
    _, misfits = merge_schemas({0: schema(), 1: odd, 2: schema()})
    assert set(misfits) == {1}
    assert "'ward'" in misfits[1]


def table(path, **change):
    rows = pd.DataFrame(
        {
            "client": np.repeat(["a", "b"], 40),
            "label": np.tile([0, 1], 40),
            "age": np.arange(80.0) / 8,
            "ward": np.tile(["eyes", "eyes", "heart", "heart"], 20),
        }
    ).assign(**change)
    rows.to_csv(path, index=False)
    return DataSettings(dataset=f"table:{path}", categories="ward")


def test_categories_are_not_scaled_and_numbers_are(tmp_path):
    data = Federation(table(tmp_path / "t.csv"), 2)
    inputs, _ = data.client(0).train
    assert data.schema.columns == ("age", "ward=eyes", "ward=heart", "ward=other", "ward=missing")
    assert set(inputs[:, 1:].flatten().tolist()) == {0.0, 1.0}
    assert (inputs[:, 1:].sum(dim=1) == 1).all()
    every = torch.cat([data.client(client).train[0][:, 0] for client in range(2)])
    assert every.mean().item() == pytest.approx(0, abs=1e-6)
    assert every.std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_a_table_of_categories_alone_is_a_table(tmp_path):
    settings = replace(table(tmp_path / "t.csv"), feature_columns="ward")
    data = Federation(settings, 2)
    assert data.client(1).test[0].shape[1] == 4


def test_a_client_that_joins_with_other_columns_is_refused(tmp_path):
    data = Federation(table(tmp_path / "t.csv"), 2)
    other = Federation(table(tmp_path / "u.csv", ward=np.arange(80)), 2)
    numbers = Federation(replace(other.settings, categories=""), 2)
    with refused(SchemaError, key="columns", client=0):
        numbers.client(0, data.schema)
    assert other.client(0, data.schema).train[0][:, 3].min() == 1  # new words are other


def test_a_class_that_a_client_cannot_train_and_test_on_is_noted(tmp_path):
    labels = np.tile([0, 1], 40)
    labels[3] = 2
    data = Federation(table(tmp_path / "t.csv", label=labels), 2)
    assert [data.client_schema(client).torn_classes for client in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"categories": "ward", "noise": "0.5"}, "noise"),
        ({"categories": "ward", "missing": "0.5", "imputation": "mean"}, "missing"),
        ({"split": "time"}, "time-column"),
        ({"split": "time", "time-column": "t", "stratify": True}, "stratify"),
        ({"split": "time", "time-column": "t", "split-column": "s"}, "split-column"),
        ({"time-column": "t"}, "time-column"),
        ({"min-category": 3}, "min-category"),
        ({"dataset": "digits", "group-column": "patient"}, "group-column"),
        ({"dataset": "digits", "split": "time", "time-column": "t"}, "time-column"),
    ],
)
def test_keys_of_tables_that_have_no_effect_or_contradict_are_refused(values, key):
    with refused(ConfigError, key=key):
        RunConfig.parse({"dataset": "table:t.csv"} | values)


def test_files_of_earlier_versions_fit():
    assert "categor" not in DataSettings().describe()
    assert "group-column=patient" in DataSettings(group_column="patient").describe()


def test_labels_that_are_numbers_and_words_are_noticed():
    assert mixed_labels((0, "1 ", "-2", "yes", "3rd")) == ([0, "1 ", "-2"], ["yes", "3rd"])
