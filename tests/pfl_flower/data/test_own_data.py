"""Own data, from the files to the models."""

import logging
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from clients.export.model_card import INTEGERS, ExportError
from clients.export.predict import build_network, predict
from clients.state.model_file import model_files, read_model
from pfl_flower.client_app import make_app
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataError, DataSettings, Federation, number_of_clients
from pfl_flower.data.moments import FEWEST_ROWS
from pfl_flower.data.schema_merging import merge_schemas
from pfl_flower.engines import simulate
from pfl_flower.grid import InProcessGrid
from pfl_flower.results.files import describe, write
from pfl_flower.server.discovery import FederationError, wait_for_clients
from pfl_flower.server.holdout import choose_unseen
from tests.errors import refused
from tests.helpers import assert_identical

SHORT = {"num-server-rounds": 3, "baselines": "", "learning-rate": 0.05}


def write_client(folder, name, count, labels=(3, 7), features=4, seed=0, **more):
    """A client whose label says whether its first feature is positive."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(count, features)).astype(np.float32)
    y = np.array(labels)[(x[:, 0] > 0).astype(int)]
    split = max(1, count * 3 // 4)
    folder.mkdir(exist_ok=True)
    arrays = {"x_train": x[:split], "y_train": y[:split], "x_test": x[split:], "y_test": y[split:]}
    np.savez(folder / f"{name}.npz", **{**arrays, **more})


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        write_client(tmp_path / "data", number, 80, seed=number)
    return tmp_path / "data"


def test_a_folder_of_clients_learns(folder):
    config = {**SHORT, "num-server-rounds": 6, "dataset": f"folder:{folder}", "method": "fedper"}
    (run,) = simulate(config, 4)
    assert number_of_clients(run.config.data) == 4
    assert run.config.required_schema.labels == (3, 7)
    assert run.config.architecture.num_classes == 2
    assert min(run.by_client().values()) > 0.75


def test_labels_that_are_mapped_are_said_to_be(folder, caplog):
    with caplog.at_level(logging.INFO, logger="flwr"):
        logging.getLogger("flwr").addHandler(caplog.handler)
        simulate({**SHORT, "dataset": f"folder:{folder}"}, 4, quiet=False)
        logging.getLogger("flwr").removeHandler(caplog.handler)
    said = [r for r in caplog.records if r.getMessage().startswith("Labels [3, 7] become classes")]
    assert {record.levelno for record in said} == {logging.INFO}


@pytest.fixture
def warnings(caplog):
    logging.getLogger("flwr").addHandler(caplog.handler)
    yield lambda: [r.args for r in caplog.records if r.levelno == logging.WARNING]
    logging.getLogger("flwr").removeHandler(caplog.handler)


def test_clients_of_the_data_that_no_node_has_are_named(tmp_path, warnings):
    path = tmp_path / "twelve.csv"
    table(path, count=120)
    frame = pd.read_csv(path).drop(columns="hospital")
    frame.assign(client=[f"h{row % 12:02d}" for row in range(120)]).to_csv(path, index=False)
    settings = DataSettings(dataset=f"table:{path}", label_column="ill")
    Federation(settings, 10)
    said = warnings()
    assert [args for args in said if "h10, h11" in str(args)]
    Federation(settings, 12)
    assert warnings() == said


def test_one_class_and_classes_that_look_alike_are_said(folder, warnings):
    for number in range(4):
        write_client(folder, number, 80, labels=("ill", "ill"), seed=number)
    simulate({**SHORT, "num-server-rounds": 1, "dataset": f"folder:{folder}"}, 4)
    assert any("All labels are 'ill'" in str(args) for args in warnings())
    write_client(folder, 0, 80, labels=("ill", "Ill "))
    simulate({**SHORT, "num-server-rounds": 1, "dataset": f"folder:{folder}"}, 4)
    assert any("['Ill ', 'ill'] look alike" in str(args) for args in warnings())


def test_odd_clients_take_part(folder):
    write_client(folder, 1, 80, labels=(3, 3))  # one class
    write_client(folder, 2, 3)  # three examples
    (run,) = simulate({**SHORT, "dataset": f"folder:{folder}", "method": "fedper"}, 4)
    assert len(run.by_client()) == 4
    assert not [report for report in run.reports if report.dropped]


def test_a_client_with_other_features_is_left_out_and_named(folder, caplog):
    write_client(folder, 2, 80, features=5)
    logging.getLogger("flwr").addHandler(caplog.handler)
    (run,) = simulate({**SHORT, "dataset": f"folder:{folder}"}, 4)
    logging.getLogger("flwr").removeHandler(caplog.handler)
    assert "Client 2 cannot take part: its examples have shape (5,)" in caplog.text
    assert list(run.by_client()) == [0, 1, 3]
    assert {report.client for report in run.reports} == {0, 1, 3}


def test_one_broken_file_does_not_end_the_run(folder):
    np.savez(folder / "3.npz", x_train=np.array([{}, None]), y_train=np.zeros(2))
    (run,) = simulate({**SHORT, "dataset": f"folder:{folder}"}, 4)
    assert list(run.by_client()) == [0, 1, 2]
    for number in range(3):
        (folder / f"{number}.npz").write_bytes(b"PK broken")
    with pytest.raises(FederationError, match=r"[0-3]\.npz"):
        simulate({**SHORT, "dataset": f"folder:{folder}"}, 4)


def table(path, count=240, missing=False, **columns):
    """Four hospitals that differ in size and in the scale of nothing."""
    draw = np.random.default_rng(0)
    age = draw.normal(50, 12, count)
    dose = draw.normal(1e-3, 2e-4, count)
    frame = pd.DataFrame({"age": age, "dose": dose, **columns})
    frame["hospital"] = [f"h{i % 4 if i % 3 else 0}" for i in range(count)]
    if "cost" not in columns:
        frame["ill"] = np.where(age + 1e4 * (dose - 1e-3) > 50, "yes", "no")
    frame.to_csv(path, index=False)
    return {"dataset": f"table:{path}", "client-column": "hospital"}


def test_a_table_is_standardised_by_federated_moments(tmp_path):
    config = {**SHORT, **table(tmp_path / "t.csv"), "label-column": "ill", "method": "fedper"}
    (run,) = simulate({**config, "num-server-rounds": 6}, 4)
    schema = run.config.required_schema
    assert schema.labels == ("no", "yes")
    data = Federation(run.config.data, 4)
    together = torch.cat([data.client(client, schema).train[0] for client in range(4)])
    torch.testing.assert_close(together.mean(dim=0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.std(dim=0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    assert np.mean(list(run.by_client().values())) > 0.8


def test_discovery_collects_the_client_schemas(tmp_path):
    config = RunConfig.parse({**SHORT, **table(tmp_path / "t.csv"), "label-column": "ill"})
    grid = InProcessGrid(make_app(config.dump()), 4)
    there = wait_for_clients(grid, config)
    data = Federation(config.data, 4)
    assert there.schemas == {client: data.client_schema(client) for client in range(4)}
    assert merge_schemas(there.schemas)[0] == data.schema
    rows = sum(client_schema.features.count for client_schema in there.schemas.values())
    assert rows < 240  # only training examples


@pytest.mark.integration
def test_a_regression_on_a_table_is_off_by_the_users_unit(tmp_path):
    draw = np.random.default_rng(1)
    noise = draw.normal(0, 10, 240)
    age = np.random.default_rng(0).normal(50, 12, 240)
    config = {**SHORT, **table(tmp_path / "t.csv", cost=1000 + 20 * age + noise)}
    runs = simulate(
        {
            **config,
            "label-column": "cost",
            "num-server-rounds": 15,
            "method": "fedavg",
            "baselines": "local,fedper,fedavg-ft,fedrep,fedprox",
        },
        4,
    )
    spread = 20 * 12
    for run in runs:
        assert run.score == "rmse"
        errors = list(run.by_client().values())
        assert 5 < np.mean(errors) < spread / 3, run.method
        assert np.mean(list(run.by_client("r2").values())) > 0.85
    write(tmp_path / "out", runs)
    assert (tmp_path / "out" / "rmse.png").exists()
    assert "off by" in describe(runs)[0]


def test_missing_columns_and_a_wrong_task_are_named(tmp_path):
    config = {**SHORT, **table(tmp_path / "t.csv"), "label-column": "sick"}
    with pytest.raises(FederationError, match="'sick'"):
        simulate(config, 4)
    wrong = {**config, "label-column": "ill", "task": "regression"}
    with pytest.raises(FederationError, match="task 'regression'"):
        simulate(wrong, 4)


def test_numbers_can_be_classes_or_amounts(tmp_path):
    config = {**SHORT, **table(tmp_path / "t.csv", count=80, cost=np.arange(80) % 3)}
    config["label-column"] = "cost"
    (run,) = simulate(config, 4)
    assert run.config.required_schema.labels == (0, 1, 2)
    (run,) = simulate({**config, "task": "regression"}, 4)
    assert run.config.required_schema.task == "regression"
    config |= table(tmp_path / "t.csv", count=80, cost=np.arange(80) % 3 + 0.0)
    assert simulate(config, 4)[0].score == "rmse"
    (run,) = simulate({**config, "task": "classification"}, 4)
    assert run.config.required_schema.labels == (0, 1, 2)
    config |= table(tmp_path / "t.csv", count=80, cost=np.arange(80) % 3 + 0.5)
    with pytest.raises(FederationError, match="task 'classification'"):
        simulate({**config, "task": "classification"}, 4)


MODULE = """
import numpy as np
from torch import nn

def load(partition_id, num_partitions):
    draw = np.random.default_rng(partition_id)
    x = draw.normal(size=(60, 6)).astype("float32")
    y = (x[:, 0] > 0).astype(int)
    return {"x_train": x, "y_train": y}

class Net(nn.Sequential):
    parts = {"head": ("1",)}

    def __init__(self, shape, num_outputs):
        super().__init__(nn.Linear(shape[0], 8), nn.Linear(8, num_outputs))
"""


def test_a_function_and_a_network_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_project.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {"dataset": "my_project:load", "model": "my_project:Net", "method": "fedper"}
    (run,) = simulate({**SHORT, **config, "num-server-rounds": 6}, 3)
    assert run.parameters == {"shared": 6 * 8 + 8, "personal": 8 * 2 + 2}
    assert min(run.by_client().values()) > 0.6
    with pytest.raises(FederationError, match="'laod'"):
        simulate({**SHORT, "dataset": "my_project:laod"}, 3)
    sys.modules.pop("my_project")


def test_a_local_data_set_of_hugging_face(tmp_path):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(200, 3))
    frame = pd.DataFrame(x, columns=list("abc")).assign(kind=(x[:, 0] > 0).astype(int))
    (tmp_path / "hf").mkdir()
    frame.to_parquet(tmp_path / "hf" / "train.parquet")
    config = {**SHORT, "dataset": f"huggingface:{tmp_path / 'hf'}", "label-column": "kind"}
    for partition in ({"partition": "iid"}, {"partition": "dirichlet", "alpha": 1.0}):
        (run,) = simulate({**config, **partition}, 4)
        assert len(run.by_client()) == 4
        assert run.config.required_schema.shape == (3,)
        assert run.config.required_schema.features is not None


def test_unseen_clients_have_no_part_in_means_but_may_have_a_class_of_their_own(tmp_path):
    for number in range(4):
        more = {"labels": (3, 9)} if number == 2 else {}
        write_client(tmp_path / "data", number, 40, seed=number, **more)
    rows = [dict(np.load(tmp_path / "data" / f"{n}.npz")) for n in range(4)]
    frame = pd.concat(
        pd.DataFrame(row["x_train"], columns=list("abcd")).assign(client=n, label=row["y_train"])
        for n, row in enumerate(rows)
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    config = {**SHORT, "dataset": f"table:{tmp_path / 't.csv'}", "unseen": 0.25}
    for seed in range(20):  # until client 2 is the one held out
        if choose_unseen(RunConfig(unseen=0.25, seed=seed), range(4)) == {2}:
            break
    (run,) = simulate({**config, "seed": seed}, 4)
    schema = run.config.required_schema
    assert schema.labels == (3, 7, 9)
    data = Federation(run.config.data, 4)
    assert schema.features.count == sum(data.client_schema(n).features.count for n in (0, 1, 3))
    assert not any(report.dropped for report in run.unseen[0])


def test_what_is_given_is_not_split_and_what_is_not_is(tmp_path):
    x, y = np.arange(40.0, dtype=np.float32)[:, None], np.arange(40) % 2
    write_client(tmp_path / "a", 0, 80, x_val=x[:6], y_val=y[:6], features=1, labels=(0, 1))
    given = Federation(DataSettings(dataset=f"folder:{tmp_path / 'a'}"), 1).client(0)
    assert [len(split[1]) for split in (given.train, given.validation, given.test)] == [60, 6, 20]
    write_client(tmp_path / "b", 0, 80)
    options = DataSettings(dataset=f"folder:{tmp_path / 'b'}", validation_fraction=0.2)
    part = Federation(options, 1).client(0)
    assert [len(split[1]) for split in (part.train, part.validation, part.test)] == [48, 12, 20]


@pytest.fixture
def said(caplog):
    """What is logged, as a user reads it."""
    logger = logging.getLogger("flwr")
    caplog.set_level(logging.INFO, logger="flwr")
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.removeHandler(caplog.handler)


def test_paths_are_looked_for_where_a_user_would_put_them(tmp_path, monkeypatch, said):
    write_client(tmp_path / "mine", 0, 20)
    settings = DataSettings(dataset="folder:mine")
    with pytest.raises(DataError) as error:
        Federation(settings, 1)
    assert (error.value.key, error.value.value) == ("dataset", "mine")
    assert str(Path.cwd() / "mine") in error.value.choices
    monkeypatch.setenv("PFL_DATA_DIR", str(tmp_path))
    assert len(Federation(settings, 1).client(0).test[1]) == 5
    assert [line for line in said() if str(tmp_path / "mine") in line]
    monkeypatch.delenv("PFL_DATA_DIR")
    monkeypatch.chdir(tmp_path)
    assert len(Federation(settings, 1).client(0).test[1]) == 5


def test_heterogeneity_is_the_data_sets_own_and_none_for_ones_own():
    assert RunConfig().data.heterogeneity == "taste"
    assert RunConfig(dataset="diabetes").data.heterogeneity == "offset"
    assert RunConfig(dataset="folder:x").data.heterogeneity == "none"
    assert RunConfig(dataset="folder:x", heterogeneity="taste").data.heterogeneity == "taste"
    with pytest.raises(ConfigError, match="<kind>:<location>"):
        RunConfig(dataset="digit")
    with pytest.raises(ConfigError, match="folder:x"):
        RunConfig(dataset="folder:x").architecture  # noqa: B018


@pytest.mark.parametrize("partition", ["dirichlet", "pathological"])
def test_numbers_cannot_be_split_by_class(partition):
    with pytest.raises(DataError) as error:
        Federation(DataSettings(dataset="diabetes", partition=partition), 3)
    assert (error.value.key, error.value.value) == ("partition", partition)
    assert error.value.choices == ("iid", "natural")
    with pytest.raises(FederationError, match="heterogeneity 'taste'"):
        simulate({**SHORT, "dataset": "diabetes", "heterogeneity": "taste"}, 3)


def test_a_client_with_few_rows_sends_no_moments(tmp_path):
    config = {**table(tmp_path / "t.csv", count=200), "label-column": "ill"}
    frame = pd.read_csv(tmp_path / "t.csv")
    few = frame[frame.hospital == "h1"].index[7:]
    frame.drop(few).to_csv(tmp_path / "t.csv", index=False)
    data = Federation(RunConfig.parse({**SHORT, **config}).data, 4)
    assert len(data.client(1).train[1]) == FEWEST_ROWS - 1
    assert data.client_schema(1).features is None
    assert data.client_schema(0).features is not None


def test_held_out_clients_do_not_change_what_most_clients_data_look_like(folder):
    for number in (0, 1):
        write_client(folder, number, 40, features=5)
    write_client(folder, 4, 40)
    for seed in range(3):
        config = {**SHORT, "dataset": f"folder:{folder}", "unseen": 0.4, "seed": seed}
        (run,) = simulate(config, 5)
        assert run.config.required_schema.shape == (4,)
        assert len(run.by_client()) == 2


def test_heads_that_were_kept_under_another_numbering_of_labels_are_refused(tmp_path):
    for number in range(3):
        write_client(tmp_path / "data", number, 40, labels=("a", "b"), seed=number)
    config = {**SHORT, "dataset": f"folder:{tmp_path / 'data'}", "method": "fedper"}
    config["personal-dir"] = str(tmp_path / "devices")
    simulate(config, 3)
    write_client(tmp_path / "data", 2, 40, labels=("b", "d"), seed=2)
    write_client(tmp_path / "data", 0, 40, labels=("d", "b"), seed=0)
    write_client(tmp_path / "data", 1, 40, labels=("b", "d"), seed=1)
    with pytest.raises(FederationError, match="labels=a,b"):
        simulate(config, 3)


def test_a_data_set_of_hugging_face_has_another_order_for_another_seed(tmp_path):
    frame = pd.DataFrame({"x": np.arange(100.0), "kind": np.arange(100) % 2})
    (tmp_path / "hf").mkdir()
    frame.to_parquet(tmp_path / "hf" / "train.parquet")
    options = {"dataset": f"huggingface:{tmp_path / 'hf'}", "label_column": "kind"}
    rows = [
        Federation(DataSettings(seed=seed, **options), 4).clients.data.load(0, 4).train[0].tolist()
        for seed in (0, 1, 0)
    ]
    assert sorted(rows[0]) == sorted(rows[2]) != sorted(rows[1])


def tokens(client, _, kind="int64"):
    """Ten texts of two tokens out of five, the first of which is the class."""
    draw = np.random.default_rng(client)
    y = draw.integers(2, size=60)
    return {"x_train": np.stack([y, draw.integers(5, size=60)], axis=1).astype(kind), "y_train": y}


def float_tokens(client, count):
    return tokens(client, count, "float32")


class Texts(nn.Module):
    """An embedding, whose inputs must be integers."""

    parts: ClassVar = {"head": ("out",)}

    def __init__(self, shape, num_outputs):
        super().__init__()
        self.embedding, self.out = nn.Embedding(5, 4), nn.Linear(4 * shape[0], num_outputs)

    def forward(self, inputs):
        return self.out(self.embedding(inputs).flatten(1))


def own(data, model="linear", **more):
    return {**SHORT, "dataset": f"{__name__}:{data}", "model": model, **more}


def test_a_network_with_an_embedding_gets_integers_as_they_are(tmp_path):
    config = own("tokens", f"{__name__}:Texts", method="fedper")
    (run,) = simulate(config | {"learning-rate": 0.3, "personal-dir": str(tmp_path)}, 3)
    assert min(run.by_client().values()) > 0.9
    (file,) = [file for client, file in model_files(tmp_path).items() if client == "client-1"]
    model = read_model(file)
    network = build_network(model, f"{__name__}:Texts")
    given = tokens(1, 3)
    rows = predict(network, model, given["x_train"].astype(np.float32))
    assert np.mean([row["prediction"] for row in rows] == given["y_train"]) > 0.9
    with refused(ExportError, key=INTEGERS, value=0.5):
        predict(network, model, np.full((1, 2), 0.5, np.float32))


def test_integers_give_other_networks_the_numbers_that_floats_give():
    as_integers, as_floats = (simulate(own(name), 3) for name in ("tokens", "float_tokens"))
    assert not as_integers[0].config.required_schema.integers
    assert_identical(as_integers, as_floats)


class Sequences(nn.Module):
    """Looks at what is no padding, as a packed sequence does; padding alone is an error."""

    parts: ClassVar = {"head": ("out",)}

    def __init__(self, shape, num_outputs):
        super().__init__()
        self.embedding, self.out = nn.Embedding(5, 4), nn.Linear(4, num_outputs)

    def forward(self, inputs):
        if not inputs.any():
            raise ValueError("length of all samples has to be greater than 0")
        return self.out(self.embedding(inputs).mean(dim=1))


def test_a_network_that_takes_no_padding_alone_gets_integers():
    run, *_ = simulate(own("tokens", f"{__name__}:Sequences", method="fedavg"), 3)
    assert run.config.required_schema.integers
    assert len(run.by_client()) == 3


def test_floats_for_an_embedding_are_refused_before_round_1():
    model = f"{__name__}:Texts"
    with refused(ConfigError, key="model", value=model):
        simulate(own("float_tokens", model), 3)
    with refused(ConfigError, key="model", value=model):  # what fills values in makes fractions
        simulate(own("tokens", model, imputation="mean"), 3)


def test_0_and_1_are_classes_in_all_splits_and_amounts_where_that_is_said(tmp_path):
    """A split that happens to hold one class only has the type of the others."""
    x = np.zeros((4, 2), np.float32)
    arrays = {"x_train": x, "y_train": np.array([0.0, 1.0, 1.0, 0.0])}
    arrays |= {"x_test": x[:2], "y_test": np.array([1.0, 1.0])}
    np.savez(tmp_path / "a.npz", **arrays)
    for task, found in (("auto", "classification"), ("regression", "regression")):
        settings = DataSettings(dataset=f"folder:{tmp_path}", task=task)
        schema = Federation(settings, 1).schema
        assert schema.task == found
        assert schema.labels == ((0, 1) if task == "auto" else ())
