"""Message protocol: names of records, config keys, metrics and properties in Flower messages.

Every message carries exactly one ``ArrayRecord`` (named arrays: what is shared) and one
``ConfigRecord`` on the way down, one ``ArrayRecord`` and one ``MetricRecord`` on the way up, with
the arrays in the same order, so Flower's own strategies, differential-privacy wrappers and mods
work on it.
"""

ARRAYS = "arrays"
"""Record of the shared (and group) arrays, by their names in the model's state dict."""

CONFIG = "config"
"""Record of the server's instructions to the client."""

METRICS = "metrics"
"""Record of the client's metrics."""

PROPERTIES = "properties"
"""``ConfigRecord`` in the reply to a query; config of a query: the requested names (a,b,c)."""

NOTES = "notes"
"""``ConfigRecord`` in the reply to training, where there is something to say of its arrays."""

PRIVACY = "privacy"
"""Config of training: there is a privacy wrapper around the strategy, which skips a round for any
error reply. ``arrays``: the client replies as ever; ``changes``: with the changes from the arrays
that it received. If it fails, it replies with the arrays as received (or no changes), and
``failure`` among the notes."""

CHANGES = "changes"
"""Value of ``privacy``. Note: the arrays of the reply are changes."""

FAILURE = "failure"
"""Note: why the client could not train, so that it sends the arrays as received."""

LOCAL_NOISE = "local-noise"
"""Note: the client adds noise to the arrays that it sends."""

NUM_EXAMPLES = "num-examples"
"""Metric: number of examples that a reply is based on; the client's weight in every mean."""

PARTITION_ID = "partition-id"
"""Metric and property: the client's number. Unlike node ids it is the same on every engine."""

NUM_PARTITIONS = "num-partitions"
"""Node config and property: the number of clients that the data are split among."""

GROUP = "group"
"""Property: the number of the client's group, if it declares one; metric in a report."""

SERVER_ROUND = "server-round"
"""Config: the current round, counted from 1."""

NUM_ROUNDS = "num-server-rounds"
"""Config: the number of rounds of the run, by which a client recognizes the last round."""

PROXIMAL_MU = "proximal-mu"
"""Config of training, from Flower's ``FedProx``: strength of a term to what was received."""

METHOD = "method"
"""Config: the method this message belongs to (a run may execute several methods in turn)."""

RUN = "run"
"""Config: name of the run. A resumed run keeps its name."""

PERSONAL_ROUND = "personal-round"
"""Property: the last round of this run, before the query's ``server-round``, in which the client
saved personal parameters; 0 if there is none."""

CLIENT_SCHEMA = "client-schema"
"""Property: the client schema, a description of the client's data, as JSON; sent before round 1."""

CLIENT_NAME = "client-name"
"""Property: the client's own name in the run's data; sent before round 1, where it has one."""

FROZEN_BASE = "frozen-base"
"""Property: a digest of every frozen entry of the client's network, as JSON; asked once, before
round 1, where the server's network has any. In the reply to ``query.base``: the fingerprint."""

BASE_QUERY = "query.base"
"""Message type: the arrays are the frozen base, of the fingerprint in the data schema, which the
client is to keep. It is sent to a client that misses it."""

MISSING_BASE = "missing-base"
"""``ConfigRecord`` that is all of the reply of a client without the frozen base that the server
has; the fingerprint is in it, as ``frozen-base``. The server sends the base, and the request
again."""

DATA_SCHEMA = "data-schema"
"""Config: the data schema, merged from the schemas of all clients, as JSON. A node is sent it once;
later messages have its digest instead."""

DATA_SCHEMA_DIGEST = "data-schema-digest"
"""Config: 16 hexadecimal digits of the SHA-256 of the data schema, which the client has kept."""

MISSING_SCHEMA = "missing-schema"
"""``ConfigRecord`` that is all of the reply of a client without the data schema of that digest; the
digest is in it. The server sends the request again, with the data schema."""

ADAPTATION_EXAMPLES = "adaptation-examples"
"""Config of an evaluation of an unseen client: the number of training examples on which it adapts
its personal part before the evaluation (-1: all, 0: none)."""

ADAPTATION_STEPS = "adaptation-steps"
"""Config: the number of minibatch steps of that adaptation."""

SAFEGUARD = "safeguard"
"""Config of an evaluation: names of methods, separated by commas. The client chooses among its
models of these methods; the first one wins ties."""

THRESHOLD = "threshold"
"""Config of an evaluation after the last round: ``count`` for a histogram of the client's scores,
``choose`` for the scores of its decision thresholds."""

THRESHOLD_HISTOGRAM = "threshold-histogram"
"""Metric in the reply to ``count``: a list of integers. For each class that has a threshold: the
number of positives, then of negatives, whose score is in each bin. Config of ``choose``: the sums
over clients."""

THRESHOLD_SPREADS = "threshold-spreads"
"""Config of ``choose``: the variance of clients' best thresholds (logit scale), for each class."""

THRESHOLD_WEIGHTS = "threshold-weights"
"""Config of ``choose``: the weight of the pooled prevalence in examples, for each class."""

GRADIENT_QUERY = "query.gradient"
"""Message type: the server requests the gradient at the arrays in the message."""

GRADIENT = "gradient"
"""The only array in the reply to that: a float32 vector."""

PROJECTION_SIZE = "projection-size"
"""Config of that query: length of the projected gradient; 0 for the full gradient."""

PROJECTION_SEED = "projection-seed"
"""Config of that query: the seed of the random projection, the same for all clients."""

GRADIENT_RELIABILITY = "gradient-reliability"
"""Metric in the reply: the cosine of the gradients of two halves of the client's examples."""

LOSSES_QUERY = "query.losses"
"""Message type: the server requests the losses of several models. Their arrays are named
``<group>/<name>``, or ``shared/<name>`` if all models have the same array."""

QUESTIONS = (GRADIENT_QUERY, LOSSES_QUERY)
"""Message types of what a strategy asks the clients of its own method."""

LOSS_GROUPS = "loss-groups"
"""Config of that query: the groups (a,b,c)."""

LOSS = "loss"
"""Metric in the reply, as ``loss-<group>``: the mean loss of that group's model."""

LOSS_EXAMPLES = "loss-examples"
"""Config of that query: the examples to use, ``train`` or ``validation``."""

PROTOCOL = "protocol"
"""Config of training: which sufficient statistics the clients of hierarchical-linear report."""

METADATA = "metadata"
"""Property: metadata of the client itself, never of its data, as a JSON object of name -> number,
string, boolean or null. Node config: the names of the entries that may be sent."""

PRIOR_VARIANCE = "prior-variance"
"""Arrays ``prior-variance/<name>``. Server to client: the prior variance of a parameter. Client to
server: the second moment of the client's posterior around the prior mean that it received."""

MISSING_RATE = "missing-rate"
"""Metric: the share of missing values in the client's training examples."""

RELIABILITY = "reliability"
"""Metric: the mean reliability of the client's measurements, var(true value) / var(measurement)."""

EFFECTIVE_EXAMPLES = "effective-examples"
"""Metric: the number of exact, complete examples with as much information as the client's own."""
