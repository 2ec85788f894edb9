"""The bridge between Flower's Messages and NumPyClients: arrays are matched by name."""

from collections.abc import Callable, Mapping
from logging import WARNING
from typing import Any, Protocol, runtime_checkable

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.common.logger import log
from numpy.typing import NDArray

from clients.base_client import NDArrays, Scalars
from clients.data.data_schema import keep_schema
from clients.entries import match
from clients.message_log import log_message
from clients.missing_base import MissingBaseError, ask_for_base
from clients.privacy import clippable, is_clipped, is_noisy
from strategies.arrays import to_record, view
from strategies.errors import ArgumentError
from strategies.protocol import (
    ARRAYS,
    BASE_QUERY,
    CHANGES,
    CONFIG,
    FAILURE,
    LOCAL_NOISE,
    METRICS,
    NOTES,
    NUM_EXAMPLES,
    PRIVACY,
    PROPERTIES,
    QUESTIONS,
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


@runtime_checkable
class Answering(Protocol):
    """A client that answers questions of its method's strategy."""

    def answer(
        self, question: str, arrays: Mapping[str, Array], config: dict[str, Any]
    ) -> RecordDict:
        """Return the content of the reply to a question, one of the protocol's ``QUESTIONS``."""
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
        Under one of Flower's privacy wrappers, which skip a round for any error, training is
        answered with the arrays as received and the reason.

    Examples
    --------
    ::

        def build(context, config):
            model, scopes = Net(), assign_scopes(Net(), personal="head")
            state = PersonalState(context.state)
            return PersonalClient(model, scopes, train_loader, test_loader=loader, state=state)

        app = client_app(build)
    """
    app = ClientApp(mods=[log_message, keep_schema, ask_for_base])

    @app.train(mods=mods)
    def train(message: Message, context: Context) -> Message:
        content = _training_reply(build, mods or [], message, context)
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

    for question in (*QUESTIONS, BASE_QUERY):
        _answer(app, build, question)
    return app


def _training_reply(
    build: BuildClient, mods: list[Mod], message: Message, context: Context
) -> RecordDict:
    """Return the content of the reply to training, such that the mods can work on it."""
    received, config = _arrays(message), _config(message)
    notes: dict[str, bool | str] = {LOCAL_NOISE: True} if is_noisy(mods) else {}
    try:
        trained, metrics = _train(build(context, config), received, config)
    except Exception as error:
        if PRIVACY not in config or isinstance(error, MissingBaseError):
            raise
        log(WARNING, "Training failed: %r", error, exc_info=True)
        notes[FAILURE] = repr(error)
        trained = {name: view(array) for name, array in received.items()}
        metrics = {NUM_EXAMPLES: 1}
    if PRIVACY in config or is_clipped(mods):
        if changes := config.get(PRIVACY) == CHANGES:
            notes[CHANGES] = True
        trained = clippable(received, trained, changes)
    # Flower's mods and wrappers match arrays by place: the order is that of the message.
    arrays = to_record({name: trained[name] for name in received})
    content = RecordDict({ARRAYS: arrays, METRICS: MetricRecord(metrics)})  # type: ignore[arg-type]
    if notes:
        content[NOTES] = ConfigRecord(notes)  # type: ignore[arg-type]
    return content


def _train(
    client: NamedClient, received: ArrayRecord, config: dict[str, Any]
) -> tuple[dict[str, NDArray[Any]], Scalars]:
    """Return the arrays that a client makes of those received, by their names, and its metrics.

    Raises
    ------
    ArgumentError
        If the arrays are not the client's; under a privacy wrapper, if it has no examples.
    """
    parameters = match(received, client.shared_names)
    arrays, num_examples, metrics = client.fit(parameters, config)
    if PRIVACY in config and not num_examples:
        raise ArgumentError(NUM_EXAMPLES, num_examples, "above 0")
    trained = dict(zip(client.shared_names, arrays, strict=True))
    return trained, {NUM_EXAMPLES: num_examples, **metrics}


def _answer(app: ClientApp, build: BuildClient, question: str) -> None:
    """Let an app answer a question that only the clients of some methods have an answer to."""

    @app.query(question.partition(".")[2])
    def answer(message: Message, context: Context) -> Message:
        config = _config(message)
        client = build(context, config)
        if not isinstance(client, Answering):
            wanted = f"a ClusteredClient, or another with a method answer, for {question!r}"
            raise ArgumentError("client", type(client).__name__, wanted)
        content = client.answer(question, _arrays(message), config)
        return Message(content, reply_to=message)


def _arrays(message: Message) -> ArrayRecord:
    arrays = message.content.get(ARRAYS)
    if not isinstance(arrays, ArrayRecord):
        records = list(message.content.array_records)
        raise ArgumentError("array records", records, f"among them {ARRAYS!r}")
    return arrays


def _config(message: Message) -> dict[str, Any]:
    config = message.content.get(CONFIG)
    return dict(config) if isinstance(config, ConfigRecord) else {}
