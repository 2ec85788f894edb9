"""Households with a voice assistant: what they ask, in words and under names of their own.

Texts are those of CLINC150 (Larson et al., EMNLP-IJCNLP 2019, "An Evaluation Dataset for Intent
Classification and Out-of-Scope Prediction"): 10 domains of 15 intents each.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np

from pfl_flower.data import DataError
from pfl_flower.data.settings import data_directory
from strategies.errors import ArgumentError
from strategies.randomness import generator

FOLDER = "clinc150"
MOST_DOMAINS = 3
INTENTS_PER_DOMAIN = 6
"""A household uses so many of the 15 intents of a domain."""
RENAMED = 0.5
"""Share of a household's intents that it calls by the name of another of its intents."""
TESTS = 20
"""Test texts a household."""
LONGEST = 9
"""Words of a text; longer ones are left out, since a study's time goes by words."""
FREQUENT = 300
"""Words that households may have their own word for: the most frequent ones."""
SYLLABLES = tuple("".join(pair) for pair in product("bdfgklmnprstvz", "aeiou"))

Example = tuple[str, str]
"""A text and its intent."""


@dataclass(frozen=True)
class Corpus:
    """What people ask an assistant.

    Attributes
    ----------
    train, test : mapping of str to tuple of str
        Intent -> texts; no text is in both.
    domains : mapping of str to tuple of str
        Domain -> its intents, each with texts of both kinds.
    """

    train: Mapping[str, tuple[str, ...]]
    test: Mapping[str, tuple[str, ...]]
    domains: Mapping[str, tuple[str, ...]]

    @property
    def frequent_words(self) -> tuple[str, ...]:
        """The :data:`FREQUENT` most frequent words of the training texts, the commonest first."""
        counts = Counter(word for texts in self.train.values() for t in texts for word in t.split())
        return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:FREQUENT])


@dataclass(frozen=True)
class Language:
    """How far the language of households lies apart, and how many texts they have.

    Attributes
    ----------
    words : int, default 0
        Words for which a household has a word of its own.
    fewest, most : int, default 5 and 60
        Training texts a household, drawn log-uniformly.
    """

    words: int = 0
    fewest: int = 5
    most: int = 60


@dataclass(frozen=True)
class Household:
    """One household's texts, as it says them, and the names that it has for what they ask.

    Attributes
    ----------
    domains : tuple of str
        What it uses its assistant for.
    train, test : tuple of (str, str)
        Texts and intents; no text is in both.
    """

    domains: tuple[str, ...]
    train: tuple[Example, ...]
    test: tuple[Example, ...]


def read_corpus(data_dir: str = "") -> Corpus:
    """Return CLINC150, its "small" variant: 50 training and 30 test texts an intent.

    A test text that somebody also wrote for training is left out of training.

    Parameters
    ----------
    data_dir : str, default ""
        Folder of data sets; empty: ``$PFL_DATA_DIR``.

    Raises
    ------
    DataError
        If it is not there.
    """
    directory = data_directory(data_dir)
    folder = None if directory is None else directory / FOLDER
    if folder is None or not (folder / "data_small.json").is_file():
        where = directory or "$PFL_DATA_DIR, which is not set"
        raise DataError(
            f"there is no {FOLDER}/data_small.json in {where}; "
            "get CLINC150 from github.com/clinc/oos-eval (data/data_small.json, data/domains.json)",
            key="data-dir",
            value=str(directory or ""),
        )
    return _read(folder)


@lru_cache(maxsize=2)
def _read(folder: Path) -> Corpus:
    texts = json.loads((folder / "data_small.json").read_text())
    domains = json.loads((folder / "domains.json").read_text())
    tests = {text for text, _ in texts["test"]}
    train = by_intent([(text, intent) for text, intent in texts["train"] if text not in tests])
    test = by_intent([(text, intent) for text, intent in texts["test"]])
    known = {
        domain: tuple(intent for intent in intents if intent in train and intent in test)
        for domain, intents in sorted(domains.items())
    }
    return Corpus(train, test, known)


def by_intent(examples: Sequence[Example]) -> dict[str, tuple[str, ...]]:
    """Return intent -> its texts of up to :data:`LONGEST` words, each once, in order."""
    found: dict[str, dict[str, None]] = {}
    for text, intent in examples:
        if len(text.split()) <= LONGEST:
            found.setdefault(intent, {})[text] = None
    return {intent: tuple(texts) for intent, texts in sorted(found.items())}


def draw_intents(
    draw: np.random.Generator, domains: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Return 1 to :data:`MOST_DOMAINS` domains, and :data:`INTENTS_PER_DOMAIN` intents of each."""
    count = int(draw.integers(1, MOST_DOMAINS + 1))
    chosen = draw.choice(sorted(domains), size=count, replace=False).tolist()
    return {
        domain: tuple(draw.choice(domains[domain], size=INTENTS_PER_DOMAIN, replace=False).tolist())
        for domain in chosen
    }


def own_names(
    draw: np.random.Generator, intents: Sequence[str], share: float = RENAMED
) -> dict[str, str]:
    """Return intent -> what a household calls it: a permutation of its intents.

    Of so large a share of the intents, but at least two, each is called by the name of another; the
    rest keep their names.

    Raises
    ------
    ArgumentError
        If there are fewer than two intents.
    """
    if len(intents) < 2:
        raise ArgumentError("intents", len(intents), "at least 2")
    count = max(2, round(share * len(intents)))
    renamed = draw.permutation(list(intents))[:count].tolist()
    moved = dict(zip(renamed, [*renamed[1:], renamed[0]], strict=True))  # a cycle: none stays
    return {intent: moved.get(intent, intent) for intent in intents}


def draw_dialect(draw: np.random.Generator, words: Sequence[str], count: int) -> dict[str, str]:
    """Return word -> its word in a dialect, for so many of the words: two syllables, none twice.

    Raises
    ------
    ArgumentError
        If there are fewer words.
    """
    if not 0 <= count <= len(words):
        raise ArgumentError("count", count, f"from 0 to {len(words)}")
    replaced = draw.choice(list(words), size=count, replace=False).tolist()
    size = len(SYLLABLES)
    free = np.array([n for n in range(size**2) if _pseudo_word(n) not in set(words)])
    new = draw.choice(free, size=count, replace=False)
    return {word: _pseudo_word(int(n)) for word, n in zip(replaced, new, strict=True)}


def _pseudo_word(number: int) -> str:
    return SYLLABLES[number // len(SYLLABLES)] + SYLLABLES[number % len(SYLLABLES)]


def speak(text: str, dialect: Mapping[str, str]) -> str:
    """Return a text in a dialect, word by word."""
    return " ".join(dialect.get(word, word) for word in text.split())


def draw_size(draw: np.random.Generator, fewest: int, most: int) -> int:
    """Return a whole number from ``fewest`` to ``most``, log-uniformly."""
    size = np.exp(draw.uniform(np.log(fewest), np.log(most + 1)))
    return min(most, int(size))


def draw_examples(
    draw: np.random.Generator, texts: Mapping[str, Sequence[str]], intents: Sequence[str], size: int
) -> list[Example]:
    """Return different texts of some intents, all texts being equally likely."""
    pool = [(text, intent) for intent in intents for text in texts[intent]]
    chosen = draw.choice(len(pool), size=min(size, len(pool)), replace=False)
    return [pool[place] for place in chosen]


def household(corpus: Corpus, language: Language, number: int, seed: int) -> Household:
    """Return a household; what it uses and calls things does not depend on the language.

    Parameters
    ----------
    corpus : Corpus
        What people say.
    language : Language
        How far apart they speak.
    number, seed : int
        Name the household.
    """
    habits = generator(seed, "household", number)
    intents = draw_intents(habits, corpus.domains)
    used = [intent for own in intents.values() for intent in own]
    names = own_names(habits, used)
    tests = draw_examples(habits, corpus.test, used, TESTS)
    words = corpus.frequent_words if language.words else ()
    dialect = draw_dialect(generator(seed, "dialect", "household", number), words, language.words)
    size = draw_size(generator(seed, "texts", number), language.fewest, language.most)
    train = draw_examples(generator(seed, "train", number), corpus.train, used, size)

    def said(examples: Sequence[Example]) -> tuple[Example, ...]:
        return tuple((speak(text, dialect), names[intent]) for text, intent in examples)

    return Household(tuple(intents), said(train), said(tests))
