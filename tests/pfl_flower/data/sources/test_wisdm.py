import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pfl_flower.data import DataError, DataSettings, Federation
from pfl_flower.data.partition import benchmark_clients as pooled
from pfl_flower.data.sources.wisdm import HABITS as WISDM_HABITS


def arrays(people=3, windows=4):
    """WISDM's arrays of a few people, rows numbered in their first feature."""
    y = np.tile(np.repeat(np.arange(18), windows), people)
    x = np.random.default_rng(0).normal(size=(len(y), 91))
    x[:, 0] = np.arange(len(y))
    x[:, 1] = 7.5  # a feature may be constant
    return {"X": x.astype(np.float32), "y": y.astype(np.uint8), "subject": people_of(people, y)}


def people_of(people, y):
    return np.repeat(1600 + np.arange(people)[::-1], len(y) // people).astype(np.uint16)


def wisdm(folder, num_clients, changes=None):
    (folder / "wisdm51").mkdir(exist_ok=True)
    kept = {k: v for k, v in {**arrays(), **(changes or {})}.items() if v is not None}
    np.savez(folder / "wisdm51" / "watch_accel.npz", **kept)
    pooled._load.cache_clear()
    options = {"dataset": "wisdm", "partition": "natural", "data_dir": str(folder)}
    return Federation(DataSettings(**options), num_clients)


def test_people_of_wisdm_are_in_ascending_order_and_halve_what_two_phases_share(tmp_path):
    federation = wisdm(tmp_path, 2)
    rows = federation.clients.examples.inputs[:, 0].numpy().astype(int)
    assert set(rows[federation.clients.indices[0]]) == set(range(2 * 72, 3 * 72))  # subject 1600
    assert set(rows[federation.clients.indices[1]]) == set(range(72, 2 * 72))
    examples = federation.clients.examples
    for number, habits in enumerate(WISDM_HABITS):
        found = set(examples.targets[torch.from_numpy(examples.phase == number)].tolist())
        assert found == set(habits)
    walking = (examples.targets == 0).numpy() & (examples.owner == 0)
    assert examples.phase[walking].tolist() == [0, 0, 1, 1]
    sandwiches = (examples.targets == 11).numpy() & (examples.owner == 0)
    assert examples.phase[sandwiches].tolist() == [2, 2, 2, 2]
    inputs = federation.client(0).train[0]
    assert torch.isfinite(inputs).all()
    assert (inputs[:, 1] == 0).all()
    assert federation.schema.labels == tuple(range(18))


def test_more_clients_than_people_is_an_error(tmp_path):
    with pytest.raises(DataError) as error:
        wisdm(tmp_path, 4)
    assert (error.value.key, error.value.value) == ("num_clients", 4)


@pytest.mark.parametrize(
    ("changes", "key", "value", "cause"),
    [
        ({"subject": None}, "X, y, subject", None, KeyError),
        ({"X": np.zeros((216, 90))}, "X, y, subject", ((216, 90), (216,), (216,)), None),
        ({"y": np.zeros(215, dtype=int)}, "X, y, subject", ((216, 91), (215,), (216,)), None),
        ({"y": np.full(216, 18)}, "X, y, subject", ((216, 91), (216,), (216,)), None),
        ({"X": np.full((216, 91), np.nan)}, "X", None, None),
        ({"X": np.full((216, 91), None)}, "X, y, subject", None, ValueError),
    ],
)
def test_wrong_arrays_of_wisdm_say_what_is_wrong(tmp_path, changes, key, value, cause):
    with pytest.raises(DataError) as error:
        wisdm(tmp_path, 2, changes)
    assert (error.value.key, error.value.value) == (key, value)
    assert error.value.path == str(tmp_path / "wisdm51" / "watch_accel.npz")
    assert type(error.value.__cause__) is (cause or type(None))


def test_a_missing_or_damaged_wisdm_says_where_it_was_looked_for(tmp_path):
    settings = DataSettings(dataset="wisdm", partition="natural", data_dir=str(tmp_path))
    file = tmp_path / "wisdm51" / "watch_accel.npz"
    with pytest.raises(DataError, match="data-dir") as error:
        Federation(settings, 2)
    assert (error.value.key, error.value.value) == ("dataset", "wisdm")
    assert error.value.path == str(file)
    file.parent.mkdir()
    for content in (b"", b"PK\x03\x04 cut short", b"no archive at all"):
        file.write_bytes(content)
        with pytest.raises(DataError) as error:
            Federation(settings, 2)
        assert (error.value.key, error.value.path) == ("X, y, subject", str(file))
        assert error.value.__cause__ is not None


REAL = Path(os.environ.get("PFL_DATA_DIR", "/nowhere")) / "wisdm51" / "watch_accel.npz"


@pytest.mark.skipif(not REAL.exists(), reason="needs $PFL_DATA_DIR with wisdm51")
def test_the_real_wisdm_has_fifty_people_with_three_phases_each():
    pooled._load.cache_clear()
    federation = Federation(DataSettings(dataset="wisdm", partition="natural"), 50)
    assert len(federation.clients.examples) == 18211
    for client in range(50):
        data = federation.client(client)
        for phase, habits in zip(data.phases, WISDM_HABITS, strict=True):
            assert set(phase.train[1].tolist()) <= set(habits)
        assert min(len(phase.train[1]) for phase in data.phases) > 40
        assert torch.isfinite(data.train[0]).all()
    with pytest.raises(DataError) as error:
        Federation(DataSettings(dataset="wisdm", partition="natural"), 51)
    assert (error.value.key, error.value.value) == ("num_clients", 51)
