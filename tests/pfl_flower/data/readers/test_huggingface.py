from dataclasses import replace

import datasets
import huggingface_hub.constants
import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from flwr_datasets.common import telemetry
from flwr_datasets.partitioner import LinearPartitioner, PathologicalPartitioner
from PIL import Image as Pillow

from pfl_flower.data import DataError, DataSettings, number_of_clients
from pfl_flower.data.readers.own_clients import open_own
from pfl_flower.data.readers.registry import OWN, OwnRequest
from tests.errors import refused


def reader(location, **options):
    return OWN["huggingface"](OwnRequest(str(location), **options))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder for a data set, with a cache of its own and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(telemetry, "FLWR_TELEMETRY_ENABLED", "0")
    folder = tmp_path / "set"
    folder.mkdir()
    return folder


def rows(folder, features=None, split="train", **columns):
    features = Features(features) if features else None
    Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


def table(folder, **change):
    columns = {
        "a": [float(i) for i in range(12)],
        "b": list(range(12)),
        "word": ["w"] * 12,
        "who": [i % 3 for i in range(12)],
        "label": [f"c{i % 2}" for i in range(12)],
    }
    return rows(folder, **columns | change)


def test_columns_of_numbers_are_shared_out_evenly(hub):
    rows(table(hub), split="test", a=[0.5], b=[1], word=["w"], who=[1], label=["c1"])
    data = reader(hub)
    assert data.count() is None
    parts = [data.load(i, 4).train for i in range(4)]
    assert [x.shape for x, _ in parts] == [(3, 3)] * 4  # a, b and who
    found = sorted(
        (x[0], y) for inputs, targets in parts for x, y in zip(inputs, targets, strict=True)
    )
    assert found == [(i, f"c{i % 2}") for i in range(12)]  # each once; the test split left alone
    assert data.load(0, 4).test is None
    assert len(data.load(0, 2).train[1]) == 6
    with pytest.raises(DataError) as error:
        data.load(12, 13)
    assert (error.value.key, error.value.value) == ("num_clients", 13)
    assert error.value.path == str(hub)


def test_columns_are_sorted_by_name_and_have_their_names(hub):
    rows(hub, b=[1, 2], a=[0.5, 1.5], word=["x", "y"], label=[0, 1])
    found = reader(hub).load(0, 1)
    assert found.columns == ("a", "b")
    order = np.argsort(found.train[1])
    assert found.train[0][order].tolist() == [[0.5, 1], [1.5, 2]]


def test_a_column_without_a_name_is_no_feature(hub):
    pd.DataFrame({"a": [1.0, 2.0], "label": [0, 1]}).to_csv(hub / "train.csv")
    with refused(DataError, key="Unnamed: 0"):
        reader(hub).load(0, 1)


def test_class_numbers_of_two_sites_become_the_same_names(hub):
    found = []
    for site, names in (("A", ["cat", "dog"]), ("B", ["bird", "cat"])):
        kinds = {"f": Value("float32"), "label": ClassLabel(names=names)}
        (hub / site).mkdir()
        rows(hub / site, kinds, f=[1.0, 2.0], label=[0, 1])
        found.append(sorted(reader(hub / site).load(0, 1).train[1]))
    assert found == [["cat", "dog"], ["bird", "cat"]]


def test_a_column_may_name_the_clients(hub):
    data = reader(table(hub), client_column="who")
    assert data.count() == 3
    assert data.names() == ["0", "1", "2"]
    inputs, _ = data.load(1, 3).train
    assert sorted(inputs[:, 0]) == [1, 4, 7, 10]
    assert inputs.shape == (4, 2)  # who is no feature
    with pytest.raises(DataError) as error:
        data.load(3, 4)
    assert (error.value.client, error.value.choices) == (3, ("0", "1", "2"))


def test_words_that_name_clients_are_sorted_naturally(hub):
    data = reader(table(hub, who=["c1", "c10", "c2"] * 4), client_column="who")
    assert data.names() == ["c1", "c2", "c10"]
    assert sorted(data.load(1, 3).train[0][:, 0]) == [2, 5, 8, 11]
    assert sorted(data.load(2, 3).train[0][:, 0]) == [1, 4, 7, 10]


def test_clients_of_the_data_need_the_column_that_names_them(hub):
    settings = DataSettings(dataset=f"huggingface:{table(hub)}", partition="natural")
    with refused(DataError, key="client-column", value=""):
        number_of_clients(settings)  # without, everybody's rows were shared out at random
    assert number_of_clients(replace(settings, client_column="who")) == 3
    of_a_device = open_own(replace(settings, whole="ward-7"))
    assert len(of_a_device.load(0, 1).train[1]) == 12


def test_a_partitioner_may_be_given(hub):
    data = reader(table(hub), partitioner=LinearPartitioner, client_column="who")
    assert data.count() is None
    assert [len(data.load(i, 3).train[1]) for i in range(3)] == [2, 4, 6]
    assert data.load(0, 3).train[0].shape == (2, 2)


def test_rows_that_a_partition_gives_to_nobody_are_counted(hub, monkeypatch):
    said = []
    monkeypatch.setattr("pfl_flower.data.readers.huggingface.warn_once", said.append)

    def pathological(count):
        return PathologicalPartitioner(count, "label", num_classes_per_partition=1)

    table(hub, label=[f"c{i % 3}" for i in range(12)])
    data = reader(hub, partitioner=pathological)
    sizes = [len(data.load(client, 2).train[1]) for client in range(2)]
    unused = [line for line in said if "'pathological'" in line]
    assert len(unused) == 1
    assert f"{12 - sum(sizes)} of 12 " in unused[0]


def pictures(mode, size=(4, 3), count=4):
    return [Pillow.new(mode, size, color=i) for i in range(count)]


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 3)])
def test_images_are_uint8_with_channels_first(hub, mode, channels):
    features = {
        "image": Image(),
        "id": Value("int64"),
        "name": ClassLabel(names=["cat", "dog"]),
    }
    rows(hub, features, image=pictures(mode), id=[1, 2, 3, 4], name=[0, 1, 1, 0])
    inputs, targets = reader(hub).load(0, 1).train
    assert inputs.shape == (4, channels, 3, 4)
    assert inputs.dtype == np.uint8
    names = {0: "cat", 1: "dog", 2: "dog", 3: "cat"}
    assert [names[x] for x in inputs[:, 0, 0, 0]] == targets.tolist()
    assert sorted(inputs[:, 0, 2, 3]) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("images", "value"),
    [
        ([*pictures("L", count=3), None], None),
        (pictures("I;16"), "I;16"),
        (pictures("L", count=2) + pictures("L", (5, 5), 2), [(1, 3, 4), (1, 5, 5)]),
        (pictures("L", count=2) + pictures("RGB", count=2), [(1, 3, 4), (3, 3, 4)]),
    ],
)
def test_images_that_cannot_be_used_say_why(hub, images, value):
    rows(hub, {"image": Image(), "label": Value("int64")}, image=images, label=[0, 1, 0, 1])
    with pytest.raises(DataError) as error:
        reader(hub).load(0, 1)
    assert (error.value.key, error.value.value, error.value.client) == ("image", value, 0)


def test_damaged_images_are_refused(hub):
    images = [{"bytes": b"no image"}] * 4
    rows(hub, {"image": Image(), "label": Value("int64")}, image=images, label=[0, 1, 0, 1])
    with pytest.raises(DataError) as error:
        reader(hub).load(0, 1)
    assert (error.value.key, error.value.path) == ("image", str(hub))
    assert isinstance(error.value.__cause__, OSError)


def test_the_label_is_the_one_named_or_the_only_classes_or_called_label(hub):
    kinds = {
        "a": Value("float32"),
        "label": Value("int64"),
        "animal": ClassLabel(names=["cat", "dog"]),
    }
    rows(hub, kinds, a=[1.0, 2.0], label=[7, 8], animal=[0, 1])
    assert sorted(reader(hub).load(0, 1).train[1]) == ["cat", "dog"]
    named = reader(hub, label_column="label").load(0, 1).train
    assert sorted(named[1]) == [7, 8]
    assert named[0].shape == (2, 1)  # the number of a class is no feature


@pytest.mark.parametrize(
    ("change", "options", "key", "value"),
    [
        ({}, {"label_column": "lable"}, "label-column", "lable"),
        ({}, {"client_column": "owner"}, "client-column", "owner"),
        ({"label": [None, "x"] * 6}, {}, "label", 6),
        ({"label": [float("nan"), 1.0] * 6}, {}, "label", 6),
        ({"who": [None, 1] * 6}, {"client_column": "who"}, "client-column", "who"),
        ({"a": [None, 1.0] * 6}, {}, "x_train", {"a": 6}),
    ],
)
def test_data_sets_that_cannot_be_used_say_which_column_and_why(hub, change, options, key, value):
    with pytest.raises(DataError) as error:
        reader(table(hub, **change), **options).load(0, 1)
    assert (error.value.key, error.value.value, error.value.path) == (key, value, str(hub))
    unknown = value in ("lable", "owner")
    assert error.value.choices == (("a", "b", "word", "who", "label") if unknown else ())


def test_data_sets_without_label_or_inputs_say_so(hub):
    rows(hub, word=["a", "b"], number=[1, 2])
    with pytest.raises(DataError) as error:
        reader(hub).load(0, 1)
    assert (error.value.key, error.value.choices) == ("label-column", ("word", "number"))
    with pytest.raises(DataError) as error:
        reader(hub, label_column="number").load(0, 1)
    assert (error.value.key, error.value.value) == ("columns", ["word", "number"])
    rows(hub, {"label": ClassLabel(names=["x"]), "a": Value("int64")}, label=[0, -1], a=[1, 2])
    with pytest.raises(DataError) as error:
        reader(hub).load(0, 1)
    assert (error.value.key, error.value.value) == ("label", 1)


def test_a_data_set_that_is_nowhere_says_where_it_was_looked_for(hub, monkeypatch):
    monkeypatch.chdir(hub)
    with pytest.raises(DataError, match=f"{hub}/nobody/nothing") as error:
        reader("nobody/nothing").load(0, 1)
    assert (error.value.key, error.value.value) == ("dataset", "nobody/nothing")
    with pytest.raises(DataError) as error:
        reader(hub).load(0, 1)
    assert (error.value.key, error.value.path) == ("dataset", str(hub))
    assert error.value.__cause__ is not None
    rows(hub, split="test", a=[1], label=[0])
    with pytest.raises(DataError, match="'train'") as error:
        reader(hub).load(0, 1)
    assert (error.value.key, error.value.path) == ("dataset", str(hub))


def test_many_whole_numbers_are_refused_until_it_is_said_what_they_are(hub):
    count = 30
    columns = {"a": [0.5] * count, "b": [1] * count, "word": ["w"] * count, "who": [0] * count}
    table(hub, **columns, label=list(range(count)))
    with refused(DataError, key="task", value="auto"):
        reader(hub).load(0, 1)
    assert reader(hub, task="regression").load(0, 1).train[1].dtype.kind == "i"
