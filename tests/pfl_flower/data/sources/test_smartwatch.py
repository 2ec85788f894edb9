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
