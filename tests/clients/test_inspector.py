"""What leaves a device is told, and nothing personal leaves it."""

import logging

import numpy as np
import pytest
from flwr.app import ArrayRecord, RecordDict

from clients.inspector import INSPECT, PersonalLeakError, check_leaks
from clients.personal import PersonalClient
from pfl_flower.client_app import make_app
from pfl_flower.config import RunConfig
from pfl_flower.federation import play
from pfl_flower.grid import InProcessGrid
from strategies.arrays import to_record

SMALL = {"num-server-rounds": 2, "local-epochs": 1, "baselines": "", "max-examples": 30}


def arrays(**values):
    return dict(to_record({name: np.asarray(value) for name, value in values.items()}).items())


def content(**values):
    return RecordDict({"arrays": ArrayRecord(arrays(**values))})


def test_the_name_or_the_values_of_something_personal_are_refused():
    head, other = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    check_leaks(content(body=other), arrays(head=head), {})
    with pytest.raises(PersonalLeakError, match="'head' is personal"):
        check_leaks(content(head=other), arrays(head=head), {})
    with pytest.raises(PersonalLeakError, match="'body' has the values of the client's own 'head'"):
        check_leaks(content(body=head), arrays(head=head), {})
    with pytest.raises(PersonalLeakError, match="'body'"):
        check_leaks(content(body=head), {}, arrays(body=head))
    check_leaks(content(body=other), {}, arrays(body=head))  # the name of a tuned one may leave
    check_leaks(content(body=other), arrays(head=other), {})  # all ones say nothing


def play_with(monkeypatch, method, **node_config):
    """Play two rounds on three nodes; return the run and what the clients said."""
    said = []
    monkeypatch.setattr(
        "clients.inspector.log", lambda level, form, *words: said.append((level, form % words))
    )
    config = RunConfig.parse(SMALL | {"method": method})
    grid = InProcessGrid(make_app(config.dump()), 3, node_config=lambda number: node_config)
    (run,) = play(grid, config)
    return run, said


@pytest.mark.parametrize("method", ["fedper", "fedavg-ft", "mr-mtl", "fedavg"])
def test_an_inspected_run_is_the_same_run(monkeypatch, method):
    plain, quiet = play_with(monkeypatch, method)
    looked, loud = play_with(monkeypatch, method, **{INSPECT: True})
    assert plain.by_client() == looked.by_client()
    assert {level for level, _ in quiet} == {logging.DEBUG}
    assert {level for level, _ in loud} == {logging.INFO}


def test_a_line_says_what_came_stays_and_goes_in_names_and_bytes(monkeypatch, tmp_path):
    _, said = play_with(monkeypatch, "fedper", **{"personal-dir": str(tmp_path)})
    assert {level for level, _ in said} == {logging.INFO}
    trained = [words for _, words in said if words.startswith("Round 2, train: received ")]
    assert len(trained) == 3
    received, keeps, sends = trained[0].split("; ")
    assert sends.removeprefix("sends ") == received.removeprefix("Round 2, train: received ")
    assert "keeps 2 arrays of" in keeps
    assert "head.weight, head.bias" in keeps or "head.bias, head.weight" in keeps
    assert "head" not in sends


def test_a_client_that_would_send_its_head_sends_an_error(monkeypatch):
    honest = PersonalClient.get_parameters

    def leaky(self, config):
        sent = honest(self, config)
        if self.partition_id == 1:  # a mistake in somebody's own client
            sent[0] = self._entries["head.weight"].detach().numpy().copy()
        return sent

    monkeypatch.setattr(PersonalClient, "get_parameters", leaky)
    run, _ = play_with(monkeypatch, "fedper", **{INSPECT: True})
    dropped = {r.client: r.dropped for r in run.reports if r.phase == "train" and r.dropped}
    assert list(dropped) == [1]
    assert "has the values of the client's own 'head.weight'" in dropped[1]
