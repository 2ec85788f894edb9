"""Splits of a client's own data: by groups, by time, with each class in train and test."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfl_flower.data import DataError, DataSettings
from pfl_flower.data.client_records import RawClient
from pfl_flower.data.partition.own_split import rarest_of_groups, split_own, with_every_class
from pfl_flower.data.partition.splits import split
from pfl_flower.data.readers.table_columns import TableDetails
from tests.errors import refused

OWN = DataSettings(dataset="table:t.csv")


def client(labels, groups=None, times=None, test=None):
    examples = np.arange(len(labels), dtype=float)[:, None], np.asarray(labels)
    given = None if test is None else (np.zeros((test, 1)), np.asarray(labels)[:test])
    return RawClient(examples, test=given, table=TableDetails(groups=groups, times=times))


@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=60),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.1, 0.4]),
)
def test_train_and_test_have_each_class_that_has_examples_for_them(labels, number, share):
    settings = DataSettings(dataset="table:t.csv", validation_fraction=share)
    labels = np.array(labels)
    parts = split_own(settings, number, client(labels))
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    plain = split(settings, number, len(labels))
    assert [len(part) for part in parts] == [len(part) for part in plain]
    room = min(len(parts[0]), len(parts[2])) >= len(np.unique(labels))
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert not room or label in labels[parts[0]]
        assert not (room and count > 1) or label in labels[parts[2]]


def test_what_has_all_classes_by_chance_is_split_as_it_was():
    labels = np.arange(60) % 2
    for number in range(20):
        found = split_own(OWN, number, client(labels))
        for part, plain in zip(found, split(OWN, number, 60), strict=True):
            assert np.array_equal(part, plain)


def test_four_ill_of_forty_train_and_test_at_every_client():
    """Of clients split by chance, 29 % have none to test on."""
    ill = np.arange(40) < 4
    for number in range(300):
        train, _, test = split_own(OWN, number, client(ill.astype(int)))
        assert ill[train].any()
        assert ill[test].any()


def test_amounts_are_no_classes():
    amounts = np.arange(40)
    settings = DataSettings(dataset="table:t.csv", task="regression")
    for part, plain in zip(split_own(settings, 0, client(amounts)), split(OWN, 0, 40), strict=True):
        assert np.array_equal(part, plain)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=2, max_size=60),
    st.integers(0, 99),
)
def test_rows_of_a_group_stay_together(rows, number):
    groups, labels = np.array(rows).T
    if len(np.unique(groups)) < 2:
        with refused(DataError, key="group-column", value=1, client=number):
            split_own(OWN, number, client(labels, groups))
        return
    parts = split_own(OWN, number, client(labels, groups))
    assert sorted(np.concatenate(parts)) == list(range(len(rows)))
    held = [set(groups[part]) for part in parts]
    assert held[0]
    assert held[2]
    assert len(held[0]) + len(held[1]) + len(held[2]) == len(np.unique(groups))


def test_two_patients_with_a_rare_class_are_one_in_train_and_one_in_test():
    groups = np.repeat(np.arange(20), 3)
    ill = np.isin(groups, (3, 11)).astype(int)
    for number in range(100):
        train, _, test = split_own(OWN, number, client(ill, groups))
        assert {*groups[train][ill[train] == 1], *groups[test][ill[test] == 1]} == {3, 11}


def test_the_class_of_a_group_is_its_rarest():
    classes, groups = np.array(list("abaaac")), np.array([0, 0, 1, 1, 2, 2])
    assert rarest_of_groups(classes, groups).tolist() == ["b", "a", "c"]


def test_the_latest_rows_test_and_those_before_them_validate():
    settings = DataSettings(dataset="table:t.csv", split="time", validation_fraction=0.2)
    times = np.random.default_rng(0).permutation(20).astype(float)
    train, validation, test = split_own(settings, 0, client(np.zeros(20, int), times=times))
    assert sorted(times[test]) == [15, 16, 17, 18, 19]
    assert sorted(times[validation]) == [11, 12, 13, 14]
    assert times[train].max() == 10
    assert times[train][0] == 10  # a limit of examples keeps the latest
    given = split_own(settings, 0, client(np.zeros(20, int), times=times, test=3))
    assert not len(given[2])
    assert sorted(times[given[1]]) == [16, 17, 18, 19]


def test_a_group_is_as_late_as_its_latest_row():
    settings = DataSettings(
        dataset="table:t.csv", split="time", test_fraction=0.3, validation_fraction=0.0
    )
    groups, times = np.array([0, 0, 1, 1, 2, 2]), np.array([0.0, 9.0, 1.0, 2.0, 3.0, 4.0])
    train, _, test = split_own(settings, 0, client(np.zeros(6, int), groups, times))
    assert set(groups[test]) == {0}
    assert set(groups[train]) == {1, 2}


@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(10), 3)])
def test_a_validation_part_that_is_there_stays(groups):
    labels = np.arange(30) % 2
    raw = client(labels, groups)
    raw = RawClient(raw.train, validation=raw.train, table=raw.table)
    assert not len(split_own(OWN, 0, raw)[1])


def test_a_part_does_not_lose_a_class_for_another():
    parts = (np.array([0]), np.array([], int), np.array([1]))
    found = with_every_class(parts, np.array([0, 1]))
    assert [part.tolist() for part in found] == [[0], [], [1]]
