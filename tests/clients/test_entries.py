import torch
from torch import nn

from clients import Scope, ScopeError, assign_scopes
from clients.entries import canonical_names, entries_of, functional, put_entries
from tests.errors import refused


def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    model.append(model[1])
    return model


def test_every_tensor_has_one_name():
    names = canonical_names(tied())
    assert names["2.weight"] == "0.weight"
    assert names["3.running_mean"] == "1.running_mean"
    assert entries_of(tied()).keys() == set(names.values()) == assign_scopes(tied()).keys()
    parameters = [name for name, _ in tied().named_parameters()]
    assert [name for name in entries_of(tied()) if name in parameters] == parameters


def test_a_call_puts_tensors_under_all_their_names_and_takes_them_out_again():
    model = tied().eval()
    before, inputs = dict(model.named_parameters()), torch.randn(4, 3)
    zeros = {name: torch.zeros_like(value) for name, value in before.items()}
    assert not functional(model, zeros, (inputs,)).any()
    assert all(model.get_parameter(name) is value for name, value in before.items())
    assert model[2].weight is model[0].weight
    put_entries(model, zeros)
    assert not model(inputs).any()


def test_two_parameters_in_the_same_memory_are_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = nn.Parameter(model[0].weight.data)
    with refused(ScopeError, entries=("0.weight", "1.weight")):
        assign_scopes(model)
    model[1].weight = model[0].weight
    assert assign_scopes(model)["0.weight"] is Scope.SHARED
