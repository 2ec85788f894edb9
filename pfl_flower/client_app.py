"""The ClientApp: every message is answered by the node's client of the method at hand."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from flwr.app import Context
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp

from clients import PersonalClient, client_app
from clients.app import NamedClient
from clients.safeguard import SafeguardedClient
from clients.thresholds.threshold_client import ThresholdClient
from pfl_flower import model_setup
from pfl_flower.client.build import build_client, choose_device
from pfl_flower.client.frozen_base import BaseReporter
from pfl_flower.client.node_config import node_of
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataError, DataSchema, federation
from strategies.protocol import (
    CLIENT_NAME,
    CLIENT_SCHEMA,
    DATA_SCHEMA,
    FROZEN_BASE,
    METHOD,
    NUM_PARTITIONS,
    PARTITION_ID,
    PROPERTIES,
    RUN,
    SAFEGUARD,
    SERVER_ROUND,
    THRESHOLD,
)


class Registrar(NumPyClient):
    """Answers the first question, who a node is and what its data look like; has no model yet.

    Parameters
    ----------
    config : RunConfig
        Of the run.
    context : Context
        Of the node.
    """

    shared_names: list[str] = []  # noqa: RUF012

    def __init__(self, config: RunConfig, context: Context) -> None:
        self.config = config
        self.node = node_of(context)

    def get_properties(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return ``partition-id``, ``num-partitions``, ``client-schema`` and ``client-name``.

        The name is that in the run's data. Of data of its own a node does not send the name.

        Raises
        ------
        ConfigError
            If this node lacks the device to train on, so that it is left out before round 1.
        DataError
            If the client's data cannot be read.
        """
        choose_device(self.config.device)
        answer: dict[str, Any] = {
            PARTITION_ID: self.node.number,
            NUM_PARTITIONS: self.node.num_partitions,
        }
        if CLIENT_SCHEMA in str(config.get(PROPERTIES, "")).split(","):
            try:
                settings = self.node.settings(self.config.data)
                data = federation(settings, self.node.num_partitions)
                answer[CLIENT_SCHEMA] = data.client_schema(self.node.partition).to_json()
                if settings == self.config.data:
                    answer[CLIENT_NAME] = data.name(self.node.partition)
            except DataError as error:
                raise DataError(
                    f"client {self.node.number}: {error}", client=self.node.number
                ) from error
        return answer


def make_app(run_config: Mapping[str, Any] | None = None) -> ClientApp:
    """Return the ClientApp.

    Parameters
    ----------
    run_config : mapping, optional
        Used instead of the context's, for engines that carry none.
    """

    def build(context: Context, message_config: Mapping[str, Any]) -> NamedClient:
        values = context.run_config if run_config is None else run_config
        typed = tuple((name, type(value), value) for name, value in values.items())  # True == 1
        config = _config_of(typed, str(message_config.get(DATA_SCHEMA, "")))
        asked = CLIENT_SCHEMA in str(message_config.get(PROPERTIES, ""))
        if DATA_SCHEMA not in message_config and (config.known_schema is None or asked):
            return Registrar(config, context)
        if message_config.get(PROPERTIES) == FROZEN_BASE:
            return BaseReporter(config, context)

        def under(method: str, is_candidate: bool = False) -> PersonalClient:
            # The baselines of a run are thrown away; only its own method leaves files behind, and
            # of the candidates of a safeguard the one that is chosen leaves its model.
            return build_client(
                config.for_method(method),
                context,
                durable=method == config.method,
                run=str(message_config.get(RUN, "")),
                private_copy=is_candidate,
                server_round=int(message_config.get(SERVER_ROUND, 0)),
                exported=is_candidate,
            )

        if SAFEGUARD in message_config:
            methods = str(message_config[SAFEGUARD]).split(",")
            candidates = {method: under(method, is_candidate=True) for method in methods}
            return SafeguardedClient(candidates, thresholds=config.threshold is not None)
        client = under(str(message_config.get(METHOD, config.method)))
        if THRESHOLD in message_config:
            classes = len(config.required_schema.labels)
            return ThresholdClient(client, str(config.threshold), config.objective, classes)
        return client

    return client_app(build)


def forget_networks() -> None:
    """Make networks anew from now on: a user's function may read a file that has changed."""
    _config_of.cache_clear()  # configs keep what was made for them
    model_setup.forget_networks()


@lru_cache(maxsize=8)
def _config_of(values: tuple[tuple[str, type, Any], ...], schema: str) -> RunConfig:
    """Return a run config, with the schema in a message if there is one; read once a process."""
    if not schema:
        return RunConfig.parse({name: value for name, _, value in values})
    return _config_of(values, "").with_schema(DataSchema.from_json(schema))


app = make_app()
