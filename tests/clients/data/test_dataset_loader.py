import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from clients import (
    DatasetError,
    PersonalClient,
    PersonalState,
    assign_scopes,
    dataset_loader,
    in_memory_loader,
    pad_sequences,
)
from clients.data.augmentation import AUGMENTATIONS, Augmentation
from clients.data.dataset_loader import as_loader
from clients.data.datasets import known_labels, labels_of_dataset
from clients.data.loaders import batches_for_batch_norm, count_examples, labels_of
from strategies.errors import ArgumentError
from tests.errors import refused

X, Y = torch.arange(34.0)[:, None] * torch.ones(34, 3), torch.arange(34) % 3


class Rows(Dataset[Any]):
    """Rows that are counted when they are read."""

    def __init__(self, count=34, says=None, transform=lambda x: x):
        self.count, self.says, self.transform = count, says or count, transform
        self.read = []

    def __len__(self):
        return self.says

    def __getitem__(self, place):
        if place >= self.count:
            raise IndexError("list index out of range")
        self.read.append(place)
        return self.transform(X[place % 34]), int(Y[place % 34])


def noisy(x):
    """Draw from every generator that transforms use."""
    return x + torch.rand(1) + random.random() + np.random.rand()  # noqa: NPY002


def seeded(batches):
    torch.manual_seed(3)
    return [(x.tolist(), y.tolist()) for x, y in batches]


@pytest.mark.parametrize("evenly", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_are_those_of_the_same_examples_in_memory(shuffle, drop_last, evenly):
    pair = (
        dataset_loader(Rows(), 8, shuffle, drop_last),
        in_memory_loader(X, Y, 8, shuffle, drop_last),
    )
    lazy, memory = (seeded(batches_for_batch_norm(p) if evenly else p) for p in pair)
    assert lazy == memory
    assert [len(p) for p in pair] == [4 if drop_last else 5] * 2
    assert [count_examples(p) for p in pair] == [32 if drop_last else 34] * 2


def test_only_what_a_batch_needs_is_read():
    data = Rows()
    loader = dataset_loader(data, 8, shuffle=True)
    assert data.read == []
    next(iter(loader))
    assert len(data.read) == 8


def test_what_transforms_draw_is_theirs_alone():
    def rest(loader):
        torch.manual_seed(3)
        list(loader)
        return torch.rand(1)

    assert rest(dataset_loader(Rows(transform=noisy), 8)) == rest(in_memory_loader(X, Y, 8))
    before = random.getstate()
    first, second = (seeded(dataset_loader(Rows(transform=noisy), 8, True)) for _ in range(2))
    assert first == second != seeded(dataset_loader(Rows(), 8, True))
    assert random.getstate() == before


@pytest.mark.parametrize(
    "draw",
    [lambda: torch.rand(1), random.random, lambda: np.random.rand()],  # noqa: NPY002
    ids=["torch", "python", "numpy"],
)
def test_every_batch_and_epoch_is_drawn_for_itself_whatever_draws(draw):
    torch.manual_seed(3)
    loader = dataset_loader(Rows(transform=lambda x: torch.zeros(1) + draw()), 8)
    drawn = [float(x[0]) for _ in range(2) for x, _ in loader]
    assert len(set(drawn)) == len(drawn) == 10


@pytest.mark.integration
def test_workers_change_no_number():
    none, two = (
        seeded(dataset_loader(Rows(transform=noisy), 8, True, num_workers=n)) for n in (0, 2)
    )
    assert none == two


@pytest.mark.integration
def test_an_error_in_a_worker_is_the_same_error():
    with refused(DatasetError, place=20):
        list(dataset_loader(Rows(20, says=34), 8, num_workers=2))


def test_labels_are_known_without_reading_where_a_data_set_says_them():
    class Known(Rows):
        targets = Y.tolist()

    class Named(Rows):
        labels = Y.numpy()

    for data in (Known(), Named()):
        assert labels_of_dataset(data).tolist() == Y.tolist()
        firsts = {Y.tolist().index(label) for label in set(Y.tolist())}
        assert set(data.read) == firsts | {33}  # one of each class, and the end
    parts = ConcatDataset([Subset(Known(), [3, 4]), TensorDataset(X, Y)])
    assert list(map(int, known_labels(parts))) == [*Y[3:5].tolist(), *Y.tolist()]
    data = Rows()
    assert labels_of(dataset_loader(data)).tolist() == Y.tolist()
    assert sorted(data.read) == list(range(34))


_ALL = [*enumerate(Y.tolist())]


def test_targets_that_are_not_what_examples_have_do_not_count():
    class Transformed(Rows):
        targets = (Y + 1).tolist()

    class Middle(Rows):
        targets = [7 if 0 < place < 33 and label == Y[5] else label for place, label in _ALL]

    class Short(Rows):
        targets = Y[:30].tolist()

    for data in (Transformed(), Middle(), Short()):
        assert known_labels(data) is None
        assert labels_of_dataset(data).tolist() == Y.tolist()


def test_a_collate_function_puts_sequences_together():
    class Texts(Rows):
        def __getitem__(self, place):
            return [1] * (place + 1), place % 2

    def collate(rows):
        return pad_sequences([ids for ids, _ in rows]), torch.tensor([y for _, y in rows])

    (inputs, targets), *_ = dataset_loader(Texts(), 3, collate=collate)
    assert inputs["attention_mask"].sum(dim=1).tolist() == [1, 2, 3]
    assert targets.tolist() == [0, 1, 0]
    with refused(DatasetError, place=None):
        list(dataset_loader(Texts(), 3))  # which default_collate cannot


def test_no_map_style_data_set():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(X, Y, strict=True)

    with refused(ArgumentError, argument="dataset"):
        dataset_loader(iter([]))
    with refused(ArgumentError, argument="batch_size"):
        dataset_loader(Rows(), 0)
    stream = Stream()
    assert as_loader(stream) is stream


def client(data, test=None):
    model = nn.Linear(3, 3)
    nn.init.zeros_(model.weight)
    state = PersonalState()
    scopes = assign_scopes(model, personal="bias")
    return PersonalClient(model, scopes, data, test_loader=test, state=state, partition_id=7)


def test_a_client_takes_data_sets():
    own = client(Rows(), Rows(10))
    arrays, count, metrics = own.fit(own.get_parameters({}), {"server-round": 1})
    assert count == 34
    assert np.isfinite(metrics["train-loss"])
    assert own.evaluate(arrays, {"server-round": 1})[1] == 10
    assert own.get_properties({})["classes"] == "0,1,2"


def test_a_length_that_lies_fails_its_client_with_an_error_that_names_it():
    own = client(Rows(20, says=34))
    before = own.state.load(own.spec)
    with refused(DatasetError, client=7) as caught:
        own.fit(own.get_parameters({}), {"server-round": 1})
    assert caught.value.place >= 20
    assert own.state.load(own.spec) == before


def test_a_loader_that_raises_in_an_epoch_fails_its_client_with_an_error_that_names_it():
    class Failing(list):
        def __iter__(self):
            yield X[:4], Y[:4]
            if self:
                raise KeyError("disk")

    data = Failing()
    own = client(data)
    data.append("fails from now on")
    with refused(DatasetError, client=7) as caught:
        own.fit(own.get_parameters({}), {"server-round": 1})
    assert isinstance(caught.value.__cause__.__cause__, KeyError)
    with refused(DatasetError, client=7):
        client(Rows(), data).evaluate(own.get_parameters({}), {"server-round": 1})


def pictures(count=40, channels=3):
    return torch.rand(count, channels, 8, 6, generator=torch.Generator().manual_seed(0))


def test_flips_and_crops_are_flips_and_crops():
    x = pictures()
    torch.manual_seed(0)
    flipped = Augmentation(["flip"], x.shape[1:])(x)
    sides = [torch.equal(a, b) for a, b in zip(flipped, x, strict=True)]
    assert 5 < sum(sides) < 35
    for same, a, b in zip(sides, flipped, x, strict=True):
        assert torch.equal(a, b if same else b.flip(-1))
    cropped = Augmentation(["crop"], x.shape[1:])(torch.ones_like(x))
    assert cropped.shape == x.shape
    assert {float(v) for v in cropped.unique()} == {0.0, 1.0}  # a margin of 1 pixel


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_keeps_the_shape_and_changes_something(name, channels):
    x = pictures(channels=channels)
    torch.manual_seed(0)
    changed = Augmentation([name], x.shape[1:])(x)
    assert changed.shape == x.shape
    assert not torch.equal(changed, x)
    assert Augmentation([name], x.shape[1:])(x[:0]).shape == (0, channels, 8, 6)


def test_augmented_batches_are_the_same_lazy_and_in_memory():
    x, y = pictures(34), Y
    augment = Augmentation(["flip", "crop"], x.shape[1:])
    lazy = dataset_loader(TensorDataset(x, y), 8, True, augment=augment)
    memory = in_memory_loader(x, y, 8, True, augment=augment)
    assert seeded(lazy) == seeded(memory) != seeded(in_memory_loader(x, y, 8, True))


def test_an_unknown_augmentation_and_no_picture():
    with refused(ArgumentError, argument="augmentation", choices=("flip", "crop")):
        Augmentation(["mirror"], (3, 8, 8))
    with refused(ArgumentError, argument="shape"):
        Augmentation(["flip"], (3,))
