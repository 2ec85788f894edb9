#!/usr/bin/env bash
# flwr 1.42.0: FedAdam takes a network's buffers for parameters and makes variances negative.
#
# Seen: every client sends batch norm's `running_var`, which falls from 1 to about 0.01 (small
# features) and is positive in every reply. FedAdam treats the change as a gradient and steps past it:
# the variance that it sends to clients is -0.0038 after 12 rounds at its default settings, where
# FedAvg's is the mean of the replies, 0.01. In evaluation `(x - mean) / sqrt(var + eps)` is then NaN. Training does not
# notice, because batch norm uses the batch's own statistics there.
#
# Why it matters in federated learning: the usual recipe (`net.state_dict()` as the ArrayRecord) sends
# buffers. A network that trains well is NaN when it is evaluated, and argmax of NaN is class 0, so
# the accuracy looks like a poor model and not like a fault. Batch norm has to stay on the device
# (FedBN), or has to be told apart from parameters on the server.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flwr==1.42.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1  # as in a run
logging.getLogger("flwr").setLevel(logging.ERROR)
TRUE = np.array([0.01, 0.02, 0.05], dtype=np.float32)


class Two:
    """As much of a grid as a strategy asks for: two nodes."""

    def get_node_ids(self):
        return [1, 2]


def least_variance(strategy, rounds=30):
    """Return the smallest variance that clients are sent, up to the first below zero."""
    sent = ArrayRecord({"running_var": Array(np.ones(3, dtype=np.float32))})
    for number in range(1, rounds + 1):
        messages = list(strategy.configure_train(number, sent, ConfigRecord(), Two()))
        replies = []
        for message in messages:
            received = message.content["arrays"]["running_var"].numpy()
            kept = (0.9**5 * received + (1 - 0.9**5) * TRUE).astype(np.float32)  # five batches
            assert (kept > 0).all()
            content = RecordDict({
                "arrays": ArrayRecord({"running_var": Array(kept)}),
                "metrics": MetricRecord({"num-examples": 10}),
            })
            replies.append(Message(content, reply_to=message))
        sent, _ = strategy.aggregate_train(number, replies)
        least = float(sent["running_var"].numpy().min())
        if least < 0:
            break
    return number, least


for strategy in (FedAvg(), FedAdam()):
    number, found = least_variance(strategy)
    print(f"{type(strategy).__name__}: smallest variance sent after round {number}: {found:.4f}")
    assert (found > 0) == (type(strategy) is FedAvg)
PYTHON
