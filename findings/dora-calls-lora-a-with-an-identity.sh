#!/usr/bin/env bash
# peft 0.21.2: with DoRA a forward pass calls `lora_A` once more, with an identity matrix.
#
# Seen: `use_dora=True` computes the norm of the merged weight by `lora_B(lora_A(eye))` in every forward
# pass, so a forward hook of `lora_A` gets a first call of as many rows as the layer has inputs, and
# then that of the examples. With plain LoRA it is called once, with the examples.
#
# Why it matters in federated learning: hooks of the halves are how per-example gradients are taken
# for differential privacy, how activations are recorded for clusters and drift, and how a global
# and a personal adapter are mixed for each example (FedDPA). All of these take a row for an
# example. Where the number of inputs is no multiple of the batch, shapes do not fit; where it is,
# the rows of an identity are taken for examples without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 peft==0.21.2 transformers==5.24.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

examples, inputs, rank = 5, 6, 2
for dora in (False, True):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(inputs, 4))
    network = get_peft_model(network, LoraConfig(r=rank, target_modules=["0"], use_dora=dora))
    seen = []
    half = network.base_model.model[0].lora_A["default"]
    half.register_forward_hook(lambda module, given, output: seen.append(tuple(given[0].shape)))
    network(torch.randn(examples, inputs))
    print(f"{'DoRA' if dora else 'LoRA'}: one call of the network with {examples} examples "
          f"calls lora_A with inputs of {seen}")
    assert seen == ([(inputs, inputs)] if dora else []) + [(examples, inputs)]
PYTHON
