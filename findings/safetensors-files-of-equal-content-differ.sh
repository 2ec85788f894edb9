#!/usr/bin/env bash
# safetensors 0.8.0: `save` of the same arrays with the same metadata gives other bytes every time.
#
# Seen: one array and six entries of metadata, saved eight times by one process: eight SHA-256
# digests of eight. The entries of metadata stand in the header in an order that changes from call to
# call. Without metadata, or with one entry, all eight files are equal; arrays are always in one order.
#
# Why it matters in federated learning: a digest of the file looks like a good name for a model. Two
# devices with the same base would then be told apart, a server would send a base that is there, a
# cache by content would keep every round's copy of an unchanged model, and "is my checkpoint that
# of my neighbour?" could not be asked of the files. What is stable is a digest of names, types,
# shapes and values.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from hashlib import sha256

import numpy as np
from safetensors.numpy import load, save

arrays = {"body": np.arange(6, dtype=np.float32), "head": np.ones(2, dtype=np.float32)}


def files(entries):
    metadata = {f"key {number}": str(number) for number in range(entries)} or None
    return [save(arrays, metadata=metadata) for _ in range(8)]


for entries in (0, 1, 6):
    found = files(entries)
    digests = {sha256(file).hexdigest() for file in found}
    print(f"{entries} entries of metadata: {len(digests)} digests of {len(found)} files")
    assert len({len(file) for file in found}) == 1
    assert all((load(file)[name] == value).all() for file in found for name, value in arrays.items())
    assert (len(digests) == 1) == (entries < 2)
PYTHON
