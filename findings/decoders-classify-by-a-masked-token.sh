#!/usr/bin/env bash
# transformers 5.24.0: which token a decoder classifies by does not depend on the attention mask.
#
# Seen: `GPT2ForSequenceClassification` and `LlamaForSequenceClassification` take the hidden state of the
# last token that is not `pad_token_id`, wherever the mask ends. Padded with `pad_token_id`, a text of
# three tokens has the logits that it has alone (to 2e-8). Padded with 0 under an attention mask of 0,
# they move by .14 and .12: what is classified by is a masked place. Nothing is logged. Encoders such as
# BERT give the same logits for any id under the mask.
#
# Why it matters in federated learning: 0 is what `torch.nn.utils.rnn.pad_sequence` and most
# collate functions pad with, and each client pads to its own longest text. So a text's prediction
# depends on which client has it and on the batch that it is in, and an exported model does not
# predict what it was judged by.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 transformers==5.24.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

torch.manual_seed(0)
size = {"vocab_size": 50, "num_labels": 2, "pad_token_id": 49}
networks = {
    "GPT-2": GPT2ForSequenceClassification(GPT2Config(n_embd=16, n_layer=2, n_head=2, **size)),
    "Llama": LlamaForSequenceClassification(
        LlamaConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, **size
        )
    ),
}
text, mask = [7, 8, 9], [1, 1, 1]
for name, network in networks.items():
    network.eval()
    found = {}
    for padding in (None, 49, 0):
        more = [] if padding is None else [padding] * 2
        ids = torch.tensor([text + more])
        attention = torch.tensor([mask + [0] * len(more)])
        with torch.no_grad():
            found[padding] = network(input_ids=ids, attention_mask=attention).logits[0]
    own = (found[49] - found[None]).abs().max().item()
    other = (found[0] - found[None]).abs().max().item()
    print(f"{name}: logits move by {own:.1e} where masked places hold pad_token_id, "
          f"by {other:.1e} where they hold 0")
    assert own < 1e-5 < 1e-3 < other
PYTHON
