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

GROUP = "group"
"""Property: the number of the client's group, if it has one to tell; metric in a report."""

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

CLIENT_SCHEMA = "client-schema"
"""Property: what the client tells of its data before the first round, as JSON."""

DATA_SCHEMA = "data-schema"
"""Config: the cards of all clients put together, as JSON."""

ADAPTATION_EXAMPLES = "adaptation-examples"
"""Config of an evaluation: the client was not trained with the others; before it is evaluated it
fits its own part on so many of its training examples (-1: all, 0: none)."""

ADAPTATION_STEPS = "adaptation-steps"
"""Config: the minibatch steps of that."""

SAFEGUARD = "safeguard"
"""Config of an evaluation: names of methods, separated by commas; the client chooses among its
models under these, and the first one wins ties."""

THRESHOLD = "threshold"
"""Config of an evaluation after the last round: ``count`` for a histogram of the client's scores,
``choose`` for the scores of its decision thresholds."""

THRESHOLD_HISTOGRAM = "threshold-histogram"
"""Metric in the answer to ``count``: a list of integers, of each class that has a threshold how
many positives, then how many negatives, have a score in each bin. Config of ``choose``: the sums
over clients."""

THRESHOLD_SPREADS = "threshold-spreads"
"""Config of ``choose``: how much clients' best thresholds differ, of each class."""

THRESHOLD_WEIGHTS = "threshold-weights"
"""Config of ``choose``: how many examples the fleet's prevalence is worth, of each class."""

GRADIENT_QUERY = "query.gradient"
"""Message type: the gradient at the arrays that come with it is asked for."""

GRADIENT = "gradient"
"""The one array in the answer to that: float32, a vector."""

PROJECTION_SIZE = "projection-size"
"""Config of that query: the length of the vector; 0 for the whole gradient."""

PROJECTION_SEED = "projection-seed"
"""Config of that query: the seed of the random projection, the same for all clients."""

GRADIENT_RELIABILITY = "gradient-reliability"
"""Metric in the answer: the cosine of the gradients of two halves of the client's examples."""

LOSSES_QUERY = "query.losses"
"""Message type: the losses of several models are asked for. Their arrays are named
``<group>/<name>``, and ``shared/<name>`` where they are the same for all."""

LOSS_GROUPS = "loss-groups"
"""Config of that query: the groups (a,b,c)."""

LOSS = "loss"
"""Metric in the answer, as ``loss-<group>``: the mean loss of that group's model."""

LOSS_EXAMPLES = "loss-examples"
"""Config of that query: on which examples, ``train`` or ``validation``."""

PROTOCOL = "protocol"
"""Config of training: how the clients of hierarchical-linear are to tell of their data."""

METADATA = "metadata"
"""Property: what the client tells of itself (never of its data), as a JSON object of name ->
number, text, truth value or null; node config: the names of its entries that may be told."""

PRIOR_VARIANCE = "prior-variance"
"""Arrays ``prior-variance/<name>``: on the way down the variance of the prior of a parameter, on
the way up the second moment of a client's posterior around the prior mean it received."""

MISSING_RATE = "missing-rate"
"""Metric: the share of the values of the client's training examples that are missing."""

RELIABILITY = "reliability"
"""Metric: the mean share of the variance of the client's readings that is the true values'."""

EFFECTIVE_EXAMPLES = "effective-examples"
"""Metric: how many exact and complete examples would tell as much as the client's own."""
