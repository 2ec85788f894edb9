#!/usr/bin/env bash
# torch 2.14.1: `load_state_dict` of a plain dict gives batch norm a counter that neither side has.
#
# Seen: BatchNorm1d whose `num_batches_tracked` is None (as after `module.num_batches_tracked = None`, in
# networks converted from other frameworks, or old ones). Its own `state_dict()` loads. `dict(...)` of it,
# with the same four tensors, is refused: Unexpected key(s) in state_dict: "num_batches_tracked", a key that is in
# neither. The version of the module is metadata of the OrderedDict; without it torch takes the state
# for an old one and adds the counter before it compares the names.
#
# Why it matters in federated learning: arrays come from a message, from safetensors or from an average as
# a plain dict of names and tensors, never with that metadata. The same network loads its weights from
# `torch.save` and not from the server, and the error names an array that nobody sent.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from torch import nn


def batch_norm():
    module = nn.BatchNorm1d(2)
    module.num_batches_tracked = None
    return module


state = batch_norm().state_dict()
print("entries:", list(state))
assert "num_batches_tracked" not in state
print("state dict:", batch_norm().load_state_dict(state))
try:
    batch_norm().load_state_dict(dict(state))
except RuntimeError as error:
    print("plain dict:", " ".join(str(error).split()))
    assert 'Unexpected key(s) in state_dict: "num_batches_tracked"' in str(error)
else:
    raise SystemExit("a plain dict loads now")
PYTHON
