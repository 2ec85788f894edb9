#!/usr/bin/env bash
# flwr 1.42.0: FedAvg of equal arrays is not that array, and integers come back as floats beside them.
#
# Seen: every client sends the same arrays (a frozen pretrained base, batch norm's counter, a mask).
# With 10 clients of equal weight 53 % of the float32 entries change by a rounding step, with 100
# clients 96 %; the int64 counter 7 comes back as 7.000000000000009 (float64), the counter 49 from 6,
# 9 or 10 clients as 48.99999999999999, which int() makes 48; a boolean mask as [1. 0.].
#
# Why it matters in federated learning: a frozen base drifts a little every round, so that a
# fingerprint of it never matches again, and clients that missed a round have another base than
# the others; counters and masks need rounding and their type back before `load_state_dict`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flwr==1.42.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

base = np.random.default_rng(0).normal(size=10_000).astype(np.float32)


def mean(count, integer):
    arrays = {"base": base, "counter": np.array(integer), "mask": np.array([True, False])}
    sent = ArrayRecord({name: Array(array) for name, array in arrays.items()})
    weight = MetricRecord({"num-examples": 1})
    replies = [RecordDict({"arrays": sent, "metrics": weight}) for _ in range(count)]
    found = aggregate_arrayrecords(replies, "num-examples")
    return {name: array.numpy() for name, array in found.items()}


changed = {}
for count in (2, 10, 100):
    found = mean(count, 7)
    changed[count] = float((found["base"] != base).mean())
    print(f"{count} clients: {changed[count]:.0%} of the base changed;",
          f"counter 7 -> {float(found['counter'])} ({found['counter'].dtype}); mask {found['mask']}")
    assert found["counter"].dtype == np.float64 and found["mask"].dtype == np.float64
assert changed[2] == 0.0 and changed[10] > 0.5 and changed[100] > 0.9
below = [n for n in range(2, 60) if int(mean(n, 49)["counter"]) != 49]
print("numbers of clients for which int() of the mean of 49 is not 49:", below)
assert below
PYTHON
