"""The four real hospitals, and a tiny folder of their format."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataError, DataSettings, Federation
from pfl_flower.data.partition import benchmark_clients
from pfl_flower.data.sources.heart_disease import FOLDER, HOSPITALS
from pfl_flower.engines import simulate

REAL = Path(os.environ.get("PFL_DATA_DIR", "")) / FOLDER
HAS_DATA = bool(os.environ.get("PFL_DATA_DIR")) and REAL.is_dir()


@pytest.fixture
def folder(tmp_path):
    """Six patients a hospital; in the third no cholesterol is known."""
    benchmark_clients._load.cache_clear()
    (tmp_path / FOLDER).mkdir()
    for place, name in enumerate(HOSPITALS):
        lines = []
        for row in range(6):
            cholesterol = 0 if place == 2 else 200 + row
            thallium = "?" if row == 1 else "3.0"
            lines.append(
                f"{50 + row},1,4,{0 if row == 2 else 130},{cholesterol},0,1,{150 - place},0,"
                f"{row / 2},2,0,{thallium},{row % 3}"
            )
        (tmp_path / FOLDER / f"processed.{name}.data").write_text("\n".join(lines) + "\n")
    yield tmp_path
    benchmark_clients._load.cache_clear()


def settings(folder, **options):
    options = {"imputation": "mean", "seed": 100, "data_dir": str(folder)} | options
    return DataSettings("heart-disease", "natural", **options)


def test_what_is_missing_is_missing(folder):
    examples = Federation(settings(folder), 4).clients.examples
    assert examples.inputs.shape == (24, 13)
    assert examples.owner.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6
    assert examples.targets.tolist() == [0, 1, 1] * 8
    missing = examples.inputs.isnan()
    assert missing[:, 4].tolist() == [False] * 12 + [True] * 6 + [False] * 6
    assert missing[:, 3].tolist() == [row == 2 for row in range(6)] * 4
    assert missing[:, 12].tolist() == [row == 1 for row in range(6)] * 4
    assert int(missing.sum()) == 6 + 4 + 4


def test_it_fills_in_by_itself_and_runs(folder):
    config = {
        **{"dataset": "heart-disease", "partition": "natural", "method": "fedper", "seed": 100},
        **{"baselines": "", "num-server-rounds": 1, "data-dir": str(folder)},
    }
    assert RunConfig.parse(config).data.imputation == "mean"
    assert len(simulate(config, num_clients=4)[0].values("accuracy", 1)) == 4


def test_with_fewer_clients_only_the_first_hospitals_are_read(folder):
    (folder / FOLDER / "processed.va.data").unlink()
    found = Federation(settings(folder), 3)
    assert len(found.clients.examples) == 18
    with pytest.raises(DataError, match="archive.ics.uci.edu") as error:
        Federation(settings(folder), 4)
    assert (error.value.key, error.value.value) == ("dataset", "heart-disease")
    assert error.value.path == str(folder / FOLDER / "processed.va.data")


def test_there_are_no_more_than_four(folder):
    with pytest.raises(DataError) as error:
        Federation(settings(folder), 5)
    assert (error.value.key, error.value.value) == ("num_clients", 5)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("", "patients", 0),
        ("63,1,4,140,260,0,1,112,1,3,2,?,?,2", "patients", 1),
        ("63,1,4,140,260,0,1,112,1,3,2,?,?,2\n63,1,4,140", "line", 2),
        ("63,1,4,140,260,0,1,112,1,3,2,?,?,?", "line", 1),
        ("63,1,4,140,260,0,1,112,1,3,2,?,x,1", "line", 1),
        ("63,1,4,140,inf,0,1,112,1,3,2,?,3,1", "line", 1),
        ("<html></html>", "line", 1),
        ("<html>é</html>", None, None),
    ],
)
def test_a_damaged_file_is_refused(folder, text, key, value):
    file = folder / FOLDER / "processed.hungarian.data"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        Federation(settings(folder), 4)
    assert (error.value.key, error.value.value, error.value.path) == (key, value, str(file))


def test_nothing_can_be_left_missing_and_hospitals_cannot_be_mixed(folder):
    found = Federation(settings(folder, imputation="none"), 4)
    with pytest.raises(DataError) as error:
        found.client_schema(0)
    assert (error.value.key, error.value.value, error.value.client) == ("imputation", "none", 0)
    assert "mean" in error.value.choices
    with pytest.raises(ConfigError, match="partition='natural'"):
        RunConfig.parse({"dataset": "heart-disease"})


@pytest.mark.skipif(not HAS_DATA, reason="needs the real data in $PFL_DATA_DIR")
def test_the_real_hospitals_are_those_of_the_readme():
    found = Federation(settings(os.environ["PFL_DATA_DIR"]), 4)
    examples = found.clients.examples
    sizes = np.bincount(examples.owner).tolist()
    assert sizes == [303, 294, 123, 200]
    sick = [int(examples.targets[examples.owner == h].sum()) for h in range(4)]
    assert sick == [139, 106, 115, 149]
    no_cholesterol = examples.inputs[:, 4].isnan().numpy()
    shares = [no_cholesterol[examples.owner == h].mean() for h in range(4)]
    assert shares[2] == 1.0
    assert shares[3] == pytest.approx(56 / 200)
    for hospital in range(4):
        data = found.client(hospital)
        assert bool(torch.isfinite(data.train[0]).all())
        assert data.quality is not None
        assert data.quality.missing_rate > 0
