"""The common run keys: each with its default, a line of help, and what it may be.

The keys that only some methods have are in :mod:`pfl_flower.methods`.
"""

from dataclasses import dataclass

from clients.data.augmentation import AUGMENTATIONS
from clients.inference.class_scores import CLASS_SCORES, SELECTING
from clients.local_training.training import SCHEDULES
from clients.thresholds.rules import RULES
from pfl_flower.config.validators import (
    between,
    channels,
    choice,
    device_name,
    epochs,
    key,
    names,
    per_tier,
    sizes,
    trainable,
)
from pfl_flower.data import PARTITIONS, SOURCES
from pfl_flower.data.degradation.imputation import IMPUTATIONS
from pfl_flower.data.degradation.missingness import MISSINGNESS
from pfl_flower.data.heterogeneity import HETEROGENEITIES
from pfl_flower.data.readers.registry import OWN
from pfl_flower.methods import METHODS
from pfl_flower.models import MODELS
from strategies.thresholds.metrics import METRICS

TIERS = (str, float)
"""A value that is one number, or one a tier."""

OF_FIRST_METHOD = ("personal", "schedule", "mu", "personal_decay")
"""Common keys that are for the first method of a run; its baselines keep their own defaults."""


CLIP_OF_REGRESSION = 5.0
"""Largest norm of a gradient of a regression. The slope of a squared error grows with the error and
with the feature, so one example far from the others, or features that say the same, make training
diverge at ordinary learning rates. Targets are standardised, so ordinary gradients are shorter. Of
1, 2, 3, 5 and 10 it was chosen on the tables of docs/guides/own_table.md: there 2 slows a training
down, 5 hardly any, and with 10 some errors still grow."""


@dataclass(frozen=True)
class CommonKeys:
    """The keys that every method has; in a run config they are written with hyphens."""

    method: str = key("fedper", "what is done", choice(*METHODS))
    baselines: str = key(
        "fedavg", "methods run afterwards on the same clients, to compare", names(METHODS)
    )
    dataset: str = key("digits", "data set, or data of your own", choice(*SOURCES, own=OWN))
    task: str = key(
        "auto",
        "of your own data; link-prediction of any graph",
        choice("auto", "classification", "regression", "link-prediction"),
    )
    client_column: str = key("", "of a table of your own; empty: client")
    label_column: str = key("", "of a table of your own; empty: label")
    split_column: str = key(
        "", "of a table: says of each row train, validation or test; of pictures empty: split"
    )
    group_column: str = key("", "of a table: whose rows stay together in one part, as a patient's")
    time_column: str = key("", "of a table: number or date by which split=time splits")
    drop_columns: str = key("", "of a table: columns that are no features, separated by commas")
    feature_columns: str = key("", "of a table: columns that are features; empty: all others")
    categories: str = key(
        "", "of a table: features that become columns of 0 and 1; all: every column of text"
    )
    min_category: int = key(
        5, "fewest training rows of a client (or groups) for it to report a category", between(1)
    )
    path_column: str = key("", "of a table of pictures: their files; empty: path")
    image_size: int = key(0, "height and width of pictures in files; 0: as they are", between(0))
    image_channels: int = key(
        0, "of pictures in files: 1 grey, 3 colour; 0: grey if all of a client's are", channels
    )
    partition: str = key("iid", "who gets which examples", choice(*PARTITIONS))
    heterogeneity: str | None = key(
        None,
        "how clients differ otherwise; empty: as the data set has it, none for your own",
        names({"none": None, **HETEROGENEITIES}),
        kind=str,
    )
    alpha: float = key(0.5, "concentration of dirichlet", between(0, open_low=True))
    classes_per_client: int = key(2, "classes per client of pathological", between(1))
    min_examples: int = key(0, "quantity skew: fewest training examples", between(0))
    max_examples: int = key(0, "quantity skew: most training examples; 0: all", between(0))
    validation_fraction: float = key(0.1, "of each client's examples", between(0, 0.9))
    test_fraction: float = key(
        0.25, "of each client's examples (gallery has its own)", between(0, 0.9, open_low=True)
    )
    stratify: bool = key(
        False, "split each client's examples class by class, so that no part lacks a rare class"
    )
    split: str = key(
        "random",
        "of a table: time tests on the latest rows of each client, by time-column",
        choice("random", "time"),
    )
    phases: str = key(
        "stream", "of a smartwatch's data: one by one, or all at once", choice("stream", "joint")
    )
    cluster_sizes: str = key(
        "", "sizes of clusters whose clients have the same heterogeneity, such as 6,8,16", sizes
    )
    tiers: str = key(
        "", "sizes of tiers of devices, such as 8,1,1; empty: as even as can be", sizes
    )
    missing: str | float = key(
        "", "share of values that are missing, one or one a tier", per_tier(0, 0.95), kind=TIERS
    )
    missingness: str = key(
        "random",
        "which ones: any, more the larger the first feature, or more the larger they are",
        choice(*MISSINGNESS),
    )
    noise: str | float = key(
        "",
        "deviation of the error of a measurement, one or one a tier",
        per_tier(0, 100),
        kind=TIERS,
    )
    corrupted_clients: int = key(
        0, "clients that measure nothing but noise, and declare that all is perfect", between(0)
    )
    imputation: str | None = key(
        None,
        "what takes the place of missing values; empty: as the data set has it, none for your own",
        choice(*IMPUTATIONS),
        kind=str,
    )
    calibrate_inputs: bool = key(
        False, "each client replaces measurements by expected true values, by its declared noise"
    )
    client_metadata: str = key(
        "own",
        "of generated clients: what they report of themselves; shuffled: a control",
        choice("own", "shuffled"),
    )
    model: str = key(
        "auto",
        "network; of libraries torchvision:<name>, timm:<name>, hf:<name or folder>",
        choice("auto", *MODELS, function=True),
    )
    pretrained: str | bool = key(
        "",
        "whether a network of a library starts from its weights; or the file or folder of others; "
        "of a network of the app the shared.safetensors of an earlier run",
        kind=(str, bool),
    )
    trainable: str = key(
        "all", "what of the network is trained: all, head, blocks:<number>, lora", trainable
    )
    lora_rank: int = key(8, "rank of LoRA", between(1))
    lora_alpha: float = key(16.0, "scale of LoRA: alpha / rank", between(0, open_low=True))
    lora_targets: str = key(
        "", "layers that get LoRA: paths, their ends or patterns; empty: as usual for the network"
    )
    norm: str | None = key(None, "layer", choice("none", "batch", "group"), kind=str)
    adapter_size: int = key(8, "bottleneck or rank of adapters", between(1))
    personal: str | None = key(None, "rule: what is personal", kind=str)
    schedule: str | None = key(None, "local training", choice(*SCHEDULES), kind=str)
    mu: float | None = key(
        None, "strength of the proximal term to the received model", between(0), kind=float
    )
    personal_decay: float | None = key(
        None, "strength of the proximal term of personal parameters to zero", between(0), kind=float
    )
    whole_graph: int = key(
        20_000, "most nodes of a graph trained on as a whole, in one batch", between(0)
    )
    fanout: int = key(10, "neighbours drawn of a node, in a larger graph", between(1))
    num_server_rounds: int = key(20, "rounds", between(1))
    fraction_train: float = key(1.0, "of clients trained a round", between(0, 1, open_low=True))
    local_epochs: int = key(2, "passes over the local data a round", between(0))
    local_steps: int = key(0, "minibatch steps instead of epochs; 0: epochs", between(0))
    head_epochs: int = key(2, "head epochs of head-then-body", between(0))
    fine_tuning_epochs: str = key("0,1,2,5,10", "candidates; validation chooses", epochs)
    batch_size: int = key(
        32, "examples a step; of a graph up to whole-graph all of them", between(1)
    )
    drop_last: bool = key(False, "leave out a last batch that is not full")
    num_workers: int = key(
        0, "processes a client that read batches of files or of a Dataset ahead", between(0)
    )
    augmentation: str = key(
        "", "random changes of training pictures, in this order", names(AUGMENTATIONS)
    )
    optimizer: str = key("sgd", "local optimizer", choice("sgd", "adam"))
    learning_rate: float = key(0.1, "of local steps", between(0, open_low=True))
    momentum: float = key(0.9, "of sgd", between(0, 0.999))
    weight_decay: float = key(0.0, "of local steps", between(0))
    gradient_clip: float | None = key(
        None,
        "largest norm of a gradient; 0: none; empty: 5 for a regression, else none",
        between(0),
        kind=float,
    )
    weighting: str | None = key(
        None, "of clients in the mean", choice("examples", "uniform"), kind=str
    )
    server_momentum: float = key(0.0, "of the server's step", between(0, 0.999))
    unseen: float = key(
        0.0, "of clients held out of training, to adapt afterwards", between(0, 0.9)
    )
    late: float = key(
        0.0, "of clients that are there only from half of the rounds on", between(0, 0.9)
    )
    adaptation_steps: int = key(100, "minibatch steps of an unseen client", between(0))
    safeguard: bool = key(
        False, "each client may fall back on the global model or one trained alone"
    )
    scores: str = key(
        "accuracy", "of classes, that clients report beside accuracy", names(CLASS_SCORES)
    )
    select_by: str = key(
        "accuracy",
        "of classes, the score that models are compared and chosen by",
        choice(*SELECTING),
    )
    threshold: str | None = key(
        None,
        "rule by which each client finds its decision threshold after training; empty: none",
        choice(*RULES),
        kind=str,
    )
    threshold_metric: str = key("f1", "what thresholds are to be good at", choice(*METRICS))
    cost_ratio: float = key(
        1.0,
        "of threshold-metric=cost: what a miss costs, in false alarms",
        between(0, 1e9, open_low=True),
    )
    wanted_recall: float = key(
        0.9,
        "of threshold-metric=precision-at-recall: share of positives that must be found",
        between(0, 1, open_low=True),
    )
    resume: str = key("", "results folder of a run that was interrupted, to go on with")
    initial: str = key(
        "",
        "results folder of an earlier run, to start from its shared arrays; what of them is frozen "
        "in this run's network is sent to clients that have another base",
    )
    seed: int = key(0, "of every random choice", between(0))
    threads: int = key(1, "torch threads a worker", between(1))
    device: str = key("cpu", "cpu, cuda, cuda:1, ... or auto", device_name)
    min_nodes: int = key(0, "nodes to wait for; 0: as many as there are partitions", between(0))
    wait: float = key(
        120.0, "seconds to wait for them; ten times while none has answered", between(0)
    )
    timeout: float = key(3600.0, "seconds a round may take", between(0, open_low=True))
    data_dir: str = key("", "folder of data sets; empty: $PFL_DATA_DIR")
    download: bool = key(False, "download a data set or pretrained weights that are missing")
    results_dir: str = key("", "folder for results; empty: ~/pfl-flower-results")
    personal_dir: str = key(
        "", "folder for personal parameters, where a node names none; empty: they end with the run"
    )
    tensorboard: bool = key(False, "write TensorBoard scalars too (pip install '.[tensorboard]')")
