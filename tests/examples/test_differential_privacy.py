"""The example of differential privacy: what it says about Flower's wrappers and our strategies."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.clientapp.mod import LocalDpMod
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping
from flwr.supercore.privacy_accounting import (
    NeighboringRelation,
    PrivacyConfig,
    SamplingMethod,
)

from clients import client_app
from strategies import PartialAveraging
from strategies.arrays import view
from tests.grids import RecordingGrid

EXAMPLE = Path(__file__).parents[2] / "examples" / "differential_privacy"


@pytest.fixture
def example(monkeypatch):
    """Import a module of the example, which is a project of its own."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module
    for name in ("task", "private_run"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("way", ["none", "central-client", "central-server", "local"])
def test_clients_with_personal_heads_learn_under_every_wrapper(example, way):
    np.random.seed(0)  # noqa: NPY002 - Flower draws its noise there
    assert example("private_run").play(way, 12) > 0.75


def test_local_noise_is_on_what_is_sent_and_heads_stay(example):
    task = example("task")
    mod = LocalDpMod(clipping_norm=0.1, sensitivity=1.0, epsilon=1.0, delta=1e-5)
    grid = RecordingGrid(client_app(task.build, mods=[mod]), task.CLIENTS)
    PartialAveraging(fraction_train=1.0).start(grid, task.first_arrays(), num_rounds=1)
    for exchange in grid.of_type("train"):
        sent, found = exchange.message.content["arrays"], exchange.reply.content["arrays"]
        assert list(found) == ["features.weight", "features.bias"]
        steps = np.concatenate([(view(found[n]) - view(sent[n])).ravel() for n in found])
        assert np.linalg.norm(steps) > 1.0  # ten times the clip: it is the noise


def test_flowers_accountant_refuses_our_aggregation():
    """Once it does not, the documentation can say how epsilon is counted."""
    config = PrivacyConfig(
        1e-5, 4, next(iter(NeighboringRelation)), SamplingMethod.NO_AMPLIFICATION
    )
    accountant = SimpleNamespace(config=config)  # the real one needs flwr[dp]
    with pytest.raises(ValueError, match="aggregate_train"):
        DifferentialPrivacyServerSideFixedClipping(
            PartialAveraging(), 1.0, 1.0, 4, accountant=accountant
        )
