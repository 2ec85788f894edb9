import numpy as np
import pytest
import torch
from torch_geometric.data import Data, HeteroData

from pfl_flower.data import DataError, DataSettings, Federation
from pfl_flower.data.readers.graph import checked_graph, parts_of_graph
from pfl_flower.data.readers.registry import FunctionData, OwnRequest


def triangle_and_one(**changes):
    """Four nodes: three that know one another, and one that knows nobody."""
    given = {
        "x": torch.arange(8.0).reshape(4, 2),
        "edge_index": torch.tensor([[0, 1, 2, 1], [1, 2, 0, 1]]),
        "y": torch.tensor([0, 1, 1, 0]),
    }
    return {name: value for name, value in (given | changes).items() if value is not None}


def load(partition_id, num_partitions):
    """Clients of ``function`` data: ten nodes in a ring each, one feature more for client 3."""
    if partition_id == 2:
        return {"x": torch.ones(1, 3), "edge_index": torch.empty(2, 0), "y": torch.tensor([1])}
    around = torch.arange(10)
    data = Data(
        x=torch.randn(10, 3 + (partition_id == 3), generator=torch.Generator().manual_seed(1)),
        edge_index=torch.stack([around, (around + 1) % 10]),
        y=around % 2,
    )
    data.community = partition_id // 2
    return data


NAME = f"{__name__}:load"


def mask(*nodes):
    return torch.tensor([node in nodes for node in range(4)])


def test_edges_go_both_ways_once_and_never_back_to_the_node():
    raw = checked_graph(triangle_and_one(), "here")
    assert sorted(raw.graph.edges.T.tolist()) == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    assert raw.graph.features.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert raw.train[0].tolist() == [0, 1, 2, 3]
    assert raw.train[1].tolist() == [0, 1, 1, 0]
    assert raw.validation is raw.test is raw.community is None


def test_nodes_without_a_label_are_in_the_graph_but_in_no_split():
    for labels in ([0, -1, 1, -1], [0.5, np.nan, 1.0, np.nan]):
        raw = checked_graph(triangle_and_one(y=np.array(labels)), "here")
        assert raw.train[0].tolist() == [0, 2]
        assert raw.train[1].tolist() == [labels[0], labels[2]]
        assert len(raw.graph) == 4


def test_masks_say_which_nodes_are_for_what():
    masks = {"train_mask": mask(0, 1), "test_mask": mask(2)}
    raw = checked_graph(triangle_and_one(y=torch.tensor([0, -1, 1, 0]), **masks), "here")
    assert raw.train[0].tolist() == [0]
    assert raw.test[0].tolist() == [2]
    assert raw.validation is None
    raw = checked_graph(triangle_and_one(**masks, val_mask=mask(3)), "here")
    assert raw.validation[0].tolist() == [3]


def test_links_need_neither_labels_nor_masks():
    raw = checked_graph(triangle_and_one(y=None, train_mask="no"), "here", "link-prediction")
    assert raw.graph.edges.shape == (2, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": None}, r"here has no x \(there: edge_index, y\); a graph is x \(nodes, fea"),
        ({"edge_index": None}, r"has no edge_index \(there: x, y\)"),
        ({"y": None}, r"has no y \(there: edge_index, x\)"),
        ({"x": torch.zeros(4)}, r"here: x has shape \(4,\)"),
        ({"x": torch.zeros(4, 2, 2)}, r"x has shape \(4, 2, 2\); it has to be \(nodes, features\)"),
        ({"x": torch.zeros(0, 2)}, r"x has shape \(0, 2\).*at least one node"),
        ({"x": np.array([["a"]] * 4)}, "here: x is of type <U1; it has to be of numbers"),
        ({"x": torch.full((4, 2), torch.nan)}, r"here: x has missing \(NaN\)"),
        ({"edge_index": torch.zeros(3, 2).long()}, r"\(3, 2\); it has to be \(2, edges\); transp"),
        ({"edge_index": torch.zeros(3).long()}, r"edge_index has shape \(3,\); it has to be \(2"),
        ({"edge_index": torch.zeros(2, 3)}, "edge_index is of type float32; numbers of nodes hav"),
        (
            {"edge_index": torch.tensor([[0, 1, 9], [1, 4, 0]])},
            "2 of 3 edges name nodes that there are not; the first is edge 1, from 1 to 4, but "
            "nodes are 0 to 3",
        ),
        ({"edge_index": torch.tensor([[0, -1], [1, 0]])}, "the first is edge 1, from -1 to 0"),
        ({"y": torch.zeros(3).long()}, "y has 3 labels, but x has 4 nodes"),
        ({"y": torch.zeros(4, 1).long()}, r"y has shape \(4, 1\); it has to be one-dimensional"),
        ({"y": torch.tensor([0, np.inf, 1, 1])}, "here: y has missing.*in 1 of 4"),
        ({"y": torch.full((4,), -1)}, r"no node is labelled \(y is -1 or NaN\)"),
        ({"y": torch.full((4,), torch.nan)}, "no node is labelled"),
        (
            {"train_mask": torch.ones(3).bool()},
            r"mask is bool of shape \(3,\); it has to be b",
        ),
        ({"train_mask": torch.ones(4)}, "train_mask is float32 of shape"),
        ({"test_mask": mask(1)}, "has test_mask, but no train_mask; give it, or no masks"),
        (
            {"train_mask": mask(0, 1, 2), "test_mask": mask(1, 2)},
            r"2 nodes are in several masks \(the first is 1, in train_mask, test_mask\)",
        ),
        ({"train_mask": mask()}, "no node of train_mask is labelled"),
        ({"train_mask": mask(0), "test_mask": mask()}, "no node of test_mask is labelled"),
        ({"community": "here"}, "community is 'here'; it has to be one number from 0, or left out"),
        ({"community": -1}, "community is -1"),
        ({"community": True}, "community is True"),
    ],
)
def test_bad_graphs_say_where_and_what_is_wrong(changes, message):
    checked_graph(triangle_and_one(), "here")
    with pytest.raises(DataError, match=message) as error:
        checked_graph(triangle_and_one(**changes), "here")
    assert str(error.value).startswith("here")


def test_what_is_a_graph():
    assert parts_of_graph({"x_train": 1}) is None
    assert parts_of_graph(7) is None
    assert set(parts_of_graph(Data(**triangle_and_one()))) == {"x", "edge_index", "y"}
    assert set(parts_of_graph({"edge_index": 1, "y": None})) == {"edge_index"}
    with pytest.raises(DataError, match="a Batching is no graph of a client; return PyG's Data"):
        parts_of_graph(type("Batching", (), {"__module__": "torch_geometric.loader"})())
    with pytest.raises(DataError, match=r"has no x, edge_index, y \(there: user\)"):
        checked_graph(parts_of_graph(HeteroData({"user": {"x": torch.zeros(1, 1)}})), "here")


def test_features_can_be_bytes_or_sparse():
    some = torch.tensor([[0, 200], [1, 0], [0, 0], [3, 0]])
    for x in (some.byte(), some.to_sparse()):
        assert checked_graph(triangle_and_one(x=x), "here").graph.features.tolist() == some.tolist()


def test_a_function_that_returns_nothing_useful_is_told_of_graphs(monkeypatch):
    monkeypatch.setattr("pfl_flower.data.readers.registry.resolve", lambda _: lambda *_: 7)
    with pytest.raises(DataError, match="returned a int; .*or a graph: PyG's Data"):
        FunctionData(OwnRequest("module:function")).load(0, 1)


def test_a_graph_of_ones_own_is_split_by_the_fractions():
    federation = Federation(DataSettings(dataset=NAME, max_examples=4, min_examples=4), 2)
    assert federation.schema.graph
    assert federation.schema.shape == (3,)
    data = federation.client(0)
    sizes = [len(targets) for _, targets in (data.train, data.validation, data.test)]
    assert sizes == [4, 1, 2]
    assert data.graph.edges.shape == (2, 20)
    for nodes, targets in (data.train, data.test):
        assert (nodes % 2 == targets).all()
    assert federation.community(1) == 0
    assert federation.edges is None


def test_links_of_a_graph_of_ones_own():
    settings = DataSettings(dataset=NAME, task="link-prediction")
    federation = Federation(settings, 2)
    assert federation.schema.task == "link-prediction"
    data = federation.client(1)
    assert len(data.train[1]) + len(data.validation[1]) + len(data.test[1]) == 20
    assert data.graph.edges.shape[1] == int(data.train[1].sum()) * 2
    assert federation.community(1) == 0
    with pytest.raises(DataError, match="client 2 has no connections"):
        federation.client_schema(2)


def test_a_client_of_one_node_can_neither_train_nor_test():
    with pytest.raises(DataError, match="has 1 labelled nodes; it needs one to train and one to"):
        Federation(DataSettings(dataset=NAME), 3).client_schema(2)


def test_isolated_nodes_and_no_edges_at_all_are_fine():
    assert checked_graph(triangle_and_one(edge_index=np.empty((2, 0))), "here").graph.edges.shape
    assert len(checked_graph(triangle_and_one(), "here").graph) == 4


def test_amounts_of_nodes_can_be_predicted(monkeypatch):
    amounts = triangle_and_one(y=np.array([1.0, 2.0, np.nan, 4.0]))
    monkeypatch.setattr("pfl_flower.data.readers.registry.resolve", lambda _: lambda *_: amounts)
    federation = Federation(DataSettings(dataset="my:graphs"), 1)
    assert federation.schema.task == "regression"
    assert federation.client(0).train[1].dtype == torch.float32
    as_classes = Federation(DataSettings(dataset="my:graphs", task="classification"), 1)
    assert as_classes.schema.labels == (1, 2, 4)
    assert as_classes.client(0).graph is not None


def test_a_class_derived_from_pygs_data_is_a_graph():
    class Mine(Data):
        pass

    mine = Mine(x=torch.randn(3, 2), edge_index=torch.tensor([[0], [1]]), y=torch.tensor([0, 1, 0]))
    assert parts_of_graph(mine).keys() >= {"x", "edge_index", "y"}


def test_an_amount_of_minus_one_is_an_amount():
    parts = {"x": np.ones((3, 2)), "edge_index": np.zeros((2, 0), int), "y": np.array([-1, 0, 2])}
    assert len(checked_graph(parts, "here", "regression").train[1]) == 3
    assert len(checked_graph(parts, "here").train[1]) == 2
