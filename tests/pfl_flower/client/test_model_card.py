"""A file of a whole model says what its client does to examples."""

import json
import sys
from dataclasses import replace

from clients.export.model_card import SCALES
from pfl_flower.client.model_card import about_model, rebuild
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataSchema
from pfl_flower.data.moments import Moments
from strategies.errors import ArgumentError
from tests.errors import refused

FEATURES = Moments(10, (1.0, 5.0), (4.0, 0.0))


def scales(**schema):
    known = DataSchema((2,), "classification", (0, 1), features=FEATURES)
    config = RunConfig.parse({"dataset": "table:x.csv", "model": "linear", "heterogeneity": "none"})
    return json.loads(about_model(replace(config, schema=replace(known, **schema)))[SCALES])


def test_features_are_standardised_where_the_clients_do_it():
    largest = sys.float_info.max  # divided by it, a constant one is 0
    assert scales() == {"inputs": [[1.0, 5.0], [2.0, largest]]}
    assert scales(standardize=False) == {}  # some client prepared its own
    target = Moments(10, (3.0,), (16.0,))
    found = scales(task="regression", labels=(), target=target, features=None)
    assert found == {"target": [3.0, 4.0]}


def test_only_networks_of_this_app_are_rebuilt():
    network = rebuild(model="linear", shape=[2], num_classes=3)
    assert sum(values.numel() for values in network.state_dict().values()) == 9
    with refused(ArgumentError, argument="model", value="os:getcwd"):
        rebuild(model="os:getcwd", shape=[2], num_classes=3)
