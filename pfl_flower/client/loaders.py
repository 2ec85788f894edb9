"""The loaders of a client: its examples in batches, in memory or read when a batch needs them."""

from torch import Tensor

from clients import dataset_loader, in_memory_loader
from clients.data.augmentation import Augmentation
from clients.data.inputs import TOKENS, Inputs, named_inputs
from clients.data.loaders import Loader
from clients.evaluation import Stream
from clients.graphs.graph import Graph
from clients.model_components.token_ids import check_token_ids, vocabulary_of
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import ClientData
from pfl_flower.data.lazy_inputs import LazyInputs
from pfl_flower.data.schema import Split
from pfl_flower.model_setup import model_setup
from pfl_flower.models.libraries import is_of_library
from pfl_flower.utils.text import split_words

_EVALUATION_BATCH = 512


def training_loader(config: RunConfig, data: ClientData) -> Loader:
    """Return a client's training batches; of a graph that is trained on as a whole one batch."""
    batch = config.batch_size
    if data.graph is not None and len(data.graph) <= config.whole_graph:
        batch = max(1, len(data.train[1]))  # every step encodes all nodes anyway
    return _loader(config, data.train, batch, training=True)


def _loader(config: RunConfig, examples: Split, batch: int, training: bool = False) -> Loader:
    """Return batches of arrays in memory, or of examples that are read when a batch needs them."""
    names = split_words(config.augmentation) if training else []
    shape = config.required_schema.shape
    augment = Augmentation(names, shape) if names else None
    drop_last = training and config.drop_last
    if isinstance(lazy := examples[0], LazyInputs):
        dataset, workers = lazy.dataset_with(examples[1]), config.num_workers
        return dataset_loader(
            dataset, batch, training, drop_last, dataset.collate, workers, augment
        )
    return in_memory_loader(*_named(config, examples), batch, training, drop_last, augment)


def _named(config: RunConfig, examples: Split) -> tuple[Inputs, Tensor]:
    """Return inputs by name, where the network gets several, and the targets."""
    inputs, targets = examples
    schema = config.required_schema
    found = named_inputs(inputs, schema.inputs) if schema.inputs else inputs
    if schema.inputs or (schema.integers and is_of_library(config.model)):
        ids = found if schema.inputs else {TOKENS: inputs}
        check_token_ids(ids, config.once("vocabulary", lambda: _vocabulary(config)))
    return found, targets


def _vocabulary(config: RunConfig) -> int | None:
    return vocabulary_of(model_setup(config).model)


def evaluation_loader(config: RunConfig, examples: Split, graph: Graph | None = None) -> Loader:
    """Return batches to evaluate on; of a graph one, since each would encode all of its nodes."""
    size = _EVALUATION_BATCH if graph is None else max(1, len(examples[1]))
    return _loader(config, examples, size)


def stream_of(config: RunConfig, data: ClientData, phase: int) -> Stream | None:
    """Return where a client is in a stream of phases; None where its data are no stream."""
    if not data.phases:
        return None
    return Stream(phase, [evaluation_loader(config, p.test) for p in data.phases])
