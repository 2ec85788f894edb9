"""Splits of a client's examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfl_flower.data import DataError, DataSettings, Federation
from pfl_flower.data.partition.splits import split
from tests.errors import refused

STRATIFIED = DataSettings(stratify=True)


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=60),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.1, 0.4]),
    st.booleans(),
)
def test_no_part_lacks_a_class_that_it_could_have(labels, client, validation, given_test):
    labels = np.array(labels)
    settings = DataSettings(stratify=True, validation_fraction=validation)
    is_test = np.arange(len(labels)) % 3 == 1 if given_test else None
    parts = split(settings, client, len(labels), is_test, labels=labels)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert len(parts[0])
    assert len(parts[2])
    if given_test:
        assert is_test[parts[2]].all()
        assert is_test.sum() == len(parts[2])
        return
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        held = [int((labels[rows] == label).sum()) for rows in parts]
        assert not count > 1 or (held[0] and held[2])
        assert not (count > 2 and validation) or held[1]


def test_four_ill_of_forty_are_in_every_part_of_every_client():
    ill = np.arange(40) < 4
    for client in range(200):
        assert all(ill[rows].any() for rows in split(STRATIFIED, client, 40, labels=ill))


def test_without_it_the_labels_do_not_matter():
    labels = np.arange(30) % 2
    plain, other = split(DataSettings(), 3, 30), split(DataSettings(), 3, 30, labels=labels)
    assert np.array_equal(np.concatenate(plain), np.concatenate(other))
    assert "stratify" not in DataSettings().describe()  # files of earlier versions fit
    assert "stratify=True" in STRATIFIED.describe()


def test_clients_of_a_data_set_are_stratified():
    settings = DataSettings(stratify=True, partition="dirichlet", alpha=0.1)
    federation = Federation(settings, 8)
    for client in range(8):
        data = federation.client_schema(client)
        assert set(data.test_labels) <= set(data.train_labels)


@pytest.mark.parametrize("dataset", ["diabetes", "gallery"])
def test_what_has_no_single_class_cannot_be_stratified(dataset):
    partition = "natural" if dataset == "gallery" else "iid"
    settings = DataSettings(dataset=dataset, partition=partition, stratify=True)
    with refused(DataError, key="stratify", value=True):
        Federation(settings, 4).client_schema(0)
