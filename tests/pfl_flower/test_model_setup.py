"""What the clients of a process share: one network, which starts anew for each."""

import pytest
import torch
from torch import nn

from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataSchema
from pfl_flower.export_limits import export_limits
from pfl_flower.model_setup import model_setup
from tests.errors import refused
from tests.helpers import flat_network


def test_a_network_starts_anew_after_its_tensors_were_replaced_as_by_a_move_to_a_gpu():
    setup = model_setup(RunConfig(method="fedper", dataset="digits"))
    setup.reset_model()
    setup.model._apply(torch.clone)  # what .to("cuda") does: every tensor is another one
    with torch.no_grad():
        for parameter in setup.model.parameters():
            parameter.fill_(7.0)
    setup.reset_model()
    for name, value in setup.model.state_dict().items():
        torch.testing.assert_close(value, setup.initial[name])


def mixing(shape, outputs):
    norm = nn.BatchNorm1d(shape[0], track_running_stats=False)
    return nn.Sequential(norm, nn.Linear(shape[0], outputs))


TABLE = {"dataset": "table:x.csv"}


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (TABLE, []),
        (TABLE | {"imputation": "conditional", "calibrate-inputs": True}, []),
        (TABLE | {"imputation": "multiple"}, ["'multiple'"]),
        (TABLE | {"heterogeneity": "taste"}, ["taste"]),
        (TABLE | {"noise": "0,1", "tiers": "1,1"}, ["noise"]),
        (TABLE | {"corrupted-clients": 1, "imputation": "multiple"}, ["multiple", "corrupted"]),
        (TABLE | {"model": "tests.pfl_flower.test_model_setup:mixing"}, ["0 normalize"]),
        ({"dataset": "social", "partition": "natural"}, ["graph"]),
    ],
)
def test_where_a_file_cannot_do_what_was_judged_is_said(keys, named):
    graph = keys["dataset"] == "social"
    schema = DataSchema((4,), "classification", (0, 1), graph=graph)
    found = export_limits(RunConfig.parse(keys).with_schema(schema))
    assert len(found) == len(named)
    assert all(word in limit for word, limit in zip(named, found, strict=True))


def parallel(shape, num_outputs):
    return nn.DataParallel(flat_network(shape, num_outputs))


def scripted(shape, num_outputs):
    return torch.jit.trace(flat_network(shape, num_outputs), torch.zeros(1, *shape))


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("function", ["parallel", "scripted"])
def test_a_network_that_cannot_be_called_with_other_tensors_is_refused(function):
    model = f"tests.pfl_flower.test_model_setup:{function}"
    setup = model_setup(
        RunConfig.parse({"dataset": "breast-cancer", "model": model, "method": "fedavg"})
    )
    with refused(ConfigError, key="model", value=model):
        setup.check()
