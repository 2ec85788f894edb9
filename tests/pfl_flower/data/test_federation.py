import gzip
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataError, DataSettings, Federation
from pfl_flower.data.partition import benchmark_clients
from pfl_flower.data.sources.torchvision_data import unpack
from pfl_flower.engines import simulate
from pfl_flower.server.discovery import FederationError


def splits(federation, client):
    data = federation.client(client)
    return [data.train, data.validation, data.test]


@pytest.mark.parametrize(
    "options",
    [
        {"partition": "iid"},
        {"partition": "dirichlet", "alpha": 0.3},
        {"partition": "pathological", "classes_per_client": 2},
        {"dataset": "breast-cancer", "partition": "iid"},
        {"dataset": "gallery", "partition": "natural", "heterogeneity": "interest"},
    ],
)
def test_clients_partition_the_data_and_every_split_is_disjoint(options):
    federation = Federation(DataSettings(**options), 6)
    together = np.concatenate(federation.clients.indices)
    assert len(np.unique(together)) == len(together)
    if options["partition"] != "pathological":  # with few clients it leaves classes out
        assert len(together) == len(federation.clients.examples)
    for client in range(6):
        sizes = [len(targets) for _, targets in splits(federation, client)]
        assert min(sizes) >= 1
        assert sum(sizes) == len(federation.clients.indices[client])
        parts = federation.clients.rows(client)
        assert sorted(np.concatenate(parts)) == list(range(sum(sizes)))
        for inputs, targets in splits(federation, client):
            assert inputs.dtype == torch.float32
            assert targets.dtype == torch.int64
            assert inputs.shape[1:] == federation.schema.shape


def test_the_seed_decides_everything():
    def pixels(seed):
        options = DataSettings(partition="dirichlet", heterogeneity="taste,lighting", seed=seed)
        return torch.cat([x.flatten() for x, _ in splits(Federation(options, 4), 2)])

    assert torch.equal(pixels(1), pixels(1))
    assert not pixels(1).equal(pixels(2))


def test_pathological_clients_have_so_many_classes():
    federation = Federation(DataSettings(partition="pathological", classes_per_client=3), 10)
    for client in range(10):
        labels = torch.cat([targets for _, targets in splits(federation, client)])
        assert len(labels.unique()) == 3


def test_swap_exchanges_two_names_of_its_own_for_every_client():
    plain = Federation(DataSettings(), 4)
    swapped = Federation(DataSettings(heterogeneity="swap"), 4)
    pairs = set()
    for client in range(4):
        names = {}
        for (_, before), (_, after) in zip(
            splits(plain, client), splits(swapped, client), strict=True
        ):
            names |= dict(zip(before.tolist(), after.tolist(), strict=True))
        moved = {old: new for old, new in names.items() if old != new}
        assert len(moved) == 2
        assert {new: old for old, new in moved.items()} == moved
        pairs.add(frozenset(moved))
    assert len(pairs) > 1


def test_taste_is_a_permutation_of_names_of_its_own_for_every_client():
    plain = Federation(DataSettings(), 3)
    tasted = Federation(DataSettings(heterogeneity="taste"), 3)
    names = []
    for client in range(3):
        pairs = {
            (int(a), int(b))
            for (_, before), (_, after) in zip(
                splits(plain, client), splits(tasted, client), strict=True
            )
            for a, b in zip(before, after, strict=True)
        }
        assert len(pairs) == 10
        assert {b for _, b in pairs} == set(range(10))
        names.append(tuple(b for _, b in sorted(pairs)))
    assert len(set(names)) == 3


def test_lighting_keeps_labels_and_inverts_every_second_client():
    plain = Federation(DataSettings(), 4)
    lit = Federation(DataSettings(heterogeneity="lighting"), 4)
    for client in range(4):
        (before, labels), (after, same) = plain.client(client).train, lit.client(client).train
        assert torch.equal(labels, same)
        correlation = torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1]
        assert (correlation < -0.8) if client % 2 else (correlation > 0.8)


def test_gallery_pictures_hold_three_different_digits_and_clients_care_about_one():
    options = DataSettings(dataset="gallery", partition="natural", heterogeneity="interest")
    federation = Federation(options, 4)
    assert federation.clients.examples.targets.sort(dim=1).values.diff(dim=1).min() > 0
    for client in range(4):
        rows = federation.clients.indices[client]
        train, _, _ = federation.clients.rows(client)
        expected = federation.clients.examples.targets[rows][train][:, client % 3]
        assert torch.equal(federation.client(client).train[1], expected)
    with pytest.raises(DataError) as error:
        Federation(DataSettings(dataset="gallery", partition="natural"), 2).client(0)
    assert (error.value.key, error.value.value, error.value.client) == ("heterogeneity", "none", 0)
    assert error.value.choices == ("interest",)


@pytest.mark.integration
@settings(max_examples=20)
@given(st.integers(1, 30), st.integers(0, 60))
def test_quantity_skew_limits_training_only(low, more):
    options = {"min_examples": low, "max_examples": low + more}
    limited, whole = Federation(DataSettings(**options), 5), Federation(DataSettings(), 5)
    for client in range(5):
        assert low <= len(limited.client(client).train[1]) <= low + more
        assert torch.equal(limited.client(client).test[0], whole.client(client).test[0])


def test_too_many_clients_are_refused():
    with pytest.raises(DataError) as error:
        Federation(DataSettings(), 1700)
    assert (error.value.key, error.value.value) == ("num_clients", 1700)


def test_a_client_with_a_single_example_is_an_error(monkeypatch):
    monkeypatch.setattr(benchmark_clients, "partition", lambda *_: [np.arange(5), np.arange(1)])
    with pytest.raises(DataError) as error:
        Federation(DataSettings(), 2)
    assert (error.value.key, error.value.value, error.value.client) == ("num_clients", 2, 1)


@pytest.mark.integration
@settings(max_examples=20)
@given(st.integers(300, 890), st.floats(0, 0.09), st.floats(0.01, 0.9))
def test_tiny_clients_have_a_training_and_a_test_example(count, validation, test):
    options = DataSettings(validation_fraction=validation, test_fraction=test)
    federation = Federation(options, count)
    for client in (0, count - 1):
        data = federation.client(client)
        assert len(data.train[1]) >= 1
        assert len(data.test[1]) >= 1


def test_data_without_natural_clients_says_so():
    with pytest.raises(DataError) as error:
        Federation(DataSettings(partition="natural"), 3)
    assert (error.value.key, error.value.value) == ("partition", "natural")
    assert error.value.choices == ("iid", "dirichlet", "pathological", "louvain", "metis")


def test_lighting_needs_images():
    options = DataSettings(dataset="breast-cancer", heterogeneity="lighting")
    with pytest.raises(DataError) as error:
        Federation(options, 3).client(0)
    assert (error.value.key, error.value.value) == ("heterogeneity", "lighting")


def test_a_missing_data_set_says_where_it_was_looked_for_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PFL_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError) as error:
        Federation(DataSettings(dataset="cifar10"), 2)
    assert (error.value.key, error.value.value) == ("dataset", "CIFAR10")
    assert error.value.path == str(tmp_path)
    assert "download=true" in str(error.value)
    with pytest.raises(FederationError, match="CIFAR10"):
        simulate({"dataset": "cifar10"}, 2)


def test_features_are_standardized_by_training_examples_only():
    federation = Federation(DataSettings(dataset="breast-cancer"), 5)
    together = torch.cat([federation.client(client).train[0] for client in range(5)])
    torch.testing.assert_close(together.mean(dim=0), torch.zeros(30), atol=1e-4, rtol=0)
    torch.testing.assert_close(together.std(dim=0, correction=0), torch.ones(30), atol=1e-4, rtol=0)


def idx(values):
    """An array in the format of MNIST's files."""
    header = bytes([0, 0, 8, values.ndim])
    return header + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.tobytes()


def mnist(folder, packed, seed=0):
    """A small MNIST in the files that torchvision reads."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    for part, count in (("train", 60), ("t10k", 20)):
        images = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx(values)
            if packed:
                (raw / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
            else:
                (raw / f"{part}-{name}-ubyte").write_bytes(content)


@pytest.mark.parametrize("packed", [False, True])
def test_torchvision_data_sets_are_read_from_the_data_folder(tmp_path, monkeypatch, packed):
    mnist(tmp_path, packed)
    files = sorted((tmp_path / "MNIST" / "raw").iterdir())
    monkeypatch.setenv("PFL_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said = []
    monkeypatch.setattr("pfl_flower.data.sources.stored.info_once", said.append)
    federation = Federation(DataSettings(dataset="mnist"), 4)
    assert str(tmp_path) in said[0]
    assert len(federation.clients.examples) == 80
    inputs, _ = federation.client(0).train
    assert inputs.shape[1:] == (1, 28, 28)
    assert 0.9 < inputs.max() <= 1.0
    assert sorted((tmp_path / "MNIST" / "raw").iterdir()) == files  # it may be read-only


def test_other_files_are_other_data_and_damaged_ones_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pixels = []
    for seed in (0, 1):
        mnist(tmp_path / str(seed), packed=True, seed=seed)
        settings = DataSettings(dataset="mnist", data_dir=str(tmp_path / str(seed)))
        pixels.append(Federation(settings, 2).clients.examples.inputs)
    assert not torch.equal(*pixels)
    mnist(tmp_path / "bad", packed=True)
    for file in (tmp_path / "bad" / "MNIST" / "raw").iterdir():
        file.write_bytes(file.read_bytes()[:30])
    with pytest.raises(DataError) as error:
        Federation(DataSettings(dataset="mnist", data_dir=str(tmp_path / "bad")), 2)
    assert (error.value.value, error.value.path) == ("MNIST", str(tmp_path / "bad"))


def unpack_and_read(files):
    packed, target = files
    unpack(packed, target)
    return len(target.read_bytes())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_many_processes_may_unpack_at_once(tmp_path):
    packed = tmp_path / "images.gz"
    packed.write_bytes(gzip.compress(bytes(30_000_000), compresslevel=1))
    with get_context("fork").Pool(4) as pool:
        for attempt in range(3):
            files = [(packed, tmp_path / f"images-{attempt}")] * 4
            assert pool.map(unpack_and_read, files, chunksize=1) == [30_000_000] * 4
    assert len(list(tmp_path.iterdir())) == 4


def test_settings_of_the_config_reach_the_data():
    skewed = {"partition": "dirichlet", "alpha": 0.1}
    few = {"min_examples": 3, "max_examples": 7}
    given = skewed | {"min-examples": 3, "max-examples": 7, "seed": 4}
    assert RunConfig.parse(given).data == DataSettings(
        heterogeneity="taste", **skewed, **few, seed=4
    )
