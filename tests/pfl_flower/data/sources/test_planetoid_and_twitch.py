import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric import datasets

from pfl_flower.data import DataError, DataSettings, Federation
from pfl_flower.data.partition import benchmark_clients
from pfl_flower.data.records import SourceRequest
from pfl_flower.data.sources.planetoid_and_twitch import LANGUAGES, PARTS, planetoid, twitch

DATA = Path(os.environ.get("PFL_DATA_DIR", "/nowhere"))


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    benchmark_clients._load.cache_clear()


def request(folder, clients=2, download=False):
    return SourceRequest(folder, download, 100, clients)


def write_language(folder, name, count, **changes):
    """A ring of streamers, each of whom plays one game."""
    around = np.arange(count)
    arrays = {
        "features": np.eye(count, 3170, dtype=np.uint8),
        "target": (around % 2).astype(np.uint8),
        "edges": np.stack([around, (around + 1) % count], axis=1).astype(np.int32),
    }
    file = folder / "twitch" / name / "raw" / f"{name}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return file


def test_languages_are_clients_and_only_those_that_are_needed_are_read(tmp_path):
    write_language(tmp_path, "DE", 6)
    write_language(tmp_path, "EN", 8)
    examples = twitch(request(tmp_path))
    assert examples.inputs.dtype == torch.uint8
    assert examples.inputs.shape == (14, 3170)
    assert torch.equal(examples.inputs[6:], torch.eye(8, 3170, dtype=torch.uint8))
    assert examples.owner.tolist() == [0] * 6 + [1] * 8
    assert examples.targets.tolist() == [0, 1] * 7
    edges = set(map(tuple, examples.edges.T.tolist()))
    assert edges == {
        pair
        for start, count in ((0, 6), (6, 8))
        for i in range(count)
        for j in ((i + 1) % count, (i - 1) % count)
        for pair in [(start + i, start + j)]
    }
    settings = DataSettings(dataset="twitch", partition="natural", data_dir=str(tmp_path))
    federation = Federation(settings, 2)
    assert federation.edges == (14, 0)
    assert torch.equal(federation.client(1).graph.features, torch.eye(8, 3170))
    assert federation.community(0) is None
    with pytest.raises(DataError) as error:
        Federation(DataSettings(dataset="twitch", data_dir=str(tmp_path)), 2)
    assert (error.value.key, error.value.value) == ("partition", "iid")
    assert error.value.choices == ("natural",)
    with pytest.raises(DataError, match="data-dir") as error:
        twitch(request(tmp_path, clients=3))
    assert (error.value.key, error.value.value) == ("dataset", "twitch")
    assert error.value.path == str(tmp_path / "twitch" / "ES" / "raw" / "ES.npz")


@pytest.mark.parametrize(
    ("changes", "key", "value", "cause"),
    [
        ({"edges": None}, "target, edges", None, KeyError),
        ({"edges": np.array([[0, 5]])}, "edges", (1, 2), None),
        ({"edges": np.array([[0], [1]])}, "edges", (2, 1), None),
        ({"features": np.zeros((5, 128))}, "features", (5, 128), None),
        ({"features": np.array([{}])}, "features", None, ValueError),
    ],
)
def test_arrays_of_a_language_that_are_wrong_are_named(tmp_path, changes, key, value, cause):
    file = write_language(tmp_path, "DE", 5, **changes)
    with pytest.raises(DataError) as error:
        twitch(request(tmp_path, clients=1))
    assert (error.value.key, error.value.value, error.value.path) == (key, value, str(file))
    assert type(error.value.__cause__) is (cause or type(None))


def test_planetoid_that_is_missing_says_where_it_belongs(tmp_path):
    with pytest.raises(DataError) as error:
        planetoid("Cora")(request(tmp_path))
    assert (error.value.key, error.value.value) == ("dataset", "Cora")
    assert error.value.path == str(tmp_path / "planetoid" / "Cora" / "raw" / "ind.cora.x")
    assert "download=true" in str(error.value)


def test_planetoid_that_is_damaged_says_which_folder(tmp_path):
    raw = tmp_path / "planetoid" / "Cora" / "raw"
    raw.mkdir(parents=True)
    for part in PARTS:
        (raw / f"ind.cora.{part}").write_bytes(b"not what it was")
    with pytest.raises(DataError) as error:
        planetoid("Cora")(request(tmp_path))
    assert (error.value.value, error.value.path) == ("Cora", str(raw))
    assert error.value.__cause__ is not None


def test_a_download_comes_into_the_cache_as_a_whole_and_once(tmp_path, monkeypatch):
    calls = []

    def download(root, name):
        calls.append(name)
        raw = Path(root) / name / "raw"
        raw.mkdir(parents=True)
        for part in PARTS:
            (raw / f"ind.cora.{part}").write_bytes(b"of the test")

    monkeypatch.setattr(datasets, "Planetoid", download)
    cache = tmp_path / "cache" / "pfl-flower" / "planetoid" / "Cora"
    for _ in range(2):
        with pytest.raises(DataError) as error:
            planetoid("Cora")(request(tmp_path, download=True))
        assert (error.value.value, error.value.path) == ("Cora", str(cache / "raw"))
        assert error.value.__cause__ is not None
    assert calls == ["Cora"]
    assert [path.name for path in cache.iterdir()] == ["raw"]


def test_a_download_that_fails_says_so(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no-network")

    monkeypatch.setattr(datasets, "Planetoid", fail)
    with pytest.raises(DataError, match="no-network") as error:
        planetoid("Cora")(request(tmp_path, download=True))
    assert error.value.key == "download"


@pytest.mark.skipif(not (DATA / "planetoid").is_dir(), reason="needs $PFL_DATA_DIR with planetoid")
@pytest.mark.parametrize(
    ("dataset", "nodes", "edges", "counts"),
    [
        ("cora", 2708, 10556, [351, 217, 418, 818, 426, 298, 180]),
        ("citeseer", 3327, 9104, [264, 590, 668, 701, 596, 508]),
    ],
)
def test_the_real_planetoid(dataset, nodes, edges, counts):
    federation = Federation(DataSettings(dataset=dataset, partition="louvain", seed=100), 10)
    pool = federation.clients.examples
    assert (len(pool), pool.edges.shape[1]) == (nodes, edges)
    assert pool.targets.bincount().tolist() == counts
    assert pool.inputs.shape[1:] == federation.schema.shape
    kept, dropped = federation.edges
    assert kept + dropped == edges // 2
    assert dropped < 0.2 * kept
    sizes = [len(mine) for mine in federation.clients.indices]
    assert max(sizes) < 1.6 * nodes / 10
    assert federation.client(0).graph.features.max() == 1


@pytest.mark.integration
@pytest.mark.skipif(not (DATA / "twitch").is_dir(), reason="needs $PFL_DATA_DIR with twitch")
def test_the_real_twitch():
    settings = DataSettings(dataset="twitch", partition="natural", task="link-prediction")
    federation = Federation(settings, 7)
    pool = federation.clients.examples
    assert np.bincount(pool.owner).tolist() == [9498, 7126, 4648, 6549, 1912, 4385, 2772]
    mature = [float(pool.targets[pool.owner == client].float().mean()) for client in range(7)]
    assert mature == pytest.approx([0.605, 0.546, 0.293, 0.369, 0.346, 0.245, 0.392], abs=6e-4)
    assert len(LANGUAGES) == 7
    with pytest.raises(DataError) as error:
        Federation(settings, 8)
    assert (error.value.key, error.value.value) == ("num_clients", 8)
    pairs, targets = federation.client(4).test
    assert targets.mean() == 0.5
    assert pairs.shape == (2 * round(0.25 * 31299), 2)
