"""Inputs of several tensors: through loaders, training, evaluation and what looks at examples."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

from clients import PersonalClient, assign_scopes, in_memory_loader, pad_sequences, take_logits
from clients.clustered.start_gradient import start_gradient
from clients.data.inputs import MASK, TOKENS, concatenated, num_examples, spread_inputs, trimmed
from clients.data.loaders import batches_for_batch_norm, count_examples, labels_of, parted
from clients.evaluation import evaluate
from clients.inference.fisher import fisher_diagonal
from clients.lifelong.change_detection import loss_statistics
from clients.local_training.adaptation import take_examples
from clients.local_training.fine_tuning import FineTuning, fine_tune
from clients.local_training.training import joint, train
from clients.personalized_models.apfl import APFLClient
from clients.task import Classification
from strategies.errors import ArgumentError

WORDS = [[3, 1, 4], [1, 5], [9, 2, 6, 5], [3], [5, 8], [9, 7, 9], [3, 2], [3, 8, 4]]
LABELS = torch.tensor([0, 1, 1, 0, 1, 1, 0, 0])


class Text(nn.Module):
    """Mean of the embeddings of a sequence's tokens, and a linear layer."""

    parts = {"head": ("out",)}

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.out = nn.Embedding(10, 4), nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1)
        mean = (self.words(input_ids) * mask).sum(dim=1) / mask.sum(dim=1)
        return self.out(mean)


class Pair(Text):
    """The same, of one tensor ``(N, 2, L)``."""

    def forward(self, both):
        return super().forward(both[:, 0], both[:, 1])


class Batch(Text):
    """The same, which takes the mapping as it is."""

    def forward(self, batch):
        return super().forward(**batch)


def collate(rows):
    return pad_sequences([ids for ids, _ in rows]), torch.tensor([label for _, label in rows])


def loaders():
    """The same batches of 3 by name, in order, and from a DataLoader with a collate function."""
    inputs = pad_sequences(WORDS)
    rows = list(zip(WORDS, LABELS.tolist(), strict=True))
    return {
        "by name": in_memory_loader(inputs, LABELS, 3),
        "in order": in_memory_loader((inputs[TOKENS], inputs[MASK]), LABELS, 3),
        "collated": DataLoader(rows, batch_size=3, collate_fn=collate),
    }


def stacked():
    inputs = pad_sequences(WORDS)
    return in_memory_loader(torch.stack([inputs[TOKENS], inputs[MASK]], dim=1), LABELS, 3)


def network(kind=Text):
    model = kind()
    spread_inputs(model)
    return model


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=7), min_size=1, max_size=6))
def test_padding_keeps_every_token_and_marks_what_is_none(rows):
    found = pad_sequences(rows)
    ids, mask = found[TOKENS], found[MASK]
    assert ids.shape == mask.shape == (len(rows), max(map(len, rows)))
    assert [i[m == 1].tolist() for i, m in zip(ids, mask, strict=True)] == rows
    assert not ids[mask == 0].any()
    assert all((m.diff() <= 0).all() for m in mask)  # padding is at the end


@pytest.mark.parametrize("row", [[], [0.5], [[1, 2]]])
def test_a_sequence_that_is_none_is_refused(row):
    with pytest.raises(ArgumentError) as error:
        pad_sequences([[1], row])
    assert error.value.argument == "sequences[1]"


@pytest.mark.parametrize("form", loaders())
def test_a_network_trains_on_several_inputs_as_on_one(form):
    results = []
    for kind, loader in ((Text, loaders()[form]), (Pair, stacked())):
        model = network(kind)
        scopes = dict.fromkeys(model.state_dict(), next(iter(assign_scopes(model).values())))
        loss = train(model, loader, joint(3), scopes).loss
        results.append((loss, model.state_dict(), evaluate(model, loader)))
    (one, state, scores), (other, wanted, expected) = results
    assert one == pytest.approx(other, rel=1e-5)
    assert scores.examples == expected.examples == 8
    assert scores.loss == pytest.approx(expected.loss, rel=1e-5)
    for name, values in wanted.items():
        torch.testing.assert_close(state[name], values)


@pytest.mark.parametrize("form", loaders())
def test_what_looks_at_examples_sees_the_same(form):
    loader, task = loaders()[form], Classification()
    model, pair = network(), network(Pair)
    names = list(dict(model.named_parameters()))
    for draws in (0, 2):
        found = []
        for net, batches in ((model, loader), (pair, stacked())):
            torch.manual_seed(1)
            found.append(fisher_diagonal(net, batches, task, samples=draws))
        for name in names:
            torch.testing.assert_close(*(each[name] for each in found))
    taken = [take_examples(each, 5)[:2] for each in (loader, stacked())]
    assert num_examples(taken[0][0]) == 5
    torch.testing.assert_close(
        *(start_gradient(n, names, *t, task) for n, t in zip((model, pair), taken, strict=True))
    )
    one, other = (loss_statistics(n, b, task) for n, b in ((model, loader), (pair, stacked())))
    assert one.mean == pytest.approx(other.mean, rel=1e-5)
    assert count_examples(loader) == 8
    assert labels_of(loader).tolist() == LABELS.tolist()


def test_a_client_of_two_models_and_fine_tuning_take_a_mapping():
    loader = loaders()["by name"]
    model = network()
    scopes = assign_scopes(model, personal="head")
    tuned = fine_tune(network(), loader, loader, FineTuning(epochs=(0, 1)), scopes)
    assert tuned.validation.examples == 8
    for kind, own in ((APFLClient, assign_scopes(model)), (PersonalClient, scopes)):
        client = kind(model, own, loader, loader, loader)
        arrays, count, _ = client.fit(client.outgoing(), {"server-round": 1})
        assert count == 8
        assert client.evaluate(arrays, {"server-round": 1})[1] == 8


def test_a_forward_that_takes_one_object_gets_the_mapping():
    inputs = pad_sequences(WORDS)
    torch.testing.assert_close(network(Batch)(inputs), network()(inputs))


def test_names_that_forward_does_not_take_are_refused():
    with pytest.raises(ArgumentError) as error:
        network()({**pad_sequences(WORDS), "token_type_ids": torch.zeros(8, 4)})
    assert error.value.value == ["token_type_ids"]


class Ids(Text):
    def forward(self, input_ids):
        return self.out(self.words(input_ids).sum(1))


def test_a_forward_of_one_name_of_several_is_no_forward_of_one_object():
    with pytest.raises(ArgumentError) as error:
        network(Ids)(pad_sequences(WORDS))
    assert error.value.value == [MASK]


def test_labels_in_a_mapping_are_the_targets():
    batch = {**pad_sequences(WORDS), "labels": LABELS}
    inputs, targets = parted(batch)
    assert sorted(inputs) == [MASK, TOKENS]
    assert targets is LABELS
    for bad in ({TOKENS: LABELS}, {"labels": LABELS}):
        with pytest.raises(ArgumentError) as error:
            parted(bad)
        assert error.value.argument == "batch"


def test_tensors_of_other_numbers_of_examples_are_refused():
    inputs = pad_sequences(WORDS)
    with pytest.raises(ArgumentError) as error:
        in_memory_loader({TOKENS: inputs[TOKENS], MASK: inputs[MASK][:5]}, LABELS, 3)
    assert error.value.value == [8, 5]
    with pytest.raises(ArgumentError):
        parted((inputs, LABELS[:5]))
    with pytest.raises(ArgumentError):
        in_memory_loader({TOKENS: WORDS}, LABELS, 3)


def test_columns_that_are_padding_in_a_batch_are_left_out():
    batches = list(loaders()["by name"])
    assert [inputs[TOKENS].shape[1] for inputs, _ in batches] == [4, 3, 3]
    whole = concatenated([inputs for inputs, _ in batches])
    for name, values in pad_sequences(WORDS).items():
        torch.testing.assert_close(whole[name], values)
    nothing = {TOKENS: torch.ones(2, 3), MASK: torch.zeros(2, 3)}
    assert trimmed(nothing)[TOKENS].shape == (2, 1)


def test_a_lone_example_is_merged_with_longer_ones():
    first = pad_sequences(WORDS[:3]), LABELS[:3]
    lone = pad_sequences(WORDS[3:4]), LABELS[3:4]
    ((inputs, targets),) = batches_for_batch_norm([first, lone])
    torch.testing.assert_close(inputs, pad_sequences(WORDS[:4]))
    assert targets.tolist() == LABELS[:4].tolist()


def test_the_head_is_found_with_a_mapping_as_example():
    model = Text()
    model.parts = {}
    take_logits(model)
    scopes = assign_scopes(model, personal="head", example=pad_sequences(WORDS[:2]))
    assert sorted(name for name, scope in scopes.items() if scope.value == "personal") == [
        "out.bias",
        "out.weight",
    ]
