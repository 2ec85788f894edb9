"""Clients that come after training: what does a description of them buy."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from clients import PersonalClient
from clients.local_training.adaptation import ALL, adapt
from clients.local_training.training import EVERYTHING
from clients.rng import Seeded
from pfl_flower.client.build import build_client
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import federation
from pfl_flower.model_setup import initial_model
from pfl_flower.plots.client_plots import plot_curves
from pfl_flower.results.method_run import MethodRun
from pfl_flower.utils.files import write_csv
from simulations.study import Arm, Claim, Measures, Outcome, Study
from strategies.arrays import view
from strategies.hypernetwork.network import Hypernetwork
from strategies.protocol import ADAPTATION_EXAMPLES, ADAPTATION_STEPS, NUM_PARTITIONS, PARTITION_ID
from strategies.randomness import named_seed

NUM_CLIENTS = 60
STEPS = (0, 1, 5, 20, 50)
EXAMPLES = (0, 5, 20, ALL)

CONFIG: Mapping[str, Any] = {
    "dataset": "metadata-digits",
    "partition": "natural",
    "model": "mlp",
    "validation-fraction": 0.0,
    "unseen": 0.2,
    "num-server-rounds": 60,
    "local-steps": 20,
    "batch-size": 16,
    "learning-rate": 0.02,
}
"""Three regions that name the digits differently, two types of device; 40 examples a client."""

METADATA, MEAN, EMBEDDING = "pfedhn, metadata", "pfedhn, mean embedding", "pfedhn, embedding alone"
FEDAVG, FEDPER, SCRATCH = "fedavg, fine-tuned", "fedper, mean head", "from scratch"

Arrays = Mapping[str, NDArray[Any]]
"""A whole state dict."""
Start = Callable[[int, int, int], Arrays]
"""(unseen client, examples, steps) -> the model that it starts to fit."""


def measure(run: MethodRun) -> Measures:
    """Take how good unseen clients are from the starts that a run gives them.

    Returns
    -------
    Measures
        ``unseen clients``: start -> (examples, steps) -> mean score over the unseen clients.
    """
    if not run.unseen:
        return {}
    unseen_clients = sorted({report.client for report in run.unseen[0]})
    everybody = run.config.for_method("pfedhn")  # its clients fit the whole model
    clients = {number: _client(everybody, number) for number in unseen_clients}
    grid = [(0, 0), *((e, s) for e in EXAMPLES if e for s in STEPS if s)]
    found: dict[str, dict[tuple[int, int], float]] = {}
    for name, (start, fits) in _starts(run, clients).items():
        found[name] = {
            (e, s): float(
                np.mean(
                    [_score(run, clients[n], start(n, e, s), e, s * fits) for n in unseen_clients]
                )
            )
            for e, s in grid
        }
    return {"unseen clients": found}


def _starts(run: MethodRun, clients: Mapping[int, PersonalClient]) -> dict[str, tuple[Start, bool]]:
    """Return where unseen clients can start from after a run, and whether they go on training."""
    final = {name: view(array) for name, array in run.arrays.items()}
    if run.hypernetwork is not None:
        network, data = run.hypernetwork, federation(run.config.data, NUM_CLIENTS)

        def written(number: int, examples: int, steps: int) -> Arrays:
            return _numpy(network.generate(data.client_metadata(number)))

        def fitted(number: int, examples: int, steps: int) -> Arrays:
            metadata = data.client_metadata(number)
            own = _fit(network, metadata, clients[number], examples, steps)
            return _numpy(network.generate(metadata, own))

        if run.config.client_metadata == "shuffled":
            return {METADATA: (written, True)}
        return {
            METADATA: (written, True),
            MEAN: (lambda number, examples, steps: final, True),
            EMBEDDING: (fitted, False),
        }
    _, initial = initial_model(run.config.architecture, run.config.seed)
    if run.method == "fedper":
        whole = {**final, **_mean_head(run)}
        return {FEDPER: (lambda number, examples, steps: whole, True)}
    first = _numpy(initial)
    return {
        FEDAVG: (lambda number, examples, steps: final, True),
        SCRATCH: (lambda number, examples, steps: first, True),
    }


def _client(config: RunConfig, number: int) -> PersonalClient:
    node: dict[str, bool | float | int | str] = {PARTITION_ID: number, NUM_PARTITIONS: NUM_CLIENTS}
    context = Context(0, number, node, RecordDict(), {})
    return build_client(config, context, durable=False, private_copy=True)


def _score(
    run: MethodRun, client: PersonalClient, start: Arrays, examples: int, steps: int
) -> float:
    """Return how good an unseen client's model is after so many steps on so many examples.

    Its accuracy, or R2 where numbers are predicted: both are at most 1, and more is better.
    """
    asked = {ADAPTATION_EXAMPLES: examples, ADAPTATION_STEPS: steps}
    _, _, metrics = client.evaluate([start[name] for name in client.shared_names], asked)
    return float(metrics["r2" if run.score == "rmse" else run.score])


def _fit(
    network: Hypernetwork,
    metadata: Mapping[str, Any],
    client: PersonalClient,
    examples: int,
    steps: int,
) -> Tensor:
    """Return the free part that fits an unseen client's examples: a step of training a round."""
    count = 0

    def change(values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        nonlocal count
        count += 1
        client.model.load_state_dict(values)
        seed = named_seed(client.seed, "embedding", client.partition_id or 0, count)
        with Seeded(seed, client.model):
            adapt(
                *(client.model, client.train_loader, examples, 1, EVERYTHING, client.scopes),
                task=client.task,
                optimization=client.optimization,
            )
        return client.model.state_dict()

    return network.fit(change, metadata, rounds=steps)


def _mean_head(run: MethodRun) -> dict[str, NDArray[Any]]:
    """Return the mean of the heads of the clients that were trained.

    Their own heads never leave them, not even here: each fits a new one on the final body.
    """
    config = replace(run.config, local_steps=max(STEPS))
    shared = {name: view(array) for name, array in run.arrays.items()}
    heads: dict[str, list[NDArray[Any]]] = {}
    for number in sorted(run.by_client()):
        client = _client(config, number)
        asked = {ADAPTATION_EXAMPLES: ALL, ADAPTATION_STEPS: max(STEPS)}
        client.evaluate([shared[name] for name in client.shared_names], asked)
        for name in client.personal_names:
            heads.setdefault(name, []).append(client.model.state_dict()[name].numpy())
    return {name: np.mean(values, axis=0) for name, values in heads.items()}


def _numpy(values: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: tensor.detach().numpy() for name, tensor in values.items()}


def curves(outcome: Outcome, arm: str, start: str) -> dict[tuple[int, int], NDArray[np.float64]]:
    """Return (examples, steps) -> mean score over unseen clients, for every seed."""
    found = [result.measures["unseen clients"][start] for result in outcome.of(arm)]
    return {place: np.array([scores[place] for scores in found]) for place in found[0]}


def _claims(outcome: Outcome) -> list[Claim]:
    written = curves(outcome, "pfedhn", METADATA)
    shuffled = curves(outcome, "pfedhn, shuffled", METADATA)[0, 0]
    tuned = curves(outcome, "fedavg", FEDAVG)
    share = written[0, 0] / outcome.means("pfedhn")
    left = (shuffled - tuned[0, 0]).mean() / (written[0, 0] - tuned[0, 0]).mean()
    return [
        Claim(
            "pfedhn, 0 steps: share of the accuracy of clients that were trained", share.min(), 0.9
        ),
        Claim(
            "pfedhn after 1 step, above fedavg after 20 on every seed",
            float((written[ALL, 1] - tuned[ALL, 20]).min()),
            0.0,
        ),
        Claim(
            "shuffled metadata: share of the advantage at 0 steps that is gone",
            float(1 - left),
            0.9,
        ),
    ]


def _columns(outcome: Outcome) -> dict[str, dict[str, float]]:
    """Return the scores of unseen clients from every arm's own start, in the study's table."""
    columns: dict[str, dict[str, float]] = {}
    for name in outcome.names:
        measures = outcome.of(name)[0].measures
        if "unseen clients" in measures:
            own = curves(outcome, name, next(iter(measures["unseen clients"])))
            unit = ", R2" if "regression" in name else ""
            places = {f"{s} steps{unit}": own[ALL if s else 0, s] for s in STEPS}
            columns[name] = {words: float(values.mean()) for words, values in places.items()}
    return columns


def _draw(outcome: Outcome, folder: Path) -> None:
    """Draw unseen clients' curves, and write them down."""
    rows = []
    for world in [ending for ending in WORLDS if outcome.of("pfedhn" + ending)]:
        lines: dict[str, dict[tuple[int, int], NDArray[np.float64]]] = {}
        for arm in _METHODS:
            found = outcome.of(arm + world)
            for start in found[0].measures["unseen clients"] if found else ():
                name = f"{start}, shuffled" if "shuffled" in arm else start
                lines[name] = curves(outcome, arm + world, start)
        rows += [
            {"world": world.strip(", ") or "easy", "start": name, "examples": e, "steps": s}
            | {"mean": float(values.mean()), "std": float(values.std())}
            for name, line in lines.items()
            for (e, s), values in line.items()
        ]
        drawn = {
            name: (STEPS, [float(line[ALL if s else 0, s].mean()) for s in STEPS])
            for name, line in lines.items()
        }
        plot_curves(
            *(drawn, folder / f"unseen{world.replace(', ', '-')}.png"),
            *("steps of an unseen client on all of its examples", "What unseen clients start from"),
            y_label="mean test score over unseen clients, %",
        )
    write_csv(folder / "unseen.csv", rows)


WORLDS: Mapping[str, Mapping[str, Any]] = {
    "": {},
    ", hard": {"dataset": "metadata-digits-hard"},
    ", regression": {
        "dataset": "metadata-regression",
        "learning-rate": 0.01,
        "gradient-clip": 0.0,
    },
}
"""Ending of an arm's name -> what is different there."""

_METHODS: Mapping[str, Mapping[str, Any]] = {
    "pfedhn": {"method": "pfedhn"},
    "pfedhn, shuffled": {"method": "pfedhn", "client-metadata": "shuffled"},
    "fedavg": {"method": "fedavg"},
    "fedper": {"method": "fedper"},
}


def _arms(world: str, *methods: str) -> list[Arm]:
    return [Arm(name + world, {**_METHODS[name], **WORLDS[world]}) for name in methods]


STUDY = Study(
    name="cold-start",
    question="A client comes that was never seen: what does a description of it buy?",
    num_clients=NUM_CLIENTS,
    config=CONFIG,
    arms=_arms("", *_METHODS),
    claims=_claims,
    draw=_draw,
    measure=measure,
    columns=_columns,
)

HARD_STUDY = replace(
    STUDY,
    name="cold-start-hard",
    question="The same with more kinds of clients, and metadata that lack a tenth",
    arms=_arms(", hard", "pfedhn", "fedavg"),
    claims=lambda outcome: [],
)

REGRESSION_STUDY = replace(
    STUDY,
    name="cold-start-regression",
    question="The same for numbers: errors (rmse) of those trained, R2 of unseen clients",
    arms=_arms(", regression", "pfedhn", "fedavg"),
    claims=lambda outcome: [],
    score="rmse",
)
