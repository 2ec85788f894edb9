import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from clients import PersonalClient, assign_scopes, in_memory_loader
from clients.local_training.normalization_buffers import settle_spectral_norm, spectral_vectors
from pfl_flower.engines import simulate
from strategies.arrays import view
from strategies.errors import ArgumentError
from tests.errors import refused

BOTH = pytest.mark.parametrize("kind", [parametrizations.spectral_norm, spectral_norm])


class Spectral(nn.Module):
    parts = {"head": ("f.3",)}

    def __init__(self, shape, num_classes):
        super().__init__()
        kind = parametrizations.spectral_norm
        self.f = nn.Sequential(
            nn.Flatten(), kind(nn.Linear(64, 32)), nn.ReLU(), kind(nn.Linear(32, num_classes))
        )

    def forward(self, x):
        return 10 * self.f(x)


def client_of(model, features):
    inputs, targets = torch.randn(8, features), torch.tensor([0, 1] * 4)
    loader = in_memory_loader(inputs, targets, 4)
    return PersonalClient(model, assign_scopes(model), loader, test_loader=loader)


def test_a_negative_variance_is_refused_by_name_and_changes_nothing():
    client = client_of(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)), 4)
    arrays = client.get_parameters({})
    changed = [values + 1 for values in arrays]
    changed[client.shared_names.index("1.running_var")][3] = -0.06
    for answer in (client.fit, client.evaluate):
        with refused(ArgumentError, argument="1.running_var"):
            answer(changed, {})
    for values, others in zip(arrays, client.get_parameters({}), strict=True):
        np.testing.assert_array_equal(values, others)


@BOTH
def test_vectors_of_spectral_norm_are_those_of_the_weights_that_arrived(kind):
    torch.manual_seed(0)
    client = client_of(nn.Sequential(kind(nn.Linear(4, 3)), kind(nn.Linear(3, 2))), 4)
    names = spectral_vectors(client.model)
    arrays = dict(zip(client.shared_names, client.get_parameters({}), strict=True))
    assert len(names) == 4
    for name in names:
        arrays[name] *= 0.3
    client.receive(list(arrays.values()))
    client.model.eval()
    for layer in client.model:
        assert float(
            torch.linalg.matrix_norm(layer(torch.eye(layer.in_features)).T - layer.bias[:, None], 2)
        ) == pytest.approx(1, abs=1e-3)
    for name in names:
        assert float(client.entries[name].norm()) == pytest.approx(1, abs=1e-5)


@BOTH
def test_vectors_that_cancelled_out_are_found_again(kind):
    layer = kind(nn.Linear(5, 4))
    with torch.no_grad():
        for buffer in layer.buffers():
            buffer.zero_()
    settle_spectral_norm(layer)
    assert all(float(buffer.norm()) == pytest.approx(1, abs=1e-5) for buffer in layer.buffers())


@pytest.mark.parametrize("method", ["fedavg", "apfl", "hierarchical-bayes"])
def test_runs_with_spectral_norm_end_with_unit_vectors(method):
    config = {
        "dataset": "digits",
        "heterogeneity": "taste",
        "model": "tests.clients.local_training.test_normalization_buffers:Spectral",
        "method": method,
        "baselines": "",
        "num-server-rounds": 2,
        "learning-rate": 0.01,
    }
    (run,) = simulate(config, 3)
    norms = {n: np.linalg.norm(view(a)) for n, a in run.arrays.items() if n[-2:] in ("_u", "_v")}
    assert len(norms) == 4
    assert list(norms.values()) == pytest.approx([1.0] * 4, abs=1e-5)
