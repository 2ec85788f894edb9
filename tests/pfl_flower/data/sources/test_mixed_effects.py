import numpy as np
import pytest

from pfl_flower.data import DataError, federation
from pfl_flower.data.records import SourceRequest
from pfl_flower.data.settings import DataSettings
from pfl_flower.data.sources.diabetes_sites import SMALLEST, diabetes_sites
from pfl_flower.data.sources.generated import TEST, TRAINING
from pfl_flower.data.sources.mixed_effects import (
    input_covariance,
    mixed_effects,
    mixed_effects_truth,
)


def request(clients, seed=100):
    return SourceRequest(None, False, seed, clients)


def test_clients_are_drawn_from_the_true_prior():
    clients = 400
    truth = mixed_effects_truth(100, clients)
    found = truth.coefficients - truth.mean
    np.testing.assert_allclose(found.T @ found / clients, truth.covariance, atol=0.1)
    assert np.linalg.eigvalsh(truth.covariance)[0] > 0
    examples = mixed_effects(request(3))
    design = np.column_stack([examples.inputs.double().numpy(), np.ones(len(examples))])
    targets = examples.targets.double().numpy()
    for client in range(3):
        mine = examples.owner == client
        assert (mine & (examples.fold == 0)).sum() == TRAINING
        assert (mine & (examples.fold == 1)).sum() == TEST
        own = truth.coefficients[client]
        assert np.var(targets[mine] - design[mine] @ own) == pytest.approx(truth.noise, rel=0.3)
        near = np.linalg.lstsq(design[mine], targets[mine], rcond=None)[0]
        np.testing.assert_allclose(near, own, atol=0.4)
    np.testing.assert_allclose(np.cov(design[:, :-1].T), input_covariance(), atol=0.15)


def test_a_client_does_not_depend_on_the_number_of_clients():
    few, many = mixed_effects_truth(100, 2), mixed_effects_truth(100, 5)
    assert few.coefficients.tolist() == many.coefficients[:2].tolist()
    assert mixed_effects_truth(101, 2).mean.tolist() != few.mean.tolist()
    few, many = mixed_effects(request(2)), mixed_effects(request(5))
    assert few.targets.tolist() == many.targets[: len(few)].tolist()


def test_features_of_mixed_effects_are_not_standardised():
    settings = DataSettings("mixed-effects", "natural", seed=100, validation_fraction=0.0)
    everybody = federation(settings, 3)
    assert everybody.schema.features is None
    assert everybody.schema.target is not None
    raw = mixed_effects(request(3)).inputs
    train = everybody.client(0).train[0]
    assert {tuple(row) for row in train.tolist()} <= {tuple(row) for row in raw.tolist()}


@pytest.mark.parametrize("clients", [1, 30, 147])
def test_every_patient_is_at_one_site_with_others_of_like_body_mass(clients):
    from sklearn.datasets import load_diabetes

    features, targets = load_diabetes(return_X_y=True, scaled=False)
    examples = diabetes_sites(request(clients))
    sizes = np.bincount(examples.owner, minlength=clients)
    assert len(sizes) == clients
    assert sizes.sum() == len(features)
    assert sizes.min() >= SMALLEST
    np.testing.assert_allclose(examples.targets, targets)
    np.testing.assert_allclose(examples.inputs, np.delete(features, 2, axis=1), rtol=1e-6)
    assert clients == 1 or np.corrcoef(examples.owner, features[:, 2])[0, 1] > 0.85


def test_sites_depend_on_the_seed_and_cannot_be_too_many():
    one, other = diabetes_sites(request(30)), diabetes_sites(request(30, seed=101))
    assert one.owner.tolist() != other.owner.tolist()
    with pytest.raises(DataError) as error:
        diabetes_sites(request(148))
    assert (error.value.key, error.value.value) == ("num_clients", 148)
