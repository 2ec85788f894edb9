"""What real input did to runs without a word: each has the right value, or the run says why not."""

import copy
import logging
import math
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.clientapp import ClientApp
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import mse_loss

from clients import (
    Classification,
    DittoClient,
    MRMTLClient,
    Optimization,
    PersonalClient,
    PFedMeClient,
    ProximalRule,
    Regression,
    Scope,
    assign_scopes,
    in_memory_loader,
    joint,
    train,
)
from clients.export.model_card import PIXELS, ExportError
from clients.export.predict import build_network, predict
from clients.logs import forget
from clients.state.model_file import model_files, read_model
from clients.task import squared_error
from pfl_flower.config.keys import CLIP_OF_REGRESSION
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataError, DataSettings, number_of_clients
from pfl_flower.data.client_records import RawClient
from pfl_flower.data.client_schema import repeats
from pfl_flower.data.moments import FEWEST_ROWS
from pfl_flower.data.pixels import common_pixels
from pfl_flower.data.readers.array_checks import unnamed_columns
from pfl_flower.engines import simulate
from pfl_flower.grid import InProcessGrid
from pfl_flower.model_setup import model_setup
from pfl_flower.models.hidden_state import HiddenState
from pfl_flower.results.files import describe, write
from pfl_flower.results.rows import round_rows
from pfl_flower.server.callbacks import news_of
from pfl_flower.server.discovery import FederationError
from strategies import ClientReport, PartialAveraging
from strategies.client_registry import ClientRegistry
from strategies.errors import ArgumentError
from tests.errors import SOME, refused
from tests.helpers import reply, tiny_client

SHORT = {"baselines": "", "method": "fedavg", "model": "linear", "learning-rate": 0.3}


def table(path, label, names="abcd", rows=60, **columns):
    """A table of some clients, whose label follows from the column of this name."""
    draw = np.random.default_rng(0)
    count = len(names) * rows
    frame = pd.DataFrame(
        {name: change(draw.normal(size=count)) for name, change in columns.items()}
    )
    frame["label"] = label(frame)
    frame["client"] = [name for name in names for _ in range(rows)]
    frame.to_csv(path, index=False)
    return f"table:{path}"


def plain(values):
    return values


def sign(name, words=("no", "yes")):
    return lambda frame: np.where(frame[name] > frame[name].mean(), words[1], words[0])


# ---------------------------------------------------------------------- features and their scale


@pytest.mark.parametrize(("start", "size"), [(0.0, 10), (1.7e9, 10), (1.7e12, 10_000)])
def test_features_far_from_zero_keep_their_differences(tmp_path, start, size):
    """A time in seconds since 1970: float32 tells no two minutes apart."""
    data = table(tmp_path / "t.csv", sign("time"), time=lambda z: start + size * z, other=plain)
    settings = SHORT | {"dataset": data, "personal-dir": str(tmp_path / "models")}
    (run,) = simulate(settings | {"num-server-rounds": 8}, 4)
    assert min(run.by_client().values()) > 0.9
    model = read_model(model_files(tmp_path / "models")["client-0"])
    rows = np.array(
        [[0.0, start - 2 * size], [0.0, start + 2 * size]]
    )  # as the file's columns are sorted
    found = [row["prediction"] for row in predict(build_network(model, None), model, rows)]
    assert found == ["no", "yes"]


def test_a_feature_that_never_varied_is_0_whatever_it_is_later(tmp_path):
    data = table(tmp_path / "t.csv", sign("a"), a=plain, stuck=lambda z: np.full(len(z), 7.0))
    settings = SHORT | {"dataset": data, "personal-dir": str(tmp_path / "models")}
    simulate(settings | {"model": "mlp", "num-server-rounds": 2}, 4)
    model = read_model(model_files(tmp_path / "models")["client-0"])
    rows = np.array([[1.0, 7.0], [1.0, 1e6]])
    first, second = predict(build_network(model, None), model, rows)
    assert first == second


def test_what_cannot_be_standardised_is_said(tmp_path, caplog):
    """Of so few rows no client sends means and deviations."""
    few = FEWEST_ROWS - 2
    data = table(tmp_path / "t.csv", lambda frame: frame["a"] * 1.5, rows=few, a=plain)
    forget()
    with caplog.at_level(logging.WARNING, logger="flwr"):
        logging.getLogger("flwr").propagate = True
        simulate(SHORT | {"dataset": data, "num-server-rounds": 1, "learning-rate": 0.01}, 4)
    assert str(FEWEST_ROWS) in caplog.text
    assert "features and targets" in caplog.text


# ---------------------------------------------------------------------- pixels


def test_one_scale_of_pixels_is_that_of_most_clients():
    assert common_pixels({0: "other", 1: "unit", 2: ""}) == ("", {})  # waves have any scale
    assert common_pixels({0: "bytes", 1: "unit", 2: "bytes"}) == ("bytes", {})
    kind, odd = common_pixels({0: "bytes", 1: "unit", 2: "other"})
    assert (kind, [*odd]) == ("bytes", [2])
    kind, odd = common_pixels({0: "bytes", 1: "other", 2: "other"})
    assert (kind, [*odd]) == ("other", [0])


def pictures(folder, kinds):
    """Clients of the same pictures, in several types."""
    folder.mkdir()
    for client, kind in enumerate(kinds):
        draw = np.random.default_rng(client)
        y = draw.integers(2, size=60)
        x = draw.integers(0, 120, size=(60, 1, 6, 6)) + 80 * y[:, None, None, None]
        x = x / 255 if kind == "unit" else x.astype(kind)
        train, test = {"x_train": x[:40], "y_train": y[:40]}, {"x_test": x[40:], "y_test": y[40:]}
        np.savez(folder / f"{client}.npz", **train, **test)
    return f"folder:{folder}"


@pytest.mark.parametrize("odd", ["float32", "int64"])
def test_pixels_that_are_not_scaled_beside_those_that_are(tmp_path, odd):
    data = pictures(tmp_path / "data", ["uint8", "unit", "uint8", odd])
    settings = SHORT | {"dataset": data, "num-server-rounds": 1}
    (run,) = simulate(settings | {"personal-dir": str(tmp_path / "models")}, 4)
    assert sorted(run.by_client()) == [0, 1, 2]
    assert len(run.left_out) == 1
    model = read_model(model_files(tmp_path / "models")["client-0"])
    network = build_network(model, None)
    assert len(predict(network, model, np.ones((2, 1, 6, 6), np.float32))) == 2
    with refused(ExportError, key=PIXELS, value=200.0):
        predict(network, model, np.full((2, 1, 6, 6), 200, np.float32))


# ---------------------------------------------------------------------- what places stand for


def test_a_run_starts_from_arrays_of_its_own_classes_and_features_only(tmp_path):
    first = SHORT | {"num-server-rounds": 4}
    data = table(tmp_path / "t.csv", sign("a", ("p", "q")), a=plain, b=plain)
    runs = simulate(first | {"dataset": data}, 4)
    write(tmp_path / "results", runs)
    again = first | {"num-server-rounds": 1, "learning-rate": 1e-9}
    again |= {"initial": str(tmp_path / "results")}
    (same,) = simulate(again | {"dataset": data}, 4)
    assert same.by_client() == runs[0].by_client()
    others = table(tmp_path / "o.csv", sign("a", ("p", "r")), a=plain, b=plain)
    with refused(FederationError, key="initial"):
        simulate(again | {"dataset": others}, 4)
    renamed = table(tmp_path / "r.csv", sign("c", ("p", "q")), c=plain, b=plain)
    with refused(FederationError, key="initial"):
        simulate(again | {"dataset": renamed}, 4)


def test_a_body_may_start_from_that_of_other_classes(tmp_path):
    settings = SHORT | {"method": "fedper", "model": "mlp", "num-server-rounds": 1}
    data = table(tmp_path / "t.csv", sign("a", ("p", "q")), a=plain, b=plain)
    write(tmp_path / "results", simulate(settings | {"dataset": data}, 4))
    others = table(tmp_path / "o.csv", sign("a", ("p", "r")), a=plain, b=plain)
    (run,) = simulate(settings | {"dataset": others, "initial": str(tmp_path / "results")}, 4)
    assert len(run.by_client()) == 4


def test_a_personal_file_is_its_clients_though_another_gets_its_number(tmp_path):
    settings = SHORT | {"method": "local", "num-server-rounds": 1}
    settings |= {"personal-dir": str(tmp_path / "models")}
    path = tmp_path / "t.csv"
    data = table(path, sign("a"), names="bcde", a=plain)
    simulate(settings | {"dataset": data}, 4)
    simulate(settings | {"dataset": data}, 4)  # the same again: fine
    table(path, sign("a"), names="abcd", a=plain)  # a has come, e has left
    with refused(FederationError, key="num-server-rounds"):
        simulate(settings | {"dataset": data}, 4)


# ---------------------------------------------------------------------- losses and proximal terms


@pytest.mark.parametrize("criterion", [mse_loss, nn.MSELoss()])
def test_a_loss_of_torch_compares_each_output_with_its_own_target(criterion):
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 2, generator=draw)
    targets = 2 * inputs[:, 0]

    def trained(task):
        torch.manual_seed(0)
        net = nn.Linear(2, 1)
        loader = in_memory_loader(inputs, targets, 20)
        client = PersonalClient(
            net, assign_scopes(net), loader, test_loader=loader, task=task, schedule=joint(40)
        )
        arrays, _, _ = client.fit(client.get_parameters({}), {})
        return arrays, client.evaluate(arrays, {})[2]["r2"]

    (arrays, r2), (expected, _) = trained(Regression(criterion)), trained(Regression())
    assert r2 > 0.99
    for found, right in zip(arrays, expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


def test_a_loss_of_several_outputs_gets_them_all():
    def pinball(outputs, targets):
        return (outputs - targets[:, None]).abs().mean()

    outputs, targets = torch.zeros(3, 2), torch.tensor([1.0, 2.0, 3.0])
    assert float(Regression(pinball).criterion(outputs, targets)) == 2.0
    assert Regression() == Regression(squared_error)


def test_the_proximal_term_of_flowers_fedprox_is_that_of_the_clients_own():
    """``FedProx`` sends its strength to clients, who have to add the term."""
    own = tiny_client("none", proximal_rules=[ProximalRule(Scope.SHARED, "received", 0.5)])
    asked, free = tiny_client("none"), tiny_client("none")
    start = own.get_parameters({})
    with_rule, _, _ = own.fit(start, {"server-round": 1})
    with_mu, _, _ = asked.fit(start, {"server-round": 1, "proximal-mu": 0.5})
    without, _, _ = free.fit(start, {"server-round": 1, "proximal-mu": 0.0})
    for one, two in zip(with_rule, with_mu, strict=True):
        np.testing.assert_array_equal(one, two)
    assert any(not np.array_equal(one, two) for one, two in zip(with_mu, without, strict=True))
    again, _, _ = asked.fit(start, {"server-round": 1})  # it is the message's, not the client's
    for one, two in zip(again, without, strict=True):
        np.testing.assert_array_equal(one, two)
    with refused(ArgumentError, value=-1.0):
        asked.fit(start, {"proximal-mu": -1.0})


@pytest.mark.parametrize(
    ("kind", "takes"), [(DittoClient, True), (MRMTLClient, False), (PFedMeClient, False)]
)
def test_a_method_without_a_place_for_that_term_says_so(kind, takes):
    assert issubclass(kind, MRMTLClient | DittoClient)
    inputs, targets = torch.randn(20, 4), torch.arange(20) % 2
    torch.manual_seed(0)
    net = nn.Linear(4, 2)
    client = kind(net, assign_scopes(net), in_memory_loader(inputs, targets, 10), lambda_=0.3)
    start = client.get_parameters({})
    if takes:
        held, _, _ = client.fit(start, {"proximal-mu": 1e6})
        assert max(np.abs(a - b).max() for a, b in zip(held, start, strict=True)) < 1e-4
        return
    with refused(ArgumentError, argument="proximal-mu", value=1.0):
        client.fit(start, {"proximal-mu": 1.0})


@pytest.mark.parametrize(("rate", "diverges"), [(0.1, False), (2.0, True)])
def test_a_regression_that_diverges_is_said_once(tmp_path, caplog, rate, diverges):
    data = table(tmp_path / "t.csv", lambda f: 30 + 10 * f["b"], names="abc", a=plain, b=plain)
    settings = {"learning-rate": rate, "num-server-rounds": 3, "gradient-clip": 0.0}
    run, text = warned(caplog, dataset=data, **settings)
    assert text.count("training diverges") == diverges
    assert len(describe([run])) == 1 + diverges
    assert (run.values("r2").mean() < -1) == diverges


def test_a_regression_with_features_that_say_the_same_does_not_diverge_by_default(tmp_path):
    draw = np.random.default_rng(1)
    common = draw.normal(size=240)
    features = {f"f{i:02}": lambda z: common + 0.1 * z for i in range(40)}
    data = table(tmp_path / "t.csv", lambda f: 30 + 10 * f["f00"], **features)
    settings = SHORT | {"dataset": data, "method": "local", "num-server-rounds": 3}
    settings |= {"learning-rate": 0.1}
    (run,) = simulate(settings, 4)
    assert run.values().max() < 50  # five deviations of the target
    (run,) = simulate(settings | {"gradient-clip": 0.0}, 4)
    assert run.values().max() > 500


def test_gradients_of_regressions_alone_are_clipped_by_default():
    numbers = RunConfig.parse({"dataset": "diabetes", "heterogeneity": "offset"})
    classes = RunConfig.parse({"dataset": "digits"})
    assert numbers.optimization.gradient_clip == CLIP_OF_REGRESSION
    assert classes.optimization.gradient_clip == 0
    for clip in (0.0, 2.0):
        given = RunConfig.parse({"dataset": "diabetes", "gradient-clip": clip})
        assert given.optimization.gradient_clip == clip


class HalfUsed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weight_decay_leaves_alone_what_the_loss_does_not_depend_on(optimizer):
    """As PyTorch does: of two heads, the one that a client never uses would shrink."""
    draw = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(40, 3, generator=draw), torch.arange(40) % 2
    net, other = HalfUsed(), HalfUsed()
    settings = Optimization(optimizer, learning_rate=0.1, weight_decay=0.1)
    train(
        net,
        in_memory_loader(inputs, targets, 20),
        joint(3),
        assign_scopes(net),
        optimization=settings,
    )
    torch_s = {
        "sgd": torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
        "adam": torch.optim.Adam(other.parameters(), lr=0.1, weight_decay=0.1),
    }[optimizer]
    for _ in range(3):
        for start in (0, 20):
            part = slice(start, start + 20)
            torch_s.zero_grad()
            nn.functional.cross_entropy(other(inputs[part]), targets[part]).backward()
            torch_s.step()
    for name, value in other.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    assert torch.equal(net.unused.weight, HalfUsed().unused.weight)


def test_a_batch_of_three_parts_is_refused():
    """The last was taken for the targets, be it a weight."""
    inputs, targets = torch.randn(20, 4), torch.arange(20) % 2
    batches = [(inputs, targets, torch.ones(20))]
    net = nn.Linear(4, 2)
    with refused(ArgumentError, argument="batch"):
        PersonalClient(net, assign_scopes(net), batches)
    pairs = [(inputs, targets)]
    client = PersonalClient(net, assign_scopes(net), pairs, test_loader=batches)
    with refused(ArgumentError, argument="batch"):
        client.evaluate(client.get_parameters({}), {})


# ---------------------------------------------------------------------- networks


class Keeps(nn.Module):
    """It centres its inputs by a running mean that is in no state dict."""

    parts: ClassVar = {"head": ("out",)}

    def __init__(self, shape, num_outputs):
        super().__init__()
        self.out = nn.Linear(shape[0], num_outputs)
        self.register_buffer("seen", torch.zeros(shape[0]), persistent=False)

    def forward(self, x):
        if self.training:
            self.seen = 0.9 * self.seen + 0.1 * x.mean(0).detach()
        return self.out(x - self.seen)


class KeepsInPlace(Keeps):
    def forward(self, x):
        if self.training:
            self.seen.mul_(0.9).add_(0.1 * x.mean(0).detach())
        return self.out(x - self.seen)


class KeepsAttributes(Keeps):
    def forward(self, x):
        if self.training:
            self.steps = getattr(self, "steps", 0) + 1
            self.past = {"means": [x.mean(0).detach()], "last": np.ones(2)}
            self.rate = math.nan
        steps = getattr(self, "steps", 0)
        return self.out(x - self.past["means"][0] if steps else x) * (1 + steps / 10)


class GivesProbabilities(nn.Module):
    parts: ClassVar = {"head": ("out",)}

    def __init__(self, shape, num_outputs):
        super().__init__()
        self.out = nn.Linear(shape[0], num_outputs)

    def forward(self, x):
        return self.out(x).softmax(dim=1)


class GivesLogProbabilities(GivesProbabilities):
    def forward(self, x):
        return self.out(x).log_softmax(dim=1)


def near(client, count, start=0.0):
    draw = np.random.default_rng(client)
    x = draw.normal(size=(40, 4))
    return {"x_train": (x + start * (client == 0)).astype("float32"), "y_train": x[:, 0] > 0}


def far(client, count):
    return near(client, count, 50.0)


def warned(caplog, **settings):
    forget()
    with caplog.at_level(logging.WARNING, logger="flwr"):
        logging.getLogger("flwr").propagate = True
        (run,) = simulate(SHORT | settings, 3)
    return run, caplog.text


@pytest.mark.parametrize("network", [Keeps, KeepsInPlace, KeepsAttributes])
def test_a_client_gets_nothing_of_anothers_by_the_network_they_share(network, caplog):
    """Whatever a network keeps outside of its state dict starts anew, as on a device."""
    model = f"{__name__}:{network.__name__}"
    settings = {"model": model, "method": "local", "num-server-rounds": 2}
    one, text = warned(caplog, dataset=f"{__name__}:near", **settings)
    two, _ = warned(caplog, dataset=f"{__name__}:far", **settings)
    for metric in ("loss", "accuracy"):
        first, second = one.by_client(metric), two.by_client(metric)
        assert [first[c] for c in (1, 2)] == [second[c] for c in (1, 2)]
    assert one.by_client("loss")[0] != two.by_client("loss")[0]
    assert model in text


def test_what_is_kept_outside_of_the_state_dict_is_put_back_by_name():
    net = nn.Sequential(KeepsAttributes((4,), 2), nn.LSTM(2, 3))
    hidden, copied = HiddenState(net), copy.deepcopy(net)
    assert hidden.restore(net) == []
    net(torch.ones(5, 4))
    assert sorted(hidden.restore(net)) == ["0.past", "0.rate", "0.steps"]
    assert hidden.restore(net) == hidden.restore(copied) == []
    copied[0].seen += 1
    assert hidden.restore(copied) == ["0.seen"]
    assert copied[0].seen.tolist() == [0, 0, 0, 0]
    assert not hasattr(net[0], "steps")


def test_nan_is_no_other_value_than_nan():
    net = nn.Linear(2, 2)
    net.table, net.row = np.array([np.nan, 1.0]), torch.tensor([np.nan, 1.0])
    net.words, net.mask = np.array(["a"]), torch.tensor([True])
    hidden = HiddenState(net)
    for name in ("table", "row", "words", "mask"):
        setattr(net, name, copy.deepcopy(getattr(net, name)))
    assert hidden.restore(net) == []
    net.mask = ~net.mask
    assert hidden.restore(net) == ["mask"]


def from_a_file(shape, num_outputs):
    """A network with first values from a file, as a pretrained one has."""
    net = nn.Linear(shape[0], num_outputs)
    net.load_state_dict(load_file(PRETRAINED[0]))
    net.bias.requires_grad_(False)
    return net


PRETRAINED = [""]


def test_a_network_from_a_file_is_made_from_the_file_as_it_is_now(tmp_path):
    PRETRAINED[0] = str(tmp_path / "pretrained.safetensors")
    settings = SHORT | {"model": f"{__name__}:from_a_file", "dataset": f"{__name__}:near"}
    for bias in (1.0, 2.0):
        values = {"weight": torch.zeros(2, 4), "bias": torch.full((2,), bias)}
        save_file(values, PRETRAINED[0])
        (run,) = simulate(settings | {"num-server-rounds": 1}, 2)
        assert model_setup(run.config).initial["bias"].tolist() == [bias, bias]


@pytest.mark.parametrize(
    ("network", "said"), [(GivesProbabilities, True), (GivesLogProbabilities, False)]
)
def test_probabilities_in_place_of_logits_are_said(network, said, caplog):
    model = f"{__name__}:{network.__name__}"
    settings = {"model": model, "dataset": f"{__name__}:near", "num-server-rounds": 1}
    _, text = warned(caplog, **settings)
    assert ("softmax" in text) == said


# ---------------------------------------------------------------------- columns of tables


def test_clients_whose_numbers_are_written_in_two_ways(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("client,a,label\n" + "007,1.0,n\n7,2.0,y\n" * 9)
    with refused(DataError, key="client-column", value=["007", "7"]):
        number_of_clients(DataSettings(dataset=f"table:{path}", client_column="client"))
    path.write_text("client,a,label\n" + "007,1.0,n\n008,2.0,y\n" * 9)
    assert number_of_clients(DataSettings(dataset=f"table:{path}", client_column="client")) == 2


def test_the_index_of_a_data_frame_is_no_feature(tmp_path):
    """Where rows are sorted by class it tells the class."""
    names = ["a", "Unnamed: 0", "__index_level_0__", "__index_level_12__", "index level"]
    assert unnamed_columns(names) == names[1:4]
    folder = tmp_path / "data"
    folder.mkdir()
    frame = pd.DataFrame({"a": np.arange(40.0), "label": np.repeat(["n", "y"], 20)})
    frame.sample(frac=1, random_state=0).to_parquet(folder / "train.parquet")
    settings = SHORT | {"dataset": f"huggingface:{folder}", "label-column": "label"}
    with refused(FederationError, reason=SOME):
        simulate(settings, 2)


@pytest.mark.parametrize("times", [1, 2])
def test_rows_that_are_there_twice_are_said(tmp_path, caplog, times):
    path = tmp_path / "t.csv"
    data = table(path, sign("a"), names="abc", a=plain, b=plain)
    frame = pd.read_csv(path)
    pd.concat([frame] * times).to_csv(path, index=False)
    _, text = warned(caplog, dataset=data, **{"num-server-rounds": 1})
    assert ("3 of 3 clients are tested on examples" in text) == (times == 2)


def test_codes_repeat_by_nature():
    codes = np.arange(60).reshape(30, 2) % 4
    pictures = np.zeros((30, 1, 2, 2), np.uint8)
    for inputs, found in ((codes, False), (codes + np.arange(30)[:, None], True), (pictures, True)):
        part = inputs.astype(np.float64), np.zeros(30, int)
        assert repeats(RawClient(part, test=part)) == found


@pytest.mark.parametrize(("size", "said"), [(1.0, False), (1e4, True)])
def test_features_that_are_used_as_they_are_and_far_from_1_are_said(tmp_path, caplog, size, said):
    for client in range(3):
        x = size * np.random.default_rng(client).normal(size=(40, 3))
        y = (x[:, 0] > 0).astype(int)
        parts = {"x_train": x[:30], "y_train": y[:30], "x_test": x[30:], "y_test": y[30:]}
        np.savez(tmp_path / f"{client}.npz", **parts)
    _, text = warned(caplog, dataset=f"folder:{tmp_path}", **{"num-server-rounds": 1})
    assert ("features beyond 100" in text) == said


def test_splits_of_a_data_set_that_nobody_reads_are_said(tmp_path, caplog):
    frame = pd.DataFrame({"a": np.arange(60.0), "label": ["n", "y"] * 30})
    for split in ("train", "test"):
        frame.to_csv(tmp_path / f"{split}.csv", index=False)
    settings = {"dataset": f"huggingface:{tmp_path}", "label-column": "label"}
    _, text = warned(caplog, **settings, **{"num-server-rounds": 1})
    assert "the splits test are not used" in text


# ---------------------------------------------------------------------- who a score is of


def test_a_fraction_of_clients_is_what_it_says():
    """In floats 0.29 of 100 is a little less than 29."""
    fractions = [whole / 100 for whole in range(1, 101)]
    nodes = InProcessGrid(ClientApp(), 100)
    registry = ClientRegistry(0, "config")
    registry.clients.update({node: node for node in nodes.get_node_ids()})
    found = [
        len(registry.sample(nodes, "train", 1, fraction=each, minimum=1, needed=1))
        for each in fractions
    ]
    assert found == list(range(1, 101))


def test_an_infinite_error_is_no_missing_one():
    """A mean without the clients whose training diverged would be that of the others."""
    values = {100: 1.0, 101: math.inf, 102: math.nan}
    replies = [reply(node, None, {"num-examples": 1, "rmse": v}) for node, v in values.items()]
    assert PartialAveraging().aggregate_evaluate(1, replies)["rmse"] == math.inf
    reports = [
        ClientReport(1, "evaluate", node, node, {"rmse": value}, 0, 0)
        for node, value in values.items()
    ]
    assert news_of("fedavg", 1, 1, reports).means["evaluate/rmse"] == math.inf
    assert news_of("fedavg", 1, 1, reports[::2]).means["evaluate/rmse"] == 1.0


def test_the_loss_of_a_dropped_reply_is_in_no_mean():
    run = SimpleNamespace(
        method="fedavg",
        score="accuracy",
        config=SimpleNamespace(client_task=Classification()),
        reports=[
            ClientReport(1, "train", 100, 0, {"train-loss": 1.0}, 0, 0),
            ClientReport(
                1, "train", 101, 1, {"train-loss": 99.0}, 0, 0, "values that are not finite"
            ),
        ],
    )
    (row,) = round_rows(run)
    assert row["train_loss"] == 1.0


def test_clients_that_never_trained_are_counted(tmp_path):
    data = table(tmp_path / "t.csv", sign("a"), names="abcdefghij", rows=20, a=plain)
    settings = SHORT | {"dataset": data, "num-server-rounds": 1, "method": "local"}
    (run,) = simulate(settings | {"fraction-train": 0.3}, 10)
    assert "7 of 10" in describe([run])[1]
    (run,) = simulate(settings, 10)
    assert len(describe([run])) == 1
    (run,) = simulate(settings | {"method": "fedavg", "fraction-train": 0.3}, 10)
    assert len(describe([run])) == 1  # who did not train has the model of those who did
