#!/usr/bin/env bash
# flwr-datasets 0.6.1: `IidPartitioner` does not shuffle; it cuts the data set into consecutive blocks.
#
# Seen: 100 rows sorted by label, 4 partitions: each partition has one class only, [[0], [1], [2], [3]].
# After `Dataset.shuffle` each has all four. `FederatedDataset` shuffles by default before it
# partitions; a partitioner that is given a data set of one's own (`partitioner.dataset = ...`, the
# documented way for local data) does not.
#
# Why it matters in federated learning: image folders, Parquet files by class and scikit-learn's
# tables come sorted by label. The "IID" control of an experiment is then its most extreme
# heterogeneity, and every gain of personalization is overestimated. Nothing warns.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flwr-datasets==0.6.1
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
from datasets import Dataset
from flwr_datasets.partitioner import IidPartitioner

rows = Dataset.from_dict({"label": [label for label in range(4) for _ in range(25)]})


def classes(data):
    partitioner = IidPartitioner(num_partitions=4)
    partitioner.dataset = data
    return [sorted(set(partitioner.load_partition(i)["label"])) for i in range(4)]


as_given, shuffled = classes(rows), classes(rows.shuffle(seed=0))
print("classes of each partition, rows as given:", as_given)
print("classes of each partition, rows shuffled:", shuffled)
assert as_given == [[0], [1], [2], [3]]
assert shuffled == [[0, 1, 2, 3]] * 4
PYTHON
