"""Twin networks: what is unusual in one is not in the other, and both get the same numbers.

Every method meets every pair, and every option every method and every pair; what they agree on,
or why a method refuses a network before round 1, is the table of docs/guides/unusual_networks.md.
"""

import numpy as np
import pytest

from pfl_flower.client_app import make_app
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from pfl_flower.methods import METHODS
from pfl_flower.model_setup import model_setup
from pfl_flower.server.run import play
from strategies import randomness
from strategies.randomness import named_seed
from tests.errors import refused
from tests.grids import RecordingGrid
from tests.helpers import data_for, decoded
from tests.pfl_flower.methods.twin_networks import PAIRS
from tests.pfl_flower.methods.twin_table import ANY, Refusal, refusals_of, table

SMALL = {
    "baselines": "",
    "num-server-rounds": 2,
    "local-epochs": 1,
    "batch-size": 8,
    "max-examples": 40,
    "learning-rate": 0.05,
    "fine-tuning-epochs": "0,1",
    "wait": 0.0,
}
CLASSES = {"dataset": "breast-cancer", "heterogeneity": "taste", "cluster-sizes": "2,2"}
NUMBERS = {"dataset": "diabetes", "heterogeneity": "none"}
"""Data of methods for linear models."""
SHORT = {"l2gd": {"averaging-probability": 0.5}}
"""Fewer local steps for a method of some 20 a round, which multiply rounding: of two ways to write
batch norm of the batch out, neither of them torch's, l2gd's runs end .001 apart."""

OPTIONS = {
    "plain": {},
    "server momentum": {"server-momentum": 0.9},
    "sampling": {"fraction-train": 0.75},
    "safeguard": {"safeguard": True, "baselines": "fedavg"},
    "schedule": {"personal": "head", "schedule": "head-then-body"},
    "unseen": {"unseen": 0.25, "adaptation-steps": 5},
    "clipping": {"gradient-clip": 0.1, "weight-decay": 0.01},
    "several draws": {"posterior-samples": 2, "mixing": 0.5, "fisher-samples": 2},
}


def config_of(method, block):
    """The run config of a method and a network."""
    row = METHODS[method]
    data = data_for(method) or (NUMBERS if row.model == "linear" else CLASSES)
    kind = "nodes" if row.graphs else "table"
    model = f"tests.pfl_flower.methods.twin_networks:{kind}_{block.__name__}"
    # used by the method with its own network, since it may refuse this one
    short = SHORT.get(method, {})
    return RunConfig.used(SMALL | data | {"method": method} | short) | {"model": model}


def with_options(config, options):
    """The config with those options that its method has, whatever the network."""
    for name, value in options.items():
        changed = config | {name: value}
        try:
            model_setup(RunConfig.parse(changed)).check()
        except ValueError:
            continue
        config = changed
    return config


def played(config, renamed, monkeypatch):
    """The runs of a config; a refusal where there is one, which has to be before round 1.

    Draws that are named by an entry are those of the usual network's entry.
    """

    def seed_of(seed, *names):
        return named_seed(seed, *(renamed(n) if isinstance(n, str) else n for n in names))

    grid = RecordingGrid(make_app(config), 4)
    with monkeypatch.context() as patch:
        patch.setattr(randomness, "named_seed", seed_of)
        try:
            runs = list(play(grid, RunConfig.parse(config)))
        except ValueError as error:
            found = Refusal.of(error)
            assert not grid.of_type("train")
            return found
    assert not [r.dropped for run in runs for r in run.reports if r.dropped]
    return runs


def numbers_of(run, pair, renamed):
    """All arrays and metrics of a run, by the names of the usual network."""
    arrays = {renamed(n): a for n, a in decoded(run.arrays).items() if not pair.is_extra(n)}
    metrics = {
        (examples, r.round, r.phase, r.client, name): np.asarray(value, dtype=float)
        for examples, reports in {"all": run.reports, **run.unseen}.items()
        for r in reports
        for name, value in r.metrics.items()
    }
    return arrays | metrics


def assert_close(found, expected, pair):
    """Compare within the tolerance of a pair.

    An array's rounding is of its own largest value, or, if that is larger, of the middle one of all
    arrays: a bias near 0 is the sum of what cancels, and the terms have rounding of their size.
    """
    assert found.keys() == expected.keys()
    sizes = {name: np.abs(values).max(initial=0.0) for name, values in expected.items()}
    usual = float(np.median([size for name, size in sizes.items() if isinstance(name, str)]))
    for name, values in expected.items():
        largest = max(sizes[name], usual) if isinstance(name, str) else sizes[name]
        np.testing.assert_allclose(
            found[name].ravel(), values.ravel(), rtol=0, atol=pair.tolerance * largest, err_msg=name
        )


QUICK = {
    *(("apfl", "tied weights"), ("lifelong", "module registered twice")),
    *(("hierarchical-bayes", "parameter without dimensions"), ("hierarchical-bayes", "GRU")),
    *(("apfl", "in place"), ("pfedme", "in place"), ("fedavg-ft", "in place")),
    *(("ifca", "frozen parameter"), ("pfedhn", "frozen parameter")),
    *(("fedbabu", "batch norm that counts"), ("fedavg", "spectral norm")),
    *(("hierarchical-linear", "wrapped"), ("fedbn", "no normalization")),
    ("lifelong", "batch norm without statistics"),
}
"""Cells that once disagreed, and one of every refusal."""


def cells():
    """Every method with every pair; on the diagonals every option with every method and pair."""
    for place, method in enumerate(METHODS):
        for shift, kind in enumerate(PAIRS):
            option = list(OPTIONS)[(place + shift) % len(OPTIONS)]
            marks = () if (method, kind) in QUICK else pytest.mark.long
            yield pytest.param(method, kind, option, marks=marks)


@pytest.mark.parametrize(("method", "kind", "option"), list(cells()))
def test_twins_get_the_same_numbers_or_a_method_refuses(method, kind, option, monkeypatch):
    pair = PAIRS[kind]
    usual = with_options(config_of(method, pair.usual), OPTIONS[option])
    unusual = usual | {"model": config_of(method, pair.unusual)["model"]}
    one = played(unusual, pair.renamed, monkeypatch)
    expected = refusals_of(kind).get(method)
    if expected or isinstance(one, Refusal):
        assert one == expected
        return
    other = played(usual, str, monkeypatch)
    for left, right in zip(one, other, strict=True):
        assert_close(numbers_of(left, pair, pair.renamed), numbers_of(right, pair, str), pair)


def test_the_table_has_every_pair_and_only_methods_that_there_are():
    assert table().keys() == {ANY, *PAIRS}
    assert {method for row in table().values() for method in row} <= METHODS.keys()


def test_a_network_of_bfloat16_is_refused_before_round_1():
    model = "tests.pfl_flower.methods.twin_networks:bfloat16"
    with refused(ConfigError, key="model", value=model):
        simulate(CLASSES | {"method": "fedavg", "baselines": "", "model": model}, 4)


def test_a_loop_of_gradients_is_announced_before_round_1(caplog):
    config = config_of("lifelong", PAIRS["GRU"].unusual) | {"num-server-rounds": 1}
    with caplog.at_level("WARNING", logger="flwr"):
        simulate(config, 4)
        assert any("one after another" in record.getMessage() for record in caplog.records)
