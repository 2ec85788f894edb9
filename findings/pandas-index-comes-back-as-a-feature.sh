#!/usr/bin/env bash
# pandas 2.3.3, pyarrow 21.0.0, datasets 4.4.1: an index that pandas hides in a Parquet file is a column of `datasets`.
#
# Seen: a frame of two columns that was sorted (or filtered) is written by `to_parquet` without arguments. Read
# back by pandas it has the two columns. `datasets.Dataset.from_parquet` has a third one of numbers,
# `__index_level_0__`: the place that a row had before the sorting.
#
# Why it matters in federated learning: whoever takes every column of numbers as a feature trains on it. Where rows
# once stood client by client or class by class, that number tells client or class, and every client's
# score is too good. Clients whose table was never sorted do not have the column, so tables differ by site.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pandas==2.3.3 pyarrow==21.0.0 datasets==4.4.1
cd "$folder"
HF_HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import pandas as pd
from datasets import Dataset

frame = pd.DataFrame({"age": [50, 40, 60, 30], "ill": [0, 0, 1, 1]})
frame.to_parquet("as-made.parquet")
frame.sort_values("age").to_parquet("sorted.parquet")
found = {}
for name in ("as-made", "sorted"):
    found[name] = Dataset.from_parquet(f"{name}.parquet").column_names
    print(name, "- pandas:", list(pd.read_parquet(f"{name}.parquet")), "- datasets:", found[name])
    assert list(pd.read_parquet(f"{name}.parquet")) == ["age", "ill"]
assert found["as-made"] == ["age", "ill"]
assert found["sorted"] == ["age", "ill", "__index_level_0__"]
PYTHON
