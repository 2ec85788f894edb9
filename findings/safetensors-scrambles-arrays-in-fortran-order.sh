#!/usr/bin/env bash
# safetensors 0.8.0: `safetensors.numpy.save` writes memory as it lies, and says the shape of the array.
#
# Seen: np.arange(6).reshape(3, 2).T is [[0 2 4] [1 3 5]]; saved and loaded it is [[0 1 2] [3 4 5]].
# The same for np.asfortranarray. No error, no warning; the shape, the type and the sum are right.
# `np.save`, and Flower's `Array`, keep the values.
#
# Why it matters in federated learning: what a server aggregates is often a transposed or
# column-major array (a solve by LAPACK, a matrix product, `einsum`). A checkpoint or a personal
# model written from it resumes from other values than those that were sent.
# `np.asarray(x, order="C")` before writing is enough.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6 flwr==1.42.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from io import BytesIO

import numpy as np
from flwr.app import Array
from safetensors.numpy import load, save

array = np.arange(6.0).reshape(3, 2).T
back = load(save({"weight": array}))["weight"]
print("saved:", array.tolist(), "loaded:", back.tolist())
assert back.shape == array.shape and back.sum() == array.sum()
assert back.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
assert load(save({"weight": np.asarray(array, order="C")}))["weight"].tolist() == array.tolist()

file = BytesIO()
np.save(file, array)
file.seek(0)
assert np.load(file).tolist() == array.tolist()
assert Array(array).numpy().tolist() == array.tolist()
print("numpy.save, Flower's Array, and safetensors of the array in C order: as saved")
PYTHON
