"""Token ids that the embedding of a network does not have, as those of another tokenizer."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from clients.data.inputs import TOKENS, Inputs
from clients.model_components.wrappers import inside
from strategies.errors import ArgumentError


def vocabulary_of(model: nn.Module) -> int | None:
    """Return the number of token ids that a network knows; None where it does not say.

    Networks of transformers say it by ``get_input_embeddings()``. Of others it is the size of
    their embedding, if they have a single one.

    Parameters
    ----------
    model : nn.Module
        The network.
    """
    for _, module in inside(model):
        declared: Any = getattr(module, "get_input_embeddings", None)
        if callable(declared):
            try:
                found = declared()
            except (NotImplementedError, AttributeError):  # of pictures
                continue
            if isinstance(found, nn.Embedding):
                return found.num_embeddings
    kinds = nn.Embedding | nn.EmbeddingBag
    every = [module for module in model.modules() if isinstance(module, kinds)]
    return every[0].num_embeddings if len(every) == 1 else None


def check_token_ids(inputs: Inputs, vocabulary: int | None) -> None:
    """Refuse token ids that an embedding does not have.

    Parameters
    ----------
    inputs : mapping of str to Tensor
        Of it ``input_ids`` are looked at; other inputs are passed over.
    vocabulary : int or None
        As :func:`vocabulary_of` returns it; None for anything goes.

    Raises
    ------
    ArgumentError
        With the first such id.
    """
    ids = inputs.get(TOKENS) if isinstance(inputs, Mapping) else None
    if vocabulary is None or not isinstance(ids, Tensor):
        return
    beyond = ids[(ids < 0) | (ids >= vocabulary)]
    if beyond.numel():
        wanted = (
            f"0 to {vocabulary - 1}, since the embedding has {vocabulary} rows: texts have to be "
            f"encoded by the tokenizer that belongs to the network, not by one of another "
            f"vocabulary"
        )
        raise ArgumentError("token id", int(beyond.reshape(-1)[0]), wanted)
