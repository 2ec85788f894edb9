"""Texts of a user's project: token ids of different lengths, and networks of them."""

import numpy as np
from torch import nn

VOCABULARY = 20


def rows(client, count=30, longest=None):
    draw = np.random.default_rng(client)
    longest = longest or 4 + client
    lengths = [longest, *draw.integers(1, longest + 1, count - 1)]
    ids = [draw.integers(1, VOCABULARY, length) for length in lengths]
    return ids, np.array([int(row.max() > 15) for row in ids])


def load(partition_id, num_partitions):
    ids, labels = rows(partition_id)
    return {"x_train": {"input_ids": ids}, "y_train": labels}


def other_vocabulary(partition_id, num_partitions):
    data = load(partition_id, num_partitions)
    if partition_id == 1:
        data["x_train"]["input_ids"][3][0] = VOCABULARY + 5
    return data


class Text(nn.Module):
    """Mean of embeddings, of tokens that are no padding."""

    def __init__(self, shape, num_outputs):
        super().__init__()
        self.words, self.out = nn.Embedding(VOCABULARY, 8), nn.Linear(8, num_outputs)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1)
        return self.out((self.words(input_ids) * mask).sum(dim=1) / mask.sum(dim=1))

    def get_input_embeddings(self):
        return self.words
