"""What a comparison says on real data: the promises of the guide to comparisons."""

import pytest

from pfl_flower.comparison.advice.recommendation import recommend
from pfl_flower.comparison.compare import Comparison, compare

pytestmark = pytest.mark.long  # two minutes of a core each

METHODS = ["fedavg-ft", "fedper", "fedbn"]


def recommended(tmp_path, **config):
    outcome = compare(Comparison(METHODS, config), tmp_path, jobs=2)
    assert not any(cell.failure for cell in outcome.cells)
    return recommend(outcome.cells)


def test_on_equal_clients_the_global_model_is_recommended(tmp_path):
    found = recommended(tmp_path, partition="iid")
    assert (found.kind, found.method) == ("global", "fedavg")
    assert "personalization does not pay here" in found.sentences[0]


def test_for_differing_tastes_a_personalized_model_is_recommended(tmp_path):
    found = recommended(tmp_path, heterogeneity="taste")
    assert found.kind == "personalized"
    assert found.method in METHODS


def test_with_extreme_skew_and_tiny_clients_it_names_who_is_harmed(tmp_path):
    skew = {"partition": "dirichlet", "alpha": 0.1, "min-examples": 5, "max-examples": 20}
    found = recommended(tmp_path, **skew)
    assert any("Harmed most: client " in sentence for sentence in found.sentences)
