"""Whether the data can be read and every method can run on them, before anything is trained."""

from typing import TYPE_CHECKING

from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataError, Federation
from pfl_flower.data.schema import ClientSchema, DataSchema
from pfl_flower.data.schema_merging import merge_schemas
from pfl_flower.model_setup import model_setup

if TYPE_CHECKING:
    from pfl_flower.comparison.compare import Comparison


LOOKED_AT = 20
"""So many clients are looked at: data of thousands would take long to read."""


def check_feasible(comparison: "Comparison") -> None:
    """Refuse a comparison in which no client has data, or a method cannot run on them.

    Every method's run config, and its network on the kind of data that most of the first clients
    have, are checked as a run checks them before its first round.

    Raises
    ------
    DataError
        Of the first client, if none has data.
    ConfigError
        With all methods that cannot run, each with its reason.
    """
    schema = _common_schema(comparison)
    methods = dict.fromkeys((*comparison.all_methods, *comparison.methods))
    reasons = {name: why for name in methods if (why := _misfit(comparison, name, schema))}
    if not reasons:
        return
    words = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise ConfigError(
        f"{len(reasons)} of {len(methods)} methods cannot run here. {words}",
        key="methods",
        value=list(reasons),
        choices=[name for name in methods if name not in reasons],
    )


def _common_schema(comparison: "Comparison") -> DataSchema:
    """Return what most of the first clients have whose data can be read."""
    data = Federation(comparison.base.data, comparison.clients)
    schemas: dict[int, ClientSchema] = {}
    errors = []
    for client in range(data.num_clients):
        if len(schemas) == LOOKED_AT:
            break
        try:
            schemas[client] = data.client_schema(client)
        except DataError as error:
            errors.append(error)
    if not schemas:
        raise errors[0]
    return merge_schemas(schemas)[0]


def _misfit(comparison: "Comparison", method: str, schema: DataSchema) -> str:
    """Return why a method cannot run on such data; empty if it can."""
    try:
        config = RunConfig.parse(comparison.cell(method, comparison.seeds[0]).config)
        model_setup(config.with_schema(schema)).check()
    except Exception as error:  # a user's own model can raise anything
        return str(error) if isinstance(error, ValueError | RuntimeError) else repr(error)
    return ""
