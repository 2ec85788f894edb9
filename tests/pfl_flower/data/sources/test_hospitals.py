import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer

from pfl_flower.data import DataSettings, Federation
from pfl_flower.data.records import SourceRequest
from pfl_flower.data.sources import hospitals as module
from pfl_flower.data.sources.hospitals import SIZES, TESTS, hospitals_of


def test_hospitals_are_what_they_promise():
    settings = DataSettings("hospitals", "natural", validation_fraction=0.08, seed=5)
    data = Federation(settings, 10)
    about = hospitals_of(5, 10)
    np.testing.assert_allclose(sorted(h.prevalence for h in about), np.linspace(0.05, 0.6, 10))
    sizes = sorted(h.size for h in about)
    assert (sizes[0], sizes[-1]) == SIZES
    np.testing.assert_allclose(np.diff(np.log(sizes)), np.log(400 / 60) / 9, atol=0.02)
    for client, hospital in enumerate(about):
        own = data.client(client)
        learn = torch.cat([own.train[1], own.validation[1]])
        assert len(learn) == hospital.size
        assert len(own.test[1]) == TESTS * hospital.size
        assert len(own.validation[1]) == pytest.approx(0.4 * hospital.size, abs=1)
        for labels in (learn, own.test[1]):
            assert int(labels.sum()) == round(hospital.prevalence * len(labels))
    other = hospitals_of(6, 10)
    assert [h.prevalence for h in other] != [h.prevalence for h in about]
    assert [h.size for h in other] != [h.size for h in about]


def test_patients_to_test_on_are_not_those_to_learn_from(monkeypatch):
    monkeypatch.setattr(module, "NOISE", 0.0)
    found = module.hospitals(SourceRequest(None, False, 3, 6))
    rows = {row.tobytes(): place for place, row in enumerate(found.inputs.numpy())}
    folds = [{r.tobytes() for r in found.inputs[found.fold == f].numpy()} for f in (0, 1)]
    assert folds[0].isdisjoint(folds[1])
    features, benign = load_breast_cancer(return_X_y=True)
    known = {
        row.tobytes(): y == 0 for row, y in zip(features.astype(np.float32), benign, strict=True)
    }
    assert all(known[row] == bool(found.targets[place]) for row, place in rows.items())


def test_the_noise_is_three_deviations():
    found = module.hospitals(SourceRequest(None, False, 3, 6))
    deviation = load_breast_cancer(return_X_y=True)[0].std(axis=0)
    spread = found.inputs.numpy().astype(float).std(axis=0)
    np.testing.assert_allclose(spread / deviation, np.sqrt(1 + 3.0**2), rtol=0.06)
