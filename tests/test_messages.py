"""Personal parameters never leave a client: every message of every method is looked into."""

import numpy as np
import pytest
from flwr.app import MetricRecord

from clients import Scope
from clients.personal_client import PersonalClient
from clients.scopes import names_of
from pfl_flower.client_app import make_app
from pfl_flower.config.run_config import RunConfig
from pfl_flower.methods import METHODS, adapters
from pfl_flower.model_setup import model_setup
from pfl_flower.server.run import play
from strategies.arrays import to_record, view
from strategies.hierarchical.linear_arrays import NAMES
from strategies.measurement_error.errors_in_variables import NAMES as MOMENTS
from tests.grids import RecordingGrid, leaks
from tests.helpers import data_for

SMALL = {
    "num-server-rounds": 2,
    "local-epochs": 1,
    "batch-size": 16,
    "max-examples": 40,
    "baselines": "",
    "fine-tuning-epochs": "0,1",
    "wait": 0.0,
}
CLIENTS = 3
SENDS_OWN = ("mr-mtl", "l2gd", "lifelong", "hierarchical-bayes")
"""Methods whose clients send their own model: it is what the server averages."""
QUERIES = {"known-groups": 1, "community-adapters": 1, "gradient-clusters": 1, "pfedhn": 1} | {
    "ffa-lora": 1,
    "ifca": SMALL["num-server-rounds"],
}
"""Method -> how many queries a client answers, besides the one for its data."""
SENDS = {"hierarchical-linear": NAMES, "errors-in-variables": MOMENTS}
"""Method -> names of what clients send in place of a model."""


TABLE = {"dataset": "breast-cancer", "heterogeneity": "none", "model": "linear"}
NEEDS = {
    "fedbn": {"model": "cnn"},
    "personal-se": {"model": "auto"},
    "adapters": {"model": "auto"},
    "community-adapters": {"model": "auto"},
    **{name: {"model": "low-rank-mlp"} for name in adapters.METHODS},
    "hierarchical-linear": TABLE,
    "errors-in-variables": TABLE,
}
"""Method -> the network and data it needs; for the others an MLP, in which a gradient moves every
value."""


def recorded(clients=CLIENTS, **options):
    """The runs of a config, and the grid that has recorded their messages."""
    method = options["method"]
    data = data_for(method) or NEEDS.get(method, {"model": "mlp"})
    named = {name.replace("_", "-"): value for name, value in options.items()}
    config = RunConfig.parse(RunConfig.used(SMALL | data | named))
    grid = RecordingGrid(make_app(config.dump()), clients)
    return list(play(grid, config)), grid


def all_leaks(grid, sent_by_design=()):
    return {leak for exchange in grid.exchanges for leak in leaks(exchange, sent_by_design)}


@pytest.mark.parametrize("method", METHODS)
def test_no_message_holds_personal_values(method):
    (run,), grid = recorded(method=method)
    assert not [e.reply.error for e in grid.exchanges if e.reply.has_error()]
    assert all_leaks(grid, ("own",) if method in SENDS_OWN else ()) == set()
    if method in SENDS_OWN:
        assert all_leaks(grid)
    queries = 1 + QUERIES.get(method, 0)
    assert len(grid.exchanges) == CLIENTS * (queries + 2 * SMALL["num-server-rounds"])
    scopes = model_setup(run.config).scopes
    personal = names_of(scopes, Scope.PERSONAL)
    setup = model_setup(run.config)
    priors = set(run.config.own_keys.personal_names(setup)) - set(personal)
    sends_variances = method == "hierarchical-bayes"
    variances = {f"prior-variance/{name}" for name in priors} if sends_variances else set()
    travels = {*names_of(scopes, Scope.SHARED, Scope.GROUP), *variances}
    assert set(run.arrays) == set(SENDS.get(method, travels))
    keeps = setup.keeps_state or run.config.fine_tuning
    assert {e.client for e in grid.exchanges if e.after} == set(range(CLIENTS) if keeps else ())


def test_no_message_to_an_unseen_client_or_of_a_safeguard_holds_personal_values():
    runs, grid = recorded(4, method="fedper", unseen=0.25, safeguard=True, num_server_rounds=3)
    assert all_leaks(grid) == set()
    assert len(runs) == 4
    rounds = 3 * (3 * 3 * 2)  # methods, clients, rounds, train and evaluate
    assert len(grid.exchanges) == 4 + rounds + 3 * 5 + 3  # discovery, rounds, joining, choosing


HEAD = "head.weight"
MISTAKES = {
    "the whole array": lambda values: {"hidden.bias": values},
    "its name": lambda values: {HEAD: np.zeros_like(values)},
    "reshaped": lambda values: {"hidden.bias": values.reshape(-1)},
    "in double precision": lambda values: {"hidden.bias": values.astype(np.float64)},
    "one row": lambda values: {"hidden.bias": values[3]},
    "two values": lambda values: {"hidden.bias": values[3, 5:7]},
    "two values inside others": lambda values: {
        "hidden.bias": np.concatenate([np.ones(9, np.float32), values[3, 5:7], [1.0]])
    },
    "a metric": lambda values: {"loss": float(values[2, 2])},
    "a list of metrics": lambda values: {"losses": [0.5, *values[2, 2:4].tolist()]},
}
"""What a mistake in somebody's own client would send of its head."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_client_that_sends_something_of_its_head_is_found(mistake):
    _, grid = recorded(method="fedper", num_server_rounds=1)
    exchange = next(e for e in grid.exchanges if e.message_type == "train" and e.client == 1)
    assert leaks(exchange) == []
    values = view(exchange.after[f"fedper/personal/{HEAD}"])
    for name, sent in MISTAKES[mistake](values).items():
        if isinstance(sent, np.ndarray):
            exchange.reply.content["arrays"] = to_record({name: sent})
        else:
            exchange.reply.content["metrics"] = MetricRecord({name: sent})
    kind = "name" if mistake == "its name" else "metrics" if "metric" in mistake else "values"
    assert leaks(exchange) == [f"fedper/personal/{HEAD}: {kind}"]


def test_a_client_that_sends_its_head_in_a_run_is_found(monkeypatch):
    honest = PersonalClient.get_parameters

    def mistaken(self, config):
        sent = honest(self, config)
        sent[0][0, :10] = self.entries[HEAD].detach().numpy()[0, :10]
        return sent

    monkeypatch.setattr(PersonalClient, "get_parameters", mistaken)
    _, grid = recorded(method="fedper")
    assert all_leaks(grid) == {f"fedper/personal/{HEAD}: values"}
