import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as quickly
from hypothesis import strategies as st

from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataError, DataSettings, Federation
from pfl_flower.data.client_data import phase_starts
from pfl_flower.data.partition import benchmark_clients as pooled
from pfl_flower.data.records import Examples
from pfl_flower.data.sources.smartwatch import BANDS, CHANNELS, HABITS, RATE, SAMPLES, features
from pfl_flower.data.sources.wisdm import HABITS as WISDM_HABITS
from tests.errors import refused

SPLITS = ("train", "validation", "test")


def watches(num_clients=3, **options):
    options = {"dataset": "smartwatch", "partition": "natural", "seed": 5, **options}
    return Federation(DataSettings(**options), num_clients)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_no_example_is_in_two_splits_or_phases_and_none_is_lost():
    federation = watches()
    for client in range(3):
        data, parts = federation.client(client), []
        phase_of = federation.clients.examples.phase[federation.clients.indices[client]]
        for number, phase in enumerate(data.phases):
            rows = federation.clients.rows(client, number)
            parts += rows
            assert set(phase_of[np.concatenate(rows)]) == {number}
            for name, indices in zip(SPLITS, rows, strict=True):
                assert len(getattr(phase, name)[1]) == len(indices)
        assert sorted(np.concatenate(parts)) == list(range(len(phase_of)))
        inputs = torch.cat([getattr(p, name)[0] for p in data.phases for name in SPLITS])
        assert len(inputs.unique(dim=0)) == len(inputs) == 3 * 4 * 31


def test_the_whole_is_the_phases_in_order():
    data = watches().client(1)
    assert len(data.phases) == 3
    for name in SPLITS:
        parts = zip(*(getattr(phase, name) for phase in data.phases), strict=True)
        assert same(getattr(data, name), [torch.cat(part) for part in parts])
    assert [len(phase.train[1]) for phase in data.phases] == [81, 81, 81]
    assert [len(phase.test[1]) for phase in data.phases] == [31, 31, 31]


def test_phases_are_split_by_draws_of_their_own():
    rows = [watches().clients.rows(client, phase)[2] for client in (0, 1) for phase in (0, 1)]
    assert len({tuple(r - r.min()) for r in rows}) == 4


def test_the_quantity_limit_holds_in_every_phase_and_leaves_tests_alone():
    limited, whole = watches(min_examples=3, max_examples=40), watches()
    sizes = [len(p.train[1]) for c in range(3) for p in limited.client(c).phases]
    assert all(3 <= size <= 40 for size in sizes)
    assert len(set(sizes)) > 3
    loads = (limited.clients.load(2).phases, whole.clients.load(2).phases)
    for mine, other in zip(*loads, strict=True):
        assert np.array_equal(mine.test[0], other.test[0])


@quickly(max_examples=50, deadline=None)
@given(st.integers(0, 5), st.integers(0, 50), st.integers(1, 6))
def test_phases_begin_near_equal_shares_at_times_of_each_clients_own(seed, client, count):
    starts = phase_starts(seed, client, count)
    assert starts == phase_starts(seed, client, count)
    assert len(starts) == count
    assert starts[0] == 0.0
    for k, start in enumerate(starts[1:], start=1):
        assert (k - 0.25) / count <= start <= (k + 0.25) / count
        assert start != phase_starts(seed, client + 1, count)[k]


def test_a_phase_is_at_hand_from_the_round_after_its_start():
    data = watches().client(0)
    data = type(data)(data.train, data.validation, data.test, data.phases, (0.0, 0.3, 0.65))
    assert [data.phase_at(r, 10) for r in range(12)] == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]
    assert [data.phase_at(r, 1) for r in range(3)] == [0, 2, 2]


def test_a_client_trains_on_the_phase_at_hand_and_is_tested_on_all_so_far():
    data = watches().client(2)
    for number, start in enumerate(data.starts):
        now = data.at(round(start * 1000) + 2, 1000)
        assert same(now.train, data.phases[number].train)
        assert same(now.validation, data.phases[number].validation)
        tests = [phase.test for phase in data.phases[: number + 1]]
        assert same(now.test, [torch.cat(part) for part in zip(*tests, strict=True)])
        assert now.phases == data.phases[: number + 1]
        assert now is data.at(round(start * 1000) + 3, 1000)
    assert same(data.at(0, 1000).train, data.phases[0].train)
    assert same(data.at(2000, 1000).test, data.test)
    assert now.at(1, 1000) is now


def test_joint_clients_have_the_same_phases_from_the_start():
    stream, joint = watches().client(0), watches(phases="joint").client(0)
    assert joint.starts == ()
    assert joint.at(1, 10) is joint
    assert joint.phase_at(10, 10) == 0
    assert all(same(getattr(stream, name), getattr(joint, name)) for name in SPLITS)
    for one, other in zip(stream.phases, joint.phases, strict=True):
        assert all(same(getattr(one, name), getattr(other, name)) for name in SPLITS)


def test_data_that_are_no_stream_never_change():
    plain = Federation(DataSettings(), 3).client(1)
    assert (plain.phases, plain.starts) == ((), ())
    assert plain.at(7, 10) is plain
    joint = Federation(DataSettings(phases="joint"), 3).client(1)
    assert all(same(getattr(plain, name), getattr(joint, name)) for name in SPLITS)


def test_the_config_knows_phases():
    values = {"dataset": "smartwatch", "partition": "natural", "phases": "joint"}
    config = RunConfig.parse(values)
    assert config.data == DataSettings("smartwatch", "natural", phases="joint")
    assert "phases=joint" in config.data.describe()
    with refused(ConfigError, key="phases", value="all", choices=("stream", "joint")):
        RunConfig.parse({"phases": "all"})


def test_a_taste_is_the_same_in_all_phases():
    plain, tasted = watches().client(0), watches(heterogeneity="taste").client(0)
    names = {}
    for before, after in zip(plain.phases, tasted.phases, strict=True):
        for name in SPLITS:
            labels = (getattr(splits, name)[1].tolist() for splits in (before, after))
            assert all(names.setdefault(a, b) == b for a, b in zip(*labels, strict=True))
    assert sorted(names.values()) == list(range(8))
    assert any(a != b for a, b in names.items())


def test_features_are_standardized_over_the_training_examples_of_all_phases():
    federation = watches(4)
    together = torch.cat([federation.client(client).train[0] for client in range(4)])
    torch.testing.assert_close(together.mean(dim=0), torch.zeros(30), atol=1e-4, rtol=0)
    torch.testing.assert_close(together.std(dim=0, correction=0), torch.ones(30), atol=1e-4, rtol=0)


def test_habits_change_from_phase_to_phase():
    data = watches().client(0)
    for phase, habits in zip(data.phases, HABITS, strict=True):
        assert set(torch.cat([getattr(phase, name)[1] for name in SPLITS]).tolist()) == set(habits)

    centres = np.array([[centre(client, phase) for phase in (0, 1)] for client in range(4)])
    changes = centres[:, 1] - centres[:, 0]
    between_wearers = np.linalg.norm(centres[1:, 0] - centres[:-1, 0], axis=-1)
    assert np.linalg.norm(changes, axis=-1).min() > between_wearers.max()
    assert np.linalg.norm(changes[1:] - changes[:-1], axis=-1).min() > between_wearers.max()


def centre(client, phase):
    """Means of the features of what goes on from phase 0 to 1, activities 2 and 3."""
    inputs, targets = watches(4).client(client).phases[phase].train
    return [inputs[targets == label].mean(dim=0).numpy() for label in (2, 3)]


def test_a_wearer_is_the_same_among_few_or_many_and_another_with_another_seed():
    few, many, other = (watches(2), watches(4), watches(2, seed=6))
    for client in (0, 1):
        assert np.array_equal(few.clients.load(client).train[0], many.clients.load(client).train[0])
    assert not np.array_equal(few.clients.load(0).train[0], other.clients.load(0).train[0])
    assert not np.array_equal(few.clients.load(0).train[0], few.clients.load(1).train[0])


def test_features_of_a_sine_are_its_mean_deviation_and_band():
    time = np.arange(SAMPLES) / RATE
    signals = np.zeros((1, CHANNELS, SAMPLES))
    signals[0, 2] = 4 + 3 * np.sin(2 * np.pi * 2.5 * time)  # 8 periods in 3.2 s
    found = features(signals).reshape(2 + len(BANDS), CHANNELS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:2, 2], [4, 3 / np.sqrt(2)], rtol=1e-5)
    np.testing.assert_allclose(found[3, 2], np.log(9 * SAMPLES / 4), rtol=1e-5)  # |3 N/2|^2 / N
    assert found[[2, 4], 2].max() < -10
    assert np.all(found[2:, [0, 1, 3, 4, 5]] < -10)


@pytest.mark.parametrize("dataset", ["smartwatch", "wisdm"])
@pytest.mark.parametrize("name", ["iid", "dirichlet", "pathological"])
def test_a_stream_belongs_to_its_natural_clients(dataset, name):
    with pytest.raises(DataError, match=dataset) as error:
        Federation(DataSettings(dataset=dataset, partition=name), 3)
    assert (error.value.key, error.value.value) == ("partition", name)
    assert error.value.choices == ("natural",)


def test_a_phase_of_a_single_example_is_an_error(monkeypatch):
    examples = Examples(
        torch.randn(12, 30),
        torch.zeros(12, dtype=torch.int64),
        owner=np.repeat([0, 1], 6),
        phase=np.array([0, 0, 1, 1, 2, 2, 0, 0, 0, 1, 2, 2]),
    )
    monkeypatch.setattr(pooled, "_load", lambda *_: examples)
    with pytest.raises(DataError) as error:
        watches(2)
    assert (error.value.key, error.value.value, error.value.client) == ("num_clients", 2, 1)
    assert len(watches(1).client(0).phases) == 3


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
    with pytest.raises(DataError, match=r"data-dir or \$PFL_DATA_DIR") as error:
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
