"""Session: what all methods of a run have in common, and where each of them goes on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from logging import INFO, WARNING
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from pfl_flower.config.run_config import RunConfig
from pfl_flower.data.schema import DataSchema
from pfl_flower.data.schema_merging import merge_schemas
from pfl_flower.export_limits import export_limits
from pfl_flower.grid import GridWithout
from pfl_flower.model_setup import with_input_type
from pfl_flower.server.base_delivery import BaseDelivery
from pfl_flower.server.checkpoint import Checkpoints, Saved, read_about
from pfl_flower.server.data_remarks import log_data
from pfl_flower.server.discovery import FederationError, Population
from pfl_flower.server.frozen_bases import other_bases, with_base
from pfl_flower.server.holdout import choose_late, choose_unseen
from pfl_flower.utils.files import under_home
from pfl_flower.utils.text import commonest
from strategies import ClientReport, PartialAveraging
from strategies.protocol import (
    CONFIG,
    DATA_SCHEMA,
    METHOD,
    NUM_ROUNDS,
    PERSONAL_ROUND,
    PROPERTIES,
    RUN,
    SERVER_ROUND,
)


@dataclass(frozen=True)
class Session:
    """What all methods of a run have in common.

    Attributes
    ----------
    grid : BaseDelivery
        All nodes; it sends each of them the schema once, and the frozen base if it has another.
    config : RunConfig
        Of the run, with the schema of the data.
    clients : mapping of int to int
        Node id -> the client's number, as far as known.
    misfits : frozenset of int, optional
        Nodes whose data do not fit the others'.
    unseen : frozenset of int, optional
        Nodes that are held out of training.
    late : frozenset of int, optional
        Nodes that are there only from half of the rounds on.
    left_out : tuple of str, default ()
        In words, who cannot take part and why.
    checkpoints : Checkpoints, optional
        Where every round is kept, if it is.
    run : str, default ""
        Name of the run.
    names : mapping of int to str, default {}
        The client's number -> its own name in the run's data, where it has one.
    """

    grid: BaseDelivery
    config: RunConfig
    clients: Mapping[int, int]
    misfits: frozenset[int] = frozenset()
    unseen: frozenset[int] = frozenset()
    late: frozenset[int] = frozenset()
    left_out: tuple[str, ...] = ()
    checkpoints: Checkpoints | None = None
    run: str = ""
    names: Mapping[int, str] = field(default_factory=dict)

    def about(self, method: str) -> dict[str, Any]:
        """Return the config of every message of a method, before :attr:`grid` shortens it."""
        return {
            METHOD: method,
            NUM_ROUNDS: self.config.num_server_rounds,
            DATA_SCHEMA: self.config.required_schema.to_json(),
            RUN: self.run,
        }

    def evaluate(
        self,
        strategy: PartialAveraging,
        method: str,
        arrays: ArrayRecord,
        question: Mapping[str, Any],
        nodes: Iterable[int] | None = None,
    ) -> list[ClientReport]:
        """Let clients evaluate a method's last arrays once more, after its rounds.

        Parameters
        ----------
        strategy, method : PartialAveraging and str
            Of the method.
        arrays : ArrayRecord
            What they are sent.
        question : mapping of str to object
            What the config of the message has besides :meth:`about`.
        nodes : iterable of int, optional
            Ids of the nodes; all that are trained by default.
        """
        asked = self.training_grid.get_node_ids() if nodes is None else nodes
        return strategy.evaluate_nodes(
            self.grid,
            self.config.num_server_rounds,
            arrays,
            ConfigRecord({**self.about(method), **question}),
            list(asked),
            self.config.timeout,
        )

    @property
    def training_grid(self) -> GridWithout:
        """The nodes that are trained, those that come late included."""
        return GridWithout(self.grid, self.misfits | self.unseen)

    def grid_after(self, server_round: int) -> GridWithout:
        """Return the nodes that are there after a round, for training."""
        absent = self.late if 2 * server_round < self.config.num_server_rounds else frozenset()
        return GridWithout(self.grid, self.misfits | self.unseen | absent)


def open_session(grid: Grid, config: RunConfig, there: Population, folder: Path | None) -> Session:
    """Return what the methods of a run have in common, and log what is odd about it.

    Parameters
    ----------
    grid : Grid
        All nodes.
    config : RunConfig
        Of the run.
    there : Population
        The clients that answered.
    folder : Path or None
        Results folder, for checkpoints; by default the one that the config resumes from.

    Returns
    -------
    Session
        The schema that the clients' schemas merge to, and who is held out or does not fit.

    Raises
    ------
    FederationError
        If there is nothing to resume, it is of another run, or no client has the server's base.
    """
    delivery = BaseDelivery(grid)
    schema, misfits = _merged(delivery, config, there)
    if folder is None and config.resume:
        folder = under_home(config.resume)
    if folder is not None and config.resume:  # the same again, whoever is there today
        about = read_about(folder)
        unseen, late = frozenset(about["unseen"]), frozenset(about["late"])
    else:
        fit = there.schemas.keys() - misfits.keys()
        unseen = choose_unseen(config, fit)
        late = choose_late(config, fit - unseen)
    # Who is held out of training has no part in means and deviations either, but may have a class
    # that nobody else has, and a piece of the graph that was cut.
    left_out = unseen | misfits.keys()
    seen = {
        client: client_schema
        for client, client_schema in there.schemas.items()
        if client not in left_out
    }
    of_seen = merge_schemas(seen or there.schemas)[0]
    schema = replace(of_seen, labels=schema.labels, edges=schema.edges, integers=schema.integers)
    config = config.with_schema(schema)
    log_data(config, there.schemas, misfits)
    config = with_base(with_input_type(config))
    _log_export_limits(config)
    checkpoints = None if folder is None else Checkpoints(folder, config, unseen, late)
    return Session(
        delivery,
        config,
        there.clients,
        frozenset(node for node, client in there.clients.items() if client in misfits),
        frozenset(node for node, client in there.clients.items() if client in unseen),
        frozenset(node for node, client in there.clients.items() if client in late),
        (
            *(f"client {client}: {reason}" for client, reason in misfits.items()),
            *(reason for _, reason in sorted(there.failures.items())),
        ),
        checkpoints,
        checkpoints.run if checkpoints else uuid4().hex,
        there.names,
    )


def _merged(
    grid: Grid, config: RunConfig, there: Population
) -> tuple[DataSchema, Mapping[int, str]]:
    """Return the schema of all clients that can take part, and why others cannot.

    Who has another base is found out by the schema of all, which decides the network.

    Raises
    ------
    FederationError
        If no client has the server's base.
    """
    schema, misfits = merge_schemas(there.schemas)
    fit = {node: client for node, client in there.clients.items() if client not in misfits}
    others = other_bases(grid, with_base(with_input_type(config.with_schema(schema))), fit)
    if not others:
        return schema, misfits
    rest = {client: own for client, own in there.schemas.items() if client not in others}
    if not rest.keys() - misfits.keys():
        reason = commonest(others.values())
        raise FederationError(
            f"no client has the server's frozen base: {reason}",
            key="model",
            value=config.model,
            clients=others,
            reason=reason,
        )
    schema, misfits = merge_schemas(rest)
    return schema, {**misfits, **others}


def _log_export_limits(config: RunConfig) -> None:
    level = WARNING if config.personal_dir else INFO  # nodes may have a directory of their own
    for limit in export_limits(config):
        log(level, "The file of a client's whole model has a limit: %s", limit)


def saved_state(session: Session, config: RunConfig, personal: bool) -> Saved | None:
    """Return where a method stopped when the run was interrupted; None to start afresh.

    Baselines leave nothing on the devices: one that was under way starts afresh, and so does one
    that is finished but whose clients are asked once more, for a safeguard or for thresholds.
    """
    if session.checkpoints is None or not session.config.resume:
        return None
    saved = session.checkpoints.load(config.method)
    main = config.method == session.config.method
    complete = saved is not None and saved.round == config.num_server_rounds
    asked_again = session.config.safeguard or session.config.threshold is not None
    if saved is None or not (main or (complete and not asked_again)):
        session.checkpoints.forget(config.method)
        return None
    log(INFO, "Method %s goes on after round %d", config.method, saved.round)
    if main and personal:
        _check_personal(session, config, saved)
    return saved


def _check_personal(session: Session, config: RunConfig, saved: Saved) -> None:
    """Raise unless every client that was trained still has its personal parameters.

    Raises
    ------
    FederationError
        With the clients that have not.
    """
    trained: dict[int, int] = {}
    for report in saved.reports:
        if report.phase == "train" and not report.dropped:
            trained[report.client] = report.round
    asked: dict[str, Any] = {PROPERTIES: PERSONAL_ROUND, SERVER_ROUND: saved.round + 1}
    question = RecordDict({CONFIG: ConfigRecord({**session.about(config.method), **asked})})
    nodes = [node for node, client in session.clients.items() if client in trained]
    messages = [Message(question, node, MessageType.QUERY) for node in nodes]
    kept: dict[int, int] = {}
    for reply in session.grid.send_and_receive(messages, timeout=config.timeout):
        if reply.has_content():
            answer = reply.content.config_records[PROPERTIES]
            kept[session.clients[reply.metadata.src_node_id]] = cast(int, answer[PERSONAL_ROUND])
    if absent := sorted(trained.keys() - set(session.clients.values())):
        log(WARNING, "Clients %s were trained before and are not there now", absent)
    lost = [client for client, last in sorted(trained.items()) if kept.get(client, last) < last]
    if lost:
        raise FederationError(
            f"the run cannot be resumed: clients {lost} do not have the personal parameters of "
            f"round {saved.round} any more. They keep them only in a personal directory: "
            f"personal-dir of the node config or of the run config",
            key="personal-dir",
            clients=lost,
        )
