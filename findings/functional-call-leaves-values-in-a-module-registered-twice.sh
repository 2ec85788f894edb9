#!/usr/bin/env bash
# torch 2.14.1: `torch.func.functional_call` changes a network in which one module has two names.
#
# Seen: a network with `self.b = self.a = Linear(1, 1)` (a Siamese tower, a layer used twice).
# `functional_call(net, {"a.weight": given, ...}, x)` gives the right output, and afterwards
# `net.a.weight` *is* the tensor that was given: the network's own value is lost, and what stands in its
# place is no Parameter and needs no gradient. A network without the second name is as it was before,
# which is what the documentation says of every call.
#
# Why it matters in federated learning: per-example gradients, Fisher information, hypernetworks and
# engines that stack clients call one network with many clients' values. After the first such
# call the "shared" network holds somebody's personal values, and an optimizer made before trains
# tensors that are no longer in it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn
from torch.func import functional_call


class Network(nn.Module):
    def __init__(self, twice):
        super().__init__()
        self.a = nn.Linear(1, 1)
        if twice:
            self.b = self.a

    def forward(self, x):
        return self.a(self.a(x))


for twice in (False, True):
    network = Network(twice)
    own = network.a.weight
    given = {"a.weight": torch.full((1, 1), 5.0), "a.bias": torch.zeros(1)}
    output = functional_call(network, given, (torch.ones(1, 1),)).item()
    left = network.a.weight
    print(f"registered {'twice' if twice else 'once'}: output {output}, then its own weight is left:",
          f"{left is own}, the given one: {left is given['a.weight']}, a {type(left).__name__}")
    assert output == 25.0
    assert (left is own, left is given["a.weight"]) == (not twice, twice)
    assert isinstance(left, nn.Parameter) is (not twice)
    assert left.requires_grad is (not twice)
PYTHON
