import logging

import numpy as np
import pytest
import torch
from torch_geometric.data import Data, HeteroData

from clients.logs import forget
from pfl_flower.data import DataError, DataSettings, Federation
from pfl_flower.data.readers.graph import checked_graph, parts_of_graph
from pfl_flower.data.readers.registry import FunctionData, OwnRequest


def triangle_and_one(**changes):
    """Four nodes: three that are connected, and one without edges."""
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
    ("changes", "key", "value"),
    [
        ({"x": None}, "x", None),
        ({"edge_index": None}, "edge_index", None),
        ({"y": None}, "y", None),
        ({"x": torch.zeros(4)}, "x", (4,)),
        ({"x": torch.zeros(4, 2, 2)}, "x", (4, 2, 2)),
        ({"x": torch.zeros(0, 2)}, "x", (0, 2)),
        ({"x": np.array([["a"]] * 4)}, "x", np.dtype("<U1")),
        ({"x": torch.full((4, 2), torch.nan)}, "x", [0, 1, 2, 3]),
        ({"edge_index": torch.zeros(3, 2).long()}, "edge_index", (3, 2)),
        ({"edge_index": torch.zeros(3).long()}, "edge_index", (3,)),
        ({"edge_index": torch.zeros(2, 3)}, "edge_index", np.dtype("float32")),
        ({"edge_index": torch.tensor([[0, 1, 9], [1, 4, 0]])}, "edge_index", (1, 4)),
        ({"edge_index": torch.tensor([[0, -1], [1, 0]])}, "edge_index", (-1, 0)),
        ({"y": torch.zeros(3).long()}, "y", 3),
        ({"y": torch.zeros(4, 2).long()}, "y", (4, 2)),
        ({"y": torch.tensor([0, np.inf, 1, 1])}, "y", [1]),
        ({"y": torch.full((4,), -1)}, "y", 0),
        ({"y": torch.full((4,), torch.nan)}, "y", 0),
        ({"train_mask": torch.ones(3).bool()}, "train_mask", (np.dtype(bool), (3,))),
        ({"train_mask": torch.ones(4)}, "train_mask", (np.dtype("float32"), (4,))),
        ({"test_mask": mask(1)}, "train_mask", None),
        (
            {"train_mask": mask(0, 1, 2), "test_mask": mask(1, 2)},
            *("train_mask, test_mask", [1, 2]),
        ),
        ({"train_mask": mask()}, "train_mask", 0),
        ({"train_mask": mask(0), "test_mask": mask()}, "test_mask", 0),
        ({"community": "here"}, "community", "here"),
        ({"community": -1}, "community", -1),
        ({"community": True}, "community", True),
    ],
)
def test_bad_graphs_say_where_and_what_is_wrong(changes, key, value):
    checked_graph(triangle_and_one(), "here")
    parts = triangle_and_one(**changes)
    with pytest.raises(DataError) as error:
        checked_graph(parts, "here")
    assert (error.value.key, error.value.value) == (key, value)
    assert str(error.value).startswith("here")
    if key in ("x", "edge_index", "y") and key not in parts:
        assert error.value.choices == tuple(sorted(parts))


def test_edges_in_rows_can_be_transposed():
    with pytest.raises(DataError, match="transpose"):
        checked_graph(triangle_and_one(edge_index=torch.zeros(3, 2).long()), "here")


def test_what_is_a_graph():
    assert parts_of_graph({"x_train": 1}) is None
    assert parts_of_graph(7) is None
    assert set(parts_of_graph(Data(**triangle_and_one()))) == {"x", "edge_index", "y"}
    assert set(parts_of_graph({"edge_index": 1, "y": None})) == {"edge_index"}
    with pytest.raises(DataError) as error:
        parts_of_graph(type("Batching", (), {"__module__": "torch_geometric.loader"})())
    assert (error.value.value, error.value.choices) == ("Batching", ("Data",))
    with pytest.raises(DataError) as error:
        checked_graph(parts_of_graph(HeteroData({"user": {"x": torch.zeros(1, 1)}})), "here")
    assert (error.value.key, error.value.choices) == ("x, edge_index, y", ("user",))
    several = HeteroData({"user": {"x": torch.zeros(3, 2)}})
    several["user", "rates", "film"].edge_index = torch.tensor([[0], [0]])
    for graph in (several, {"edge_index": [[0], [0]], ("user", "rates", "film"): None}):
        with pytest.raises(DataError) as error:
            parts_of_graph(graph)
        assert error.value.value == [("user", "rates", "film")]
        assert error.value.choices == ("to_homogeneous",)


def test_features_can_be_bytes_or_sparse():
    some = torch.tensor([[0, 200], [1, 0], [0, 0], [3, 0]])
    for x in (some.byte(), some.to_sparse()):
        assert checked_graph(triangle_and_one(x=x), "here").graph.features.tolist() == some.tolist()


def test_a_function_must_return_a_mapping_or_a_graph(monkeypatch):
    monkeypatch.setattr("pfl_flower.data.readers.registry.resolve", lambda _: lambda *_: 7)
    with pytest.raises(DataError) as error:
        FunctionData(OwnRequest("module:function")).load(0, 1)
    assert (error.value.key, error.value.value) == ("dataset", "module:function")
    assert (error.value.client, error.value.choices) == (0, ("mapping", "Dataset", "Data"))


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
    with pytest.raises(DataError) as error:
        federation.client_schema(2)
    assert (error.value.key, error.value.value, error.value.client) == ("edges", 0, 2)


def test_a_client_of_one_node_can_neither_train_nor_test():
    with pytest.raises(DataError) as error:
        Federation(DataSettings(dataset=NAME), 3).client_schema(2)
    assert (error.value.key, error.value.value, error.value.client) == ("nodes", 1, 2)


def test_isolated_nodes_and_no_edges_at_all_are_fine():
    assert checked_graph(triangle_and_one(edge_index=np.empty((2, 0))), "here").graph.edges.shape
    assert len(checked_graph(triangle_and_one(), "here").graph) == 4


def test_nodes_can_have_numbers_as_targets(monkeypatch):
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


def test_what_is_dropped_of_the_edges_is_said(caplog):
    forget()
    logging.getLogger("flwr").addHandler(caplog.handler)
    parts = {"x": np.eye(3), "y": [0, 1, 0], "edge_index": [[0, 1, 1, 2], [1, 0, 2, 1]]}
    checked_graph(parts, "here")
    assert not caplog.records
    one_way = {**parts, "edge_index": [[0, 1], [1, 2]], "edge_weight": [1.0, 100.0]}
    checked_graph(one_way, "here")
    logging.getLogger("flwr").removeHandler(caplog.handler)
    (what,) = {record.args[0] for record in caplog.records}
    assert "edge_weight" in what
    assert "direction" in what
