"""Messages made by hand, a tiny network, and what two runs are compared by."""

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from torch import nn

from clients import PersonalClient, PersonalState, assign_scopes, in_memory_loader
from pfl_flower.grid import identify_process
from pfl_flower.methods import METHODS
from pfl_flower.results.method_run import MethodRun
from strategies.arrays import to_record, view
from strategies.protocol import ARRAYS, METRICS, NUM_EXAMPLES, PARTITION_ID

identify_process()  # messages are also made while tests are collected


def request(
    node_id: int, message_type: str = "train", content: RecordDict | None = None
) -> Message:
    """A message to a node, with an id as if it had been sent; without content an empty one."""
    message = Message(RecordDict() if content is None else content, node_id, message_type)
    message.metadata.__dict__["_message_id"] = f"to-{node_id}"
    return message


def reply(
    node_id: int,
    arrays: Mapping[str, np.ndarray] | ArrayRecord | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Message:
    """A node's reply to a train message."""
    content = RecordDict()
    if arrays is not None:
        content[ARRAYS] = arrays if isinstance(arrays, ArrayRecord) else to_record(arrays)
    values = {NUM_EXAMPLES: 1, PARTITION_ID: node_id - 100} | dict(metrics or {})
    content[METRICS] = MetricRecord({k: v for k, v in values.items() if v is not None})
    return Message(content, reply_to=request(node_id))


def run_alone(script: str) -> None:
    """Run a script in a process of its own, where nothing is imported yet; fail if it does."""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert found.returncode == 0, found.stderr.decode()[-2000:]


def error_reply(node_id: int) -> Message:
    """A node's reply when its client raised."""
    return Message(Error(2, "out of memory"), reply_to=request(node_id))


def decoded(record: ArrayRecord | None) -> dict[str, np.ndarray]:
    """A record's arrays by Flower's own decoder."""
    assert record is not None
    return {name: array.numpy() for name, array in record.items()}


def metrics_of(run: MethodRun) -> list[Any]:
    """What every client reported in every phase and round."""
    return [
        (r.round, r.phase, r.client, dict(r.metrics), r.bytes_down, r.bytes_up, r.dropped)
        for r in run.reports
    ]


def assert_identical(one: Sequence[MethodRun], other: Sequence[MethodRun]) -> None:
    """Assert that two runs have the same reports and the same arrays, bit for bit."""
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert str(metrics_of(left)) == str(metrics_of(right))  # as text: NaN equals NaN
        arrays, others = decoded(left.arrays), decoded(right.arrays)
        assert arrays.keys() == others.keys()
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, others[name])


def numbers_of(runs: Iterable[MethodRun]) -> list[Any]:
    """Everything that a run gave but for the time it took and the ids of nodes."""
    return [
        (
            run.method,
            {name: view(array).tobytes() for name, array in run.arrays.items()},
            [
                (r.round, r.phase, r.client, repr(sorted(r.metrics.items())), r.dropped)
                for r in run.reports
            ],
        )
        for run in runs
    ]


class TinyNet(nn.Module):
    """Linear, batch norm, linear: a body with buffers and a head."""

    parts = {"head": ("head",)}

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Linear(4, 8)
            self.bn = nn.BatchNorm1d(8)
            self.head = nn.Linear(8, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.relu(self.bn(self.body(inputs))))
        return logits


def examples(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random inputs of 4 features and labels of 3 classes that depend on them."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=draw)
    return inputs, inputs[:, :3].argmax(dim=1)


def tiny_client(
    personal: str = "head",
    count: int = 20,
    batch_size: int = 8,
    model: nn.Module | None = None,
    records: RecordDict | None = None,
    **options: Any,
) -> PersonalClient:
    """A client of a TinyNet (or ``model``) on generated examples."""
    model = model or TinyNet()
    inputs, targets = examples(count, seed=options.get("partition_id", 0))
    loader = in_memory_loader(inputs, targets, batch_size, shuffle=True)
    test = in_memory_loader(*examples(12, seed=99), 12)
    options.setdefault("state", PersonalState(records if records is not None else RecordDict()))
    return PersonalClient(model, assign_scopes(model, personal), loader, test, test, **options)


def data_for(method: str) -> dict[str, Any]:
    """The run config's data for a method: a graph where it is for nothing else."""
    graph = {"dataset": "social", "partition": "natural"}
    return graph if METHODS[method].graphs else {}


def config(**values: Any) -> ConfigRecord:
    """A config record with hyphenated keys."""
    return ConfigRecord({name.replace("_", "-"): value for name, value in values.items()})


def flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """All values in one vector."""
    return np.concatenate([array.ravel() for array in arrays]) if arrays else np.zeros(0)


def as_array(text: bytes, dtype: str = "float32", shape: tuple[int, ...] = (2,)) -> Array:
    """An ``Array`` with any bytes."""
    return Array(dtype=dtype, shape=shape, stype="numpy.ndarray", data=text)


def flat_network(shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    """A network for examples, as a user's own function would return one."""
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), num_outputs))
