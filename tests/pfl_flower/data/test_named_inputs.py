"""Inputs by name of a user's function: stacked, padded, merged, and trained on."""

import numpy as np
import pytest

from pfl_flower.data.client_records import checked
from pfl_flower.data.errors import DataError, SchemaError
from pfl_flower.data.federation import Federation
from pfl_flower.data.schema_merging import merge_schemas
from pfl_flower.data.settings import DataSettings
from pfl_flower.engines import simulate
from strategies.errors import ArgumentError
from tests.pfl_flower.data import named_text

HERE = "tests.pfl_flower.data.named_text"
SETTINGS = {
    "dataset": f"{HERE}:load",
    "model": f"{HERE}:Text",
    "baselines": "",
    "num-server-rounds": 2,
    "learning-rate": 0.5,
}
Y = np.array([0, 1, 0])


def federation(function="load", clients=3):
    return Federation(DataSettings(dataset=f"{HERE}:{function}"), clients)


def test_ids_of_different_lengths_are_padded_and_get_a_mask():
    raw = checked({"x_train": {"input_ids": [[5], [1, 2, 3], [4, 4]]}, "y_train": Y}, "here")
    assert raw.inputs == ("input_ids", "attention_mask")
    ids, mask = raw.train[0][:, 0], raw.train[0][:, 1]
    assert ids.tolist() == [[5, 0, 0], [1, 2, 3], [4, 4, 0]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0]]


def test_arrays_and_a_mask_of_ones_own_are_kept():
    mask = np.array([[1, 0], [1, 1], [1, 1]])
    kinds = np.zeros((3, 2), dtype=int)
    inputs = {"token_type_ids": kinds, "attention_mask": mask, "input_ids": mask + 3}
    raw = checked({"x_train": inputs, "y_train": Y}, "here")
    assert raw.inputs == ("input_ids", "attention_mask", "token_type_ids")
    np.testing.assert_array_equal(raw.train[0][:, 1], mask)


@pytest.mark.parametrize(
    ("inputs", "key"),
    [
        ({"input_ids": [[1.5], [2.0], [1.0]]}, "x_train['input_ids']"),
        ({"input_ids": [[1], [], [1]]}, "x_train['input_ids']"),
        ({"input_ids": np.ones((3, 2, 2), dtype=int)}, "x_train['input_ids']"),
        ({"input_ids": [[1], [1], [2]], "attention_mask": [[1], [1, 1], [1]]}, "x_train"),
        ({"input_ids": [[1], [1], [2]], "attention_mask": [[1], [1]]}, "x_train"),
        ({"input_ids": [[1], [1]]}, "y_train"),
        ({}, "x_train"),
        ({"input_ids": 3}, "x_train['input_ids']"),
    ],
)
def test_what_is_no_such_input_is_refused(inputs, key):
    with pytest.raises(DataError) as error:
        checked({"x_train": inputs, "y_train": Y}, "here")
    assert error.value.key == key


def test_a_client_without_examples_is_refused_as_any_other():
    with pytest.raises(DataError) as error:
        checked({"x_train": {"input_ids": []}, "y_train": Y[:0]}, "here")
    with pytest.raises(DataError) as usual:
        checked({"x_train": np.zeros((0, 3)), "y_train": Y[:0]}, "here")
    assert str(error.value) == str(usual.value)


def test_splits_have_the_same_names():
    data = {"x_train": {"input_ids": [[1]] * 3}, "y_train": Y}
    for test in ({"a": [[1]] * 3}, np.ones((3, 1), dtype=int)):
        with pytest.raises(DataError) as error:
            checked({**data, "x_test": test, "y_test": Y}, "here")
        assert error.value.key == "x_train, x_test"


def test_the_longest_sequence_of_all_clients_is_the_shape():
    everybody = federation()
    assert everybody.schema.shape == (2, 6)
    assert everybody.schema.inputs == ("input_ids", "attention_mask")
    assert everybody.schema.integers
    inputs, _ = everybody.client(0).train
    assert inputs.shape[1:] == (2, 6)
    assert not inputs[:, :, 4:].any()


def test_a_client_with_others_names_or_longer_sequences_is_left_out():
    everybody = federation()
    schemas = {client: everybody.client_schema(client) for client in range(3)}
    plain = checked({"x_train": np.ones((3, 6), dtype=int), "y_train": Y}, "here")
    from pfl_flower.data.client_schema import schema_of

    own = schema_of(plain, everybody.settings, everybody.devices[0], None)
    assert list(merge_schemas({**schemas, 3: own})[1]) == [3]
    short, _ = merge_schemas({0: schemas[0]})
    with pytest.raises(SchemaError) as error:
        everybody.client(2, short)
    assert (error.value.key, error.value.value, error.value.client) == ("shape", 6, 2)


@pytest.mark.parametrize("method", ["fedavg", "fedper"])
def test_a_run_learns_from_texts(method):
    (run,) = simulate(SETTINGS | {"method": method}, num_clients=3)
    assert run.by_client()
    assert run.parameters["shared"]


def test_a_network_of_one_tensor_is_refused():
    with pytest.raises(ArgumentError) as error:
        simulate(SETTINGS | {"model": "mlp"}, num_clients=3)
    assert error.value.argument == "model"


@pytest.mark.parametrize("keys", [{"noise": "0.5"}, {"missing": "0.2", "imputation": "mean"}])
def test_token_ids_are_no_measurements(keys):
    everybody = Federation(DataSettings(dataset=f"{HERE}:load", **keys), 2)
    with pytest.raises(DataError) as error:
        everybody.client_schema(0)
    assert set(error.value.key.split(", ")) == set(keys)


def test_padding_changes_nothing():
    """A client's data are the same to a network, whatever the longest text of another is."""
    short, long = federation(clients=1), federation(clients=3)
    one, other = short.client(0).train[0], long.client(0).train[0]
    length = one.shape[2]
    np.testing.assert_array_equal(other[:, :, :length], one)
    assert named_text.rows(0)[0][0].shape == (length,)
