"""Generated clients with metadata on which their best model depends."""

from collections import Counter

import numpy as np
import pytest
import torch

from pfl_flower.data import DataSettings, Federation
from pfl_flower.data.records import SourceRequest
from pfl_flower.data.sources.metadata_clients import (
    EASY,
    HARD,
    TEST,
    TRAINING,
    digits,
    kinds,
    metadata_of,
    regression,
)

CLIENTS = 14
WORLDS = {"metadata-digits": EASY, "metadata-digits-hard": HARD, "metadata-regression": EASY}


def request(seed=0, clients=CLIENTS):
    return SourceRequest(None, False, seed, clients)


def settings(dataset, **options):
    return DataSettings(dataset=dataset, partition="natural", heterogeneity="none", **options)


def upright(images, device):
    """Pictures as device 0 takes them."""
    return (images, 1 - images, images.flip(-1))[device]


def pictures(data, fold):
    """Client -> its pictures of a fold, as device 0 takes them, and their labels."""
    found = {}
    for client, (_, device) in enumerate(kinds(HARD, request())):
        rows = np.flatnonzero((data.owner == client) & (data.fold == fold))
        found[client] = upright(data.inputs[rows], device), data.targets[rows].tolist()
    return found


def keys(images):
    return [image.round(decimals=4).numpy().tobytes() for image in images]


@pytest.mark.parametrize("dataset", WORLDS)
def test_every_client_has_its_examples_in_its_splits(dataset):
    federation = Federation(settings(dataset, validation_fraction=0.25), CLIENTS)
    shape = (8,) if dataset.endswith("regression") else (1, 8, 8)
    dtype = torch.float32 if dataset.endswith("regression") else torch.int64
    assert tuple(federation.schema.shape) == shape
    for client in range(CLIENTS):
        data = federation.client(client)
        sizes = [len(targets) for _, targets in (data.train, data.validation, data.test)]
        assert sum(sizes[:2]) == TRAINING
        assert sizes[1] > 0
        assert sizes[2] == TEST
        for inputs, targets in (data.train, data.validation, data.test):
            assert inputs.dtype == torch.float32
            assert tuple(inputs.shape[1:]) == shape
            assert targets.dtype == dtype
            assert torch.isfinite(inputs).all()


@pytest.mark.parametrize("dataset", WORLDS)
def test_the_same_seed_gives_the_same_data_and_another_others(dataset):
    def everything(seed):
        federation = Federation(settings(dataset, seed=seed), CLIENTS)
        rows = [part for c in range(CLIENTS) for part in federation.client(c).train]
        metadata = [federation.client_metadata(c) for c in range(CLIENTS)]
        return b"".join(part.numpy().tobytes() for part in rows), metadata

    one, again, other = everything(3), everything(3), everything(4)
    assert one == again
    assert one[0] != other[0]
    assert one[1] != other[1]


@pytest.mark.parametrize("world", [EASY, HARD])
@pytest.mark.parametrize("clients", [1, 5, 12, 60, 61])
def test_there_are_as_many_clients_of_every_kind_or_one_more(world, clients):
    counts = Counter(kinds(world, request(clients=clients)))
    assert counts.total() == clients
    every = [counts[r, d] for r in range(world.regions) for d in range(world.devices)]
    assert max(every) - min(every) <= 1
    assert sum(every) == clients


def test_a_clients_number_does_not_depend_on_its_kind():
    assert kinds(EASY, request(0)) != kinds(EASY, request(1))
    assert kinds(EASY, request(0)) != sorted(kinds(EASY, request(0)))


@pytest.mark.parametrize("world", [EASY, HARD])
def test_metadata_hold_the_kind_unless_it_is_missing(world):
    clients = 60
    metadata = metadata_of(world)(request(clients=clients))
    assert len(metadata) == clients
    names = {"region", "device", "battery"}
    names |= {f"irrelevant-{number}" for number in range(world.irrelevant)}
    missing = 0
    for own, (region, device) in zip(metadata, kinds(world, request(clients=clients)), strict=True):
        assert own.keys() == names
        assert own["region"] in (f"region-{region}", None)
        assert own["device"] in (f"device-{device}", None)
        missing += sum(value is None for value in own.values())
    share = missing / (clients * len(names))
    assert share == pytest.approx(world.missing, abs=0.05)
    assert (missing == 0) == (world.missing == 0)


def test_what_is_irrelevant_has_nothing_to_do_with_the_kind():
    metadata = metadata_of(EASY)(request(clients=300))
    devices = np.array([device for _, device in kinds(EASY, request(clients=300))])
    for name, related in (("battery", True), ("irrelevant-0", False), ("irrelevant-2", False)):
        values = np.array([own[name] for own in metadata])
        correlation = abs(np.corrcoef(values, devices)[0, 1])
        assert (correlation > 0.3) == related
        assert (correlation < 0.2) == (not related)


def test_no_picture_to_test_on_is_among_anybodys_to_learn_from():
    for world in (EASY, HARD):
        data = digits(world)(request())
        known = {fold: set() for fold in (0, 1)}
        for client, (_, device) in enumerate(kinds(world, request())):
            for fold in (0, 1):
                rows = np.flatnonzero((data.owner == client) & (data.fold == fold))
                known[fold].update(keys(upright(data.inputs[rows], device)))
        assert len(known[1]) > TEST
        assert not known[0] & known[1]


def test_a_region_names_the_digits_in_one_way_whatever_the_device():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy((pixels.reshape(-1, 1, 8, 8) / 16.0).astype(np.float32))
    truth = dict(zip(keys(images), labels.tolist(), strict=True))
    data, names = digits(HARD)(request(clients=24)), {}
    for client, (region, device) in enumerate(kinds(HARD, request(clients=24))):
        rows = np.flatnonzero(data.owner == client)
        named = data.targets[rows].tolist()
        for key, name in zip(keys(upright(data.inputs[rows], device)), named, strict=True):
            assert names.setdefault((region, truth[key]), name) == name
    for region in range(HARD.regions):
        assert {names[region, digit] for digit in range(10)} == set(range(10))
    ways = {tuple(names[region, digit] for digit in range(10)) for region in range(HARD.regions)}
    assert len(ways) == HARD.regions


def test_no_picture_is_twice_in_one_fold_of_a_client():
    data = digits(HARD)(request())
    for fold, count in ((0, TRAINING), (1, TEST)):
        for images, _ in pictures(data, fold).values():
            assert len(set(keys(images))) >= count - 1  # digits has a few equal pictures


def test_clients_of_one_kind_have_one_linear_function_but_for_their_own_part():
    clients = 12
    data = regression(EASY)(request(clients=clients))
    fits = {}
    for client, kind in enumerate(kinds(EASY, request(clients=clients))):
        rows = np.flatnonzero(data.owner == client)
        inputs, targets = data.inputs[rows].double(), data.targets[rows].double()
        fitted = torch.linalg.lstsq(inputs, targets[:, None]).solution[:, 0]
        assert float((inputs @ fitted - targets).std()) == pytest.approx(0.5, abs=0.2)
        fits.setdefault(kind, []).append(fitted)
    within = max(float((one - other).norm()) for one, other in fits.values())
    means = [torch.stack(found).mean(0) for found in fits.values()]
    between = min(float((one - other).norm()) for i, one in enumerate(means) for other in means[:i])
    assert within < 1.0 < between
    effects = {kind: torch.stack(found).mean(0) for kind, found in fits.items()}
    for region in range(EASY.regions):  # the device adds the same in every region
        difference = effects[region, 1] - effects[region, 0]
        assert float((difference - effects[0, 1] + effects[0, 0]).norm()) < 1.0


@pytest.mark.parametrize("dataset", WORLDS)
def test_shuffled_metadata_are_those_of_others_and_the_data_stay(dataset):
    own = Federation(settings(dataset), CLIENTS)
    shuffled = Federation(settings(dataset, client_metadata="shuffled"), CLIENTS)
    metadata, mixed = (
        [repr(f.client_metadata(client)) for client in range(CLIENTS)] for f in (own, shuffled)
    )
    assert sorted(metadata) == sorted(mixed)
    assert metadata != mixed
    for client in range(CLIENTS):
        for one, other in zip(own.client(client).train, shuffled.client(client).train, strict=True):
            assert torch.equal(one, other)


def test_other_data_have_no_metadata():
    assert Federation(DataSettings(), 3).client_metadata(0) == {}
