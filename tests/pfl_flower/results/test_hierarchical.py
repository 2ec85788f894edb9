import csv

import pytest
from scipy.stats import spearmanr

from pfl_flower.engines import simulate
from pfl_flower.results.hierarchical import shrinkage_rows, training_examples, write_shrinkage

CONFIG = {
    "method": "hierarchical-linear",
    "dataset": "mixed-effects",
    "partition": "natural",
    "min-examples": 2,
    "max-examples": 200,
    "num-server-rounds": 2,
    "seed": 100,
}
STEPS = {"local-epochs": 1, "learning-rate": 0.02}
"""Of methods that train in steps."""


@pytest.mark.integration
def test_a_row_a_client_of_methods_that_shrink_and_fewer_examples_shrink_more(tmp_path):
    runs = simulate(CONFIG | {"baselines": "fedavg", **STEPS, "protocol": "one-shot"}, 12)
    write_shrinkage(tmp_path, runs)
    with (tmp_path / "shrinkage.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["client"]) for row in rows] == list(range(12))
    assert {row["method"] for row in rows} == {"hierarchical-linear"}
    examples = training_examples(runs[0])
    assert [int(row["examples"]) for row in rows] == [examples[c] for c in range(12)]
    pairs = [(int(row["examples"]), float(row["shrinkage"])) for row in rows]
    assert spearmanr(*zip(*pairs, strict=True)).statistic < -0.8
    assert float(rows[3]["prior_distance"]) == runs[0].by_client("prior-distance")[3]
    assert (tmp_path / "shrinkage.png").stat().st_size > 1000


@pytest.mark.integration
def test_clients_that_never_trained_have_a_row_without_examples(tmp_path):
    (run,) = simulate(CONFIG | {"baselines": "", "num-server-rounds": 1, "fraction-train": 0.5}, 6)
    rows = shrinkage_rows(run)
    assert len(rows) == 6
    assert sum(row["examples"] == "" for row in rows) == 3
    write_shrinkage(tmp_path, [run])
    assert (tmp_path / "shrinkage.png").exists()


def test_nothing_is_written_of_other_methods(tmp_path):
    (run,) = simulate({"method": "fedavg", "baselines": "", "num-server-rounds": 1}, 2)
    write_shrinkage(tmp_path, [run])
    assert not list(tmp_path.iterdir())
