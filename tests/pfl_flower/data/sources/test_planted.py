import numpy as np
import pytest

from pfl_flower.data import DataError, federation
from pfl_flower.data.records import SourceRequest
from pfl_flower.data.settings import DataSettings
from pfl_flower.data.sources.diabetes_sites import SMALLEST, diabetes_sites
from pfl_flower.data.sources.planted import TEST, TRAINING, input_covariance, planted, planted_truth


def request(clients, seed=100):
    return SourceRequest(None, False, seed, clients)


def test_planted_clients_are_drawn_as_the_truth_says():
    clients = 400
    truth = planted_truth(100, clients)
    found = truth.coefficients - truth.mean
    np.testing.assert_allclose(found.T @ found / clients, truth.covariance, atol=0.1)
    assert np.linalg.eigvalsh(truth.covariance)[0] > 0
    examples = planted(request(3))
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


def test_a_planted_client_is_the_same_however_many_there_are():
    few, many = planted_truth(100, 2), planted_truth(100, 5)
    assert few.coefficients.tolist() == many.coefficients[:2].tolist()
    assert planted_truth(101, 2).mean.tolist() != few.mean.tolist()
    few, many = planted(request(2)), planted(request(5))
    assert few.targets.tolist() == many.targets[: len(few)].tolist()


def test_planted_features_stay_as_they_are():
    settings = DataSettings("planted", "natural", seed=100, validation_fraction=0.0)
    everybody = federation(settings, 3)
    assert everybody.schema.features is None
    assert everybody.schema.target is not None
    raw = planted(request(3)).inputs
    train = everybody.client(0).train[0]
    assert {tuple(row) for row in train.tolist()} <= {tuple(row) for row in raw.tolist()}


@pytest.mark.parametrize("sites", [1, 30, 147])
def test_every_patient_is_at_one_site_with_others_of_like_body_mass(sites):
    from sklearn.datasets import load_diabetes

    features, targets = load_diabetes(return_X_y=True, scaled=False)
    examples = diabetes_sites(request(sites))
    sizes = np.bincount(examples.owner, minlength=sites)
    assert len(sizes) == sites
    assert sizes.sum() == len(features)
    assert sizes.min() >= SMALLEST
    np.testing.assert_allclose(examples.targets, targets)
    np.testing.assert_allclose(examples.inputs, np.delete(features, 2, axis=1), rtol=1e-6)
    assert sites == 1 or np.corrcoef(examples.owner, features[:, 2])[0, 1] > 0.85


def test_sites_depend_on_the_seed_and_cannot_be_too_many():
    one, other = diabetes_sites(request(30)), diabetes_sites(request(30, seed=101))
    assert one.owner.tolist() != other.owner.tolist()
    with pytest.raises(DataError, match="at most 147 clients"):
        diabetes_sites(request(148))
