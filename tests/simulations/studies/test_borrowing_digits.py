import numpy as np
import pytest

from simulations.studies.borrowing_digits import (
    ENDS,
    OWN,
    TEST_PICTURES,
    _claims,
    accuracy_by_size,
    gain,
    load,
)
from simulations.study import Arm, Outcome, Result

SIZES = (2, 4, 7, 15, 30, 60, 150)


def outcome_of(**accuracy):
    """Two seeds of a client of every size: arm -> function of the size and the seed."""
    examples = dict(enumerate(SIZES))
    return Outcome(
        [
            Result(
                Arm(name.replace("_", "-"), {}),
                seed,
                {client: of(size, seed) for client, size in examples.items()},
                {},
                {"examples": examples},
            )
            for name, of in accuracy.items()
            for seed in (0, 1)
        ]
    )


def test_nobody_is_judged_on_a_picture_that_anybody_trains_on():
    arrays = load(3, 30)
    assert len(arrays["y_test"]) == TEST_PICTURES
    assert len(arrays["y_train"]) + TEST_PICTURES == 1797
    train, test = ({picture.tobytes() for picture in arrays[f"x_{n}"]} for n in ("train", "test"))
    assert not train & test
    assert arrays["x_train"].max() == 1.0
    np.testing.assert_array_equal(arrays["x_test"], load(4, 30)["x_test"])


def test_gains_are_paired_and_of_the_clients_of_some_sizes():
    outcome = outcome_of(
        hierarchical_bayes=lambda size, seed: 0.5 + size / 1000 + 0.2 * seed,
        local=lambda size, seed: 0.4 + size / 1000,
    )
    mean, error = gain(outcome, "local", 2, 5)  # two clients on two seeds
    assert mean == pytest.approx(0.2)
    assert error == pytest.approx(np.std([0.1, 0.1, 0.3, 0.3], ddof=1) / 2)
    found = accuracy_by_size(outcome, "local")
    assert found == pytest.approx([0.403, 0.407, 0.415, 0.43, 0.46, 0.55])
    assert np.isnan(gain(outcome, "local", 200, 300)).all()


def test_claims_hold_where_it_is_best_and_fail_where_either_end_is_better():
    def claims(own):
        ends = {"local": lambda size, seed: size / 200, "fedavg": lambda size, seed: 0.5}
        found = _claims(outcome_of(**{OWN.replace("-", "_"): own}, **ends))
        return {claim.name: claim.holds for claim in found}

    best = claims(lambda size, seed: max(size / 200, 0.5) + 0.01 + 0.001 * seed)
    assert len(best) == 6 + len(ENDS)
    assert all(best.values())
    pooled = claims(lambda size, seed: 0.5)
    assert [name.partition(" examples")[0] for name, holds in pooled.items() if not holds] == [
        "100 to 200"
    ]
    alone = claims(lambda size, seed: size / 200)
    assert not alone["fewer than 20 examples: gain over fedavg, less two standard errors"]
    assert alone[
        "100 to 200 examples: gain over the better of local and fedavg, plus two standard errors"
    ]
