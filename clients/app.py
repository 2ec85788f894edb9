"""The bridge between Flower's Messages and NumPyClients: arrays are matched by name."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from numpy.typing import NDArray

from clients.clustered.clustered_client import ClusteredClient
from clients.data_schema import keep_schema
from clients.local_client import NDArrays, Scalars
from clients.message_log import log_message
from strategies.arrays import to_record, view
from strategies.errors import ArgumentError
from strategies.protocol import (
    ARRAYS,
    CONFIG,
    GRADIENT,
    GRADIENT_QUERY,
    LOSS,
    LOSS_GROUPS,
    LOSSES_QUERY,
    METRICS,
    NUM_EXAMPLES,
    PROPERTIES,
)

__all__ = ["client_app"]


class NamedClient(Protocol):
    """A ``NumPyClient`` whose arrays have names, such as :class:`clients.PersonalClient`."""

    shared_names: list[str]

    def fit(self, parameters: NDArrays, config: dict[str, Any]) -> tuple[NDArrays, int, Scalars]:
        """See ``NumPyClient``."""
        ...

    def evaluate(self, parameters: NDArrays, config: dict[str, Any]) -> tuple[float, int, Scalars]:
        """See ``NumPyClient``."""
        ...

    def get_properties(self, config: dict[str, Any]) -> Scalars:
        """See ``NumPyClient``."""
        ...


BuildClient = Callable[[Context, Mapping[str, Any]], NamedClient]
"""(context, the message's config) -> the client of this node, built anew for every message."""


def client_app(
    build: BuildClient, mods: list[Mod] | None = None, evaluate_mods: list[Mod] | None = None
) -> ClientApp:
    """Return a ``ClientApp`` that answers train, evaluate and query messages with a client.

    Parameters
    ----------
    build : BuildClient
        Makes the node's client, such as a :class:`PersonalClient`; called for every message, as
        Flower runs clients, so it should cache what is slow (data, models).
    mods : list of Mod, optional
        Flower mods around training, e.g. for differential privacy. They do not touch the answers
        to queries; a gradient that is reported to find a group is the raw one.
    evaluate_mods : list of Mod, optional
        Flower mods around evaluation.

    Returns
    -------
    ClientApp
        The app of every node. A message that a client cannot answer, because its arrays are not
        those that the client shares or because it raises, is answered by Flower with an error.

    Examples
    --------
    ::

        def build(context, config):
            model, scopes = Net(), assign_scopes(Net(), personal="head")
            state = PersonalState(context.state)
            return PersonalClient(model, scopes, train_loader, test_loader=loader, state=state)

        app = client_app(build)
    """
    app = ClientApp(mods=[log_message, keep_schema])

    @app.train(mods=mods)
    def train(message: Message, context: Context) -> Message:
        config = _config(message)
        client = build(context, config)
        parameters = match(_arrays(message), client.shared_names)
        arrays, num_examples, metrics = client.fit(parameters, config)
        content = RecordDict(
            {
                ARRAYS: to_record(dict(zip(client.shared_names, arrays, strict=True))),
                METRICS: MetricRecord({NUM_EXAMPLES: num_examples, **metrics}),  # type: ignore[dict-item]
            }
        )
        return Message(content, reply_to=message)

    @app.evaluate(mods=evaluate_mods)
    def evaluate(message: Message, context: Context) -> Message:
        config = _config(message)
        client = build(context, config)
        parameters = match(_arrays(message), client.shared_names)
        loss, num_examples, metrics = client.evaluate(parameters, config)
        record = MetricRecord({NUM_EXAMPLES: num_examples, "loss": loss, **metrics})  # type: ignore[dict-item]
        return Message(RecordDict({METRICS: record}), reply_to=message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        config = _config(message)
        properties = build(context, config).get_properties(config)
        return Message(RecordDict({PROPERTIES: ConfigRecord(properties)}), reply_to=message)  # type: ignore[arg-type]

    _answer_group_queries(app, build)
    return app


def _answer_group_queries(app: ClientApp, build: BuildClient) -> None:
    """Let an app answer what a server asks to find a client's group."""

    @app.query(GRADIENT_QUERY.partition(".")[2])
    def gradient(message: Message, context: Context) -> Message:
        config = _config(message)
        client = _grouped(build(context, config))
        parameters = match(_arrays(message), client.shared_names)
        vector, num_examples, metrics = client.gradient(parameters, config)
        record = MetricRecord({NUM_EXAMPLES: num_examples, **metrics})  # type: ignore[dict-item]
        content = RecordDict({ARRAYS: to_record({GRADIENT: vector}), METRICS: record})
        return Message(content, reply_to=message)

    @app.query(LOSSES_QUERY.partition(".")[2])
    def losses(message: Message, context: Context) -> Message:
        config = _config(message)
        client = _grouped(build(context, config))
        groups = [int(group) for group in str(config[LOSS_GROUPS]).split(",")]
        arrays, names = _arrays(message), client.shared_names
        candidates = [match(_of_group(arrays, group), names) for group in groups]
        found, num_examples, metrics = client.losses(candidates, config)
        named = {f"{LOSS}-{group}": loss for group, loss in zip(groups, found, strict=True)}
        record = MetricRecord({NUM_EXAMPLES: num_examples, **named, **metrics})  # type: ignore[dict-item]
        return Message(RecordDict({METRICS: record}), reply_to=message)


def _grouped(client: NamedClient) -> ClusteredClient:
    if not isinstance(client, ClusteredClient):
        wanted = "a ClusteredClient, whose gradient or losses find its group"
        raise ArgumentError("client", type(client).__name__, wanted)
    return client


def _of_group(arrays: ArrayRecord, group: int) -> dict[str, Array]:
    """Return the arrays of one of several models: its own, and those that are shared."""
    found: dict[str, Array] = {}
    for name, array in arrays.items():
        whose, _, own = name.partition("/")
        if whose in ("shared", str(group)):
            found[own] = array
    return found


def match(arrays: Mapping[str, Array], names: list[str]) -> list[NDArray[np.generic]]:
    """Return the arrays of a message in the order of ``names``.

    Raises
    ------
    ArgumentError
        If a name is missing or unexpected, or an array cannot be read; the message says which.
    """
    missing = [name for name in names if name not in arrays]
    unexpected = [name for name in arrays if name not in names]
    if missing or unexpected:
        wanted = f"those this client shares: missing {missing}, unexpected {unexpected}"
        raise ArgumentError("arrays", list(arrays), wanted)
    return [view(arrays[name]) for name in names]


def _arrays(message: Message) -> ArrayRecord:
    arrays = message.content.get(ARRAYS)
    if not isinstance(arrays, ArrayRecord):
        records = list(message.content.array_records)
        raise ArgumentError("array records", records, f"among them {ARRAYS!r}")
    return arrays


def _config(message: Message) -> dict[str, Any]:
    config = message.content.get(CONFIG)
    return dict(config) if isinstance(config, ConfigRecord) else {}
