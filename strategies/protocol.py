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

DATA_CARD = "data-card"
"""Property: what the client tells of its data before the first round, as JSON."""

DATA_FACTS = "data-facts"
"""Config: the cards of all clients put together, as JSON."""

JOIN_EXAMPLES = "join-examples"
"""Config of an evaluation: the client was not trained with the others; before it is evaluated it
fits its own part on so many of its training examples (-1: all, 0: none)."""

JOIN_STEPS = "join-steps"
"""Config: the minibatch steps of that."""

SAFEGUARD = "safeguard"
"""Config of an evaluation: names of methods, separated by commas; the client chooses among its
models under these, and the first one wins ties."""
