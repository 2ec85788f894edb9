"""What a run does beyond its rounds: unseen_clients, a safeguard, tracking."""

import csv
import math
from types import SimpleNamespace

import numpy as np
import pytest

from clients.safeguard import SafeguardedClient
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from pfl_flower.grid import GridWithout, InProcessGrid
from pfl_flower.results.files import describe, write
from pfl_flower.server.callbacks import RoundNews, TensorBoard, news_of
from pfl_flower.server.fallback import _thresholds_of_chosen
from pfl_flower.server.holdout import LOCAL_EXAMPLES, choose_unseen
from strategies import ClientReport
from tests.tiers import quick_first

SHORT = {"num-server-rounds": 3, "local-epochs": 1, "baselines": ""}


def test_unseen_clients_are_the_same_for_every_method_and_never_all():
    config = RunConfig(unseen=0.2, seed=3)
    drawn = choose_unseen(config, range(10))
    assert len(drawn) == 2
    assert drawn == choose_unseen(config.for_method("local"), reversed(range(10)))
    assert any(choose_unseen(RunConfig(unseen=0.2, seed=s), range(10)) != drawn for s in range(9))
    assert len(choose_unseen(RunConfig(unseen=0.9), range(2))) == 1
    assert len(choose_unseen(RunConfig(unseen=0.01), range(10))) == 1
    assert not choose_unseen(RunConfig(), range(10))
    assert not choose_unseen(RunConfig(unseen=0.5), [7])


@pytest.mark.integration
def test_unseen_clients_take_no_part_in_training_and_then_join(tmp_path):
    config = {**SHORT, "method": "fedper", "baselines": "local", "unseen": 0.25, "safeguard": True}
    runs = simulate(config, 8)
    unseen = {report.client for report in runs[0].unseen[0]}
    assert len(unseen) == 2
    for run in runs:
        assert not unseen & {report.client for report in run.reports}
        assert run.num_clients == 6
    for run in runs[:2]:
        assert tuple(run.unseen) == LOCAL_EXAMPLES
    write(tmp_path, runs)
    rows = list(csv.DictReader((tmp_path / "unseen.csv").open()))
    assert {row["local_examples"] for row in rows} == {"0", "1", "5", "20", "all"}
    assert {int(row["client"]) for row in rows} == unseen


@pytest.mark.integration
def test_unseen_clients_gain_from_more_examples_and_from_a_shared_body():
    config = {"method": "fedper", "baselines": "local", "unseen": 0.4, "num-server-rounds": 15}
    shared, alone = simulate(config, 10)

    def mean(run, examples):
        return np.mean([report.metrics["accuracy"] for report in run.unseen[examples]])

    assert mean(shared, 0) < 0.4  # its names for the classes are nobody's
    assert mean(shared, -1) > mean(shared, 5) > mean(shared, 0)
    assert mean(shared, 20) > mean(alone, 20) + 0.1


@pytest.mark.integration
def test_a_safeguard_says_who_stays_and_who_falls_back():
    config = {**SHORT, "method": "fedper", "heterogeneity": "none", "safeguard": True}
    runs = simulate(config, 5)
    assert [run.method for run in runs] == ["fedper", "fedavg", "local", "fedper safeguarded"]
    chosen = runs[-1].by_client("chosen")
    for client, place in chosen.items():
        assert runs[-1].by_client()[client] == runs[int(place)].by_client()[client]
        scores = [run.by_client("validation-accuracy")[client] for run in runs[:3]]
        assert scores.index(max(scores)) == place
    stay = sum(place == 0 for place in chosen.values())
    words = f"Against fedper safeguarded ({stay} clients stay with fedper, {5 - stay} fall back)"
    assert words in describe(runs)[-1]


@pytest.mark.parametrize("method", quick_first(["local", "fedavg", "fedavg-ft", "fedbabu"]))
def test_every_kind_of_method_can_have_a_safeguard(method):
    runs = simulate({**SHORT, "method": method, "safeguard": True}, 3)
    assert runs[-1].method == f"{method} safeguarded"
    assert len(runs[-1].by_client()) == 3


def test_a_grid_without_some_nodes():
    grid = InProcessGrid(None, 4)
    assert list(GridWithout(grid, {101, 999}).get_node_ids()) == [100, 102, 103]
    assert GridWithout(grid, ()).run is grid.run


def report(client, dropped="", **metrics):
    return ClientReport(2, "evaluate", 100 + client, client, metrics, 0, 0, dropped)


def test_news_are_means_over_clients_that_have_the_metric():
    values = {0: 0.5, 1: 1.0, 2: float("nan")}
    reports = [report(client, accuracy=value) for client, value in values.items()]
    reports.append(report(3, "broken", accuracy=0.0))
    news = news_of("fedper", 2, 9, reports)
    assert news == RoundNews("fedper", 2, 9, {"evaluate/accuracy": 0.75})


def test_tensorboard_has_a_run_a_method(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = TensorBoard(tmp_path)
    simulate({**SHORT, "baselines": "fedavg"}, 3, progress=board)
    board.close()
    for method in ("fedper", "fedavg"):
        events = reader.EventAccumulator(str(tmp_path / method))
        events.Reload()
        assert [event.step for event in events.Scalars("evaluate/accuracy")] == [1, 2, 3]


def test_candidates_of_a_safeguard_share_no_network(monkeypatch):
    """One without a kept state must not answer with the values of the one before."""
    seen = []

    class Watched(SafeguardedClient):
        def __init__(self, candidates, thresholds):
            seen.append([id(client.model) for client in candidates.values()])
            super().__init__(candidates, thresholds)

    monkeypatch.setattr("pfl_flower.client_app.SafeguardedClient", Watched)
    simulate({**SHORT, "method": "fedper", "safeguard": True}, 3)
    assert len(seen) == 3
    assert all(len(set(models)) == 3 for models in seen)


@pytest.mark.parametrize("chosen", [None, 2, -1, 0.5, math.nan])
def test_thresholds_of_a_choice_that_cannot_be_are_nobodys(chosen):
    one = ClientReport(3, "evaluate", 100, 0, {"f1-shrunk": 0.5}, 0, 0)
    run = SimpleNamespace(thresholds=[one])
    said = {} if chosen is None else {"chosen": chosen}
    answer = ClientReport(3, "evaluate", 100, 0, said, 0, 0)
    assert _thresholds_of_chosen([run, run], [answer]) == []
    sound = ClientReport(3, "evaluate", 100, 0, {"chosen": 1.0}, 0, 0)
    assert _thresholds_of_chosen([run, run], [sound]) == [one]
