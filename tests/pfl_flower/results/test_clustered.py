"""What a run with groups leaves behind, in words."""

import pytest

from pfl_flower.engines import simulate
from pfl_flower.results.files import describe

IID = {
    "dataset": "digits",
    "partition": "iid",
    "heterogeneity": "taste",
    "baselines": "",
    "local-epochs": 1,
    "num-server-rounds": 2,
}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cluster-sizes": "4,4"}, "the model of its group (there are 2, of 4, 4 clients)."),
        ({"cluster-sizes": "8"}, "the same model, since all are in one group."),
        (
            {"cluster-sizes": "7,1", "smallest-cluster": 2},
            "the model of its group (there is 1, of 7 clients); 1 is in none and has the mean",
        ),
        (
            {"cluster-sizes": "4,4", "personal": "head"},
            "a model of its own, around that of its group",
        ),
    ],
)
def test_a_summary_says_whose_model_a_client_has(options, words):
    data = {"min-examples": 30, "max-examples": 40}
    runs = simulate({**IID, **data, "method": "gradient-clusters", **options}, 8)
    assert words in describe(runs)[0]
