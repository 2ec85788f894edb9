import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pfl_flower.data.errors import SchemaError
from pfl_flower.data.fitting import check_columns, fit_inputs, fit_targets
from pfl_flower.data.moments import Moments, merge_moments, moments
from pfl_flower.data.schema import ClientSchema, target_scale
from pfl_flower.data.schema_merging import merge_schemas
from pfl_flower.server.data_remarks import look_alikes
from strategies.errors import ArgumentError
from tests.errors import refused

values = st.floats(-1e3, 1e3)
parts = st.lists(
    st.integers(1, 6).flatmap(lambda rows: arrays(np.float64, (rows, 3), elements=values)),
    min_size=1,
    max_size=5,
)


@given(parts)
def test_merged_moments_are_those_of_all_rows_together(parts):
    merged = merge_moments([moments(torch.from_numpy(part)) for part in parts])
    together = np.concatenate(parts)
    assert merged.count == len(together)
    np.testing.assert_allclose(merged.means, together.mean(axis=0), atol=1e-9, rtol=1e-9)
    np.testing.assert_allclose(merged.variances, together.var(axis=0), atol=1e-6, rtol=1e-6)


def test_moments_of_different_columns_cannot_be_merged():
    with pytest.raises(ArgumentError) as error:
        merge_moments([Moments(1, (0.0,), (0.0,)), Moments(1, (0.0, 1.0), (0.0, 0.0))])
    assert (error.value.argument, error.value.value) == ("parts", [1, 2])
    with pytest.raises(ArgumentError) as error:
        merge_moments([])
    assert (error.value.argument, error.value.value) == ("parts", [])


def client_schema(shape=(2,), task="classification", labels=(0, 1), **options):
    return ClientSchema(shape, task, labels, **options)


def test_a_client_schema_survives_json():
    whole = client_schema(
        labels=(3, "b"),
        features=Moments(4, (0.1, 1e-9), (1.0, 3.3)),
        standardize=False,
        target=Moments(4, (0.5,), (2.0,)),
        columns=("age", "weight"),
    )
    for one in (whole, client_schema()):
        assert ClientSchema.from_json(one.to_json()) == one
        assert hash(ClientSchema.from_json(one.to_json())) == hash(one)


def test_labels_of_all_clients_get_one_order():
    schema, misfits = merge_schemas(
        {
            2: client_schema(labels=("b", 10)),
            0: client_schema(labels=(9,)),
            1: client_schema(labels=("a", 10)),
        }
    )
    assert schema.labels == (9, 10, "a", "b")
    assert not misfits
    assert fit_targets(np.array(["b", "a"]), schema).tolist() == [3, 2]
    assert fit_targets(np.array([10, 9, 10]), schema).tolist() == [1, 0, 1]
    with pytest.raises(SchemaError) as error:
        fit_targets(np.array([9, 8]), schema)
    assert (error.value.key, error.value.value) == ("labels", [8])
    assert error.value.choices == ("9", "10", "a", "b")


def test_clients_whose_examples_have_another_shape_cannot_take_part():
    schemas = {
        0: client_schema((5,)),
        1: client_schema((4,)),
        2: client_schema((4,)),
        3: client_schema((4,), "regression", ()),
    }
    schema, misfits = merge_schemas(schemas)
    assert schema.shape == (4,)
    assert set(misfits) == {0, 3}
    assert "shape (5,)" in misfits[0]
    assert "the examples of 2 clients have shape (4,)" in misfits[0]
    assert merge_schemas({1: client_schema((4,)), 0: client_schema((5,))})[0].shape == (
        5,
    )  # a tie: the lowest client


def test_no_schemas_cannot_be_merged():
    with refused(ArgumentError, argument="schemas"):
        merge_schemas({})


def test_clients_whose_tables_have_other_columns_cannot_take_part():
    """Columns of the same number, but not the same, would be averaged by their places."""
    ours = ClientSchema((2,), "classification", (0,), columns=("age", "weight"))
    other = ClientSchema((2,), "classification", (1,), columns=("age", "height"))
    nameless = ClientSchema((2,), "classification", (2,))
    schema, deviants = merge_schemas({0: other, 1: ours, 2: nameless, 3: ours})
    assert schema == ClientSchema((2,), "classification", (0, 2), columns=("age", "weight"))
    words = "its table has the features 'height' in place of 'weight' in the tables of 2 clients"
    assert deviants == {0: words}
    with pytest.raises(SchemaError) as error:
        check_columns(other.columns, schema)
    assert (error.value.key, error.value.value) == ("columns", ("age", "height"))
    check_columns(nameless.columns, schema)
    check_columns(ours.columns, schema)


def test_one_clients_overflow_is_not_everybodys():
    fine = client_schema(task="regression", labels=(), target=Moments(5, (1.0,), (2.0,)))
    odd = client_schema(task="regression", labels=(), target=Moments(5, (1e200,), (float("inf"),)))
    schema, misfits = merge_schemas({0: fine, 1: odd})
    assert schema.target == fine.target
    assert not misfits


def test_features_become_standard_and_a_constant_one_becomes_zero():
    rows = torch.tensor([[1.0, 0.1, 5.0], [3.0, 0.1, 5.0]])
    schema = client_schema((3,), features=moments(rows))
    fitted = fit_inputs(rows, schema)
    assert fitted.dtype == torch.float32
    assert fitted.tolist() == [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    unseen_client = fit_inputs(torch.tensor([[2.0, 0.2, 6.0]]), schema)
    assert unseen_client.abs().max() <= 1.0
    with pytest.raises(SchemaError) as error:
        fit_inputs(rows[:, :2], schema)
    assert (error.value.key, error.value.value) == ("shape", (2,))
    assert fit_inputs(rows, client_schema((3,))) is rows


def test_integers_stay_integers_where_the_schema_says_so():
    rows = torch.tensor([[3, 2**30]])
    assert fit_inputs(rows, client_schema()).dtype == torch.float32
    whole = client_schema(integers=True)
    assert torch.equal(fit_inputs(rows, whole), rows)
    assert torch.equal(fit_inputs(torch.tensor([[3.0, 7.0]]), whole), torch.tensor([[3, 7]]))
    with refused(SchemaError, key="integers", value=0.5):
        fit_inputs(torch.tensor([[3.0, 0.5]]), whole)
    merged, _ = merge_schemas({0: whole, 1: whole, 2: client_schema(integers=False)})
    assert not merged.integers  # one client has fractions
    assert ClientSchema.from_json(whole.to_json()) == whole


def test_targets_of_a_regression_become_standard():
    targets = np.array([10.0, 30.0])
    schema = client_schema(task="regression", labels=(), target=moments(torch.from_numpy(targets)))
    assert fit_targets(targets, schema).tolist() == [-1.0, 1.0]
    assert target_scale(schema) == (20.0, 10.0)
    constant = client_schema(task="regression", labels=(), target=Moments(2, (7.0,), (0.0,)))
    assert fit_targets(np.array([7.0]), constant).tolist() == [0.0]


def gaps(rows):
    return moments(torch.tensor(rows, dtype=torch.float64))


def test_moments_leave_missing_values_out():
    known = [1.0, 2.0, 4.0, 8.0, 16.0]
    few = [1.0, 2.0, 3.0, 4.0, math.nan]
    found = gaps([[*row, math.nan] for row in zip(known, few, strict=True)])
    assert found.count == 5
    assert found.counts == (5, 0, 0)  # a client sends no moments of four values or four rows
    assert found.means == pytest.approx((np.mean(known), 0, 0))
    assert found.variances == pytest.approx((np.var(known), 0, 0))


def test_merged_moments_leave_missing_values_out():
    first, second = [1.0, 2.0, 4.0, 8.0, 16.0], [3.0, 5.0, 7.0, 9.0, 11.0, 13.0]
    parts = [
        gaps([[value, math.nan, math.nan] for value in first]),
        gaps([[value, 2 * value, math.nan] for value in second]),
    ]
    merged = merge_moments(parts)
    both = np.array(first + second)
    assert merged.count == 11
    assert merged.counts == (11, 6, 0)
    assert merged.means == pytest.approx((both.mean(), 2 * np.mean(second), 0))
    assert merged.variances == pytest.approx((both.var(), 4 * np.var(second), 0))
    schema = client_schema((3,), features=merged)
    assert ClientSchema.from_json(schema.to_json()) == schema
    # what nobody has ever seen is left as it is
    assert fit_inputs(torch.zeros(1, 3), schema)[0, 2] == 0


@pytest.mark.parametrize("counts", [(3,), (3, -1), (1, 2, 3)])
def test_counts_that_cannot_be_are_not_everybodys(counts):
    fine = client_schema((2,), features=Moments(5, (1.0, 1.0), (2.0, 2.0)))
    odd = client_schema((2,), features=Moments(5, (9.0, 9.0), (1.0, 1.0), counts))
    schema, _ = merge_schemas({0: fine, 1: odd})
    assert schema.features == fine.features


def test_labels_that_look_alike():
    assert look_alikes(("Ill ", "ill", "well", 0, "0")) == [["Ill ", "ill"], [0, "0"]]
    assert look_alikes(("a", "b", 0, 1)) == []


def numbers(*labels):
    """The schema of a client with floats; with labels if all are 0.0 or 1.0."""
    return ClientSchema((2,), "regression", labels, target=Moments(9, (0.5,), (0.2,)))


def test_floats_are_classes_only_if_all_of_all_clients_are_0_or_1():
    merged, reasons = merge_schemas({0: numbers(0), 1: numbers(0, 1), 2: numbers(1)})
    assert (merged.task, merged.labels, merged.target, reasons) == (
        "classification",
        (0, 1),
        None,
        {},
    )
    merged, reasons = merge_schemas({0: numbers(0), 1: numbers(0, 1), 2: numbers()})
    assert (merged.task, merged.labels, merged.target.count, reasons) == ("regression", (), 27, {})
    whole = ClientSchema((2,), "classification", (0, 1))
    merged, reasons = merge_schemas({0: whole, 1: numbers(0)})
    assert (merged.task, merged.labels, reasons) == ("classification", (0, 1), {})
