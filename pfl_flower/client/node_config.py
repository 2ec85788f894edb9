"""Who a node is, and where its data are: what its node config says."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from flwr.app import Context

from clients.message_log import INSPECT, PERSONAL_DIR
from clients.state.personal_state import check_name
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataSettings, is_own
from pfl_flower.data.readers.registry import OWN
from pfl_flower.utils.files import under_home
from strategies.protocol import NUM_PARTITIONS, PARTITION_ID

NAME, DATA, DATA_PATH = "name", "data", "data-path"

_PLACE = (PARTITION_ID, NUM_PARTITIONS)

_KNOWN = (PARTITION_ID, NUM_PARTITIONS, NAME, DATA, DATA_PATH, PERSONAL_DIR, INSPECT)

_SPELLED = {key.replace("-", ""): key for key in _KNOWN}
"""A known key without its hyphens -> the key."""

_WAYS = (
    "the node config needs partition-id and num-partitions: flower-supernode "
    "--node-config 'partition-id=0 num-partitions=10'; or, of a device that has its own data, "
    'name and data or data-path: --node-config \'name="ward-7" data-path="/srv/ward"\''
)


@dataclass(frozen=True)
class Node:
    """The client that a node is: its number, its name, and which data are its own.

    Attributes
    ----------
    number : int
        The client's own number, the same however often the node restarts or registers anew.
    name : str
        Of its personal file: that of its node config, else ``client-<number>``.
    partition, num_partitions : int
        Which part of the data is its own, of how many; 0 of 1 where the node has data of its own.
    data : str, default ""
        A data set of its own as ``kind:location`` or ``module:function``; empty for the run's.
    data_path : str, default ""
        A location of its own for the run's kind of data; empty for the run's.
    """

    number: int
    name: str
    partition: int
    num_partitions: int
    data: str = ""
    data_path: str = ""

    @property
    def named(self) -> bool:
        """Whether the node config gives a name, rather than a number alone."""
        return self.name != f"client-{self.number}"

    def settings(self, run: DataSettings) -> DataSettings:
        """Return the settings of this node's data, from the run's.

        Of a node with a name and data of its own all rows are its own, unless the run names a
        column of clients.

        Raises
        ------
        ConfigError
            If the node has its own, and the run is of another kind of data.
        """
        if not (self.data or self.data_path):
            return run
        if not is_own(run.dataset):
            raise ConfigError(
                f"the node config names data of its own, and the run is of {run.dataset!r}; "
                f"set the run config's dataset to the kind that nodes have, such as 'folder:data'",
                key="dataset",
                value=run.dataset,
                choices=OWN,
            )
        kind = run.dataset.partition(":")[0]
        whole = self.name if self.named and not run.client_column else ""
        return replace(run, dataset=self.data or f"{kind}:{self.data_path}", whole=whole)


def node_of(context: Context) -> Node:
    """Return who a node is.

    Raises
    ------
    ConfigError
        If its node config does not say so.
    """
    config = context.node_config
    _check_spelling(config)
    name, data, path = (_text(config, key) for key in (NAME, DATA, DATA_PATH))
    if name:
        try:
            check_name(name)
        except ValueError as error:
            raise ConfigError(f"the node config's name: {error}", key=NAME, value=name) from error
    if data and path:
        raise ConfigError(
            "the node config has data and data-path; one of them is enough",
            key=DATA_PATH,
            value=path,
            choices=(DATA, DATA_PATH),
        )
    given = [config.get(key) for key in _PLACE]
    if given == [None, None] and name and (data or path):
        return Node(number_of(name), name, 0, 1, data, path)
    number, count = (value if type(value) is int else None for value in given)
    if number is None or count is None:
        key, value = next((k, v) for k, v in zip(_PLACE, given, strict=True) if type(v) is not int)
        raise ConfigError(_WAYS, key=key, value=value)
    if not 0 <= number < count:
        raise ConfigError(
            f"partition-id {number} is not in 0..{count - 1}", key=PARTITION_ID, value=number
        )
    return Node(number, name or f"client-{number}", number, count, data, path)


def personal_directory(config: RunConfig, context: Context) -> Path | None:
    """Return where a node keeps what outlives a run; None where it names no place.

    Parameters
    ----------
    config : RunConfig
        Its ``personal_dir`` is for nodes that name none.
    context : Context
        Of the node.
    """
    declared = context.node_config.get(PERSONAL_DIR) or os.environ.get("PFL_PERSONAL_DIR")
    if declared:
        return under_home(str(declared))
    return under_home(config.personal_dir) if config.personal_dir else None


def number_of(name: str) -> int:
    """Return the number of a client that has only a name: 31 bits of a hash of it."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest()) >> 1


def _check_spelling(config: Mapping[str, object]) -> None:
    """Refuse a key that is a known one but for its hyphens.

    Others may be anything; but ``personal_dir``, not read, would cost a device its state.
    """
    for key in config:
        meant = _SPELLED.get(key.lower().replace("-", "").replace("_", ""), key)
        if meant != key:
            raise ConfigError(
                f"the node config's {key!r} is not read; write {meant!r}",
                key=key,
                value=config[key],
                choices=(meant,),
            )


def _text(config: Mapping[str, object], key: str) -> str:
    value = config.get(key, "")
    if not isinstance(value, str):
        raise ConfigError(
            f"the node config's {key} is {value!r}; it must be a text",
            key=key,
            value=value,
            choices=("str",),
        )
    return value
