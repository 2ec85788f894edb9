"""A graph, the network that looks at it, and that the numbers of nodes mean nothing."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clients import Graph, GraphNetwork, bind
from pfl_flower.models.graph_networks import GNN, LAYERS
from strategies.errors import ArgumentError

FEATURES, CLASSES = 5, 3


def connected(pairs):
    """Edges both ways."""
    one_way = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    return torch.cat([one_way, one_way.flip(0)], dim=1)


def random_graph(count, seed=0, chance=0.3):
    draw = torch.Generator().manual_seed(seed)
    left, right = torch.triu_indices(count, count, 1)
    there = torch.rand(len(left), generator=draw) < chance
    features = torch.randn(count, FEATURES, generator=draw)
    return Graph(features, connected(torch.stack([left[there], right[there]], dim=1).tolist()))


def network(layer="gcn", links=False, graph=None):
    """A network whose adapters do something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = GNN(layer, FEATURES, CLASSES, links, adapter_size=4)
        for adapter in (model.adapter1, model.adapter2):
            nn.init.normal_(adapter.up.weight)
    model.graph = graph
    return model.eval()


# ---------------------------------------------------------------------- the graph


@pytest.mark.parametrize(
    ("features", "edges", "argument", "value"),
    [
        (torch.zeros(3), torch.zeros(2, 0).long(), "features", "torch.float32 (3,)"),
        (torch.zeros(3, 2).long(), torch.zeros(2, 0).long(), "features", "torch.int64 (3, 2)"),
        (torch.zeros(3, 2), torch.zeros(2, 1), "edges", "torch.float32 (2, 1)"),
        (torch.zeros(3, 2), torch.zeros(1, 2).long(), "edges", "torch.int64 (1, 2)"),
        (torch.zeros(3, 2), torch.zeros(4).long(), "edges", "torch.int64 (4,)"),
        (torch.zeros(3, 2), torch.tensor([[0], [3]]), "edges", "0 to 3"),
        (torch.zeros(3, 2), torch.tensor([[-1], [1]]), "edges", "-1 to 1"),
        (torch.zeros(0, 2), torch.tensor([[0], [0]]), "edges", "0 to 0"),
    ],
)
def test_what_is_no_graph_is_refused_with_what_was_wrong(features, edges, argument, value):
    with pytest.raises(ArgumentError) as raised:
        Graph(features, edges)
    assert (raised.value.argument, raised.value.value) == (argument, value)


def test_a_graph_without_edges_or_nodes_is_one():
    assert len(Graph(torch.zeros(1, 2), torch.zeros(2, 0).long())) == 1
    assert len(Graph(torch.zeros(0, 2), torch.zeros(2, 0).long())) == 0


def test_it_is_itself_on_the_device_where_it_is_and_moved_once_to_another():
    graph = random_graph(4, chance=0.0)  # of an edge on "meta" nothing can be checked
    assert graph.on(torch.device("cpu")) is graph
    moved = graph.on(torch.device("meta"))
    assert moved.features.device.type == moved.edges.device.type == "meta"
    assert graph.on(torch.device("meta")) is moved


def test_a_copied_network_looks_at_the_same_graph():
    graph = random_graph(4)
    model = network(graph=graph)
    copied = copy.deepcopy(model)
    assert copied.graph is graph
    assert copied.layer1.lin.weight is not model.layer1.lin.weight


def test_a_graph_is_no_part_of_what_a_network_sends_or_keeps():
    assert network().state_dict().keys() == network(graph=random_graph(4)).state_dict().keys()


# ---------------------------------------------------------------------- binding


def test_a_network_without_a_graph_says_what_to_set():
    with pytest.raises(RuntimeError, match=r"GNN\.graph"):
        network()(torch.tensor([0]))


def test_binding_says_what_is_whole_and_leaves_what_is_not_said():
    graph, model = random_graph(4), network()
    bind(model, graph, whole=7, fanout=3)
    assert (model.graph, model.whole, model.fanout) == (graph, 7, 3)
    bind(model, graph)
    assert (model.whole, model.fanout) == (7, 3)
    assert (GraphNetwork.whole, GraphNetwork.fanout) == (20_000, 10)
    bind(model, None)
    assert model.graph is None


def test_a_network_that_cannot_look_at_graphs_has_none():
    bind(nn.Linear(2, 2), None)
    with pytest.raises(TypeError, match=r"Linear.*clients\.GraphNetwork"):
        bind(nn.Linear(2, 2), random_graph(4))


def test_a_base_network_leaves_all_that_it_says_to_its_subclasses():
    bare = GraphNetwork()
    bare.graph = random_graph(4)
    for call in (
        lambda: bare(torch.tensor([0])),
        lambda: bare.classify(torch.zeros(1, 2)),
        lambda: bare.link(torch.zeros(1, 2), torch.zeros(1, 2)),
    ):
        with pytest.raises(NotImplementedError):
            call()


# ---------------------------------------------------------------------- nodes and pairs


@pytest.mark.parametrize("layer", LAYERS)
def test_outputs_are_those_of_the_nodes_asked_for_in_their_order(layer):
    """The head multiplies four rows here and nine there: a CPU may add in another order for each.

    In double precision that makes a difference of some 1e-16 a term; these nodes differ by 0.01.
    """
    graph = random_graph(9)
    graph = Graph(graph.features.double(), graph.edges)
    model = network(layer, graph=graph).double()
    everything = model.head(model.encode(graph.features, graph.edges))
    asked = torch.tensor([4, 0, 4, 8])
    torch.testing.assert_close(model(asked), everything[asked], rtol=1e-12, atol=1e-12)
    assert torch.pdist(everything[[0, 4, 8]]).min() > 0.01


@pytest.mark.parametrize("layer", LAYERS)
def test_a_pairs_logit_is_the_scaled_product_of_both_whichever_comes_first(layer):
    graph = random_graph(9)
    model = network(layer, links=True, graph=graph)
    encoded = model.head(model.encode(graph.features, graph.edges))
    pairs = torch.tensor([[0, 3], [5, 5], [8, 1]])
    expected = (encoded @ encoded.T / encoded.shape[1] ** 0.5)[pairs[:, 0], pairs[:, 1]]
    torch.testing.assert_close(model(pairs), expected)
    assert torch.equal(model(pairs), model(pairs.flip(1)))


def gcn_by_hand(graph, weight, bias):
    """Kipf & Welling 2017, equation 2: with a loop at every node, by the roots of both degrees."""
    adjacency = torch.eye(len(graph))
    adjacency[graph.edges[1], graph.edges[0]] = 1.0
    root = adjacency.sum(dim=1).rsqrt()
    return (root[:, None] * adjacency * root) @ graph.features @ weight.T + bias


def test_a_gcn_layer_is_that_of_its_paper():
    graph = random_graph(9)
    layer = network().layer1
    with torch.no_grad():
        layer.bias.normal_()
        found = layer(graph.features, graph.edges)
        torch.testing.assert_close(found, gcn_by_hand(graph, layer.lin.weight, layer.bias))


# ---------------------------------------------------------------------- numbers mean nothing


@given(
    st.sampled_from(sorted(LAYERS)),
    st.integers(0, 1000),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.1, 0.5]),
)
@settings(max_examples=40)
def test_the_order_of_nodes_and_edges_changes_nothing(layer, seed, count, chance):
    graph, draw = random_graph(count, seed, chance), torch.Generator().manual_seed(seed + 1)
    place = torch.randperm(count, generator=draw)  # old number -> new one
    shuffled = graph.edges[:, torch.randperm(graph.edges.shape[1], generator=draw)]
    features = torch.empty_like(graph.features)
    features[place] = graph.features
    renamed = Graph(features, place[shuffled])
    nodes = torch.arange(count)
    for links, examples in ((False, nodes), (True, torch.cartesian_prod(nodes, nodes))):
        model = network(layer, links)
        with torch.no_grad():
            model.graph = graph
            before = model(examples)
            model.graph = renamed
            after = model(place[examples])
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_who_knows_nobody_is_kept_apart_by_its_own_features_and_changed_by_no_other(layer):
    graph = random_graph(8, chance=0.6)
    alone = len(graph)
    draw = torch.Generator().manual_seed(3)
    wider = Graph(
        torch.cat([graph.features, torch.randn(2, FEATURES, generator=draw)]), graph.edges
    )
    model = network(layer, graph=wider)
    with torch.no_grad():
        found = model(torch.arange(alone + 2))
        assert found.isfinite().all()
        assert not torch.allclose(found[alone], found[alone + 1])
        model.graph = graph
        torch.testing.assert_close(model(torch.arange(alone)), found[:alone], rtol=1e-5, atol=1e-5)
        model.graph = Graph(wider.features[alone:], torch.zeros(2, 0).long())
        torch.testing.assert_close(model(torch.arange(2)), found[alone:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_of_what_is_two_layers_away_something_comes_and_of_what_is_three_nothing(layer):
    features = torch.randn(4, FEATURES, generator=torch.Generator().manual_seed(2))
    path = Graph(features, connected([(0, 1), (1, 2), (2, 3)]))
    model = network(layer, graph=path)
    with torch.no_grad():
        before = model(torch.tensor([0]))
        for node, reaches in ((3, False), (2, True)):
            features = path.features.clone()
            features[node] += 1.0
            model.graph = Graph(features, path.edges)
            assert torch.equal(model(torch.tensor([0])), before) != reaches


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("count", [1, 6])
def test_a_graph_without_edges_trains(layer, count):
    model = network(layer, graph=random_graph(count, chance=0.0)).train()
    outputs = model(torch.arange(count))
    outputs.square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


# ---------------------------------------------------------------------- large graphs


def test_only_training_on_a_graph_that_is_too_large_looks_at_a_part_of_it():
    graph = random_graph(20, chance=0.8)
    nodes = torch.arange(3)
    model = network("sage", graph=graph)
    whole = model(nodes)
    bind(model, graph, whole=19, fanout=2)
    assert torch.equal(model(nodes), whole)  # evaluation
    model.train()
    assert not torch.equal(model(nodes), whole)
    bind(model, graph, whole=20)
    assert torch.equal(model(nodes), whole)


@pytest.mark.parametrize("layer", ["sage", "gin", "gat"])
def test_a_part_that_holds_all_neighbours_says_the_same_of_nodes_and_pairs(layer):
    graph = random_graph(20)
    for links, examples in (
        (False, torch.tensor([7, 2, 7])),
        (True, torch.tensor([[4, 1], [1, 9]])),
    ):
        model = network(layer, links, graph)
        whole = model(examples)
        bind(model, graph, whole=0, fanout=20)
        model.train()
        torch.testing.assert_close(model(examples), whole, rtol=1e-5, atol=1e-5)


class Writing(GraphNetwork):
    """A network that writes in the features, in training only, as dropout in place does."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES)

    def encode(self, features, edges):
        return features.mul_(2.0) if self.training else features

    def classify(self, hidden):
        return self.head(hidden)


@pytest.mark.parametrize("inference", [False, True])
def test_a_network_that_writes_in_the_features_leaves_the_graph_as_it_is(inference):
    graph = random_graph(6)
    before, nodes = graph.features.clone(), torch.arange(6)
    model = Writing()
    bind(model, graph)
    for training in (False, True, True, False):
        model.train(training)
        with torch.inference_mode(inference):
            outputs = model(nodes)
        torch.testing.assert_close(outputs, model.head(before * (2.0 if training else 1.0)))
    assert torch.equal(graph.features, before)
