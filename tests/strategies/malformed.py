"""Small constructions of every strategy, and replies that none of them can use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from pfl_flower.grid import InProcessGrid
from strategies import (
    CFL,
    IFCA,
    ClientStrategy,
    ErrorsInVariables,
    GradientClusters,
    GroupAveraging,
    HierarchicalBayes,
    HierarchicalLinear,
    LowRankAveraging,
    PartialAveraging,
    PFedHN,
    QualityWeighted,
    UpdateClusters,
)
from strategies.arrays import to_record
from strategies.hierarchical.hierarchical_linear import first_prior
from strategies.hierarchical.linear_arrays import (
    contribution_arrays,
    moments_arrays,
    prior_arrays,
)
from strategies.hierarchical.mixed_effects import moments
from strategies.hierarchical.mixed_effects_em import contribution
from strategies.measurement_error.corrected_moments import error_moments
from strategies.measurement_error.errors_in_variables import model_arrays
from strategies.measurement_error.errors_in_variables import moments_arrays as error_arrays
from strategies.protocol import ARRAYS, METRICS, NUM_EXAMPLES, PARTITION_ID
from tests.helpers import as_array, error_reply, request

CLIENTS = 6
BAD, VICTIM = 0, 3
"""The client whose reply is malformed (its node has the lowest id), and whose number it may say."""

Arrays = dict[str, np.ndarray]

START: Arrays = {
    "w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "b": np.zeros(3, np.float32),
    "n": np.array(5),
}
NAMES = ["w", "b"]


def trained(client: int) -> Arrays:
    """What a client makes of the start."""
    draw = np.random.default_rng(client)
    moved = {n: START[n] + draw.normal(size=START[n].shape).astype(np.float32) for n in NAMES}
    return {**moved, "n": START["n"] + client}


def examples(client: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, a column of ones included, and targets."""
    draw = np.random.default_rng(client)
    inputs = np.column_stack([draw.normal(size=(90 + client, 2)), np.ones(90 + client)])
    return inputs, inputs @ draw.normal(size=3) + 0.1 * draw.normal(size=len(inputs))


def count_of(client: int) -> int:
    """A client's number of examples."""
    return len(examples(client)[1])


def halves(client: int) -> Arrays:
    """What a client sends of a low-rank adapter, and of a layer without one."""
    draw = np.random.default_rng(client)
    shapes = {"a": (2, 5), "b": (4, 2), "w": (3,)}
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


PRIOR = first_prior(np.zeros(3))


def posterior(client: int) -> Arrays:
    """What a client of a Gaussian prior over ``w`` sends."""
    arrays = trained(client)
    return arrays | {"prior-variance/w": 0.5 + np.square(arrays["w"] - START["w"])}


def errors_of(client: int) -> Arrays:
    """The moments that a client of errors in variables sends."""
    inputs, targets = examples(client)
    return error_arrays(error_moments(inputs[:, :2], targets, np.full(2, 0.01)))


@dataclass(frozen=True)
class Construction:
    """A strategy, the arrays that it sends first, and a client's good answer to them."""

    make: Callable[..., ClientStrategy]
    arrays: Callable[[int], Arrays] = trained
    sent: Arrays = field(default_factory=lambda: START)
    metrics: Callable[[int], Mapping[str, Any]] = lambda client: {}


def named(kind: type[ClientStrategy], **options: Any) -> Callable[[], ClientStrategy]:
    """Return what makes a strategy with options."""
    return lambda: kind(**options)


MEASURED = lambda client: {"reliability": 0.5 + client / 20, "missing-rate": 0.1}  # noqa: E731
FIRST_VARIANCE = {"prior-variance/w": np.ones((2, 3), np.float32)}

CONSTRUCTIONS: dict[str, Construction] = {
    "averaging": Construction(named(PartialAveraging)),
    "averaging with momentum": Construction(
        named(PartialAveraging, server_momentum=0.5, parameter_names=NAMES)
    ),
    "exact mean": Construction(
        named(LowRankAveraging, exact_mean=True, pairs={"a": "b"}), halves, halves(0)
    ),
    "groups": Construction(
        named(GroupAveraging, group_names=["w"], groups={c: c % 2 for c in range(CLIENTS)})
    ),
    "ifca": Construction(named(IFCA, parameter_names=NAMES, clusters=2)),
    "cfl": Construction(named(CFL, parameter_names=NAMES)),
    "gradient clusters": Construction(named(GradientClusters, parameter_names=NAMES)),
    "update clusters": Construction(named(UpdateClusters, parameter_names=NAMES)),
    "quality": Construction(named(QualityWeighted), metrics=MEASURED),
    "pfedhn": Construction(named(PFedHN, parameter_names=NAMES, hidden_size=4, embedding_size=4)),
    "hierarchical bayes": Construction(
        named(HierarchicalBayes, prior_names=["w"]), posterior, START | FIRST_VARIANCE
    ),
    "hierarchical linear, iterative": Construction(
        named(HierarchicalLinear),
        lambda client: contribution_arrays(contribution(moments(*examples(client)), PRIOR)),
        prior_arrays(PRIOR),
    ),
    "hierarchical linear, one-shot": Construction(
        named(HierarchicalLinear, protocol="one-shot"),
        lambda client: moments_arrays(moments(*examples(client))),
        prior_arrays(PRIOR),
    ),
    "errors in variables": Construction(
        named(ErrorsInVariables), errors_of, model_arrays(np.zeros((1, 3)))
    ),
}


def answer(node: int, arrays: Arrays, metrics: Mapping[str, Any]) -> Message:
    """A reply with these arrays and metrics; those that are None are left out."""
    values = {name: value for name, value in metrics.items() if value is not None}
    content = {ARRAYS: to_record(arrays), METRICS: MetricRecord(values)}
    return Message(RecordDict(content), reply_to=request(node))  # type: ignore[arg-type]


def good(construction: Construction, client: int, **metrics: Any) -> Message:
    """A client's good reply, with some metrics changed (None leaves one out)."""
    values = {NUM_EXAMPLES: count_of(client), PARTITION_ID: client}
    changes = {name.replace("_", "-"): value for name, value in metrics.items()}
    return answer(
        100 + client,
        construction.arrays(client),
        values | dict(construction.metrics(client)) | changes,
    )


def with_values(value: float, number: int = BAD) -> Callable[[Construction], Message]:
    """Return a reply whose first array has one odd value, and which says a client's number."""

    def make(construction: Construction) -> Message:
        message = good(construction, BAD, partition_id=number)
        record = message.content.array_records[ARRAYS]
        name, values = next((n, a.numpy()) for n, a in record.items())
        values.flat[0] = value
        record[name] = to_record({name: values})[name]
        return message

    return make


def with_metrics(**metrics: Any) -> Callable[[Construction], Message]:
    """Return a reply with some metrics changed."""
    return lambda construction: good(construction, BAD, **metrics)


def with_arrays(change: Callable[[Arrays], Arrays]) -> Callable[[Construction], Message]:
    """Return a reply with other arrays."""

    def make(construction: Construction) -> Message:
        return answer(
            100 + BAD,
            change(construction.arrays(BAD)),
            {NUM_EXAMPLES: count_of(BAD), PARTITION_ID: BAD, **construction.metrics(BAD)},
        )

    return make


def with_records(change: Callable[[RecordDict], object]) -> Callable[[Construction], Message]:
    """Return a reply whose records are changed in place."""

    def make(construction: Construction) -> Message:
        message = good(construction, BAD)
        change(message.content)
        return message

    return make


def first(arrays: Arrays, change: Callable[[np.ndarray], np.ndarray]) -> Arrays:
    """The arrays with the first one changed."""
    name = next(iter(arrays))
    return arrays | {name: change(arrays[name])}


def damage(content: RecordDict, data: Callable[[bytes], bytes]) -> None:
    """Change the bytes of the first array."""
    record = content.array_records[ARRAYS]
    name, array = next(iter(record.items()))
    record[name] = as_array(data(array.data), array.dtype, tuple(array.shape))


MALFORMED: dict[str, Callable[[Construction], Message]] = {
    "NaN": with_values(np.nan),
    "infinity": with_values(-np.inf),
    "1e30": with_values(1e30),
    "-1e30": with_values(-1e30),
    "NaN in another's name": with_values(np.nan, VICTIM),
    "1e30 in another's name": with_values(1e30, VICTIM),
    "another shape": with_arrays(lambda arrays: first(arrays, lambda values: values[None])),
    "another dtype": with_arrays(lambda a: first(a, lambda values: values.astype(np.float16))),
    "a missing array": with_arrays(lambda arrays: dict(list(arrays.items())[1:])),
    "an array too many": with_arrays(lambda arrays: {**arrays, "zzz": np.zeros(2, np.float32)}),
    "no array": with_arrays(lambda arrays: {}),
    "damaged bytes": with_records(lambda content: damage(content, lambda data: b"xx")),
    "truncated bytes": with_records(lambda content: damage(content, lambda data: data[:-1])),
    "no array record": with_records(lambda content: content.pop(ARRAYS)),
    "two array records": with_records(lambda c: c.update({"more": ArrayRecord()})),
    "no metric record": with_records(lambda content: content.pop(METRICS)),
    "two metric records": with_records(lambda c: c.update({"more": MetricRecord()})),
    "no number of examples": with_metrics(num_examples=None),
    "no example": with_metrics(num_examples=0),
    "less than no example": with_metrics(num_examples=-3),
    "NaN examples": with_metrics(num_examples=np.nan),
    "infinitely many examples": with_metrics(num_examples=np.inf),
    "1e300 examples": with_metrics(num_examples=1e300),
    "2**62 examples": with_metrics(num_examples=2**62),
    "1e12 examples": with_metrics(num_examples=10**12),
    "a list of examples": with_metrics(num_examples=[1, 2]),
    "1e300 examples in another's name": with_metrics(num_examples=1e300, partition_id=VICTIM),
    "a negative number": with_metrics(partition_id=-1),
    "half a number": with_metrics(partition_id=0.5),
    "a list of numbers": with_metrics(partition_id=[0]),
    "an error": lambda construction: error_reply(100 + BAD),
    "a good reply in another's name": with_metrics(partition_id=VICTIM),
}

COUNTERS: dict[str, Callable[[Construction], Message]] = {
    "2**62": with_arrays(lambda arrays: arrays | {"n": np.array(2**62)}),
    "-2**63": with_arrays(lambda arrays: arrays | {"n": np.array(-(2**63))}),
    "2**40": with_arrays(lambda arrays: arrays | {"n": np.array(2**40)}),
}


def app() -> ClientApp:
    """Clients that say their number, and answer what strategies ask before a round."""
    asked = ClientApp()

    def replied(message: Message, content: RecordDict) -> Message:
        return Message(content, reply_to=message)

    @asked.query()
    def query(message: Message, context: Any) -> Message:
        number = context.node_config["partition-id"]
        record = ConfigRecord({PARTITION_ID: number})
        return replied(message, RecordDict({"properties": record}))

    @asked.query("losses")
    def losses(message: Message, context: Any) -> Message:
        number = context.node_config["partition-id"]
        values = {f"loss-{g}": float((number + g) % 2) for g in (0, 1)}
        metrics = MetricRecord({NUM_EXAMPLES: 9, PARTITION_ID: number, **values})
        return replied(message, RecordDict({METRICS: metrics}))

    @asked.query("gradient")
    def gradient(message: Message, context: Any) -> Message:
        number = context.node_config["partition-id"]
        draw = np.random.default_rng(number % 2)
        vector = (draw.normal(size=50) + 0.1 * number).astype(np.float32)
        metrics = MetricRecord({NUM_EXAMPLES: 30, PARTITION_ID: number})
        records = {ARRAYS: to_record({"gradient": vector}), METRICS: metrics}
        return replied(message, RecordDict(records))  # type: ignore[arg-type]

    return asked


@dataclass(frozen=True)
class Outcome:
    """What a round left: arrays, metrics, state, reports of the clients that were used."""

    arrays: dict[str, bytes]
    metrics: dict[str, float]
    state: dict[str, bytes]
    used: list[str]
    dropped: dict[int, str]


def play(construction: Construction, replies: list[Message]) -> Outcome:
    """Play a round of training in which the clients, who are known by number, reply so."""
    strategy = construction.make()
    strategy.clients.update({100 + client: client for client in range(CLIENTS)})
    grid = InProcessGrid(app(), CLIENTS)
    list(strategy.configure_train(1, to_record(construction.sent), ConfigRecord(), grid))
    arrays, metrics = strategy.aggregate_train(1, replies)
    assert arrays is not None
    assert metrics is not None
    return Outcome(
        {name: array.data for name, array in arrays.items()},
        dict(metrics.items()),  # type: ignore[arg-type]
        {name: values.tobytes() for name, values in strategy.state_arrays().items()},
        [repr(report) for report in strategy.reports if not report.dropped],
        {report.node_id: report.dropped for report in strategy.reports if report.dropped},
    )
