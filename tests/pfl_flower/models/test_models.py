import pytest
import torch
from torch import nn

from clients import Graph
from pfl_flower.models import GRAPH_MODELS, MODELS, Architecture, build_model
from pfl_flower.models.blocks import BottleneckAdapter, LowRankAdapter
from pfl_flower.utils.imports import ResolveError
from strategies.errors import ArgumentError


@pytest.mark.parametrize("name", sorted(MODELS.keys() - GRAPH_MODELS))
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 11)])
def test_every_model_answers_and_every_parameter_learns(name, norm, shape):
    if name == "large-cnn":
        shape = (shape[0], 2 * shape[1], 2 * shape[2])
    model = build_model(Architecture(name, shape, 7, norm), seed=0)
    logits = model(torch.randn(4, *shape))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path


@pytest.mark.parametrize("name", sorted(GRAPH_MODELS))
@pytest.mark.parametrize("links", [False, True])
def test_every_graph_model_answers_and_every_parameter_learns(name, links):
    model = build_model(Architecture(name, (5,), 7, links=links), seed=0)
    model.graph = Graph(torch.randn(6, 5), torch.tensor([[0, 1, 2, 1], [1, 0, 1, 2]]))
    outputs = model(torch.tensor([[0, 3], [5, 1]]) if links else torch.arange(4))
    assert outputs.shape == ((2,) if links else (4, 7))
    outputs.square().sum().backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
    assert hasattr(model.adapter1, "up") == name.startswith("adapter-")


@pytest.mark.parametrize("layer", ["gcn", "sage", "gat", "gin"])
def test_a_graph_network_with_adapters_starts_as_the_one_without(layer):
    plain = build_model(Architecture(layer, (5,), 7), seed=3).state_dict()
    adapted = build_model(Architecture(f"adapter-{layer}", (5,), 7), seed=3).state_dict()
    for name, values in plain.items():
        assert torch.equal(adapted[name], values)


def test_the_seed_decides_the_first_values_and_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, same, other = (
        build_model(Architecture("cnn", (1, 8, 8), 10), seed).head.weight for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_adapters_start_as_the_identity_and_then_learn():
    hidden = torch.randn(5, 16)
    adapter = BottleneckAdapter(16, 4)
    assert torch.equal(adapter(hidden), hidden)
    assert not LowRankAdapter(16, 8, 2)(hidden).any()
    adapter(hidden).sum().backward()
    assert adapter.up.weight.grad.any()


def test_the_size_of_an_se_block():
    model = build_model(Architecture("se-cnn", (3, 8, 8), 10, "none"), seed=0)
    channels, squeeze = 96, 12
    expected = 2 * channels * squeeze + channels + squeeze
    assert sum(p.numel() for p in model.se.parameters()) == expected


def test_image_networks_refuse_flat_examples():
    with pytest.raises(ArgumentError, match=r"\(30,\)") as error:
        build_model(Architecture("cnn", (30,), 2), seed=0)
    assert (error.value.argument, error.value.value) == ("model", "cnn")


def test_the_large_network_is_pfllibs():
    model = build_model(Architecture("large-cnn", (1, 28, 28), 10), seed=0)
    assert sum(p.numel() for p in model.parameters()) == 582_026
    with pytest.raises(ArgumentError) as error:
        build_model(Architecture("large-cnn", (1, 8, 8), 10), seed=0)
    assert (error.value.argument, error.value.value) == ("shape", (1, 8, 8))


def own_network(shape, num_outputs):
    return nn.Linear(shape[0], num_outputs)


def own_mistake(shape, num_outputs):
    return shape


def test_a_network_of_ones_own():
    here = own_network.__module__
    first, same = (build_model(Architecture(f"{here}:own_network", (4,), 3), 1) for _ in range(2))
    assert first.weight.shape == (3, 4)
    assert torch.equal(first.weight, same.weight)
    with pytest.raises(ArgumentError, match="tuple") as error:
        build_model(Architecture(f"{here}:own_mistake", (4,), 3), 1)
    assert (error.value.argument, error.value.value) == ("model", f"{here}:own_mistake")
    with pytest.raises(ResolveError, match=f"'own_netwrk'.*'{here}:own_network'"):
        build_model(Architecture(f"{here}:own_netwrk", (4,), 3), 1)
