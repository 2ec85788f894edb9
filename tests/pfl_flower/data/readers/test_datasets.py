"""Functions that return torch data sets; the functions are found as attributes of this module."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataError, DataSettings, Federation
from pfl_flower.data.lazy_inputs import LazyInputs
from pfl_flower.engines import simulate
from tests.errors import refused
from tests.helpers import assert_identical


class Points(Dataset[Any]):
    """Points of which one side is a class; classes have names, in an order of the client's own."""

    def __init__(self, client, count=40, kind=torch.float32, says=None, named=True):
        draw = torch.Generator().manual_seed(client)
        self.x = torch.randn(count, 1, 4, 4, generator=draw)
        side = (self.x.flatten(1).sum(dim=1) > 0).long()
        self.classes = [["low", "high"], ["high", "low"]][client % 2] if named else None
        self.targets = (side if client % 2 == 0 else 1 - side).tolist()
        self.x = (self.x * 20 + 128).clamp(0, 255).to(kind) if kind == torch.uint8 else self.x
        self.says, self.read = says, []

    def __len__(self):
        return self.says or len(self.targets)

    def __getitem__(self, place):
        self.read.append(place)
        return self.x[place], self.targets[place]


def parts(client, num_clients):
    return {"train": Points(client), "validation": Points(client + 10, 10), "test": Points(client)}


def one(client, num_clients):
    return Points(client)


def arrays(client, num_clients):
    made = {}
    for name, data in parts(client, num_clients).items():
        key = name[:3] if name == "validation" else name
        made[f"x_{key}"] = data.x.numpy()
        made[f"y_{key}"] = np.array(data.classes)[data.targets]
    return made


def lying(client, num_clients):
    return Points(client, says=45 if client == 1 else 40)


class LateFailure(Points):
    def __getitem__(self, place):
        if 0 < place < len(self) - 1 and len(self.read) > 200:
            raise OSError("the disk is gone")
        return super().__getitem__(place)


def failing(client, num_clients):
    return (LateFailure if client == 1 else Points)(client)


def pixels(client, num_clients):
    return Points(client, kind=torch.uint8)


class Ragged(Points):
    def __getitem__(self, place):
        x, y = super().__getitem__(place)
        return x[..., : 4 - place % 2], y


def ragged(client, num_clients):
    return Ragged(client)


def pad(rows):
    x = torch.zeros(len(rows), 1, 4, 4)
    for row, (inputs, _) in enumerate(rows):
        x[row, ..., : inputs.shape[-1]] = inputs
    return x, torch.stack([y for _, y in rows])


def padded(client, num_clients):
    return {"train": Ragged(client), "collate": pad}


def subsets(client, num_clients):
    whole = ConcatDataset([Points(client), Points(client + 2)])
    return {"train": Subset(whole, range(60)), "test": Subset(whole, range(60, 80))}


def other_classes(client, num_clients):
    parts = [Points(client), Points(client)]
    parts[1].classes = [*reversed(parts[1].classes)]
    return ConcatDataset(parts)


def amounts(client, num_clients):
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(client))
    return TensorDataset(x, x.sum(dim=1).double())


def name_of(function):
    return f"{__name__}:{function.__name__}"


def data(function, clients=2, **changes):
    return Federation(DataSettings(dataset=name_of(function), **changes), clients)


def run(function, clients=2, engine="in-process", **changes):
    config = {"dataset": name_of(function), "baselines": "", "num-server-rounds": 2}
    return simulate({**config, **{k.replace("_", "-"): v for k, v in changes.items()}}, 2, engine)


def test_classes_have_names_whatever_their_numbers():
    found = data(parts)
    assert found.schema.labels == ("high", "low")
    for client in (0, 1):
        own = found.client(client)
        assert isinstance(own.train[0], LazyInputs)
        x = own.train[0].dataset.x[own.train[0].places]
        high = x.flatten(1).sum(dim=1) > 0
        assert own.train[1].tolist() == (~high).long().tolist()
        assert [len(part[1]) for part in (own.train, own.validation, own.test)] == [40, 10, 40]


def test_one_data_set_is_split():
    own = data(one).client(0)
    sizes = [len(part[1]) for part in (own.train, own.validation, own.test)]
    assert sizes == [26, 4, 10]
    places = [place for part in (own.train, own.validation, own.test) for place in part[0].places]
    assert sorted(places) == list(range(40))


def test_a_run_is_that_of_the_same_arrays():
    assert_identical(run(parts), run(arrays))
    assert_identical(run(parts, augmentation="flip"), run(arrays, augmentation="flip"))


def test_only_ends_are_read_where_targets_are_known():
    found = data(one, 1)
    found.client_schema(0)
    assert set(found._raw[0].train[0].dataset.read) <= {*range(8), 39}


def test_a_data_set_without_targets_is_read_once_for_them(monkeypatch):
    own = Points(0, named=False)
    del own.targets
    y = [int(x.sum() > 0) for x in own.x]
    monkeypatch.setattr(Points, "__len__", lambda self: 40)
    monkeypatch.setattr(Points, "__getitem__", lambda self, place: (own.x[place], y[place]))
    monkeypatch.setitem(globals(), "bare", lambda client, num_clients: own)
    found = Federation(DataSettings(dataset=f"{__name__}:bare"), 1)
    assert found.schema.labels == (0, 1)


def test_a_length_that_lies_leaves_that_client_out():
    (found,) = run(lying)
    assert found.by_client().keys() == {0}
    with refused(DataError, key="train", client=1, value=44):
        data(lying).client_schema(1)


def test_a_failure_in_an_epoch_fails_that_client_alone():
    (found,) = run(failing, num_server_rounds=8)
    dropped = {(r.client, r.round) for r in found.reports if r.dropped}
    assert {client for client, _ in dropped} == {1}
    assert min(number for _, number in dropped) > 1
    words = next(str(r.dropped) for r in found.reports if r.dropped)
    assert "client 1" in words
    assert "the disk is gone" in words
    last = [r for r in found.reports if r.round == 8 and not r.dropped]
    assert {r.client for r in last} == {0}


def test_pixels_are_scaled():
    own = data(pixels).client(0)
    made = own.train[0].dataset_with(own.train[1])
    x, _ = made.collate([made[0]])
    assert x.dtype == torch.float32
    assert 0 < float(x.max()) <= 1
    assert data(pixels).schema.pixels == "bytes"


def test_inputs_of_different_shapes_need_a_collate_function():
    with refused(DataError, key="train", client=0):
        data(ragged).client_schema(0)
    (found,) = run(padded)
    assert len(found.by_client()) == 2


def test_subsets_and_concatenations_know_their_targets_and_names():
    found = data(subsets)
    assert found.schema.labels == ("high", "low")
    assert len(found.client(0).test[1]) == 20


def test_numbers_are_predicted_in_single_precision():
    (found,) = run(amounts, learning_rate=0.02)
    assert found.score == "rmse"
    assert data(amounts).client(0).train[1].dtype == torch.float32


class Triple(Points):
    def __getitem__(self, place):
        return (*super().__getitem__(place), 1.0)


class Pictured(Points):
    def __getitem__(self, place):
        return object(), 0


@pytest.mark.parametrize(
    ("returned", "key"),
    [
        ({"train": Points(0), "valid": Points(1)}, "valid"),
        ({"test": Points(0)}, "train"),
        ({"train": Points(0), "test": np.zeros(3)}, "test"),
        ({"train": Points(0), "collate": 3}, "collate"),
        ({"train": Points(0), "test": Subset(Points(0), [])}, "test"),
        (Triple(0), "train"),
        (Pictured(0), "train"),
        ({"train": Points(0), "test": TensorDataset(torch.zeros(9, 3), torch.ones(9).long())}, ""),
    ],
)
def test_what_is_wrong_is_said(monkeypatch, returned, key):
    monkeypatch.setitem(globals(), "wrong", lambda client, num_clients: returned)
    with refused(DataError, client=0) as caught:
        Federation(DataSettings(dataset=f"{__name__}:wrong"), 1).client_schema(0)
    assert key in caught.value.key


def test_no_validation_examples_are_none():
    def load(client, num_clients):
        return {**parts(client, num_clients), "validation": Subset(Points(0), [])}

    globals()["empty"] = load
    own = Federation(DataSettings(dataset=f"{__name__}:empty"), 1).client(0)
    assert [len(part[1]) for part in (own.train, own.validation, own.test)] == [40, 0, 40]


def test_keys_of_loaders_fit_functions():
    RunConfig.parse({"dataset": name_of(one), "num-workers": 2, "drop-last": True})


@pytest.mark.integration
def test_engines_and_workers_give_the_same_numbers():
    here = run(parts, augmentation="flip,crop")
    assert_identical(here, run(parts, engine="ray", augmentation="flip,crop"))
    workers = run(parts, augmentation="flip,crop", num_workers=2)
    assert [r.metrics for r in workers[0].reports] == [r.metrics for r in here[0].reports]


def test_parts_that_name_classes_otherwise_are_refused():
    with refused(DataError, key="classes", client=0):
        data(other_classes).client_schema(0)
