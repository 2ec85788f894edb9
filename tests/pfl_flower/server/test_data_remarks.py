"""What is said about data before round 1."""

import numpy as np
import pytest
from torch import nn

from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import ClientSchema, DataSettings, Federation
from pfl_flower.data.client_records import RawClient
from pfl_flower.data.client_schema import schema_of
from pfl_flower.data.degradation.devices import Device
from pfl_flower.data.moments import FEWEST_ROWS
from pfl_flower.data.pixels import are_channels_last
from pfl_flower.data.task import are_few_whole_numbers
from pfl_flower.engines import simulate
from pfl_flower.server.data_remarks import log_data, untested_labels, with_untrained_classes
from tests.errors import refused

SHORT = {"num-server-rounds": 1, "baselines": "", "method": "fedavg", "model": "linear"}


@pytest.fixture
def warned(monkeypatch):
    """The texts of all warnings."""
    said = []
    monkeypatch.setattr("pfl_flower.server.data_remarks.warn_once", said.append)
    return said


def of(train, test):
    labels = tuple(sorted({*train, *test}))
    return ClientSchema((2,), "classification", labels, train_labels=train, test_labels=test)


def test_classes_without_a_test_example_and_clients_without_a_training_example_are_found():
    schemas = {0: of((0, 1), (0,)), 1: of((0,), (0, 2)), 2: of((1,), (1,)), 3: of((3,), (0,))}
    everybody = ClientSchema((2,), "classification", (0, 1, 2, 3))
    assert untested_labels(schemas, everybody) == [3]
    assert with_untrained_classes(schemas) == [1, 3]
    numbers = {0: ClientSchema((2,), "regression")}
    assert untested_labels(numbers, numbers[0]) == with_untrained_classes(numbers) == []


def test_the_schema_of_a_client_says_what_it_trains_and_tests_on():
    federation = Federation(DataSettings(partition="dirichlet", alpha=0.1, max_examples=20), 5)
    for client in range(5):
        schema, data = federation.client_schema(client), federation.client(client)
        for said, (_, targets) in (
            (schema.train_labels, data.train),
            (schema.test_labels, data.test),
        ):
            enough = len(targets) >= FEWEST_ROWS  # else it could be a single example's
            assert said == (tuple(np.unique(targets).tolist()) if enough else ())
        assert schema == ClientSchema.from_json(schema.to_json())


def test_the_classes_of_few_test_examples_are_not_sent_apart():
    """Of one example they would be this one's class."""
    draw = np.random.default_rng(0)
    train = draw.normal(size=(20, 2)), np.arange(20) % 2
    few = np.zeros((2, 2)), np.array([0, 1])
    settings = DataSettings(dataset="folder:some")
    schema = schema_of(RawClient(train, None, few), settings, Device(), None)
    assert (schema.train_labels, schema.test_labels) == ((0, 1), ())
    assert schema.labels == (0, 1)


def skewed(client, _):
    """Class 2 has no test example; client 1 does not train on class 1, and is tested on it."""
    draw = np.random.default_rng(client)
    y_train, y_test = np.array([0, 1, 2] * 5), np.array([0, 1] * 3)
    y_train = np.array([0, 2] * 5) if client == 1 else y_train
    x_train, x_test = draw.normal(size=(len(y_train), 2)), draw.normal(size=(6, 2))
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def as_floats(client, count):
    arrays = skewed(client, count)
    return arrays | {name: 1.0 + arrays[name] % 2 for name in ("y_train", "y_test")}


def pictures(client, _, shape=(6, 8)):
    draw = np.random.default_rng(client)
    return {"x_train": draw.normal(size=(40, *shape)), "y_train": np.arange(40) % 2}


def channels_last(client, count):
    return pictures(client, count, (32, 32, 3))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("skewed", ["[2]", "2 of 2 clients", "1 of 2 clients"]),
        ("as_floats", ["task=classification"]),
        ("pictures", ["linear"]),
        ("channels_last", ["32 channels"]),
    ],
)
def test_what_may_be_a_mistake_is_said(warned, data, said):
    simulate({**SHORT, "dataset": f"{__name__}:{data}"}, 2)
    assert len(warned) == len(said)
    assert all(wanted in text for wanted, text in zip(said, warned, strict=True))


def permuting(shape, outputs):
    """A network that takes channels last."""
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), outputs))


@pytest.mark.parametrize("model", ["auto", "cnn", "se-cnn"])
def test_networks_of_the_app_do_not_take_rows_for_channels(model):
    run = {**SHORT, "model": model, "dataset": f"{__name__}:channels_last"}
    transposed = ("transpose(0, 3, 1, 2)",)
    with refused(ConfigError, key="dataset", value=(32, 32, 3), choices=transposed):
        simulate(run, 2)


def test_a_network_of_ones_own_may_want_channels_last(warned):
    run = {**SHORT, "model": f"{__name__}:permuting", "personal": "none"}
    simulate({**run, "dataset": f"{__name__}:channels_last"}, 2)
    assert len(warned) == 1
    assert "32 channels" in warned[0]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((32, 32, 3), True),
        ((5, 8, 1), True),
        ((28, 28, 4), True),
        ((3, 32, 32), False),
        ((4, 32, 3), False),  # four channels, three columns
        ((2, 5, 3), False),
        ((32, 32, 2), False),
        ((32, 3), False),
    ],
)
def test_pictures_with_channels_last_are_told_by_their_shape(shape, expected):
    assert are_channels_last(shape) is expected


@pytest.mark.parametrize(
    ("labels", "positive"), [((0, 1), None), (("no", "yes"), "'yes'"), ((1, 2, 3), None)]
)
def test_how_labels_are_numbered_is_told_and_no_warning(warned, monkeypatch, labels, positive):
    told = []
    monkeypatch.setattr("pfl_flower.server.data_remarks.info_once", told.append)
    schema = ClientSchema((2,), "classification", labels, standardize=False)
    log_data(RunConfig().with_schema(schema), {0: schema}, {})
    assert warned == []
    assert len(told) == (labels != (0, 1))
    assert bool(positive) == any(f"positive class is {positive}" in text for text in told)


def test_nothing_is_said_of_what_the_user_has_decided(warned):
    simulate({**SHORT, "dataset": f"{__name__}:as_floats", "task": "regression"}, 2)
    assert warned == []


def test_floats_that_may_be_classes():
    assert are_few_whole_numbers(np.array([0.0, 1.0, 1.0]))
    assert not are_few_whole_numbers(np.array([0.0, 0.5]))
    assert not are_few_whole_numbers(np.arange(50.0))


def test_examples_that_no_client_has_are_counted(monkeypatch):
    said = []
    monkeypatch.setattr("pfl_flower.data.partition.benchmark_clients.warn_once", said.append)
    federation = Federation(DataSettings(partition="pathological"), 3)
    labels = federation.clients.examples.targets.numpy()
    held = labels[np.concatenate(federation.clients.indices)]
    assert len(said) == 1
    assert f"{len(labels) - len(held)} of {len(labels)} " in said[0]
    assert str(sorted(set(range(10)) - set(held.tolist()))) in said[0]
    Federation(DataSettings(partition="pathological"), 10)
    Federation(DataSettings(), 3)
    assert len(said) == 1
