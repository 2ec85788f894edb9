import numpy as np
import pytest
import torch
from torch import nn

from clients import (
    Classification,
    ClientDetails,
    ErrorsInVariablesClient,
    Regression,
    assign_scopes,
    in_memory_loader,
)
from clients.data.data_quality import DataQuality, calibration
from clients.measurement_error.errors_in_variables import Calibrated
from strategies.errors import ArgumentError
from strategies.measurement_error.corrected_moments import coefficients, error_moments
from strategies.measurement_error.errors_in_variables import NAMES, model_arrays
from tests.errors import refused

SLOPES = np.array([1.0, -2.0])
NOISE = 0.8


class Linear(nn.Module):
    def __init__(self, outputs=1):
        super().__init__()
        self.head = nn.Linear(2, outputs)

    def forward(self, inputs):
        return self.head(inputs.flatten(1))


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, inputs):
        return self.head(torch.relu(self.body(inputs)))


def measurements(count, seed=0, noise=NOISE):
    draw = np.random.default_rng(seed)
    true = draw.normal(size=(count, 2)) @ np.array([[1.0, 0.6], [0.0, 1.5]])
    targets = true @ SLOPES + 0.5 + 0.3 * draw.normal(size=count)
    seen = true + np.sqrt(noise) * draw.normal(size=true.shape)
    return torch.from_numpy(seen).float(), torch.from_numpy(targets).float()


def quality(examples, noise=NOISE, missing=0.0, size=2):
    return DataQuality(examples, missing, np.full(size, noise), np.full(size, 1 / (1 + noise)))


def client(train, test=None, model=None, task=None, reported=None, personal="none"):
    model = model or Linear()
    return ErrorsInVariablesClient(
        model,
        assign_scopes(model, personal),
        in_memory_loader(*train, 16, shuffle=True),
        None,
        in_memory_loader(*(test or train), 64),
        task=task or Regression(),
        details=ClientDetails(quality=reported),
        partition_id=0,
    )


def fitted(one, sent=None):
    sent = model_arrays(np.zeros((one.layer.out_features, 3))) if sent is None else sent
    arrays, count, metrics = one.fit(list(sent.values()), {"server-round": 1})
    return dict(zip(NAMES, arrays, strict=True)), count, metrics


def test_it_tells_its_moments_and_the_error_it_states():
    train = measurements(50)
    reported, count, metrics = fitted(client(train, reported=quality(50)))
    wanted = error_moments(train[0].double().numpy(), train[1].double().numpy(), np.full(2, NOISE))
    np.testing.assert_allclose(reported["coefficients"], wanted.cross, rtol=1e-9)
    np.testing.assert_allclose(reported["gram"], wanted.gram, rtol=1e-9)
    np.testing.assert_allclose(reported["errors"], wanted.errors)
    assert count == 50
    assert metrics["reliability"] == pytest.approx(1 / 1.8)


def test_measurements_of_unknown_quality_count_as_exact():
    reported, _, metrics = fitted(client(measurements(50)))
    assert not reported["errors"].any()
    assert "reliability" not in metrics


def test_classes_are_reported_as_sums_by_class():
    inputs, _ = measurements(40)
    labels = (inputs[:, 0] > 0).long()
    reported, *_ = fitted(client((inputs, labels), model=Linear(3), task=Classification()))
    counts = torch.bincount(labels, minlength=3).tolist()
    assert reported["coefficients"][:, -1].tolist() == counts
    assert reported["gram"][-1, -1] == 40


def evaluated(one, values, **config):
    sent = model_arrays(values)
    return one.evaluate(list(sent.values()), {"server-round": 1, **config})


TRUE_MODEL = np.array([[1.0, -2.0, 0.5]])


def test_it_predicts_from_calibrated_measurements_and_better_than_by_either_slope_alone():
    """The true slopes behind E[X | W] are as good as least squares on the measurements."""
    train, test = measurements(4000), measurements(4000, seed=1)
    (calibrated, *_) = evaluated(client(train, test, reported=quality(4000)), TRUE_MODEL)
    (raw, *_) = evaluated(client(train, test), TRUE_MODEL)
    moments = error_moments(*(part.double().numpy() for part in train), np.zeros(2))
    (naive, *_) = evaluated(client(train, test), coefficients(moments)[0])
    assert calibrated == pytest.approx(naive, rel=0.01)
    assert raw > 1.3 * calibrated


def test_the_predictor_is_calibration_then_layer():
    train = measurements(60)
    noise = np.array([NOISE, 0.1])  # of unequal noise the matrix is not symmetric
    one = client(train, reported=DataQuality(60, 0.0, noise, np.array([0.6, 0.9])))
    evaluated(one, TRUE_MODEL)
    predictor = one.predictor()
    assert isinstance(predictor, Calibrated)
    values = train[0].double().numpy()
    matrix, mean = calibration(values, noise)
    wanted = (mean + (values - mean) @ matrix.T) @ TRUE_MODEL[0, :2] + TRUE_MODEL[0, 2]
    found = predictor(train[0]).detach().numpy().ravel()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_exact_measurements_and_no_examples_need_no_calibration():
    assert client(measurements(20), reported=quality(20, noise=0.0)).predictor().__class__ is Linear
    nobody = (torch.zeros(0, 2), torch.zeros(0))
    one = client(nobody, measurements(10), reported=quality(0))
    assert one.predictor() is one.model


def test_an_unseen_client_calibrates_on_the_examples_it_may_use():
    train = measurements(200)
    one = client(train, reported=quality(200))
    evaluated(one, TRUE_MODEL, **{"adaptation-examples": 50, "adaptation-steps": 3})
    inputs, _ = one._first_examples(50)
    matrix, _ = calibration(inputs.double().numpy(), np.full(2, NOISE))
    np.testing.assert_allclose(one.predictor().matrix.numpy(), matrix, rtol=1e-5, atol=1e-6)
    evaluated(one, TRUE_MODEL, **{"adaptation-examples": 0, "adaptation-steps": 3})
    assert one.predictor() is one.model


@pytest.mark.parametrize("few", [1, 3])
def test_too_few_measurements_make_no_calibration(few):
    one = client(measurements(few), measurements(10), reported=quality(few))
    assert one.predictor() is one.model


def test_what_is_refused():
    with refused(ArgumentError, argument="model"):
        client(measurements(5), model=Deep())
    with refused(ArgumentError, argument="shape of noise", value=(4,)):
        client(measurements(5), reported=quality(5, size=4))
    with refused(ArgumentError, argument="personal_names"):
        client(measurements(5), personal="all")
    with refused(ArgumentError, argument="shape of coefficients", value=(1, 7)):
        evaluated(client(measurements(5)), np.zeros((1, 7)))
