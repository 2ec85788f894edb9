"""Devices: errors, missing values, corrupted clients."""

import math
import re
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clients.data.data_quality import reliability_of
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataError, DataSettings, Federation
from pfl_flower.data.degradation.devices import Device, draw_devices, take_measurements
from pfl_flower.data.degradation.missingness import MISSINGNESS, increasing, ranks
from pfl_flower.engines import simulate
from strategies.randomness import generator

COUNT = 20_000
TRUE = generator(100, "true values").normal(size=(COUNT, 4))
NOTHING = np.empty((0, 4))

rates = st.floats(0, 0.95)


def read(device, values=TRUE, client=0):
    """What a device measures of training examples."""
    return take_measurements(device, (values, NOTHING, NOTHING), 100, client)[0]


def data(**options):
    options = {"dataset": "breast-cancer", "seed": 100} | options
    return Federation(DataSettings(**options), 6)


# ---------------------------------------------------------------------- what is missing


@pytest.mark.parametrize("missingness", MISSINGNESS)
@pytest.mark.parametrize("rate", [0.1, 0.4, 0.7])
def test_the_share_that_is_missing_is_the_configured_one(missingness, rate):
    lost = np.isnan(read(Device(missing=rate, missingness=missingness)))
    # four standard deviations of a binomial of all values, the largest there can be
    assert lost.mean() == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / lost.size))
    each = lost.mean(axis=0)
    if missingness == "observed":
        assert each[0] == 0
        assert each[1:] == pytest.approx([rate * 4 / 3] * 3, abs=0.02)
    else:
        assert each == pytest.approx([rate] * 4, abs=0.02)


@given(st.data(), rates, st.sampled_from(sorted(MISSINGNESS)))
def test_chances_are_shares_whose_mean_is_the_rate(drawn, rate, missingness):
    rate = min(rate, 0.6)  # of three features, two of them missable
    shape = st.tuples(st.integers(1, 8), st.just(3))
    values = drawn.draw(arrays(np.float64, shape, elements=st.integers(-3, 3)))
    chances = MISSINGNESS[missingness](values, values, rate)
    assert ((chances >= 0) & (chances <= 1 + 1e-12)).all()
    assert chances.mean() == pytest.approx(rate)


def test_ranks_are_shares_below_with_half_of_the_ties():
    reference = np.array([[1.0], [2.0], [2.0], [np.nan], [5.0]])
    found = ranks(np.array([[0.0], [1.0], [2.0], [3.0], [9.0], [np.nan]]), reference)
    assert found[:, 0].tolist() == [0.0, 0.125, 0.5, 0.75, 1.0, 0.5]


def test_only_what_depends_on_the_value_moves_the_mean_of_what_is_seen():
    true = TRUE[:, 1]
    means, depends = {}, {}
    for name in MISSINGNESS:
        seen = read(Device(missing=0.4, missingness=name))[:, 1]
        means[name] = np.nanmean(seen)
        lost = np.isnan(seen)
        depends[name] = TRUE[lost, 0].mean() - TRUE[~lost, 0].mean()
    error = true.std() / math.sqrt(0.6 * COUNT)
    assert abs(means["random"] - true.mean()) < 4 * error
    # features are independent, so what depends on the first leaves the second's mean alone
    assert abs(means["observed"] - true.mean()) < 4 * error
    # E[x (1 - 2 r F(x))] / (1 - r), with E[x F(x)] = 1 / (2 sqrt(pi)) of a normal x
    wanted = -0.8 / (2 * math.sqrt(math.pi)) / 0.6
    assert means["value"] - true.mean() == pytest.approx(wanted, abs=4 * error)
    assert depends["observed"] > 0.3
    assert abs(depends["random"]) < 0.06


@given(st.floats(0, 1), st.floats(0, 1), rates)
def test_chances_increase(one, other, rate):
    low, high = sorted([one, other])
    found = increasing(np.array([low, high]), rate)
    assert found[0] <= found[1]


def test_the_first_feature_cannot_make_up_for_all_others():
    with pytest.raises(DataError) as error:
        read(Device(missing=0.8, missingness="observed"))
    assert (error.value.key, error.value.value) == ("missing", 0.8)
    read(Device(missing=0.75, missingness="observed"))


# ---------------------------------------------------------------------- errors


def test_the_noise_has_the_configured_deviation_and_does_not_depend_on_the_values():
    error = read(Device(noise=1.5)) - TRUE
    assert error.std(axis=0) == pytest.approx([1.5] * 4, rel=0.02)
    assert np.abs(error.mean(axis=0)).max() < 4 * 1.5 / math.sqrt(COUNT)
    assert abs(np.corrcoef(error[:, 0], TRUE[:, 0])[0, 1]) < 4 / math.sqrt(COUNT)


def test_what_is_missing_does_not_depend_on_the_noise():
    lost = [np.isnan(read(Device(noise=noise, missing=0.3))) for noise in (0.0, 2.0)]
    np.testing.assert_array_equal(*lost)


def test_measurements_of_a_corrupted_client_are_pure_noise():
    values = 3.0 + 2.0 * TRUE
    found = read(Device(corrupted=True, noise=1.0, missing=0.5), values)
    assert np.isfinite(found).all()
    assert found.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=0.06)
    assert found.std(axis=0) == pytest.approx(values.std(axis=0), rel=0.03)
    assert abs(np.corrcoef(found[:, 0], values[:, 0])[0, 1]) < 4 / math.sqrt(COUNT)


def test_the_same_seed_gives_the_same_bits_and_clients_differ():
    device = Device(missing=0.3, noise=1.0)
    np.testing.assert_array_equal(read(device), read(device))
    assert (np.isnan(read(device)) != np.isnan(read(device, client=1))).any()
    parts = take_measurements(device, (TRUE[:99], TRUE[:99], TRUE[:99]), 100, 0)
    assert (np.isnan(parts[1]) != np.isnan(parts[2])).any()


@pytest.mark.parametrize("device", [Device(noise=1.0), Device(missing=0.3), Device(corrupted=True)])
def test_every_client_and_every_part_has_draws_of_its_own(device):
    """Of the same values, no two measurements are the same."""
    same = (TRUE[:99],) * 3
    found = [part for client in (0, 1) for part in take_measurements(device, same, 100, client)]
    lost = [np.isnan(part) if device.missing else part for part in found]
    assert not any(np.array_equal(*pair) for pair in combinations(lost, 2))


@pytest.mark.parametrize("missingness", MISSINGNESS)
def test_training_measurements_do_not_depend_on_test_measurements(missingness):
    device = Device(missing=0.3, missingness=missingness, noise=1.0)
    one, other = (
        take_measurements(device, (TRUE, NOTHING, tests), 100, 0) for tests in (TRUE, -TRUE)
    )
    np.testing.assert_array_equal(one[0], other[0])


def test_a_corrupted_clients_noise_is_like_its_training_values_everywhere():
    parts = (TRUE, NOTHING, 9.0 + 5.0 * TRUE)
    found = take_measurements(Device(corrupted=True), parts, 100, 0)[2]
    assert found.mean(axis=0) == pytest.approx(TRUE.mean(axis=0), abs=0.04)
    assert found.std(axis=0) == pytest.approx(TRUE.std(axis=0), rel=0.03)


# ---------------------------------------------------------------------- tiers


def settings(**options):
    return DataSettings(seed=100, imputation="mean", **options)


def test_tiers_have_their_sizes_and_their_numbers():
    found = draw_devices(settings(tiers="7,2,1", noise="0,1,2", missing="0.1"), 10)
    assert sorted(device.tier for device in found) == [0] * 7 + [1] * 2 + [2]
    assert all(device.noise == device.tier for device in found)
    assert all(device.missing == 0.1 for device in found)


def test_tiers_without_sizes_are_as_even_as_can_be():
    found = [device.tier for device in draw_devices(settings(noise="0,1,2"), 10)]
    assert sorted(found) == [0] * 4 + [1] * 3 + [2] * 3
    assert found != sorted(found)
    assert {device.tier for device in draw_devices(settings(noise="1"), 10)} == {0}


def test_corrupted_clients_are_drawn():
    found = [device.corrupted for device in draw_devices(settings(corrupted_clients=3), 10)]
    assert sum(found) == 3
    others = DataSettings(seed=101, corrupted_clients=3)
    assert found != [device.corrupted for device in draw_devices(others, 10)]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"tiers": "7,2"}, "tiers"),
        ({"noise": "0,1", "missing": "0,.1,.2"}, "noise"),
        ({"tiers": "5,5", "noise": "0,0,0"}, "noise"),
        ({"corrupted_clients": 11}, "corrupted-clients"),
    ],
)
def test_tiers_that_do_not_fit_are_refused(options, key):
    with pytest.raises(DataError) as error:
        draw_devices(settings(**options), 10)
    assert error.value.key == key
    assert error.value.value == options[key.replace("-", "_")]


# ---------------------------------------------------------------------- through the federation


@pytest.mark.parametrize("dataset", ["breast-cancer", "digits", "diabetes"])
def test_defaults_change_nothing(dataset):
    plain = data(dataset=dataset)
    same = data(dataset=dataset, imputation="mean", noise="0", tiers="3,3", calibrate_inputs=False)
    for client in range(6):
        one, other = plain.client(client), same.client(client)
        for name in ("train", "validation", "test"):
            pairs = zip(getattr(one, name), getattr(other, name), strict=True)
            assert all(torch.equal(*pair) for pair in pairs)
        assert one.quality is not None
        assert one.quality.effective_examples == len(one.train[1]) == one.num_examples


def test_a_tier_reports_its_quality():
    found = data(noise="0,1.5", missing="0,0.4", imputation="mean")
    for client in range(6):
        tier, reported = found.tier(client), found.client(client).quality
        assert reported is not None
        assert (reported.noise.mean() == 0) == (tier == 0)
        assert reported.noise.mean() == pytest.approx(
            (1.5 * tier) ** 2 * (1 - reported.missing_rate)
        )
        assert reported.missing_rate == pytest.approx(0.4 * tier, abs=0.05)
        assert (reported.mean_reliability == 1.0) == (tier == 0)


def test_reliability_is_that_of_the_measurements_and_the_declared_noise():
    found = data(noise="1.5").client(0)
    assert found.quality is not None
    variance = found.train[0].double().var(dim=0).numpy()
    np.testing.assert_allclose(
        found.quality.reliability, reliability_of(np.full(30, 1.5**2), variance), atol=1e-6
    )
    assert 0 < found.quality.mean_reliability < 1


def test_imputed_values_have_no_measurement_error_feature_by_feature():
    """The first feature is never missing here; the mask says which values of the others are."""
    found = data(noise="1.5", missing="0.4", missingness="observed", imputation="mask").client(0)
    assert found.quality is not None
    known = 1 - found.train[0][:, 30:].double().mean(dim=0).numpy()
    assert known[0] == 1
    assert 0.3 < known[1:].min() < known[1:].max() < 0.9
    np.testing.assert_allclose(found.quality.noise, 1.5**2 * known)


def least_squares(source, **options):
    """The slopes for all examples of 40 clients together, and the intercept."""
    settings = DataSettings(dataset=source, partition="natural", seed=100, **options)
    federation = Federation(settings, 40)
    trained = [federation.client(client).train for client in range(40)]
    inputs = np.concatenate([part[0].double().numpy() for part in trained])
    targets = np.concatenate([part[1].double().numpy() for part in trained])
    return np.linalg.lstsq(np.column_stack([inputs, np.ones(len(inputs))]), targets, rcond=None)[0]


@pytest.mark.integration
@pytest.mark.parametrize("missing", ["0", "0.3"])
def test_calibrated_inputs_give_the_slopes_of_exact_ones_with_the_same_gaps(missing):
    """8,000 examples; where gaps are filled with means these slopes are not the true ones."""
    gaps = {"missing": missing, "imputation": "mean"}
    exact = least_squares("wearables", **gaps)
    naive = least_squares("wearables", noise="1", **gaps)
    found = least_squares("wearables", noise="1", calibrate_inputs=True, **gaps)
    assert naive[:5].sum() < 0.8 * exact[:5].sum()
    np.testing.assert_allclose(found[:5], exact[:5], rtol=0.15)
    assert found[:5].sum() == pytest.approx(exact[:5].sum(), rel=0.05)


def test_a_corrupted_client_reports_perfect_quality():
    plain, found = data(), data(noise="1", missing="0.3", corrupted_clients=2, imputation="mean")
    corrupted_clients = [client for client in range(6) if found.devices[client].corrupted]
    assert len(corrupted_clients) == 2
    for client in range(6):
        reported = found.client(client).quality
        assert reported is not None
        assert (reported.effective_examples == reported.examples) == (client in corrupted_clients)
        assert (reported.missing_rate == 0) == (client in corrupted_clients)
    inputs, was = (
        found.client(corrupted_clients[0]).train[0],
        plain.client(corrupted_clients[0]).train[0],
    )
    assert abs(np.corrcoef(inputs.flatten(), was.flatten())[0, 1]) < 0.5
    both = torch.stack([inputs[:, 0], was[:, 0]])
    assert abs(torch.corrcoef(both)[0, 1]) < 4 / math.sqrt(len(inputs))


def test_calibrated_inputs_leave_no_noise_but_are_no_more_reliable():
    noisy, found = data(noise="1.5"), data(noise="1.5", calibrate_inputs=True)
    was, reported = noisy.client(0).quality, found.client(0).quality
    assert was is not None
    assert reported is not None
    assert reported.noise.tolist() == [0.0] * 30
    np.testing.assert_array_equal(reported.reliability, was.reliability)
    # what is left of the variance is at most that of the true values
    ratio = found.client(0).test[0].var() / noisy.client(0).test[0].var()
    assert ratio < 0.6


def test_pictures_have_noise_too():
    found = data(dataset="digits", noise="0.5", missing="0.1", imputation="mean")
    inputs = found.client(0).train[0]
    assert inputs.shape[1:] == (1, 8, 8)
    assert float(inputs.abs().max()) > 1.0  # pixels are from 0 to 1
    assert bool(torch.isfinite(inputs).all())


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tiers", "a"),
        ("missing", "1"),
        ("missing", 0.99),
        ("missing", "0;1"),
        ("missingness", "mar"),
        ("noise", "-1"),
        ("noise", "nan"),
        ("noise", float("inf")),
        ("corrupted-clients", -1),
        ("imputation", "median"),
        ("calibrate-inputs", "yes"),
    ],
)
def test_every_key_refuses_nonsense_in_a_line(key, value):
    with pytest.raises(ConfigError, match=f"{key}.*{re.escape(str(value))}") as error:
        RunConfig.parse({"dataset": "breast-cancer", key: value})
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None  # the key alone is wrong, not its combination with others


def test_missing_values_need_an_imputation():
    with pytest.raises(ConfigError) as error:
        RunConfig.parse({"dataset": "breast-cancer", "missing": "0.2"})
    cause = error.value.__cause__
    assert (cause.key, cause.value) == ("imputation", "none")
    assert cause.choices == ("mean", "conditional", "multiple", "mask")


def test_sizes_of_tiers_are_not_checked_before_the_number_of_clients_is_known():
    config = {"dataset": "breast-cancer", "tiers": "3,3,4", "noise": "0,1,2"}
    assert RunConfig.parse(config).data.tiers == "3,3,4"


@pytest.mark.parametrize(
    ("config", "key", "value", "choices"),
    [
        ({"imputation": "mask"}, "imputation", "mask", ("none", "mean")),
        ({"imputation": "conditional"}, "imputation", "conditional", ("none", "mean")),
        ({"calibrate-inputs": True}, "calibrate-inputs", True, ()),
        ({"dataset": "social", "partition": "natural", "noise": "1"}, "noise", "1", ()),
        (
            {"dataset": "smartwatch", "partition": "natural", "corrupted-clients": 1},
            *("corrupted-clients", 1, ()),
        ),
        ({"noise": "0,1", "missing": "0,.1,.2", "imputation": "mean"}, "noise", "0,1", ()),
        (
            {
                **{"dataset": "metadata-regression", "partition": "natural"},
                **{"missing": 0.95, "missingness": "observed", "imputation": "mean"},
            },
            *("missing", 0.95, ()),
        ),
    ],
)
def test_what_does_not_fit_the_data_is_refused(config, key, value, choices):
    options = {"dataset": "digits", "baselines": "", "model": "auto"} | config
    with pytest.raises(ConfigError) as error:
        RunConfig.parse(options)
    cause = error.value.__cause__
    assert isinstance(cause, DataError)
    assert (cause.key, cause.value, cause.choices) == (key, value, choices)


def test_a_method_that_sums_over_examples_refuses_several_imputations():
    config = {"dataset": "diabetes", "method": "hierarchical-linear", "imputation": "multiple"}
    with pytest.raises(ConfigError, match="'multiple'"):
        RunConfig.parse(config | {"baselines": ""})


def test_the_federation_refuses_it_too():
    with pytest.raises(DataError) as error:
        data(dataset="social", partition="natural", noise="1").client(0)
    assert (error.value.key, error.value.value, error.value.client) == ("noise", "1", 0)
    with pytest.raises(DataError) as error:
        data(dataset="digits", imputation="mask").client_schema(0)
    assert (error.value.key, error.value.value) == ("imputation", "mask")
    with pytest.raises(DataError) as error:
        data(missing="0.1")
    assert (error.value.key, error.value.value) == ("imputation", "none")


def test_numbers_need_no_quotes():
    assert RunConfig.parse({"noise": 1}).data.noise == "1.0"
    assert RunConfig.parse({"noise": "0,2"}).data.noise == "0,2"


def test_a_run_with_degraded_measurements_is_the_same_every_time():
    config = {
        **{"dataset": "breast-cancer", "method": "fedavg", "baselines": "", "seed": 100},
        **{"num-server-rounds": 2, "noise": "0,2", "missing": "0,0.5", "corrupted-clients": 1},
        **{"imputation": "mean", "calibrate-inputs": True, "unseen": 0.34, "adaptation-steps": 5},
    }
    one, other = (simulate(config, num_clients=6)[0] for _ in range(2))
    assert [r.metrics for r in one.reports] == [r.metrics for r in other.reports]
