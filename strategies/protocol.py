"""The names that clients and strategies agree on.

Every message carries exactly one ``ArrayRecord`` (named arrays: what is shared) and one
``ConfigRecord`` on the way down, one ``ArrayRecord`` and one ``MetricRecord`` on the way up,
so Flower's own strategies, differential-privacy wrappers and mods work on it unchanged.
"""

ARRAYS = "arrays"
"""Record of the shared (and group) arrays, by their names in the model's state dict."""

CONFIG = "config"
"""Record of what the server asks for."""

METRICS = "metrics"
"""Record of what the client measured."""

PROPERTIES = "properties"
"""``ConfigRecord`` in the reply to a query; in a query's config, the names wanted (a,b,c)."""

NUM_EXAMPLES = "num-examples"
"""Metric: number of examples behind a reply. The weight of the client in every mean."""

PARTITION_ID = "partition-id"
"""Metric and property: the client's own number, the same on every engine (node ids are not)."""

NUM_PARTITIONS = "num-partitions"
"""Node config and property: how many clients the data is split among."""

SERVER_ROUND = "server-round"
"""Config: the current round, counted from 1."""

NUM_ROUNDS = "num-server-rounds"
"""Config: the number of rounds of the run, so that a client knows the last one."""

METHOD = "method"
"""Config: the method this message belongs to (a run may play several, one after another)."""

RUN = "run"
"""Config: name of the run, the same when it is resumed."""

PERSONAL_ROUND = "personal-round"
"""Property: the round in which the client last kept personal parameters in this run, before the
query's ``server-round``; 0 if it kept none."""
