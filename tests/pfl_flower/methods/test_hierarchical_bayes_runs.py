"""The method hierarchical-bayes in whole runs."""

import numpy as np
import pytest

from clients import Scope, ScopeError
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from pfl_flower.results.files import write
from tests.errors import refused
from tests.helpers import decoded

SMALL = {
    "method": "hierarchical-bayes",
    "num-server-rounds": 2,
    "local-epochs": 1,
    "max-examples": 20,
    "baselines": "",
}


@pytest.mark.integration
def test_unseen_clients_a_safeguard_and_few_clients_a_round():
    extras = {"unseen": 0.25, "safeguard": True, "fraction-train": 0.5, "posterior-samples": 2}
    runs = simulate(SMALL | extras, 4)
    assert [run.method for run in runs][-1] == "hierarchical-bayes safeguarded"
    joined = {count: reports[0].metrics["loss"] for count, reports in runs[0].unseen.items()}
    assert np.isfinite(list(joined.values())).all()
    assert joined[0] != joined[1] != joined[-1]
    assert runs[0].parameters["personal"] > 0
    assert not any(report.dropped for run in runs for report in run.reports)
    assert not any(report.dropped for reports in runs[0].unseen.values() for report in reports)


def test_one_client_only():
    (run,) = simulate(SMALL, 1)
    assert run.by_client("shrinkage")[0] < 1
    assert all(np.isfinite(values).all() for values in decoded(run.arrays).values())


def test_a_run_starts_from_the_prior_of_an_earlier_one(tmp_path):
    (first,) = simulate(SMALL, 3)
    write(tmp_path, [first])
    (second,) = simulate(SMALL | {"initial": str(tmp_path), "local-epochs": 0}, 3)
    # nobody moved: theta = mu and F is that of the prior mean
    one, other = decoded(first.arrays), decoded(second.arrays)
    for name, values in one.items():
        if name.startswith("prior-variance/"):
            assert (other[name] < values).mean() > 0.5
        elif name.startswith("head"):
            np.testing.assert_allclose(other[name], values, atol=1e-6)


def test_a_prior_over_the_whole_model_and_regression():
    (run,) = simulate(SMALL | {"prior": "all", "model": "mlp", "posterior-samples": 2}, 3)
    assert np.isfinite(run.values("loss")).all()
    (run,) = simulate(SMALL | {"dataset": "diabetes", "posterior-samples": 2}, 3)
    assert np.isfinite(run.values()).all()
    assert "calibration-error" not in run.reports[-1].metrics


@pytest.mark.parametrize(
    ("method", "key", "value", "choices"),
    [
        ("fedper", "prior-weight", 1.0, ("hierarchical-bayes",)),
        ("fedper", "posterior-samples", 1, ("hierarchical-bayes",)),
        ("hierarchical-bayes", "prior-variance", 0.0, ()),
        ("hierarchical-bayes", "prior-variance", float("inf"), ()),
        ("hierarchical-bayes", "prior-weight", -1.0, ()),
        ("hierarchical-bayes", "posterior-samples", -1, ()),
    ],
)
def test_wrong_keys_are_refused(method, key, value, choices):
    with refused(ConfigError, key=key, value=value, choices=choices):
        RunConfig.parse({"method": method, key: value})


def test_a_prior_over_what_is_personal_ends_the_run_at_once():
    entries = ("head.weight", "head.bias")
    with refused(ScopeError, rule="head", entries=entries, scopes=(Scope.PERSONAL,) * 2):
        simulate(SMALL | {"personal": "all"}, 2)
