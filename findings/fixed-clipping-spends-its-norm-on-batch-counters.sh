#!/usr/bin/env bash
# flwr 1.42.0: `fixedclipping_mod` counts batch norm's `num_batches_tracked` in the length of an update.
#
# Seen: a client's update moves the three weights of a BatchNorm1d by 0.1 (length 0.17; the clipping norm
# is 1, so nothing needs clipping) and its counter from 0 to 30, the batches it trained on. What is sent
# has the weights moved by 0.0033: a thirtieth. Without the counter it is sent as it is.
#
# Why it matters in federated learning: with `net.state_dict()` as the ArrayRecord, the more batches a
# client trains on, the less of its update is left, and the noise for privacy stays the same. Clipping
# norms that were tuned on networks with group norm starve those with batch norm, silently: accuracy
# falls as if privacy cost that much. Send parameters, and counters as they were received.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flwr==1.42.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import fixedclipping_mod
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1  # as in a run
logging.getLogger("flwr").setLevel(logging.ERROR)

BEFORE = {"weight": np.ones(3, np.float32), "num_batches_tracked": np.array(0)}
AFTER = {"weight": np.full(3, 1.1, np.float32), "num_batches_tracked": np.array(30)}


def record(arrays, names):
    return ArrayRecord({name: Array(arrays[name]) for name in names})


def sent(names):
    """Return by how much the weights move in what leaves the client."""
    content = RecordDict({
        "arrays": record(BEFORE, names), "config": ConfigRecord({KEY_CLIPPING_NORM: 1.0}),
    })
    request = Message(content, dst_node_id=1, message_type="train")
    context = Context(1, 1, {}, RecordDict(), {})

    def train(message, context):
        metrics = MetricRecord({"num-examples": 10})
        reply = RecordDict({"arrays": record(AFTER, names), "metrics": metrics})
        return Message(reply, reply_to=message)

    reply = fixedclipping_mod(request, context, train)
    return float((reply.content["arrays"]["weight"].numpy() - BEFORE["weight"])[0])


alone, with_counter = sent(["weight"]), sent(list(BEFORE))
print(f"weights move by {alone:.4f}; with the counter beside them by {with_counter:.4f}")
assert abs(alone - 0.1) < 1e-4
assert abs(with_counter - 0.1 / 30) < 1e-3
PYTHON
