import json

import numpy as np
import pytest

from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from simulations.__main__ import main
from simulations.studies.sensors import (
    CLASSES_STUDY,
    CORRECTED,
    NAIVE,
    PLAIN,
    STUDY,
    TRUTH,
    WEIGHTED,
    mean_bias,
    measure_slopes,
    slope_table,
    tier_accuracy,
)
from simulations.study import Arm, Outcome, Result


def sloped(arm, seed, slopes):
    return Result(Arm(arm, {}), seed, {0: 1.0}, {}, {"slopes": list(slopes)})


def test_bias_is_that_of_the_mean_over_seeds_and_not_its_spread():
    outcome = Outcome(
        [
            *(sloped(NAIVE, seed, TRUTH - 0.2) for seed in range(2)),
            *(sloped(CORRECTED, seed, TRUTH + (0.1, -0.1)[seed]) for seed in range(2)),
        ]
    )
    assert mean_bias(outcome, NAIVE) == pytest.approx(0.2)
    assert mean_bias(outcome, CORRECTED) == pytest.approx(0.0, abs=1e-12)
    (claim,) = STUDY.claims(outcome)
    assert claim.holds
    rows = slope_table(outcome)["slopes against the truth"]
    assert rows[1]["mean absolute error"] == pytest.approx(0.1)
    assert rows[0]["bias of the first slope"] == pytest.approx(-0.2)


@pytest.mark.integration
@pytest.mark.parametrize("config", [{"method": CORRECTED}, {"method": "fedavg"}])
def test_slopes_are_measured_in_the_unit_of_the_truth(config):
    rounds = 1 if config["method"] == CORRECTED else 60
    exact = {"noise": "", "tiers": "", "baselines": "", "seed": 100, "num-server-rounds": rounds}
    (run,) = simulate(RunConfig.used({**STUDY.config, **exact, **config}), 6)
    np.testing.assert_allclose(measure_slopes(run)["slopes"], TRUTH, atol=0.1)


def test_a_correction_that_leaves_more_than_a_tenth_fails():
    outcome = Outcome([sloped(NAIVE, 0, TRUTH - 0.2), sloped(CORRECTED, 0, TRUTH - 0.021)])
    assert not STUDY.claims(outcome)[0].holds


TIERS = {0: 0, 1: 1, 2: 2, 3: 0}


def scored(arm, scores, corrupted_clients=()):
    measures = {"tiers": TIERS, "corrupted-clients": list(corrupted_clients)}
    return Result(Arm(arm, {}), 0, dict(enumerate(scores)), {}, measures)


def test_tiers_are_of_honest_clients_and_a_corrupted_client_costs_what_they_lose():
    outcome = Outcome(
        [
            scored(PLAIN, [0.8, 0.8, 0.6, 0.9]),
            scored(WEIGHTED, [0.9, 0.8, 0.6, 0.9]),
            scored(
                f"{WEIGHTED}, a corrupted client", [0.9, 0.75, 0.55, 0.0], corrupted_clients=[3]
            ),
        ]
    )
    assert tier_accuracy(outcome, WEIGHTED, 0).tolist() == [pytest.approx(0.9)]
    assert tier_accuracy(outcome, f"{WEIGHTED}, a corrupted client", 0).tolist() == [
        pytest.approx(0.9)
    ]
    good, bad, corrupted = CLASSES_STUDY.claims(outcome)
    assert (good.value, bad.value) == (pytest.approx(0.05), pytest.approx(0.0))
    assert corrupted.value == pytest.approx(-0.1 / 3)
    assert [claim.holds for claim in (good, bad, corrupted)] == [True, True, False]
    only = Outcome([scored(WEIGHTED, [0.9, 0.8, 0.6, 0.9], corrupted_clients=[2])])
    assert np.isnan(tier_accuracy(only, WEIGHTED, 2)).all()


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "picture"), [("sensors", "slope.png"), ("sensors-classes", "devices.png")]
)
def test_a_small_run_writes_its_table_and_picture(name, picture, tmp_path, capsys):
    arguments = [name, "--seeds", "100", "--rounds", "1", "--jobs", "1", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert (tmp_path / picture).exists()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert CORRECTED in summary["methods"]
    assert summary["claims"]
