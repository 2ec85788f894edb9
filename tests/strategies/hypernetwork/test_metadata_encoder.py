"""Metadata of clients become vectors."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.errors import ArgumentError
from strategies.hypernetwork.metadata_encoder import (
    LARGEST,
    MOST_CHARACTERS,
    Columns,
    category,
    encode_all,
    read_metadata,
)
from tests.errors import refused

CLIENTS = [
    {"age": 20.0, "region": "north"},
    {"age": 40.0, "region": "south"},
    {"age": 60.0, "region": "south"},
    {"age": None, "region": "south"},
]

values = st.none() | st.floats(-1e6, 1e6) | st.text(max_size=3)
anything = st.dictionaries(st.sampled_from("abcd"), values)
sent_numbers = st.fixed_dictionaries({"x": st.floats(-1e6, 1e6), "y": st.floats(-1, 1)})


def test_numbers_are_standardized_over_the_clients_that_send_them():
    columns = Columns.of(CLIENTS)
    assert columns.names == ["age", "region"]
    deviation = math.sqrt(800 / 3)
    assert columns.numbers["age"] == pytest.approx((40.0, deviation))
    vector = columns.encode({"age": 100.0, "region": "north"})
    np.testing.assert_allclose(vector, [60 / deviation, 0, 3**0.5, -(3**0.5)], rtol=1e-6)
    assert vector.dtype == np.float32


def test_a_missing_number_is_the_mean_and_has_its_flag():
    columns = Columns.of(CLIENTS)
    for metadata in ({}, {"age": None}, {"age": "forty"}, {"age": math.nan}, {"age": math.inf}):
        assert columns.encode(metadata)[:2].tolist() == [0, 1]
    assert columns.encode({"age": 40.0})[:2].tolist() == [0, 0]


def test_a_category_has_a_standardised_place():
    columns = Columns.of(CLIENTS)
    assert columns.categories == {"region": {"north": 0.25, "south": 0.75}}
    root = 3**0.5  # (1 - 1/4) / sqrt(1/4 * 3/4)
    assert columns.encode({"region": "north"})[2:].tolist() == pytest.approx([root, -root])
    assert columns.encode({"region": "south"})[2:].tolist() == pytest.approx([-1 / root, 1 / root])


def test_a_category_that_hardly_anybody_has_is_no_giant():
    columns = Columns.of([{"a": "rare"}, *[{"a": "x"}] * 999])
    assert columns.encode({"a": "rare"}).tolist()[0] == 10


def test_shares_are_of_the_clients_that_send_the_column():
    columns = Columns.of([{"a": "x"}, {"a": "y"}, {}, {"a": None}])
    assert columns.categories == {"a": {"x": 0.5, "y": 0.5}}


@pytest.mark.parametrize("metadata", [{}, {"region": None}, {"region": "moon"}, {"region": 3.0}])
def test_a_category_missing_or_never_seen_is_the_centre(metadata):
    columns = Columns.of(CLIENTS)
    assert columns.encode(metadata)[2:].tolist() == [0, 0]
    assert columns.never_seen(metadata) == (["region"] if metadata.get("region") else [])


def test_who_tells_nothing_is_the_centre_but_for_the_flags():
    columns = Columns.of([{"a": 1.0, "b": "x", "c": 5.0}, {"a": 2.0, "b": "y", "c": -5.0}])
    assert columns.encode({}).tolist() == [0, 1, 0, 1, 0, 0]


def test_a_column_never_heard_of_is_left_out():
    columns = Columns.of(CLIENTS)
    metadata = {"age": 20.0, "region": "north"}
    np.testing.assert_array_equal(
        columns.encode(metadata), columns.encode({**metadata, "shoe": 44.0})
    )
    assert columns.never_seen({"shoe": "red"}) == []


@pytest.mark.parametrize("number", [0.0, 5.0, 0.1, 1e-9, 1e15 + 0.1])
def test_a_constant_number_says_nothing_and_a_new_one_is_no_giant(number):
    columns = Columns.of([{"a": number}] * 7)
    assert columns.numbers["a"][1] == 1.0
    assert abs(columns.encode({"a": number})[0]) < 1
    assert columns.encode({"a": number + 2})[0] == pytest.approx(2, abs=0.5)


def test_a_constant_category_says_nothing():
    columns = Columns.of([{"a": "x"}] * 3)
    assert columns.encode({"a": "x"}).tolist() == columns.encode({"a": "y"}).tolist() == [0]


def test_a_column_where_nobody_tells_anything_is_left_out():
    columns = Columns.of([{"a": None, "b": 1.0}, {"b": 2.0}])
    assert columns.names == ["b"]
    assert Columns.of([]).size == Columns.of([{}, {}]).size == 0
    assert encode_all(Columns.of([{}]), [{}, {"a": 1.0}]).shape == (2, 0)
    assert encode_all(columns, []).shape == (0, 2)


def test_texts_among_more_numbers_are_missing():
    columns = Columns.of([{"floor": 1.0}, {"floor": "attic"}, {"floor": 3.0}])
    assert columns.numbers == {"floor": (2.0, 1.0)}
    assert columns.encode({"floor": "attic"}).tolist() == [0, 1]


def test_numbers_among_as_many_texts_are_categories():
    columns = Columns.of([{"floor": 1.0}, {"floor": "attic"}, {"floor": 1.5}, {"floor": "attic"}])
    assert columns.numbers == {}
    assert list(columns.categories["floor"]) == ["1", "1.5", "attic"]
    by_number, by_text = columns.encode({"floor": 1.0}), columns.encode({"floor": "1"})
    assert by_number.any()
    np.testing.assert_array_equal(by_number, by_text)


def test_truth_values_are_categories_by_any_way():
    metadata = [read_metadata('{"insured": true}'), read_metadata('{"insured": false}')]
    assert metadata == [{"insured": "true"}, {"insured": "false"}]
    columns = Columns.of(metadata)
    assert columns.encode(metadata[0]).tolist() == [-1, 1]
    assert columns.encode({"insured": True}).tolist() == [-1, 1]  # of one's own Python


def test_whole_numbers_of_ones_own_python_are_numbers():
    assert Columns.of([{"a": 1}, {"a": 3}]) == Columns.of([{"a": 1.0}, {"a": 3.0}])


def test_large_whole_numbers_are_different_categories():
    assert category(1234567.0) == "1234567"
    assert category(12.0) == "12"
    assert category("x") == "x"


def test_the_order_of_clients_and_columns_does_not_matter():
    backwards = [dict(reversed(metadata.items())) for metadata in CLIENTS[::-1]]
    one, other = Columns.of(CLIENTS), Columns.of(backwards)
    assert one.names == other.names
    np.testing.assert_allclose(one.encode(CLIENTS[0]), other.encode(CLIENTS[0]), rtol=1e-6)


# ---------------------------------------------------------------------- what comes over the wire


def test_metadata_are_parsed():
    text = '{"a": 1, "b": 2.5, "c": "x", "d": null, "e": true}'
    found = read_metadata(text)
    assert found == {"a": 1.0, "b": 2.5, "c": "x", "d": None, "e": "true"}
    assert isinstance(found["a"], float)
    assert read_metadata("") == read_metadata("{}") == {}


@pytest.mark.parametrize(
    ("text", "argument", "value"),
    [
        ('{"a": NaN}', "metadata['a']", math.nan),
        ('{"a": Infinity}', "metadata['a']", math.inf),
        ('{"a": -Infinity}', "metadata['a']", -math.inf),
        ('{"a": 1e999}', "metadata['a']", math.inf),
        ('{"a": [1]}', "metadata['a']", [1]),
        ('{"a": {}}', "metadata['a']", {}),
        ("[1]", "metadata", "[1]"),
        ("3", "metadata", "3"),
        ("{", "metadata", "{"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(text, argument, value):
    with pytest.raises(ArgumentError) as raised:
        read_metadata(text)
    assert raised.value.argument == argument
    assert repr(raised.value.value) == repr(value)  # NaN is not equal to itself


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a": ' * 100_000, '{"a": 1' + "0" * 5000 + "}"],
    ids=["deep list", "deep object", "5000 digits"],
)
def test_hostile_json_is_a_value_error_like_any_other(text):
    with pytest.raises(ArgumentError) as raised:
        read_metadata(text)
    assert raised.value.argument == "metadata"


def test_a_whole_number_above_any_float_counts_as_the_largest():
    assert read_metadata('{"a": 1' + "0" * 400 + "}") == {"a": LARGEST}


@pytest.mark.integration
@given(st.dictionaries(st.text(max_size=3), values))
def test_what_is_sent_as_json_arrives(metadata):
    assert read_metadata(json.dumps(metadata)) == metadata


# ---------------------------------------------------------------------- for all metadata


@given(st.lists(anything, max_size=6), anything)
def test_a_vector_has_its_length_and_is_finite_for_all_metadata(clients, unseen_client):
    columns = Columns.of(clients)
    found = encode_all(columns, [*clients, unseen_client, {}])
    assert found.shape == (len(clients) + 2, columns.size)
    assert np.isfinite(found).all()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_number_of_an_unseen_client_is_too_large_to_be_encoded(number):
    columns = Columns.of([{"a": 1.0}, {"a": 2.0}])
    assert np.isfinite(columns.encode({"a": number})).all()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=5))
def test_no_numbers_of_clients_are_too_large_to_make_columns_of(numbers):
    clients = [{"a": number} for number in numbers]
    assert np.isfinite(encode_all(Columns.of(clients), clients)).all()


@given(st.lists(sent_numbers, min_size=1, max_size=8))
def test_over_the_clients_a_number_has_mean_zero_and_deviation_one(clients):
    found = encode_all(Columns.of(clients), clients).astype(float)
    for column, name in ((0, "x"), (2, "y")):
        numbers = np.array([metadata[name] for metadata in clients])
        low, median, high = np.quantile(numbers, [0.25, 0.5, 0.75])
        if high > low and (abs(numbers - median) > 7 * (high - low)).any():
            continue  # an outlier: the next test
        assert found[:, column].mean() == pytest.approx(0, abs=1e-5)
        if numbers.std() > 1e-3:
            assert found[:, column].std() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("wrong", [1e6, 1e30, -1e30])
def test_one_corrupted_client_does_not_make_the_others_alike(wrong):
    honest = [{"beds": 10.0 * place} for place in range(1, 7)]
    columns = Columns.of([*honest, {"beds": wrong}])
    found = encode_all(columns, honest)[:, 0]
    assert np.ptp(found) > 0.5
    assert abs(columns.encode({"beds": wrong})[0]) <= 10


def test_metadata_have_a_limit():
    with refused(ArgumentError, argument="metadata") as caught:
        read_metadata('{"a": "' + "x" * 6000 + '"}')
    assert str(MOST_CHARACTERS) in caught.value.wanted


@given(st.lists(st.fixed_dictionaries({"a": st.text(max_size=1)}), min_size=1, max_size=8))
def test_over_the_clients_every_place_of_a_category_has_mean_zero(clients):
    columns = Columns.of(clients)
    found = encode_all(columns, clients)
    assert columns.size == len({metadata["a"] for metadata in clients})
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-6)


@given(st.lists(anything, max_size=6))
def test_columns_come_back_from_json_bit_for_bit(clients):
    columns = Columns.of(clients)
    again = Columns.from_json(columns.to_json())
    assert again == columns
    assert encode_all(again, clients).tobytes() == encode_all(columns, clients).tobytes()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"numbers": 3, "categories": {}}', '{"numbers": {"a": [1]}}']
)
def test_what_holds_no_columns_is_refused(text):
    with pytest.raises(ArgumentError) as raised:
        Columns.from_json(text)
    assert (raised.value.argument, raised.value.value) == ("text", text)
