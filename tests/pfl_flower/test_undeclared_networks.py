"""Networks as anybody has them, run by the app: no declared head, lazy layers, other outputs."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import googlenet, squeezenet1_1

from clients import GraphNetwork, PersonalClient, assign_scopes, in_memory_loader
from clients.model_components.outputs import take_logits
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataSchema
from pfl_flower.engines import simulate
from pfl_flower.model_setup import model_setup
from pfl_flower.models import Architecture, build_model
from strategies.errors import ArgumentError
from tests.errors import refused

HERE = "tests.pfl_flower.test_undeclared_networks"


def pictures(partition_id, num_partitions):
    draw = np.random.default_rng(partition_id)
    return {
        "x_train": draw.normal(size=(8, 3, 32, 32)).astype("float32"),
        "y_train": np.arange(8) % 2,
    }


def tokens(partition_id, num_partitions):
    draw = np.random.default_rng(partition_id)
    return {"x_train": draw.integers(0, 9, (12, 5)), "y_train": np.arange(12) % 2}


def squeezenet(shape, num_outputs):
    return squeezenet1_1(num_classes=num_outputs)


def with_auxiliaries(shape, num_outputs):
    return googlenet(num_classes=num_outputs, init_weights=False)


class Output:
    def __init__(self, logits):
        self.logits = logits


class TextNet(nn.Module):
    """As of transformers: takes token ids, and returns an object with logits."""

    def __init__(self, shape, num_outputs):
        super().__init__()
        self.embedding, self.score = nn.Embedding(9, 4), nn.Linear(4, num_outputs)

    def forward(self, ids):
        assert ids.dtype == torch.int64
        return Output(self.score(self.embedding(ids).mean(dim=1)))


class LazyNet(nn.Module):
    def __init__(self, shape, num_outputs):
        super().__init__()
        self.hidden, self.norm = nn.LazyLinear(7), nn.LazyBatchNorm1d()
        self.out = nn.LazyLinear(num_outputs)

    def forward(self, inputs):
        return self.out(self.norm(self.hidden(inputs.flatten(1))).relu())


class LazyTextNet(nn.Module):
    def __init__(self, shape, num_outputs):
        super().__init__()
        self.embedding, self.out = nn.Embedding(9, 4), nn.LazyLinear(num_outputs)

    def forward(self, ids):
        return self.out(self.embedding(ids).mean(dim=1))


class Fussy(LazyNet):
    def forward(self, inputs):
        raise RuntimeError("never")


class LazyGraphNet(GraphNetwork):
    layers = 1

    def __init__(self, shape, num_outputs):
        super().__init__()
        self.into, self.out = nn.LazyLinear(5), nn.LazyLinear(num_outputs)

    def encode(self, features, edges):
        hidden = self.into(features)
        return hidden.index_add(0, edges[1], hidden[edges[0]])

    def classify(self, hidden):
        return self.out(hidden.relu())


def settings(model, data, **more):
    common = {"baselines": "", "num-server-rounds": 1, "local-steps": 1, "batch-size": 4}
    return {**common, "model": f"{HERE}:{model}", "dataset": f"{HERE}:{data}", **more}


@pytest.mark.parametrize(
    ("model", "data", "head"),
    [("squeezenet", "pictures", "classifier.1."), ("TextNet", "tokens", "score.")],
)
@pytest.mark.parametrize("method", ["fedper", "hierarchical-bayes"])
def test_a_method_of_heads_needs_no_declaration(method, model, data, head):
    (run,) = simulate(settings(model, data, method=method), num_clients=2)
    assert run.by_client().keys() == {0, 1}
    assert all(np.isfinite(list(run.by_client().values())))
    # under a prior the head travels as the prior's mean
    assert any(name.startswith(head) for name in run.arrays) == (method != "fedper")
    personal = run.parameters["personal"]
    assert personal == {"squeezenet": 2 * (512 + 1), "TextNet": 2 * (4 + 1)}[model]


def test_auxiliary_outputs_are_left_out():
    (run,) = simulate(settings("with_auxiliaries", "pictures", method="fedper"), num_clients=2)
    assert all(np.isfinite(list(run.by_client().values())))
    assert "aux1.fc2.weight" in run.arrays
    assert "fc.weight" not in run.arrays


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        ("LazyNet", (3, 4), {"hidden.weight": (7, 12), "norm.weight": (7,), "out.weight": (2, 7)}),
        ("LazyTextNet", (5,), {"embedding.weight": (9, 4), "out.weight": (2, 4)}),
        ("LazyGraphNet", (6,), {"into.weight": (5, 6), "out.weight": (2, 5)}),
    ],
)
def test_lazy_layers_get_their_shapes_under_the_models_seed(model, shape, expected):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, again, other = (
        build_model(Architecture(f"{HERE}:{model}", shape, 2), seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    state = first.state_dict()
    assert {name: tuple(state[name].shape) for name in expected} == expected
    assert all(torch.equal(values, again.state_dict()[name]) for name, values in state.items())
    assert not torch.equal(state["out.weight"], other.state_dict()["out.weight"])
    assert all(module.training for module in first.modules())
    assert getattr(first, "graph", None) is None


def test_lazy_layers_without_a_forward_pass_are_refused():
    with refused(ArgumentError, argument="model"):
        build_model(Architecture(f"{HERE}:Fussy", (4,), 2), 0)


class Wide(nn.Module):
    """Its parameters are of another type than examples are."""

    kind = torch.float64
    converts = False

    def __init__(self, shape, num_outputs):
        super().__init__()
        self.out = nn.Linear(shape[0], num_outputs, dtype=self.kind)

    def forward(self, inputs):
        return self.out(inputs.to(self.kind) if self.converts else inputs)


class Half(Wide):
    kind = torch.float16


class Brain(Wide):
    kind = torch.bfloat16


class ConvertingHalf(Half):
    converts = True


@pytest.mark.parametrize(
    ("model", "is_refused"),
    [("Wide", True), ("Half", True), ("Brain", True), ("ConvertingHalf", False)],
)
def test_parameters_of_another_type_are_refused_unless_the_network_converts_its_inputs(
    model, is_refused
):
    name = f"{HERE}:{model}"
    config = RunConfig.parse({"model": name, "dataset": "table:x.csv", "method": "fedavg"})
    setup = model_setup(config.with_schema(DataSchema((4,), "classification", (0, 1))))
    if model != "ConvertingHalf":
        with refused(ConfigError, key="model", value=name):
            setup.check()
    else:
        setup.check()


def test_half_precision_is_averaged_and_keeps_its_type():
    inputs = torch.randn(8, 4)
    loader = in_memory_loader(inputs, torch.arange(8) % 2, 4)
    model = ConvertingHalf((4,), 2)
    client = PersonalClient(model, assign_scopes(model), loader, loader, loader)
    arrays, _, _ = client.fit(client.get_parameters({}), {})
    assert {each.dtype for each in arrays} == {np.dtype("float16")}


def test_logits_are_taken_once_and_other_outputs_are_as_they_were():
    model = TextNet((5,), 2)
    take_logits(model)
    take_logits(model)
    assert len(model._forward_hooks) == 1
    assert isinstance(model(torch.zeros(2, 5, dtype=torch.int64)), torch.Tensor)
    twins = nn.Identity()
    take_logits(twins)
    pair = (torch.zeros(2), torch.ones(2))
    assert twins(pair) is pair
    logits = {"logits": torch.ones(2), "loss": None}
    assert twins(logits) is logits["logits"]
    compiled = torch.compile(TextNet((5,), 2), backend="eager")
    take_logits(compiled)
    assert isinstance(compiled(torch.zeros(2, 5, dtype=torch.int64)), torch.Tensor)
