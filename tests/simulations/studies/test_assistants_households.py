import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfl_flower.data import DataError
from simulations.studies.assistants_households import (
    INTENTS_PER_DOMAIN,
    LONGEST,
    MOST_DOMAINS,
    SYLLABLES,
    Corpus,
    Language,
    by_intent,
    draw_dialect,
    draw_examples,
    draw_intents,
    draw_size,
    household,
    own_names,
    read_corpus,
    speak,
)
from strategies.errors import ArgumentError

SEEDS = st.integers(0, 2**32 - 1)


def some_corpus(texts=12):
    domains = {f"domain {d}": tuple(f"intent {d} {i}" for i in range(7)) for d in range(4)}
    intents = [intent for own in domains.values() for intent in own]
    said = {i: tuple(f"please do {i} in way {n}" for n in range(texts)) for i in intents}
    asked = {i: tuple(f"now do {i} in way {n}" for n in range(texts)) for i in intents}
    return Corpus(said, asked, domains)


@given(SEEDS)
def test_a_household_uses_a_few_domains_and_some_intents_of_each(seed):
    domains = some_corpus().domains
    found = draw_intents(np.random.default_rng(seed), domains)
    assert 1 <= len(found) <= MOST_DOMAINS
    for domain, intents in found.items():
        assert len(set(intents)) == INTENTS_PER_DOMAIN
        assert set(intents) <= set(domains[domain])


@given(SEEDS, st.integers(2, 20), st.floats(0, 1))
def test_own_names_permute_the_intents_and_move_so_many(seed, count, share):
    intents = [f"intent {n}" for n in range(count)]
    names = own_names(np.random.default_rng(seed), intents, share)
    assert sorted(names) == sorted(names.values()) == sorted(intents)
    moved = sum(name != intent for intent, name in names.items())
    assert moved == max(2, round(share * count))


def test_one_intent_cannot_be_renamed():
    with pytest.raises(ArgumentError) as error:
        own_names(np.random.default_rng(0), ["alone"])
    assert error.value.argument == "intents"


@given(SEEDS, st.integers(0, 50))
def test_a_dialect_has_another_word_for_each_of_so_many_words(seed, count):
    words = [f"word{n}" for n in range(50)]
    dialect = draw_dialect(np.random.default_rng(seed), words, count)
    assert len(dialect) == len(set(dialect.values())) == count
    assert not set(dialect.values()) & set(words)


def test_a_word_of_a_dialect_is_nobodys_word():
    words = [first + second for first in SYLLABLES for second in SYLLABLES][:-10]
    dialect = draw_dialect(np.random.default_rng(0), words, 10)
    assert not set(dialect.values()) & set(words)


def test_a_dialect_cannot_have_more_words_than_there_are():
    with pytest.raises(ArgumentError) as error:
        draw_dialect(np.random.default_rng(0), ["a", "b"], 3)
    assert error.value.argument == "count"


def test_a_text_is_said_word_by_word():
    assert speak("pay the bill now", {"bill": "baba", "pa": "gogo"}) == "pay the baba now"
    assert speak("pay the bill", {}) == "pay the bill"


@given(SEEDS)
def test_sizes_are_within_bounds_and_small_ones_are_as_frequent_as_large_ones(seed):
    draw = np.random.default_rng(seed)
    sizes = [draw_size(draw, 5, 60) for _ in range(300)]
    assert min(sizes) >= 5
    assert max(sizes) <= 60
    assert 0.3 < np.mean(np.array(sizes) < 17.5) < 0.7  # sqrt(5 * 61), the middle on a log scale


def test_examples_are_different_texts_and_no_more_than_there_are():
    texts = {"a": ("one", "two"), "b": ("three",), "c": ("four",)}
    found = draw_examples(np.random.default_rng(0), texts, ("a", "b"), 10)
    assert sorted(found) == [("one", "a"), ("three", "b"), ("two", "a")]


def test_texts_are_kept_once_and_if_they_are_short():
    long = " ".join(["word"] * (LONGEST + 1))
    found = by_intent([("b", "y"), ("a", "x"), ("b", "y"), (long, "x")])
    assert found == {"x": ("a",), "y": ("b",)}


def test_a_household_is_tested_on_other_texts_of_the_same_intents_under_the_same_names():
    home = household(some_corpus(), Language(words=5), 3, seed=1)
    assert not {text for text, _ in home.train} & {text for text, _ in home.test}
    assert len(home.domains) in range(1, MOST_DOMAINS + 1)
    names = [name.split()[1] for _, name in (*home.train, *home.test)]
    assert {f"domain {number}" for number in names} <= set(home.domains)


def test_language_changes_words_and_nothing_else():
    corpus = some_corpus()
    plain, own = (household(corpus, Language(words=n), 2, seed=0) for n in (0, 8))
    assert [name for _, name in plain.train] == [name for _, name in own.train]
    assert [name for _, name in plain.test] == [name for _, name in own.test]
    lengths = [[len(text.split()) for text, _ in home.train] for home in (plain, own)]
    assert lengths[0] == lengths[1]
    assert plain.train != own.train


def test_households_speak_their_own_way():
    corpus = some_corpus()

    def words(number):
        home = household(corpus, Language(words=10, fewest=60), number, seed=0)
        return {word for text, _ in home.train for word in text.split() if len(word) == 4} - {"way"}

    frequent = set(corpus.frequent_words)
    assert words(0) - frequent
    assert not (words(0) - frequent) & (words(2) - frequent)


def test_the_same_seed_gives_the_same_household_and_another_one_another():
    corpus = some_corpus()
    first, again = (household(corpus, Language(), 0, seed=4) for _ in range(2))
    assert first == again
    assert household(corpus, Language(), 0, seed=5) != first
    assert household(corpus, Language(), 1, seed=4) != first


def test_a_test_text_that_is_also_written_for_training_is_left_out_there(tmp_path):
    folder = tmp_path / "clinc150"
    folder.mkdir()
    texts = {"train": [["pay it", "pay"], ["pay up", "pay"]], "test": [["pay it", "pay"]]}
    (folder / "data_small.json").write_text(json.dumps(texts))
    (folder / "domains.json").write_text(json.dumps({"money": ["pay"]}))
    corpus = read_corpus(str(tmp_path))
    assert corpus.train == {"pay": ("pay up",)}
    assert corpus.test == {"pay": ("pay it",)}
    assert corpus.domains == {"money": ("pay",)}


def test_a_missing_corpus_is_an_error_with_the_place(tmp_path):
    with pytest.raises(DataError) as error:
        read_corpus(str(tmp_path))
    assert (error.value.key, error.value.value) == ("data-dir", str(tmp_path))
